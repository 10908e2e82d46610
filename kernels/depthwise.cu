/* The depthwise configurations as one numbered list: family after family. */
#include "depthwise_common.cuh"

/* NULL past the end of the list. */
static const depthwise::config *find(int index)
{
    if (index < 0) return nullptr;
    if (index < depthwise::tile_config_count) return &depthwise::tile_configs[index];
    index -= depthwise::tile_config_count;
    return index < depthwise::walk_config_count ? &depthwise::walk_configs[index] : nullptr;
}

int depthwise_config_count(void)
{
    return depthwise::tile_config_count + depthwise::walk_config_count;
}

const char *depthwise_config_name(int config)
{
    return find(config) ? find(config)->name : "none";
}

bool depthwise_config_fits(int config, const depthwise_args *args)
{
    return find(config) && args->n >= 1 && args->channels >= 8 && args->channels % 8 == 0 &&
           args->height >= 1 && args->width >= 1 && args->out_height >= 1 && args->out_width >= 1 &&
           (args->kernel == 3 || args->kernel == 5) && (args->stride == 1 || args->stride == 2) &&
           args->pad_top >= 0 && args->pad_left >= 0;
}

cudaError_t depthwise_launch(int config, const depthwise_args *args, cudaStream_t stream)
{
    if (!depthwise_config_fits(config, args)) return cudaErrorInvalidValue;
    return find(config)->launch[(args->kernel == 5) * 2 + (args->stride == 2)](*args, stream);
}
