/* effnet_linear on a GPU, from the library's arguments to the kernels', and its bench. */
#include "linear.h"
#include "backend/cuda/cuda_internal.h"
#include "backend/linear_backend.h"
#include "common/rows.h"

#include <stdlib.h>

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

static int run(const struct effnet_linear_args *a, void *stream, struct effnet_error *error)
{
    if (a->w_type != EFFNET_FP16)
        return effnet_fail(error, EFFNET_E_USAGE, "linear: w is to be fp16 on the GPU");
    EFFNET_TRY(cuda_process_check(error));
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

/* ---------------------------------------------------------------- bench */

/* One timing is of a CUDA graph with several calls, so that neither the host's part of a launch nor the
 * events' own time counts. Warm, every call uses the same arrays. Cold, each uses arrays of its own, and L2
 * is overwritten before the graph runs. */
enum { CALLS_MAX = 200 };
static const double PASS_US = 10000;              /* about what one timing is to last, so that the
                                                     pause after it counts for little */
static const size_t COLD_BYTES = (size_t)2 << 30; /* of arrays at most, where one set is not more */

struct linear_bench_state {
    struct effnet_linear_args args; /* of the first call: device pointers */
    struct cuda_device device;
    unsigned char *memory;            /* x, w and y of every set, scale and shift */
    size_t x_bytes, w_bytes, y_bytes; /* of a set, rounded up to CUDA_ALIGNMENT */
    int sets, calls;
    bool cold;
    cudaStream_t stream;
    struct cuda_timer timer;
    cudaGraphExec_t graph;
};

/* In the order of the bench's stream, to the device or on it. (The default stream may not be used: another
 * thread's capture could forbid it, or be spoilt by it.) */
static int copy(const struct linear_bench_state *b, void *to, const void *from, size_t bytes,
                struct effnet_error *error)
{
    CUDA_TRY(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, b->stream), "linear");
    return EFFNET_OK;
}

/* Allocates for `sets` sets and fills all of them. `host` has the arrays to copy. */
static int place(struct linear_bench_state *b, const struct effnet_linear_args *host, int sets,
                 struct effnet_error *error)
{
    const size_t set = b->x_bytes + b->w_bytes + b->y_bytes,
                 column = cuda_aligned((size_t)host->n * sizeof(float));
    const size_t bytes = (size_t)sets * set + 2 * column;
    cudaFree(b->memory);
    b->memory = NULL;
    const cudaError_t status = cudaMalloc((void **)&b->memory, bytes);
    cuda_forget_error(status);
    if (status == cudaErrorMemoryAllocation)
        return effnet_fail_nomem(error, "a linear layer's arrays on the GPU", bytes);
    CUDA_TRY(status, "linear");
    unsigned char *columns = b->memory + (size_t)sets * set;
    b->sets = sets;
    b->args = *host;
    b->args.x = b->memory;
    b->args.w = b->memory + b->x_bytes;
    b->args.y = b->memory + b->x_bytes + b->w_bytes;
    b->args.ldy = host->n;
    b->args.scale = host->scale ? (const float *)columns : NULL;
    b->args.shift = host->shift ? (const float *)(columns + column) : NULL;
    EFFNET_TRY(
        copy(b, b->memory, host->x, (size_t)(host->m * host->ldx) * effnet_type_bytes(host->x_type), error));
    EFFNET_TRY(
        copy(b, b->memory + b->x_bytes, host->w, (size_t)(host->n * host->ldw) * sizeof(uint16_t), error));
    for (int i = 1; i < sets; i++)
        EFFNET_TRY(copy(b, b->memory + (size_t)i * set, b->memory, b->x_bytes + b->w_bytes, error));
    const size_t n = (size_t)host->n * sizeof(float);
    if (host->scale) EFFNET_TRY(copy(b, columns, host->scale, n, error));
    if (host->shift) EFFNET_TRY(copy(b, columns + column, host->shift, n, error));
    CUDA_TRY(cudaStreamSynchronize(b->stream), "linear");
    return EFFNET_OK;
}

static int enqueue_call(void *context, int call, cudaStream_t stream, struct effnet_error *error)
{
    const struct linear_bench_state *b = context;
    const size_t step = (size_t)(call % b->sets) * (b->x_bytes + b->w_bytes + b->y_bytes);
    struct effnet_linear_args a = b->args;
    a.x = (const unsigned char *)a.x + step;
    a.w = (const unsigned char *)a.w + step;
    a.y = (unsigned char *)a.y + step;
    return run(&a, stream, error);
}

/* A graph of `calls` calls, each with the next set's arrays. */
static int capture(struct linear_bench_state *b, int calls, struct effnet_error *error)
{
    if (b->graph) cudaGraphExecDestroy(b->graph);
    b->calls = calls;
    return cuda_capture(b->stream, enqueue_call, b, calls, &b->graph, error);
}

static int time_graph(struct linear_bench_state *b, double *elapsed_us, struct effnet_error *error)
{
    EFFNET_TRY(cuda_time_graph(&b->timer, b->graph, b->cold, elapsed_us, error));
    *elapsed_us /= b->calls;
    return EFFNET_OK;
}

/* How many calls fill a timing. */
static int choose_calls(struct linear_bench_state *b, int *calls, struct effnet_error *error)
{
    enum { TRIAL = 5 };
    double elapsed_us = 0;
    EFFNET_TRY(capture(b, TRIAL, error));
    EFFNET_TRY(time_graph(b, &elapsed_us, error));
    EFFNET_TRY(time_graph(b, &elapsed_us, error));
    const double wanted = PASS_US / (elapsed_us > 1 ? elapsed_us : 1);
    *calls = wanted < 1 ? 1 : wanted > CALLS_MAX ? CALLS_MAX : (int)wanted;
    return EFFNET_OK;
}

static int prepare(struct linear_bench_state *b, const struct effnet_linear_args *host, int calls,
                   struct effnet_error *error)
{
    b->x_bytes = cuda_aligned((size_t)(host->m * host->ldx) * effnet_type_bytes(host->x_type));
    b->w_bytes = cuda_aligned((size_t)(host->n * host->ldw) * sizeof(uint16_t));
    b->y_bytes = cuda_aligned((size_t)(host->m * host->n) * effnet_type_bytes(host->y_type));
    CUDA_TRY(cudaStreamCreateWithFlags(&b->stream, cudaStreamNonBlocking), "stream");
    EFFNET_TRY(cuda_timer_open(b->stream, &b->device.properties, &b->timer, error));
    EFFNET_TRY(place(b, host, 1, error));
    if (calls < 1) EFFNET_TRY(choose_calls(b, &calls, error));
    if (b->cold) {
        const size_t most = COLD_BYTES / (b->x_bytes + b->w_bytes + b->y_bytes);
        if ((size_t)calls > most) calls = most ? (int)most : 1;
        EFFNET_TRY(place(b, host, calls, error));
    }
    return capture(b, calls, error);
}

static void bench_close(struct linear_bench_state *b)
{
    if (!b) return;
    if (b->device.context && cuda_device_enter(&b->device, NULL) == EFFNET_OK) {
        if (b->graph) cudaGraphExecDestroy(b->graph);
        cuda_timer_close(&b->timer);
        if (b->stream) cudaStreamDestroy(b->stream);
        cudaFree(b->memory);
        cuda_device_leave();
    }
    free(b);
}

static int bench_open(const struct effnet_linear_args *args, int device_index, bool cold, int calls,
                      struct linear_bench_state **out, struct effnet_linear_bench_info *info,
                      struct effnet_error *error)
{
    if (args->w_type != EFFNET_FP16)
        return effnet_fail(error, EFFNET_E_USAGE, "linear: w is to be fp16 on the GPU");
    struct linear_bench_state *b = calloc(1, sizeof *b);
    if (!b) return effnet_fail_nomem(error, "a linear layer", sizeof *b);
    b->cold = cold;
    int status = cuda_device_open(device_index, &b->device, error);
    if (!status) status = cuda_device_enter(&b->device, error);
    if (!status) {
        status = prepare(b, args, calls, error);
        if (!status) {
            const struct linear_args first = kernel_args(&b->args);
            const struct kernel_config *config = kernel_get(&linear_kernels, linear_choose(&first));
            *info = (struct effnet_linear_bench_info){.backend = "cuda",
                                                      .device = b->device.properties.name,
                                                      .kernel = config ? config->name : NULL,
                                                      .calls = b->calls};
        }
        cuda_device_leave();
    }
    if (status)
        bench_close(b);
    else
        *out = b;
    return status;
}

static int compute_rows(struct linear_bench_state *b, const int64_t *rows, int count, float *y,
                        struct effnet_error *error)
{
    const size_t element = effnet_type_bytes(b->args.y_type), n = (size_t)b->args.n;
    /* all ones is a NaN in every float format */
    CUDA_TRY(cudaMemsetAsync(b->args.y, 0xff, b->y_bytes, b->stream), "linear");
    EFFNET_TRY(run(&b->args, b->stream, error));
    void *row = malloc(n * element);
    if (!row) return effnet_fail_nomem(error, "a row of a linear layer", n * element);
    cudaError_t status = cudaStreamSynchronize(b->stream);
    for (int i = 0; i < count && status == cudaSuccess; i++) {
        status = cudaMemcpyAsync(row, (unsigned char *)b->args.y + (size_t)rows[i] * n * element, n * element,
                                 cudaMemcpyDeviceToHost, b->stream);
        if (status == cudaSuccess) status = cudaStreamSynchronize(b->stream);
        if (status == cudaSuccess)
            effnet_rows_widen(row, b->args.y_type, 1, b->args.n, b->args.n, y + (size_t)i * n);
    }
    free(row);
    CUDA_TRY(status, "linear");
    return EFFNET_OK;
}

static int bench_rows(struct linear_bench_state *b, const int64_t *rows, int count, float *y,
                      struct effnet_error *error)
{
    EFFNET_TRY(cuda_device_enter(&b->device, error));
    const int status = compute_rows(b, rows, count, y, error);
    cuda_device_leave();
    return status;
}

static int bench_time(struct linear_bench_state *b, double *elapsed_us, struct effnet_error *error)
{
    EFFNET_TRY(cuda_device_enter(&b->device, error));
    const int status = time_graph(b, elapsed_us, error);
    cuda_device_leave();
    return status;
}

const struct linear_backend linear_cuda = {.name = "cuda",
                                           .run = run,
                                           .bench_open = bench_open,
                                           .bench_close = bench_close,
                                           .bench_rows = bench_rows,
                                           .bench_time = bench_time};
