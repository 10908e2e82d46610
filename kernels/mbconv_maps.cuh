/* mbconv for small maps (mbconv_maps_sm90a.cu): its parameters, shared memory, and share of the work. */
#ifndef EFFNET_KERNELS_MBCONV_MAPS_CUH
#define EFFNET_KERNELS_MBCONV_MAPS_CUH

#include "mbconv.h"
#include "mbconv_weights.cuh"
#include "ptx.cuh"

#include <stdint.h>

namespace mbconv::maps
{

constexpr int WARPGROUP = 128, UNIT_WARPS = 4; /* hidden channels of a unit: 4 times CHANNELS */
constexpr int REGISTERS = 65536;

/* IN, OUT: tiles of 8 channels of x and of the part of y that a block computes, PARTS: how many of these.
 * MAPS: side by side. ROWS: of h, at most. TWO_PARTS: whether each of project's weights is the sum of two,
 * which are added in turn. X_BUFFERS: 1 where there is no memory for 2. PRODUCERS: warpgroups. The registers
 * are those of a thread. */
template <int IN_, int OUT_, int PARTS_, int K_, int S_, int MAPS_, int ROWS_, bool TWO_PARTS_,
          int X_BUFFERS_, int PRODUCERS_, int CONSUMER_REGISTERS_, int PRODUCER_REGISTERS_>
struct map {
    static constexpr bool TWO_PARTS = TWO_PARTS_;
    static constexpr int IN = IN_, OUT = OUT_, PARTS = PARTS_, K = K_, S = S_, MAPS = MAPS_, ROWS = ROWS_,
                         X_BUFFERS = X_BUFFERS_, PRODUCERS = PRODUCERS_,
                         CONSUMER_REGISTERS = CONSUMER_REGISTERS_, PRODUCER_REGISTERS = PRODUCER_REGISTERS_;
    static constexpr int THREADS = WARPGROUP * (1 + PRODUCERS);
    static constexpr int START_REGISTERS = REGISTERS / THREADS / 8 * 8; /* with which all begin */
    static constexpr int PAD = K / 2, PX = 4, OUTS = PX / S;            /* a thread's columns of h and of d */
    static constexpr int RIGHT = K - S - PAD > 0 ? K - S - PAD : 0; /* columns that it needs beyond them */
    static constexpr int WIDTH = 16 / MAPS, OUT_WIDTH = WIDTH / S,
                         OUT_ROWS = (ROWS + S - 1) / S; /* of a map */
    static constexpr int EDGE = MAPS == 1;              /* columns that a map may lack */
    static constexpr int LANES = 4 / MAPS;              /* threads that share a map's row */
    static constexpr int BLOCKS = MAPS * ((OUT_ROWS * OUT_WIDTH + 63) / 64); /* of 64 pixels of d */
    /* Pairs of rows of h. Pair q reaches LIVE outputs from FIRST + q * SHIFT on, and finishes SHIFT of them.
     */
    static constexpr int PAIRS = (ROWS + 1) / 2, SHIFT = 2 / S, FIRST = -(PAD / S);
    static constexpr int LIVE = (1 + PAD) / S - FIRST + 1;
    /* Pairs from 1 to before this reach all LIVE outputs. */
    static constexpr int MIDDLE_END = ((OUT_ROWS - LIVE - FIRST) / SHIFT + 1) < ROWS / 2
                                          ? ((OUT_ROWS - LIVE - FIRST) / SHIFT + 1)
                                          : ROWS / 2;
    static constexpr bool RESIDUAL = S == 1 && PARTS == 1 && IN == OUT; /* whether there can be one */

    static constexpr int BLOCK_BYTES = 64 * CHANNELS * 2, D_BYTES = UNIT_WARPS * BLOCKS * BLOCK_BYTES;
    /* Of project's weights: those of a warp in one part, in all, and of a unit. */
    static constexpr int PART_P_BYTES = OUT * 256, WARP_P_BYTES = (1 + TWO_PARTS) * PART_P_BYTES,
                         P_BYTES = UNIT_WARPS * WARP_P_BYTES;
    static constexpr int TILE_BYTES = IN * 128, X_BYTES = 2 * ROWS * TILE_BYTES; /* of 8 columns; of all */
    static constexpr int CHANNEL_BYTES = 4 * channel_floats(K), WARP_BYTES = CHANNELS * CHANNEL_BYTES;
    static constexpr int D = 0, WEIGHTS = D + PRODUCERS * D_BYTES, X = WEIGHTS + PRODUCERS * P_BYTES,
                         TAPS = X + X_BUFFERS * X_BYTES,
                         BIAS = TAPS + 2 * PRODUCERS * UNIT_WARPS * WARP_BYTES,
                         BARRIERS = BIAS + PARTS * OUT * 8 * 4;
    static constexpr int ALIGNMENT = 1024,
                         SHARED_BYTES = BARRIERS + 8 * (2 * PRODUCERS + X_BUFFERS) + ALIGNMENT;

    static_assert(IN % 2 == 0 && OUT % 2 == 0 && (MAPS == 1 || (MAPS == 2 && OUT_ROWS * OUT_WIDTH <= 64)),
                  "");
    static_assert(X_BUFFERS == 2 || !RESIDUAL, "the last rows of y need x while the next x comes");
    static_assert(SHARED_BYTES <= 227 * 1024, "");
    static_assert(CONSUMER_REGISTERS + PRODUCERS * PRODUCER_REGISTERS <= START_REGISTERS * (1 + PRODUCERS),
                  "else setmaxnreg waits for ever");
};

/* Shared memory, by addresses. */
template <class P> struct layout {
    uint32_t base;

    __device__ __forceinline__ uint32_t d(int producer) const { return base + P::D + producer * P::D_BYTES; }
    __device__ __forceinline__ uint32_t weights(int producer) const
    {
        return base + P::WEIGHTS + producer * P::P_BYTES;
    }
    __device__ __forceinline__ uint32_t x(int buffer) const { return base + P::X + buffer * P::X_BYTES; }
    /* Two buffers of a warp's taps. */
    __device__ __forceinline__ uint32_t taps(int warp) const
    {
        return base + P::TAPS + 2 * warp * P::WARP_BYTES;
    }

    __device__ __forceinline__ uint32_t bias() const { return base + P::BIAS; } /* of project */

    __device__ __forceinline__ uint32_t full(int producer) const { return base + P::BARRIERS + 8 * producer; }
    __device__ __forceinline__ uint32_t empty(int producer) const { return full(P::PRODUCERS + producer); }
    __device__ __forceinline__ uint32_t x_full(int buffer) const { return full(2 * P::PRODUCERS + buffer); }

    __device__ __forceinline__ void init() const
    {
        for (int i = 0; i < 2 * P::PRODUCERS + P::X_BUFFERS; i++) ptx::mbarrier_init(full(i), WARPGROUP / 32);
    }
};

/* A block's share of the work: tiles blockIdx.x, + gridDim.x, ...; a tile is PARTS of MAPS maps. */
template <class P> struct work {
    int tiles, warps,
        units; /* the block's tiles; a tile's groups of CHANNELS hidden channels, and its units */

    __device__ __forceinline__ work(const mbconv_args &args)
        : warps(args.hidden / CHANNELS), units((warps + UNIT_WARPS - 1) / UNIT_WARPS)
    {
        const int all = (args.n + P::MAPS - 1) / P::MAPS * P::PARTS;
        tiles = (all - static_cast<int>(blockIdx.x) + static_cast<int>(gridDim.x) - 1) /
                static_cast<int>(gridDim.x);
    }
    /* The groups of a unit; warps beyond the last one repeat it, and nobody reads their d. */
    __device__ __forceinline__ int group(int unit, int warp) const
    {
        return min(unit * UNIT_WARPS + warp, warps - 1);
    }
    __device__ __forceinline__ static int index(int tile) { return blockIdx.x + tile * gridDim.x; }
    __device__ __forceinline__ static int part(int tile) { return index(tile) % P::PARTS; }
    __device__ __forceinline__ static int image(int tile) { return index(tile) / P::PARTS * P::MAPS; }
};

/* The lane, worked out where it is used: what follows from it would else be kept in registers for all uses.
 */
__device__ __forceinline__ uint32_t lane_here()
{
    return ptx::kept(threadIdx.x) % 32;
}

/* One arrival for the whole warp, after what it has read or written. */
__device__ __forceinline__ void arrive_warp(uint32_t barrier)
{
    __syncwarp();
    if (threadIdx.x % 32 == 0) ptx::mbarrier_arrive(barrier);
}

} // namespace mbconv::maps

#endif
