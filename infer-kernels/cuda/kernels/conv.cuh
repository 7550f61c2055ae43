// Convolution as an implicit product of matrices: arguments, the walk over the taps, the end of a tile.
//
//     out[m, o] = act(bias[o] + residual[m, o] + Σ_k in[m, k] · w[o, k])
//
// m counts output pixels of all images; k counts (tap row, tap column, channel), channels innermost, so that eight
// neighbours in k are eight channels of one tap: 16 bytes of the picture, whole inside it or whole in the padding.
// A block of threads computes BM pixels × BN channels over a range of k. Where `splits` blocks share a tile and are a
// cluster (sm_90 and later), each adds the sums of all for its part of the tile, from their shared memories. Otherwise
// each leaves its sums in memory, and the last to arrive adds them. Both add in the order of the ranges.
#pragma once

#include "cluster.cuh"
#include "common.cuh"

// `cuda::Conv` behind its operands.
struct Conv {
    const void* input;
    const void* weights;
    const float* bias;
    const void* residual;
    float* partials;
    void* output;
    unsigned* counters;

    int32_t in_h, in_w;
    int32_t in_stride_n, in_stride_h, in_stride_w;
    int32_t channels, taps, kernel_w;
    int32_t out_h, out_w;
    int32_t stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w;
    int32_t pixels, out_channels;
    int32_t out_stride, residual_stride, residual_mode;
    int32_t splits, depth_per_split;
    int32_t column_tiles;
    Activation activation;
};

// The rows of the tile that a thread loads: where each one's first tap lies.
template <int COUNT>
struct Rows {
    int base[COUNT];
    short2 corner[COUNT];

    // `first`, `first + step`, …
    __device__ __forceinline__ void locate(const Conv& p, int first, int step) {
#pragma unroll
        for (int i = 0; i < COUNT; ++i) {
            const int m = first + i * step;
            const int x = m % p.out_w, rest = m / p.out_w;
            const int y = rest % p.out_h, n = rest / p.out_h;
            const int h = y * p.stride_h - p.pad_h, w = x * p.stride_w - p.pad_w;
            base[i] = n * p.in_stride_n + h * p.in_stride_h + w * p.in_stride_w;
            // A row beyond the last pixel is in the padding for every tap.
            corner[i] = m < p.pixels ? make_short2(short(h), short(w)) : make_short2(-32768, -32768);
        }
    }
};

// A place in k: the tap and the channel.
struct Tap {
    int row, column, channel;

    __device__ __forceinline__ Tap(const Conv& p, int k) {
        const int tap = k / p.channels;
        channel = k - tap * p.channels;
        row = tap / p.kernel_w;
        column = tap - row * p.kernel_w;
    }

    __device__ __forceinline__ void advance(const Conv& p, int by) {
        channel += by;
        while (channel >= p.channels) {
            channel -= p.channels;
            if (++column == p.kernel_w) column = 0, ++row;
        }
    }
};

// Bias, residual and activation of eight sums of the tile, written.
template <typename T>
__device__ __forceinline__ void finish_item(const Conv& p, float (&v)[8], int m, int n) {
    const T* residual = static_cast<const T*>(p.residual) + size_t(m) * p.residual_stride + n;
    finish8(v, p.bias ? p.bias + n : nullptr, residual, p.residual_mode, p.activation);
    store8(static_cast<T*>(p.output) + size_t(m) * p.out_stride + n, v);
}

#if __CUDA_ARCH__ >= 900
// Four floats of the shared memory of another block of the cluster, at the address that they have in one's own.
__device__ __forceinline__ float4 load_from(int block, const float* mine) {
    float4 v;
    asm volatile("ld.shared::cluster.v4.f32 {%0, %1, %2, %3}, [%4];"
                 : "=f"(v.x), "=f"(v.y), "=f"(v.z), "=f"(v.w)
                 : "r"(address_in(block, mine))
                 : "memory");
    return v;
}
#endif

__device__ __forceinline__ void add8(float (&v)[8], const float4& low, const float4& high) {
    v[0] += low.x, v[1] += low.y, v[2] += low.z, v[3] += low.w;
    v[4] += high.x, v[5] += high.y, v[6] += high.z, v[7] += high.w;
}

// Writes a tile of finished sums, `tile[BM][BN + 8]`. Every thread of the block calls it after a barrier.
template <typename T, int BM, int BN, int THREADS>
__device__ __forceinline__ void finish_tile(const Conv& p, const float* tile, int m0, int n0) {
    constexpr int LD = BN + 8, CHUNKS = BN / 8, ITEMS = BM * CHUNKS;
    const int index = blockIdx.x;

#if __CUDA_ARCH__ >= 900
    if (cluster_blocks() > 1) {
        cluster_barrier();
        for (int item = blockIdx.y * THREADS + threadIdx.x; item < ITEMS; item += p.splits * THREADS) {
            const int row = item / CHUNKS, chunk = item % CHUNKS;
            const int m = m0 + row, n = n0 + chunk * 8;
            if (m >= p.pixels || n >= p.out_channels) continue;
            const float* mine = tile + row * LD + chunk * 8;
            float v[8] = {};
#pragma unroll 4
            for (int split = 0; split < p.splits; ++split)
                add8(v, load_from(split, mine), load_from(split, mine + 4));
            finish_item<T>(p, v, m, n);
        }
        // Nobody leaves while its sums are read.
        cluster_barrier();
        return;
    }
#endif
    if (p.splits > 1) {
        __shared__ bool last;
        float* mine = p.partials + (size_t(index) * p.splits + blockIdx.y) * (BM * BN);
#pragma unroll 4
        for (int item = threadIdx.x; item < ITEMS; item += THREADS) {
            const int row = item / CHUNKS, chunk = item % CHUNKS;
            if (m0 + row >= p.pixels || n0 + chunk * 8 >= p.out_channels) continue;
            float v[8];
            load8(tile + row * LD + chunk * 8, v);
            store8(mine + item * 8, v);
        }
        __threadfence();
        __syncthreads();
        if (threadIdx.x == 0) {
            last = atomicAdd(p.counters + index, 1u) == unsigned(p.splits - 1);
            if (last) p.counters[index] = 0;
        }
        __syncthreads();
        if (!last) return;
        __threadfence();
    }

    const float* sums = p.partials + size_t(index) * p.splits * (BM * BN);
#pragma unroll 2
    for (int item = threadIdx.x; item < ITEMS; item += THREADS) {
        const int row = item / CHUNKS, chunk = item % CHUNKS;
        const int m = m0 + row, n = n0 + chunk * 8;
        if (m >= p.pixels || n >= p.out_channels) continue;
        float v[8];
        if (p.splits > 1) {
#pragma unroll
            for (int i = 0; i < 8; ++i) v[i] = 0.0f;
#pragma unroll 4
            for (int split = 0; split < p.splits; ++split) {
                const float4* part = reinterpret_cast<const float4*>(sums + size_t(split) * (BM * BN) + item * 8);
                add8(v, __ldcg(part), __ldcg(part + 1));
            }
        } else {
            load8(tile + row * LD + chunk * 8, v);
        }
        finish_item<T>(p, v, m, n);
    }
}
