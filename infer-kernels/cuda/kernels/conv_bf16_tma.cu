// Convolution of bf16 whose operands the tensor memory accelerator copies; see conv_tma.cuh and conv_norm.cuh.

#include "conv_norm.cuh"
#include "conv_tma.cuh"

TILES(bf16, bf16)
NORMALISING_TILES(bf16, bf16)
