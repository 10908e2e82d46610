/* A ring of stages in shared memory, which producers fill and consumers read. Each stage has two barriers:
 * a phase of `full` ends when the stage's bytes have arrived, a phase of `empty` when its readers are done.
 */
#ifndef EFFNET_KERNELS_RING_CUH
#define EFFNET_KERNELS_RING_CUH

#include "ptx.cuh"

constexpr int MBARRIER_BYTES = 8;

/* A stage of the ring, and the parity of the round, which flips each time around. */
struct cursor {
    int stage = 0;
    uint32_t parity = 0;

    __device__ __forceinline__ void advance(int stages)
    {
        if (++stage == stages) stage = 0, parity ^= 1;
    }
    /* advance(STAGES), `steps` times. */
    template <int STAGES> __device__ __forceinline__ void skip(int steps)
    {
        const int to = stage + steps;
        parity ^= to / STAGES & 1;
        stage = to % STAGES;
    }
};

/* The ring's barriers: an array of `full`, one for each stage, then one of `empty`. */
template <int STAGES> struct ring {
    static constexpr int BYTES = 2 * STAGES * MBARRIER_BYTES;
    uint32_t base; /* shared address */

    __device__ __forceinline__ uint32_t full(int stage) const { return base + MBARRIER_BYTES * stage; }
    __device__ __forceinline__ uint32_t empty(int stage) const { return full(STAGES + stage); }

    /* By one thread; mbarrier_init_fence must follow. readers: arrivals that make a stage empty. */
    __device__ __forceinline__ void init(uint32_t readers, int stages = STAGES) const
    {
        for (int i = 0; i < stages; i++) {
            ptx::mbarrier_init(full(i), 1);
            ptx::mbarrier_init(empty(i), readers);
        }
    }
    /* Waits until the stage is empty. All are at first. */
    __device__ __forceinline__ void wait_empty(const cursor &at) const
    {
        ptx::mbarrier_wait(empty(at.stage), at.parity ^ 1);
    }
    /* The same, then announces the bytes that will come. Returns the barrier on which they count. */
    __device__ __forceinline__ uint32_t begin_fill(const cursor &at, uint32_t bytes) const
    {
        const uint32_t barrier = full(at.stage); /* worked out after the wait, it makes ptxas spill */
        wait_empty(at);
        ptx::mbarrier_arrive_expect(barrier, bytes);
        return barrier;
    }
    __device__ __forceinline__ void wait_full(const cursor &at) const
    {
        ptx::mbarrier_wait(full(at.stage), at.parity);
    }
    __device__ __forceinline__ bool is_full(const cursor &at) const
    {
        return ptx::mbarrier_test(full(at.stage), at.parity);
    }
    /* One of the arrivals that make the stage empty. */
    __device__ __forceinline__ void release(const cursor &at) const { ptx::mbarrier_arrive(empty(at.stage)); }
};

#endif
