#include "cli/bench/bench.h"
#include "common/cpu.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { REPETITIONS_MIN = 3 }; /* even where they take longer than the duration */

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

int passes_run(const struct pass_options *o, timed_pass *pass, void *context, struct samples *samples)
{
    int status = EFFNET_OK;
    for (int64_t i = 0; !status && i < o->warmup; i++) status = pass(context, samples);
    samples->count = 0;
    double start_us = effnet_clock_us();
    for (int64_t i = 0; !status && i < REPETITIONS_MAX; i++) {
        bool enough = o->repetitions
                          ? i >= o->repetitions
                          : i >= REPETITIONS_MIN && effnet_clock_us() - start_us >= o->duration * 1e6;
        if (enough) break;
        status = pass(context, samples);
    }
    return status;
}

const char *pass_cells(const struct statistics *s, double unit_us, int digits, char cells[PASS_CELLS_SIZE])
{
    snprintf(cells, PASS_CELLS_SIZE, "%zu\t%.*f\t%.*f\t%.*f\t%.*f", s->count, digits, s->median / unit_us,
             digits, s->minimum / unit_us, digits, s->p90 / unit_us, digits, s->p99 / unit_us);
    return cells;
}
