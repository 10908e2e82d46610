/* The whole network: compute alone, with the host's part, and from files. */
#include "cli/bench.h"
#include "cli/feed.h"
#include "effnet_lab.h"

#include <inttypes.h>
#include <string.h>

void bench_network_table(struct bench *bench)
{
    static const struct column columns[] = {
        {"batch", "batch", VALUE_NUMBER},
        {"measure", "measure", VALUE_TEXT},
        {"cache", "cache", VALUE_TEXT},
        {"images", "images", VALUE_NUMBER},
        {"repetitions", "repetitions", VALUE_NUMBER},
        {"median_ms", "median ms", VALUE_NUMBER},
        {"min_ms", "min ms", VALUE_NUMBER},
        {"p90_ms", "p90 ms", VALUE_NUMBER},
        {"p99_ms", "p99 ms", VALUE_NUMBER},
        {"images_per_s", "images/s", VALUE_NUMBER},
        {"memory_bytes", "memory, bytes", VALUE_NUMBER},
    };
    report_table(bench->report, "results", "Whole network", columns, sizeof columns / sizeof columns[0]);
}

static int add_sample(struct samples *samples, double elapsed_us)
{
    return samples_add(samples, elapsed_us) ? EFFNET_OK : cli_fail_nomem("the timings");
}

static int pass_compute(struct bench *bench, void *samples)
{
    struct effnet_error error;
    double elapsed_us;
    if (effnet_session_time(bench->session, bench->batch, bench->options->cold, &elapsed_us, &error))
        return cli_fail_library(&error);
    return add_sample(samples, elapsed_us);
}

static int pass_run(struct bench *bench, void *samples)
{
    struct effnet_error error;
    double start_us = now_us();
    if (effnet_session_run(bench->session, bench->pixels, bench->batch, bench->logits, &error))
        return cli_fail_library(&error);
    return add_sample(samples, now_us() - start_us);
}

/* All files once, decoded ahead in threads and run in batches, as classify does. */
static int run_files(struct bench *bench, struct feed *feed)
{
    size_t crop = (size_t)effnet_model_get_info(bench->model)->preprocess.crop;
    size_t crop_bytes = crop * crop * 3;
    struct effnet_error error;
    int pending = 0;
    for (int i = 0; i < bench->count; i++) {
        const struct feed_item *item = feed_next(feed);
        if (item->status) return cli_fail_library(&item->error);
        memcpy(bench->pixels + (size_t)pending * crop_bytes, item->crop, crop_bytes);
        if (++pending < bench->batch && i + 1 < bench->count) continue;
        if (effnet_session_run(bench->session, bench->pixels, pending, bench->logits, &error))
            return cli_fail_library(&error);
        pending = 0;
    }
    return EFFNET_OK;
}

static int pass_end_to_end(struct bench *bench, void *samples)
{
    int workers = setup_threads(&bench->options->setup);
    const struct feed_options options = {
        .preprocess = &effnet_model_get_info(bench->model)->preprocess,
        .image = {.max_pixels = EFFNET_MAX_PIXELS_DEFAULT},
        .ahead = bench->batch + workers,
        .workers = workers,
    };
    double start_us = now_us();
    struct feed *feed;
    int status = feed_open(&options, bench->paths, bench->count, &feed);
    if (status) return status;
    status = run_files(bench, feed);
    double elapsed_us = now_us() - start_us;
    feed_close(feed);
    return status ? status : add_sample(samples, elapsed_us);
}

static int measure(struct bench *bench, const char *name, bool cold, int images, bench_pass *pass)
{
    struct samples samples = {0};
    int status = bench_repeat(bench, pass, &samples);
    if (!status) {
        /* the first passes warmed up */
        size_t warmup = (size_t)bench->options->warmup, count = samples.count - warmup;
        struct statistics s = statistics_of(samples.values + warmup, count);
        report_cell_number(bench->report, "%d", bench->batch);
        report_cell_text(bench->report, name);
        report_cell_text(bench->report, cold ? "cold" : "warm");
        report_cell_number(bench->report, "%d", images);
        report_cell_number(bench->report, "%zu", count);
        report_cell_number(bench->report, "%.4f", s.median / 1e3);
        report_cell_number(bench->report, "%.4f", s.minimum / 1e3);
        report_cell_number(bench->report, "%.4f", s.p90 / 1e3);
        report_cell_number(bench->report, "%.4f", s.p99 / 1e3);
        report_cell_number(bench->report, "%.1f", images / s.median * 1e6);
        report_cell_number(bench->report, "%" PRId64, effnet_session_get_info(bench->session)->memory_bytes);
    }
    samples_free(&samples);
    return status;
}

int bench_network(struct bench *bench)
{
    int status = measure(bench, "compute", bench->options->cold, bench->batch, pass_compute);
    if (!status) status = measure(bench, "run", false, bench->batch, pass_run);
    if (!status && bench->options->end_to_end)
        status = measure(bench, "end-to-end", false, bench->count, pass_end_to_end);
    return status;
}
