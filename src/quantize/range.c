/* Which part of a tensor's values its 256 steps span: what loses least, as a sum of squares over the values
 * that were seen, of all that was seen (min-max), all but a share at each end (percentile), and a grid of
 * shorter spans (least squares). */
#include "quantize/internal.h"

#include <math.h>

enum { GRID = 24 };
#define GRID_STEP 0.025 /* of the whole span */

struct span {
    double low, high;
};

static double bin_value(const struct tensor *t, int bin)
{
    return t->least + (bin + 0.5) * (t->most - t->least) / QUANTIZE_BINS;
}

static void scale_of(const struct tensor *t, struct span span, float *scale, int *zero)
{
    *scale = (float)fmax((span.high - span.low) / t->steps, t->least_step);
    *zero = (int)fmin(t->steps, fmax(0, rint(-span.low / (double)*scale)));
}

/* Squares of what rounding and clipping take, over all values. */
static double loss_of(const struct tensor *t, struct span span)
{
    float scale;
    int zero;
    double loss = 0;
    scale_of(t, span, &scale, &zero);
    for (int b = 0; b < QUANTIZE_BINS; b++) {
        if (t->histogram[b] == 0) continue;
        const double x = bin_value(t, b), step = fmin(t->steps, fmax(0, rint(x / (double)scale) + zero));
        /* Values inside lie anywhere in a step: rounding takes a twelfth of its square. */
        const double inside = (double)scale * (double)scale / 12, error = x - (step - zero) * (double)scale;
        loss += t->histogram[b] * fmax(fabs(error) > (double)scale / 2 ? error * error : 0, inside);
    }
    return loss;
}

/* Leaves out this share of the values at each end. */
static struct span percentile(const struct tensor *t, double share)
{
    double total = 0, seen = 0;
    struct span span = {fmin(t->least, 0), fmax(t->most, 0)};
    for (int b = 0; b < QUANTIZE_BINS; b++) total += t->histogram[b];
    for (int b = 0; b < QUANTIZE_BINS; b++) {
        seen += t->histogram[b];
        if (seen <= share * total) span.low = fmin(bin_value(t, b), 0);
        if (seen >= (1 - share) * total) {
            span.high = fmax(bin_value(t, b), 0);
            break;
        }
    }
    return span;
}

static void try_span(struct tensor *t, struct span span, enum quantize_range range, double *least)
{
    const double loss = loss_of(t, span);
    if (loss > 0.999 * *least) return; /* no reason to leave the simpler one */
    *least = loss;
    t->range = range;
    scale_of(t, span, &t->scale, &t->zero);
}

void quantize_choose_range(struct tensor *t, bool positive)
{
    static const double shares[] = {1e-5, 1e-4, 1e-3};
    const struct span whole = {positive ? 0 : fmin(t->least, 0), fmax(t->most, 0)};
    double least = INFINITY;
    if (t->steps == EFFNET_MOST_WIDE) { /* has steps enough for twice what was seen */
        try_span(t, (struct span){2 * whole.low, 2 * whole.high}, QUANTIZE_MIN_MAX, &least);
        return;
    }
    try_span(t, whole, QUANTIZE_MIN_MAX, &least);
    for (int i = 0; i < 3; i++) try_span(t, percentile(t, shares[i]), QUANTIZE_PERCENTILE, &least);
    for (int i = 0; i < GRID; i++)
        for (int k = 0; k < (positive ? 1 : GRID); k++) {
            const struct span span = {whole.low * (1 - k * GRID_STEP), whole.high * (1 - i * GRID_STEP)};
            try_span(t, span, QUANTIZE_LEAST_SQUARES, &least);
        }
    double total = 0, outside = 0;
    for (int b = 0; b < QUANTIZE_BINS; b++) {
        const double step = bin_value(t, b) / (double)t->scale + t->zero;
        total += t->histogram[b];
        if (step < -0.5 || step > t->steps + 0.5) outside += t->histogram[b];
    }
    t->clipped = total > 0 ? outside / total : 0;
}
