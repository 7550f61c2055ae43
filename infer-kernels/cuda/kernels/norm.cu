// Normalisation of groups of channels of pictures: sums by parts of an image, then the normalised picture.
//
// Sums are of differences from the group's first element, so that a mean far from zero costs no digits.

#include "common.cuh"

// `cuda::GroupNorm` behind its operands: input and sums, or input, sums, scale, bias and output.
template <int N>
struct GroupNorm {
    void* operands[N];
    unsigned* counters;

    int32_t image_pixels, channels, plain_channels, groups;
    int32_t parts, part_pixels;
    int32_t in_stride, out_stride;
    float epsilon;
    int32_t images;
    Activation activation;
};

namespace {

// `cuda::MOST_GROUPED`: the channels of which a block has eight a thread.
constexpr int THREADS = 256, MOST = THREADS * 8;

// A part of an image, the block's own: a thread has eight channels of every `rows`th pixel of it.
template <int N>
struct Part {
    int image, part, channel, first, rows, end;
    bool works;

    __device__ __forceinline__ explicit Part(const GroupNorm<N>& p) {
        let_consumers_start();
        wait_for_producers();
        image = blockIdx.x / p.parts, part = blockIdx.x % p.parts;
        const int chunks = p.channels / 8;
        rows = THREADS / chunks;
        channel = int(threadIdx.x) % chunks * 8;
        first = part * p.part_pixels + int(threadIdx.x) / chunks;
        end = min((part + 1) * p.part_pixels, p.image_pixels);
        works = int(threadIdx.x) < rows * chunks;
    }
};

template <typename T>
__device__ __forceinline__ float base_of(const T* image, int group, int size) {
    return float(image[group * size]);
}

template <typename T>
__device__ __forceinline__ void group_sums(const GroupNorm<2>& p) {
    __shared__ float sums[MOST], squares[MOST];
    const Part<2> at(p);
    const T* image = static_cast<const T*>(p.operands[0]) + int64_t(at.image) * p.image_pixels * p.in_stride;
    const int size = p.plain_channels / p.groups;
    float base[8], s[8] = {}, q[8] = {};
#pragma unroll
    for (int l = 0; l < 8; ++l) base[l] = base_of(image, min((at.channel + l) / size, p.groups - 1), size);
    if (at.works) {
#pragma unroll 2
        for (int pixel = at.first; pixel < at.end; pixel += at.rows) {
            float v[8];
            load8(image + int64_t(pixel) * p.in_stride + at.channel, v);
#pragma unroll
            for (int l = 0; l < 8; ++l) {
                const float d = v[l] - base[l];
                s[l] += d, q[l] += d * d;
            }
        }
        const int row = int(threadIdx.x) / (p.channels / 8);
#pragma unroll
        for (int l = 0; l < 8; ++l) {
            sums[row * p.channels + at.channel + l] = s[l];
            squares[row * p.channels + at.channel + l] = q[l];
        }
    }
    __syncthreads();
    for (int c = threadIdx.x; c < p.plain_channels; c += THREADS)
        for (int row = 1; row < at.rows; ++row) {
            sums[c] += sums[row * p.channels + c];
            squares[c] += squares[row * p.channels + c];
        }
    __syncthreads();
    float2* output = static_cast<float2*>(p.operands[1]) + int64_t(blockIdx.x) * p.groups;
    for (int group = threadIdx.x; group < p.groups; group += THREADS) {
        float2 total = make_float2(0.0f, 0.0f);
        for (int c = group * size; c < (group + 1) * size; ++c) total.x += sums[c], total.y += squares[c];
        output[group] = total;
    }
}

template <typename T>
__device__ __forceinline__ void group_norm(const GroupNorm<5>& p) {
    __shared__ float means[MOST], factors[MOST];
    const Part<5> at(p);
    const T* image = static_cast<const T*>(p.operands[0]) + int64_t(at.image) * p.image_pixels * p.in_stride;
    T* output = static_cast<T*>(p.operands[4]) + int64_t(at.image) * p.image_pixels * p.out_stride;
    const float2* sums = static_cast<const float2*>(p.operands[1]) + int64_t(at.image) * p.parts * p.groups;
    const int size = p.plain_channels / p.groups;
    const float count = float(size) * float(p.image_pixels);
    for (int group = threadIdx.x; group < p.groups; group += THREADS) {
        float2 total = make_float2(0.0f, 0.0f);
        for (int part = 0; part < p.parts; ++part) {
            const float2 one = sums[part * p.groups + group];
            total.x += one.x, total.y += one.y;
        }
        const float shift = total.x / count;
        means[group] = base_of(image, group, size) + shift;
        factors[group] = 1.0f / sqrtf(greater(total.y / count - shift * shift, 0.0f) + p.epsilon);
    }
    __syncthreads();
    if (!at.works) return;
    float factor[8], rest[8];
    load8(static_cast<const float*>(p.operands[2]) + at.channel, factor);
    load8(static_cast<const float*>(p.operands[3]) + at.channel, rest);
#pragma unroll
    for (int l = 0; l < 8; ++l) {
        const int group = min((at.channel + l) / size, p.groups - 1);
        factor[l] *= factors[group];
        rest[l] -= means[group] * factor[l];
    }
#pragma unroll 2
    for (int pixel = at.first; pixel < at.end; pixel += at.rows) {
        float v[8];
        load8(image + int64_t(pixel) * p.in_stride + at.channel, v);
#pragma unroll
        for (int l = 0; l < 8; ++l) v[l] = v[l] * factor[l] + rest[l];
        activate(v, p.activation);
        store8(output + int64_t(pixel) * p.out_stride + at.channel, v);
    }
}

}  // namespace

#define KERNEL(NAME, N, BODY) \
    extern "C" __global__ void __launch_bounds__(256) NAME(const __grid_constant__ GroupNorm<N> p) { BODY(p); }

KERNEL(group_sums_f16, 2, group_sums<half>)
KERNEL(group_sums_bf16, 2, group_sums<bf16>)
KERNEL(group_sums_f32, 2, group_sums<float>)
KERNEL(group_norm_f16, 5, group_norm<half>)
KERNEL(group_norm_bf16, 5, group_norm<bf16>)
KERNEL(group_norm_f32, 5, group_norm<float>)
KERNEL(group_norm_tf32, 5, group_norm<Tf32>)
