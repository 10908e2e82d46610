/* effnet: one linear layer with its epilogue, without a network, on the CPU or on device pointers. What
 * effnet.h says of errors, handles, threads and growing structs holds here too. */
#ifndef EFFNET_LINEAR_H
#define EFFNET_LINEAR_H

#include "effnet.h"

#ifdef __cplusplus
extern "C" {
#endif
#ifdef __GNUC__
#pragma GCC visibility push(default)
#endif

enum effnet_activation {
    EFFNET_ACT_NONE,
    EFFNET_ACT_RELU,
    EFFNET_ACT_RELU6,
    EFFNET_ACT_SILU,
    EFFNET_ACT_GELU,      /* x * Phi(x), by erf */
    EFFNET_ACT_GELU_RELU, /* max(GELU(x), 0) */
    EFFNET_ACT_SIGMOID,
    EFFNET_ACT_HARDSWISH, /* x * clamp(x + 3, 0, 6) / 6 */
    EFFNET_ACT_TANH,
};

enum effnet_type { EFFNET_FP16, EFFNET_FP32 }; /* IEEE 754 binary16 and binary32 */

/* y[i][j] = act(scale[j] * sum_l x[i][l] * w[j][l] + shift[j]),  i < m, j < n, l < k
 *
 * A bias is shift with scale NULL. Batch norm after it folds into both: effnet_fold_batch_norm. Rows lie
 * ldx, ldw and ldy elements apart; columns at or past n of a row of y are left alone. The arrays belong to
 * the caller; y overlaps no other. Products and sums are at least fp32; erf is the exact one. A NaN or an
 * infinity in a row of x changes nothing in other rows; w, scale and shift are finite. */
struct effnet_linear_args {
    int64_t m, n, k;                         /* 1 .. 2^30 */
    const void *x;                           /* [m][k]; a fp32 x is rounded to fp16 on the GPU */
    const void *w;                           /* [n][k], as PyTorch's Linear.weight */
    const float *scale, *shift;              /* [n]; NULL: ones, zeros */
    void *y;                                 /* [m][n] */
    int64_t ldx, ldw, ldy;                   /* at least k, k, n, and below 2^32 */
    enum effnet_type x_type, w_type, y_type; /* w is fp16 on the GPU */
    enum effnet_activation activation;
    uint64_t reserved[4]; /* 0 */
};

/* Arrays of fp32, NULL yet, without gaps between rows; neither scale, shift nor activation. */
struct effnet_linear_args effnet_linear_defaults(int64_t m, int64_t n, int64_t k);

enum effnet_memory { EFFNET_MEMORY_HOST, EFFNET_MEMORY_CUDA };

/* Computes it where the arrays are. Host: on the CPU, through oneDNN where the build has it, else by the
 * reference; done on return, on as many threads as the process may use; `stream` is NULL; may allocate fp32
 * copies of what is fp16. CUDA: every pointer
 * is memory of the current device; enqueued on `stream` (a cudaStream_t; NULL is the default stream) and not
 * waited for, so a fault shows in a later call; allocates nothing and may be captured into a graph. Fastest
 * where k, ldx and ldw are multiples of 8, n is of 4, ldy of 16 bytes, and the arrays are 16-byte aligned.
 * EFFNET_E_USAGE: a size or leading dimension out of range, a NULL, a pointer that is no multiple of its
 * element's size, fp32 w on the GPU. EFFNET_E_UNAVAILABLE: a build without CUDA, no GPU, or a
 * process forked from one that uses it. EFFNET_E_NOMEM, EFFNET_E_INTERNAL: as they say. */
int effnet_linear(const struct effnet_linear_args *args, enum effnet_memory memory, void *stream,
                  struct effnet_error *error);

/* Row `row` of y in double precision, before any rounding to y's type: y[n]. Host memory, plain loops. */
void effnet_linear_reference(const struct effnet_linear_args *args, int64_t row, double *y);

/* Batch norm (running mean and variance, gamma, beta, epsilon) after a linear layer with `bias` (NULL: none),
 * as the scale[n] and shift[n] of effnet_linear_args, worked out in double:
 * scale = gamma / sqrt(variance + epsilon), shift = beta + (bias - mean) * scale. */
void effnet_fold_batch_norm(int64_t n, const float *bias, const float *gamma, const float *beta,
                            const float *mean, const float *variance, double epsilon, float *scale,
                            float *shift);

/* ---------------------------------------------------------------- bench */

/* One linear layer where it runs, with its own copies of the arrays, to be verified and timed. */
typedef struct effnet_linear_bench effnet_linear_bench;

struct effnet_linear_bench_info {
    const char *backend; /* "onednn", "reference", "cuda" */
    const char *device;  /* processor's name */
    const char *kernel;  /* what effnet_linear runs there for these arguments */
    int calls;           /* that one timing is the mean of */
};

/* args: x, w, scale and shift in host memory, which must stay until the bench is closed; y and ldy are not
 * used. device: "cpu", "cuda" or "cuda:N"; the calling thread's current device stays. cold: every call finds
 * its inputs outside the caches, else in them as far as they fit. calls: that one timing is to be the mean
 * of, or 0 for as many as fill about 10 ms, 200 at most; the CPU makes one. Fails as effnet_linear does, and
 * with EFFNET_E_UNAVAILABLE where there is no such device. */
int effnet_linear_bench_open(const struct effnet_linear_args *args, const char *device, bool cold, int calls,
                             effnet_linear_bench **out, struct effnet_error *error);
void effnet_linear_bench_close(effnet_linear_bench *bench);
const struct effnet_linear_bench_info *effnet_linear_bench_get_info(const effnet_linear_bench *bench);

/* Computes the layer once, over NaNs, and gives the rows rows[count] of y as floats: y[count][n]. */
int effnet_linear_bench_rows(effnet_linear_bench *bench, const int64_t *rows, int count, float *y,
                             struct effnet_error *error);
/* Microseconds of one call of effnet_linear: the mean of info->calls one after the other, on a GPU by its own
 * clock and without the host's part (a CUDA graph, right after the same one or, cold, after one that empties
 * the caches), on the CPU by the wall clock. */
int effnet_linear_bench_time(effnet_linear_bench *bench, double *elapsed_us, struct effnet_error *error);

#ifdef __GNUC__
#pragma GCC visibility pop
#endif
#ifdef __cplusplus
}
#endif
#endif
