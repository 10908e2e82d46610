/* The configurations of squeeze-and-excite as one list (squeeze_excite.h). */
#include "squeeze_excite_common.cuh"

static bool known(activation activation)
{
    return activation >= 0 && activation <= ACTIVATION_SIGMOID;
}

static bool valid(const void *arguments)
{
    const squeeze_excite_args &args = *static_cast<const squeeze_excite_args *>(arguments);
    return args.n >= 1 && args.parts >= 1 && args.channels >= 8 && args.channels % 8 == 0 &&
           args.channels <= squeeze_excite::CHANNELS_MAX && args.reduced >= 1 &&
           args.reduced <= squeeze_excite::REDUCED_MAX && known(args.reduce_activation) &&
           known(args.expand_activation);
}

extern const kernel_family squeeze_excite_kernels = {
    "squeeze_excite",
    valid,
    {squeeze_excite::block_configs, squeeze_excite::cluster_configs},
};
