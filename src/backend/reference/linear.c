/* The linear layer by plain loops: every product, sum and function in double. */
#include "backend/linear_backend.h"
#include "backend/reference/reference.h"
#include "common/error.h"
#include "common/half.h"
#include "common/rows.h"

#include <math.h>
#include <stdlib.h>

enum { PIECE = 512 }; /* elements widened at a time, which takes a fraction of one by one's time */

static void widen_piece(const void *base, enum effnet_type type, int64_t first, int64_t count, float *to)
{
    effnet_rows_widen((const char *)base + (size_t)first * effnet_type_bytes(type), type, 1, count, count,
                      to);
}

void effnet_linear_reference(const struct effnet_linear_args *args, int64_t row, double *y)
{
    float x[PIECE], w[PIECE];
    for (int64_t j = 0; j < args->n; j++) y[j] = 0;
    for (int64_t first = 0; first < args->k; first += PIECE) {
        const int64_t left = args->k - first, count = left < PIECE ? left : PIECE;
        widen_piece(args->x, args->x_type, row * args->ldx + first, count, x);
        for (int64_t j = 0; j < args->n; j++) {
            double sum = y[j];
            widen_piece(args->w, args->w_type, j * args->ldw + first, count, w);
            for (int64_t l = 0; l < count; l++) sum += (double)x[l] * (double)w[l];
            y[j] = sum;
        }
    }
    for (int64_t j = 0; j < args->n; j++) {
        double sum = y[j];
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

static int run(const struct effnet_linear_args *a, void *stream, struct effnet_error *error)
{
    (void)stream;
    size_t n = (size_t)a->n;
    double *row = malloc(n * sizeof *row);
    if (!row) return effnet_fail_nomem(error, "a row of the linear layer", n * sizeof *row);
    for (int64_t i = 0; i < a->m; i++) {
        effnet_linear_reference(a, i, row);
        for (int64_t j = 0; j < a->n; j++)
            if (a->y_type == EFFNET_FP16)
                ((half *)a->y)[i * a->ldy + j] = half_from_double(row[j]);
            else
                ((float *)a->y)[i * a->ldy + j] = (float)row[j];
    }
    free(row);
    return EFFNET_OK;
}

const struct linear_backend linear_reference = {.name = "reference", .run = run, .kernel = "plain loops"};
