// Convolution of f32 by multiply-adds; see conv.cuh.
//
// A block of 256 threads computes 64 pixels × 64 channels, each thread 4×4 of them, sixteen elements of k at a time.
// Both operands lie in shared memory with k outside, two tiles of each: one is read while the next one is written.

#include "conv.cuh"

namespace {

constexpr int BM = 64, BN = 64, BK = 16, THREADS = 256, PITCH = BM + 4;

}  // namespace

extern "C" __global__ void __launch_bounds__(THREADS) conv_f32_64x64(const __grid_constant__ Conv p) {
    extern __shared__ __align__(128) float shared_f32[];
    float* a_tiles = shared_f32;
    float* b_tiles = shared_f32 + 2 * BK * PITCH;
    const int thread = threadIdx.x;
    const int m0 = int(blockIdx.x) / p.column_tiles * BM, n0 = int(blockIdx.x) % p.column_tiles * BN;
    const int depth = p.taps * p.channels;
    const int k_begin = int(blockIdx.y) * p.depth_per_split;
    const int k_end = min(depth, k_begin + p.depth_per_split);
    const int steps = (k_end - k_begin + BK - 1) / BK;

    // Loads: each thread four elements of k of one row of either operand.
    const int row = thread / 4, quarter = thread % 4 * 4;
    Rows<1> rows;
    rows.locate(p, m0 + row, 0);
    int k = k_begin + quarter;
    Tap tap(p, k);
    const float* input = static_cast<const float*>(p.input);
    const float* weights = static_cast<const float*>(p.weights) + size_t(n0 + row) * depth;
    const float4 zero = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    float4 a_next, b_next;
    auto load = [&]() {
        const bool inside = k < k_end;
        const int below = tap.row * p.dilation_h, right = tap.column * p.dilation_w;
        const bool there = inside && unsigned(rows.corner[0].x + below) < unsigned(p.in_h) &&
                           unsigned(rows.corner[0].y + right) < unsigned(p.in_w);
        const int offset = rows.base[0] + below * p.in_stride_h + right * p.in_stride_w + tap.channel;
        a_next = there ? *reinterpret_cast<const float4*>(input + offset) : zero;
        b_next = inside && n0 + row < p.out_channels ? *reinterpret_cast<const float4*>(weights + k) : zero;
        k += BK;
        tap.advance(p, BK);
    };
    auto store = [&](int stage) {
        float* a = a_tiles + stage * BK * PITCH + quarter * PITCH + row;
        float* b = b_tiles + stage * BK * PITCH + quarter * PITCH + row;
        a[0] = a_next.x, a[PITCH] = a_next.y, a[2 * PITCH] = a_next.z, a[3 * PITCH] = a_next.w;
        b[0] = b_next.x, b[PITCH] = b_next.y, b[2 * PITCH] = b_next.z, b[3 * PITCH] = b_next.w;
    };

    let_consumers_start();
    wait_for_producers();
    float sums[4][4] = {};
    const int y = thread / 16 * 4, x = thread % 16 * 4;
    load();
    store(0);
    __syncthreads();
    for (int step = 0; step < steps; ++step) {
        const int stage = step % 2;
        if (step + 1 < steps) load();
        const float* a = a_tiles + stage * BK * PITCH + y;
        const float* b = b_tiles + stage * BK * PITCH + x;
#pragma unroll
        for (int kk = 0; kk < BK; ++kk) {
            const float4 av = *reinterpret_cast<const float4*>(a + kk * PITCH);
            const float4 bv = *reinterpret_cast<const float4*>(b + kk * PITCH);
            const float as[4] = {av.x, av.y, av.z, av.w}, bs[4] = {bv.x, bv.y, bv.z, bv.w};
#pragma unroll
            for (int i = 0; i < 4; ++i)
#pragma unroll
                for (int j = 0; j < 4; ++j) sums[i][j] += as[i] * bs[j];
        }
        if (step + 1 < steps) store(1 - stage);
        __syncthreads();
    }

    float* tile = shared_f32;
    constexpr int LD = BN + 8;
#pragma unroll
    for (int i = 0; i < 4; ++i)
        *reinterpret_cast<float4*>(tile + (y + i) * LD + x) =
            make_float4(sums[i][0], sums[i][1], sums[i][2], sums[i][3]);
    __syncthreads();
    finish_tile<float, BM, BN, THREADS>(p, tile, m0, n0);
}
