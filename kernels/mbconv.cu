/* The mbconv configurations as one list (mbconv.h). */
#include "mbconv_common.cuh"
#include "mbconv_weights.cuh"

using namespace mbconv;

static bool valid(const void *arguments)
{
    const mbconv_args &args = *static_cast<const mbconv_args *>(arguments);
    float low, high;
    return activation_is_relu(args.expand_activation) && activation_is_relu(args.depthwise_activation) &&
           activation_clamp(args.activation, &low, &high) && args.n >= 1 && args.height >= 1 &&
           args.width >= 1 && args.out_height >= 1 && args.out_width >= 1 && args.height < 1 << 15 &&
           args.width < 1 << 15 && args.in_channels >= 8 && args.in_channels % 8 == 0 &&
           args.hidden >= CHANNELS && args.hidden % CHANNELS == 0 && args.out_channels >= 8 &&
           args.out_channels % 8 == 0 && (args.kernel == 3 || args.kernel == 5) &&
           (args.stride == 1 || args.stride == 2) && args.pad_top >= 0 && args.pad_top < args.kernel &&
           args.pad_left >= 0 && args.pad_left < args.kernel &&
           (!args.residual || (args.stride == 1 && args.out_height == args.height &&
                               args.out_width == args.width && args.in_channels == args.out_channels));
}

extern const kernel_family mbconv_kernels = {
    "mbconv", valid, {strip_configs, wide_strip_configs, map_configs}};
