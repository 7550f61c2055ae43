// What row-major tensors go through: elementwise functions with broadcasting, which also copy, cast, transpose and
// slice; selection by index; normalisation and softmax of rows; reductions; products of two computed operands; and the
// way between them and pictures.

#include <math_constants.h>

#include "elements.cuh"

// `cuda::Elementwise` behind its operands.
struct Elementwise {
    const void* inputs[3];
    void* output;
    unsigned* counters;

    int32_t extents[AXES];
    int32_t strides[3][AXES];
    int32_t out_strides[AXES];
    int32_t offsets[3];
    int32_t out_offset;
    int32_t types[3];
    int32_t out_type;
    int32_t elements, operation, operands, integer;
    float alpha, beta;
    Activation activation;
};

extern "C" __global__ void __launch_bounds__(256) elementwise(const __grid_constant__ Elementwise p) {
    let_consumers_start();
    wait_for_producers();
    const int64_t index = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
    if (index >= p.elements) return;
    int rest = int(index);
    int64_t at[3] = {p.offsets[0], p.offsets[1], p.offsets[2]}, to = p.out_offset;
#pragma unroll
    for (int axis = AXES - 1; axis >= 0; --axis) {
        if (p.extents[axis] == 1) continue;
        const int i = rest % p.extents[axis];
        rest /= p.extents[axis];
#pragma unroll
        for (int k = 0; k < 3; ++k) at[k] += int64_t(i) * p.strides[k][axis];
        to += int64_t(i) * p.out_strides[axis];
    }
    if (p.integer) {
        const long long a = load_integer(p.inputs[0], p.types[0], at[0]);
        const long long b = p.operands > 1 ? load_integer(p.inputs[1], p.types[1], at[1]) : 0;
        const long long c = p.operands > 2 ? load_integer(p.inputs[2], p.types[2], at[2]) : 0;
        const long long v = p.operation == 4 ? (b == 0 ? 0 : b == -1 ? -a : a / b) : combine(p.operation, a, b, c);
        store_integer(p.output, p.out_type, to, v);
    } else {
        const float a = load_float(p.inputs[0], p.types[0], at[0]);
        const float b = p.operands > 1 ? load_float(p.inputs[1], p.types[1], at[1]) : 0.0f;
        const float c = p.operands > 2 ? load_float(p.inputs[2], p.types[2], at[2]) : 0.0f;
        float v[1] = {a};
        apply<1>(p.operation, p.alpha, p.beta, v, {b}, {c});
        activate(v, p.activation);
        store_float(p.output, p.out_type, to, v[0]);
    }
}

namespace {

// The first five operations on eight neighbours along the last axis a thread: every operand has all of one type, in a row or one for all.
template <typename T>
__device__ __forceinline__ void elementwise8(const Elementwise& p) {
    let_consumers_start();
    wait_for_producers();
    const int64_t index = (int64_t(blockIdx.x) * blockDim.x + threadIdx.x) * 8;
    if (index >= p.elements) return;
    int rest = int(index);
    int64_t at[3] = {p.offsets[0], p.offsets[1], p.offsets[2]}, to = p.out_offset;
#pragma unroll
    for (int axis = AXES - 1; axis >= 0; --axis) {
        if (p.extents[axis] == 1) continue;
        const int i = rest % p.extents[axis];
        rest /= p.extents[axis];
#pragma unroll
        for (int k = 0; k < 3; ++k) at[k] += int64_t(i) * p.strides[k][axis];
        to += int64_t(i) * p.out_strides[axis];
    }
    float v[2][8] = {};
#pragma unroll
    for (int k = 0; k < 2; ++k) {
        if (k >= p.operands) continue;
        const T* from = static_cast<const T*>(p.inputs[k]) + at[k];
        if (p.strides[k][AXES - 1] == 1) {
            load8(from, v[k]);
        } else {
            const float one = float(*from);
#pragma unroll
            for (int l = 0; l < 8; ++l) v[k][l] = one;
        }
    }
    switch (p.operation) {
        case 0: break;
        case 1:
#pragma unroll
            for (int i = 0; i < 8; ++i) v[0][i] += v[1][i];
            break;
        case 2:
#pragma unroll
            for (int i = 0; i < 8; ++i) v[0][i] -= v[1][i];
            break;
        case 3:
#pragma unroll
            for (int i = 0; i < 8; ++i) v[0][i] *= v[1][i];
            break;
        default:
#pragma unroll
            for (int i = 0; i < 8; ++i) v[0][i] /= v[1][i];
            break;
    }
    activate(v[0], p.activation);
    store8(static_cast<T*>(p.output) + to, v[0]);
}

}  // namespace

extern "C" __global__ void __launch_bounds__(256) elementwise8_f16(const __grid_constant__ Elementwise p) {
    elementwise8<half>(p);
}

extern "C" __global__ void __launch_bounds__(256) elementwise8_bf16(const __grid_constant__ Elementwise p) {
    elementwise8<bf16>(p);
}

extern "C" __global__ void __launch_bounds__(256) elementwise8_f32(const __grid_constant__ Elementwise p) {
    elementwise8<float>(p);
}

// `cuda::Gather` behind its operands: out[o, i, k] = data[o, index[i], k], elements of `bytes` bytes.
struct Gather {
    const void* data;
    const void* indices;
    void* output;
    unsigned* counters;

    int32_t outer, axis, count, inner;
    int32_t bytes, index_type, elements, failure;
};

namespace {

template <typename T>
__device__ __forceinline__ void gather(const Gather& p) {
    let_consumers_start();
    wait_for_producers();
    const int64_t item = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
    if (item >= p.elements) return;
    const int k = int(item % p.inner), rest = int(item / p.inner), i = rest % p.count, o = rest / p.count;
    long long index = load_integer(p.indices, p.index_type, i);
    if (index < 0) index += p.axis;
    if (index < 0 || index >= p.axis) {
        // Behind the counters: the host looks for it.
        p.counters[p.failure] = 1;
        index = 0;
    }
    static_cast<T*>(p.output)[item] = static_cast<const T*>(p.data)[(int64_t(o) * p.axis + index) * p.inner + k];
}

}  // namespace

extern "C" __global__ void __launch_bounds__(256) gather_b1(const __grid_constant__ Gather p) { gather<uint8_t>(p); }
extern "C" __global__ void __launch_bounds__(256) gather_b2(const __grid_constant__ Gather p) { gather<uint16_t>(p); }
extern "C" __global__ void __launch_bounds__(256) gather_b4(const __grid_constant__ Gather p) { gather<uint32_t>(p); }
extern "C" __global__ void __launch_bounds__(256) gather_b8(const __grid_constant__ Gather p) { gather<uint64_t>(p); }
extern "C" __global__ void __launch_bounds__(256) gather_b16(const __grid_constant__ Gather p) { gather<uint4>(p); }

// `cuda::Norm` behind its operands: rows of `inner` elements.
struct Norm {
    const void* input;
    const float* scale;
    const float* bias;
    void* output;
    unsigned* counters;

    int32_t outer, inner;
    float epsilon;
    int32_t kind;
};

namespace {

__device__ __forceinline__ float block_sum(float v, float* shared) {
#pragma unroll
    for (int by = 16; by > 0; by /= 2) v += __shfl_xor_sync(0xffffffff, v, by);
    const int warps = blockDim.x / 32;
    if (warps == 1) return v;
    __syncthreads();
    if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = v;
    __syncthreads();
    v = 0.0f;
    for (int i = 0; i < warps; ++i) v += shared[i];
    return v;
}

__device__ __forceinline__ float block_most(float v, float* shared) {
#pragma unroll
    for (int by = 16; by > 0; by /= 2) v = greater(v, __shfl_xor_sync(0xffffffff, v, by));
    const int warps = blockDim.x / 32;
    if (warps == 1) return v;
    __syncthreads();
    if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = v;
    __syncthreads();
    v = shared[0];
    for (int i = 1; i < warps; ++i) v = greater(v, shared[i]);
    return v;
}

// A block a row. Rows of whole eights, up to MOST of them a thread, stay in registers.
template <typename T>
__device__ __forceinline__ void layer_norm(const Norm& p) {
    constexpr int MOST = 4;
    __shared__ float shared[8];
    let_consumers_start();
    const T* input = static_cast<const T*>(p.input) + int64_t(blockIdx.x) * p.inner;
    T* output = static_cast<T*>(p.output) + int64_t(blockIdx.x) * p.inner;
    const bool keep_mean = p.kind == 1;
    if (p.inner % 8 == 0 && p.inner <= int(blockDim.x) * 8 * MOST) {
        const auto column = [](int i) { return int(threadIdx.x + i * blockDim.x) * 8; };
        float v[MOST][8] = {}, scale[MOST][8], bias[MOST][8] = {};
        // These do not wait for the launches before.
#pragma unroll
        for (int i = 0; i < MOST; ++i) {
#pragma unroll
            for (int l = 0; l < 8; ++l) scale[i][l] = 1.0f;
            if (p.scale && column(i) < p.inner) load8(p.scale + column(i), scale[i]);
            if (p.bias && column(i) < p.inner) load8(p.bias + column(i), bias[i]);
        }
        wait_for_producers();
        float sum = 0.0f, squares = 0.0f;
#pragma unroll
        for (int i = 0; i < MOST; ++i)
            if (column(i) < p.inner) load8(input + column(i), v[i]);
#pragma unroll
        for (int i = 0; i < MOST; ++i)
#pragma unroll
            for (int l = 0; l < 8; ++l) sum += v[i][l];
        const float mean = keep_mean ? 0.0f : block_sum(sum, shared) / float(p.inner);
#pragma unroll
        for (int i = 0; i < MOST; ++i)
            if (column(i) < p.inner) {
#pragma unroll
                for (int l = 0; l < 8; ++l) squares += (v[i][l] - mean) * (v[i][l] - mean);
            }
        const float factor = rsqrtf(block_sum(squares, shared) / float(p.inner) + p.epsilon);
#pragma unroll
        for (int i = 0; i < MOST; ++i) {
            if (column(i) >= p.inner) continue;
#pragma unroll
            for (int l = 0; l < 8; ++l) v[i][l] = (v[i][l] - mean) * factor * scale[i][l] + bias[i][l];
            store8(output + column(i), v[i]);
        }
        return;
    }
    wait_for_producers();
    float sum = 0.0f, squares = 0.0f;
    for (int c = threadIdx.x; c < p.inner; c += blockDim.x) sum += float(input[c]);
    const float mean = keep_mean ? 0.0f : block_sum(sum, shared) / float(p.inner);
    for (int c = threadIdx.x; c < p.inner; c += blockDim.x) {
        const float v = float(input[c]) - mean;
        squares += v * v;
    }
    const float factor = rsqrtf(block_sum(squares, shared) / float(p.inner) + p.epsilon);
    for (int c = threadIdx.x; c < p.inner; c += blockDim.x) {
        const float v = (float(input[c]) - mean) * factor * (p.scale ? p.scale[c] : 1.0f);
        output[c] = T(v + (p.bias ? p.bias[c] : 0.0f));
    }
}

template <typename T>
__device__ __forceinline__ void softmax(const Norm& p) {
    __shared__ float shared[8];
    let_consumers_start();
    wait_for_producers();
    const T* input = static_cast<const T*>(p.input) + int64_t(blockIdx.x) * p.inner;
    T* output = static_cast<T*>(p.output) + int64_t(blockIdx.x) * p.inner;
    float most = -CUDART_INF_F, sum = 0.0f;
    for (int c = threadIdx.x; c < p.inner; c += blockDim.x) most = greater(float(input[c]), most);
    most = block_most(most, shared);
    for (int c = threadIdx.x; c < p.inner; c += blockDim.x) sum += __expf(float(input[c]) - most);
    sum = block_sum(sum, shared);
    const float log_sum = logf(sum);
    for (int c = threadIdx.x; c < p.inner; c += blockDim.x) {
        const float v = float(input[c]) - most;
        output[c] = T(p.kind == 1 ? v - log_sum : __expf(v) / sum);
    }
}

}  // namespace

// `cuda::Reduction` behind its operands: a warp an element of the output.
struct Reduction {
    const void* input;
    void* output;
    unsigned* counters;

    int32_t extents[AXES], strides[AXES];
    int32_t inner_extents[AXES], inner_strides[AXES];
    int32_t elements, count, kind, reserved;
};

namespace {

__device__ __forceinline__ int64_t offset_of(const int32_t (&extents)[AXES], const int32_t (&strides)[AXES], int index) {
    int64_t at = 0;
#pragma unroll
    for (int axis = AXES - 1; axis >= 0; --axis) {
        if (extents[axis] == 1) continue;
        at += int64_t(index % extents[axis]) * strides[axis];
        index /= extents[axis];
    }
    return at;
}

// `cuda::ReductionKind` by number.
__device__ __forceinline__ float fold(int kind, float a, float b) {
    switch (kind) {
        case 2: return greater(a, b);
        case 3: return smaller(a, b);
        case 4: return a * b;
        default: return a + b;
    }
}

template <typename T>
__device__ __forceinline__ void reduce(const Reduction& p) {
    let_consumers_start();
    wait_for_producers();
    const int index = blockIdx.x * 8 + threadIdx.x / 32, lane = threadIdx.x % 32;
    if (index >= p.elements) return;
    const T* input = static_cast<const T*>(p.input) + offset_of(p.extents, p.strides, index);
    float v = p.kind == 2 ? -CUDART_INF_F : p.kind == 3 ? CUDART_INF_F : p.kind == 4 ? 1.0f : 0.0f;
    for (int i = lane; i < p.count; i += 32) {
        const float x = float(input[offset_of(p.inner_extents, p.inner_strides, i)]);
        v = fold(p.kind, v, p.kind == 5 ? fabsf(x) : p.kind >= 6 ? x * x : x);
    }
#pragma unroll
    for (int by = 16; by > 0; by /= 2) v = fold(p.kind, v, __shfl_xor_sync(0xffffffff, v, by));
    if (lane > 0) return;
    if (p.kind == 1) v /= float(p.count);
    if (p.kind == 7) v = sqrtf(v);
    static_cast<T*>(p.output)[index] = T(v);
}

}  // namespace

// `cuda::Product` behind its operands: out[b, m, n] = act(alpha · Σ_k left[b, m, k] · right[b, k, n]) by strides.
struct Product {
    const void* left;
    const void* right;
    void* output;
    unsigned* counters;

    int32_t lead[4], left_lead[4], right_lead[4];
    int32_t rows, columns, depth, batches;
    int32_t left_row, left_column, right_row, right_column;
    float alpha;
    int32_t reserved;
    Activation activation;
};

namespace {

// A block of 256 computes 64×64, each thread 4×4, sixteen elements of the sum at a time.
template <typename T>
__device__ __forceinline__ void product(const Product& p) {
    constexpr int TILE = 64, DEPTH = 16;
    __shared__ float a[DEPTH][TILE + 4], b[DEPTH][TILE + 4];
    let_consumers_start();
    wait_for_producers();
    const int tiles = (p.columns + TILE - 1) / TILE, thread = threadIdx.x;
    const int m0 = int(blockIdx.x) / tiles * TILE, n0 = int(blockIdx.x) % tiles * TILE;
    const T* left = static_cast<const T*>(p.left);
    const T* right = static_cast<const T*>(p.right);
    int rest = blockIdx.y;
#pragma unroll
    for (int axis = 3; axis >= 0; --axis) {
        const int at = rest % p.lead[axis];
        rest /= p.lead[axis];
        left += int64_t(at) * p.left_lead[axis], right += int64_t(at) * p.right_lead[axis];
    }
    float sums[4][4] = {};
    const int y = thread / 16 * 4, x = thread % 16 * 4;
    for (int k0 = 0; k0 < p.depth; k0 += DEPTH) {
        for (int i = thread; i < TILE * DEPTH; i += 256) {
            const int m = i / DEPTH, ka = i % DEPTH, n = i % TILE, kb = i / TILE;
            const bool in_a = m0 + m < p.rows && k0 + ka < p.depth, in_b = n0 + n < p.columns && k0 + kb < p.depth;
            a[ka][m] = in_a ? float(left[int64_t(m0 + m) * p.left_row + int64_t(k0 + ka) * p.left_column]) : 0.0f;
            b[kb][n] = in_b ? float(right[int64_t(k0 + kb) * p.right_row + int64_t(n0 + n) * p.right_column]) : 0.0f;
        }
        __syncthreads();
#pragma unroll
        for (int k = 0; k < DEPTH; ++k)
#pragma unroll
            for (int i = 0; i < 4; ++i)
#pragma unroll
                for (int j = 0; j < 4; ++j) sums[i][j] += a[k][y + i] * b[k][x + j];
        __syncthreads();
    }
    T* output = static_cast<T*>(p.output) + int64_t(blockIdx.y) * p.rows * p.columns;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        float v[8] = {};
#pragma unroll
        for (int j = 0; j < 4; ++j) v[j] = sums[i][j] * p.alpha;
        activate(v, p.activation);
#pragma unroll
        for (int j = 0; j < 4; ++j)
            if (m0 + y + i < p.rows && n0 + x + j < p.columns)
                output[int64_t(m0 + y + i) * p.columns + n0 + x + j] = T(v[j]);
    }
}

}  // namespace

// `cuda::Layout` behind its operands.
struct Layout {
    const void* input;
    void* output;
    unsigned* counters;

    int32_t images, image_pixels;
    int32_t plain_channels, channels;
    int32_t stride, reserved;
};

namespace {

// As `from_plain` and `to_plain` of picture.cu, but row-major in T.
template <typename T>
__device__ __forceinline__ void from_rows(const Layout& p) {
    let_consumers_start();
    wait_for_producers();
    const unsigned index = blockIdx.x * blockDim.x + threadIdx.x, chunks = p.channels / 8;
    if (index >= unsigned(p.images) * chunks * p.image_pixels) return;
    const int pixel = index % p.image_pixels, rest = index / p.image_pixels;
    const int c = rest % chunks * 8, n = rest / chunks;
    const T* input = static_cast<const T*>(p.input) + (size_t(n) * p.plain_channels + c) * p.image_pixels + pixel;
    float v[8];
#pragma unroll
    for (int l = 0; l < 8; ++l) v[l] = c + l < p.plain_channels ? float(input[size_t(l) * p.image_pixels]) : 0.0f;
    store8(static_cast<T*>(p.output) + (size_t(n) * p.image_pixels + pixel) * p.stride + c, v);
}

template <typename T>
__device__ __forceinline__ void to_rows(const Layout& p) {
    let_consumers_start();
    wait_for_producers();
    const unsigned index = blockIdx.x * blockDim.x + threadIdx.x, chunks = p.channels / 8;
    if (index >= unsigned(p.images) * chunks * p.image_pixels) return;
    const int pixel = index % p.image_pixels, rest = index / p.image_pixels;
    const int c = rest % chunks * 8, n = rest / chunks;
    T* output = static_cast<T*>(p.output) + (size_t(n) * p.plain_channels + c) * p.image_pixels + pixel;
    float v[8];
    load8(static_cast<const T*>(p.input) + (size_t(n) * p.image_pixels + pixel) * p.stride + c, v);
#pragma unroll
    for (int l = 0; l < 8; ++l)
        if (c + l < p.plain_channels) output[size_t(l) * p.image_pixels] = T(v[l]);
}

}  // namespace

#define KERNEL(NAME, ARGUMENTS, BODY) \
    extern "C" __global__ void __launch_bounds__(256) NAME(const __grid_constant__ ARGUMENTS p) { BODY(p); }

#define KERNELS(SUFFIX, T)                         \
    KERNEL(layer_norm_##SUFFIX, Norm, layer_norm<T>) \
    KERNEL(softmax_##SUFFIX, Norm, softmax<T>)       \
    KERNEL(reduce_##SUFFIX, Reduction, reduce<T>)    \
    KERNEL(product_##SUFFIX, Product, product<T>)    \
    KERNEL(from_rows_##SUFFIX, Layout, from_rows<T>) \
    KERNEL(to_rows_##SUFFIX, Layout, to_rows<T>)

KERNELS(f16, half)
KERNELS(bf16, bf16)
KERNELS(f32, float)
KERNEL(from_rows_tf32, Layout, from_rows<Tf32>)
