// Clusters of blocks, and barriers that know of copies, which GPUs of sm_90 and later have.
#pragma once

#include <stdint.h>

#if __CUDA_ARCH__ >= 900
__device__ __forceinline__ int cluster_blocks() {
    int count;
    asm volatile("mov.u32 %0, %%cluster_nctarank;" : "=r"(count));
    return count;
}

__device__ __forceinline__ void cluster_barrier() {
    asm volatile("barrier.cluster.arrive.release.aligned;\nbarrier.cluster.wait.acquire.aligned;" ::: "memory");
}

// The address in the shared memory of another block of the cluster that `mine` has in one's own.
__device__ __forceinline__ uint32_t address_in(int block, const void* mine) {
    uint32_t address = static_cast<uint32_t>(__cvta_generic_to_shared(mine));
    asm("mapa.shared::cluster.u32 %0, %0, %1;" : "+r"(address) : "r"(block));
    return address;
}

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

    // Waits until all of phase `phase` has arrived.
    __device__ __forceinline__ void wait(int phase) {
        int done;
        do {
            asm volatile(
                "{\n.reg .pred done;\n"
                "mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 done, [%1], %2;\n"
                "selp.b32 %0, 1, 0, done;\n}"
                : "=r"(done)
                : "r"(address()), "r"(phase & 1)
                : "memory");
        } while (!done);
    }

    // Puts two floats where `to` is in another block, and tells this barrier there.
    __device__ __forceinline__ void send(int block, float* to, float first, float second) {
        asm volatile("st.async.shared::cluster.mbarrier::complete_tx::bytes.v2.f32 [%0], {%1, %2}, [%3];" ::"r"(
                         address_in(block, to)),
                     "f"(first), "f"(second), "r"(address_in(block, this))
                     : "memory");
    }

    __device__ __forceinline__ uint32_t address() const {
        return static_cast<uint32_t>(__cvta_generic_to_shared(this));
    }
};
#endif
