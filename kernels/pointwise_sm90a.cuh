/* What the pointwise kernels for sm_90a share: a block of two consumer warpgroups and a producer, shared
 * memory, and the way from accumulators to staged fp16 rows. */
#ifndef EFFNET_KERNELS_POINTWISE_SM90A_CUH
#define EFFNET_KERNELS_POINTWISE_SM90A_CUH

#include "pointwise_common.cuh"
#include "ring.cuh"
#include "swizzle.cuh"

namespace pointwise
{

constexpr int ROWS = 64; /* of a warpgroup's part of a tile */
constexpr int WARPGROUP = 128, CONSUMERS = 2 /* warpgroups */, CONSUMER_WARPS = 4 * CONSUMERS;
constexpr int PRODUCER_REGISTERS = 24;
constexpr int SHARED_MAX = 227 * 1024, SHARED_RESERVED = 1024; /* of an SM; what the driver takes a block */

/* Named barriers: one for each consumer warpgroup. 0 is __syncthreads. */
enum named_barrier { CONSUMER_BARRIER = 1 };

__device__ __forceinline__ void sync_consumer(int group)
{
    ptx::named_barrier_sync(CONSUMER_BARRIER + group, WARPGROUP);
}

/* A tile of BN columns, in PARTS wgmma instructions of PART columns each; BLOCKS on an SM. */
template <int BN_, int PART_, int BLOCKS_> struct block_tile {
    static constexpr int BN = BN_, PART = PART_, BLOCKS = BLOCKS_, PARTS = BN / PART;
    static constexpr int STAGING_BYTES = ROWS * BN * 2;
    /* A block alone on its SM gives the producer a whole warpgroup, whose registers then move to the
     * consumers: what it leaves of 64 Ki, in steps of 8. Several blocks have few registers a thread anyway,
     * and a single warp produces. */
    static constexpr bool MOVES_REGISTERS = BLOCKS == 1;
    static constexpr int THREADS = WARPGROUP * CONSUMERS + (MOVES_REGISTERS ? WARPGROUP : 32);
    static constexpr int REGISTERS = (65536 / WARPGROUP - PRODUCER_REGISTERS) / CONSUMERS / 8 * 8;
    static_assert(BN % PART == 0 && BN <= 256, "whole instructions, and a tile of w by TMA");
    static_assert(STAGING_BYTES % 128 == 0, "buffers are aligned");
    typedef float accumulators[PARTS][PART / 2];
};

/* Shared memory, from an aligned `base` on: T::W_RESIDENT_BYTES of w, the ring, staging buffers of each
 * consumer, T::VECTORS_BYTES of biases, barriers. */
template <class T> struct shared_layout {
    static constexpr int STAGES = T::W_RESIDENT_BYTES, STAGING = STAGES + T::STAGES * T::STAGE_BYTES;
    static constexpr int VECTORS = STAGING + CONSUMERS * T::BUFFERS * T::STAGING_BYTES;
    static constexpr int BARRIERS = VECTORS + T::VECTORS_BYTES;
    unsigned char *start;
    uint32_t base, staging, barriers;
    float *bias;

    __device__ explicit shared_layout(unsigned char *memory)
        : start(memory + (T::ALIGNMENT - ptx::shared_address(memory) % T::ALIGNMENT) % T::ALIGNMENT),
          base(ptx::shared_address(start)), staging(base + STAGING), barriers(base + BARRIERS),
          bias(reinterpret_cast<float *>(start + VECTORS))
    {
    }
    __device__ uint32_t stage(const cursor &at) const { return base + STAGES + at.stage * T::STAGE_BYTES; }
    __device__ ring<T::STAGES> stages() const { return {barriers}; }
    __device__ uint32_t buffer(int group, int i) const
    {
        return staging + (group * T::BUFFERS + i) * T::STAGING_BYTES;
    }
    /* The barrier on which a residual's bytes for that buffer count. */
    __device__ uint32_t residual(int group, int i) const
    {
        return barriers + ring<T::STAGES>::BYTES + MBARRIER_BYTES * (group * T::BUFFERS + i);
    }
};

/* Calls produce() in one thread of the producer, consume(group) in the consumers. One branch for both, also
 * for the move of registers: after a join ptxas would not know whose registers are whose. */
template <class T, class Produce, class Consume>
__device__ __forceinline__ void split_roles(const Produce &produce, const Consume &consume)
{
    const int group = threadIdx.x / WARPGROUP;
    if (group == CONSUMERS) {
        if constexpr (T::MOVES_REGISTERS) ptx::registers_decrease<PRODUCER_REGISTERS>();
        if (threadIdx.x == WARPGROUP * CONSUMERS) produce();
    } else {
        if constexpr (T::MOVES_REGISTERS) ptx::registers_increase<T::REGISTERS>();
        consume(group);
    }
}

/* Sums start from the bias: columns n0.. of `bias`, which has n. */
template <class T>
__device__ __forceinline__ void start_accumulators(typename T::accumulators &acc, const float *bias, int n0,
                                                   int n)
{
#pragma unroll
    for (int j = 0; j < T::BN / 8; j++) {
        const int column = n0 + 8 * j + 2 * (threadIdx.x % 4);
        float *d = &acc[j / (T::PART / 8)][j % (T::PART / 8) * 4];
        const float2 b = column < n ? *reinterpret_cast<const float2 *>(bias + column)
                                    : make_float2(0.0f, 0.0f);
        d[0] = d[2] = b.x, d[1] = d[3] = b.y;
#pragma unroll
        for (int i = 0; i < 4; i++) ptx::own_register(d[i]);
    }
}

/* Two neighbouring columns of a row, finished. */
__device__ __forceinline__ uint32_t finish_pair(float x, float y, uint32_t residual, __half2 low,
                                                __half2 high)
{
    const float2 r = __half22float2(as_half2(residual));
    return as_bits(__hmin2_nan(__hmax2_nan(__floats2half2_rn(x + r.x, y + r.y), low), high));
}

/* SiLU on the accumulators; what follows then clamps to no bounds. */
template <class T> __device__ __forceinline__ void apply_silu(typename T::accumulators &acc)
{
#pragma unroll
    for (int p = 0; p < T::PARTS; p++)
#pragma unroll
        for (int i = 0; i < T::PART / 2; i += 2) epilogue::silu_pair(acc[p][i], acc[p][i + 1]);
}

/* The accumulators to a staging buffer; with `residual` what is there is added first. */
template <class T>
__device__ __forceinline__ void stage_output(const typename T::accumulators &acc, const pointwise_args &args,
                                             bool residual, uint32_t buffer)
{
    const int lane = threadIdx.x & 31, row0 = threadIdx.x / 32 % 4 * 16;
    const __half2 low = __float2half2_rn(args.output_min), high = __float2half2_rn(args.output_max);
    constexpr int FRAGMENTS = T::BN / 8, PER_PART = T::PART / 8;
#pragma unroll
    for (int j = 0; j + 1 < FRAGMENTS; j += 2) {
        const uint32_t address = buffer + (row0 + lane % 16) * T::BN * 2 + (8 * j + lane / 16 * 8) * 2;
        uint32_t r[4] = {0, 0, 0, 0};
        if (residual) ptx::ldmatrix_x4(r, address);
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const int fragment = j + i / 2, part = fragment / PER_PART,
                      f = fragment % PER_PART * 4 + i % 2 * 2;
            r[i] = finish_pair(acc[part][f], acc[part][f + 1], r[i], low, high);
        }
        ptx::stmatrix_x4(address, r);
    }
    if constexpr (FRAGMENTS % 2) { /* the last fragment, a pair of columns a lane */
        constexpr int f = (PER_PART - 1) * 4;
#pragma unroll
        for (int h = 0; h < 2; h++) {
            const uint32_t address = buffer + (row0 + lane / 4 + 8 * h) * T::BN * 2 +
                                     (8 * (FRAGMENTS - 1) + lane % 4 * 2) * 2;
            uint32_t r = residual ? ptx::load_shared(address) : 0;
            r = finish_pair(acc[T::PARTS - 1][f + 2 * h], acc[T::PARTS - 1][f + 2 * h + 1], r, low, high);
            ptx::store_shared(address, r);
        }
    }
}

/* The accumulators to a staging buffer that nobody reads, whence this warpgroup's bulk copies may take them.
 */
template <class T>
__device__ __forceinline__ void stage_tile(const typename T::accumulators &acc, const pointwise_args &args,
                                           bool residual, uint32_t buffer, int group)
{
    sync_consumer(group); /* all threads know that the buffer is free */
    stage_output<T>(acc, args, residual, buffer);
    ptx::fence_proxy_async();
    sync_consumer(group); /* all rows are in the buffer */
}

} // namespace pointwise

#endif
