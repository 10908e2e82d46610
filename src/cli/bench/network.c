/* The whole network: compute alone, with the host's part, and from files. */
#include "cli/bench/bench.h"
#include "common/cpu.h"
#include "effnet_lab.h"

#include <inttypes.h>
#include <string.h>

/* More than any session has. */
enum { STAGES_MAX = 64 };

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

/* ---------------------------------------------------------------- a stream of batches */

/* Hands out a stage of each session, submits it as it is, and collects the oldest pass once no stage is left:
 * as many passes are under way as there may be. */
static int stream(struct bench *bench, int sessions, struct samples *samples)
{
    struct effnet_error error;
    const double start_us = effnet_clock_us();
    for (int i = 0; i < sessions; i++) {
        effnet_session *session = bench->sessions.session[i];
        uint8_t *pixels;
        int images;
        if (effnet_session_stage(session, &pixels, &error)) return cli_fail_library(&error);
        if (!pixels && (effnet_session_collect(session, bench->logits, &images, &error) ||
                        effnet_session_stage(session, &pixels, &error)))
            return cli_fail_library(&error);
        if (effnet_session_submit(session, pixels, bench->batch, &error)) return cli_fail_library(&error);
    }
    return samples_add(samples, effnet_clock_us() - start_us);
}

static int pass_stream(void *context, struct samples *samples)
{
    return stream(context, 1, samples);
}

static int pass_stream_all(void *context, struct samples *samples)
{
    const struct bench *bench = context;
    return stream(context, bench->sessions.count, samples);
}

/* Every stage holds the batch, so that what is computed is no mere noise. */
static int fill_stages(struct bench *bench)
{
    const size_t crop = (size_t)effnet_model_get_info(bench->model)->preprocess.crop;
    struct effnet_error error;
    for (int i = 0; i < bench->sessions.count; i++) {
        effnet_session *session = bench->sessions.session[i];
        uint8_t *stages[STAGES_MAX];
        int count = 0;
        for (; count < STAGES_MAX; count++) {
            if (effnet_session_stage(session, &stages[count], &error)) return cli_fail_library(&error);
            if (!stages[count]) break;
            memcpy(stages[count], bench->pixels, (size_t)bench->batch * crop * crop * 3);
        }
        while (count > 0) effnet_session_submit(session, stages[--count], 0, NULL);
    }
    return EFFNET_OK;
}

static int drain(struct bench *bench)
{
    struct effnet_error error;
    for (int i = 0; i < bench->sessions.count; i++)
        for (int images = 1; images;)
            if (effnet_session_collect(bench->sessions.session[i], bench->logits, &images, &error))
                return cli_fail_library(&error);
    return EFFNET_OK;
}

static int pass_upload(void *context, struct samples *samples)
{
    struct bench *bench = context;
    struct effnet_error error;
    double elapsed_us;
    if (effnet_session_time_upload(bench->session, bench->batch, &elapsed_us, &error))
        return cli_fail_library(&error);
    return samples_add(samples, elapsed_us);
}

/* ---------------------------------------------------------------- from files */

enum file_stage { READ, DECODE, FIT, DECODE_GPU, WHOLE, FILE_STAGES };
static const char *const file_stage_names[FILE_STAGES] = {"read", "decode", "fit", "decode gpu",
                                                          "end-to-end"};

struct files {
    struct bench *bench;
    int next;
    struct samples samples[FILE_STAGES]; /* a pass over all files */
};

static int next_file(void *context, struct effnet_item *item, struct effnet_error *error)
{
    struct files *files = context;
    (void)error;
    if (files->next == files->bench->count) return 0;
    *item = (struct effnet_item){.name = files->bench->paths[files->next++]};
    return 1;
}

/* All results; a file that is no image ends the measure. */
static int take_results(effnet_pipeline *pipeline)
{
    for (;;) {
        const struct effnet_result *result;
        struct effnet_error error;
        if (effnet_pipeline_next(pipeline, &result, &error)) return cli_fail_library(&error);
        if (!result) return EFFNET_OK;
        if (result->status) return cli_fail_library(result->error);
    }
}

/* All files once, as classify reads, decodes and runs them. What a step takes is its time in all threads over
 * the number of threads that decode: so long would it take alone. */
static int pass_files(void *context, struct samples *samples)
{
    struct files *files = context;
    struct bench *bench = files->bench;
    const struct effnet_pipeline_options options = setup_pipeline_options(&bench->options->setup,
                                                                          bench->options->decode);
    struct effnet_pipeline_stats stats = {0};
    struct effnet_error error;
    effnet_pipeline *pipeline;
    files->next = 0;
    const double start_us = effnet_clock_us();
    if (effnet_pipeline_open(bench->model, &options, next_file, files, &pipeline, &error))
        return cli_fail_library(&error);
    int status = effnet_pipeline_start_sessions(pipeline, bench->sessions.session, bench->sessions.count,
                                                &error)
                     ? cli_fail_library(&error)
                     : take_results(pipeline);
    sessions_tell_lost(&bench->sessions, pipeline);
    const double elapsed_us = effnet_clock_us() - start_us;
    effnet_pipeline_get_stats(pipeline, &stats);
    effnet_pipeline_close(pipeline);
    if (!status) status = samples_add(&files->samples[READ], stats.read_us / stats.threads);
    if (!status) status = samples_add(&files->samples[DECODE], stats.decode_us / stats.threads);
    if (!status) status = samples_add(&files->samples[FIT], stats.fit_us / stats.threads);
    if (!status) status = samples_add(&files->samples[DECODE_GPU], stats.decode_gpu_us);
    return status ? status : samples_add(samples, elapsed_us);
}

/* ---------------------------------------------------------------- rows */

/* Returns the median, in microseconds an image. What took no time gets no row: with --decode gpu either side
 * may have nothing to decode. */
static double add_row(struct bench *bench, const char *name, bool cold, int images, struct samples *samples)
{
    const struct statistics s = statistics_of(samples->values, samples->count);
    char cells[PASS_CELLS_SIZE];
    if (s.median <= 0) return 0;
    report_row(bench->report, "%d\t%s\t%s\t%d\t%s\t%.1f\t%" PRId64, bench->batch, name,
               cold ? "cold" : "warm", images, pass_cells(&s, 1e3, 4, cells), images / s.median * 1e6,
               effnet_session_get_info(bench->session)->memory_bytes);
    return s.median / images;
}

/* *image_us, where not NULL, is what an image takes. */
static int measure_images(struct bench *bench, const char *name, bool cold, int images, timed_pass *pass,
                          double *image_us)
{
    struct samples samples = {0};
    const int status = passes_run(&bench->options->passes, pass, bench, &samples);
    const double us = status ? 0 : add_row(bench, name, cold, images, &samples);
    if (image_us) *image_us = us;
    samples_free(&samples);
    return status;
}

static int measure(struct bench *bench, const char *name, bool cold, timed_pass *pass, double *image_us)
{
    return measure_images(bench, name, cold, bench->batch, pass, image_us);
}

/* Streams, one and, where there are several GPUs, all of them at once: what that gains, in a note. */
static int measure_streams(struct bench *bench)
{
    const int count = bench->sessions.count;
    double one_us, all_us;
    char name[32];
    EFFNET_TRY(fill_stages(bench));
    EFFNET_TRY(measure(bench, "stream", false, pass_stream, &one_us));
    EFFNET_TRY(drain(bench));
    if (count == 1) return EFFNET_OK;
    snprintf(name, sizeof name, "stream, %d GPUs", count);
    EFFNET_TRY(measure_images(bench, name, false, count * bench->batch, pass_stream_all, &all_us));
    snprintf(bench->notes[bench->note_count++], BENCH_NOTE_SIZE,
             "Batch %d: %d GPUs take %.2f times as many images as the first alone.", bench->batch, count,
             one_us / all_us);
    return drain(bench);
}

/* The files' rows, and in a note what binds: the step that would take longest alone. */
static int measure_files(struct bench *bench, double upload_us, double compute_us)
{
    struct files files = {.bench = bench};
    const char *limit = compute_us >= upload_us ? "compute" : "upload";
    double longest_us = compute_us >= upload_us ? compute_us : upload_us, whole_us = 0;
    int status = passes_run(&bench->options->passes, pass_files, &files, &files.samples[WHOLE]);
    for (int i = 0; i < FILE_STAGES && !status; i++) {
        /* the passes that warmed up come first */
        struct samples timed = files.samples[i];
        const size_t warm = timed.count - files.samples[WHOLE].count;
        timed.values += warm;
        timed.count -= warm;
        const double us = add_row(bench, file_stage_names[i], false, bench->count, &timed);
        if (i == WHOLE) {
            whole_us = us;
        } else if (us > longest_us) {
            longest_us = us;
            limit = file_stage_names[i];
        }
    }
    if (!status)
        snprintf(bench->notes[bench->note_count++], BENCH_NOTE_SIZE,
                 "Batch %d, from files: %s binds; alone it would take %.0f %% of the time.", bench->batch,
                 limit, 100 * longest_us / whole_us);
    for (int i = 0; i < FILE_STAGES; i++) samples_free(&files.samples[i]);
    return status;
}

int bench_network(struct bench *bench)
{
    double compute_us, upload_us = 0;
    const bool gpu = !strcmp(effnet_session_get_info(bench->session)->backend, "cuda");
    EFFNET_TRY(measure(bench, "compute", bench->options->passes.cold, pass_compute, &compute_us));
    EFFNET_TRY(measure(bench, "run", false, pass_run, NULL));
    if (gpu) {
        EFFNET_TRY(measure(bench, "upload", false, pass_upload, &upload_us));
        EFFNET_TRY(measure_streams(bench));
    }
    return bench->options->end_to_end ? measure_files(bench, upload_us, compute_us) : EFFNET_OK;
}
