/* Unit by unit: where the time of a pass goes, and how near that is to what the machine can do. */
#include "cli/units.h"
#include "cli/bench/bench.h"
#include "effnet_lab.h"

#include <inttypes.h>
#include <stdlib.h>

void bench_units_table(struct bench *bench)
{
    static const struct column columns[] = {
        {"batch", "batch", VALUE_NUMBER},
        {"unit", "#", VALUE_NUMBER},
        {"cache", "cache", VALUE_TEXT},
        {"layers", "layers", VALUE_TEXT},
        {"kernel", "kernel", VALUE_TEXT},
        PASS_COLUMNS("us"),
        {"share_percent", "share %", VALUE_NUMBER},
        {"bytes", "bytes", VALUE_NUMBER},
        {"gb_per_s", "GB/s", VALUE_NUMBER},
        {"flops", "FLOP", VALUE_NUMBER},
        {"gflop_per_s", "GFLOP/s", VALUE_NUMBER},
        {"roofline_percent", "roofline %", VALUE_NUMBER},
    };
    const struct bench_options *o = bench->options;
    bool roofline = o->peak_bandwidth > 0 || o->passes.peak_compute > 0;
    int count = sizeof columns / sizeof columns[0];
    report_table(bench->report, "units", "Units", columns, roofline ? count : count - 1);
}

struct profile {
    struct bench *bench;
    int unit_count;
    double *unit_us; /* [unit_count] */
};

/* Adds a sample for each unit. */
static int pass_profile(void *context, struct samples *samples)
{
    struct profile *profile = context;
    struct bench *bench = profile->bench;
    struct effnet_error error;
    if (effnet_session_profile(bench->session, bench->batch, bench->options->passes.cold, profile->unit_us,
                               &error))
        return cli_fail_library(&error);
    int status = EFFNET_OK;
    for (int i = 0; !status && i < profile->unit_count; i++)
        status = samples_add(samples, profile->unit_us[i]);
    return status;
}

/* x per microsecond in units of 1e9 per second. */
static double giga_per_second(double x, double elapsed_us)
{
    return elapsed_us > 0 ? x / elapsed_us / 1e3 : 0;
}

/* The least time that the peaks allow, in percent of what it took. */
static double roofline_percent(const struct bench_options *o, double bytes, double flops, double elapsed_us)
{
    double bytes_us = o->peak_bandwidth > 0 ? bytes / o->peak_bandwidth / 1e3 : 0;
    double flops_us = o->passes.peak_compute > 0 ? flops / o->passes.peak_compute / 1e3 : 0;
    return elapsed_us > 0 ? 100 * (bytes_us > flops_us ? bytes_us : flops_us) / elapsed_us : 0;
}

static void report_unit(struct bench *bench, int index, const struct statistics *s, double total_us)
{
    const struct bench_options *o = bench->options;
    const struct effnet_unit *unit = effnet_session_unit(bench->session, index);
    int64_t bytes = unit->bytes_per_image * bench->batch + unit->weight_bytes;
    int64_t flops = unit_flops(bench->model, unit) * bench->batch;
    char label[UNIT_LABEL_SIZE], cells[PASS_CELLS_SIZE];
    report_row(bench->report, "%d\t%d\t%s\t%s\t%s\t%s\t%.2f\t%" PRId64 "\t%.1f\t%" PRId64 "\t%.1f\t%.1f",
               bench->batch, index, o->passes.cold ? "cold" : "warm", unit_label(bench->model, unit, label),
               unit->kernel, pass_cells(s, 1, 2, cells), total_us > 0 ? 100 * s->median / total_us : 0, bytes,
               giga_per_second((double)bytes, s->median), flops, giga_per_second((double)flops, s->median),
               roofline_percent(o, (double)bytes, (double)flops, s->median));
}

/* The passes' rows turned into each unit's statistics. */
static int report_profile(struct bench *bench, size_t units, const struct samples *samples)
{
    size_t count = samples->count / units;
    struct statistics *statistics = calloc(units, sizeof *statistics);
    double *values = calloc(count, sizeof *values), total_us = 0;
    int status = statistics && values ? EFFNET_OK : cli_fail_nomem("the timings");
    for (size_t u = 0; !status && u < units; u++) {
        for (size_t i = 0; i < count; i++) values[i] = samples->values[i * units + u];
        statistics[u] = statistics_of(values, count);
        total_us += statistics[u].median;
    }
    for (size_t u = 0; !status && u < units; u++) report_unit(bench, (int)u, &statistics[u], total_us);
    free(values);
    free(statistics);
    return status;
}

int bench_units(struct bench *bench)
{
    struct profile profile = {.bench = bench, .unit_count = effnet_session_unit_count(bench->session)};
    struct samples samples = {0};
    profile.unit_us = calloc((size_t)profile.unit_count, sizeof *profile.unit_us);
    if (!profile.unit_us) return cli_fail_nomem("the timings");
    int status = passes_run(&bench->options->passes, pass_profile, &profile, &samples);
    if (!status) status = report_profile(bench, (size_t)profile.unit_count, &samples);
    samples_free(&samples);
    free(profile.unit_us);
    return status;
}
