/* The gate of squeeze-and-excite by clusters of eight blocks (squeeze_excite.h).
 *
 * A block has an eighth of the channels of the cluster's images. While the launch before still runs it copies
 * its part of both layers' weights to shared memory. Then it makes its channels' means, their part of the
 * sums of the hidden layer, which it sends to all eight, and, from the sums of all, its channels' gates. So
 * every weight and sum is read once by a cluster, and the critical path is short.
 *
 * Grid: 8 blocks for so many images. Block: 256 threads; shared memory: its weights in fp16, means, partial
 * sums and the hidden layer's parts in fp32: 35 KB for 1152 channels and 48. Bytes and FLOPs: as in
 * squeeze_excite_block.cu. */
#include "squeeze_excite_common.cuh"

namespace squeeze_excite
{

namespace
{

constexpr int BLOCKS = 8; /* of a cluster */
constexpr int SHARED_MOST = 227 * 1024;

/* A block's shared memory; sizes in floats. */
template <int IMAGES> struct plan {
    int slice;                                                 /* channels, but for the last blocks */
    int reduce_w, expand_w, mean, partial, parts, hidden, end; /* where each begins */
    __host__ __device__ plan(int channels, int reduced)
    {
        slice = (channels / 8 + BLOCKS - 1) / BLOCKS * 8;
        reduce_w = 0;
        expand_w = reduce_w + reduced * slice / 2;
        mean = expand_w + reduced * slice / 2;
        partial = mean + IMAGES * slice;
        parts = partial + partial_floats<IMAGES>(slice); /* [block][image][reduced] */
        hidden = parts + BLOCKS * IMAGES * reduced;
        end = hidden + IMAGES * reduced;
    }
};

/* Starts copying `channels` channels of each row to shared memory, where rows are `slice` apart. */
__device__ __forceinline__ void copy_weights(float *to, int slice, const void *from, int first, int channels,
                                             const squeeze_excite_args &args)
{
    const int vectors = channels / 8;
    const __half *w = static_cast<const __half *>(from) + first;
    const uint32_t shared = ptx::shared_address(to);
    for (int i = threadIdx.x; i < args.reduced * vectors; i += THREADS) {
        const int r = i / vectors, v = i % vectors;
        ptx::cp_async_16(shared + (r * slice + 8 * v) * 2, w + static_cast<size_t>(r) * args.channels + 8 * v,
                         true);
    }
    ptx::cp_async_commit();
}

template <int IMAGES>
__global__ void __launch_bounds__(THREADS)
    squeeze_excite_cluster(const __grid_constant__ squeeze_excite_args args)
{
    extern __shared__ __align__(16) float shared[];
    const plan<IMAGES> at(args.channels, args.reduced);
    float *mean = shared + at.mean, *partial = shared + at.partial, *parts = shared + at.parts,
          *hidden = shared + at.hidden;
    const int rank = static_cast<int>(ptx::cluster_rank()), reduced = args.reduced;
    const int first = min(rank * at.slice, args.channels), channels = min(at.slice, args.channels - first);
    image_range images;
    images.first = blockIdx.x / BLOCKS * IMAGES, images.count = min(IMAGES, args.n - images.first);
    ptx::grid_launch_next();
    ptx::cluster_arrive_relaxed();
    copy_weights(shared + at.reduce_w, at.slice, args.reduce_w, first, channels, args);
    copy_weights(shared + at.expand_w, at.slice, args.expand_w, first, channels, args);
    ptx::grid_wait();
    ptx::cp_async_wait<1>(); /* this thread's part of reduce_w; take_means makes all threads meet */
    take_means<IMAGES>(mean, partial, args, images, first, channels);
    ptx::cluster_wait(); /* all blocks have begun, and so may be written to */
    reduce<IMAGES>(mean, reinterpret_cast<const __half *>(shared + at.reduce_w), at.slice, channels, reduced,
                   choose_group(at.slice), [&](int image, int r, float sum, int member) {
                       const uint32_t to = ptx::shared_address(parts + (rank * IMAGES + image) * reduced + r);
                       for (int block = member; block < BLOCKS; block += choose_group(at.slice))
                           ptx::cluster_store(ptx::cluster_address(to, block), sum);
                   });
    ptx::cp_async_wait<0>();
    ptx::cluster_sync(); /* all blocks' parts are there, and all threads' expand_w */
    for (int i = threadIdx.x; i < IMAGES * reduced; i += THREADS) {
        float sum = args.reduce_bias[i % reduced];
#pragma unroll
        for (int block = 0; block < BLOCKS; block++) sum += parts[block * IMAGES * reduced + i];
        hidden[i] = activate(args.reduce_activation, sum);
    }
    __syncthreads(); /* the hidden layer is there */
    expand<IMAGES>(hidden, reinterpret_cast<const __half *>(shared + at.expand_w), at.slice, partial, args,
                   images, first, channels);
}

template <int IMAGES> struct launcher {
    static int shared_bytes(const squeeze_excite_args &a)
    {
        return plan<IMAGES>(a.channels, a.reduced).end * static_cast<int>(sizeof(float));
    }

    static bool fits(const squeeze_excite_args &a) { return shared_bytes(a) <= SHARED_MOST && a.n < 1 << 28; }

    static cudaError_t launch(const squeeze_excite_args &a, cudaStream_t stream)
    {
        const dim3 grid(static_cast<unsigned>((a.n + IMAGES - 1) / IMAGES * BLOCKS));
        return launch_kernel(squeeze_excite_cluster<IMAGES>,
                             {grid, THREADS, {shared_bytes(a), SHARED_MOST}, BLOCKS, true}, stream, a);
    }
};

} // namespace

const kernel_config cluster_configs[] = {
    make_config<launcher<1>>("cluster, 1 image", 90),
    make_config<launcher<4>>("cluster, 4 images", 90),
    make_config<launcher<8>>("cluster, 8 images", 90),
    {},
};

} // namespace squeeze_excite
