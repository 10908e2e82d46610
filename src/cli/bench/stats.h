/* Timings and what is said about them. */
#ifndef EFFNET_CLI_BENCH_STATS_H
#define EFFNET_CLI_BENCH_STATS_H

#include <stddef.h>

/* Grows as needed; starts zeroed. */
struct samples {
    double *values;
    size_t count, capacity;
};

struct statistics {
    size_t count;
    double median, minimum, p90, p99;
};

/* EFFNET_OK, or EFFNET_E_NOMEM, reported. */
int samples_add(struct samples *samples, double value);
void samples_free(struct samples *samples);

/* Of count >= 1 values, which it sorts. Percentiles are by nearest rank: the smallest value that so many
 * percent do not exceed; the median of an even number is the mean of the middle two. */
struct statistics statistics_of(double *values, size_t count);

#endif
