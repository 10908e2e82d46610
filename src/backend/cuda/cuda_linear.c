/* effnet_linear on a GPU: from the library's arguments to the kernels'. */
#include "backend/cuda/cuda_linear.h"
#include "backend/cuda/cuda_internal.h"
#include "linear.h"

static struct linear_args kernel_args(const struct effnet_linear_args *a)
{
    _Static_assert((int)EFFNET_FP16 == LINEAR_FP16 && (int)EFFNET_FP32 == LINEAR_FP32 &&
                       (int)LINEAR_SIZE_END == LINEAR_SIZE_MAX,
                   "the kernels count as the interface does");
    return (struct linear_args){
        .x = a->x,
        .w = a->w,
        .scale = a->scale,
        .shift = a->shift,
        .y = a->y,
        .m = a->m,
        .n = a->n,
        .k = a->k,
        .ldx = a->ldx,
        .ldw = a->ldw,
        .ldy = a->ldy,
        .x_type = (int)a->x_type,
        .y_type = (int)a->y_type,
        .activation = cuda_activation(a->activation),
    };
}

const char *cuda_linear_kernel(const struct effnet_linear_args *args)
{
    const struct linear_args a = kernel_args(args);
    const struct kernel_config *config = kernel_get(&linear_kernels, linear_choose(&a));
    return config ? config->name : NULL;
}

int cuda_linear_run(const struct effnet_linear_args *a, void *stream, struct effnet_error *error)
{
    if (a->w_type != EFFNET_FP16)
        return effnet_fail(error, EFFNET_E_USAGE, "linear: w is to be fp16 on the GPU");
    int checked = cuda_process_check(error);
    if (checked) return checked;
    const struct linear_args args = kernel_args(a);
    const int config = linear_choose(&args);
    cudaError_t status = config < 0 ? linear_check(&args)
                                    : kernel_launch(&linear_kernels, config, &args, stream);
    if (status == cudaSuccess) return EFFNET_OK;
    if (status == cudaErrorInvalidConfiguration)
        return effnet_fail(error, EFFNET_E_USAGE, "linear: %lld x %lld x %lld is too large for the GPU",
                           (long long)a->m, (long long)a->n, (long long)a->k);
    return cuda_fail(error, status, "linear");
}
