/* effnet_linear_bench: on the CPU here, on the GPU in backend/cuda/linear_bench.c. */
#include "backend/backend.h"
#include "common/cpu.h"
#include "common/error.h"
#include "linear_host.h"

#include <math.h>
#include <stdlib.h>

struct effnet_linear_bench {
    struct effnet_linear_args args; /* the CPU's: y is the bench's own */
    struct effnet_linear_bench_info info;
    bool cold;
#ifdef EFFNET_HAVE_CUDA
    struct cuda_linear_bench *cuda; /* NULL on the CPU */
#endif
};

static int open_cpu(effnet_linear_bench *bench, struct effnet_error *error)
{
    struct effnet_linear_args *a = &bench->args;
    const size_t bytes = (size_t)a->m * (size_t)a->n * effnet_type_bytes(a->y_type);
    bench->info = (struct effnet_linear_bench_info){
#ifdef EFFNET_HAVE_ONEDNN
        .backend = "onednn",
        .kernel = "matmul",
#else
        .backend = "reference",
        .kernel = "plain loops",
#endif
        .device = effnet_cpu_name(),
        .calls = 1,
    };
    a->ldy = a->n;
    if (!(a->y = malloc(bytes))) return effnet_fail_nomem(error, "a linear layer's results", bytes);
    return EFFNET_OK;
}

static int open_bench(effnet_linear_bench *bench, const char *device, int calls, struct effnet_error *error)
{
    struct effnet_linear_args check = bench->args;
    static float y; /* stands for the results, which are the bench's own affair */
    enum backend_device kind;
    int index;
    check.y = &y;
    check.ldy = check.n;
    int status = effnet_linear_check(&check, error);
    if (!status) status = effnet_parse_device(device, &kind, &index, error);
    if (status) return status;
    if (kind == DEVICE_CPU) return open_cpu(bench, error);
    if (kind != DEVICE_CUDA)
        return effnet_fail(error, EFFNET_E_USAGE, "linear: the device is to be cpu, cuda or cuda:N");
#ifdef EFFNET_HAVE_CUDA
    return cuda_linear_bench_open(&bench->args, index, bench->cold, calls, &bench->cuda, &bench->info, error);
#else
    (void)calls;
    return effnet_fail(error, EFFNET_E_UNAVAILABLE, "device \"%s\": %s", device, effnet_no_cuda);
#endif
}

int effnet_linear_bench_open(const struct effnet_linear_args *args, const char *device, bool cold, int calls,
                             effnet_linear_bench **out, struct effnet_error *error)
{
    *out = NULL;
    effnet_linear_bench *bench = calloc(1, sizeof *bench);
    if (!bench) return effnet_fail_nomem(error, "a linear layer", sizeof *bench);
    bench->args = *args;
    bench->args.y = NULL;
    bench->cold = cold;
    int status = open_bench(bench, device, calls, error);
    if (status)
        effnet_linear_bench_close(bench);
    else
        *out = bench;
    return status;
}

void effnet_linear_bench_close(effnet_linear_bench *bench)
{
    if (!bench) return;
#ifdef EFFNET_HAVE_CUDA
    cuda_linear_bench_close(bench->cuda);
#endif
    free(bench->args.y);
    free(bench);
}

const struct effnet_linear_bench_info *effnet_linear_bench_get_info(const effnet_linear_bench *bench)
{
    return &bench->info;
}

static int rows_cpu(effnet_linear_bench *bench, const int64_t *rows, int count, float *y,
                    struct effnet_error *error)
{
    const struct effnet_linear_args *a = &bench->args;
    const float nan = NAN;
    for (int64_t i = 0; i < a->m * a->n; i++)
        effnet_linear_narrow(&nan, 1, 1, 1, a->y_type,
                             (char *)a->y + (size_t)i * effnet_type_bytes(a->y_type));
    int status = effnet_linear(a, EFFNET_MEMORY_HOST, NULL, error);
    for (int i = 0; !status && i < count; i++)
        effnet_linear_widen((char *)a->y + (size_t)(rows[i] * a->n) * effnet_type_bytes(a->y_type), a->y_type,
                            1, a->n, a->n, y + i * a->n);
    return status;
}

int effnet_linear_bench_rows(effnet_linear_bench *bench, const int64_t *rows, int count, float *y,
                             struct effnet_error *error)
{
    for (int i = 0; i < count; i++)
        if (rows[i] < 0 || rows[i] >= bench->args.m)
            return effnet_fail(error, EFFNET_E_USAGE, "linear: there is no row %lld", (long long)rows[i]);
#ifdef EFFNET_HAVE_CUDA
    if (bench->cuda) return cuda_linear_bench_rows(bench->cuda, rows, count, y, error);
#endif
    return rows_cpu(bench, rows, count, y, error);
}

static int time_cpu(effnet_linear_bench *bench, double *elapsed_us, struct effnet_error *error)
{
    int status = bench->cold ? effnet_evict_caches(error) : EFFNET_OK;
    const double start_us = effnet_clock_us();
    if (!status) status = effnet_linear(&bench->args, EFFNET_MEMORY_HOST, NULL, error);
    *elapsed_us = effnet_clock_us() - start_us;
    return status;
}

int effnet_linear_bench_time(effnet_linear_bench *bench, double *elapsed_us, struct effnet_error *error)
{
#ifdef EFFNET_HAVE_CUDA
    if (bench->cuda) return cuda_linear_bench_time(bench->cuda, elapsed_us, error);
#endif
    return time_cpu(bench, elapsed_us, error);
}
