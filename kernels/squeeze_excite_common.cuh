/* What the kernels of squeeze-and-excite share: the lists of configurations, and the steps of the gate. */
#ifndef EFFNET_KERNELS_SQUEEZE_EXCITE_COMMON_CUH
#define EFFNET_KERNELS_SQUEEZE_EXCITE_COMMON_CUH

#include "epilogue.cuh"
#include "kernel_config.cuh"
#include "launch.cuh"
#include "ptx.cuh"
#include "squeeze_excite.h"

namespace squeeze_excite
{

/* Each in its own file. */
extern const kernel_config block_configs[];
extern const kernel_config cluster_configs[];

constexpr int THREADS = 256, WARPS = THREADS / 32;
constexpr unsigned ALL = 0xffffffffu;
constexpr int CHANNELS_MAX = 4096, REDUCED_MAX = 1024;

union half8 {
    uint4 word;
    __half2 pair[4];
};

/* Eight fp16 values as fp32. */
__device__ __forceinline__ void unpack(float (&value)[8], uint4 word)
{
    half8 v;
    v.word = word;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const float2 f = __half22float2(v.pair[i]);
        value[2 * i] = f.x, value[2 * i + 1] = f.y;
    }
}

/* Eight fp32 values at a multiple of 16 bytes, in shared or global memory. */
__device__ __forceinline__ void load_eight(float (&value)[8], const float *from)
{
    const float4 low = *reinterpret_cast<const float4 *>(from);
    const float4 high = *reinterpret_cast<const float4 *>(from + 4);
    value[0] = low.x, value[1] = low.y, value[2] = low.z, value[3] = low.w;
    value[4] = high.x, value[5] = high.y, value[6] = high.z, value[7] = high.w;
}

__device__ __forceinline__ float activate(int activation, float v)
{
    return epilogue::activate_any<ACTIVATION_SIGMOID>(activation, v);
}

/* How many threads share a sum of `terms` terms, where so many sums of vectors are taken at a time. It
 * depends on the shape and the configuration, and not on n, since so does the order of terms. */
__host__ __device__ constexpr int choose_splits(int sums, int terms)
{
    const int splits = THREADS / sums < terms ? THREADS / sums : terms;
    return splits > 1 ? splits : 1;
}

/* Floats that take_means and expand want for partial sums of so many channels. */
template <int IMAGES> __host__ __device__ constexpr int partial_floats(int channels)
{
    return IMAGES * channels > 8 * THREADS ? IMAGES * channels : 8 * THREADS;
}

/* The images of a block or cluster. */
struct image_range {
    int first, count; /* at most IMAGES */
};

/* mean[image][c] for `channels` channels from `first` on, by the whole block, which meets at the end. */
template <int IMAGES>
__device__ __forceinline__ void take_means(float *mean, float *partial, const squeeze_excite_args &args,
                                           image_range images, int first, int channels)
{
    const int vectors = channels / 4;
    const int splits = vectors ? choose_splits(IMAGES * vectors, args.parts) : 1;
    for (int i = threadIdx.x; i < images.count * splits * vectors; i += THREADS) {
        const int v = i % vectors, split = i / vectors % splits, image = i / vectors / splits;
        const size_t row = static_cast<size_t>(images.first + image) * args.parts;
        const float *from = args.sums + (row + split) * args.channels + first + 4 * v;
        float4 total = make_float4(0, 0, 0, 0);
#pragma unroll 4
        for (int part = split; part < args.parts; part += splits) {
            const float4 add = *reinterpret_cast<const float4 *>(from);
            total.x += add.x, total.y += add.y, total.z += add.z, total.w += add.w;
            from += static_cast<size_t>(splits) * args.channels;
        }
        *reinterpret_cast<float4 *>(partial + 4 * i) = total;
    }
    __syncthreads(); /* partial[image][split][channels] is there */
    for (int i = threadIdx.x; i < images.count * channels; i += THREADS) {
        const float *from = partial + i / channels * splits * channels + i % channels;
        float total = from[0];
        for (int split = 1; split < splits; split++) total += from[split * channels];
        mean[i] = total * args.mean_factor;
    }
    __syncthreads(); /* the means are there */
}

/* Calls f(image, r, sum, member) with the sums over `channels` channels of mean[image][c] * w[r][c], whose
 * rows are `stride` apart: in all lanes of a group that has taken the sum, which member says it is. */
template <int IMAGES, class F>
__device__ __forceinline__ void reduce(const float *mean, const __half *w, int stride, int channels,
                                       int reduced, int group, const F &f)
{
    const int lane = threadIdx.x % 32, member = lane % group, vectors = channels / 8;
    for (int base = threadIdx.x / 32 * (32 / group); base < reduced; base += THREADS / group) {
        const int r = base + lane / group;
        float sum[IMAGES] = {};
        if (r < reduced)
#pragma unroll 2
            for (int v = member; v < vectors; v += group) {
                float weight[8];
                unpack(weight, *reinterpret_cast<const uint4 *>(w + static_cast<size_t>(r) * stride + 8 * v));
#pragma unroll
                for (int image = 0; image < IMAGES; image++) {
                    float m[8];
                    load_eight(m, mean + image * channels + 8 * v);
#pragma unroll
                    for (int i = 0; i < 8; i++) sum[image] = fmaf(m[i], weight[i], sum[image]);
                }
            }
        for (int other = group / 2; other; other /= 2)
#pragma unroll
            for (int image = 0; image < IMAGES; image++)
                sum[image] += __shfl_xor_sync(ALL, sum[image], other);
        if (r < reduced)
#pragma unroll
            for (int image = 0; image < IMAGES; image++) f(image, r, sum[image], member);
    }
}

/* Lanes that share a row in `reduce`: a power of two. */
__host__ __device__ constexpr int choose_group(int channels)
{
    int group = 1;
    while (group < 32 && 2 * group <= channels / 8) group *= 2;
    return group;
}

/* gate[image][first + c] for `channels` channels, by the whole block. w points to that of channel `first`,
 * and its rows are `stride` apart. */
template <int IMAGES>
__device__ __forceinline__ void expand(const float *hidden, const __half *w, int stride, float *partial,
                                       const squeeze_excite_args &args, image_range images, int first,
                                       int channels)
{
    const int vectors = channels / 8, reduced = args.reduced;
    const int splits = vectors ? choose_splits(IMAGES * vectors, reduced) : 1;
    for (int i = threadIdx.x; i < images.count * splits * vectors; i += THREADS) {
        const int v = i % vectors, split = i / vectors % splits, image = i / vectors / splits;
        float sum[8] = {};
#pragma unroll 4
        for (int r = split; r < reduced; r += splits) {
            float weight[8];
            unpack(weight, *reinterpret_cast<const uint4 *>(w + static_cast<size_t>(r) * stride + 8 * v));
#pragma unroll
            for (int c = 0; c < 8; c++) sum[c] = fmaf(hidden[image * reduced + r], weight[c], sum[c]);
        }
        float4 *to = reinterpret_cast<float4 *>(partial + 8 * i);
        to[0] = make_float4(sum[0], sum[1], sum[2], sum[3]);
        to[1] = make_float4(sum[4], sum[5], sum[6], sum[7]);
    }
    __syncthreads(); /* partial[image][split][channels] is there */
    __half *gate = static_cast<__half *>(args.gate) + first;
    for (int i = threadIdx.x; i < images.count * channels; i += THREADS) {
        const int image = i / channels, c = i % channels;
        const float *from = partial + image * splits * channels + c;
        float total = from[0];
        for (int split = 1; split < splits; split++) total += from[split * channels];
        gate[static_cast<size_t>(images.first + image) * args.channels + c] = __float2half_rn(
            activate(args.expand_activation, total + args.expand_bias[first + c]));
    }
}

} // namespace squeeze_excite

#endif
