/* The gate of squeeze-and-excite by blocks that know nothing of each other (squeeze_excite.h).
 *
 * A block makes the means and the whole hidden layer of its images, and a slice of their gates; weights come
 * from L2. Several slices an image, which all make the same hidden layer, are for the shortest time of a
 * single image; several images a block, whose sums share each weight that is loaded, for batches.
 *
 * Grid: (slices, n / images). Block: 256 threads; shared memory: means, hidden layer and partial sums, in
 * fp32. Fewest bytes: 4 parts a channel read, the weights once, 2 a channel written; FLOPs: 4 channels
 * reduced an image. Measurements: docs/squeeze_excite.md. */
#include "squeeze_excite_common.cuh"

namespace squeeze_excite
{

namespace
{

constexpr int SLICE = 256; /* channels, at most, where there are slices */
constexpr int SHARED_MOST = 99 * 1024;

template <int IMAGES>
__global__ void __launch_bounds__(THREADS)
    squeeze_excite_block(const __grid_constant__ squeeze_excite_args args, int slice)
{
    extern __shared__ __align__(16) float shared[];
    float *mean = shared, *partial = mean + IMAGES * args.channels;
    float *hidden = partial + partial_floats<IMAGES>(args.channels);
    const int first = blockIdx.x * slice;
    image_range images;
    images.first = blockIdx.y * IMAGES, images.count = min(IMAGES, args.n - images.first);
    ptx::grid_launch_next();
    ptx::grid_wait();
    take_means<IMAGES>(mean, partial, args, images, 0, args.channels);
    const __half *reduce_w = static_cast<const __half *>(args.reduce_w),
                 *expand_w = static_cast<const __half *>(args.expand_w);
    reduce<IMAGES>(mean, reduce_w, args.channels, args.channels, args.reduced, choose_group(args.channels),
                   [&](int image, int r, float sum, int member) {
                       if (!member)
                           hidden[image * args.reduced + r] = activate(args.reduce_activation,
                                                                       sum + args.reduce_bias[r]);
                   });
    __syncthreads(); /* the hidden layer is there */
    expand<IMAGES>(hidden, expand_w + first, args.channels, partial, args, images, first,
                   min(slice, args.channels - first));
}

template <int IMAGES, bool SLICES> struct launcher {
    static int shared_bytes(const squeeze_excite_args &a)
    {
        const int floats = IMAGES * (a.channels + a.reduced) + partial_floats<IMAGES>(a.channels);
        return floats * static_cast<int>(sizeof(float));
    }

    static bool fits(const squeeze_excite_args &a)
    {
        return shared_bytes(a) <= SHARED_MOST && (a.n + IMAGES - 1) / IMAGES <= 65535;
    }

    static cudaError_t launch(const squeeze_excite_args &a, cudaStream_t stream)
    {
        const int slices = SLICES ? (a.channels + SLICE - 1) / SLICE : 1;
        const int slice = (a.channels / 8 + slices - 1) / slices * 8;
        const dim3 grid((a.channels + slice - 1) / slice, (a.n + IMAGES - 1) / IMAGES);
        return launch_overlapping(squeeze_excite_block<IMAGES>, grid, THREADS, {shared_bytes(a), SHARED_MOST},
                                  stream, a, slice);
    }
};

} // namespace

const kernel_config block_configs[] = {
    make_config<launcher<1, true>>("block, 1 image, slices"),
    make_config<launcher<2, false>>("block, 2 images"),
    make_config<launcher<4, false>>("block, 4 images"),
    {},
};

} // namespace squeeze_excite
