// Product of 16 bits by wgmma whose operands the tensor memory accelerator copies, as in conv_tma.cuh, and whose rows are
// normalised where it ends (sm_90a).
//
// The blocks of a cluster have all columns of some rows, a tile each. While the sums are in registers, each block sends the others the
// mean of what it has of each row, and the squares about that mean; so that all know those of the whole row.
#pragma once

#include "conv_tma.cuh"

// `cuda::NormalisedConv` behind its operands, and before these how matrices are copied.
struct ConvNorm {
    TensorMap input, weights, residual, output, normalised;
    const float* scale;
    const float* shift;
    Conv conv;
    float epsilon;
    int32_t stores_output;
};

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
namespace {

// The sum over the four threads that have a row.
__device__ __forceinline__ float quad_sum(float v) {
    v += __shfl_xor_sync(~0u, v, 1);
    return v + __shfl_xor_sync(~0u, v, 2);
}

// Waits for the threads of both groups that multiply.
__device__ __forceinline__ void both_groups_barrier() { asm volatile("bar.sync 3, %0;" ::"n"(2 * GROUP_THREADS) : "memory"); }

// 128×BN by a block, half of the rows by each of two groups of warps.
template <typename T, int BN, int STAGES, int MOST_BLOCKS>
__device__ __forceinline__ void conv_norm(const ConvNorm& maps) {
    constexpr int BM = 128, BK = 64, ROW_BYTES = BK * sizeof(T), A_BYTES = BM * ROW_BYTES;
    constexpr int STAGE_BYTES = A_BYTES + BN * ROW_BYTES, ROWS = BM / 2, TN = BN / 8, PARTS = BN / 64;
    // 64 columns of a group's rows are as large as its rows of the input in a step.
    constexpr int PLACE_BYTES = ROWS * ROW_BYTES;
    static_assert(PARTS <= STAGES);
    extern __shared__ __align__(1024) unsigned char shared[];
    __shared__ Arrivals full[STAGES], empty[STAGES], landed[2];
    // Mean and squares of what each other block has of each row.
    __shared__ float2 found[MOST_BLOCKS][BM];
    // Of each column what is added before, and what the normalised sums are multiplied by and added to.
    __shared__ __align__(8) float biases[BN], scales[BN], shifts[BN];

    const Conv& p = maps.conv;
    const uint32_t base = shared_address(shared);
    const int group = threadIdx.x / GROUP_THREADS, lane = threadIdx.x % 32, blocks = p.column_tiles;
    const int m0 = blockIdx.x * BM, n0 = blockIdx.y * BN, steps = (p.channels + BK - 1) / BK;
    if (threadIdx.x == 0) {
#pragma unroll
        for (int stage = 0; stage < STAGES; ++stage) full[stage].begin(2), empty[stage].begin(8);
#pragma unroll
        for (int i = 0; i < 2; ++i) landed[i].begin(), landed[i].expect((blocks - 1) * ROWS * int(sizeof(float2)));
    }
    __syncthreads();
    // Nothing is sent to a block that has not begun.
    cluster_arrive();
    let_consumers_start();

    if (group == 2) {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 40;");
        // What is added to the sums comes in the steps after the last, 64 columns each, to where rows of the input would.
        const int role = threadIdx.x - 2 * GROUP_THREADS, all_steps = steps + (p.residual_mode ? PARTS : 0);
        if (role == 0 || role == 32) {
            prefetch(role == 0 ? maps.input : maps.weights);
            if (role == 0) wait_for_producers();
            Stage<STAGES> stage(0);
            for (int step = 0; step < all_steps; ++step, stage.advance()) {
                Arrivals& arrivals = full[stage.index];
                const uint32_t to = base + stage.index * STAGE_BYTES;
                empty[stage.index].wait_in_block(stage.phase ^ 1);
                if (role == 0) {
                    arrivals.expect(A_BYTES);
                    if (step < steps) {
                        copy_box(to, maps.input, arrivals, step * BK, m0);
                    } else {
                        const int n = n0 + (step - steps) * 64;
                        copy_box(to, maps.residual, arrivals, n, m0);
                        copy_box(to + PLACE_BYTES, maps.residual, arrivals, n, m0 + ROWS);
                    }
                } else if (step < steps) {
                    arrivals.expect(STAGE_BYTES - A_BYTES);
                    copy_box(to + A_BYTES, maps.weights, arrivals, step * BK, 0, n0);
                } else {
                    arrivals.arrive();
                }
            }
        }
        __syncwarp();
        cluster_wait();
        return;
    }

    asm volatile("setmaxnreg.inc.sync.aligned.u32 232;");
    if (threadIdx.x < BN) {
        const int column = n0 + threadIdx.x;
        biases[threadIdx.x] = p.bias ? p.bias[column] : 0.0f;
        scales[threadIdx.x] = maps.scale ? maps.scale[column] : 1.0f;
        shifts[threadIdx.x] = maps.shift ? maps.shift[column] : 0.0f;
    }
    both_groups_barrier();
    cluster_wait();
    wait_for_producers();
    const bool first = threadIdx.x % GROUP_THREADS == 0;
    const int m = m0 + group * ROWS, own_column = lane % 4 * 2;
    // What a row has for the thread's two columns of the eight that are the jth.
    const auto of_columns = [&](const float(&row)[BN], int j) {
        return *reinterpret_cast<const float2*>(row + j * 8 + own_column);
    };

    float sums[1][TN][4] = {};
    Stage<STAGES> stage(0);
    const int last = add_steps<T, ROW_BYTES, STAGE_BYTES>(sums, describe<ROW_BYTES>(base + group * PLACE_BYTES),
                                                          describe<ROW_BYTES>(base + A_BYTES), steps, stage, full, empty);
    await_products<0>();
    if (lane == 0) empty[last].arrive();
    group_barrier(group);
    // From the stage after the last on lie the parts, what is added to them first.
    const auto stage_of = [&](int part) { return (stage.index + part) % STAGES; };
    const auto place_of = [&](int part) { return base + stage_of(part) * STAGE_BYTES + group * PLACE_BYTES; };
    const auto store_all = [&](const TensorMap& map) {
        asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
        group_barrier(group);
        if (!first) return;
#pragma unroll
        for (int part = 0; part < PARTS; ++part) store_box(map, place_of(part), n0 + part * 64, m);
    };

    // Of the row of the thread's first sums, and of that eight below.
    float mean[2] = {}, squares[2] = {}, factor[2];
    float(&v)[PARTS][32] = reinterpret_cast<float(&)[PARTS][32]>(sums);
#pragma unroll
    for (int part = 0; part < PARTS; ++part) {
        const Place place(place_of(part));
#pragma unroll
        for (int j = 0; j < 8; ++j) {
            const float2 bias = of_columns(biases, part * 8 + j);
#pragma unroll
            for (int l = 0; l < 4; ++l) v[part][j * 4 + l] += l % 2 ? bias.y : bias.x;
        }
        if (p.residual_mode) {
            uint32_t pairs[4][4];
            full[stage_of(part)].wait_in_block(stage.phase ^ (stage.index + part >= STAGES));
            place.load(pairs);
            add_pairs<T>(v[part], pairs);
        }
        if (maps.stores_output) place.store<T>(v[part]);
#pragma unroll
        for (int i = 0; i < 32; ++i) mean[i % 4 / 2] += v[part][i];
    }
    if (maps.stores_output) store_all(maps.output);
#pragma unroll
    for (int row = 0; row < 2; ++row) mean[row] = quad_sum(mean[row]) / BN;
#pragma unroll
    for (int part = 0; part < PARTS; ++part)
#pragma unroll
        for (int i = 0; i < 32; ++i) {
            const float apart = v[part][i] - mean[i % 4 / 2];
            squares[i % 4 / 2] += apart * apart;
        }
    const int own_row = threadIdx.x / 32 * 16 + lane / 4;
#pragma unroll
    for (int row = 0; row < 2; ++row) {
        squares[row] = quad_sum(squares[row]);
        for (int block = lane % 4; block < blocks; block += 4) {
            if (block == int(blockIdx.y)) continue;
            landed[group].send(block, &found[blockIdx.y][own_row + row * 8].x, mean[row], squares[row]);
        }
    }
    landed[group].wait(0);
#pragma unroll
    for (int row = 0; row < 2; ++row) {
        const auto part_of = [&](int block) {
            return block == int(blockIdx.y) ? make_float2(mean[row], squares[row]) : found[block][own_row + row * 8];
        };
        float whole = 0.0f, all = 0.0f;
        for (int block = 0; block < blocks; ++block) whole += part_of(block).x;
        whole /= float(blocks);
        for (int block = 0; block < blocks; ++block) {
            const float2 part = part_of(block);
            all += part.y + BN * (part.x - whole) * (part.x - whole);
        }
        mean[row] = whole, factor[row] = rsqrtf(all / float(BN * blocks) + maps.epsilon);
    }

    if (maps.stores_output) {
        if (first) await_boxes<0>();
        group_barrier(group);
    }
#pragma unroll
    for (int part = 0; part < PARTS; ++part) {
#pragma unroll
        for (int j = 0; j < 8; ++j) {
            const float2 scale = of_columns(scales, part * 8 + j), shift = of_columns(shifts, part * 8 + j);
#pragma unroll
            for (int l = 0; l < 4; ++l) {
                const float even = (v[part][j * 4 + l] - mean[l / 2]) * factor[l / 2];
                v[part][j * 4 + l] = even * (l % 2 ? scale.y : scale.x) + (l % 2 ? shift.y : shift.x);
            }
        }
        Place(place_of(part)).store<T>(v[part]);
    }
    store_all(maps.normalised);
    if (first) asm volatile("cp.async.bulk.wait_group 0;" ::: "memory");
}

}  // namespace
#endif

#define NORMALISING_TILE(NAME, T, BN, STAGES, MOST_BLOCKS)                                              \
    extern "C" __global__ void __launch_bounds__(384, 1) NAME(const __grid_constant__ ConvNorm p) {     \
        conv_norm<T, BN, STAGES, MOST_BLOCKS>(p);                                                       \
    }

#define NORMALISING_TILES(TYPE, T)                                 \
    NORMALISING_TILE(conv_##TYPE##_norm_128x128, T, 128, 5, 8)     \
    NORMALISING_TILE(conv_##TYPE##_norm_128x256, T, 256, 4, 8)
