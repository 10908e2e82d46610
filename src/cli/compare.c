#include "cli/compare.h"

#include <math.h>
#include <string.h>

/* An image passes if its relative L2 error is within the allowance and so is every element:
 *
 *     |got - want| <= allowance * (|want| + PEAK * rms(want))
 *
 * The first alone would hide one wrong pixel among a million right ones. Rounding gives an element an error
 * in proportion to itself and, since terms cancel, to the size of its terms, which is about the image's root
 * mean square; the largest of a million such errors is five to six times the usual one. PEAK leaves room
 * for both. A handful of values can all be near 0 though their terms are not: then the caller says the
 * terms' size. Where `stages` layers were computed one after the other from exact inputs, their errors add up
 * as independent ones do, and so does the room for the largest: PEAK * sqrt(stages). */
#define PEAK 16.0

/* int8: the same bytes; what they stand for, and logits, may not differ in a bit.
 * bf16: to round input, weights and output and nothing else puts lite1's first depthwise layer off by 1.23e-2
 * on a smooth image, where its filters' terms cancel. */
static const struct allowance allowances[] = {
    {"fp32", 1e-5, 1e-5}, {"fp16", 1e-3, 5e-3}, {"bf16", 2e-2, 5e-2}, {"int8", 1e-9, 1e-9}};
enum { ALLOWANCE_COUNT = sizeof allowances / sizeof allowances[0] };

/* An unknown precision is held to fp32's. */
struct allowance find_allowance(const char *precision)
{
    for (int i = 0; i < ALLOWANCE_COUNT; i++)
        if (!strcmp(allowances[i].precision, precision)) return allowances[i];
    return allowances[0];
}

/* NaN against NaN, or the same infinity. */
static bool same_nonfinite(double got, double want)
{
    return (isnan(got) && isnan(want)) || (isinf(got) && got == want);
}

/* x / y where nothing over nothing is nothing. */
static double ratio(double x, double y)
{
    return x == 0 ? 0 : x / y;
}

static void compare_image(struct comparison *comparison, const float *got, const float *want, int64_t size,
                          struct shape shape, double allowance, double least_rms, int stages)
{
    double want_square = 0, error_square = 0;
    for (int64_t i = 0; i < size; i++) {
        if (!isfinite(got[i]) || !isfinite(want[i])) continue;
        double error = (double)got[i] - (double)want[i];
        want_square += (double)want[i] * (double)want[i];
        error_square += error * error;
    }
    const double rms = fmax(sqrt(want_square / (double)size), least_rms);
    const double relative = ratio(sqrt(error_square / (double)size), rms);
    const double room = PEAK * sqrt(stages) * rms;
    double peak = -1; /* of this image; comparison->share knows the others' */
    int64_t worst = 0;
    for (int64_t i = 0; i < size; i++) {
        double g = got[i], w = want[i], error = fabs(g - w), share;
        if (isfinite(g) && isfinite(w)) {
            share = ratio(error, allowance * (fabs(w) + room));
        } else if (same_nonfinite(g, w)) {
            continue;
        } else {
            comparison->mismatches++;
            error = share = INFINITY;
        }
        if (error > comparison->absolute) comparison->absolute = error;
        if (share > peak) {
            peak = share;
            worst = i;
        }
    }
    double share = fmax(relative / allowance, peak);
    if (relative > comparison->relative_l2) comparison->relative_l2 = relative;
    if (share > comparison->share || comparison->images == 0) {
        comparison->share = share > 0 ? share : 0;
        comparison->n = comparison->images;
        comparison->h = (int)(worst / shape.channels / shape.width);
        comparison->w = (int)(worst / shape.channels % shape.width);
        comparison->c = (int)(worst % shape.channels);
        comparison->worst_got = got[worst];
        comparison->worst_want = want[worst];
    }
    comparison->images++;
}

void compare(struct comparison *comparison, const float *got, const float *want, int n, struct shape shape,
             double allowance, const double *least_rms, int stages)
{
    int64_t size = (int64_t)shape.height * shape.width * shape.channels;
    for (int i = 0; i < n; i++)
        compare_image(comparison, got + i * size, want + i * size, size, shape, allowance, least_rms[i],
                      stages);
}

bool comparison_ok(const struct comparison *comparison)
{
    return comparison->share <= 1 && comparison->mismatches == 0;
}
