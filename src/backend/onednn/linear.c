/* effnet_linear on the CPU: y in pieces, one a thread of ours, each a oneDNN matrix product with its epilogue
 * as post-operations, on one thread. OpenMP's own team will not do: it hangs in a child of a process that has
 * used it, it ends the program where the system refuses it a thread, and it knows nothing of control groups.
 */
#include "backend/linear_backend.h"
#include "backend/onednn/onednn.h"
#include "common/cpu.h"
#include "common/error.h"
#include "common/fork.h"
#include "common/memory.h"
#include "common/rows.h"

#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>

/* ---------------------------------------------------------------- one piece */

/* What one call makes and must release. */
struct job {
    dnnl_engine_t engine;
    dnnl_stream_t stream;
    dnnl_primitive_attr_t attributes;
    dnnl_post_ops_t operations;
    dnnl_primitive_desc_t description;
    dnnl_primitive_t primitive;
    onednn_desc shape[5];    /* of x, w, y, scale, shift */
    dnnl_memory_t memory[5]; /* of the same */
    float *copy[3];          /* dense fp32 x, w, y where they are not taken as they are */
};

static void job_free(struct job *job)
{
    for (int i = 0; i < 5; i++) {
        if (job->memory[i]) dnnl_memory_destroy(job->memory[i]);
        onednn_desc_destroy(job->shape[i]);
    }
    if (job->primitive) dnnl_primitive_destroy(job->primitive);
    if (job->description) dnnl_primitive_desc_destroy(job->description);
    if (job->operations) dnnl_post_ops_destroy(job->operations);
    if (job->attributes) dnnl_primitive_attr_destroy(job->attributes);
    if (job->stream) dnnl_stream_destroy(job->stream);
    if (job->engine) dnnl_engine_destroy(job->engine);
    for (int i = 0; i < 3; i++) free(job->copy[i]);
}

/* A fp32 copy of rows of fp16, and where to find it; fp32 rows are taken as they are. To oneDNN the stride of
 * a dimension of one element is no one's business: 3.7 writes a strided column as a dense one. So a single
 * row gets the dense stride, and a column is copied. Results (`fill` is false) with gaps between their rows
 * are computed in a dense copy, too, which oneDNN's fast kernels want. */
static int widen(struct job *job, int index, const void **base, enum effnet_type type, int64_t rows,
                 int64_t columns, int64_t *ld, bool fill, struct effnet_error *error)
{
    if (rows == 1) *ld = columns;
    if (type == EFFNET_FP32 && (*ld == columns || (fill && columns > 1))) return EFFNET_OK;
    size_t bytes = (size_t)rows * (size_t)columns * sizeof(float);
    float *copy = job->copy[index] = malloc(bytes);
    if (!copy) return effnet_fail_nomem(error, "a linear layer's operand", bytes);
    if (fill) effnet_rows_widen(*base, type, rows, columns, *ld, copy);
    *base = copy;
    *ld = columns;
    return EFFNET_OK;
}

/* Builds the product x (w's transpose) with its epilogue, and runs it on pointers x, w, y (fp32). */
static dnnl_status_t multiply(struct job *job, const struct effnet_linear_args *a, const void *pointers[3],
                              const int64_t ld[3])
{
    const dnnl_dims_t dims[5] = {{a->m, a->k}, {a->k, a->n}, {a->m, a->n}, {1, a->n}, {1, a->n}};
    const dnnl_dims_t strides[5] = {{ld[0], 1}, {1, ld[1]}, {ld[2], 1}, {a->n, 1}, {a->n, 1}};
    const void *all[5] = {pointers[0], pointers[1], pointers[2], a->scale, a->shift};
    dnnl_exec_arg_t arguments[5];
    int count = 0;
    effnet_fork_block(); /* oneDNN keeps primitives in a cache with locks of its own */
    dnnl_status_t s = dnnl_engine_create(&job->engine, dnnl_cpu, 0);
    if (!s) s = dnnl_stream_create(&job->stream, job->engine, dnnl_stream_default_flags);
    if (!s) s = dnnl_primitive_attr_create(&job->attributes);
    if (!s) s = dnnl_primitive_attr_set_fpmath_mode(job->attributes, dnnl_fpmath_mode_strict);
    if (!s) s = dnnl_post_ops_create(&job->operations);
    for (int i = 0; !s && i < 5; i++) {
        static const int roles[] = {DNNL_ARG_SRC, DNNL_ARG_WEIGHTS, DNNL_ARG_DST};
        if (!all[i]) continue;
        s = onednn_desc_by_strides(&job->shape[i], 2, dims[i], dnnl_f32, strides[i]);
        /* oneDNN takes inputs and outputs alike as void *, and writes to y alone */
        if (!s)
            s = dnnl_memory_create(&job->memory[i], job->shape[i], job->engine, (void *)(uintptr_t)all[i]);
        const int operation = dnnl_post_ops_len(job->operations);
        int role = i < 3 ? roles[i] : DNNL_ARG_ATTR_MULTIPLE_POST_OP(operation) | DNNL_ARG_SRC_1;
        if (!s && i >= 3)
            s = dnnl_post_ops_append_binary(job->operations, i == 3 ? dnnl_binary_mul : dnnl_binary_add,
                                            job->shape[i]);
        arguments[count++] = (dnnl_exec_arg_t){role, job->memory[i]};
    }
    if (!s) s = effnet_onednn_append_activation(job->operations, a->activation);
    if (!s) s = dnnl_primitive_attr_set_post_ops(job->attributes, job->operations);
    if (!s)
        s = onednn_matmul(&job->description, job->engine, job->shape[0], job->shape[1], job->shape[2],
                          job->attributes);
    if (!s) s = dnnl_primitive_create(&job->primitive, job->description);
    effnet_fork_unblock();
    if (!s) s = dnnl_primitive_execute(job->primitive, job->stream, count, arguments);
    if (!s) s = dnnl_stream_wait(job->stream);
    return s;
}

static bool row_finite(const float *row, int64_t count)
{
    for (int64_t i = 0; i < count; i++)
        if (!isfinite(row[i])) return false;
    return true;
}

/* oneDNN's ReLU, clip and GELU turn a NaN into a number, so the reference computes the rows of y that come
 * from a row of x with a NaN or an infinity. */
static int repair(const struct effnet_linear_args *a, const float *x, int64_t ldx, float *y, int64_t ldy,
                  struct effnet_error *error)
{
    double *row = NULL;
    for (int64_t i = 0; i < a->m; i++) {
        if (row_finite(x + i * ldx, a->k)) continue;
        if (!row) row = malloc((size_t)a->n * sizeof *row);
        if (!row) return effnet_fail_nomem(error, "a row of the linear layer", (size_t)a->n * sizeof *row);
        effnet_linear_reference(a, i, row);
        for (int64_t j = 0; j < a->n; j++) y[i * ldy + j] = (float)row[j];
    }
    free(row);
    return EFFNET_OK;
}

static int compute(const struct effnet_linear_args *a, struct effnet_error *error)
{
    struct job job = {0};
    const void *pointers[3] = {a->x, a->w, a->y};
    int64_t ld[3] = {a->ldx, a->ldw, a->ldy};
    int status = widen(&job, 0, &pointers[0], a->x_type, a->m, a->k, &ld[0], true, error);
    if (!status) status = widen(&job, 1, &pointers[1], a->w_type, a->n, a->k, &ld[1], true, error);
    if (!status) status = widen(&job, 2, &pointers[2], a->y_type, a->m, a->n, &ld[2], false, error);
    if (!status) {
        dnnl_status_t s = multiply(&job, a, pointers, ld);
        if (s == dnnl_out_of_memory)
            status = effnet_fail(error, EFFNET_E_NOMEM, "linear: oneDNN is out of memory");
        else if (s != dnnl_success)
            status = effnet_fail(error, EFFNET_E_INTERNAL, "linear: oneDNN reports status %d", (int)s);
    }
    if (!status) status = repair(a, pointers[0], ld[0], (float *)(uintptr_t)pointers[2], ld[2], error);
    if (!status && job.copy[2]) effnet_rows_narrow(job.copy[2], a->m, a->n, a->ldy, a->y_type, a->y);
    job_free(&job);
    return status;
}

/* ---------------------------------------------------------------- pieces */

/* A piece takes a thread 10 us or more; to wake one takes up to 50. Pieces are whole steps of rows or
 * columns. */
enum { PIECE_MULTIPLY_ADDS = 1 << 19, PIECE_STEP = 16 };

#define BUILD_BYTES ((size_t)32 << 20) /* more than oneDNN takes to make a product's primitive */

struct split {
    const struct effnet_linear_args *args;
    int pieces;
    struct effnet_error *errors; /* one a piece */
};

/* Where piece `index` of `total` rows or columns begins. */
static int64_t piece_begin(int64_t total, int pieces, int index)
{
    if (index == pieces) return total;
    return total * index / pieces / PIECE_STEP * PIECE_STEP;
}

/* The longer side of y is cut. */
static int run_piece(void *context, int worker, int index)
{
    (void)worker;
    const struct split *split = context;
    struct effnet_linear_args a = *split->args;
    const bool by_rows = a.m >= a.n;
    const int64_t total = by_rows ? a.m : a.n, begin = piece_begin(total, split->pieces, index);
    const int64_t count = piece_begin(total, split->pieces, index + 1) - begin;
    const int64_t y_elements = by_rows ? begin * a.ldy : begin;
    a.y = (char *)a.y + (size_t)y_elements * effnet_type_bytes(a.y_type);
    if (by_rows) {
        a.m = count;
        a.x = (const char *)a.x + (size_t)(begin * a.ldx) * effnet_type_bytes(a.x_type);
    } else {
        a.n = count;
        a.w = (const char *)a.w + (size_t)(begin * a.ldw) * effnet_type_bytes(a.w_type);
        if (a.scale) a.scale += begin;
        if (a.shift) a.shift += begin;
    }
    return compute(&a, &split->errors[index]);
}

/* The threads of a call that has ended, for the next one. Two calls at once have a pool each. */
static _Atomic(struct pool *) idle;

static int take_pool(struct pool **pool, struct effnet_error *error)
{
    *pool = atomic_exchange(&idle, NULL);
    if (*pool && effnet_pool_lost(*pool)) {
        effnet_pool_close(*pool);
        *pool = NULL;
    }
    return *pool ? EFFNET_OK : effnet_pool_open(effnet_cpu_threads(), pool, error);
}

static void give_back(struct pool *pool)
{
    struct pool *none = NULL;
    if (!atomic_compare_exchange_strong(&idle, &none, pool)) effnet_pool_close(pool);
}

/* When the program ends, or unloads what the library is part of: no thread may be in its code then. */
__attribute__((destructor)) static void close_idle(void)
{
    effnet_pool_close(atomic_exchange(&idle, NULL));
}

static int run_alone(const struct effnet_linear_args *args, struct effnet_error *error)
{
    int caller_omp_threads = effnet_omp_set_threads(1);
    int status = compute(args, error);
    effnet_omp_set_threads(caller_omp_threads);
    return status;
}

static int run(const struct effnet_linear_args *args, void *stream, struct effnet_error *error)
{
    (void)stream;
    const int64_t steps = (args->m >= args->n ? args->m : args->n) / PIECE_STEP;
    /* oneDNN's compiler writes to memory that it did not get. */
    if (!effnet_memory_left(BUILD_BYTES, 0)) return effnet_fail_nomem(error, "a linear layer", BUILD_BYTES);
    const double worth = (double)args->m * (double)args->n * (double)args->k / PIECE_MULTIPLY_ADDS;
    if (worth < 2 || steps < 2) return run_alone(args, error);
    struct split split = {.args = args};
    struct pool *pool;
    int status = EFFNET_OK;
    EFFNET_TRY(take_pool(&pool, error));
    split.pieces = effnet_pool_threads(pool);
    if (split.pieces > steps) split.pieces = (int)steps;
    if (split.pieces > worth) split.pieces = (int)worth;
    split.errors = calloc((size_t)split.pieces, sizeof *split.errors);
    if (split.errors)
        effnet_pool_run(pool, split.pieces, split.pieces, run_piece, &split);
    else
        status = effnet_fail_nomem(error, "a linear layer", (size_t)split.pieces * sizeof *split.errors);
    give_back(pool);
    for (int i = 0; i < split.pieces && !status; i++)
        if (split.errors[i].status)
            status = effnet_fail(error, split.errors[i].status, "%s", split.errors[i].message);
    free(split.errors);
    return status;
}

const struct linear_backend linear_onednn = {.name = "onednn", .run = run, .kernel = "matmul"};
