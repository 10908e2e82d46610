/* The form in which the mbconv kernels read weights: sections one after the other, each in the order in which
 * a warp's threads read it. A warp computes CHANNELS hidden channels; g and t are a thread's lane / 4 and
 * lane % 4, which is how the MMA instructions count. */
#ifndef EFFNET_KERNELS_MBCONV_WEIGHTS_CUH
#define EFFNET_KERNELS_MBCONV_WEIGHTS_CUH

#include <cuda_runtime.h>
#include <stddef.h>

namespace mbconv
{

constexpr int CHANNELS = 16;

/* Tiles of 8 channels. */
__host__ __device__ constexpr int tiles_of(int channels)
{
    return (channels + 7) / 8;
}

/* Floats of a hidden channel: its taps, the bias of expand, that of depthwise, and zeros up to whole vectors
 * of 4. */
__host__ __device__ constexpr int channel_floats(int kernel)
{
    return (kernel * kernel + 2 + 3) / 4 * 4;
}

/* Where a warp keeps row r of its MMAs' sums, of 16, in shared memory: so that the channels of two
 * neighbouring g lie 4 planes apart, which bank conflicts ask for. And the row of a plane. */
__host__ __device__ constexpr int plane_of(int row)
{
    return (row & 8) + ((row & 7) >> 1) + 4 * (row & 1);
}

__host__ __device__ constexpr int row_of(int plane)
{
    return (plane & 8) + 2 * (plane & 3) + (plane >> 2 & 1);
}

/* Offsets in bytes. Section by section:
 *   expand    uint4 [warp][step][lane]: the first operand of an MMA of 16 inputs; of the last step's two
 * tiles of 8 the second may be missing, and is zeros channels  float [warp][CHANNELS][channel_floats] project
 * uint2 [warp][part][tile of 8 outputs][lane]: the second operand; input k is the channel of plane k its bias
 * float [8 tiles] */
struct sections {
    size_t expand, channels, project, project_bias, bytes;

    __host__ __device__ constexpr sections(int in_tiles, int warps, int out_tiles, int kernel, bool two_parts)
        : expand(0), channels(static_cast<size_t>(warps) * ((in_tiles + 1) / 2) * 32 * 16),
          project(channels + sizeof(float) * warps * CHANNELS * channel_floats(kernel)),
          project_bias(project + static_cast<size_t>(warps) * (1 + two_parts) * out_tiles * 32 * 8),
          bytes(project_bias + sizeof(float) * 8 * out_tiles)
    {
    }
};

} // namespace mbconv

#endif
