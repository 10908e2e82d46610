/* What the depthwise kernels share: the lists of configurations. */
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
    activation_clamp(args.activation, &args.output_min, &args.output_max);
    return args;
}

namespace depthwise
{

/* Each in its own file. */
extern const kernel_config tile_configs[];
extern const kernel_config column_configs[];

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

} // namespace depthwise

#endif
