/* The pointwise configurations as one numbered list: family after family. */
#include "pointwise_common.cuh"

using pointwise::config;

static const struct {
    const config *configs;
    const int &count;
} families[] = {
    {pointwise::tiled_configs, pointwise::tiled_config_count},
    {pointwise::direct_configs, pointwise::direct_config_count},
    {pointwise::wgmma_configs, pointwise::wgmma_config_count},
    {pointwise::resident_configs, pointwise::resident_config_count},
};

static const config *find(int index)
{
    for (const auto &family : families) {
        if (index < 0) break;
        if (index < family.count) return &family.configs[index];
        index -= family.count;
    }
    return nullptr;
}

int pointwise_config_count(void)
{
    int count = 0;
    for (const auto &family : families) count += family.count;
    return count;
}

const char *pointwise_config_name(int index)
{
    const config *c = find(index);
    return c ? c->name : "none";
}

bool pointwise_config_fits(int index, const pointwise_args *args)
{
    const config *c = find(index);
    if (!c || args->m < 1 || args->n < 8 || args->k < 8 || args->n % 8 || args->k % 8) return false;
    if (args->pool_rows < 0 || (args->pool_rows && args->m % args->pool_rows)) return false;
    return c->fits(*args);
}

int pointwise_config_shared_bytes(int index, const pointwise_args *args)
{
    return pointwise_config_fits(index, args) ? find(index)->shared_bytes(*args) : 0;
}

cudaError_t pointwise_launch(int index, const pointwise_args *args, cudaStream_t stream)
{
    if (!pointwise_config_fits(index, args)) return cudaErrorInvalidValue;
    return find(index)->launch(*args, stream);
}
