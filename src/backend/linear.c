/* effnet_linear and effnet_linear_bench: checks, and the way to a backend. The host's backends have one
 * bench, here. */
#include "backend/backend.h"
#include "backend/linear_backend.h"
#include "common/cpu.h"
#include "common/error.h"
#include "common/rows.h"

#include <stdlib.h>
#include <string.h>

/* What this build holds. */
#ifdef EFFNET_HAVE_ONEDNN
static const struct linear_backend *const host = &linear_onednn;
#else
static const struct linear_backend *const host = &linear_reference;
#endif
#ifdef EFFNET_HAVE_CUDA
static const struct linear_backend *const cuda = &linear_cuda;
#else
static const struct linear_backend *const cuda = NULL;
#endif

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

static int check(const struct effnet_linear_args *a, struct effnet_error *error)
{
    const int64_t sizes[] = {a->m, a->n, a->k};
    for (int i = 0; i < 3; i++)
        if (sizes[i] < 1 || sizes[i] > LINEAR_SIZE_END)
            return effnet_fail(error, EFFNET_E_USAGE, "linear: %c is %lld, not 1 to %d", "mnk"[i],
                               (long long)sizes[i], (int)LINEAR_SIZE_END);
    EFFNET_TRY(check_array("x", a->x, a->x_type, a->k, a->ldx, error));
    EFFNET_TRY(check_array("w", a->w, a->w_type, a->k, a->ldw, error));
    EFFNET_TRY(check_array("y", a->y, a->y_type, a->n, a->ldy, error));
    if ((uintptr_t)a->scale % sizeof(float) || (uintptr_t)a->shift % sizeof(float))
        return effnet_fail(error, EFFNET_E_USAGE, "linear: scale or shift is not aligned to 4 bytes");
    if ((int)a->activation < EFFNET_ACT_NONE || (int)a->activation > EFFNET_ACT_TANH)
        return effnet_fail(error, EFFNET_E_USAGE, "linear: unknown activation %d", (int)a->activation);
    return effnet_check_reserved(a->reserved, sizeof a->reserved, "linear", error);
}

struct effnet_linear_args effnet_linear_defaults(int64_t m, int64_t n, int64_t k)
{
    return (struct effnet_linear_args){.m = m,
                                       .n = n,
                                       .k = k,
                                       .ldx = k,
                                       .ldw = k,
                                       .ldy = n,
                                       .x_type = EFFNET_FP32,
                                       .w_type = EFFNET_FP32,
                                       .y_type = EFFNET_FP32};
}

int effnet_linear(const struct effnet_linear_args *args, enum effnet_memory memory, void *stream,
                  struct effnet_error *error)
{
    EFFNET_TRY(check(args, error));
    if (memory == EFFNET_MEMORY_CUDA)
        return cuda ? cuda->run(args, stream, error)
                    : effnet_fail(error, EFFNET_E_UNAVAILABLE, "linear: this build has no CUDA");
    if (memory != EFFNET_MEMORY_HOST || stream)
        return effnet_fail(error, EFFNET_E_USAGE, "linear: %s",
                           stream ? "a stream goes with CUDA memory only" : "unknown kind of memory");
    return host->run(args, NULL, error);
}

/* ---------------------------------------------------------------- bench */

struct effnet_linear_bench {
    struct effnet_linear_args args; /* on the host: y is the bench's own */
    struct effnet_linear_bench_info info;
    bool cold;
    const struct linear_backend *gpu; /* NULL on the host */
    struct linear_bench_state *state;
};

static int open_host(effnet_linear_bench *bench, struct effnet_error *error)
{
    struct effnet_linear_args *a = &bench->args;
    const size_t bytes = (size_t)a->m * (size_t)a->n * effnet_type_bytes(a->y_type);
    bench->info = (struct effnet_linear_bench_info){
        .backend = host->name, .kernel = host->kernel, .device = effnet_cpu_name(), .calls = 1};
    a->ldy = a->n;
    if (!(a->y = malloc(bytes))) return effnet_fail_nomem(error, "a linear layer's results", bytes);
    return EFFNET_OK;
}

static int open_bench(effnet_linear_bench *bench, const char *device, int calls, struct effnet_error *error)
{
    struct effnet_linear_args args = bench->args;
    static float y; /* stands for the results, which are the bench's own affair */
    enum backend_device kind;
    int index;
    args.y = &y;
    args.ldy = args.n;
    EFFNET_TRY(check(&args, error));
    EFFNET_TRY(effnet_parse_device(device, &kind, &index, error));
    if (kind == DEVICE_CPU) return open_host(bench, error);
    if (kind != DEVICE_CUDA)
        return effnet_fail(error, EFFNET_E_USAGE, "linear: the device is to be cpu, cuda or cuda:N");
    if (!cuda) return effnet_fail(error, EFFNET_E_UNAVAILABLE, "device \"%s\": %s", device, effnet_no_cuda);
    bench->gpu = cuda;
    return cuda->bench_open(&bench->args, index, bench->cold, calls, &bench->state, &bench->info, error);
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
    if (bench->gpu) bench->gpu->bench_close(bench->state);
    free(bench->args.y);
    free(bench);
}

const struct effnet_linear_bench_info *effnet_linear_bench_get_info(const effnet_linear_bench *bench)
{
    return &bench->info;
}

int effnet_linear_bench_rows(effnet_linear_bench *bench, const int64_t *rows, int count, float *y,
                             struct effnet_error *error)
{
    for (int i = 0; i < count; i++)
        if (rows[i] < 0 || rows[i] >= bench->args.m)
            return effnet_fail(error, EFFNET_E_USAGE, "linear: there is no row %lld", (long long)rows[i]);
    if (bench->gpu) return bench->gpu->bench_rows(bench->state, rows, count, y, error);
    const struct effnet_linear_args *a = &bench->args;
    const size_t element = effnet_type_bytes(a->y_type);
    /* all ones is a NaN in every float format */
    memset(a->y, 0xff, (size_t)a->m * (size_t)a->n * element);
    EFFNET_TRY(host->run(a, NULL, error));
    for (int i = 0; i < count; i++)
        effnet_rows_widen((char *)a->y + (size_t)(rows[i] * a->n) * element, a->y_type, 1, a->n, a->n,
                          y + i * a->n);
    return EFFNET_OK;
}

int effnet_linear_bench_time(effnet_linear_bench *bench, double *elapsed_us, struct effnet_error *error)
{
    if (bench->gpu) return bench->gpu->bench_time(bench->state, elapsed_us, error);
    if (bench->cold) EFFNET_TRY(effnet_evict_caches(error));
    const double start_us = effnet_clock_us();
    EFFNET_TRY(host->run(&bench->args, NULL, error));
    *elapsed_us = effnet_clock_us() - start_us;
    return EFFNET_OK;
}
