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

// Writes what a thread has of TM products of 16×(8·TN), which begin at (m, n), (m + 16, n) and so on, and leaves `sums`
// undefined. Of each 16×8 that is two neighbours in a row and those eight rows below: the four threads of a quad swap, so that
// each has eight neighbours, as they are written. What is added to them is fetched a turn ahead. Activations are much code,
// so turns are no unrolled loop: the sums move on to where the next turn finds them.
template <typename T, int TM, int TN>
__device__ __forceinline__ void finish_rows(const Conv& p, float (&sums)[TM][TN][4], int m, int n) {
    // A quad swaps four groups of columns of a row, and then of the other; or else two groups of both rows.
    constexpr bool FOUR = TN % 4 == 0;
    constexpr int GROUPS = FOUR ? 4 : 2, ITEMS = FOUR ? 2 : 1, WIDTH = TN * 8;
    static_assert(TN % 2 == 0);
    const auto group = [&](int index) -> float(&)[4] { return sums[index / TN][index % TN]; };
    const int quad = threadIdx.x % 4;
    const bool odd = quad % 2 != 0, high = quad / 2 != 0;
    const int end = n + WIDTH;
    int row = m + threadIdx.x % 32 / 4 + (FOUR ? 0 : quad / 2 * 8), column = n + (FOUR ? quad : quad % 2) * 8;
    const auto is_inside = [&](int item) { return row + item * 8 < p.pixels && column < p.out_channels; };

    Eight<T> residuals[ITEMS];
    float biases[8] = {};
    const auto fetch = [&](int item) {
        if (item == ITEMS - 1 && p.bias && column < p.out_channels) load8(p.bias + column, biases);
        const T* from = static_cast<const T*>(p.residual) + size_t(row + item * 8) * p.residual_stride + column;
        if (p.residual_mode && is_inside(item)) residuals[item].load(from);
    };
#pragma unroll
    for (int item = 0; item < ITEMS; ++item) fetch(item);
#pragma unroll 1
    for (int turn = 0; turn < TM * TN; turn += GROUPS) {
        T* to = static_cast<T*>(p.output) + size_t(row) * p.out_stride + column;
        bool inside[ITEMS];
#pragma unroll
        for (int item = 0; item < ITEMS; ++item) inside[item] = is_inside(item);
        column += GROUPS * 8;
        if (column >= end) column -= WIDTH, row += 16;
#pragma unroll
        for (int item = 0; item < ITEMS; ++item) {
            const auto own = [&](int unit, int l) {
                return FOUR ? group(unit)[item * 2 + l] : group(unit % 2)[unit / 2 * 2 + l];
            };
            float pairs[2][4], v[8], added[8];
#pragma unroll
            for (int half = 0; half < 2; ++half)
#pragma unroll
                for (int l = 0; l < 2; ++l) {
                    const float low = own(half * 2, l), next = own(half * 2 + 1, l);
                    const float found = __shfl_xor_sync(~0u, odd ? low : next, 1);
                    pairs[half][l] = odd ? found : low;
                    pairs[half][2 + l] = odd ? next : found;
                }
#pragma unroll
            for (int l = 0; l < 4; ++l) {
                const float found = __shfl_xor_sync(~0u, high ? pairs[0][l] : pairs[1][l], 2);
                v[l] = (high ? found : pairs[0][l]) + biases[l];
                v[4 + l] = (high ? pairs[1][l] : found) + biases[4 + l];
            }
            residuals[item].widen(added);
            if (turn + GROUPS < TM * TN) fetch(item);
            finish8(v, added, p.residual_mode, p.activation);
            if (inside[item]) store8(to + size_t(item * 8) * p.out_stride, v);
        }
#pragma unroll
        for (int index = 0; index + GROUPS < TM * TN; ++index)
#pragma unroll
            for (int l = 0; l < 4; ++l) group(index)[l] = group(index + GROUPS)[l];
    }
}
