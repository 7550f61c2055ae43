// Convolution of 16 bits by wgmma whose operands the tensor memory accelerator copies (sm_90a); see conv.cuh.
//
// A block stays, and computes one tile after the other. A thread for each operand asks for its boxes, as many steps ahead as there
// is room for, beyond the end of a tile too. Two groups of four warps multiply: either both a tile, half of its rows each, or
// a tile each, so that one finishes what it has while the other multiplies.
//
// Finished sums go to shared memory, 64 columns at a time, and from there as boxes. Where something is added to them, its boxes
// came to the same place before. Where the blocks of a cluster share a tile, each has a range of the steps and a part of the
// tile, of which the others send it their sums.
#pragma once

#include "conv.cuh"
#include "mma.cuh"
#include "wgmma.cuh"

// `CUtensorMap`: where a tensor lies, and the boxes in which it is copied.
struct __align__(64) TensorMap {
    uint64_t words[16];
};

// `cuda::Conv` behind its operands, and before these how both matrices are copied.
struct ConvTma {
    TensorMap input, weights, residual, output;
    Conv conv;
};

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
namespace {

// The threads of a group that multiplies.
constexpr int GROUP_THREADS = 128;

__device__ __forceinline__ void prefetch(const TensorMap& map) {
    asm volatile("prefetch.tensormap [%0];" ::"l"(&map) : "memory");
}

#define COPY(AXES) "cp.async.bulk.tensor." AXES ".mbarrier::complete_tx::bytes [%0], [%1, "

// Copies a box from (x, y), (x, y, z) on.
__device__ __forceinline__ void copy_box(uint32_t to, const TensorMap& map, const Arrivals& arrivals, int x, int y) {
    asm volatile(COPY("2d.shared::cluster.global.tile") "{%3, %4}], [%2];" ::"r"(to), "l"(&map), "r"(arrivals.address()),
                 "r"(x), "r"(y)
                 : "memory");
}

__device__ __forceinline__ void copy_box(uint32_t to, const TensorMap& map, const Arrivals& arrivals, int x, int y,
                                         int z) {
    asm volatile(COPY("3d.shared::cluster.global.tile") "{%3, %4, %5}], [%2];" ::"r"(to), "l"(&map),
                 "r"(arrivals.address()), "r"(x), "r"(y), "r"(z)
                 : "memory");
}

// Copies a box to (x, y) on.
__device__ __forceinline__ void store_box(const TensorMap& map, uint32_t from, int x, int y) {
    asm volatile("cp.async.bulk.tensor.2d.global.shared::cta.tile.bulk_group [%0, {%2, %3}], [%1];" ::"l"(&map), "r"(from),
                 "r"(x), "r"(y)
                 : "memory");
    asm volatile("cp.async.bulk.commit_group;" ::: "memory");
}

// Waits until all boxes that this thread stores, but for the last so many, have been read.
template <int PENDING>
__device__ __forceinline__ void await_boxes() {
    asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(PENDING) : "memory");
}

// Copies some channels of so many pixels as the map says, of the tap `right`, `below` of the window whose first is at (w, h) of
// image n.
__device__ __forceinline__ void copy_taps(uint32_t to, const TensorMap& map, const Arrivals& arrivals, int channel, int w,
                                          int h, int n, int right, int below) {
    asm volatile(COPY("4d.shared::cluster.global.im2col") "{%3, %4, %5, %6}], [%2], {%7, %8};" ::"r"(to), "l"(&map),
                 "r"(arrivals.address()), "r"(channel), "r"(w), "r"(h), "r"(n), "h"(uint16_t(right)),
                 "h"(uint16_t(below))
                 : "memory");
}

#undef COPY

// Waits for the threads of a group.
__device__ __forceinline__ void group_barrier(int group) {
    asm volatile("bar.sync %0, %1;" ::"r"(group + 1), "n"(GROUP_THREADS) : "memory");
}

// Stores four matrices of 8×8, of which each thread has two neighbours; lanes say where their rows are.
__device__ __forceinline__ void store_matrices(uint32_t address, const uint32_t (&r)[4]) {
    asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(address), "r"(r[0]), "r"(r[1]),
                 "r"(r[2]), "r"(r[3])
                 : "memory");
}

// A stage, and whether it has been gone round an odd number of times.
template <int STAGES>
struct Stage {
    int index, phase;

    __device__ __forceinline__ explicit Stage(int step) : index(step % STAGES), phase(step / STAGES % 2) {}

    __device__ __forceinline__ void advance() {
        if (++index == STAGES) index = 0, phase ^= 1;
    }

    // As many steps on as `other` is from the first.
    __device__ __forceinline__ void skip(const Stage& other) {
        index += other.index, phase ^= other.phase;
        if (index >= STAGES) index -= STAGES, phase ^= 1;
    }
};

// What is copied next: of which tile, which tap, and from which channel on.
template <int BM, int BN, int BK, bool POINT>
struct Boxes {
    const ConvTma& maps;
    int tile = blockIdx.x, tap, row, column, channel;
    // Of the tile: the first pixel and output channel; where the pixel's window begins.
    int m, first_output, w, h, n;

    // From that step of the first tile on.
    __device__ __forceinline__ Boxes(const ConvTma& maps, int step) : maps(maps) {
        const Conv& p = maps.conv;
        const int tap_steps = (p.channels + BK - 1) / BK;
        tap = step / tap_steps, channel = (step - tap * tap_steps) * BK;
        row = tap / p.kernel_w, column = tap - row * p.kernel_w;
        locate();
    }

    __device__ __forceinline__ void locate() {
        const Conv& p = maps.conv;
        m = tile / p.column_tiles * BM, first_output = tile % p.column_tiles * BN;
        if constexpr (!POINT) {
            const int x = m % p.out_w, rest = m / p.out_w;
            w = x * p.stride_w - p.pad_w, h = rest % p.out_h * p.stride_h - p.pad_h, n = rest / p.out_h;
        }
    }

    __device__ __forceinline__ void copy_input(uint32_t to, const Arrivals& arrivals) const {
        const Conv& p = maps.conv;
        if constexpr (POINT) {
            copy_box(to, maps.input, arrivals, channel, m);
        } else {
            copy_taps(to, maps.input, arrivals, channel, w, h, n, column * p.dilation_w, row * p.dilation_h);
        }
    }

    __device__ __forceinline__ void copy_weights(uint32_t to, const Arrivals& arrivals) const {
        copy_box(to, maps.weights, arrivals, channel, tap, first_output);
    }

    __device__ __forceinline__ void advance() {
        const Conv& p = maps.conv;
        channel += BK;
        if (channel < p.channels) return;
        channel = 0;
        if (++column == p.kernel_w) column = 0, ++row;
        if (++tap < p.taps) return;
        tap = row = column = 0;
        tile += gridDim.x;
        locate();
    }
};

// 16 rows and 64 columns of a warp in shared memory, in rows of 128 bytes whose chunks are swapped: as the accelerator copies boxes.
struct Place {
    uint32_t row;
    int chunk, swap;

    // Of the warp's rows of those that begin at `rows`.
    __device__ __forceinline__ explicit Place(uint32_t rows) {
        const int warp = threadIdx.x % GROUP_THREADS / 32, lane = threadIdx.x % 32;
        row = rows + (warp * 16 + lane % 16) * 128, chunk = lane / 16, swap = lane % 8;
    }

    // Where ldmatrix and stmatrix find this thread's row of 16×16: 16 rows, and two chunks of 16 bytes.
    __device__ __forceinline__ uint32_t address(int j, uint32_t further) const {
        return row + further + ((j * 2 + chunk) ^ swap) * 16;
    }

    __device__ __forceinline__ void load(uint32_t (&pairs)[4][4], uint32_t further = 0) const {
#pragma unroll
        for (int j = 0; j < 4; ++j) load_matrices(pairs[j], address(j, further));
    }

    template <typename T>
    __device__ __forceinline__ void store(const float (&v)[32], uint32_t further = 0) const {
#pragma unroll
        for (int j = 0; j < 4; ++j) {
            uint32_t pairs[4];
#pragma unroll
            for (int k = 0; k < 4; ++k) {
                const Pair<T> pair = Pair<T>::of(v[j * 8 + 2 * k], v[j * 8 + 2 * k + 1]);
                pairs[k] = reinterpret_cast<const uint32_t&>(pair);
            }
            store_matrices(address(j, further), pairs);
        }
    }
};

// Adds to 16 rows and 64 columns of sums what was at their place.
template <typename T>
__device__ __forceinline__ void add_pairs(float (&v)[32], const uint32_t (&added)[4][4]) {
#pragma unroll
    for (int i = 0; i < 16; ++i) {
        const float2 pair = reinterpret_cast<const Pair<T>*>(added[i / 4])[i % 4].widen();
        v[2 * i] += pair.x, v[2 * i + 1] += pair.y;
    }
}

// Adds what is to be added to 16 rows and 64 columns of sums, and activates them.
template <typename T>
__device__ __forceinline__ void finish(const Conv& p, float (&v)[32], const uint32_t (&added)[4][4]) {
    if (p.residual_mode == RESIDUAL_BEFORE) add_pairs<T>(v, added);
    activate_many(v, p.activation);
    if (p.residual_mode == RESIDUAL_AFTER) add_pairs<T>(v, added);
}

// Adds so many steps to the sums, whose operands `full` says are there, and tells `empty` of all but the last, of which it gives the
// stage: its products may not be done.
template <typename T, int ROW_BYTES, int STAGE_BYTES, int STAGES, int TM, int TN>
__device__ __forceinline__ int add_steps(float (&sums)[TM][TN][4], uint64_t a_first, uint64_t b_first, int steps,
                                         Stage<STAGES>& stage, Arrivals (&full)[STAGES], Arrivals (&empty)[STAGES]) {
    int last = 0;
    for (int step = 0; step < steps; ++step) {
        full[stage.index].wait_in_block(stage.phase);
        const uint64_t a = a_first + stage.index * (STAGE_BYTES / 16), b = b_first + stage.index * (STAGE_BYTES / 16);
        begin_products();
#pragma unroll
        for (int kk = 0; kk < ROW_BYTES / 32; ++kk)
#pragma unroll
            for (int i = 0; i < TM; ++i)
                multiply_groups<T>(sums[i], a + i * (64 * ROW_BYTES / 16) + kk * 2, b + kk * 2);
        commit_products();
        if (step > 0) {
            await_products<1>();
            if (threadIdx.x % 32 == 0) empty[last].arrive();
        }
        last = stage.index;
        stage.advance();
    }
    return last;
}

// Gives each block of a cluster its part of a tile, the sums of all added, and writes it. A part is one or more of the tile's
// products of 64×64, of which a group of four warps has 16 rows each. Of these, `received` has `[block][product][8][thread]`.
template <typename T, int DOWN, int COLUMNS>
__device__ __forceinline__ void share(const Conv& p, const float (&sums)[DOWN][COLUMNS][4], int m0, int n0, float4* received,
                                      Arrivals& landed) {
    constexpr int PRODUCTS = DOWN * COLUMNS / 8;
    const int each = PRODUCTS / p.splits, rank = blockIdx.y;
    int thread = threadIdx.x % GROUP_THREADS;
    // Addresses are computed here, not before the products, which need all registers.
    asm volatile("" : "+r"(thread));
    const auto place = [&](int block, int product) { return received + (block * each + product) * (8 * GROUP_THREADS) + thread; };
#pragma unroll
    for (int product = 0; product < PRODUCTS; ++product) {
        const int owner = product / each;
        if (owner == rank) continue;
        float4* to = place(rank - (rank > owner), product - owner * each);
#pragma unroll
        for (int j = 0; j < 8; ++j) landed.send(owner, to + j * GROUP_THREADS, sums[product % DOWN][product / DOWN * 8 + j]);
    }
    landed.wait(0);
#pragma unroll 1
    for (int product = rank * each; product < (rank + 1) * each; ++product) {
        float own[1][8][4];
#pragma unroll
        for (int other = 0; other < PRODUCTS; ++other)
#pragma unroll
            for (int j = 0; j < 32; ++j)
                if (other == product) own[0][j / 4][j % 4] = sums[other % DOWN][other / DOWN * 8 + j / 4][j % 4];
        for (int block = 0; block + 1 < p.splits; ++block) {
            const float4* from = place(block, product - rank * each);
#pragma unroll
            for (int j = 0; j < 8; ++j) {
                const float4 v = from[j * GROUP_THREADS];
                own[0][j][0] += v.x, own[0][j][1] += v.y, own[0][j][2] += v.z, own[0][j][3] += v.w;
            }
        }
        finish_rows<T>(p, own, m0 + product % DOWN * 64 + thread / 32 * 16, n0 + product / DOWN * 64);
    }
}

// BM×BN by a block, or, where the groups do not work `TOGETHER`, by each, which has so many PLACES for 64 finished columns. BK
// channels a step. POINT: one tap and no padding, pixels in a row.
template <typename T, int BM, int BN, int BK, int STAGES, int PLACES, bool TOGETHER, bool POINT>
__device__ __forceinline__ void conv_tma(const ConvTma& maps) {
    constexpr int ROW_BYTES = BK * sizeof(T), A_BYTES = BM * ROW_BYTES, STAGE_BYTES = A_BYTES + BN * ROW_BYTES;
    constexpr int ROWS = TOGETHER ? BM / 2 : BM, TM = ROWS / 64, TN = BN / 8;
    constexpr int PARTS = BN / 64, PLACE_BYTES = ROWS * 128;
    static_assert(ROWS % 64 == 0 && BN % 64 == 0);
    extern __shared__ __align__(1024) unsigned char shared[];
    __shared__ Arrivals full[STAGES], empty[STAGES], turn[2], added[2][PLACES], landed;

    const Conv& p = maps.conv;
    const uint32_t base = shared_address(shared);
    const int group = threadIdx.x / GROUP_THREADS, lane = threadIdx.x % 32;
    const int tiles = (p.pixels + BM - 1) / BM * p.column_tiles;
    const int range = p.depth_per_split / BK, first_step = int(blockIdx.y) * range;
    const int steps = min(range, (p.channels + BK - 1) / BK * p.taps - first_step);
    if (threadIdx.x == 0) {
#pragma unroll
        for (int stage = 0; stage < STAGES; ++stage) full[stage].begin(2), empty[stage].begin(TOGETHER ? 8 : 4);
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            turn[i].begin(4);
#pragma unroll
            for (int place = 0; place < PLACES; ++place) added[i][place].begin();
        }
        landed.begin();
        // What all others send of a part.
        landed.expect(BM * BN / p.splits * (p.splits - 1) * int(sizeof(float)));
    }
    __syncthreads();
    // Nothing is sent to a block that has not begun.
    if (p.splits > 1) cluster_arrive();
    let_consumers_start();

    if (group == 2) {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 40;");
        // One thread asks for the weights, which do not wait for the launches before, and one for the input.
        const int role = threadIdx.x - 2 * GROUP_THREADS;
        if (role == 0 || role == 32) {
            const int total = (tiles - int(blockIdx.x) + int(gridDim.x) - 1) / int(gridDim.x) * steps;
            Boxes<BM, BN, BK, POINT> boxes(maps, first_step);
            Stage<STAGES> stage(0);
            prefetch(role == 0 ? maps.input : maps.weights);
            if (role == 0) wait_for_producers();
            for (int step = 0; step < total; ++step, boxes.advance(), stage.advance()) {
                Arrivals& arrivals = full[stage.index];
                const uint32_t to = base + stage.index * STAGE_BYTES;
                empty[stage.index].wait_in_block(stage.phase ^ 1);
                arrivals.expect(role == 0 ? A_BYTES : STAGE_BYTES - A_BYTES);
                if (role == 0) {
                    boxes.copy_input(to, arrivals);
                } else {
                    boxes.copy_weights(to + A_BYTES, arrivals);
                }
            }
        }
        __syncwarp();
        if (p.splits > 1) cluster_wait();
    } else {
        asm volatile("setmaxnreg.inc.sync.aligned.u32 232;");
        if (p.splits > 1) cluster_wait();
        wait_for_producers();
        const bool first = threadIdx.x % GROUP_THREADS == 0;
        const int own = TOGETHER ? 0 : group, sharing = TOGETHER ? 1 : 2;
        const uint32_t a_base = base + (TOGETHER ? group * (ROWS * ROW_BYTES) : 0);
        const uint32_t places = base + STAGES * STAGE_BYTES + group * (PLACES * PLACE_BYTES);
        const Place own_place(places);
        // Where the first step's operands are. The other group's steps are skipped.
        const uint64_t a_first = describe<ROW_BYTES>(a_base), b_first = describe<ROW_BYTES>(base + A_BYTES);
        Stage<STAGES> stage(own * steps);
        const Stage<STAGES> others((sharing - 1) * steps);
        // How many parts of 64 columns of all tiles went before.
        int parts = 0;
        for (int tile = blockIdx.x + own * gridDim.x, count = own; tile < tiles; tile += sharing * gridDim.x, ++count) {
            const int first_part = parts;
            const int n0 = tile % p.column_tiles * BN;
            const int m0 = tile / p.column_tiles * BM + (TOGETHER ? group * ROWS : 0);
            const auto fetch = [&](int part) {
                if (n0 + part * 64 >= p.out_channels) return;
                const int place = (first_part + part) % PLACES;
                await_boxes<0>();
                added[group][place].expect(PLACE_BYTES);
                copy_box(places + place * PLACE_BYTES, maps.residual, added[group][place], n0 + part * 64, m0);
            };
            if (first && p.residual_mode && p.splits == 1) {
#pragma unroll
                for (int part = 0; part < (PARTS < PLACES ? PARTS : PLACES); ++part) fetch(part);
            }
            float sums[TM][TN][4] = {};
            // One group multiplies after the other: a barrier tells of the phase before the one that is waited for alone.
            if (!TOGETHER && count > 0) turn[group].wait_in_block(count - 1);
            const int last = add_steps<T, ROW_BYTES, STAGE_BYTES>(sums, a_first, b_first, steps, stage, full, empty);
            if (!TOGETHER && lane == 0) turn[1 - group].arrive();
            await_products<0>();
            if (lane == 0) empty[last].arrive();
            stage.skip(others);

            if constexpr (!TOGETHER) {
                if (p.splits > 1) {
                    // The parts lie where finished columns do otherwise.
                    share<T>(p, sums, m0, n0, reinterpret_cast<float4*>(shared + STAGES * STAGE_BYTES), landed);
                    break;
                }
            }
#pragma unroll 1
            for (int part = 0; part < PARTS; ++part, ++parts) {
                const int n = n0 + part * 64, place = parts % PLACES;
                if (n >= p.out_channels) break;
                float2 biases[8] = {};
                if (p.bias) {
#pragma unroll
                    for (int j = 0; j < 8; ++j) {
                        const int column = n + j * 8 + lane % 4 * 2;
                        if (column < p.out_channels) biases[j] = *reinterpret_cast<const float2*>(p.bias + column);
                    }
                }
                if (p.residual_mode) {
                    added[group][place].wait_in_block(parts / PLACES);
                } else {
                    if (first) await_boxes<PLACES - 1>();
                    group_barrier(group);
                }
#pragma unroll
                for (int i = 0; i < TM; ++i) {
                    const uint32_t further = place * PLACE_BYTES + i * (64 * 128);
                    float v[32];
                    uint32_t pairs[4][4] = {};
                    if (p.residual_mode) own_place.load(pairs, further);
#pragma unroll
                    for (int j = 0; j < 8; ++j)
#pragma unroll
                        for (int l = 0; l < 4; ++l) v[j * 4 + l] = sums[i][j][l] + (l % 2 ? biases[j].y : biases[j].x);
                    finish<T>(p, v, pairs);
                    own_place.store<T>(v, further);
                    // The sums of the next part move to where this one's were.
#pragma unroll
                    for (int j = 0; j + 8 < TN; ++j)
#pragma unroll
                        for (int l = 0; l < 4; ++l) sums[i][j][l] = sums[i][j + 8][l];
                }
                asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
                group_barrier(group);
                if (first) {
                    store_box(maps.output, places + place * PLACE_BYTES, n, m0);
                    if (p.residual_mode && part + PLACES < PARTS) fetch(part + PLACES);
                }
            }
        }
        if (first) asm volatile("cp.async.bulk.wait_group 0;" ::: "memory");
    }
}

}  // namespace
#endif

// Both kernels of a tile, as in conv_matrix.cuh.
#define TILE(NAME, T, BM, BN, BK, STAGES, PLACES, TOGETHER)                                            \
    extern "C" __global__ void __launch_bounds__(384, 1) NAME(const __grid_constant__ ConvTma p) {         \
        conv_tma<T, BM, BN, BK, STAGES, PLACES, TOGETHER, false>(p);                                       \
    }                                                                                                      \
    extern "C" __global__ void __launch_bounds__(384, 1) NAME##_point(const __grid_constant__ ConvTma p) { \
        conv_tma<T, BM, BN, BK, STAGES, PLACES, TOGETHER, true>(p);                                        \
    }

#define TILES(TYPE, T)                                             \
    TILE(conv_##TYPE##_tma_128x64, T, 128, 64, 64, 6, 2, false)    \
    TILE(conv_##TYPE##_tma_128x128, T, 128, 128, 64, 5, 2, false)  \
    TILE(conv_##TYPE##_tma_128x256, T, 128, 256, 64, 4, 2, true)   \
    TILE(conv_##TYPE##_tma_256x128, T, 256, 128, 64, 4, 1, true)   \
    TILE(conv_##TYPE##_tma_128x64x32, T, 128, 64, 32, 12, 2, false)
