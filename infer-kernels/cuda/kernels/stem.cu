// Convolutions of few channels, straight from a row-major tensor of f32.

#include "common.cuh"
#include "mma.cuh"

// `cuda::Stem` behind its operands.
struct Stem {
    const float* input;
    const float* weights;
    const float* bias;
    void* output;
    unsigned* counters;

    int32_t in_h, in_w, channels;
    int32_t kernel_h, kernel_w;
    int32_t out_h, out_w;
    int32_t stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w;
    int32_t pixels, out_channels, out_stride;
    Activation activation;
};

namespace {

// Two pixels and sixteen channels a thread, on the processors of f32; neighbours in a warp are neighbouring pixels. The
// weights of the sixteen channels, `[depth][16]`, lie in shared memory. EXTENT: the kernel's, where it is known and square.
template <typename T, int EXTENT>
__device__ __forceinline__ void stem(const Stem& p) {
    constexpr int PIXELS = 2, CHANNELS = 16;
    extern __shared__ __align__(16) float weights[];
    let_consumers_start();
    const int depth = p.channels * p.kernel_h * p.kernel_w, o = blockIdx.y * CHANNELS;
    const int width = (p.out_channels + CHANNELS - 1) / CHANNELS * CHANNELS;
    for (int i = threadIdx.x; i < depth * CHANNELS; i += blockDim.x)
        weights[i] = p.weights[i / CHANNELS * width + o + i % CHANNELS];
    __syncthreads();
    wait_for_producers();

    int h0[PIXELS], w0[PIXELS], m[PIXELS];
    const float* images[PIXELS];
    float sums[PIXELS][CHANNELS] = {};
#pragma unroll
    for (int i = 0; i < PIXELS; ++i) {
        m[i] = blockIdx.x * (PIXELS * 128) + threadIdx.x / 32 * (PIXELS * 32) + i * 32 + threadIdx.x % 32;
        const int x = m[i] % p.out_w, rest = m[i] / p.out_w, y = rest % p.out_h, n = rest / p.out_h;
        h0[i] = m[i] < p.pixels ? y * p.stride_h - p.pad_h : -(1 << 30);
        w0[i] = x * p.stride_w - p.pad_w;
        images[i] = p.input + size_t(n) * p.channels * p.in_h * p.in_w;
    }
    const float* row = weights;
    const int kernel_h = EXTENT ? EXTENT : p.kernel_h, kernel_w = EXTENT ? EXTENT : p.kernel_w;
    for (int c = 0; c < p.channels; ++c)
#pragma unroll
        for (int i = 0; i < kernel_h; ++i)
#pragma unroll
            for (int j = 0; j < kernel_w; ++j, row += CHANNELS) {
                float v[PIXELS];
#pragma unroll
                for (int l = 0; l < PIXELS; ++l) {
                    const int h = h0[l] + i * p.dilation_h, w = w0[l] + j * p.dilation_w;
                    const bool inside = unsigned(h) < unsigned(p.in_h) && unsigned(w) < unsigned(p.in_w);
                    v[l] = inside ? images[l][(c * p.in_h + h) * p.in_w + w] : 0.0f;
                }
#pragma unroll
                for (int k = 0; k < CHANNELS; k += 4) {
                    const float4 weight = *reinterpret_cast<const float4*>(row + k);
#pragma unroll
                    for (int l = 0; l < PIXELS; ++l) {
                        sums[l][k] += v[l] * weight.x, sums[l][k + 1] += v[l] * weight.y;
                        sums[l][k + 2] += v[l] * weight.z, sums[l][k + 3] += v[l] * weight.w;
                    }
                }
            }
#pragma unroll
    for (int l = 0; l < PIXELS; ++l)
#pragma unroll
        for (int k = 0; k < CHANNELS; k += 8) {
            if (m[l] >= p.pixels || o + k >= p.out_channels) continue;
            float v[8];
#pragma unroll
            for (int i = 0; i < 8; ++i) v[i] = sums[l][k + i];
            finish8<T>(v, p.bias ? p.bias + o + k : nullptr, nullptr, 0, p.activation);
            store8(static_cast<T*>(p.output) + size_t(m[l]) * p.out_stride + o + k, v);
        }
}

constexpr int STEM_EXTENT = 16, STEM_THREADS = 256;

// Copies four bytes from global to shared memory, or zeros.
__device__ __forceinline__ void copy_float_async(float* to, const float* from, bool inside) {
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(shared_address(to)), "l"(from), "r"(inside ? 4 : 0)
                 : "memory");
}

// Tiles of 16×16 pixels and 32 channels for each of GROUPS, by the matrix units; a warp computes two rows. The depth of the
// product is `[channels][kernel_h][kernel_w, to an even number]`, to a multiple of sixteen. What the pixels meet of the
// input lies in shared memory in the type of the product, so that neighbours along a row are a pair of the depth; where
// rows begin at odd places too, they do so in a second copy, from the second column on. What the next tile meets comes
// while this one is computed.
template <typename T, int GROUPS>
__device__ __forceinline__ void stem_matrix(const Stem& p) {
    extern __shared__ __align__(16) uint32_t memory[];
    let_consumers_start();
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const int row_pairs = (p.kernel_w + 1) / 2, pairs = p.channels * p.kernel_h * row_pairs, steps = (pairs + 7) / 8;
    const int rows = (STEM_EXTENT - 1) * p.stride_h + (p.kernel_h - 1) * p.dilation_h + 1, all_rows = p.channels * rows;
    const int width = (STEM_EXTENT - 1) * p.stride_w / 2 + row_pairs, copy = all_rows * width;
    const bool odd = p.stride_w % 2 != 0;
    uint4* weights = reinterpret_cast<uint4*>(memory);
    uint32_t* places = memory + steps * GROUPS * 256;
    uint32_t* picture = places + steps * 8;

    const uint4* from = reinterpret_cast<const uint4*>(p.weights) + blockIdx.y * steps * GROUPS * 64;
    for (int i = threadIdx.x; i < steps * GROUPS * 64; i += STEM_THREADS) weights[i] = from[i];
    for (int i = threadIdx.x; i < steps * 8; i += STEM_THREADS) {
        const int column = i % row_pairs, rest = i / row_pairs, row = rest % p.kernel_h, c = rest / p.kernel_h;
        places[i] = i < pairs ? (c * rows + row * p.dilation_h) * width + column : 0;
    }

    // Of the tile: the first pixel and the image.
    const int across = (p.out_w + STEM_EXTENT - 1) / STEM_EXTENT, down = (p.out_h + STEM_EXTENT - 1) / STEM_EXTENT;
    const int tiles = p.pixels / (p.out_h * p.out_w) * across * down;
    int x0, y0, n;
    const auto locate = [&](int tile) {
        const int rest = tile / across;
        n = rest / down, x0 = (tile - rest * across) * STEM_EXTENT, y0 = (rest - n * down) * STEM_EXTENT;
    };
    // A thread copies a column of every so many rows, to where nobody else looks, and gives it its type.
    const int columns = 2 * width + odd, together = STEM_THREADS / columns;
    const int mine = threadIdx.x / columns, column = threadIdx.x - mine * columns;
    const int last_row = mine < together ? all_rows : 0;
    float* copied = reinterpret_cast<float*>(picture + (1 + odd) * copy) + threadIdx.x;
    const auto copy_tile = [&] {
        const int h0 = y0 * p.stride_h - p.pad_h, w = x0 * p.stride_w - p.pad_w + column;
        const bool inside = unsigned(w) < unsigned(p.in_w);
        const float* input = p.input + (ptrdiff_t(n) * p.channels * p.in_h + h0) * p.in_w + w;
        float* to = copied;
#pragma unroll 4
        for (int row = mine; row < last_row; row += together, to += STEM_THREADS) {
            const int c = (row >= rows) + (row >= 2 * rows) + (row >= 3 * rows);
            const bool there = inside && unsigned(h0 + row - c * rows) < unsigned(p.in_h);
            copy_float_async(to, there ? input + ptrdiff_t(row + c * (p.in_h - rows)) * p.in_w : p.input, there);
        }
        commit();
    };
    locate(blockIdx.x);
    wait_for_producers();
    copy_tile();

    const int pixel = lane / 4, quarter = lane % 4;
    int starts[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
        const int from_left = (pixel + 8 * i) * p.stride_w;
        starts[i] = 2 * warp * p.stride_h * width + from_left / 2 + from_left % 2 * copy;
    }
    for (int tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
        await<0>();
        // The tile before is computed.
        __syncthreads();
        const float* value = copied;
        T* to = reinterpret_cast<T*>(picture) + column;
#pragma unroll 4
        for (int row = mine; row < last_row; row += together, value += STEM_THREADS) {
            const T v = T(*value);
            if (column < 2 * width) to[row * 2 * width] = v;
            if (odd && column > 0) to[2 * copy + row * 2 * width - 1] = v;
        }
        __syncthreads();
        const int x1 = x0, y1 = y0, image = n;
        if (tile + gridDim.x < tiles) {
            locate(tile + gridDim.x);
            copy_tile();
        }
        float sums[2][GROUPS * 4][4] = {};
        for (int step = 0; step < steps; ++step) {
            const uint32_t places_of[2] = {places[step * 8 + quarter], places[step * 8 + quarter + 4]};
            uint32_t a[2][4];
#pragma unroll
            for (int i = 0; i < 8; ++i) a[i / 4][i % 4] = picture[i / 4 * p.stride_h * width + starts[i % 2] + places_of[i % 4 / 2]];
#pragma unroll
            for (int j = 0; j < GROUPS * 2; ++j) {
                const uint4 b = weights[(j / 2 * steps + step) * 64 + j % 2 * 32 + lane];
#pragma unroll
                for (int i = 0; i < 2; ++i) {
                    multiply<T>(sums[i][2 * j], a[i], b.x, b.y);
                    multiply<T>(sums[i][2 * j + 1], a[i], b.z, b.w);
                }
            }
        }

        // The columns of the weights are in such an order that a thread's sums are eight neighbours.
#pragma unroll
        for (int group = 0; group < GROUPS; ++group) {
            const int o = (blockIdx.y * GROUPS + group) * 32 + quarter * 8;
            if (o >= p.out_channels) break;
            float bias[8] = {}, v[32];
            if (p.bias) load8(p.bias + o, bias);
#pragma unroll
            for (int i = 0; i < 32; ++i) v[i] = sums[i / 16][group * 4 + i % 8 / 2][i / 8 % 2 * 2 + i % 2] + bias[i % 8];
            activate_many(v, p.activation);
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                const int y = y1 + 2 * warp + i / 2, x = x1 + pixel + i % 2 * 8;
                if (y >= p.out_h || x >= p.out_w) continue;
                float eight[8];
#pragma unroll
                for (int l = 0; l < 8; ++l) eight[l] = v[i * 8 + l];
                store8(static_cast<T*>(p.output) + ((size_t(image) * p.out_h + y) * p.out_w + x) * p.out_stride + o, eight);
            }
        }
    }
}

}  // namespace

#define KERNEL(NAME, BLOCKS, BODY) \
    extern "C" __global__ void __launch_bounds__(256, BLOCKS) NAME(const __grid_constant__ Stem p) { BODY(p); }

#define STEMS(SUFFIX, T)                      \
    KERNEL(stem_##SUFFIX, 1, (stem<T, 0>))    \
    KERNEL(stem3_##SUFFIX, 1, (stem<T, 3>))

#define MATRIX_STEMS(SUFFIX, T)                                \
    KERNEL(stem_matrix32_##SUFFIX, 3, (stem_matrix<T, 1>))     \
    KERNEL(stem_matrix64_##SUFFIX, 2, (stem_matrix<T, 2>))

STEMS(f32, float)
STEMS(tf32, Tf32)
MATRIX_STEMS(f16, half)
MATRIX_STEMS(bf16, bf16)
