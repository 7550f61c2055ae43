// What the kernels for row-major calls share: their parameters are those of the processor's kernels (`call.rs`) and,
// behind them, which of a family's kernels is meant.
#pragma once

#include <cuda_bf16.h>
#include <math_constants.h>

#include "common.cuh"

// `cuda::plain::Code`.
struct Code {
    uint32_t operation, from, to, items;
};

// `cuda::ElementType` by number.
enum Type { F32, F16, I64, I32, BOOL, F64, BF16, I8, I16, U8, U16, U32, U64 };

// Where a launch that finds a value that it cannot compute with says so; the host looks for it.
constexpr int FAILURE = 1 << 16;

// `call::MAX_RANK`, `call::BLOCK`.
constexpr int RANK = 8, BLOCK = 16;

// `call::View`.
struct View {
    uint64_t offset, stride_n, stride_c, stride_h, stride_w;

    __device__ __forceinline__ int64_t at(unsigned n, unsigned c, unsigned h, unsigned w) const {
        return offset + n * stride_n + c * stride_c + h * stride_h + w * stride_w;
    }
};

namespace {

// The item of this thread.
__device__ __forceinline__ unsigned item() {
    let_consumers_start();
    wait_for_producers();
    return blockIdx.x * blockDim.x + threadIdx.x;
}

// The remainder of `rest` by an extent, `rest` becoming the quotient.
__device__ __forceinline__ unsigned take(unsigned& rest, uint64_t extent) {
    const unsigned whole = rest, by = unsigned(extent);
    rest = whole / by;
    return whole - rest * by;
}

__device__ __forceinline__ float activated(float x, const Activation& act) {
    switch (act.kind) {
        case 1: return x < 0.0f ? 0.0f : x;
        case 2: return x >= 0.0f ? x : act.alpha * x;
        case 3: return smaller(greater(x, act.alpha), act.beta);
        case 4: return 1.0f / (1.0f + expf(-x));
        case 5: return greater(smaller(act.alpha * x + act.beta, 1.0f), 0.0f);
        case 6: return x * greater(smaller(x * (1.0f / 6.0f) + 0.5f, 1.0f), 0.0f);
        case 7: return x / (1.0f + expf(-x));
        case 8: return 0.5f * x * (1.0f + erff(x * 0.70710678f));
        case 9: return 0.5f * x * (1.0f + tanhf(0.79788456f * (x + 0.044715f * x * x * x)));
        case 10: return tanhf(x);
        case 11: return greater(x, 0.0f) + log1pf(expf(-fabsf(x)));
        case 12: return x * tanhf(greater(x, 0.0f) + log1pf(expf(-fabsf(x))));
        default: return x;
    }
}

struct Sum {
    template <typename T>
    __device__ __forceinline__ T operator()(T a, T b) const { return a + b; }
};

struct Greater {
    template <typename T>
    __device__ __forceinline__ T operator()(T a, T b) const { return b > a || b != b ? b : a; }
};

struct Smaller {
    template <typename T>
    __device__ __forceinline__ T operator()(T a, T b) const { return b < a || b != b ? b : a; }
};

// The item of this thread, whose work one thread, a warp or a whole block of `LANES` threads share.
constexpr int LANES = 256;

struct Team {
    unsigned item;
    unsigned lane, lanes;

    __device__ __forceinline__ explicit Team(unsigned width) : lanes(width) {
        let_consumers_start();
        wait_for_producers();
        item = blockIdx.x * (LANES / width) + threadIdx.x / width;
        lane = threadIdx.x % width;
    }
};

// A fold over the lanes of a team.
template <typename T, typename Fold>
__device__ __forceinline__ T folded(T v, const Team& team, Fold fold) {
    if (team.lanes == 1) return v;
#pragma unroll
    for (int by = 16; by > 0; by /= 2) v = fold(v, __shfl_xor_sync(0xffffffff, v, by));
    if (team.lanes < LANES) return v;
    __shared__ T shared[LANES / 32];
    __syncthreads();
    if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = v;
    __syncthreads();
    v = shared[0];
#pragma unroll
    for (int i = 1; i < LANES / 32; ++i) v = fold(v, shared[i]);
    return v;
}

}  // namespace

#define PLAIN(NAME, ARGUMENTS) extern "C" __global__ void __launch_bounds__(256) NAME(const __grid_constant__ ARGUMENTS p)
