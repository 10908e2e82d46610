/* effnet_linear on the CPU: y in pieces, one a thread of ours, each a call of oneDNN that uses one thread.
 * OpenMP's own team will not do: it hangs in a child of a process that has used it, it ends the program where
 * the system refuses it a thread, and it knows nothing of control groups. */
#include "backend/linear_backend.h"
#include "backend/onednn/onednn.h"
#include "common/cpu.h"
#include "common/error.h"
#include "common/memory.h"
#include "common/rows.h"

#include <stdatomic.h>
#include <stdlib.h>

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

/* oneDNN's fast kernels want rows of y without gaps: where there are some, y is computed beside and copied.
 */
static int run_dense(const struct effnet_linear_args *a, struct effnet_error *error)
{
    if (a->ldy == a->n) return effnet_onednn_linear(a, error);
    struct effnet_linear_args dense = *a;
    const size_t bytes = (size_t)a->m * (size_t)a->n * sizeof(float);
    float *y = malloc(bytes);
    if (!y) return effnet_fail_nomem(error, "a linear layer's results", bytes);
    dense.y = y;
    dense.y_type = EFFNET_FP32;
    dense.ldy = a->n;
    int status = effnet_onednn_linear(&dense, error);
    if (!status) effnet_rows_narrow(y, a->m, a->n, a->ldy, a->y_type, a->y);
    free(y);
    return status;
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
    return run_dense(&a, &split->errors[index]);
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
    int caller_omp_threads = omp_get_max_threads();
    omp_set_num_threads(1);
    int status = run_dense(args, error);
    omp_set_num_threads(caller_omp_threads);
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
    int status = take_pool(&pool, error);
    if (status) return status;
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
