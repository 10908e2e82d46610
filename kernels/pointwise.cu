/* The pointwise configurations as one list (pointwise.h). */
#include "pointwise_common.cuh"

static bool valid(const void *arguments)
{
    const pointwise_args &args = *static_cast<const pointwise_args *>(arguments);
    float low, high;
    if (args.input_bias && (args.gate || !activation_is_relu(args.input_activation))) return false;
    if (args.gate && (args.gate_rows < 1 || args.m % args.gate_rows)) return false;
    if (args.activation == ACTIVATION_SILU ? args.w_low : !activation_clamp(args.activation, &low, &high))
        return false;
    return args.m >= 1 && args.n >= 8 && args.k >= 8 && args.n % 8 == 0 && args.k % 8 == 0 &&
           args.pool_rows >= 0 && (!args.pool_rows || args.m % args.pool_rows == 0);
}

extern const kernel_family pointwise_kernels = {
    "pointwise",
    valid,
    {pointwise::tiled_configs, pointwise::direct_configs, pointwise::wgmma_configs,
     pointwise::resident_configs},
};
