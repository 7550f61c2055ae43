// Row-major tensors element by element: functions of one and two operands in every type, selections, copies, casts,
// selection by index.

#include "plain.cuh"

// `call::Elementwise`, and the operands before it.
struct Elementwise {
    uint64_t rank, dims[RANK];
    int64_t strides[4][RANK];
    uint64_t offsets[4];
    uint64_t value;
    float alpha, beta;
};

template <int N>
struct Elements {
    void* operands[N];
    unsigned* counters;
    Elementwise call;
    Code code;
};

namespace {

// Where each operand has this thread's element; false behind the last one.
template <int N>
__device__ __forceinline__ bool place(const Elements<N>& p, int64_t (&at)[N]) {
    unsigned rest = item();
    if (rest >= p.code.items) return false;
#pragma unroll
    for (int k = 0; k < N; ++k) at[k] = p.call.offsets[k];
    for (int axis = int(p.call.rank) - 1; axis >= 0; --axis) {
        const int64_t i = take(rest, p.call.dims[axis]);
#pragma unroll
        for (int k = 0; k < N; ++k) at[k] += i * p.call.strides[k][axis];
    }
    return true;
}

template <typename T>
__device__ __forceinline__ T& element(const void* base, int64_t at) {
    return static_cast<T*>(const_cast<void*>(base))[at];
}

// An integer or a truth; u64 by its bits.
__device__ __forceinline__ long long load_integer(const void* from, uint32_t type, int64_t at) {
    switch (type) {
        case I32: return element<int>(from, at);
        case BOOL: return element<unsigned char>(from, at) != 0;
        case I8: return element<signed char>(from, at);
        case I16: return element<short>(from, at);
        case U8: return element<unsigned char>(from, at);
        case U16: return element<unsigned short>(from, at);
        case U32: return element<unsigned>(from, at);
        default: return element<long long>(from, at);
    }
}

// The low bits.
__device__ __forceinline__ void store_integer(void* to, uint32_t type, int64_t at, long long v) {
    switch (type) {
        case I32:
        case U32: element<int>(to, at) = int(v); break;
        case BOOL: element<unsigned char>(to, at) = v != 0; break;
        case I8:
        case U8: element<signed char>(to, at) = (signed char)(v); break;
        case I16:
        case U16: element<short>(to, at) = short(v); break;
        default: element<long long>(to, at) = v; break;
    }
}

// `plain::UNARY` by number, of f32 and f64.
template <typename T>
__device__ __forceinline__ T unary(uint32_t operation, T x, T alpha, T beta) {
    const T one = T(1), half_ = T(0.5);
    switch (operation) {
        case 0: return fabs(x);
        case 1: return ceil(x);
        case 2: {
            const T v = x < alpha ? alpha : x;
            return v > beta ? beta : v;
        }
        case 3: return cos(x);
        case 4: return x >= T(0) ? x : alpha * expm1(x);
        case 5: return erf(x);
        case 6: return exp(x);
        case 7: return floor(x);
        case 8: return x * half_ * (one + erf(x * T(0.70710678118654752)));
        case 9: return x * half_ * (one + tanh(T(0.79788456080286536) * (x + T(0.044715) * x * x * x)));
        case 10:
        case 11: {
            const T v = operation == 10 ? alpha * x + beta : x / T(6) + half_;
            const T inside = v < T(0) ? T(0) : v > one ? one : v;
            return operation == 10 ? inside : x * inside;
        }
        case 12: return x >= T(0) ? x : alpha * x;
        case 13: return log(x);
        case 14: return x * tanh((x < T(0) ? T(0) : x) + log1p(exp(-fabs(x))));
        case 15: return -x;
        case 16: return one / x;
        case 17: return x < T(0) ? T(0) : x;
        case 18: return rint(x);
        case 19: return beta * (x >= T(0) ? x : alpha * expm1(x));
        case 20: return one / (one + exp(-x));
        case 21: return x > T(0) ? one : x < T(0) ? -one : x;
        case 22: return x / (one + exp(-x));
        case 23: return sin(x);
        case 24: return (x < T(0) ? T(0) : x) + log1p(exp(-fabs(x)));
        case 25: return x / (one + fabs(x));
        case 26: return sqrt(x);
        case 27: return tanh(x);
        case 28: return acos(x);
        case 29: return acosh(x);
        case 30: return asin(x);
        case 31: return asinh(x);
        case 32: return atan(x);
        case 33: return atanh(x);
        case 34: return cosh(x);
        case 35: return sinh(x);
        case 36: return tan(x);
        default: return x;
    }
}

// Those of integers, and the truths: whether x is NaN, not x.
constexpr uint32_t ABS = 0, NEG = 15, SIGN = 21, IS_NAN = 37, NOT = 38;

}  // namespace

PLAIN(plain_unary, Elements<2>) {
    int64_t at[2];
    if (!place(p, at)) return;
    const uint32_t operation = p.code.operation;
    const void* from = p.operands[0];
    void* to = p.operands[1];
    if (p.code.from == F32) {
        const float x = element<float>(from, at[0]);
        if (operation == IS_NAN) {
            element<unsigned char>(to, at[1]) = x != x;
        } else {
            element<float>(to, at[1]) = unary(operation, x, p.call.alpha, p.call.beta);
        }
    } else if (p.code.from == F64) {
        const double x = element<double>(from, at[0]);
        if (operation == IS_NAN) {
            element<unsigned char>(to, at[1]) = x != x;
        } else {
            element<double>(to, at[1]) = unary(operation, x, double(p.call.alpha), double(p.call.beta));
        }
    } else {
        const long long x = load_integer(from, p.code.from, at[0]);
        const bool is_negative = x < 0 && p.code.from != U64;
        long long v = x;
        if (operation == ABS) v = is_negative ? -x : x;
        if (operation == NEG) v = -x;
        if (operation == SIGN) v = is_negative ? -1 : x != 0;
        if (operation == NOT) v = x == 0;
        store_integer(to, p.code.to, at[1], v);
    }
}

namespace {

// `plain::BINARY` by number: arithmetic; comparisons follow.
enum Binary : uint32_t {
    ADD, SUB, MUL, DIV, MIN, MAX, POW, PRELU, MOD, FMOD,
    EQUAL, LESS, LESS_OR_EQUAL, MORE, MORE_OR_EQUAL, AND, OR, XOR,
};

template <typename T>
__device__ __forceinline__ bool compared(uint32_t operation, T a, T b) {
    switch (operation) {
        case EQUAL: return a == b;
        case LESS: return a < b;
        case LESS_OR_EQUAL: return a <= b;
        case MORE: return a > b;
        case MORE_OR_EQUAL: return a >= b;
        case AND: return a != T(0) && b != T(0);
        case OR: return a != T(0) || b != T(0);
        default: return (a != T(0)) != (b != T(0));
    }
}

template <typename T>
__device__ __forceinline__ T binary(uint32_t operation, T a, T b) {
    switch (operation) {
        case ADD: return a + b;
        case SUB: return a - b;
        case MUL: return a * b;
        case DIV: return a / b;
        case MIN: return a < b || a != a ? a : b;
        case MAX: return a > b || a != a ? a : b;
        case POW: return pow(a, b);
        case MOD: {
            const T rest = fmod(a, b);
            if (rest == T(0)) return copysign(rest, b);
            return (rest < T(0)) != (b < T(0)) ? rest + b : rest;
        }
        case FMOD: return fmod(a, b);
        default: return a >= T(0) ? a : a * b;
    }
}

__device__ __forceinline__ long long power(long long a, long long b, bool& fault) {
    if (b < 0) {
        fault |= a == 0;
        return a == 1 ? 1 : a == -1 ? (b % 2 == 0 ? 1 : -1) : 0;
    }
    unsigned long long result = 1, base = a;
    for (; b > 0; b >>= 1) {
        if (b & 1) result *= base;
        base *= base;
    }
    return result;
}

__device__ __forceinline__ long long binary(uint32_t operation, long long a, long long b, bool is_u64, bool& fault) {
    const unsigned long long ua = a, ub = b;
    const bool less = is_u64 ? ua < ub : a < b;
    switch (operation) {
        case ADD: return ua + ub;
        case SUB: return ua - ub;
        case MUL: return ua * ub;
        case DIV:
            fault |= b == 0;
            if (b == 0) return a;
            if (is_u64) return ua / ub;
            return b == -1 ? (long long)(-ua) : a / b;
        case MIN: return less ? a : b;
        case MAX: return less ? b : a;
        default: return power(a, b, fault);
    }
}

}  // namespace

PLAIN(plain_binary, Elements<3>) {
    int64_t at[3];
    if (!place(p, at)) return;
    const uint32_t operation = p.code.operation;
    const void *left = p.operands[0], *right = p.operands[1];
    void* to = p.operands[2];
    const bool compares = operation >= EQUAL;
    if (p.code.from == F32) {
        const float a = element<float>(left, at[0]), b = element<float>(right, at[1]);
        if (compares) {
            element<unsigned char>(to, at[2]) = compared(operation, a, b);
        } else {
            element<float>(to, at[2]) = binary(operation, a, b);
        }
    } else if (p.code.from == F64) {
        const double a = element<double>(left, at[0]), b = element<double>(right, at[1]);
        if (compares) {
            element<unsigned char>(to, at[2]) = compared(operation, a, b);
        } else {
            element<double>(to, at[2]) = binary(operation, a, b);
        }
    } else {
        const long long a = load_integer(left, p.code.from, at[0]), b = load_integer(right, p.code.from, at[1]);
        const bool is_u64 = p.code.from == U64;
        if (compares) {
            const bool v = is_u64 ? compared(operation, (unsigned long long)a, (unsigned long long)b)
                                  : compared(operation, a, b);
            element<unsigned char>(to, at[2]) = v;
            return;
        }
        bool fault = false;
        store_integer(to, p.code.from, at[2], binary(operation, a, b, is_u64, fault));
        if (fault) p.counters[FAILURE] = 1;
    }
}

namespace {

// Calls `body` with a number of the size that `bytes` says.
#define BY_BYTES(bytes, body)                   \
    switch (bytes) {                            \
        case 1: { using T = uint8_t; body; break; }   \
        case 2: { using T = uint16_t; body; break; }  \
        case 4: { using T = uint32_t; body; break; }  \
        case 8: { using T = uint64_t; body; break; }  \
        default: { using T = ulonglong2; body; break; } \
    }

}  // namespace

// The size of an element in place of a type.
PLAIN(plain_select, Elements<4>) {
    int64_t at[4];
    if (!place(p, at)) return;
    const bool first = element<unsigned char>(p.operands[0], at[0]) != 0;
    const void* from = first ? p.operands[1] : p.operands[2];
    const int64_t source = first ? at[1] : at[2];
    BY_BYTES(p.code.from, element<T>(p.operands[3], at[3]) = element<T>(from, source))
}

PLAIN(plain_copy, Elements<2>) {
    int64_t at[2];
    if (!place(p, at)) return;
    BY_BYTES(p.code.from, element<T>(p.operands[1], at[1]) = element<T>(p.operands[0], at[0]))
}

PLAIN(plain_fill, Elements<1>) {
    int64_t at[1];
    if (!place(p, at)) return;
    const uint64_t value = p.call.value;
    switch (p.code.from) {
        case 1: element<uint8_t>(p.operands[0], at[0]) = uint8_t(value); break;
        case 2: element<uint16_t>(p.operands[0], at[0]) = uint16_t(value); break;
        case 4: element<uint32_t>(p.operands[0], at[0]) = uint32_t(value); break;
        default: element<uint64_t>(p.operands[0], at[0]) = value; break;
    }
}

namespace {

__device__ __forceinline__ bool is_float(uint32_t type) {
    return type == F32 || type == F64 || type == F16 || type == BF16;
}

// An integer as f64 with the last place set where it is inexact: what is made of it in fewer bits is rounded once.
__device__ __forceinline__ double to_odd(long long x, bool is_unsigned) {
    const double v = is_unsigned ? __ull2double_rz((unsigned long long)x) : __ll2double_rz(x);
    const long long back = is_unsigned ? (long long)__double2ull_rz(v) : __double2ll_rz(v);
    return back == x ? v : __longlong_as_double(__double_as_longlong(v) | 1);
}

// Truncated and saturated; NaN becomes zero.
__device__ __forceinline__ long long whole(double x, uint32_t type) {
    if (x != x) return 0;
    switch (type) {
        case I8: return (long long)fmin(fmax(x, -128.0), 127.0);
        case I16: return (long long)fmin(fmax(x, -32768.0), 32767.0);
        case I32: return (long long)fmin(fmax(x, -2147483648.0), 2147483647.0);
        case U8: return (long long)fmin(fmax(x, 0.0), 255.0);
        case U16: return (long long)fmin(fmax(x, 0.0), 65535.0);
        case U32: return (long long)fmin(fmax(x, 0.0), 4294967295.0);
        case U64:
            if (x <= 0.0) return 0;
            return x >= 18446744073709551616.0 ? -1ll : (long long)__double2ull_rz(x);
        default:
            if (x >= 9223372036854775808.0) return 0x7fffffffffffffffll;
            return x <= -9223372036854775808.0 ? -0x7fffffffffffffffll - 1 : (long long)x;
    }
}

}  // namespace

PLAIN(plain_cast, Elements<2>) {
    int64_t at[2];
    if (!place(p, at)) return;
    const uint32_t from = p.code.from, to = p.code.to;
    const void* input = p.operands[0];
    void* output = p.operands[1];
    if (is_float(from)) {
        double x;
        if (from == F64) {
            x = element<double>(input, at[0]);
        } else {
            const float v = from == F32   ? element<float>(input, at[0])
                            : from == F16 ? __half2float(element<half>(input, at[0]))
                                          : __bfloat162float(element<__nv_bfloat16>(input, at[0]));
            switch (to) {
                case F32: element<float>(output, at[1]) = v; return;
                case F16: element<half>(output, at[1]) = __float2half_rn(v); return;
                case BF16: element<__nv_bfloat16>(output, at[1]) = __float2bfloat16_rn(v); return;
                default: x = v; break;
            }
        }
        switch (to) {
            case F32: element<float>(output, at[1]) = float(x); break;
            case F16: element<half>(output, at[1]) = __double2half(x); break;
            case BF16: element<__nv_bfloat16>(output, at[1]) = __double2bfloat16(x); break;
            case F64: element<double>(output, at[1]) = x; break;
            case BOOL: element<unsigned char>(output, at[1]) = x != 0.0; break;
            default: store_integer(output, to, at[1], whole(x, to)); break;
        }
        return;
    }
    const long long x = load_integer(input, from, at[0]);
    const bool is_u64 = from == U64;
    switch (to) {
        case F32: element<float>(output, at[1]) = is_u64 ? __ull2float_rn((unsigned long long)x) : __ll2float_rn(x); break;
        case F64: element<double>(output, at[1]) = is_u64 ? __ull2double_rn((unsigned long long)x) : __ll2double_rn(x); break;
        case F16: element<half>(output, at[1]) = __double2half(to_odd(x, is_u64)); break;
        case BF16: element<__nv_bfloat16>(output, at[1]) = __double2bfloat16(to_odd(x, is_u64)); break;
        default: store_integer(output, to, at[1], x); break;
    }
}

// `call::Gather` behind its operands.
struct Gather {
    const void* data;
    const void* indices;
    void* output;
    unsigned* counters;
    uint64_t outer, axis, inner, count, index_bytes;
    Code code;
};

PLAIN(plain_gather, Gather) {
    const unsigned number = item();
    if (number >= p.code.items) return;
    unsigned rest = number;
    const unsigned k = take(rest, p.inner), i = take(rest, p.count);
    long long index = p.index_bytes == 4 ? element<int>(p.indices, i) : element<long long>(p.indices, i);
    if (index < 0) index += p.axis;
    if (index < 0 || index >= int64_t(p.axis)) {
        p.counters[FAILURE] = 1;
        return;
    }
    const int64_t source = (rest * p.axis + index) * p.inner + k;
    BY_BYTES(p.code.from, element<T>(p.output, number) = element<T>(p.data, source))
}

// `call::IndexMap` behind its operands.
struct IndexMap {
    const void* input;
    const int64_t* tables;
    void* output;
    unsigned* counters;
    uint64_t rank, in_dims[RANK], out_dims[RANK], value;
    Code code;
};

PLAIN(plain_index_map, IndexMap) {
    const unsigned number = item();
    if (number >= p.code.items) return;
    unsigned rest = number;
    int64_t source = 0, stride = 1, table = 0;
    bool inside = true;
    for (int axis = 0; axis < int(p.rank); ++axis) table += p.out_dims[axis];
    for (int axis = int(p.rank) - 1; axis >= 0; --axis) {
        table -= p.out_dims[axis];
        const int64_t index = p.tables[table + take(rest, p.out_dims[axis])];
        if (index < -1 || index >= int64_t(p.in_dims[axis])) {
            p.counters[FAILURE] = 1;
            return;
        }
        inside = inside && index >= 0;
        source += index * stride;
        stride *= p.in_dims[axis];
    }
    const uint64_t value = p.value;
    switch (p.code.from) {
        case 1: element<uint8_t>(p.output, number) = inside ? element<uint8_t>(p.input, source) : uint8_t(value); break;
        case 2: element<uint16_t>(p.output, number) = inside ? element<uint16_t>(p.input, source) : uint16_t(value); break;
        case 4: element<uint32_t>(p.output, number) = inside ? element<uint32_t>(p.input, source) : uint32_t(value); break;
        default: element<uint64_t>(p.output, number) = inside ? element<uint64_t>(p.input, source) : value; break;
    }
}
