// Weights of a plan for the processor in the order in which the GPU's kernels read them, once, when a plan is opened.
//
// Rounding is that of the compiler, bit by bit, so that weights are the same wherever they were put in order.

#include "common.cuh"

// `call::BLOCK`, `cuda::LANES`.
constexpr int BLOCK = 16, LANES = 8;

// `cuda::Retile` behind its operands: weights as they lie and as they are read.
struct Retile {
    const void* from;
    void* to;
    unsigned* counters;

    int32_t outputs, taps, inputs, panels;
};

namespace {

// `cuda::Retile::elements`.
__device__ __forceinline__ int64_t elements(const Retile& p) {
    if (!p.panels) return int64_t(p.outputs) * p.taps * p.inputs;
    const int rows = (p.outputs + LANES - 1) / LANES * LANES, width = (p.inputs + LANES - 1) / LANES * LANES;
    return int64_t(rows) * p.taps * width;
}

// `cuda::Retile::source`; -1 in the padding.
__device__ __forceinline__ int64_t source(const Retile& p, int index) {
    if (!p.panels) return index;
    const int width = (p.inputs + LANES - 1) / LANES * LANES;
    const int c = index % width, tap = index / width % p.taps, o = index / width / p.taps;
    if (c >= p.inputs || o >= p.outputs) return -1;
    const int block = c / BLOCK * BLOCK, channels = min(p.inputs - block, BLOCK);
    const int row = block * p.taps + tap * channels + c - block;
    return (int64_t(o / BLOCK) * p.inputs * p.taps + row) * BLOCK + o % BLOCK;
}

// Elements by their bits, and what is stored of them.
struct Same {
    template <typename T>
    __device__ __forceinline__ T operator()(T bits) const {
        return bits;
    }
};

struct ToTf32 {
    __device__ __forceinline__ uint32_t operator()(uint32_t bits) const {
        return (bits & 0x7F800000) == 0x7F800000 ? bits : (bits + (1 << 12)) & ~0x1FFFu;
    }
};

struct ToBf16 {
    __device__ __forceinline__ uint16_t operator()(uint32_t bits) const {
        if ((bits & 0x7FFFFFFF) > 0x7F800000) return uint16_t(bits >> 16 | 0x40);
        return uint16_t((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
    }
};

template <typename From, typename To, typename Convert>
__device__ __forceinline__ void retile(const Retile& p) {
    let_consumers_start();
    wait_for_producers();
    const int64_t index = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
    if (index >= elements(p)) return;
    const int64_t at = source(p, int(index));
    static_cast<To*>(p.to)[index] = at < 0 ? To(0) : Convert()(static_cast<const From*>(p.from)[at]);
}

}  // namespace

extern "C" __global__ void __launch_bounds__(256) retile_f16(const __grid_constant__ Retile p) {
    retile<uint16_t, uint16_t, Same>(p);
}
extern "C" __global__ void __launch_bounds__(256) retile_f32(const __grid_constant__ Retile p) {
    retile<uint32_t, uint32_t, Same>(p);
}
extern "C" __global__ void __launch_bounds__(256) retile_f32_tf32(const __grid_constant__ Retile p) {
    retile<uint32_t, uint32_t, ToTf32>(p);
}
extern "C" __global__ void __launch_bounds__(256) retile_f32_bf16(const __grid_constant__ Retile p) {
    retile<uint32_t, uint16_t, ToBf16>(p);
}
