// Convolution of bf16; see conv_matrix.cuh.

#include "conv_matrix.cuh"

TILES(bf16, bf16)
