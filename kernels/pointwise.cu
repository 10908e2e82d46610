/* The pointwise configurations as one numbered list: family after family. */
#include "pointwise_common.cuh"

using pointwise::config;

static const struct {
    const config *configs;
    const int &count;
    bool sm90a;
} families[] = {
    {pointwise::tiled_configs, pointwise::tiled_config_count, false},
    {pointwise::direct_configs, pointwise::direct_config_count, false},
    {pointwise::wgmma_configs, pointwise::wgmma_config_count, true},
    {pointwise::resident_configs, pointwise::resident_config_count, true},
};

struct entry {
    const config *config; /* nullptr: none */
    bool sm90a;           /* of a family that needs such a device */
};

static entry find(int index)
{
    for (const auto &family : families) {
        if (index < 0) break;
        if (index < family.count) return {&family.configs[index], family.sm90a};
        index -= family.count;
    }
    return {nullptr, false};
}

/* The same where the shapes suit it, on some device. */
static entry find_for(int index, const pointwise_args &args)
{
    const entry e = find(index), none = {nullptr, false};
    if (!e.config || args.m < 1 || args.n < 8 || args.k < 8 || args.n % 8 || args.k % 8) return none;
    if (args.pool_rows < 0 || (args.pool_rows && args.m % args.pool_rows)) return none;
    return e.config->fits(args) ? e : none;
}

int pointwise_config_count(void)
{
    int count = 0;
    for (const auto &family : families) count += family.count;
    return count;
}

const char *pointwise_config_name(int index)
{
    const entry e = find(index);
    return e.config ? e.config->name : "none";
}

bool pointwise_config_sm90a(int index)
{
    return find(index).sm90a;
}

bool pointwise_config_fits(int index, const pointwise_args *args)
{
    const entry e = find_for(index, *args);
    return e.config && (!e.sm90a || compute_capability() == 90);
}

int pointwise_config_shared_bytes(int index, const pointwise_args *args)
{
    const entry e = find_for(index, *args);
    return e.config ? e.config->shared_bytes(*args) : -1;
}

cudaError_t pointwise_launch(int index, const pointwise_args *args, cudaStream_t stream)
{
    if (!pointwise_config_fits(index, args)) return cudaErrorInvalidValue;
    return find(index).config->launch(*args, stream);
}
