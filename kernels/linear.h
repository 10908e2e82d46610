/* Fully connected layer with its epilogue, fp16 in with fp32 accumulation:
 *
 *   y[i][j] = act(scale[j] * sum_l x[i][l] * w[j][l] + shift[j])      i < m, j < n, l < k
 *
 * A bias is shift with scale NULL; batch norm after a bias folds into scale and shift. A fp32 x is rounded to
 * fp16 as it is loaded.
 *
 * Several configurations compute the same function. A row of y depends on the configuration, on n, k and
 * where the arrays lie, and on nothing outside that row of x: one configuration gives the same bits on every
 * run, and for a row alone or among any others. linear_choose may choose differently for another m. */
#ifndef EFFNET_KERNELS_LINEAR_H
#define EFFNET_KERNELS_LINEAR_H

#include "activation.h"
#include "kernel_config.h"

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum linear_type { LINEAR_FP16, LINEAR_FP32 };

struct linear_args {
    const void *x;         /* [m] rows of k, `ldx` elements apart; fp16 or fp32 */
    const void *w;         /* fp16, [n] rows of k, `ldw` elements apart */
    const float *scale;    /* [n], or NULL for 1 */
    const float *shift;    /* [n], or NULL for 0 */
    void *y;               /* [m] rows of n, `ldy` elements apart; fp16 or fp32; overlaps no input */
    int64_t m, n, k;       /* each >= 1 */
    int64_t ldx, ldw, ldy; /* >= k, k, n */
    int x_type, y_type;    /* enum linear_type */
    enum activation activation;
};

/* Any m, n, k from 1 and any leading dimension are computed, the faster where k, ldx and ldw are multiples of
 * 8 (n: of 4; ldy: of 16 bytes) and the pointers 16-byte aligned. cudaErrorInvalidValue: an impossible size
 * or leading dimension, a NULL, an unknown type or activation; cudaErrorMisalignedAddress: a pointer that is
 * not a multiple of its element's size; cudaErrorInvalidConfiguration: m, n or k above LINEAR_SIZE_MAX, a
 * leading dimension of 2^32 or more, or more tiles than a grid holds. cudaSuccess: fine. */
cudaError_t linear_check(const struct linear_args *args);

enum { LINEAR_SIZE_MAX = 1 << 30 };

/* Of struct linear_args. Whether a configuration fits depends on the pointers' alignment. */
extern const struct kernel_family linear_kernels;

/* The configuration expected to be fastest on the current device, or -1 where none fits. */
int linear_choose(const struct linear_args *args);

#ifdef __cplusplus
}
#endif
#endif
