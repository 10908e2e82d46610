/* A place in a ring of stages of shared memory, each with a barrier for "full" and one for "empty". */
#ifndef EFFNET_KERNELS_CURSOR_CUH
#define EFFNET_KERNELS_CURSOR_CUH

#include <stdint.h>

/* Which stage, and the parity of its barrier's phase to wait for, which flips each time around. */
struct cursor {
    int stage = 0;
    uint32_t parity = 0;
    __device__ __forceinline__ void advance(int stages)
    {
        if (++stage == stages) stage = 0, parity ^= 1;
    }
    /* `steps` times advance(STAGES). */
    template <int STAGES> __device__ __forceinline__ void skip(int steps)
    {
        const int to = stage + steps;
        parity ^= to / STAGES & 1;
        stage = to % STAGES;
    }
};

#endif
