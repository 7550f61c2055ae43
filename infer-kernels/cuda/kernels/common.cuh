// What the kernels share: arguments, vectors of eight channels, activations, dependence between launches.
//
// A picture is NHWC with its channels padded to a multiple of eight: padded lanes are written like others, from
// weights and biases of zero, so that they are finite and nothing has to test for them.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <stdint.h>

// `call::Activation`.
struct Activation {
    uint32_t kind;
    float alpha;
    float beta;
    uint32_t reserved;
};

// Waits until the launches before this one are done and what they wrote is visible. Everything before it reads
// weights alone. Every kernel calls it, so that done means done for all that came before.
__device__ __forceinline__ void wait_for_producers() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// Lets the next launch begin, as far as its own `wait_for_producers`.
__device__ __forceinline__ void let_consumers_start() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

using bf16 = __nv_bfloat16;

// Two neighbours of 16 bits, of type T.
template <typename T>
struct Pair;

template <>
struct Pair<half> {
    half2 values;

    __device__ __forceinline__ static Pair of(float a, float b) { return {__floats2half2_rn(a, b)}; }
    __device__ __forceinline__ float2 widen() const { return __half22float2(values); }
};

template <>
struct Pair<bf16> {
    __nv_bfloat162 values;

    __device__ __forceinline__ static Pair of(float a, float b) { return {__floats2bfloat162_rn(a, b)}; }
    __device__ __forceinline__ float2 widen() const { return __bfloat1622float2(values); }
};

// T: half or bf16.
template <typename T>
__device__ __forceinline__ void load8(const T* from, float (&v)[8]) {
    const uint4 bits = *reinterpret_cast<const uint4*>(from);
    const Pair<T>* pairs = reinterpret_cast<const Pair<T>*>(&bits);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        const float2 pair = pairs[i].widen();
        v[2 * i] = pair.x;
        v[2 * i + 1] = pair.y;
    }
}

__device__ __forceinline__ void load8(const float* from, float (&v)[8]) {
    const float4 low = reinterpret_cast<const float4*>(from)[0];
    const float4 high = reinterpret_cast<const float4*>(from)[1];
    v[0] = low.x, v[1] = low.y, v[2] = low.z, v[3] = low.w;
    v[4] = high.x, v[5] = high.y, v[6] = high.z, v[7] = high.w;
}

template <typename T>
__device__ __forceinline__ void store8(T* to, const float (&v)[8]) {
    uint4 bits;
    Pair<T>* pairs = reinterpret_cast<Pair<T>*>(&bits);
#pragma unroll
    for (int i = 0; i < 4; ++i) pairs[i] = Pair<T>::of(v[2 * i], v[2 * i + 1]);
    *reinterpret_cast<uint4*>(to) = bits;
}

__device__ __forceinline__ void store8(float* to, const float (&v)[8]) {
    reinterpret_cast<float4*>(to)[0] = make_float4(v[0], v[1], v[2], v[3]);
    reinterpret_cast<float4*>(to)[1] = make_float4(v[4], v[5], v[6], v[7]);
}

// An f32. What is written is rounded to tf32: the matrix units that read it cut it off, always towards zero.
struct Tf32 {
    float value;

    __device__ __forceinline__ operator float() const { return value; }
};

__device__ __forceinline__ float round_tf32(float v) {
    uint32_t bits;
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(v));
    return __uint_as_float(bits);
}

__device__ __forceinline__ void load8(const Tf32* from, float (&v)[8]) {
    load8(reinterpret_cast<const float*>(from), v);
}

__device__ __forceinline__ void store8(Tf32* to, const float (&v)[8]) {
    float rounded[8];
#pragma unroll
    for (int i = 0; i < 8; ++i) rounded[i] = round_tf32(v[i]);
    store8(reinterpret_cast<float*>(to), rounded);
}

// Eight channels as they lie in memory.
template <typename T>
struct Eight {
    uint4 bits[sizeof(T) / 2];

    __device__ __forceinline__ void clear() {
#pragma unroll
        for (uint4& part : bits) part = make_uint4(0, 0, 0, 0);
    }

    __device__ __forceinline__ void load(const T* from) {
#pragma unroll
        for (int i = 0; i < int(sizeof(T) / 2); ++i) bits[i] = reinterpret_cast<const uint4*>(from)[i];
    }

    __device__ __forceinline__ void store(T* to) const {
#pragma unroll
        for (int i = 0; i < int(sizeof(T) / 2); ++i) reinterpret_cast<uint4*>(to)[i] = bits[i];
    }

    __device__ __forceinline__ void widen(float (&v)[8]) const {
        const T* values = reinterpret_cast<const T*>(bits);
#pragma unroll
        for (int i = 0; i < 8; ++i) v[i] = float(values[i]);
    }
};

// The greater and the smaller of two; NaN stays NaN, which fmaxf and fminf would drop.
__device__ __forceinline__ float greater(float a, float b) { return a > b || a != a ? a : b; }
__device__ __forceinline__ float smaller(float a, float b) { return a < b || a != a ? a : b; }

__device__ __forceinline__ float sigmoid(float x) { return 1.0f / (1.0f + __expf(-x)); }

__device__ __forceinline__ float softplus(float x) { return x > 20.0f ? x : log1pf(__expf(x)); }

// Within 3e-7, by Abramowitz and Stegun's 7.1.26; in half the instructions of erff.
__device__ __forceinline__ float error_function(float x) {
    const float t = __fdividef(1.0f, fmaf(0.3275911f, fabsf(x), 1.0f));
    float sum = fmaf(1.061405429f, t, -1.453152027f);
    sum = fmaf(fmaf(fmaf(sum, t, 1.421413741f), t, -0.284496736f), t, 0.254829592f);
    return copysignf(fmaf(-sum * t, __expf(-x * x), 1.0f), x);
}

// `ActivationKind` by number.
template <int N>
__device__ __forceinline__ void activate_as(float (&v)[N], const Activation& act, uint32_t kind) {
#define EACH(expression)                      \
    _Pragma("unroll") for (int i = 0; i < N; ++i) { \
        const float x = v[i];                 \
        v[i] = (expression);                  \
    }                                         \
    break
    switch (kind) {
        case 1: EACH(greater(x, 0.0f));
        case 2: EACH(x >= 0.0f ? x : act.alpha * x);
        case 3: EACH(smaller(greater(x, act.alpha), act.beta));
        case 4: EACH(sigmoid(x));
        case 5: EACH(smaller(greater(act.alpha * x + act.beta, 0.0f), 1.0f));
        case 6: EACH(x * smaller(greater(x * (1.0f / 6.0f) + 0.5f, 0.0f), 1.0f));
        case 7: EACH(x * sigmoid(x));
        case 8: EACH(0.5f * x * (1.0f + error_function(x * 0.70710678f)));
        case 9: EACH(0.5f * x * (1.0f + tanhf(0.79788456f * (x + 0.044715f * x * x * x))));
        case 10: EACH(tanhf(x));
        case 11: EACH(softplus(x));
        case 12: EACH(x * tanhf(softplus(x)));
        default: break;
    }
#undef EACH
}

template <int N>
__device__ __forceinline__ void activate(float (&v)[N], const Activation& act) {
    activate_as(v, act, act.kind);
}

// The same for many: what is usual at once, and others, which are much code, eight at a time.
template <int N>
__device__ __forceinline__ void activate_many(float (&v)[N], const Activation& act) {
    static_assert(N % 8 == 0);
    switch (act.kind) {
        case 0: break;
        case 1: activate_as(v, act, 1); break;
        case 2: activate_as(v, act, 2); break;
        case 3: activate_as(v, act, 3); break;
        case 7: activate_as(v, act, 7); break;
        case 8: activate_as(v, act, 8); break;
        default:
#pragma unroll 1
            for (int turn = 0; turn < N / 8; ++turn) {
                float some[8];
#pragma unroll
                for (int i = 0; i < 8; ++i) some[i] = v[i];
                activate(some, act);
#pragma unroll
                for (int i = 0; i < N - 8; ++i) v[i] = v[i + 8];
#pragma unroll
                for (int i = 0; i < 8; ++i) v[N - 8 + i] = some[i];
            }
    }
}

// `call::residual`.
constexpr int RESIDUAL_BEFORE = 1, RESIDUAL_AFTER = 2;

// Residual and activation of eight sums.
__device__ __forceinline__ void finish8(float (&v)[8], const float (&residual)[8], int residual_mode,
                                        const Activation& act) {
    if (residual_mode == RESIDUAL_BEFORE) {
#pragma unroll
        for (int i = 0; i < 8; ++i) v[i] += residual[i];
    }
    activate(v, act);
    if (residual_mode == RESIDUAL_AFTER) {
#pragma unroll
        for (int i = 0; i < 8; ++i) v[i] += residual[i];
    }
}

// What follows a finished sum: bias, residual and activation.
template <typename T>
__device__ __forceinline__ void finish8(float (&v)[8], const float* bias, const T* residual, int residual_mode,
                                        const Activation& act) {
    float added[8];
    if (bias) {
        load8(bias, added);
#pragma unroll
        for (int i = 0; i < 8; ++i) v[i] += added[i];
    }
    if (residual_mode) load8(residual, added);
    finish8(v, added, residual_mode, act);
}
