/* The linear layer's configurations as one list, checks and choice (linear.h). */
#include "linear_common.cuh"

namespace
{

bool aligned(const void *p, int64_t bytes)
{
    return reinterpret_cast<uintptr_t>(p) % bytes == 0;
}

bool type_known(int type)
{
    return type == LINEAR_FP16 || type == LINEAR_FP32;
}

/* linear_check, but for whether a configuration fits. */
cudaError_t check(const linear_args &a)
{
    if (!a.x || !a.w || !a.y || a.m < 1 || a.n < 1 || a.k < 1 || a.ldx < a.k || a.ldw < a.k || a.ldy < a.n ||
        !type_known(a.x_type) || !type_known(a.y_type) || a.activation < 0 ||
        a.activation >= ACTIVATION_COUNT)
        return cudaErrorInvalidValue;
    if (!aligned(a.x, linear::element_bytes(a.x_type)) || !aligned(a.w, 2) ||
        !aligned(a.y, linear::element_bytes(a.y_type)) || !aligned(a.scale, 4) || !aligned(a.shift, 4))
        return cudaErrorMisalignedAddress;
    const int64_t ld_end = int64_t{1} << 32;
    if (a.m > LINEAR_SIZE_MAX || a.n > LINEAR_SIZE_MAX || a.k > LINEAR_SIZE_MAX || a.ldx >= ld_end ||
        a.ldw >= ld_end || a.ldy >= ld_end)
        return cudaErrorInvalidConfiguration;
    return cudaSuccess;
}

bool valid(const void *args)
{
    return check(*static_cast<const linear_args *>(args)) == cudaSuccess;
}

} // namespace

/* In the order in which linear_choose prefers them at equal cost. */
extern const kernel_family linear_kernels = {
    "linear",
    valid,
    {linear::wgmma_configs, linear::split_configs, linear::mma_configs, linear::small_configs},
};

cudaError_t linear_check(const linear_args *args)
{
    const cudaError_t status = check(*args);
    if (status != cudaSuccess) return status;
    for (int i = 0; kernel_get(&linear_kernels, i); i++)
        if (kernel_fits(&linear_kernels, i, args)) return cudaSuccess;
    return cudaErrorInvalidConfiguration;
}

int linear_choose(const linear_args *args)
{
    const int capability = compute_capability();
    int sms = 0, best = -1;
    if (!valid(args)) return -1;
    if (sm_count(&sms) != cudaSuccess) sms = 1;
    double best_us = 0;
    for (int i = 0; const kernel_config *c = kernel_get(&linear_kernels, i); i++) {
        if ((c->architecture && c->architecture != capability) || !c->fits(args)) continue;
        const double us = c->cost_us(args, sms);
        if (best < 0 || us < best_us) best = i, best_us = us;
    }
    return best;
}
