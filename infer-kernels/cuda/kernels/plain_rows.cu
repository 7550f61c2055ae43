// Row-major tensors along some of their axes: reductions, positions of extremes, softmax, normalisations, attention.
// A warp or a block computes what is folded, or a thread, where its neighbours' elements lie next to each other.

#include "plain.cuh"

// `call::Reduce` behind its operands.
struct Reduce {
    const void* input;
    void* output;
    unsigned* counters;
    uint64_t kept_rank, kept_dims[RANK], kept_strides[RANK];
    uint64_t reduced_rank, reduced_dims[RANK], reduced_strides[RANK];
    Code code;
};

namespace {

// `plain::REDUCTIONS` by number.
enum Reduction : uint32_t { SUM, MEAN, MAX, MIN, PROD, L1, L2, SUM_SQUARE, LOG_SUM, LOG_SUM_EXP };

__device__ __forceinline__ int64_t offset_of(unsigned index, uint64_t rank, const uint64_t (&dims)[RANK],
                                             const uint64_t (&strides)[RANK]) {
    int64_t at = 0;
    for (int axis = int(rank) - 1; axis >= 0; --axis) at += int64_t(take(index, dims[axis])) * strides[axis];
    return at;
}

__device__ __forceinline__ float infinity(float) { return CUDART_INF_F; }
__device__ __forceinline__ double infinity(double) { return CUDART_INF; }

template <typename T>
struct Limits {
    static __device__ __forceinline__ T greatest() { return infinity(T(0)); }
    static __device__ __forceinline__ T least() { return -infinity(T(0)); }
};
template <>
struct Limits<int> {
    static __device__ __forceinline__ int greatest() { return 0x7fffffff; }
    static __device__ __forceinline__ int least() { return -0x7fffffff - 1; }
};
template <>
struct Limits<long long> {
    static __device__ __forceinline__ long long greatest() { return 0x7fffffffffffffffll; }
    static __device__ __forceinline__ long long least() { return -0x7fffffffffffffffll - 1; }
};

template <typename T>
struct Fold {
    uint32_t kind;

    __device__ __forceinline__ T operator()(T a, T b) const {
        switch (kind) {
            case MAX: return Greater()(a, b);
            case MIN: return Smaller()(a, b);
            case PROD: return a * b;
            default: return a + b;
        }
    }
};

template <typename T>
__device__ __forceinline__ void reduce(const Reduce& p) {
    constexpr bool IS_F32 = sizeof(T) == 4 && T(0.5f) != T(0);
    const Team team(p.code.to);
    if (team.item >= p.code.items) return;
    const T* input = static_cast<const T*>(p.input) + offset_of(team.item, p.kept_rank, p.kept_dims, p.kept_strides);
    unsigned count = 1;
    for (int axis = 0; axis < int(p.reduced_rank); ++axis) count *= unsigned(p.reduced_dims[axis]);
    const auto at = [&](unsigned i) { return input[offset_of(i, p.reduced_rank, p.reduced_dims, p.reduced_strides)]; };
    const uint32_t kind = p.code.operation;

    T shift = T(0);
    if constexpr (IS_F32) {
        if (kind == LOG_SUM_EXP) {
            shift = Limits<T>::least();
            for (unsigned i = team.lane; i < count; i += team.lanes) shift = Greater()(shift, at(i));
            shift = folded(shift, team, Greater());
            if (isinf(shift)) shift = T(0);
        }
    }
    const Fold<T> fold{kind};
    T v = kind == MAX ? Limits<T>::least() : kind == MIN ? Limits<T>::greatest() : kind == PROD ? T(1) : T(0);
    for (unsigned i = team.lane; i < count; i += team.lanes) {
        T x = at(i);
        if constexpr (IS_F32) {
            if (kind == L1) x = fabsf(x);
            if (kind == L2 || kind == SUM_SQUARE) x *= x;
            if (kind == LOG_SUM_EXP) x = expf(x - shift);
        }
        v = fold(v, x);
    }
    v = folded(v, team, fold);
    if (team.lane > 0) return;
    if (kind == MEAN) {
        if constexpr (T(0.5f) != T(0)) {
            v /= T(count);
        } else if (count == 0) {
            p.counters[FAILURE] = 1;
        } else {
            v = T(v / (long long)count);
        }
    }
    if constexpr (IS_F32) {
        if (kind == L2) v = sqrtf(v);
        if (kind == LOG_SUM) v = logf(v);
        if (kind == LOG_SUM_EXP) v = shift + logf(v);
    }
    static_cast<T*>(p.output)[team.item] = v;
}

}  // namespace

PLAIN(plain_reduce_f32, Reduce) { reduce<float>(p); }
PLAIN(plain_reduce_f64, Reduce) { reduce<double>(p); }
PLAIN(plain_reduce_i32, Reduce) { reduce<int>(p); }
PLAIN(plain_reduce_i64, Reduce) { reduce<long long>(p); }

// `call::Axis` behind its operands.
struct Axis {
    const void* input;
    void* output;
    unsigned* counters;
    uint64_t outer, axis, inner, select_last;
    Code code;
};

namespace {

// An element of a row and where it is; NaN goes before all others.
template <typename T>
struct Found {
    T value;
    int position;
};

template <typename T>
struct Before {
    bool greatest, last;

    __device__ __forceinline__ Found<T> operator()(Found<T> a, Found<T> b) const {
        const bool no_a = a.value != a.value, no_b = b.value != b.value;
        const bool same = a.value == b.value || (no_a && no_b);
        bool take_b = no_a || no_b ? no_b : greatest ? b.value > a.value : b.value < a.value;
        if (same) take_b = last ? b.position > a.position : b.position < a.position;
        return take_b ? b : a;
    }
};

template <typename T>
__device__ __forceinline__ void extreme(const Axis& p) {
    const Team team(p.code.to);
    if (team.item >= p.code.items) return;
    const T* input = static_cast<const T*>(p.input) + int64_t(team.item / p.inner) * p.axis * p.inner + team.item % p.inner;
    const Before<T> before{p.code.operation == 0, p.select_last == 1};
    // Lanes beyond a short row have its first element.
    const int axis = int(p.axis), first = team.lane < axis ? team.lane : 0;
    Found<T> best{input[first * p.inner], first};
    for (int k = team.lane + team.lanes; k < axis; k += team.lanes) best = before(best, Found<T>{input[k * p.inner], k});
    for (int by = team.lanes / 2; by > 0; by /= 2) {
        const Found<T> other{__shfl_xor_sync(0xffffffff, best.value, by), __shfl_xor_sync(0xffffffff, best.position, by)};
        best = before(best, other);
    }
    if (team.lane == 0) static_cast<long long*>(p.output)[team.item] = best.position;
}

}  // namespace

PLAIN(plain_extreme_f32, Axis) { extreme<float>(p); }
PLAIN(plain_extreme_f64, Axis) { extreme<double>(p); }
PLAIN(plain_extreme_i32, Axis) { extreme<int>(p); }
PLAIN(plain_extreme_i64, Axis) { extreme<long long>(p); }

// `call::Scan` behind its operands.
struct Scan {
    const void* input;
    void* output;
    unsigned* counters;
    uint64_t outer, axis, inner, exclusive, reverse;
    Code code;
};

namespace {

template <typename T>
__device__ __forceinline__ T fold_running(bool is_product, T a, T b) {
    return is_product ? a * b : a + b;
}

// A lane an element and a step of as many elements as there are lanes, each folded with what the lanes before it and the
// steps before have; so the order is the same in every run.
template <typename T>
__device__ __forceinline__ void scan(const Scan& p) {
    const Team team(p.code.to);
    if (team.item >= p.code.items) return;
    const bool is_product = p.code.operation == 1;
    const T first = is_product ? T(1) : T(0);
    const int64_t inner = p.inner, axis = p.axis;
    const int64_t base = int64_t(team.item / unsigned(inner)) * axis * inner + team.item % unsigned(inner);
    const T* input = static_cast<const T*>(p.input) + base;
    T* output = static_cast<T*>(p.output) + base;
    T before = first;
    for (int64_t start = 0; start < axis; start += team.lanes) {
        const int64_t step = start + team.lane;
        const int64_t at = inner * (p.reverse == 1 ? axis - 1 - step : step);
        T running = step < axis ? input[at] : first;
        T others = first;
        if (team.lanes > 1) {
#pragma unroll
            for (int by = 1; by < 32; by *= 2) {
                const T other = __shfl_up_sync(0xffffffff, running, by);
                if (team.lane >= by) running = fold_running(is_product, other, running);
            }
            others = __shfl_up_sync(0xffffffff, running, 1);
            if (team.lane == 0) others = first;
        }
        const T all = fold_running(is_product, before, running);
        if (step < axis) output[at] = p.exclusive == 1 ? fold_running(is_product, before, others) : all;
        before = team.lanes > 1 ? __shfl_sync(0xffffffff, all, 31) : all;
    }
}

}  // namespace

// Integers without a sign, which may wrap.
PLAIN(plain_scan_f32, Scan) { scan<float>(p); }
PLAIN(plain_scan_f64, Scan) { scan<double>(p); }
PLAIN(plain_scan_i32, Scan) { scan<unsigned>(p); }
PLAIN(plain_scan_i64, Scan) { scan<unsigned long long>(p); }

// `call::Col2Im` behind its operands.
struct Col2Im {
    const void* input;
    void* output;
    unsigned* counters;
    uint64_t outer, image[3], block[3], blocks[3], stride[3], dilation[3], pad_begin[3];
    Code code;
};

namespace {

// The block along an axis whose element `tap` lies at `along`; −1 where there is none.
__device__ __forceinline__ int64_t block_at(const Col2Im& p, int axis, int64_t along, int64_t tap) {
    const int64_t from_first = along + int64_t(p.pad_begin[axis]) - tap * int64_t(p.dilation[axis]);
    if (from_first < 0) return -1;
    const unsigned stride = unsigned(p.stride[axis]), block = unsigned(from_first) / stride;
    return unsigned(from_first) == block * stride && block < unsigned(p.blocks[axis]) ? int64_t(block) : -1;
}

template <typename T>
__device__ __forceinline__ void col2im(const Col2Im& p) {
    const unsigned number = item();
    if (number >= p.code.items) return;
    unsigned rest = number;
    const int64_t x = take(rest, p.image[2]), y = take(rest, p.image[1]), z = take(rest, p.image[0]);
    const int64_t blocks = p.blocks[0] * p.blocks[1] * p.blocks[2], elements = p.block[0] * p.block[1] * p.block[2];
    const T* input = static_cast<const T*>(p.input) + int64_t(rest) * elements * blocks;
    T sum = T(0);
    for (int64_t i = 0; i < int64_t(p.block[0]); ++i) {
        const int64_t d = block_at(p, 0, z, i);
        if (d < 0) continue;
        for (int64_t j = 0; j < int64_t(p.block[1]); ++j) {
            const int64_t h = block_at(p, 1, y, j);
            if (h < 0) continue;
            for (int64_t k = 0; k < int64_t(p.block[2]); ++k) {
                const int64_t w = block_at(p, 2, x, k);
                if (w < 0) continue;
                const int64_t element = (i * int64_t(p.block[1]) + j) * int64_t(p.block[2]) + k;
                sum += input[element * blocks + (d * int64_t(p.blocks[1]) + h) * int64_t(p.blocks[2]) + w];
            }
        }
    }
    static_cast<T*>(p.output)[number] = sum;
}

}  // namespace

PLAIN(plain_col2im_f32, Col2Im) { col2im<float>(p); }
PLAIN(plain_col2im_f64, Col2Im) { col2im<double>(p); }
PLAIN(plain_col2im_i32, Col2Im) { col2im<unsigned>(p); }
PLAIN(plain_col2im_i64, Col2Im) { col2im<unsigned long long>(p); }

// `call::MatMul` behind its operands.
struct MatMul {
    const void *left, *right;
    void* output;
    unsigned* counters;
    uint64_t rank, dims[RANK], between[2][RANK];
    uint64_t m, k, n, row_strides[2], column_strides[2];
    Code code;
};

namespace {

template <typename T>
__device__ __forceinline__ void matmul(const MatMul& p) {
    const unsigned number = item();
    if (number >= p.code.items) return;
    unsigned rest = number;
    const int64_t column = take(rest, p.n), row = take(rest, p.m);
    const T* left = static_cast<const T*>(p.left) + row * int64_t(p.row_strides[0]);
    const T* right = static_cast<const T*>(p.right) + column * int64_t(p.column_strides[1]);
    for (int axis = int(p.rank) - 1; axis >= 0; --axis) {
        const int64_t at = take(rest, p.dims[axis]);
        left += at * int64_t(p.between[0][axis]);
        right += at * int64_t(p.between[1][axis]);
    }
    const int64_t left_step = p.column_strides[0], right_step = p.row_strides[1];
    T sum = T(0);
    for (int64_t k = 0; k < int64_t(p.k); ++k) sum += left[k * left_step] * right[k * right_step];
    static_cast<T*>(p.output)[number] = sum;
}

}  // namespace

PLAIN(plain_matmul_f64, MatMul) { matmul<double>(p); }
PLAIN(plain_matmul_i32, MatMul) { matmul<unsigned>(p); }
PLAIN(plain_matmul_i64, MatMul) { matmul<unsigned long long>(p); }

// Softmax, or its logarithm.
PLAIN(plain_softmax, Axis) {
    const Team team(p.code.to);
    if (team.item >= p.code.items) return;
    const int64_t base = int64_t(team.item / p.inner) * p.axis * p.inner + team.item % p.inner;
    const float* input = static_cast<const float*>(p.input) + base;
    float* output = static_cast<float*>(p.output) + base;
    const unsigned axis = unsigned(p.axis);
    float most = -CUDART_INF_F, sum = 0.0f;
    for (unsigned k = team.lane; k < axis; k += team.lanes) most = Greater()(most, input[k * p.inner]);
    most = folded(most, team, Greater());
    for (unsigned k = team.lane; k < axis; k += team.lanes) sum += expf(input[k * p.inner] - most);
    sum = folded(sum, team, Sum());
    const float log_sum = logf(sum);
    for (unsigned k = team.lane; k < axis; k += team.lanes) {
        const float v = input[k * p.inner] - most;
        output[k * p.inner] = p.code.operation ? v - log_sum : expf(v) / sum;
    }
}

namespace {

// A row of `count` elements to zero mean, or keeping its mean, and unit variance; scale and bias by `channel`.
template <typename Channel>
__device__ __forceinline__ void normalise(const Team& team, const float* input, float* output, unsigned count,
                                          float epsilon, bool keep_mean, const float* scale, const float* bias,
                                          const Activation& act, Channel channel) {
    float sum = 0.0f, squares = 0.0f;
    if (!keep_mean) {
#pragma unroll 4
        for (unsigned i = team.lane; i < count; i += team.lanes) sum += input[i];
        sum = folded(sum, team, Sum());
    }
    const float mean = sum / float(count);
#pragma unroll 4
    for (unsigned i = team.lane; i < count; i += team.lanes) squares += (input[i] - mean) * (input[i] - mean);
    const float deviation = sqrtf(folded(squares, team, Sum()) / float(count) + epsilon);
#pragma unroll 4
    for (unsigned i = team.lane; i < count; i += team.lanes) {
        const unsigned c = channel(i);
        const float v = (input[i] - mean) / deviation * (scale ? scale[c] : 1.0f) + (bias ? bias[c] : 0.0f);
        output[i] = activated(v, act);
    }
}

}  // namespace

// `call::LayerNorm` behind its operands.
struct LayerNorm {
    const float* input;
    const float* scale;
    const float* bias;
    float* output;
    unsigned* counters;
    uint64_t outer, inner;
    float epsilon;
    uint32_t keep_mean;
    Code code;
};

PLAIN(plain_layer_norm, LayerNorm) {
    const Team team(p.code.to);
    if (team.item >= p.code.items) return;
    const int64_t base = int64_t(team.item) * p.inner;
    normalise(team, p.input + base, p.output + base, unsigned(p.inner), p.epsilon, p.keep_mean == 1, p.scale, p.bias,
              Activation{}, [](unsigned i) { return i; });
}

// `call::GroupNorm` behind its operands.
struct GroupNorm {
    const float* input;
    const float* scale;
    const float* bias;
    float* output;
    unsigned* counters;
    uint64_t n, groups, channels, inner;
    float epsilon;
    uint32_t reserved;
    Activation activation;
    Code code;
};

PLAIN(plain_group_norm, GroupNorm) {
    const Team team(p.code.to);
    if (team.item >= p.code.items) return;
    const unsigned groups = unsigned(p.groups), channels = unsigned(p.channels / p.groups), inner = unsigned(p.inner);
    const int64_t base = int64_t(team.item) * channels * inner;
    const unsigned first = team.item % groups * channels;
    normalise(team, p.input + base, p.output + base, channels * inner, p.epsilon, false, p.scale, p.bias, p.activation,
              [=](unsigned i) { return first + i / inner; });
}

// `call::Lrn` behind its operands.
struct Lrn {
    const float* input;
    float* output;
    unsigned* counters;
    uint64_t n, channels, inner, size;
    float alpha, beta, bias;
    uint32_t reserved;
    Code code;
};

PLAIN(plain_lrn, Lrn) {
    const unsigned number = item();
    if (number >= p.code.items) return;
    const int64_t inner = p.inner, channels = p.channels, before = (p.size - 1) / 2, after = p.size / 2;
    const int64_t channel = number / inner % channels;
    const int64_t first = channel > before ? -before : -channel;
    const int64_t last = after < channels - 1 - channel ? after : channels - 1 - channel;
    float sum = 0.0f;
    for (int64_t c = first; c <= last; ++c) {
        const float x = p.input[number + c * inner];
        sum += x * x;
    }
    p.output[number] = p.input[number] / powf(p.bias + p.alpha / float(p.size) * sum, p.beta);
}

// `call::HeadView`.
struct HeadView {
    uint64_t offset, lead[4], row, element;
};

// `call::Attention` behind its operands.
struct Attention {
    const float* query;
    const float* key;
    const float* value;
    const float* mask;
    float* output;
    void* work;
    unsigned* counters;
    uint64_t lead[4];
    uint64_t rows, keys, size, value_size;
    HeadView q, k, v, m, o;
    uint64_t causal, causal_offset;
    float scale;
    uint32_t reserved;
    Code code;
};

// A block a row, a key a thread: the greatest score so far and the sums of exponentials below it, which shrink where a
// greater one comes. A thread has up to VALUES elements of the result; rows of more are walked again.
PLAIN(plain_attention, Attention) {
    constexpr int VALUES = 2;
    __shared__ float weights[LANES];
    const Team team(LANES);
    unsigned rest = team.item;
    const unsigned row = take(rest, p.rows);
    int64_t q = p.q.offset + row * p.q.row, k = p.k.offset, v = p.v.offset;
    int64_t m = p.m.offset + row * p.m.row, o = p.o.offset + row * p.o.row;
#pragma unroll
    for (int axis = 3; axis >= 0; --axis) {
        const unsigned i = take(rest, p.lead[axis]);
        q += i * p.q.lead[axis], k += i * p.k.lead[axis], v += i * p.v.lead[axis];
        m += i * p.m.lead[axis], o += i * p.o.lead[axis];
    }
    // A row sees its keys up to this one.
    const uint64_t last = p.causal ? row + p.causal_offset : p.keys;
    const unsigned keys = unsigned(p.keys);
    for (unsigned first = 0; first < p.value_size; first += VALUES * LANES) {
        float most = -CUDART_INF_F, sum = 0.0f, results[VALUES] = {};
        for (unsigned start = 0; start < keys; start += LANES) {
            const unsigned number = start + team.lane;
            float score = -CUDART_INF_F;
            if (number < keys && number <= last) {
                float dot = 0.0f;
                const float* key = p.key + k + number * p.k.row;
                for (unsigned i = 0; i < p.size; ++i) dot += p.query[q + i] * key[i * p.k.element];
                score = p.scale * dot + (p.mask ? p.mask[m + number * p.m.element] : 0.0f);
            }
            const float greatest = Greater()(most, folded(score, team, Greater()));
            // Of nothing but scores of −∞ nothing is known yet; there is nothing to shrink.
            const float base = greatest == -CUDART_INF_F ? 0.0f : greatest;
            const float weight = number < keys ? expf(score - base) : 0.0f;
            const float shrink = most == -CUDART_INF_F ? 0.0f : expf(most - base);
            weights[team.lane] = weight;
            sum = sum * shrink + folded(weight, team, Sum());
            __syncthreads();
            const unsigned count = keys - start < LANES ? keys - start : LANES;
#pragma unroll
            for (int slot = 0; slot < VALUES; ++slot) {
                const unsigned element = first + slot * LANES + team.lane;
                results[slot] *= shrink;
                if (element >= p.value_size) continue;
                for (unsigned i = 0; i < count; ++i)
                    results[slot] += weights[i] * p.value[v + (start + i) * p.v.row + element];
            }
            most = greatest;
            __syncthreads();
        }
        // A row that sees nothing is 0 / 0.
#pragma unroll
        for (int slot = 0; slot < VALUES; ++slot) {
            const unsigned element = first + slot * LANES + team.lane;
            if (element < p.value_size) p.output[o + element] = results[slot] / sum;
        }
    }
}
