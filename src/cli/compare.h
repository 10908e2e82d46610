/* Results held against the reference. */
#ifndef EFFNET_CLI_COMPARE_H
#define EFFNET_CLI_COMPARE_H

#include <stdbool.h>
#include <stdint.h>

struct shape {
    int height, width, channels;
};

/* The worst over all images compared so far; starts zeroed. */
struct comparison {
    double relative_l2; /* |got - want| / |want| of the worst image, |want| being sqrt(size) least_rms at
                           least */
    double absolute;    /* largest |got - want| */
    double share;       /* of the allowance: above 1 is a miss. See compare.c */
    int64_t mismatches; /* NaN or infinity in one and not, or another, in the other */
    int n, h, w, c;     /* where one element is furthest off for its allowance */
    float worst_got, worst_want;
    int images;
};

/* How far results may be off the reference, as relative L2, in a precision ("fp32"): one unit that was fed
 * the reference's input, and the logits of the whole network. */
struct allowance {
    const char *precision;
    double unit, logits;
};
struct allowance find_allowance(const char *precision);

/* Adds n images [n][height][width][channels] to the comparison. least_rms[n]: what an image's root mean
 * square is taken to be where it is smaller. stages: layers between exact inputs and the outputs. */
void compare(struct comparison *comparison, const float *got, const float *want, int n, struct shape shape,
             double allowance, const double *least_rms, int stages);
bool comparison_ok(const struct comparison *comparison);

#endif
