// Clusters of blocks, and barriers that know of copies, which GPUs of sm_90 and later have.
#pragma once

#include <stdint.h>

#if __CUDA_ARCH__ >= 900
__device__ __forceinline__ int cluster_blocks() {
    int count;
    asm volatile("mov.u32 %0, %%cluster_nctarank;" : "=r"(count));
    return count;
}

__device__ __forceinline__ void cluster_arrive() {
    asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
}

__device__ __forceinline__ void cluster_wait() { asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory"); }

__device__ __forceinline__ void cluster_barrier() {
    cluster_arrive();
    cluster_wait();
}

// The address in the shared memory of another block of the cluster that `mine` has in one's own.
__device__ __forceinline__ uint32_t address_in(int block, const void* mine) {
    uint32_t address = static_cast<uint32_t>(__cvta_generic_to_shared(mine));
    asm("mapa.shared::cluster.u32 %0, %0, %1;" : "+r"(address) : "r"(block));
    return address;
}

#define WAIT(SCOPE)                                                                                       \
    asm volatile("{\n.reg .pred done;\nagain:\n"                                                          \
                 "mbarrier.try_wait.parity.acquire." SCOPE ".shared::cta.b64 done, [%0], %1;\n@!done bra again;\n}" ::"r"( \
                     address()),                                                                             \
                 "r"(phase & 1)                                                                              \
                 : "memory")

// A barrier of shared memory. A phase of it ends when so many threads have arrived, one of which may say how many bytes are to
// arrive in it from others too.
struct Arrivals {
    uint64_t state;

    // Before anything arrives, and before the barrier of all who use it.
    __device__ __forceinline__ void begin(int threads = 1) {
        asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;\nfence.mbarrier_init.release.cluster;" ::"r"(address()),
                     "r"(threads)
                     : "memory");
    }

    __device__ __forceinline__ void arrive() {
        asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(address()) : "memory");
    }

    __device__ __forceinline__ void expect(int bytes) {
        asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(address()), "r"(bytes) : "memory");
    }

    // Waits until all of phase `phase` has arrived; what other blocks have sent is there.
    __device__ __forceinline__ void wait(int phase) { WAIT("cluster"); }

    // The same, of what this block's threads and copies have brought.
    __device__ __forceinline__ void wait_in_block(int phase) { WAIT("cta"); }

    // Puts floats where `to` is in another block, and tells this barrier there.
    __device__ __forceinline__ void send(int block, float* to, float first, float second) {
        asm volatile("st.async.shared::cluster.mbarrier::complete_tx::bytes.v2.f32 [%0], {%1, %2}, [%3];" ::"r"(
                         address_in(block, to)),
                     "f"(first), "f"(second), "r"(address_in(block, this))
                     : "memory");
    }

    __device__ __forceinline__ void send(int block, float4* to, const float (&v)[4]) {
        asm volatile("st.async.shared::cluster.mbarrier::complete_tx::bytes.v4.f32 [%0], {%1, %2, %3, %4}, [%5];" ::"r"(
                         address_in(block, to)),
                     "f"(v[0]), "f"(v[1]), "f"(v[2]), "f"(v[3]), "r"(address_in(block, this))
                     : "memory");
    }

    __device__ __forceinline__ uint32_t address() const {
        return static_cast<uint32_t>(__cvta_generic_to_shared(this));
    }
};
#undef WAIT
#endif
