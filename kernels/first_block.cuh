/* What the first block's kernel and the packing of its weights share. */
#ifndef EFFNET_KERNELS_FIRST_BLOCK_CUH
#define EFFNET_KERNELS_FIRST_BLOCK_CUH

#include "first_block.h"
#include "stem_weights.cuh"

#include <cuda_fp16.h>
#include <math.h>

namespace first_block
{

constexpr int MIDDLE = FIRST_BLOCK_MIDDLE, OUT = FIRST_BLOCK_OUT, TAPS = 9;
constexpr int STEM_TILES = MIDDLE / 8, PROJECT_TILES = OUT / 8;
using stem::K_STEPS, stem::PARTS; /* also of the project layer */

/* What a thread of a warp needs of an mma's second operand, in the order of lanes. */
struct alignas(16) packed_weights {
    stem::weights<STEM_TILES> stem;
    float depthwise[TAPS][MIDDLE], depthwise_bias[MIDDLE];
    uint2 project[K_STEPS][PROJECT_TILES][PARTS][32];
    float project_bias[OUT];
};

/* Whether both activations clamp to the same maximum, in units of which s and d are then. */
inline bool in_units(float stem_max, float depthwise_max)
{
    return stem_max == depthwise_max && isfinite(stem_max);
}

} // namespace first_block

#endif
