/* mbconv for small maps (mbconv_maps_sm90a.cu): the warpgroup that fetches x and makes y of d. */
#ifndef EFFNET_KERNELS_MBCONV_MAPS_CONSUMER_CUH
#define EFFNET_KERNELS_MBCONV_MAPS_CONSUMER_CUH

#include "mbconv_maps.cuh"
#include "swizzle.cuh"

#include <cuda_fp16.h>

namespace mbconv::maps
{

/* x of the maps of images from `image` on, as wgmma reads it; zeros outside of them. */
template <class P> __device__ __forceinline__ void load_x(uint32_t x, const mbconv_args &args, int image)
{
    const int warp = threadIdx.x / 32 % UNIT_WARPS, lane = threadIdx.x % 32;
    const int n = lane % 8, j = lane / 8 % 2, half = lane / 16;
    const int column = P::PX * (n / 2) + 2 * j + n % 2; /* that lies at column n of tile j */
    const int c = column % P::WIDTH;
    const bool inside = image + column / P::WIDTH < args.n && c < args.width;
    const __half *from = static_cast<const __half *>(args.x);
    if (inside)
        from += (static_cast<size_t>(image + column / P::WIDTH) * args.height * args.width + c) *
                    args.in_channels +
                8 * half;
    x += j * P::TILE_BYTES + half * 128 + n * 16;
    for (int row = warp; row < P::ROWS; row += UNIT_WARPS) {
        const bool valid = inside && row < args.height;
        const __half *source = from + (valid ? row * args.width * args.in_channels : 0);
#pragma unroll
        for (int k = 0; k < P::IN / 2; k++)
            ptx::cp_async_16(x + row * 2 * P::TILE_BYTES + k * 2 * 128, source + k * 16, valid);
    }
    ptx::cp_async_commit();
}

/* Once this thread's copies of x are there. */
__device__ __forceinline__ void hand_over_x(uint32_t full)
{
    ptx::cp_async_wait<0>();
    ptx::fence_proxy_async();
    arrive_warp(full);
}

/* Sums start from project's bias; this thread's lies at `bias`. */
template <class P>
__device__ __forceinline__ void start_sums(float (&sums)[P::BLOCKS][4 * P::OUT], uint32_t bias)
{
#pragma unroll
    for (int j = 0; j < P::OUT; j++) {
        const uint2 v = ptx::load_shared_uint2(bias + j * 8 * 4);
#pragma unroll
        for (int b = 0; b < P::BLOCKS; b++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                sums[b][4 * j + i] = __uint_as_float(i % 2 ? v.y : v.x);
                ptx::own_register(sums[b][4 * j + i]); /* here: there are no registers for all biases */
            }
    }
}

/* Adds a unit's products: `steps` of 16 hidden channels, of each the weights' high parts, then the low. */
template <class P>
__device__ __forceinline__ void add_unit(float (&sums)[P::BLOCKS][4 * P::OUT], uint32_t d, uint32_t weights,
                                         int steps)
{
#pragma unroll 1
    for (int step = 0; step < steps; step++) {
        ptx::wgmma_fence();
#pragma unroll
        for (int low = 0; low <= P::TWO_PARTS; low++)
#pragma unroll
            for (int b = 0; b < P::BLOCKS; b++)
                ptx::wgmma_f16_add_m_major(
                    sums[b], swizzle<128>::descriptor(d + (step * P::BLOCKS + b) * P::BLOCK_BYTES),
                    swizzle<K16_BYTES>::descriptor(weights + step * P::WARP_P_BYTES + low * P::PART_P_BYTES));
        ptx::wgmma_commit();
    }
    ptx::wgmma_wait<0>();
#pragma unroll
    for (int b = 0; b < P::BLOCKS; b++)
#pragma unroll
        for (int i = 0; i < 4 * P::OUT; i++) ptx::wgmma_touch(sums[b][i]);
}

/* Pixel `pixel` of 64 of block b: y of this thread's channels, from sums[b][4 j + first], and the next. */
template <class P>
__device__ __forceinline__ void store_pixel(const float (&sums)[4 * P::OUT], int first,
                                            const mbconv_args &args, int b, int pixel, int tile, uint32_t x)
{
    constexpr int MAP_BLOCKS = P::BLOCKS / P::MAPS, TOGETHER = 5; /* as many as there are registers for */
    const int map = b / MAP_BLOCKS, image = work<P>::image(tile) + map, t = threadIdx.x % 4;
    const int place = b % MAP_BLOCKS * 64 + pixel, row = place / P::OUT_WIDTH, column = place % P::OUT_WIDTH;
    if (row >= args.out_height || column >= args.out_width || image >= args.n) return;
    __half *y = static_cast<__half *>(args.y) +
                (static_cast<size_t>(image) * args.out_height * args.out_width + row * args.out_width +
                 column) *
                    args.out_channels +
                work<P>::part(tile) * 8 * P::OUT + 2 * t;
    const int among = map * P::WIDTH + column; /* of the columns side by side */
    x += (2 * row + among % P::PX / 2) * P::TILE_BYTES + (among / P::PX * 2 + among % 2) * 16 + 4 * t;
#pragma unroll
    for (int from = 0; from < P::OUT; from += TOGETHER) {
        uint32_t residual[TOGETHER] = {};
#pragma unroll
        for (int j = from; j < from + TOGETHER && j < P::OUT; j++)
            if (P::RESIDUAL && args.residual) residual[j - from] = ptx::load_shared(x + j * 128);
#pragma unroll
        for (int j = from; j < from + TOGETHER && j < P::OUT; j++) {
            const float2 r = __half22float2(*reinterpret_cast<const __half2 *>(&residual[j - from]));
            const float low = sums[4 * j + first] + r.x, high = sums[4 * j + first + 1] + r.y;
            *reinterpret_cast<__half2 *>(y + 8 * j) = __floats2half2_rn(
                ptx::min_nan(ptx::max_nan(low, args.output_min), args.output_max),
                ptx::min_nan(ptx::max_nan(high, args.output_min), args.output_max));
        }
    }
}

enum { CONSUMER_BARRIER = 1 }; /* of its own warps */

template <class P> __device__ __forceinline__ void consume(const mbconv_args &args, const layout<P> &shared)
{
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32 % UNIT_WARPS;
    const work<P> work(args);
    ptx::grid_wait();
    load_x<P>(shared.x(0), args, work.image(0));
    hand_over_x(shared.x_full(0));
    int producer = 0, phase = 0;
#pragma unroll 1
    for (int tile = 0; tile < work.tiles; tile++) {
        const bool more = tile + 1 < work.tiles;
        const int next_x = (tile + 1) % P::X_BUFFERS;
        /* All units of the tile before have come, so producers read its x no more; and for residuals: */
        if (P::RESIDUAL && more) ptx::named_barrier_sync(CONSUMER_BARRIER, WARPGROUP);
        if (more && P::X_BUFFERS == 2) load_x<P>(shared.x(next_x), args, work.image(tile + 1));
        float sums[P::BLOCKS][4 * P::OUT];
        start_sums<P>(sums, shared.bias() + (work.part(tile) * P::OUT * 8 + lane % 4 * 2) * 4);
#pragma unroll 1
        for (int unit = 0; unit < work.units; unit++) {
            const bool last = unit == work.units - 1;
            ptx::mbarrier_wait(shared.full(producer), phase);
            /* now of this tile too */
            if (more && last && P::X_BUFFERS == 1) load_x<P>(shared.x(next_x), args, work.image(tile + 1));
            add_unit<P>(sums, shared.d(producer), shared.weights(producer),
                        min(UNIT_WARPS, work.warps - unit * UNIT_WARPS));
            arrive_warp(shared.empty(producer));
            if (more && (P::X_BUFFERS == 2 ? unit == 0 : last)) hand_over_x(shared.x_full(next_x));
            if (++producer == P::PRODUCERS) producer = 0, phase ^= 1;
        }
#pragma unroll
        for (int b = 0; b < P::BLOCKS; b++)
#pragma unroll
            for (int i = 0; i < 2; i++)
                store_pixel<P>(sums[b], 2 * i, args, b, 16 * warp + lane / 4 + 8 * i, tile,
                               shared.x(tile % P::X_BUFFERS));
    }
}

} // namespace mbconv::maps

#endif
