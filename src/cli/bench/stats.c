#include "cli/bench/stats.h"

#include "cli/cli.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

int samples_add(struct samples *samples, double value)
{
    if (samples->count == samples->capacity) {
        size_t capacity = samples->capacity ? 2 * samples->capacity : 256;
        double *values = realloc(samples->values, capacity * sizeof *values);
        if (!values) return cli_fail_nomem("the timings");
        samples->values = values;
        samples->capacity = capacity;
    }
    samples->values[samples->count++] = value;
    return EFFNET_OK;
}

void samples_free(struct samples *samples)
{
    free(samples->values);
    memset(samples, 0, sizeof *samples);
}

static int compare_values(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double nearest_rank(const double *sorted, size_t count, double percent)
{
    size_t rank = (size_t)ceil(percent / 100 * (double)count);
    return sorted[rank ? rank - 1 : 0];
}

struct statistics statistics_of(double *values, size_t count)
{
    qsort(values, count, sizeof *values, compare_values);
    return (struct statistics){
        .count = count,
        .median = (values[(count - 1) / 2] + values[count / 2]) / 2,
        .minimum = values[0],
        .p90 = nearest_rank(values, count, 90),
        .p99 = nearest_rank(values, count, 99),
    };
}
