/* mbconv for small maps, a map at a time, on sm_90a (docs/mbconv.md).
 *
 * A block takes a map of at most 16 x 16, or two of at most 8 x 8 side by side, and all hidden channels of it
 * in units of 64. Producers are warpgroups that make d of a unit each, in turns; a consumer warpgroup adds
 * project's products of a unit to y, which stays in its registers until the last unit.
 *
 * A producer's warp computes 16 hidden channels. Two rows of h at a time come from one chain of wgmma, with
 * the weights as the first operand, in registers, and x as the second. Its columns are pixels, which are
 * dealt so that a thread gets PX neighbouring pixels of two channels in each row; what it lacks on either
 * side two shuffles bring. They are added at once to the sums of the outputs that they reach, in fp32; h is
 * never stored. Rows outside of the map are left out and not added as zeros. Finished rows of d go to shared
 * memory, where the consumer's wgmma reads them: 64 pixels of a channel a row of 128 bytes.
 *
 * Blocks are persistent; the consumer fetches the next map's x meanwhile. */
#include "device.cuh"
#include "kernel_config.cuh"
#include "launch.cuh"
#include "mbconv_common.cuh"
#include "mbconv_maps_consumer.cuh"
#include "mbconv_maps_producer.cuh"

namespace mbconv
{

using namespace maps;

namespace
{

template <int FROM, int TO> __device__ __forceinline__ void change_registers()
{
    if constexpr (TO > FROM)
        ptx::registers_increase<TO>();
    else
        ptx::registers_decrease<TO>();
}

template <class P>
__global__ void __launch_bounds__(P::THREADS, 1) mbconv_maps_kernel(const __grid_constant__ mbconv_args args)
{
    extern __shared__ __align__(16) unsigned char memory[];
    const layout<P> shared = {(ptx::shared_address(memory) + P::ALIGNMENT - 1) / P::ALIGNMENT * P::ALIGNMENT};
    const int warpgroup = __shfl_sync(0xffffffffu, threadIdx.x / WARPGROUP, 0);
    ptx::grid_launch_next();
    if (threadIdx.x == 0) shared.init();
    const sections in(P::IN, args.hidden / CHANNELS, P::OUT * P::PARTS, P::K, P::TWO_PARTS);
    for (int i = threadIdx.x; i < P::OUT * P::PARTS * 8; i += P::THREADS)
        ptx::store_shared(shared.bias() + 4 * i,
                          __ldg(reinterpret_cast<const unsigned *>(static_cast<const char *>(args.weights) +
                                                                   in.project_bias) +
                                i));
    __syncthreads();
    if (warpgroup == P::PRODUCERS) {
        change_registers<P::START_REGISTERS, P::CONSUMER_REGISTERS>();
        consume<P>(args, shared);
    } else {
        change_registers<P::START_REGISTERS, P::PRODUCER_REGISTERS>();
        produce<P>(args, shared, warpgroup);
    }
}

template <class P> struct launcher {
    static bool fits(const mbconv_args &args)
    {
        /* Producers must not skip a phase of x's barriers: of each tile all have a unit. */
        const bool units = args.hidden > (P::PRODUCERS - 1) * UNIT_WARPS * CHANNELS;
        return units && args.two_parts == P::TWO_PARTS && tiles_of(args.in_channels) == P::IN &&
               tiles_of(args.out_channels) == P::OUT * P::PARTS && args.kernel == P::K &&
               args.stride == P::S && args.pad_left == P::PAD && args.pad_top == P::PAD &&
               args.width <= P::WIDTH && args.width + P::EDGE >= P::WIDTH && args.height <= P::ROWS &&
               args.height + 1 >= P::ROWS && args.out_width <= P::OUT_WIDTH &&
               args.out_height <= P::OUT_ROWS && args.n < 1 << 20;
    }

    static int shared_bytes(const mbconv_args &) { return P::SHARED_BYTES; }

    static cudaError_t launch(const mbconv_args &args, cudaStream_t stream)
    {
        unsigned blocks;
        const cudaError_t status = persistent_grid((args.n + P::MAPS - 1) / P::MAPS * P::PARTS, 1, &blocks);
        return status != cudaSuccess ? status
                                     : launch_overlapping(mbconv_maps_kernel<P>, blocks, P::THREADS,
                                                          P::SHARED_BYTES, stream, args);
    }
};

} // namespace

extern const kernel_config map_configs[] = {
    /*                  in out parts K S maps rows two_parts x_buffers producers, registers */
    make_config<launcher<map<10, 10, 1, 3, 1, 1, 15, false, 2, 3, 200, 104>>>("maps 80-80, 3x3", 90),
    make_config<launcher<map<10, 14, 1, 5, 1, 1, 15, true, 2, 2, 256, 120>>>("maps 80-112, 5x5", 90),
    make_config<launcher<map<14, 14, 1, 5, 1, 1, 15, false, 2, 2, 256, 120>>>("maps 112-112, 5x5", 90),
    make_config<launcher<map<14, 24, 1, 5, 2, 1, 15, true, 1, 2, 136, 184>>>("maps 112-192, 5x5 s2", 90),
    make_config<launcher<map<24, 24, 1, 5, 1, 2, 8, false, 2, 2, 224, 136>>>("maps 192-192, 5x5", 90),
    make_config<launcher<map<24, 20, 2, 3, 1, 2, 8, true, 2, 2, 200, 152>>>("maps 192-320, 3x3", 90),
    {},
};

} // namespace mbconv
