// Convolution of f32 whose products round to tf32; see conv_matrix.cuh.

#include "conv_matrix.cuh"

TILE(tf32, Tf32, 128, 128, 64, 32, 3, 2)
TILE(tf32, Tf32, 128, 64, 32, 32, 4, 2)
TILE(tf32, Tf32, 64, 64, 32, 32, 6, 4)
TILE(tf32, Tf32, 32, 32, 16, 16, 8, 8)
