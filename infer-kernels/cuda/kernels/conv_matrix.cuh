// Convolution by matrix units with sums in f32: of f16, of bf16, and of f32 whose products round to tf32. By wgmma on sm_90a, where
// the tile has whole 64 rows, else by mma.sync; see conv.cuh.
//
// Both operands lie in shared memory as rows of 128 bytes, eight chunks of 16 bytes that are swapped by the row's number, so
// that neither the copies into it nor ldmatrix meet a bank twice. There is room for STAGES such tiles. What a thread holds
// of a product is the same for both types, counted in 32 bits.
#pragma once

#include "conv.cuh"
#include "mma.cuh"
#include "wgmma.cuh"

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define HAS_WGMMA true
#else
#define HAS_WGMMA false
#endif

namespace {

// BM×BN by a block, WM×WN by a warp; T: half, bf16, or four bytes for tf32. POINT: one tap and no padding, so that k is the channel.
template <typename T, int BM, int BN, int WM, int WN, int STAGES, bool POINT>
__device__ __forceinline__ void conv(const Conv& p) {
    // A row's elements, and those of a chunk.
    constexpr int BK = 128 / sizeof(T), CHUNK = 16 / sizeof(T);
    constexpr int WARPS_N = BN / WN, THREADS = (BM / WM) * WARPS_N * 32;
    constexpr int STEP = THREADS / 8, A_LOADS = BM / STEP, B_LOADS = BN / STEP;
    constexpr int A_BYTES = BM * 128, STAGE_BYTES = A_BYTES + BN * 128;
    constexpr bool WGMMA = HAS_WGMMA && BM % 64 == 0;
    // How many steps ahead tiles are loaded. wgmma still reads the tile before the one of the step.
    constexpr int AHEAD = WGMMA ? STAGES - 2 : STAGES - 1;
    static_assert(AHEAD >= 1 && (!WGMMA || THREADS == BM * 2));
    static_assert(STEP % 8 == 0 && BM % STEP == 0 && BN % STEP == 0);
    static_assert(WM % 16 == 0 && WN % 16 == 0);

    extern __shared__ __align__(1024) unsigned char shared[];
    const uint32_t base = shared_address(shared);
    const int thread = threadIdx.x, lane = thread % 32, warp = thread / 32;
    const int m0 = int(blockIdx.x) / p.column_tiles * BM, n0 = int(blockIdx.x) % p.column_tiles * BN;
    const int warp_m = warp / WARPS_N * WM, warp_n = warp % WARPS_N * WN;

    const int depth = p.taps * p.channels;
    const int k_begin = int(blockIdx.y) * p.depth_per_split;
    const int k_end = min(depth, k_begin + p.depth_per_split);
    const int steps = (k_end - k_begin + BK - 1) / BK;

    // Copies: each thread one chunk of several rows.
    const int chunk = thread % 8, row = thread / 8;
    const uint32_t slot = row * 128 + ((chunk ^ (row % 8)) * 16);
    const T* input = static_cast<const T*>(p.input);
    const T* weights = static_cast<const T*>(p.weights) + size_t(n0 + row) * depth;

    int b_k = k_begin + chunk * CHUNK;
    auto load_b = [&](int stage) {
        const bool inside = b_k < k_end;
#pragma unroll
        for (int i = 0; i < B_LOADS; ++i) {
            const bool there = inside && n0 + row + i * STEP < p.out_channels;
            const T* from = there ? weights + size_t(i) * STEP * depth + b_k : static_cast<const T*>(p.weights);
            copy_async(base + stage * STAGE_BYTES + A_BYTES + slot + i * STEP * 128, from, there);
        }
        b_k += BK;
    };

    Rows<A_LOADS> rows;
    rows.locate(p, m0 + row, STEP);
    int a_k = k_begin + chunk * CHUNK;
    Tap tap(p, a_k);
    auto load_a = [&](int stage) {
        const bool inside = a_k < k_end;
        int offset, below = 0, right = 0;
        if constexpr (POINT) {
            offset = a_k;
        } else {
            below = tap.row * p.dilation_h, right = tap.column * p.dilation_w;
            offset = below * p.in_stride_h + right * p.in_stride_w + tap.channel;
        }
#pragma unroll
        for (int i = 0; i < A_LOADS; ++i) {
            bool there = inside;
            if constexpr (POINT) {
                there = there && rows.corner[i].x >= 0;
            } else {
                there = there && unsigned(rows.corner[i].x + below) < unsigned(p.in_h) &&
                        unsigned(rows.corner[i].y + right) < unsigned(p.in_w);
            }
            const T* from = there ? input + (rows.base[i] + offset) : input;
            copy_async(base + stage * STAGE_BYTES + slot + i * STEP * 128, from, there);
        }
        a_k += BK;
        if constexpr (!POINT) tap.advance(p, BK);
    };

    let_consumers_start();
#pragma unroll
    for (int stage = 0; stage < AHEAD; ++stage)
        if (stage < steps) load_b(stage);
    // The first blocks of a column of tiles fetch the rest of its weights while the launch before still runs.
    if (m0 == 0) {
        for (int line = thread; line < BN * (steps - AHEAD); line += THREADS) {
            const int n = n0 + line % BN, k = k_begin + (AHEAD + line / BN) * BK;
            if (n < p.out_channels) {
                const T* from = static_cast<const T*>(p.weights) + size_t(n) * depth + k;
                asm volatile("prefetch.global.L2 [%0];" ::"l"(from));
            }
        }
    }
    wait_for_producers();
#pragma unroll
    for (int stage = 0; stage < AHEAD; ++stage) {
        if (stage < steps) load_a(stage);
        commit();
    }

    // What a thread has of the product is the same for both: of each 16×8, two neighbours in a row and those eight
    // rows below.
    constexpr int TM = WGMMA ? 1 : WM / 16, TN = WGMMA ? BN / 8 : WN / 8;
    float sums[TM][TN][4] = {};

    // Where ldmatrix reads: lanes 0–15 the rows of the left half of 16×16 of A, lanes 16–31 the right one; of B eight
    // columns at a time, both halves of k.
    const int a_row = warp_m + lane % 16, a_chunk = lane / 16;
    const int b_row = warp_n + lane % 8 + lane / 16 * 8, b_chunk = lane / 8 % 2;

    int stage = 0, next = AHEAD;
    for (int step = 0; step < steps; ++step) {
        await<AHEAD - 1>();
#if HAS_WGMMA
        if constexpr (WGMMA) asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
        __syncthreads();
        const uint32_t a_tile = base + stage * STAGE_BYTES, b_tile = a_tile + A_BYTES;
#if HAS_WGMMA
        if constexpr (WGMMA) {
            const uint64_t a = describe<128>(a_tile + warp / 4 * (64 * 128)), b = describe<128>(b_tile);
            begin_products();
#pragma unroll
            for (int kk = 0; kk < 4; ++kk) multiply_groups<T>(sums[0], a + kk * 2, b + kk * 2);
            commit_products();
        }
#endif
        if (step + AHEAD < steps) {
            load_b(next);
            load_a(next);
        }
        commit();
#if HAS_WGMMA
        if constexpr (WGMMA) await_products<1>();
#endif
        if constexpr (!WGMMA) {
#pragma unroll
            for (int kk = 0; kk < 4; ++kk) {
                uint32_t a[WM / 16][4], b[WN / 16][4];
#pragma unroll
                for (int i = 0; i < WM / 16; ++i) {
                    const int r = a_row + i * 16;
                    load_matrices(a[i], a_tile + r * 128 + (((kk * 2 + a_chunk) ^ (r % 8)) * 16));
                }
#pragma unroll
                for (int j = 0; j < WN / 16; ++j) {
                    const int r = b_row + j * 16;
                    load_matrices(b[j], b_tile + r * 128 + (((kk * 2 + b_chunk) ^ (r % 8)) * 16));
                }
#pragma unroll
                for (int i = 0; i < WM / 16; ++i)
#pragma unroll
                    for (int j = 0; j < WN / 8; ++j)
                        multiply<T>(sums[i][j], a[i], b[j / 2][j % 2 * 2], b[j / 2][j % 2 * 2 + 1]);
            }
        }
        stage = stage + 1 == STAGES ? 0 : stage + 1;
        next = next + 1 == STAGES ? 0 : next + 1;
    }
#if HAS_WGMMA
    if constexpr (WGMMA) await_products<0>();
#endif
    const int sums_m = WGMMA ? warp * 16 : warp_m, sums_n = WGMMA ? 0 : warp_n;
    if (p.splits == 1) {
        finish_rows<T>(p, sums, m0 + sums_m, n0 + sums_n);
        return;
    }
    await<0>();
    __syncthreads();
    float* tile = reinterpret_cast<float*>(shared);
    constexpr int LD = BN + 8;
#pragma unroll
    for (int i = 0; i < TM; ++i)
#pragma unroll
        for (int j = 0; j < TN; ++j) {
            const int r = sums_m + i * 16 + lane / 4, c = sums_n + j * 8 + lane % 4 * 2;
            *reinterpret_cast<float2*>(tile + r * LD + c) = make_float2(sums[i][j][0], sums[i][j][1]);
            *reinterpret_cast<float2*>(tile + (r + 8) * LD + c) = make_float2(sums[i][j][2], sums[i][j][3]);
        }
    __syncthreads();
    finish_tile<T, BM, BN, THREADS>(p, tile, m0, n0);
}

}  // namespace

// Both kernels of a tile: TYPE in the name, T of the elements. `cuda::conv` lists the same tiles. BLOCKS: how many are to
// have the registers to share a multiprocessor.
#define TILE(TYPE, T, BM, BN, WM, WN, STAGES, BLOCKS)                                                          \
    extern "C" __global__ void __launch_bounds__((BM / WM) * (BN / WN) * 32, BLOCKS)                           \
        conv_##TYPE##_##BM##x##BN(const __grid_constant__ Conv p) {                                            \
        conv<T, BM, BN, WM, WN, STAGES, false>(p);                                                             \
    }                                                                                                          \
    extern "C" __global__ void __launch_bounds__((BM / WM) * (BN / WN) * 32, BLOCKS)                           \
        conv_##TYPE##_##BM##x##BN##_point(const __grid_constant__ Conv p) {                                    \
        conv<T, BM, BN, WM, WN, STAGES, true>(p);                                                              \
    }

// The tiles of a type of 16 bits.
#define TILES(TYPE, T)                    \
    TILE(TYPE, T, 128, 128, 64, 32, 3, 2) \
    TILE(TYPE, T, 128, 64, 32, 32, 4, 3)  \
    TILE(TYPE, T, 64, 128, 32, 64, 4, 4)  \
    TILE(TYPE, T, 64, 64, 32, 32, 6, 6)   \
    TILE(TYPE, T, 128, 32, 32, 16, 4, 3)  \
    TILE(TYPE, T, 64, 32, 32, 16, 8, 7)   \
    TILE(TYPE, T, 32, 64, 16, 16, 8, 4)   \
    TILE(TYPE, T, 32, 32, 16, 16, 8, 7)
