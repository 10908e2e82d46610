/* effnet_linear on the CPU: one oneDNN matrix product with its epilogue as post-operations. */
#include "backend/onednn/activation.h"
#include "backend/onednn/onednn.h"
#include "common/error.h"
#include "common/fork.h"
#include "common/rows.h"

#include <math.h>
#include <stdlib.h>

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
 * row gets the dense stride, and a column is copied. */
static int widen(struct job *job, int index, const void **base, enum effnet_type type, int64_t rows,
                 int64_t columns, int64_t *ld, bool fill, struct effnet_error *error)
{
    if (rows == 1) *ld = columns;
    if (type == EFFNET_FP32 && (columns > 1 || *ld == columns)) return EFFNET_OK;
    size_t bytes = (size_t)rows * (size_t)columns * sizeof(float);
    float *copy = job->copy[index] = malloc(bytes);
    if (!copy) return effnet_fail_nomem(error, "a linear layer's operand", bytes);
    if (fill) effnet_rows_widen(*base, type, rows, columns, *ld, copy);
    *base = copy;
    *ld = columns;
    return EFFNET_OK;
}

/* Builds the product x (w's transpose) with its epilogue, and runs it on pointers x, w, y (fp32). */
static dnnl_status_t run(struct job *job, const struct effnet_linear_args *a, const void *pointers[3],
                         const int64_t ld[3])
{
    const dnnl_dims_t dims[5] = {{a->m, a->k}, {a->k, a->n}, {a->m, a->n}, {1, a->n}, {1, a->n}};
    const dnnl_dims_t strides[5] = {{ld[0], 1}, {1, ld[1]}, {ld[2], 1}, {a->n, 1}, {a->n, 1}};
    const void *all[5] = {pointers[0], pointers[1], pointers[2], a->scale, a->shift};
    dnnl_exec_arg_t arguments[5];
    int count = 0, operation = 0;
    effnet_fork_block(); /* oneDNN keeps primitives in a cache with locks of its own */
    dnnl_status_t s = dnnl_engine_create(&job->engine, dnnl_cpu, 0);
    if (s == dnnl_success) s = dnnl_stream_create(&job->stream, job->engine, dnnl_stream_default_flags);
    if (s == dnnl_success) s = dnnl_primitive_attr_create(&job->attributes);
    if (s == dnnl_success) s = dnnl_primitive_attr_set_fpmath_mode(job->attributes, dnnl_fpmath_mode_strict);
    if (s == dnnl_success) s = dnnl_post_ops_create(&job->operations);
    for (int i = 0; s == dnnl_success && i < 5; i++) {
        static const int roles[] = {DNNL_ARG_SRC, DNNL_ARG_WEIGHTS, DNNL_ARG_DST};
        if (!all[i]) continue;
        s = onednn_desc_by_strides(&job->shape[i], 2, dims[i], dnnl_f32, strides[i]);
        /* oneDNN takes inputs and outputs alike as void *, and writes to y alone */
        if (s == dnnl_success)
            s = dnnl_memory_create(&job->memory[i], job->shape[i], job->engine, (void *)(uintptr_t)all[i]);
        int role = i < 3 ? roles[i] : DNNL_ARG_ATTR_MULTIPLE_POST_OP(operation) | DNNL_ARG_SRC_1;
        if (s == dnnl_success && i >= 3) {
            s = dnnl_post_ops_append_binary(job->operations, i == 3 ? dnnl_binary_mul : dnnl_binary_add,
                                            job->shape[i]);
            operation++;
        }
        if (s == dnnl_success) arguments[count++] = (dnnl_exec_arg_t){role, job->memory[i]};
    }
    if (s == dnnl_success) s = effnet_onednn_append_activation(job->operations, a->activation);
    if (s == dnnl_success) s = dnnl_primitive_attr_set_post_ops(job->attributes, job->operations);
    if (s == dnnl_success)
        s = onednn_matmul(&job->description, job->engine, job->shape[0], job->shape[1], job->shape[2],
                          job->attributes);
    if (s == dnnl_success) s = dnnl_primitive_create(&job->primitive, job->description);
    effnet_fork_unblock();
    if (s == dnnl_success) s = dnnl_primitive_execute(job->primitive, job->stream, count, arguments);
    if (s == dnnl_success) s = dnnl_stream_wait(job->stream);
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

int effnet_onednn_linear(const struct effnet_linear_args *a, struct effnet_error *error)
{
    struct job job = {0};
    const void *pointers[3] = {a->x, a->w, a->y};
    int64_t ld[3] = {a->ldx, a->ldw, a->ldy};
    int status = widen(&job, 0, &pointers[0], a->x_type, a->m, a->k, &ld[0], true, error);
    if (!status) status = widen(&job, 1, &pointers[1], a->w_type, a->n, a->k, &ld[1], true, error);
    if (!status) status = widen(&job, 2, &pointers[2], a->y_type, a->m, a->n, &ld[2], false, error);
    if (!status) {
        dnnl_status_t s = run(&job, a, pointers, ld);
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
