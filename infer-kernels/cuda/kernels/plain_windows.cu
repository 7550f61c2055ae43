// Row-major tensors through windows and products: convolutions on packed and on plain weights, pools, interpolation. A
// thread computes an element of the output.

#include "plain.cuh"

// `call::Conv` behind its operands.
struct Conv {
    const float* input;
    const void* weights;
    const float* bias;
    const float* added;
    float* output;
    unsigned* counters;
    uint64_t n, groups, in_channels, in_block, out_channels, output_padded;
    uint64_t out_h, out_w, kernel_h, kernel_w, stride_h, stride_w, dilation_h, dilation_w;
    uint64_t weights_stride_n;
    View in, out, residual;
    uint64_t residual_mode;
    Activation activation;
    Code code;
};

// Sixteen threads share a panel of weights, and pixels follow each other.
PLAIN(plain_conv, Conv) {
    const unsigned number = item();
    if (number >= p.code.items) return;
    unsigned rest = number;
    const unsigned blocks = unsigned((p.out_channels + BLOCK - 1) / BLOCK);
    const unsigned lane = take(rest, BLOCK), x = take(rest, p.out_w), y = take(rest, p.out_h);
    const unsigned block = take(rest, blocks), group = take(rest, p.groups), n = rest;
    const unsigned channel = block * BLOCK + lane, panel = group * blocks + block;
    float* output = p.output + p.out.at(n, panel, y, x) + lane;
    if (channel >= p.out_channels) {
        if (p.output_padded == 1) *output = 0.0f;
        return;
    }
    const unsigned in_channels = unsigned(p.in_channels), in_block = unsigned(p.in_block);
    const unsigned in_blocks = (in_channels + in_block - 1) / in_block;
    const int64_t depth = int64_t(in_channels) * p.kernel_h * p.kernel_w;
    const bool is_half = p.code.operation == 1;
    int64_t weight = int64_t(n) * p.weights_stride_n + panel * depth * BLOCK + lane;
    float sum = 0.0f;
    for (unsigned b = 0; b < in_blocks; ++b) {
        const unsigned width = b + 1 < in_blocks ? in_block : in_channels - b * in_block;
        for (unsigned i = 0; i < p.kernel_h; ++i)
            for (unsigned j = 0; j < p.kernel_w; ++j) {
                const float* from = p.input + p.in.at(n, group * in_blocks + b, unsigned(y * p.stride_h + i * p.dilation_h),
                                                      unsigned(x * p.stride_w + j * p.dilation_w));
                for (unsigned c = 0; c < width; ++c, weight += BLOCK) {
                    const float w = is_half ? __half2float(static_cast<const half*>(p.weights)[weight])
                                            : static_cast<const float*>(p.weights)[weight];
                    sum += from[c] * w;
                }
            }
    }
    if (p.bias) sum += p.bias[group * p.out_channels + channel];
    const float* added = p.added + p.residual.at(n, panel, y, x) + lane;
    if (p.residual_mode == RESIDUAL_BEFORE) sum += *added;
    sum = activated(sum, p.activation);
    if (p.residual_mode == RESIDUAL_AFTER) sum += *added;
    *output = sum;
}

// `call::PackB` behind its operands.
struct PackB {
    const float* input;
    float* output;
    unsigned* counters;
    uint64_t batch, k, n, stride_batch, stride_k, stride_n;
    Code code;
};

PLAIN(plain_pack_b, PackB) {
    const unsigned number = item();
    if (number >= p.code.items) return;
    unsigned rest = number;
    const unsigned lane = take(rest, BLOCK), k = take(rest, p.k), panel = take(rest, (p.n + BLOCK - 1) / BLOCK);
    const unsigned column = panel * BLOCK + lane;
    const int64_t from = rest * p.stride_batch + k * p.stride_k + column * p.stride_n;
    p.output[number] = column < p.n ? p.input[from] : 0.0f;
}

// `call::Reorder` behind its operands.
struct Reorder {
    const float* input;
    float* output;
    unsigned* counters;
    uint64_t n, channels, h, w, block;
    View plain, blocked;
    Code code;
};

// To blocks, or from them.
PLAIN(plain_reorder, Reorder) {
    const unsigned number = item();
    if (number >= p.code.items) return;
    unsigned rest = number;
    const unsigned lane = take(rest, p.block), x = take(rest, p.w), y = take(rest, p.h);
    const unsigned block = take(rest, (p.channels + p.block - 1) / p.block), n = rest;
    const unsigned channel = block * unsigned(p.block) + lane;
    const bool inside = channel < p.channels;
    const int64_t blocked = p.blocked.at(n, block, y, x) + lane, plain = p.plain.at(n, channel, y, x);
    if (p.code.operation == 0) {
        p.output[blocked] = inside ? p.input[plain] : 0.0f;
    } else if (inside) {
        p.output[plain] = p.input[blocked];
    }
}

// `call::ConvNd` behind its operands.
struct ConvNd {
    const float* input;
    const float* weights;
    const float* bias;
    float* output;
    unsigned* counters;
    uint64_t n, groups, in_channels, out_channels;
    uint64_t in[3], out[3], kernel[3], stride[3], dilation[3], pad_begin[3];
    Activation activation;
    Code code;
};

namespace {

// Where tap `tap` of the window at `index` meets the input along an axis; below zero where it does not.
template <bool TRANSPOSED>
__device__ __forceinline__ int64_t met(const ConvNd& p, int axis, int64_t index, int64_t tap) {
    int64_t at;
    if (TRANSPOSED) {
        const int64_t spread = index + int64_t(p.pad_begin[axis]) - tap * int64_t(p.dilation[axis]);
        at = spread / int64_t(p.stride[axis]);
        if (spread < 0 || at * int64_t(p.stride[axis]) != spread) return -1;
    } else {
        at = index * int64_t(p.stride[axis]) + tap * int64_t(p.dilation[axis]) - int64_t(p.pad_begin[axis]);
    }
    return at < int64_t(p.in[axis]) ? at : -1;
}

template <bool TRANSPOSED>
__device__ __forceinline__ void conv_nd(const ConvNd& p) {
    const unsigned number = item();
    if (number >= p.code.items) return;
    unsigned rest = number;
    const unsigned x = take(rest, p.out[2]), y = take(rest, p.out[1]), z = take(rest, p.out[0]);
    const unsigned o = take(rest, p.out_channels), group = take(rest, p.groups), n = rest;
    const int64_t picture = p.in[0] * p.in[1] * p.in[2], taps = p.kernel[0] * p.kernel[1] * p.kernel[2];
    const int64_t channels = p.in_channels;
    const float* input = p.input + (int64_t(n) * p.groups + group) * channels * picture;
    const int64_t filter = TRANSPOSED ? group * channels * p.out_channels + o : (group * p.out_channels + o) * channels;
    const int64_t step = (TRANSPOSED ? p.out_channels : 1) * taps;
    const float* weights = p.weights + filter * taps;
    float sum = p.bias ? p.bias[group * p.out_channels + o] : 0.0f;
    for (int i = 0; i < int(p.kernel[0]); ++i) {
        const int64_t d = met<TRANSPOSED>(p, 0, z, i);
        if (d < 0) continue;
        for (int j = 0; j < int(p.kernel[1]); ++j) {
            const int64_t h = met<TRANSPOSED>(p, 1, y, j);
            if (h < 0) continue;
            for (int k = 0; k < int(p.kernel[2]); ++k) {
                const int64_t w = met<TRANSPOSED>(p, 2, x, k);
                if (w < 0) continue;
                const float* from = input + (d * p.in[1] + h) * p.in[2] + w;
                const float* weight = weights + (i * p.kernel[1] + j) * p.kernel[2] + k;
                for (int64_t c = 0; c < channels; ++c) sum += from[c * picture] * weight[c * step];
            }
        }
    }
    p.output[number] = activated(sum, p.activation);
}

}  // namespace

PLAIN(plain_conv_nd, ConvNd) { conv_nd<false>(p); }
PLAIN(plain_conv_transpose_nd, ConvNd) { conv_nd<true>(p); }

// `call::PoolNd` behind its operands: two, or three with indices.
template <int N>
struct PoolNd {
    void* operands[N];
    unsigned* counters;
    uint64_t outer;
    uint64_t in[3], out[3], kernel[3], stride[3], dilation[3], pad_begin[3], pad_end[3];
    uint64_t count_include_pad, column_major, order;
    Code code;
};

namespace {

// The window of an element of the output: its picture, where its taps begin, and how many lie in the padded picture.
struct Window {
    int64_t outer, begin[3];
    float padded;
};

template <int N>
__device__ __forceinline__ Window window(const PoolNd<N>& p, unsigned number) {
    Window result{0, {}, 1.0f};
#pragma unroll
    for (int axis = 2; axis >= 0; --axis) {
        const int64_t first = int64_t(take(number, p.out[axis])) * p.stride[axis];
        result.begin[axis] = first - int64_t(p.pad_begin[axis]);
        const int64_t end = p.pad_begin[axis] + p.in[axis] + p.pad_end[axis], step = p.dilation[axis];
        int64_t taps = first < end ? (end - first + step - 1) / step : 0;
        if (taps > int64_t(p.kernel[axis])) taps = p.kernel[axis];
        result.padded *= float(taps);
    }
    result.outer = number;
    return result;
}

// Calls `visit` with the place in the picture and the value of each tap inside it.
template <int N, typename Visit>
__device__ __forceinline__ void each_tap(const PoolNd<N>& p, const Window& window, Visit visit) {
    const int64_t d = p.in[0], h = p.in[1], w = p.in[2];
    const float* input = static_cast<const float*>(p.operands[0]) + window.outer * d * h * w;
    for (int64_t i = 0; i < int64_t(p.kernel[0]); ++i) {
        const int64_t z = window.begin[0] + i * int64_t(p.dilation[0]);
        if (z < 0 || z >= d) continue;
        for (int64_t j = 0; j < int64_t(p.kernel[1]); ++j) {
            const int64_t y = window.begin[1] + j * int64_t(p.dilation[1]);
            if (y < 0 || y >= h) continue;
            for (int64_t k = 0; k < int64_t(p.kernel[2]); ++k) {
                const int64_t x = window.begin[2] + k * int64_t(p.dilation[2]);
                if (x >= 0 && x < w) visit(z, y, x, input[(z * h + y) * w + x]);
            }
        }
    }
}

}  // namespace

PLAIN(plain_max_pool_nd, PoolNd<3>) {
    const unsigned number = item();
    if (number >= p.code.items) return;
    const Window at = window(p, number);
    const int64_t d = p.in[0], h = p.in[1], w = p.in[2];
    float greatest = -CUDART_INF_F;
    int64_t place = -1;
    each_tap(p, at, [&](int64_t z, int64_t y, int64_t x, float v) {
        if (place < 0 || v > greatest || (v != v && greatest == greatest)) {
            greatest = v;
            place = p.column_major == 1 ? z + d * (y + h * x) : (z * h + y) * w + x;
        }
    });
    static_cast<float*>(p.operands[1])[number] = greatest;
    if (p.operands[2]) static_cast<long long*>(p.operands[2])[number] = place < 0 ? -1 : at.outer * d * h * w + place;
}

PLAIN(plain_average_pool_nd, PoolNd<2>) {
    const unsigned number = item();
    if (number >= p.code.items) return;
    const Window at = window(p, number);
    float sum = 0.0f, taps = 0.0f;
    each_tap(p, at, [&](int64_t, int64_t, int64_t, float v) { sum += v, taps += 1.0f; });
    static_cast<float*>(p.operands[1])[number] = sum / fmaxf(p.count_include_pad == 1 ? at.padded : taps, 1.0f);
}

PLAIN(plain_lp_pool_nd, PoolNd<2>) {
    const unsigned number = item();
    if (number >= p.code.items) return;
    const Window at = window(p, number);
    const float order = float(p.order);
    float sum = 0.0f;
    each_tap(p, at, [&](int64_t, int64_t, int64_t, float v) {
        sum += p.order == 1 ? fabsf(v) : p.order == 2 ? v * v : powf(fabsf(v), order);
    });
    static_cast<float*>(p.operands[1])[number] =
        p.order == 1 ? sum : p.order == 2 ? sqrtf(sum) : powf(sum, 1.0f / order);
}

// `call::Resize` behind its operands.
struct Resize {
    const float* input;
    const int64_t* indices;
    const float* weights;
    float* output;
    unsigned* counters;
    uint64_t n, blocks, lanes, in_h, in_w, out_h, out_w, taps_h, taps_w;
    View in, out;
    Code code;
};

PLAIN(plain_resize, Resize) {
    const unsigned number = item();
    if (number >= p.code.items) return;
    unsigned rest = number;
    const unsigned lane = take(rest, p.lanes), x = take(rest, p.out_w), y = take(rest, p.out_h);
    const unsigned block = take(rest, p.blocks), n = rest;
    const int64_t rows = int64_t(y) * p.taps_h, columns = int64_t(p.out_h) * p.taps_h + int64_t(x) * p.taps_w;
    float sum = 0.0f;
    for (int64_t a = 0; a < int64_t(p.taps_h); ++a)
        for (int64_t b = 0; b < int64_t(p.taps_w); ++b) {
            const int64_t h = p.indices[rows + a], w = p.indices[columns + b];
            if (h < 0 || h >= int64_t(p.in_h) || w < 0 || w >= int64_t(p.in_w)) {
                p.counters[FAILURE] = 1;
                return;
            }
            const float v = p.input[p.in.at(n, block, unsigned(h), unsigned(w)) + lane];
            sum += p.weights[rows + a] * p.weights[columns + b] * v;
        }
    p.output[p.out.at(n, block, y, x) + lane] = sum;
}
