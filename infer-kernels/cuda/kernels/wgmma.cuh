// wgmma of 64×N×16 f16 or bf16, or 64×N×8 tf32: operands in shared memory, sums in f32 registers (sm_90a).
//
// Operands are rows of 128 bytes along k whose 16-byte chunks are swapped by the row's number modulo 8, in groups of
// eight rows that begin at multiples of 1024 bytes: the 128-byte swizzle. Or they are rows of 64 bytes, and two of them are what
// one is there: the 64-byte swizzle.
#pragma once

#include <cuda_bf16.h>
#include <stdint.h>

#include <type_traits>

// What an operand's rows from `address` on are to wgmma; two more are the next 32 bytes of k.
template <int ROW_BYTES>
__device__ __forceinline__ uint64_t describe(uint32_t address) {
    static_assert(ROW_BYTES == 128 || ROW_BYTES == 64);
    constexpr uint64_t GROUP = 8 * ROW_BYTES >> 4, SWIZZLE = ROW_BYTES == 128 ? 1 : 2;
    return uint64_t((address & 0x3ffff) >> 4) | uint64_t(1) << 16 | GROUP << 32 | SWIZZLE << 62;
}

__device__ __forceinline__ void begin_products() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }

__device__ __forceinline__ void commit_products() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }

template <int PENDING>
__device__ __forceinline__ void await_products() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(PENDING) : "memory");
}

// d += a · bᵀ; T: half, __nv_bfloat16, or four bytes for tf32.

#define BY_TYPE(PRODUCT)                                        \
    if constexpr (sizeof(T) == 4) {                             \
        PRODUCT("k8.f32.tf32.tf32", "");                        \
    } else if constexpr (std::is_same_v<T, __nv_bfloat16>) {    \
        PRODUCT("k16.f32.bf16.bf16", ", 0, 0");                 \
    } else {                                                    \
        PRODUCT("k16.f32.f16.f16", ", 0, 0");                   \
    }

// The registers of the sums by their numbers, and the sums of four groups of eight columns.
#define TEN(T) "%" #T "0, %" #T "1, %" #T "2, %" #T "3, %" #T "4, %" #T "5, %" #T "6, %" #T "7, %" #T "8, %" #T "9, "
#define ONES "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, "
#define GROUP(J) "+f"(d[J][0]), "+f"(d[J][1]), "+f"(d[J][2]), "+f"(d[J][3])
#define GROUPS(J) GROUP(J), GROUP(J + 1), GROUP(J + 2), GROUP(J + 3)
#define MULTIPLY(COLUMNS, INSTRUCTION, REGISTERS, OPERANDS, TAIL, ...)                       \
    asm volatile("wgmma.mma_async.sync.aligned.m64n" COLUMNS INSTRUCTION " {" REGISTERS "}, " \
                 OPERANDS ", 1, 1, 1" TAIL ";"                                               \
                 : __VA_ARGS__                                                               \
                 : "l"(a), "l"(b))

#define PRODUCT_32(INSTRUCTION, TAIL) \
    MULTIPLY("32", INSTRUCTION, ONES "%10, %11, %12, %13, %14, %15", \
            "%16, %17", TAIL, GROUPS(0))

template <typename T>
__device__ __forceinline__ void multiply_groups(float (&d)[4][4], uint64_t a, uint64_t b) {
    BY_TYPE(PRODUCT_32)
}

#define PRODUCT_64(INSTRUCTION, TAIL) \
    MULTIPLY("64", INSTRUCTION, ONES TEN(1) TEN(2) "%30, %31", \
            "%32, %33", TAIL, GROUPS(0), GROUPS(4))

template <typename T>
__device__ __forceinline__ void multiply_groups(float (&d)[8][4], uint64_t a, uint64_t b) {
    BY_TYPE(PRODUCT_64)
}

#define PRODUCT_128(INSTRUCTION, TAIL) \
    MULTIPLY("128", INSTRUCTION, ONES TEN(1) TEN(2) TEN(3) TEN(4) TEN(5) "%60, %61, %62, %63", \
            "%64, %65", TAIL, GROUPS(0), GROUPS(4), GROUPS(8), GROUPS(12))

template <typename T>
__device__ __forceinline__ void multiply_groups(float (&d)[16][4], uint64_t a, uint64_t b) {
    BY_TYPE(PRODUCT_128)
}

#define PRODUCT_256(INSTRUCTION, TAIL)                                                                     \
    MULTIPLY("256", INSTRUCTION,                                                                           \
             ONES TEN(1) TEN(2) TEN(3) TEN(4) TEN(5) TEN(6) TEN(7) TEN(8) TEN(9) TEN(10) TEN(11)           \
             "%120, %121, %122, %123, %124, %125, %126, %127",                                             \
             "%128, %129", TAIL, GROUPS(0), GROUPS(4), GROUPS(8), GROUPS(12), GROUPS(16), GROUPS(20),      \
             GROUPS(24), GROUPS(28))

template <typename T>
__device__ __forceinline__ void multiply_groups(float (&d)[32][4], uint64_t a, uint64_t b) {
    BY_TYPE(PRODUCT_256)
}

#undef TEN
#undef ONES
#undef GROUP
#undef GROUPS
#undef MULTIPLY
#undef BY_TYPE
