// Convolution of f16; see conv_matrix.cuh.

#include "conv_matrix.cuh"

TILES(f16, half)
