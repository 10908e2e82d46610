/* The linear layer by plain loops: every product, sum and function in double. */
#include "backend/reference/reference.h"

#include <math.h>

static double element(const void *base, enum effnet_type type, int64_t index)
{
    return type == EFFNET_FP16 ? (double)((const _Float16 *)base)[index]
                               : (double)((const float *)base)[index];
}

void effnet_linear_reference(const struct effnet_linear_args *args, int64_t row, double *y)
{
    for (int64_t j = 0; j < args->n; j++) {
        double sum = 0;
        for (int64_t l = 0; l < args->k; l++)
            sum += element(args->x, args->x_type, row * args->ldx + l) *
                   element(args->w, args->w_type, j * args->ldw + l);
        if (args->scale) sum *= (double)args->scale[j];
        if (args->shift) sum += (double)args->shift[j];
        y[j] = effnet_reference_activation(args->activation, sum);
    }
}

void effnet_fold_batch_norm(int64_t n, const float *bias, const float *gamma, const float *beta,
                            const float *mean, const float *variance, double epsilon, float *scale,
                            float *shift)
{
    for (int64_t j = 0; j < n; j++) {
        double s = (double)gamma[j] / sqrt((double)variance[j] + epsilon);
        scale[j] = (float)s;
        shift[j] = (float)((double)beta[j] + ((bias ? (double)bias[j] : 0.0) - (double)mean[j]) * s);
    }
}
