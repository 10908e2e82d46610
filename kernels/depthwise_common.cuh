/* What the depthwise kernels share: the table entry of a configuration. */
#ifndef EFFNET_KERNELS_DEPTHWISE_COMMON_CUH
#define EFFNET_KERNELS_DEPTHWISE_COMMON_CUH

#include "depthwise.h"
#include "device.cuh"
#include "launch.cuh"
#include "ptx.cuh"

namespace depthwise
{

struct config {
    const char *name;
    cudaError_t (*launch[4])(const depthwise_args &, cudaStream_t); /* 3x3 and 5x5, stride 1 and 2 of each */
};

/* The families, each in its own file. */
extern const config tile_configs[];
extern const int tile_config_count;
extern const config walk_configs[];
extern const int walk_config_count;

} // namespace depthwise

#endif
