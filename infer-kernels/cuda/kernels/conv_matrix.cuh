// Convolution by matrix units with sums in f32: of f16, of bf16, and of f32 whose products round to tf32. By wgmma on sm_90a, where
// the tile has whole 64 rows, else by mma.sync; see conv.cuh.
//
// Both operands lie in shared memory as rows of 128 bytes, eight chunks of 16 bytes that are swapped by the row's number, so
// that neither the copies into it nor ldmatrix meet a bank twice. There is room for STAGES such tiles. What a thread holds
// of a product is the same for both types, counted in 32 bits.
//
// There are two kernels. `conv` loads, multiplies and finishes one tile a block by all its threads; several blocks on a
// multiprocessor fill each other's gaps. `conv_wide` has tiles so large that one block fills a multiprocessor, which
// halves what is read for each product: a warpgroup copies, two multiply, and blocks go from tile to tile, so that
// copies never stop where a tile ends.
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

// Threads of a block of `conv_wide`, or of what stands for it.
constexpr int WIDE_THREADS = HAS_WGMMA ? 384 : 256;

// Writes what a thread has of TM products of 16×(8·TN), which begin at (m, n), (m + ROWS, n) and so on, and leaves `sums`
// undefined. Of each 16×8 that is two neighbours in a row and those eight rows below: the four threads of a quad swap, so that
// each has eight neighbours, as they are written. What is added to them is fetched a turn ahead. Activations are much code,
// so turns are no unrolled loop: the sums move on to where the next turn finds them.
template <typename T, int ROWS, int TM, int TN>
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
        if (column >= end) column -= WIDTH, row += ROWS;
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

// The tile at (m0, n0). BM×BN by a block, WM×WN by a warp; T: half, bf16, or four bytes for tf32. POINT: one tap and no
// padding, so that k is the channel.
template <typename T, int BM, int BN, int WM, int WN, int STAGES, bool POINT>
__device__ __forceinline__ void conv_at(const Conv& p, int m0, int n0) {
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
    float sums[TM][TN][4];
#pragma unroll
    for (int i = 0; i < TM; ++i)
#pragma unroll
        for (int j = 0; j < TN; ++j)
#pragma unroll
            for (int l = 0; l < 4; ++l) sums[i][j][l] = 0.0f;

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
            const uint64_t a = describe(a_tile + warp / 4 * (64 * 128)), b = describe(b_tile);
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
        finish_rows<T, 16>(p, sums, m0 + sums_m, n0 + sums_n);
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

template <typename T, int BM, int BN, int WM, int WN, int STAGES, bool POINT>
__device__ __forceinline__ void conv(const Conv& p) {
    const int m0 = int(blockIdx.x) / p.column_tiles * BM, n0 = int(blockIdx.x) % p.column_tiles * BN;
    conv_at<T, BM, BN, WM, WN, STAGES, POINT>(p, m0, n0);
}

#if HAS_WGMMA
// Warpgroup 0 copies; the others multiply, BM/2 rows each. Sums are not shared: `splits` is 1.
template <typename T, int BM, int BN, int STAGES, bool POINT>
__device__ __forceinline__ void conv_wide(const Conv& p) {
    constexpr int BK = 128 / sizeof(T), CHUNK = 16 / sizeof(T);
    constexpr int STEP = 128 / 8, A_LOADS = BM / STEP, B_LOADS = BN / STEP;
    constexpr int A_BYTES = BM * 128, STAGE_BYTES = A_BYTES + BN * 128;
    constexpr int TM = BM / 128, TN = BN / 8, WARPS = 8;
    static_assert(BM % 128 == 0 && BN % 32 == 0);

    extern __shared__ __align__(1024) unsigned char shared[];
    __shared__ uint64_t barriers[2 * STAGES];
    // Where the rows of a tile and of the next lie: each found by one thread.
    __shared__ int bases[2][BM];
    __shared__ short2 corners[2][BM];
    const uint32_t base = shared_address(shared), full = shared_address(barriers), empty = full + STAGES * 8;
    const int thread = threadIdx.x, warp = thread / 32;
    const int depth = p.taps * p.channels, steps = (depth + BK - 1) / BK;
    const int tiles = (p.pixels + BM - 1) / BM * p.column_tiles;
    if (thread == 0) {
        for (int stage = 0; stage < STAGES; ++stage) {
            init_barrier(full + stage * 8, 128);
            init_barrier(empty + stage * 8, WARPS);
        }
    }
    let_consumers_start();
    __syncthreads();

    int stage = 0;
    uint32_t parity = 0;
    const auto advance = [&] {
        if (++stage == STAGES) stage = 0, parity ^= 1;
    };
    if (warp < 4) {
        leave_registers<88>();
        const int chunk = thread % 8, row = thread / 8;
        const uint32_t slot = base + row * 128 + ((chunk ^ (row % 8)) * 16);
        const T* input = static_cast<const T*>(p.input);
        const auto load_b = [&](int tile, int step, int stage) {
            const int n = tile % p.column_tiles * BN + row, k = step * BK + chunk * CHUNK;
            const T* weights = static_cast<const T*>(p.weights) + (size_t(n) * depth + k);
#pragma unroll
            for (int i = 0; i < B_LOADS; ++i) {
                const bool there = k < depth && n + i * STEP < p.out_channels;
                const T* from = there ? weights + size_t(i) * STEP * depth : static_cast<const T*>(p.weights);
                copy_async(slot + stage * STAGE_BYTES + A_BYTES + i * STEP * 128, from, there);
            }
        };
        // The first weights come while the launch before still runs.
        const int early = min(steps, STAGES);
        if (int(blockIdx.x) < tiles)
            for (int step = 0; step < early; ++step) load_b(blockIdx.x, step, step);
        wait_for_producers();
        int turn = 0;
        for (int tile = blockIdx.x; tile < tiles; tile += gridDim.x, turn ^= 1) {
            Rows<TM> found;
            found.locate(p, tile / p.column_tiles * BM + thread, 128);
#pragma unroll
            for (int i = 0; i < TM; ++i) {
                bases[turn][thread + i * 128] = found.base[i];
                corners[turn][thread + i * 128] = found.corner[i];
            }
            asm volatile("bar.sync 1, 128;" ::: "memory");
            Rows<A_LOADS> rows;
#pragma unroll
            for (int i = 0; i < A_LOADS; ++i) {
                rows.base[i] = bases[turn][row + i * STEP];
                rows.corner[i] = corners[turn][row + i * STEP];
            }
            int k = chunk * CHUNK;
            Tap tap(p, k);
            for (int step = 0; step < steps; ++step, k += BK) {
                const bool is_early = tile == int(blockIdx.x) && step < early;
                await_phase(empty + stage * 8, parity ^ 1);
                if (!is_early) load_b(tile, step, stage);
                int offset = k, below = 0, right = 0;
                if constexpr (!POINT) {
                    below = tap.row * p.dilation_h, right = tap.column * p.dilation_w;
                    offset = below * p.in_stride_h + right * p.in_stride_w + tap.channel;
                }
#pragma unroll
                for (int i = 0; i < A_LOADS; ++i) {
                    const short2 corner = rows.corner[i];
                    const bool there = k < depth && (POINT ? corner.x >= 0
                                                           : unsigned(corner.x + below) < unsigned(p.in_h) &&
                                                                 unsigned(corner.y + right) < unsigned(p.in_w));
                    copy_async(slot + stage * STAGE_BYTES + i * STEP * 128, there ? input + (rows.base[i] + offset) : input,
                               there);
                }
                arrive_with_copies(full + stage * 8);
                if constexpr (!POINT) tap.advance(p, BK);
                advance();
            }
        }
    } else {
        take_registers<208>();
        wait_for_producers();
        const int group = warp / 4 - 1;
        for (int tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
            float sums[TM][TN][4];
#pragma unroll
            for (int i = 0; i < TM; ++i)
#pragma unroll
                for (int j = 0; j < TN; ++j)
#pragma unroll
                    for (int l = 0; l < 4; ++l) sums[i][j][l] = 0.0f;
            uint32_t last = 0;
            const auto release = [&](uint32_t barrier) {
                if (thread % 32 == 0) arrive(barrier);
            };
            for (int step = 0; step < steps; ++step) {
                await_phase(full + stage * 8, parity);
                // The copies were ordinary writes, of other threads.
                asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
                const uint32_t a_tile = base + stage * STAGE_BYTES + group * (BM / 2 * 128);
                const uint64_t b = describe(base + stage * STAGE_BYTES + A_BYTES);
                begin_products();
#pragma unroll
                for (int kk = 0; kk < 4; ++kk)
#pragma unroll
                    for (int i = 0; i < TM; ++i)
                        multiply_groups<T>(sums[i], describe(a_tile + i * (64 * 128)) + kk * 2, b + kk * 2);
                commit_products();
                await_products<1>();
                if (step > 0) release(last);
                last = empty + stage * 8;
                advance();
            }
            await_products<0>();
            release(last);
            const int m = tile / p.column_tiles * BM + group * (BM / 2) + warp % 4 * 16;
            finish_rows<T, 64>(p, sums, m, tile % p.column_tiles * BN);
        }
    }
}
#else
// The same by blocks of tiles of 128×64, as `cuda::conv::portable` launches them. One function for all tiles, since it is
// there for the results alone.
template <typename T, bool POINT>
__device__ __noinline__ void conv_in_parts(const Conv& p, int rows, int columns) {
    const int tiles = (p.pixels + rows - 1) / rows * p.column_tiles, parts_n = columns / 64;
    for (int tile = blockIdx.x; tile < tiles; tile += gridDim.x)
        for (int part = 0; part < rows / 128 * parts_n; ++part) {
            const int m0 = tile / p.column_tiles * rows + part / parts_n * 128;
            const int n0 = tile % p.column_tiles * columns + part % parts_n * 64;
            __syncthreads();
            conv_at<T, 128, 64, 32, 32, 4, POINT>(p, m0, n0);
        }
}

template <typename T, int BM, int BN, int STAGES, bool POINT>
__device__ __forceinline__ void conv_wide(const Conv& p) {
    conv_in_parts<T, POINT>(p, BM, BN);
}
#endif
}  // namespace

// Both kernels of a tile: TYPE in the name, T of the elements. `cuda::conv` lists the same tiles. BLOCKS: how many are to
// have the registers to share a multiprocessor.
#define KERNELS(TYPE, BM, BN, THREADS, BLOCKS, CONV, ...)                                                      \
    extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)                                              \
        conv_##TYPE##_##BM##x##BN(const __grid_constant__ Conv p) {                                            \
        CONV<__VA_ARGS__, false>(p);                                                                           \
    }                                                                                                          \
    extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)                                              \
        conv_##TYPE##_##BM##x##BN##_point(const __grid_constant__ Conv p) {                                    \
        CONV<__VA_ARGS__, true>(p);                                                                            \
    }
#define TILE(TYPE, T, BM, BN, WM, WN, STAGES, BLOCKS) \
    KERNELS(TYPE, BM, BN, (BM / WM) * (BN / WN) * 32, BLOCKS, conv, T, BM, BN, WM, WN, STAGES)
#define WIDE(TYPE, T, BM, BN, STAGES) KERNELS(TYPE, BM, BN, WIDE_THREADS, 1, conv_wide, T, BM, BN, STAGES)

// The tiles of a type of 16 bits.
#define TILES(TYPE, T)                    \
    TILE(TYPE, T, 128, 128, 64, 32, 3, 2) \
    TILE(TYPE, T, 128, 64, 32, 32, 4, 3)  \
    TILE(TYPE, T, 64, 128, 32, 64, 4, 4)  \
    TILE(TYPE, T, 64, 64, 32, 32, 6, 6)   \
    TILE(TYPE, T, 128, 32, 32, 16, 4, 3)  \
    TILE(TYPE, T, 64, 32, 32, 16, 8, 7)   \
    TILE(TYPE, T, 32, 64, 16, 16, 8, 4)   \
    TILE(TYPE, T, 32, 32, 16, 16, 8, 7)   \
    WIDE(TYPE, T, 128, 256, 4)            \
    WIDE(TYPE, T, 128, 192, 5)            \
    WIDE(TYPE, T, 256, 128, 4)
