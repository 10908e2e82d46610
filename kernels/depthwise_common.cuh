/* What the depthwise kernels share: the lists of configurations, and how sums over channels are taken. */
#ifndef EFFNET_KERNELS_DEPTHWISE_COMMON_CUH
#define EFFNET_KERNELS_DEPTHWISE_COMMON_CUH

#include "depthwise.h"
#include "device.cuh"
#include "epilogue.cuh"
#include "kernel_config.cuh"
#include "launch.cuh"
#include "ptx.cuh"

inline depthwise_args for_kernel(depthwise_args args)
{
    const activation activation = args.activation;
    args.silu = activation == ACTIVATION_SILU;
    activation_clamp(activation, &args.output_min, &args.output_max);
    return args;
}

namespace depthwise
{

/* Each in its own file. */
extern const kernel_config tile_configs[];
extern const kernel_config column_configs[];

constexpr int THREADS = 128;

/* The images that the order of sums is chosen for. */
inline int planned_images(const depthwise_args &args)
{
    return args.planned_n ? args.planned_n : args.n;
}

/* What L with a launch_window<kernel size, stride> needs besides to be made a configuration. */
template <class L> struct window_launcher {
    static int shared_bytes(const depthwise_args &) { return 0; }

    static cudaError_t launch(const depthwise_args &args, cudaStream_t stream)
    {
        if (args.kernel == 3)
            return args.stride == 1 ? L::template launch_window<3, 1>(args, stream)
                                    : L::template launch_window<3, 2>(args, stream);
        return args.stride == 1 ? L::template launch_window<5, 1>(args, stream)
                                : L::template launch_window<5, 2>(args, stream);
    }
};

/* ---------------------------------------------------------------- SiLU, with sums or not
 *
 * A vector is some neighbouring channels, a place some neighbouring pixels: what a thread makes at a time. A
 * block belongs to one image, one group of vectors and one part of the places, so that it can add up the sums
 * of its threads. Which thread makes what depends on the shape and on planned_n. */

struct block_shape {
    int vectors, places; /* of a block: thread v + vectors * p makes vector v at place p */
    int groups;          /* of vectors: so many blocks make all channels */
    int parts;           /* so many blocks make all places */
    int rounds;          /* a thread makes every places-th place of its part: so many */

    int threads() const { return (vectors * places + 31) / 32 * 32; }
    long long blocks(int images) const { return static_cast<long long>(images) * groups * parts; }
};

/* The shape with the fewest warps, or nearly, and the most places. A block has `least` neighbouring vectors
 * at least, where there are so many, and a multiple of `step`. */
inline block_shape choose_shape(int vectors, int least, int step, int places)
{
    block_shape best = {};
    long long fewest = 0;
    const auto warps = [](const block_shape &s) { return s.blocks(1) * (s.threads() / 32); };
    if (least > vectors) least = vectors;
    for (int pass = 0; pass < 2; pass++)
        for (int p = 1; p <= places && p * least <= THREADS; p++) {
            block_shape s = {};
            const int most = THREADS / p < vectors ? THREADS / p : vectors; /* vectors */
            s.groups = (vectors + most - 1) / most;
            s.vectors = ((vectors + s.groups - 1) / s.groups + step - 1) / step * step;
            s.places = p;
            s.parts = (places + p - 1) / p;
            s.rounds = 1;
            if (s.vectors < least || s.vectors * p > THREADS) continue;
            if (pass == 0 && (!fewest || warps(s) < fewest)) fewest = warps(s);
            if (pass == 1 && 16 * warps(s) <= 17 * fewest) best = s;
        }
    return best;
}

/* Where a thread of that shape works. */
struct position {
    int n;             /* the block's image */
    int vector, place; /* the thread's vector, and its first place */
    bool active;       /* it has work */
};

__device__ __forceinline__ position locate(const block_shape &shape, int all_vectors)
{
    const unsigned block = blockIdx.x / shape.groups, group = blockIdx.x % shape.groups;
    const int part = block % shape.parts, index = threadIdx.x / shape.vectors;
    position at;
    at.n = block / shape.parts;
    at.vector = group * shape.vectors + threadIdx.x % shape.vectors;
    at.place = part * shape.rounds * shape.places + index;
    at.active = index < shape.places && at.vector < all_vectors;
    return at;
}

/* Adds up what the threads of a block have summed of their V channels, place after place, and stores it. */
template <int V>
__device__ __forceinline__ void store_sums(const float (&sum)[V], const depthwise_args &args,
                                           const block_shape &shape)
{
    __shared__ float partial[THREADS * V]; /* [places][vectors][V] */
    if (!args.sums) return;
#pragma unroll
    for (int i = 0; i < V; i++) partial[threadIdx.x * V + i] = sum[i];
    __syncthreads(); /* every thread's sums are there */
    const unsigned row = blockIdx.x / shape.groups, group = blockIdx.x % shape.groups; /* row: [n][parts] */
    const int channels = shape.vectors * V, first = static_cast<int>(group) * channels;
    float *to = args.sums + static_cast<size_t>(row) * args.channels + first;
    for (int c = threadIdx.x; c < channels && first + c < args.channels; c += blockDim.x) {
        float total = 0.0f;
        for (int p = 0; p < shape.places; p++) total += partial[p * channels + c];
        to[c] = total;
    }
}

} // namespace depthwise

#endif
