/* What the mbconv kernels share. */
#ifndef EFFNET_KERNELS_MBCONV_COMMON_CUH
#define EFFNET_KERNELS_MBCONV_COMMON_CUH

#include "kernel_config.cuh"
#include "mbconv.h"

/* Arguments as the kernels read them. */
inline mbconv_args for_kernel(mbconv_args args)
{
    float low, expand_max, depthwise_max, output_min, output_max;
    activation_clamp(args.expand_activation, &low, &expand_max);
    activation_clamp(args.depthwise_activation, &low, &depthwise_max);
    activation_clamp(args.activation, &output_min, &output_max);
    args.expand_max = expand_max, args.depthwise_max = depthwise_max;
    args.output_min = output_min, args.output_max = output_max;
    return args;
}

namespace mbconv
{

/* Each in its own file. */
extern const kernel_config strip_configs[];
extern const kernel_config wide_strip_configs[];
extern const kernel_config map_configs[];

} // namespace mbconv

#endif
