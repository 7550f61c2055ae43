// Convolution of f16 whose operands the tensor memory accelerator copies; see conv_tma.cuh and conv_norm.cuh.

#include "conv_norm.cuh"
#include "conv_tma.cuh"

TILES(f16, half)
NORMALISING_TILES(f16, half)
