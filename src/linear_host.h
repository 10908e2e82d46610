/* One linear layer outside a network: where effnet_linear sends its arguments, checked. */
#ifndef EFFNET_LINEAR_HOST_H
#define EFFNET_LINEAR_HOST_H

#include "effnet_linear.h"

#ifdef EFFNET_HAVE_ONEDNN
/* Host memory, through oneDNN's matrix product, on as many threads as OpenMP says; and on threads of ours. */
int effnet_onednn_linear(const struct effnet_linear_args *args, struct effnet_error *error);
int effnet_onednn_linear_split(const struct effnet_linear_args *args, struct effnet_error *error);
#endif

/* Whether sizes, leading dimensions, pointers, types and activation are as effnet_linear wants them. */
int effnet_linear_check(const struct effnet_linear_args *args, struct effnet_error *error);
size_t effnet_type_bytes(enum effnet_type type);

#ifdef EFFNET_HAVE_CUDA
/* The configuration that effnet_linear takes for device pointers, or NULL where none fits. */
const char *effnet_linear_cuda_kernel(const struct effnet_linear_args *args);

/* As the functions effnet_linear_bench_* of effnet.h. */
struct cuda_linear_bench;
int cuda_linear_bench_open(const struct effnet_linear_args *args, int device_index, bool cold, int calls,
                           struct cuda_linear_bench **out, struct effnet_linear_bench_info *info,
                           struct effnet_error *error);
void cuda_linear_bench_close(struct cuda_linear_bench *bench);
int cuda_linear_bench_rows(struct cuda_linear_bench *bench, const int64_t *rows, int count, float *y,
                           struct effnet_error *error);
int cuda_linear_bench_time(struct cuda_linear_bench *bench, double *elapsed_us, struct effnet_error *error);
#endif

/* `rows` rows of `columns` elements, `ld` apart, as floats, `columns` apart. */
void effnet_linear_widen(const void *from, enum effnet_type type, int64_t rows, int64_t columns, int64_t ld,
                         float *to);
/* Floats, `columns` apart, to rows `ld` apart, rounded to `type`. */
void effnet_linear_narrow(const float *from, int64_t rows, int64_t columns, int64_t ld, enum effnet_type type,
                          void *to);

#endif
