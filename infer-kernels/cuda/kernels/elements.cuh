// Elements of row-major tensors: their types, and the functions of them by number.
#pragma once

#include <type_traits>

#include "common.cuh"

constexpr int AXES = 6;

// `cuda::ElementType` by number.
enum ElementType { F32, F16, I64, I32, BOOL, BF16 = 6 };

namespace {

__device__ __forceinline__ float load_float(const void* from, int type, int64_t at) {
    switch (type) {
        case F16: return __half2float(static_cast<const half*>(from)[at]);
        case BF16: return __bfloat162float(static_cast<const bf16*>(from)[at]);
        case I64: return float(static_cast<const long long*>(from)[at]);
        case I32: return float(static_cast<const int*>(from)[at]);
        case BOOL: return static_cast<const unsigned char*>(from)[at] ? 1.0f : 0.0f;
        default: return static_cast<const float*>(from)[at];
    }
}

__device__ __forceinline__ long long load_integer(const void* from, int type, int64_t at) {
    switch (type) {
        case F16: return (long long)__half2float(static_cast<const half*>(from)[at]);
        case BF16: return (long long)__bfloat162float(static_cast<const bf16*>(from)[at]);
        case I64: return static_cast<const long long*>(from)[at];
        case I32: return static_cast<const int*>(from)[at];
        case BOOL: return static_cast<const unsigned char*>(from)[at] != 0;
        default: return (long long)static_cast<const float*>(from)[at];
    }
}

// Finite numbers stay finite: what masks hide is often the least f32.
template <typename T>
__device__ __forceinline__ T narrow(float v) {
    constexpr float MOST = std::is_same_v<T, half> ? 65504.0f : 3.38953139e38f;
    return T(isinf(v) ? v : fminf(fmaxf(v, -MOST), MOST) + (v != v ? v : 0.0f));
}

__device__ __forceinline__ void store_float(void* to, int type, int64_t at, float v) {
    switch (type) {
        case F16: static_cast<half*>(to)[at] = narrow<half>(v); break;
        case BF16: static_cast<bf16*>(to)[at] = narrow<bf16>(v); break;
        case I64: static_cast<long long*>(to)[at] = (long long)v; break;
        case I32: static_cast<int*>(to)[at] = int(v); break;
        case BOOL: static_cast<unsigned char*>(to)[at] = v != 0.0f; break;
        default: static_cast<float*>(to)[at] = v; break;
    }
}

__device__ __forceinline__ void store_integer(void* to, int type, int64_t at, long long v) {
    switch (type) {
        case F16: static_cast<half*>(to)[at] = narrow<half>(float(v)); break;
        case BF16: static_cast<bf16*>(to)[at] = narrow<bf16>(float(v)); break;
        case I64: static_cast<long long*>(to)[at] = v; break;
        case I32: static_cast<int*>(to)[at] = int(v); break;
        case BOOL: static_cast<unsigned char*>(to)[at] = v != 0; break;
        default: static_cast<float*>(to)[at] = float(v); break;
    }
}

// `cuda::ElementOp` by number, on numbers of type N.
template <typename N>
__device__ __forceinline__ N combine(int operation, N a, N b, N c) {
    switch (operation) {
        case 1: return a + b;
        case 2: return a - b;
        case 3: return a * b;
        case 5: return N(a != N(0) && b != N(0));
        case 6: return N(a != N(0) || b != N(0));
        case 7: return N((a != N(0)) != (b != N(0)));
        case 8: return N(a == b);
        case 9: return N(a > b);
        case 10: return N(a >= b);
        case 11: return N(a < b);
        case 12: return N(a <= b);
        case 13: return a != N(0) ? b : c;
        case 14: return a > b || a != a ? a : b;
        case 15: return a < b || a != a ? a : b;
        case 16: return N(a == N(0));
        case 17: return a < N(0) ? -a : a;
        case 18: return -a;
        case 19: return N((a > N(0)) - (a < N(0)));
        default: return a;
    }
}

// `cuda::ElementOp` by number, on N numbers each of f32: x becomes the function of x, y and z.
template <int N>
__device__ __forceinline__ void apply(int operation, float alpha, float beta, float (&x)[N], const float (&y)[N],
                                      const float (&z)[N]) {
#define EACH(expression)                            \
    _Pragma("unroll") for (int i = 0; i < N; ++i) { \
        const float a = x[i], b = y[i], c = z[i];   \
        x[i] = (expression);                        \
    }                                               \
    break
#define COMMON(number) case number: EACH(combine(number, a, b, c))
    switch (operation) {
        COMMON(1);
        COMMON(2);
        COMMON(3);
        case 4: EACH(a / b);
        COMMON(5);
        COMMON(6);
        COMMON(7);
        COMMON(8);
        COMMON(9);
        COMMON(10);
        COMMON(11);
        COMMON(12);
        COMMON(13);
        COMMON(14);
        COMMON(15);
        COMMON(16);
        COMMON(17);
        COMMON(18);
        case 19: EACH(a != a ? a : combine(19, a, b, c));
        case 20: EACH(powf(a, b));
        case 21: EACH(a >= 0.0f ? a : a * b);
        case 32: EACH(ceilf(a));
        case 33: EACH(cosf(a));
        case 34: EACH(a >= 0.0f ? a : alpha * expm1f(a));
        case 35: EACH(erff(a));
        case 36: EACH(expf(a));
        case 37: EACH(floorf(a));
        case 38: EACH(float(a != a));
        case 39: EACH(logf(a));
        case 40: EACH(1.0f / a);
        case 41: EACH(rintf(a));
        case 42: EACH(beta * (a >= 0.0f ? a : alpha * expm1f(a)));
        case 43: EACH(sinf(a));
        case 44: EACH(a / (1.0f + fabsf(a)));
        case 45: EACH(sqrtf(a));
        case 46: EACH(a > alpha ? a : 0.0f);
        case 47: EACH(a / (1.0f + expf(-alpha * a)));
        default: break;
    }
#undef COMMON
#undef EACH
}

}  // namespace
