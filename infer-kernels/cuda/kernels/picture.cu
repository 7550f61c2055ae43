// What else pictures go through: depthwise convolution, pooling, elementwise functions, resampling, layouts.
//
// Each thread computes eight channels of one pixel, neighbours in a block along the channels, so that all accesses
// are whole vectors; but where a layout is changed, where neighbours are pixels.

#include "common.cuh"

namespace {

// The pixel and the chunk of channels of this thread, or false beyond the last.
__device__ __forceinline__ bool place(int pixels, int chunks, int& pixel, int& channel) {
    const unsigned index = blockIdx.x * blockDim.x + threadIdx.x;
    if (index >= unsigned(pixels) * unsigned(chunks)) return false;
    pixel = index / chunks;
    channel = (index - pixel * chunks) * 8;
    return true;
}

}  // namespace

// `cuda::Window` behind its operands: depthwise convolution and pooling.
struct Window {
    const void* input;
    const void* weights;
    const float* bias;
    const void* residual;
    void* output;
    unsigned* counters;

    int32_t in_h, in_w, in_stride;
    int32_t kernel_h, kernel_w;
    int32_t out_h, out_w;
    int32_t stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w;
    int32_t pixels, channels;
    int32_t out_stride, residual_stride, residual_mode;
    int32_t count_padding, pad_end_h, pad_end_w, reserved;
    Activation activation;
};

namespace {

// out[m, c] = act(bias[c] + Σ_tap in[m, tap, c] · w[tap, c])
template <typename T>
__device__ __forceinline__ void depthwise(const Window& p) {
    let_consumers_start();
    wait_for_producers();
    int m, c;
    if (!place(p.pixels, p.channels / 8, m, c)) return;
    const int x = m % p.out_w, rest = m / p.out_w, y = rest % p.out_h, n = rest / p.out_h;
    const int h0 = y * p.stride_h - p.pad_h, w0 = x * p.stride_w - p.pad_w;
    const T* input = static_cast<const T*>(p.input) + size_t(n) * p.in_h * p.in_w * p.in_stride + c;
    const T* weights = static_cast<const T*>(p.weights) + c;
    float sums[8] = {};
    for (int i = 0; i < p.kernel_h; ++i) {
        const int h = h0 + i * p.dilation_h;
        if (unsigned(h) >= unsigned(p.in_h)) continue;
#pragma unroll 4
        for (int j = 0; j < p.kernel_w; ++j) {
            const int w = w0 + j * p.dilation_w;
            float a[8] = {}, b[8];
            if (unsigned(w) < unsigned(p.in_w)) load8(input + (size_t(h) * p.in_w + w) * p.in_stride, a);
            load8(weights + (i * p.kernel_w + j) * p.channels, b);
#pragma unroll
            for (int l = 0; l < 8; ++l) sums[l] += a[l] * b[l];
        }
    }
    finish8(sums, p.bias ? p.bias + c : nullptr, static_cast<const T*>(p.residual) + size_t(m) * p.residual_stride + c,
            p.residual_mode, p.activation);
    store8(static_cast<T*>(p.output) + size_t(m) * p.out_stride + c, sums);
}

// A window of 3×3: the weights come before the launch before is done, and the nine taps at once.
template <typename T>
__device__ __forceinline__ void depthwise3(const Window& p) {
    let_consumers_start();
    int m, c;
    const bool mine = place(p.pixels, p.channels / 8, m, c);
    Eight<T> weights[9], taps[9];
    if (mine) {
#pragma unroll
        for (int tap = 0; tap < 9; ++tap) weights[tap].load(static_cast<const T*>(p.weights) + tap * p.channels + c);
    }
    wait_for_producers();
    if (!mine) return;
    const int x = m % p.out_w, rest = m / p.out_w, y = rest % p.out_h, n = rest / p.out_h;
    const int h0 = y * p.stride_h - p.pad_h, w0 = x * p.stride_w - p.pad_w;
    const T* input = static_cast<const T*>(p.input) + size_t(n) * p.in_h * p.in_w * p.in_stride + c;
#pragma unroll
    for (int tap = 0; tap < 9; ++tap) {
        const int h = h0 + tap / 3 * p.dilation_h, w = w0 + tap % 3 * p.dilation_w;
        const bool inside = unsigned(h) < unsigned(p.in_h) && unsigned(w) < unsigned(p.in_w);
        taps[tap].clear();
        if (inside) taps[tap].load(input + (size_t(h) * p.in_w + w) * p.in_stride);
    }
    float sums[8] = {};
#pragma unroll
    for (int tap = 0; tap < 9; ++tap) {
        float a[8], b[8];
        taps[tap].widen(a);
        weights[tap].widen(b);
#pragma unroll
        for (int l = 0; l < 8; ++l) sums[l] += a[l] * b[l];
    }
    finish8(sums, p.bias ? p.bias + c : nullptr, static_cast<const T*>(p.residual) + size_t(m) * p.residual_stride + c,
            p.residual_mode, p.activation);
    store8(static_cast<T*>(p.output) + size_t(m) * p.out_stride + c, sums);
}

// The greatest element or the mean of each window.
template <typename T, bool MAX>
__device__ __forceinline__ void pool(const Window& p) {
    let_consumers_start();
    wait_for_producers();
    int m, c;
    if (!place(p.pixels, p.channels / 8, m, c)) return;
    const int x = m % p.out_w, rest = m / p.out_w, y = rest % p.out_h, n = rest / p.out_h;
    const int h0 = y * p.stride_h - p.pad_h, w0 = x * p.stride_w - p.pad_w;
    const T* input = static_cast<const T*>(p.input) + size_t(n) * p.in_h * p.in_w * p.in_stride + c;
    float result[8];
#pragma unroll
    for (int l = 0; l < 8; ++l) result[l] = MAX ? -INFINITY : 0.0f;
    int count = 0;
    for (int i = 0; i < p.kernel_h; ++i) {
        const int h = h0 + i * p.dilation_h;
#pragma unroll 4
        for (int j = 0; j < p.kernel_w; ++j) {
            const int w = w0 + j * p.dilation_w;
            // Padding counts as far as it was asked for; what a last window hangs over beyond it does not.
            if (p.count_padding && h < p.in_h + p.pad_end_h && w < p.in_w + p.pad_end_w) ++count;
            const bool inside = unsigned(h) < unsigned(p.in_h) && unsigned(w) < unsigned(p.in_w);
            if (!p.count_padding && inside) ++count;
            float v[8];
#pragma unroll
            for (int l = 0; l < 8; ++l) v[l] = MAX ? -INFINITY : 0.0f;
            if (inside) load8(input + (size_t(h) * p.in_w + w) * p.in_stride, v);
#pragma unroll
            for (int l = 0; l < 8; ++l) result[l] = MAX ? greater(v[l], result[l]) : result[l] + v[l];
        }
    }
    if (!MAX) {
#pragma unroll
        for (int l = 0; l < 8; ++l) result[l] /= float(count);
    }
    store8(static_cast<T*>(p.output) + size_t(m) * p.out_stride + c, result);
}

// One window that is the whole picture: a block of 256 computes 64 channels of one image, 32 threads each eight of
// them, and adds what those found.
template <typename T, bool MAX>
__device__ __forceinline__ void pool_all(const Window& p) {
    __shared__ float found[32][72];
    let_consumers_start();
    wait_for_producers();
    const int lane = threadIdx.x % 8, group = threadIdx.x / 8;
    const int c = (blockIdx.x * 8 + lane) * 8, n = blockIdx.y, pixels = p.in_h * p.in_w;
    const T* input = static_cast<const T*>(p.input) + size_t(n) * pixels * p.in_stride + c;
    float result[8];
#pragma unroll
    for (int l = 0; l < 8; ++l) result[l] = MAX ? -INFINITY : 0.0f;
    if (c < p.channels) {
#pragma unroll 2
        for (int pixel = group; pixel < pixels; pixel += 32) {
            float v[8];
            load8(input + size_t(pixel) * p.in_stride, v);
#pragma unroll
            for (int l = 0; l < 8; ++l) result[l] = MAX ? greater(v[l], result[l]) : result[l] + v[l];
        }
    }
    store8(&found[group][lane * 8], result);
    __syncthreads();
    for (int half = 16; half > 0; half /= 2) {
        if (group < half) {
#pragma unroll
            for (int l = 0; l < 8; ++l) {
                float& mine = found[group][lane * 8 + l];
                const float other = found[group + half][lane * 8 + l];
                mine = MAX ? greater(other, mine) : mine + other;
            }
        }
        __syncthreads();
    }
    if (group > 0 || c >= p.channels) return;
    load8(&found[0][lane * 8], result);
    if (!MAX) {
#pragma unroll
        for (int l = 0; l < 8; ++l) result[l] /= float(pixels);
    }
    store8(static_cast<T*>(p.output) + size_t(n) * p.out_stride + c, result);
}

}  // namespace

// `cuda::Map` behind its operands: elementwise functions of one or two pictures.
struct Map {
    const void* left;
    const void* right;
    void* output;
    unsigned* counters;

    int32_t pixels, channels;
    int32_t left_stride, right_stride, out_stride;
    // How many pixels of the left share one of the right: one, or a whole image's.
    int32_t share;
    // 0: the left alone; 1: sum; 2: product; 3: difference.
    int32_t operation;
    int32_t reserved;
    Activation activation;
};

namespace {

template <typename T>
__device__ __forceinline__ void map(const Map& p) {
    let_consumers_start();
    wait_for_producers();
    int m, c;
    if (!place(p.pixels, p.channels / 8, m, c)) return;
    float a[8], b[8];
    load8(static_cast<const T*>(p.left) + size_t(m) * p.left_stride + c, a);
    if (p.operation != 0) {
        load8(static_cast<const T*>(p.right) + size_t(m / p.share) * p.right_stride + c, b);
#pragma unroll
        for (int l = 0; l < 8; ++l)
            a[l] = p.operation == 1 ? a[l] + b[l] : p.operation == 2 ? a[l] * b[l] : a[l] - b[l];
    }
    activate(a, p.activation);
    store8(static_cast<T*>(p.output) + size_t(m) * p.out_stride + c, a);
}

}  // namespace

// `cuda::Resize` behind its operands: each output pixel is a sum of `taps_h` × `taps_w` input pixels, whose rows and
// columns, and their weights, stand in tables: those of all output rows, then those of all output columns.
struct Resize {
    const void* input;
    const int32_t* indices;
    const float* weights;
    void* output;
    unsigned* counters;

    int32_t in_h, in_w, in_stride;
    int32_t out_h, out_w, out_stride;
    int32_t taps_h, taps_w;
    int32_t pixels, channels;
};

namespace {

template <typename T>
__device__ __forceinline__ void resize(const Resize& p) {
    let_consumers_start();
    wait_for_producers();
    int m, c;
    if (!place(p.pixels, p.channels / 8, m, c)) return;
    const int x = m % p.out_w, rest = m / p.out_w, y = rest % p.out_h, n = rest / p.out_h;
    const T* input = static_cast<const T*>(p.input) + size_t(n) * p.in_h * p.in_w * p.in_stride + c;
    const int rows = y * p.taps_h, columns = p.out_h * p.taps_h + x * p.taps_w;
    float sums[8] = {};
    for (int i = 0; i < p.taps_h; ++i)
        for (int j = 0; j < p.taps_w; ++j) {
            const float weight = p.weights[rows + i] * p.weights[columns + j];
            float v[8];
            load8(input + (size_t(p.indices[rows + i]) * p.in_w + p.indices[columns + j]) * p.in_stride, v);
#pragma unroll
            for (int l = 0; l < 8; ++l) sums[l] += weight * v[l];
        }
    store8(static_cast<T*>(p.output) + size_t(m) * p.out_stride + c, sums);
}

}  // namespace

// `cuda::Interleave` behind its operands: the phases of a pixel become pixels side by side and below each other.
struct Interleave {
    const void* input;
    void* output;
    unsigned* counters;

    int32_t in_h, in_w, in_stride;
    int32_t phases_h, phases_w, crop_h, crop_w;
    int32_t out_h, out_w, out_stride;
    int32_t pixels, channels;
};

namespace {

template <typename T>
__device__ __forceinline__ void interleave(const Interleave& p) {
    let_consumers_start();
    wait_for_producers();
    int m, c;
    if (!place(p.pixels, p.channels / 8, m, c)) return;
    const int x = m % p.out_w + p.crop_w, rest = m / p.out_w, y = rest % p.out_h + p.crop_h, n = rest / p.out_h;
    const int row = y / p.phases_h, column = x / p.phases_w;
    const int phase = (y - row * p.phases_h) * p.phases_w + x - column * p.phases_w;
    const size_t pixel = (size_t(n) * p.in_h + row) * p.in_w + column;
    Eight<T> v;
    v.load(static_cast<const T*>(p.input) + pixel * p.in_stride + size_t(phase) * p.channels + c);
    v.store(static_cast<T*>(p.output) + size_t(m) * p.out_stride + c);
}

}  // namespace

// `cuda::Layout` behind its operands: a row-major tensor of f32, `[N, C, pixels of an image]`, and a picture of
// `channels` channels, those beyond C zeros.
struct Layout {
    const void* input;
    void* output;
    unsigned* counters;

    int32_t images, image_pixels;
    int32_t plain_channels, channels;
    int32_t stride, reserved;
};

namespace {

template <typename T>
__device__ __forceinline__ void from_plain(const Layout& p) {
    let_consumers_start();
    wait_for_producers();
    const unsigned index = blockIdx.x * blockDim.x + threadIdx.x, chunks = p.channels / 8;
    if (index >= unsigned(p.images) * chunks * p.image_pixels) return;
    const int pixel = index % p.image_pixels, rest = index / p.image_pixels;
    const int c = rest % chunks * 8, n = rest / chunks;
    const float* input = static_cast<const float*>(p.input) + (size_t(n) * p.plain_channels + c) * p.image_pixels + pixel;
    float v[8];
#pragma unroll
    for (int l = 0; l < 8; ++l) v[l] = c + l < p.plain_channels ? input[size_t(l) * p.image_pixels] : 0.0f;
    store8(static_cast<T*>(p.output) + (size_t(n) * p.image_pixels + pixel) * p.stride + c, v);
}

template <typename T>
__device__ __forceinline__ void to_plain(const Layout& p) {
    let_consumers_start();
    wait_for_producers();
    const unsigned index = blockIdx.x * blockDim.x + threadIdx.x, chunks = p.channels / 8;
    if (index >= unsigned(p.images) * chunks * p.image_pixels) return;
    const int pixel = index % p.image_pixels, rest = index / p.image_pixels;
    const int c = rest % chunks * 8, n = rest / chunks;
    float* output = static_cast<float*>(p.output) + (size_t(n) * p.plain_channels + c) * p.image_pixels + pixel;
    float v[8];
    load8(static_cast<const T*>(p.input) + (size_t(n) * p.image_pixels + pixel) * p.stride + c, v);
#pragma unroll
    for (int l = 0; l < 8; ++l)
        if (c + l < p.plain_channels) output[size_t(l) * p.image_pixels] = v[l];
}

}  // namespace

// `cuda::Padded` behind its operands: a row-major tensor of f32, `[N, C, in_h, in_w]`, C at most 4, as `[N, rows, columns, 4]`,
// zeros around the tensor's pixels and beyond its channels.
struct Padded {
    const float* input;
    void* output;
    unsigned* counters;

    int32_t images, plain_channels;
    int32_t in_h, in_w;
    int32_t rows, columns;
    int32_t pad_h, pad_w;
};

namespace {

// Two pixels a thread, which are a whole vector of 16 bits.
template <typename T>
__device__ __forceinline__ void from_plain_padded(const Padded& p) {
    let_consumers_start();
    wait_for_producers();
    const unsigned index = blockIdx.x * blockDim.x + threadIdx.x, pairs = p.columns / 2;
    if (index >= unsigned(p.images) * p.rows * pairs) return;
    const int x = index % pairs * 2 - p.pad_w, rest = index / pairs;
    const int y = rest % p.rows - p.pad_h, n = rest / p.rows;
    const size_t plane = size_t(p.in_h) * p.in_w;
    float v[8];
#pragma unroll
    for (int l = 0; l < 8; ++l) {
        const int c = l % 4, column = x + l / 4;
        const bool inside = c < p.plain_channels && unsigned(y) < unsigned(p.in_h) && unsigned(column) < unsigned(p.in_w);
        v[l] = inside ? p.input[(size_t(n) * p.plain_channels + c) * plane + size_t(y) * p.in_w + column] : 0.0f;
    }
    store8(static_cast<T*>(p.output) + size_t(index) * 8, v);
}

}  // namespace

#define KERNEL(NAME, ARGUMENTS, BODY) \
    extern "C" __global__ void __launch_bounds__(256) NAME(const __grid_constant__ ARGUMENTS p) { BODY(p); }

// What computes pictures anew. Tf32: for convolutions that round their products to it.
#define KERNELS(SUFFIX, T)                                          \
    KERNEL(depthwise_##SUFFIX, Window, depthwise<T>)                \
    KERNEL(depthwise3_##SUFFIX, Window, depthwise3<T>)              \
    KERNEL(average_pool_##SUFFIX, Window, (pool<T, false>))         \
    KERNEL(average_pool_all_##SUFFIX, Window, (pool_all<T, false>)) \
    KERNEL(map_##SUFFIX, Map, map<T>)                               \
    KERNEL(resize_##SUFFIX, Resize, resize<T>)                      \
    KERNEL(from_plain_##SUFFIX, Layout, from_plain<T>)              \
    KERNEL(from_plain_padded_##SUFFIX, Padded, from_plain_padded<T>)

// What gives back elements as they are.
#define MOVES(SUFFIX, T)                                    \
    KERNEL(max_pool_##SUFFIX, Window, (pool<T, true>))         \
    KERNEL(max_pool_all_##SUFFIX, Window, (pool_all<T, true>)) \
    KERNEL(interleave_##SUFFIX, Interleave, interleave<T>)     \
    KERNEL(to_plain_##SUFFIX, Layout, to_plain<T>)

KERNELS(f16, half)
KERNELS(bf16, bf16)
KERNELS(f32, float)
KERNELS(tf32, Tf32)
MOVES(f16, half)
MOVES(bf16, bf16)
MOVES(f32, float)
