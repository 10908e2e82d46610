/* The depthwise configurations as one list (depthwise.h). */
#include "depthwise_common.cuh"

static bool valid(const void *arguments)
{
    const depthwise_args &args = *static_cast<const depthwise_args *>(arguments);
    float low, high;
    const bool silu = args.activation == ACTIVATION_SILU;
    return (silu || (!args.sums && activation_clamp(args.activation, &low, &high))) && args.n >= 1 &&
           args.channels >= 8 && args.channels % 8 == 0 && args.height >= 1 && args.width >= 1 &&
           args.out_height >= 1 && args.out_width >= 1 && (args.kernel == 3 || args.kernel == 5) &&
           (args.stride == 1 || args.stride == 2) && args.pad_top >= 0 && args.pad_left >= 0 &&
           args.planned_n >= 0;
}

extern const kernel_family depthwise_kernels = {
    "depthwise",
    valid,
    {depthwise::tile_configs, depthwise::column_configs},
};

int depthwise_sum_parts(int config, const depthwise_args *args)
{
    const kernel_config *c = kernel_get(&depthwise_kernels, config);
    return c && valid(args) && args->activation == ACTIVATION_SILU ? c->sum_parts(args) : 0;
}
