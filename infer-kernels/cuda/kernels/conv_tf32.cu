// Convolution of f32 whose products round to tf32; see conv_matrix.cuh.

#include "conv_matrix.cuh"

// The tiles of `cuda::conv::TILES_TF32`.
#define TILE(BM, BN, WM, WN, STAGES)                                                                      \
    extern "C" __global__ void __launch_bounds__((BM / WM) * (BN / WN) * 32)                              \
        conv_tf32_##BM##x##BN(const __grid_constant__ Conv p) {                                           \
        conv<Tf32, BM, BN, WM, WN, STAGES, false>(p);                                                    \
    }                                                                                                     \
    extern "C" __global__ void __launch_bounds__((BM / WM) * (BN / WN) * 32)                              \
        conv_tf32_##BM##x##BN##_point(const __grid_constant__ Conv p) {                                   \
        conv<Tf32, BM, BN, WM, WN, STAGES, true>(p);                                                     \
    }

TILE(128, 128, 64, 32, 3)
TILE(128, 64, 32, 32, 4)
TILE(64, 64, 32, 32, 6)
TILE(32, 32, 16, 16, 8)
