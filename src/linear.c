/* effnet_linear: checks, and the way to the GPU's kernels, to oneDNN, or to the reference. */
#include "common/error.h"
#include "common/half.h"
#include "linear_host.h"

#include <stdlib.h>
#include <string.h>

#ifdef EFFNET_HAVE_CUDA
#include "backend/cuda/cuda_internal.h"
#include "linear.h"
#endif

enum { SIZE_END = 1 << 30 };

size_t effnet_type_bytes(enum effnet_type type)
{
    return type == EFFNET_FP16 ? 2 : 4;
}

/* An array's pointer and leading dimension; `columns` is the least that the latter may be. */
static int check_array(const char *name, const void *base, enum effnet_type type, int64_t columns, int64_t ld,
                       struct effnet_error *error)
{
    if (type != EFFNET_FP16 && type != EFFNET_FP32)
        return effnet_fail(error, EFFNET_E_USAGE, "linear: %s is of unknown type %d", name, (int)type);
    if (!base) return effnet_fail(error, EFFNET_E_USAGE, "linear: %s is NULL", name);
    if ((uintptr_t)base % effnet_type_bytes(type))
        return effnet_fail(error, EFFNET_E_USAGE, "linear: %s is not aligned to its elements of %zu bytes",
                           name, effnet_type_bytes(type));
    if (ld < columns || ld > UINT32_MAX)
        return effnet_fail(error, EFFNET_E_USAGE,
                           "linear: rows of %s lie %lld elements apart, not %lld to %lld", name,
                           (long long)ld, (long long)columns, (long long)UINT32_MAX);
    return EFFNET_OK;
}

int effnet_linear_check(const struct effnet_linear_args *a, struct effnet_error *error)
{
    const int64_t sizes[] = {a->m, a->n, a->k};
    for (int i = 0; i < 3; i++)
        if (sizes[i] < 1 || sizes[i] > SIZE_END)
            return effnet_fail(error, EFFNET_E_USAGE, "linear: %c is %lld, not 1 to %d", "mnk"[i],
                               (long long)sizes[i], (int)SIZE_END);
    int status = check_array("x", a->x, a->x_type, a->k, a->ldx, error);
    if (!status) status = check_array("w", a->w, a->w_type, a->k, a->ldw, error);
    if (!status) status = check_array("y", a->y, a->y_type, a->n, a->ldy, error);
    if (status) return status;
    if ((uintptr_t)a->scale % sizeof(float) || (uintptr_t)a->shift % sizeof(float))
        return effnet_fail(error, EFFNET_E_USAGE, "linear: scale or shift is not aligned to 4 bytes");
    if ((int)a->activation < EFFNET_ACT_NONE || (int)a->activation > EFFNET_ACT_GELU_RELU)
        return effnet_fail(error, EFFNET_E_USAGE, "linear: unknown activation %d", (int)a->activation);
    return EFFNET_OK;
}

void effnet_linear_widen(const void *from, enum effnet_type type, int64_t rows, int64_t columns, int64_t ld,
                         float *to)
{
    for (int64_t i = 0; i < rows; i++, to += columns)
        if (type == EFFNET_FP16)
            for (int64_t j = 0; j < columns; j++) to[j] = half_to_float(((const half *)from)[i * ld + j]);
        else
            memcpy(to, (const float *)from + i * ld, (size_t)columns * sizeof *to);
}

void effnet_linear_narrow(const float *from, int64_t rows, int64_t columns, int64_t ld, enum effnet_type type,
                          void *to)
{
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < columns; j++)
            if (type == EFFNET_FP16)
                ((half *)to)[i * ld + j] = half_from_float(from[i * columns + j]);
            else
                ((float *)to)[i * ld + j] = from[i * columns + j];
}

#ifndef EFFNET_HAVE_ONEDNN
/* Row by row through the reference. */
static int run_reference(const struct effnet_linear_args *a, struct effnet_error *error)
{
    size_t n = (size_t)a->n;
    double *row = malloc(n * sizeof *row);
    if (!row) return effnet_fail_nomem(error, "a row of the linear layer", n * sizeof *row);
    for (int64_t i = 0; i < a->m; i++) {
        effnet_linear_reference(a, i, row);
        for (int64_t j = 0; j < a->n; j++)
            if (a->y_type == EFFNET_FP16)
                ((half *)a->y)[i * a->ldy + j] = half_from_double(row[j]);
            else
                ((float *)a->y)[i * a->ldy + j] = (float)row[j];
    }
    free(row);
    return EFFNET_OK;
}
#endif

static int run_host(const struct effnet_linear_args *args, struct effnet_error *error)
{
#ifdef EFFNET_HAVE_ONEDNN
    return effnet_onednn_linear_split(args, error);
#else
    return run_reference(args, error);
#endif
}

#ifdef EFFNET_HAVE_CUDA

static struct linear_args kernel_args(const struct effnet_linear_args *a)
{
    _Static_assert((int)EFFNET_FP16 == LINEAR_FP16 && (int)EFFNET_FP32 == LINEAR_FP32 &&
                       (int)SIZE_END == LINEAR_SIZE_MAX,
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

const char *effnet_linear_cuda_kernel(const struct effnet_linear_args *args)
{
    const struct linear_args a = kernel_args(args);
    const struct kernel_config *config = kernel_get(&linear_kernels, linear_choose(&a));
    return config ? config->name : NULL;
}

static int run_cuda(const struct effnet_linear_args *a, void *stream, struct effnet_error *error)
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

#else

static int run_cuda(const struct effnet_linear_args *args, void *stream, struct effnet_error *error)
{
    (void)args;
    (void)stream;
    return effnet_fail(error, EFFNET_E_UNAVAILABLE, "linear: this build has no CUDA");
}

#endif

int effnet_linear(const struct effnet_linear_args *args, enum effnet_memory memory, void *stream,
                  struct effnet_error *error)
{
    int status = effnet_linear_check(args, error);
    if (status) return status;
    if (memory == EFFNET_MEMORY_CUDA) return run_cuda(args, stream, error);
    if (memory != EFFNET_MEMORY_HOST || stream)
        return effnet_fail(error, EFFNET_E_USAGE, "linear: %s",
                           stream ? "a stream goes with CUDA memory only" : "unknown kind of memory");
    return run_host(args, error);
}
