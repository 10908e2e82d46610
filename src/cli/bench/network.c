/* The whole network: compute alone, with the host's part, and from files. */
#include "cli/bench/bench.h"
#include "cli/feed.h"
#include "common/cpu.h"
#include "effnet_lab.h"

#include <inttypes.h>

void bench_network_table(struct bench *bench)
{
    static const struct column columns[] = {
        {"batch", "batch", VALUE_NUMBER},
        {"measure", "measure", VALUE_TEXT},
        {"cache", "cache", VALUE_TEXT},
        {"images", "images", VALUE_NUMBER},
        PASS_COLUMNS("ms"),
        {"images_per_s", "images/s", VALUE_NUMBER},
        {"memory_bytes", "memory, bytes", VALUE_NUMBER},
    };
    report_table(bench->report, "results", "Whole network", columns, sizeof columns / sizeof columns[0]);
}

static int pass_compute(void *context, struct samples *samples)
{
    struct bench *bench = context;
    struct effnet_error error;
    double elapsed_us;
    if (effnet_session_time(bench->session, bench->batch, bench->options->passes.cold, &elapsed_us, &error))
        return cli_fail_library(&error);
    return samples_add(samples, elapsed_us);
}

static int pass_run(void *context, struct samples *samples)
{
    struct bench *bench = context;
    struct effnet_error error;
    double start_us = effnet_clock_us();
    if (effnet_session_run(bench->session, bench->pixels, bench->batch, bench->logits, &error))
        return cli_fail_library(&error);
    return samples_add(samples, effnet_clock_us() - start_us);
}

/* A file that is no image ends the measure. */
static int visit_item(const struct feed_item *item, void *context)
{
    (void)context;
    return item->status ? cli_fail_library(&item->error) : EFFNET_OK;
}

/* All files once, decoded ahead in threads and run in batches, as classify does. */
static int pass_end_to_end(void *context, struct samples *samples)
{
    struct bench *bench = context;
    int workers = setup_threads(&bench->options->setup), images;
    const struct feed_options options = {
        .preprocess = &effnet_model_get_info(bench->model)->preprocess,
        .image = effnet_image_defaults(),
        .ahead = bench->batch + workers,
        .workers = workers,
    };
    double start_us = effnet_clock_us();
    struct feed *feed;
    EFFNET_TRY(feed_open(&options, bench->paths, bench->count, &feed));
    int status;
    do {
        struct effnet_error error;
        status = feed_batch(feed, bench->batch, bench->pixels, NULL, &images, visit_item, NULL);
        if (!status && images &&
            effnet_session_run(bench->session, bench->pixels, images, bench->logits, &error))
            status = cli_fail_library(&error);
    } while (!status && images);
    double elapsed_us = effnet_clock_us() - start_us;
    feed_close(feed);
    return status ? status : samples_add(samples, elapsed_us);
}

static int measure(struct bench *bench, const char *name, bool cold, int images, timed_pass *pass)
{
    struct samples samples = {0};
    int status = passes_run(&bench->options->passes, pass, bench, &samples);
    if (!status) {
        struct statistics s = statistics_of(samples.values, samples.count);
        char cells[PASS_CELLS_SIZE];
        report_row(bench->report, "%d\t%s\t%s\t%d\t%s\t%.1f\t%" PRId64, bench->batch, name,
                   cold ? "cold" : "warm", images, pass_cells(&s, 1e3, 4, cells), images / s.median * 1e6,
                   effnet_session_get_info(bench->session)->memory_bytes);
    }
    samples_free(&samples);
    return status;
}

int bench_network(struct bench *bench)
{
    EFFNET_TRY(measure(bench, "compute", bench->options->passes.cold, bench->batch, pass_compute));
    EFFNET_TRY(measure(bench, "run", false, bench->batch, pass_run));
    if (!bench->options->end_to_end) return EFFNET_OK;
    return measure(bench, "end-to-end", false, bench->count, pass_end_to_end);
}
