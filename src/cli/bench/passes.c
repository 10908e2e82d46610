#include "cli/bench/passes.h"

#include "common/cpu.h"

enum { REPETITIONS_MIN = 3 }; /* even where they take longer than the duration */

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

void report_passes(struct report *report, const struct statistics *s, double unit_us, int digits)
{
    const double values[] = {s->median, s->minimum, s->p90, s->p99};
    report_cell_number(report, "%zu", s->count);
    for (int i = 0; i < 4; i++) report_cell_number(report, "%.*f", digits, values[i] / unit_us);
}
