// Convolution of f32 whose products round to tf32; see conv_matrix.cuh.

#include "conv_matrix.cuh"

// An f32. What is written is rounded to tf32: the units that read it cut it off, always towards zero.
struct Tf32 {
    float value;

    __device__ __forceinline__ operator float() const { return value; }
};

__device__ __forceinline__ void load8(const Tf32* from, float (&v)[8]) {
    load8(reinterpret_cast<const float*>(from), v);
}

__device__ __forceinline__ void store8(Tf32* to, const float (&v)[8]) {
    float rounded[8];
#pragma unroll
    for (int i = 0; i < 8; ++i) {
        uint32_t bits;
        asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(v[i]));
        rounded[i] = __uint_as_float(bits);
    }
    store8(reinterpret_cast<float*>(to), rounded);
}

TILE(tf32, Tf32, 128, 128, 64, 32, 3, 2)
TILE(tf32, Tf32, 128, 64, 32, 32, 4, 2)
TILE(tf32, Tf32, 64, 64, 32, 32, 6, 4)
TILE(tf32, Tf32, 32, 32, 16, 16, 8, 8)
