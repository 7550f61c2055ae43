// wgmma of 64×N×16 f16 or bf16, or 64×N×8 tf32: operands in shared memory, sums in f32 registers (sm_90a).
//
// Operands are rows of 128 bytes along k whose 16-byte chunks are swapped by the row's number modulo 8, in groups of
// eight rows that begin at multiples of 1024 bytes: the 128-byte swizzle.
#pragma once

#include <cuda_bf16.h>
#include <stdint.h>

#include <type_traits>

// What an operand's rows from `address` on are to wgmma; two more are the next 32 bytes of k.
__device__ __forceinline__ uint64_t describe(uint32_t address) {
    constexpr uint64_t GROUP = 1024 >> 4, SWIZZLE_128 = 1;
    return uint64_t((address & 0x3ffff) >> 4) | uint64_t(1) << 16 | GROUP << 32 | SWIZZLE_128 << 62;
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

#define PRODUCT_32(INSTRUCTION, TAIL) \
    asm volatile("wgmma.mma_async.sync.aligned.m64n32" INSTRUCTION " {" \
    "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15" \
    "}, %16, %17, 1, 1, 1" TAIL ";" : \
    "+f"(d[0][0]), "+f"(d[0][1]), "+f"(d[0][2]), "+f"(d[0][3]), \
    "+f"(d[1][0]), "+f"(d[1][1]), "+f"(d[1][2]), "+f"(d[1][3]), \
    "+f"(d[2][0]), "+f"(d[2][1]), "+f"(d[2][2]), "+f"(d[2][3]), \
    "+f"(d[3][0]), "+f"(d[3][1]), "+f"(d[3][2]), "+f"(d[3][3]) \
    : "l"(a), "l"(b))

template <typename T>
__device__ __forceinline__ void multiply_groups(float (&d)[4][4], uint64_t a, uint64_t b) {
    BY_TYPE(PRODUCT_32)
}

#define PRODUCT_64(INSTRUCTION, TAIL) \
    asm volatile("wgmma.mma_async.sync.aligned.m64n64" INSTRUCTION " {" \
    "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, " \
    "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31" \
    "}, %32, %33, 1, 1, 1" TAIL ";" : \
    "+f"(d[0][0]), "+f"(d[0][1]), "+f"(d[0][2]), "+f"(d[0][3]), \
    "+f"(d[1][0]), "+f"(d[1][1]), "+f"(d[1][2]), "+f"(d[1][3]), \
    "+f"(d[2][0]), "+f"(d[2][1]), "+f"(d[2][2]), "+f"(d[2][3]), \
    "+f"(d[3][0]), "+f"(d[3][1]), "+f"(d[3][2]), "+f"(d[3][3]), \
    "+f"(d[4][0]), "+f"(d[4][1]), "+f"(d[4][2]), "+f"(d[4][3]), \
    "+f"(d[5][0]), "+f"(d[5][1]), "+f"(d[5][2]), "+f"(d[5][3]), \
    "+f"(d[6][0]), "+f"(d[6][1]), "+f"(d[6][2]), "+f"(d[6][3]), \
    "+f"(d[7][0]), "+f"(d[7][1]), "+f"(d[7][2]), "+f"(d[7][3]) \
    : "l"(a), "l"(b))

template <typename T>
__device__ __forceinline__ void multiply_groups(float (&d)[8][4], uint64_t a, uint64_t b) {
    BY_TYPE(PRODUCT_64)
}

#define PRODUCT_128(INSTRUCTION, TAIL) \
    asm volatile("wgmma.mma_async.sync.aligned.m64n128" INSTRUCTION " {" \
    "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, " \
    "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, " \
    "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, " \
    "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63" \
    "}, %64, %65, 1, 1, 1" TAIL ";" : \
    "+f"(d[0][0]), "+f"(d[0][1]), "+f"(d[0][2]), "+f"(d[0][3]), \
    "+f"(d[1][0]), "+f"(d[1][1]), "+f"(d[1][2]), "+f"(d[1][3]), \
    "+f"(d[2][0]), "+f"(d[2][1]), "+f"(d[2][2]), "+f"(d[2][3]), \
    "+f"(d[3][0]), "+f"(d[3][1]), "+f"(d[3][2]), "+f"(d[3][3]), \
    "+f"(d[4][0]), "+f"(d[4][1]), "+f"(d[4][2]), "+f"(d[4][3]), \
    "+f"(d[5][0]), "+f"(d[5][1]), "+f"(d[5][2]), "+f"(d[5][3]), \
    "+f"(d[6][0]), "+f"(d[6][1]), "+f"(d[6][2]), "+f"(d[6][3]), \
    "+f"(d[7][0]), "+f"(d[7][1]), "+f"(d[7][2]), "+f"(d[7][3]), \
    "+f"(d[8][0]), "+f"(d[8][1]), "+f"(d[8][2]), "+f"(d[8][3]), \
    "+f"(d[9][0]), "+f"(d[9][1]), "+f"(d[9][2]), "+f"(d[9][3]), \
    "+f"(d[10][0]), "+f"(d[10][1]), "+f"(d[10][2]), "+f"(d[10][3]), \
    "+f"(d[11][0]), "+f"(d[11][1]), "+f"(d[11][2]), "+f"(d[11][3]), \
    "+f"(d[12][0]), "+f"(d[12][1]), "+f"(d[12][2]), "+f"(d[12][3]), \
    "+f"(d[13][0]), "+f"(d[13][1]), "+f"(d[13][2]), "+f"(d[13][3]), \
    "+f"(d[14][0]), "+f"(d[14][1]), "+f"(d[14][2]), "+f"(d[14][3]), \
    "+f"(d[15][0]), "+f"(d[15][1]), "+f"(d[15][2]), "+f"(d[15][3]) \
    : "l"(a), "l"(b))

template <typename T>
__device__ __forceinline__ void multiply_groups(float (&d)[16][4], uint64_t a, uint64_t b) {
    BY_TYPE(PRODUCT_128)
}
