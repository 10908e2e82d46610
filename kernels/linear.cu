/* The linear layer's configurations in one row: checks, choice and launch (linear.h). */
#include "linear_common.cuh"

namespace linear
{

namespace
{

struct family {
    const entry *entries;
    const int *count;
};

/* In the order in which linear_choose prefers them at equal cost. */
const family families[] = {
    {wgmma_entries, &wgmma_entry_count},
    {split_entries, &split_entry_count},
    {mma_entries, &mma_entry_count},
    {small_entries, &small_entry_count},
};

const entry *find(int config)
{
    for (const family &f : families) {
        if (config < 0) return nullptr;
        if (config < *f.count) return f.entries + config;
        config -= *f.count;
    }
    return nullptr;
}

bool aligned(const void *p, int64_t bytes)
{
    return reinterpret_cast<uintptr_t>(p) % bytes == 0;
}

bool type_known(int type)
{
    return type == LINEAR_FP16 || type == LINEAR_FP32;
}

/* Whether any configuration does; linear_choose says which one is best, and takes longer. */
bool computes(const linear_args *a)
{
    for (int i = 0; i < linear_config_count(); i++)
        if (linear_config_fits(i, a)) return true;
    return false;
}

} // namespace

} // namespace linear

cudaError_t linear_check(const linear_args *a)
{
    if (!a->x || !a->w || !a->y || a->m < 1 || a->n < 1 || a->k < 1 || a->ldx < a->k || a->ldw < a->k ||
        a->ldy < a->n || !linear::type_known(a->x_type) || !linear::type_known(a->y_type) ||
        a->activation < 0 || a->activation >= LINEAR_ACTIVATION_COUNT)
        return cudaErrorInvalidValue;
    if (!linear::aligned(a->x, linear::element_bytes(a->x_type)) || !linear::aligned(a->w, 2) ||
        !linear::aligned(a->y, linear::element_bytes(a->y_type)) || !linear::aligned(a->scale, 4) ||
        !linear::aligned(a->shift, 4))
        return cudaErrorMisalignedAddress;
    const int64_t ld_end = int64_t{1} << 32;
    if (a->m > LINEAR_SIZE_MAX || a->n > LINEAR_SIZE_MAX || a->k > LINEAR_SIZE_MAX || a->ldx >= ld_end ||
        a->ldw >= ld_end || a->ldy >= ld_end || !linear::computes(a))
        return cudaErrorInvalidConfiguration;
    return cudaSuccess;
}

int linear_config_count(void)
{
    int count = 0;
    for (const linear::family &f : linear::families) count += *f.count;
    return count;
}

const linear_config *linear_config_get(int config)
{
    const linear::entry *e = linear::find(config);
    return e ? &e->config : nullptr;
}

bool linear_config_fits(int config, const linear_args *args)
{
    const linear::entry *e = linear::find(config);
    return e && e->fits(*args);
}

int linear_choose(const linear_args *args)
{
    int multiprocessors = 0, best = -1;
    if (multiprocessor_count(&multiprocessors) != cudaSuccess) multiprocessors = 1;
    double best_cost = 0;
    for (int i = 0; i < linear_config_count(); i++) {
        const linear::entry *e = linear::find(i);
        if (!e->fits(*args)) continue;
        const double cost = e->cost(*args, multiprocessors);
        if (best < 0 || cost < best_cost) best = i, best_cost = cost;
    }
    return best;
}

cudaError_t linear_launch(int config, const linear_args *args, cudaStream_t stream)
{
    const cudaError_t status = linear_check(args);
    if (status != cudaSuccess) return status;
    const linear::entry *e = linear::find(config);
    if (!e || !e->fits(*args)) return cudaErrorNotSupported;
    return e->launch(*args, stream);
}
