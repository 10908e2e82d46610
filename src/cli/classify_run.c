/* names -> pipeline (read, decode, fit, network) -> top k -> outputs */
#include "cli/classify.h"
#include "cli/interrupt.h"
#include "cli/sessions.h"
#include "common/cpu.h"
#include "common/hash.h"
#include "common/utf8.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* A GPU takes 0.3 s to open, in which 16 cores make 3,400 crops: of 240 x 240 pixels 590 MB. A session on the
 * CPU is there long before so many. */
enum { EARLY_BYTES = 640 << 20 };

struct job {
    const struct classify_options *options;
    int classes;
    int top_k;         /* classes an image at most */
    bool by_threshold; /* and of these those at or above options->threshold */
    const struct result_format *format;
    effnet_model *model;
    struct sessions sessions;
    struct walk *walk;
    effnet_pipeline *pipeline;
    struct effnet_class *top;
    struct classify_files files;
    struct cam *cam; /* NULL: none is drawn */
    struct classify_stats stats;
    struct pace pace;
    bool signals; /* interrupt_begin was called */
};

/* ---------------------------------------------------------------- items */

/* What comes back with an item's result: whether it was found in a folder, and how far the names had come, in
 * steps of 2^-30, plus one; 0: not known. */
static void *make_tag(const struct walk_entry *entry)
{
    uint32_t done = entry->done < 0 ? 0 : (uint32_t)(entry->done * 0x1p30) + 1;
    return (void *)((uintptr_t)done << 1 | entry->found);
}

static bool tag_found(void *tag)
{
    return (uintptr_t)tag & 1;
}

static double tag_done(void *tag)
{
    return ((double)((uintptr_t)tag >> 1) - 1) * 0x1p-30;
}

static int next_item(void *context, struct effnet_item *item, struct effnet_error *error)
{
    struct job *job = context;
    struct walk_entry entry;
    int found = walk_next(job->walk, &entry, error);
    if (found > 0) *item = (struct effnet_item){.name = entry.path, .tag = make_tag(&entry)};
    return found;
}

static void count_item(struct resume_record *record, const char *name)
{
    record->items++;
    record->names = hash_add(record->names, name, strlen(name) + 1);
}

/* Passes over the names that an earlier run has done, which have to be the same. */
static int skip_done(struct job *job)
{
    const struct resume_record done = job->files.record;
    struct resume_record again = {.names = HASH_START};
    struct walk_entry entry = {.done = 0};
    struct effnet_error error;
    while (again.items < done.items) {
        int found = walk_next(job->walk, &entry, &error);
        if (found < 0) return cli_fail_library(&error);
        if (!found) break;
        count_item(&again, entry.path);
    }
    if (again.items != done.items || again.names != done.names)
        return cli_fail(EFFNET_E_USAGE,
                        "--resume: the first %" PRId64 " files are not those of the run that broke off",
                        done.items);
    job->pace.done = job->pace.done_before = done.items;
    job->pace.part_before = entry.done < 0 ? 0 : entry.done;
    return EFFNET_OK;
}

/* ---------------------------------------------------------------- results */

/* The classes that are printed of an image, into job->top. Returns how many. */
static int choose_classes(struct job *job, const float *logits)
{
    const bool multi_label = effnet_model_get_info(job->model)->multi_label;
    int count = (multi_label ? effnet_top_k_multi_label : effnet_top_k)(logits, job->classes, job->top_k,
                                                                        job->top);
    /* the least probable come last, NaN behind them */
    while (job->by_threshold && count &&
           !((double)job->top[count - 1].probability >= job->options->threshold))
        count--;
    return count;
}

/* Such an image gets the same answer as an empty one, and its author would not know why. */
static void notice_blank(const char *path, const uint8_t colour[3])
{
    char name[EFFNET_PATH_TEXT_SIZE], message[EFFNET_PATH_TEXT_SIZE + 128];
    effnet_keep_end(name, sizeof name, path);
    snprintf(message, sizeof message,
             "%s: one colour without its alpha, which is dropped; try --background %s", name,
             colour[0] + colour[1] + colour[2] > 3 * 127 ? "black" : "white");
    cli_notice(message);
}

static int print_result(struct job *job, const struct effnet_result *result)
{
    struct output *output = &job->files.results;
    struct result printed = {.filename = result->name,
                             .model = job->model,
                             .top = job->top,
                             .most = job->top_k,
                             .threshold = job->options->threshold,
                             .logits = !strcmp(job->options->scores, "logits")};
    if (result->blank_without_alpha && !job->options->setup.quiet)
        notice_blank(result->name, result->first_pixel);
    printed.count = choose_classes(job, result->logits);
    EFFNET_TRY(job->format->print(output->file, &printed));
    return output_check(output);
}

static void report_failure(const struct effnet_result *result)
{
    struct stat status;
    if (result->status == EFFNET_E_NOINPUT && !stat(result->name, &status) && S_ISDIR(status.st_mode))
        cli_fail(result->status, "%s: a folder; -r takes the images below it", result->name);
    else
        cli_fail_library(result->error);
}

static int handle_result(struct job *job, const struct effnet_result *result)
{
    struct resume_record *record = &job->files.record;
    const bool failed = result->status != EFFNET_OK;
    const bool skipped = result->status == EFFNET_E_DATA && tag_found(result->tag) &&
                         !walk_is_image(result->name);
    if (failed && !skipped) {
        report_failure(result);
        record->failed++;
        if (!record->status) record->status = result->status;
    } else if (!failed) {
        EFFNET_TRY(print_result(job, result));
    }
    record->skipped += skipped;
    if (!skipped) EFFNET_TRY(classify_files_add_rows(&job->files, result));
    if (!failed && job->cam) EFFNET_TRY(cam_draw(job->cam, result, job->top->index));
    count_item(record, result->name);
    classify_stats_add(&job->stats, result);
    job->pace.done = record->items;
    job->pace.part = tag_done(result->tag);
    if (!job->options->setup.quiet && job->pace.total != 1) progress_show_rate("classify", &job->pace);
    return classify_files_note(&job->files, failed && !skipped);
}

static int run_all(struct job *job)
{
    const struct classify_options *o = job->options;
    const bool whole = job->files.record.items == 0 && o->inputs.shard.number == 1;
    if (whole && job->format->begin && !o->no_header)
        job->format->begin(job->files.results.file, job->top_k, !strcmp(o->scores, "logits"));
    for (;;) {
        const struct effnet_result *result;
        struct effnet_error error;
        double since_us = effnet_clock_us();
        int status = effnet_pipeline_next(job->pipeline, &result, &error);
        effnet_clock_lap(&since_us, &job->stats.wait);
        sessions_tell_lost(&job->sessions, job->pipeline);
        if (status) status = cli_fail_library(&error);
        if (!status && result) status = handle_result(job, result);
        effnet_clock_lap(&since_us, &job->stats.print);
        if (!status && result) continue;
        progress_clear();
        return status;
    }
}

/* ---------------------------------------------------------------- from the start to the end */

/* How many classes an image may get: of a multi-label network those at or above the threshold, however many,
 * unless -k says a number. */
static int limit_classes(struct job *job, const struct effnet_model_info *info)
{
    const struct classify_options *o = job->options;
    if (o->threshold_given && !info->multi_label)
        return cli_fail(EFFNET_E_USAGE,
                        "classify: --threshold is for multi-label networks; the classes of %s exclude one "
                        "another, and -k says how many are printed",
                        info->network);
    const bool any_number = info->multi_label && !o->top_k_given;
    job->by_threshold = any_number || o->threshold_given;
    job->classes = info->classes;
    job->top_k = any_number || o->top_k > info->classes ? info->classes : (int)o->top_k;
    job->top = calloc((size_t)job->top_k, sizeof *job->top);
    return job->top ? EFFNET_OK : cli_fail_nomem("the classes");
}

static void stop_pipeline(void *pipeline)
{
    effnet_pipeline_cancel(pipeline);
}

/* The batch depends on what the user said alone, and neither on shards nor on what is done already: results
 * are the same to the last bit only in batches of one size. */
static int batch_size(const struct classify_options *o)
{
    const bool known = !o->inputs.list && !o->inputs.recursive;
    if (o->batch_size) return (int)o->batch_size;
    return known && o->inputs.count < IMAGE_BATCH_DEFAULT ? o->inputs.count : IMAGE_BATCH_DEFAULT;
}

static int check_not_read(const struct classify_options *o, const effnet_model *model)
{
    const char *const outputs[] = {o->output, o->cam, o->arrays[ARRAY_LOGITS], o->arrays[ARRAY_EMBEDDINGS]};
    for (size_t i = 0; i < sizeof outputs / sizeof outputs[0]; i++) {
        EFFNET_TRY(output_check_not_read(outputs[i], o->inputs.list));
        EFFNET_TRY(output_check_not_read(outputs[i], effnet_model_get_info(model)->path));
    }
    return EFFNET_OK;
}

static int open_inputs(struct job *job)
{
    const struct classify_options *o = job->options;
    struct effnet_error error;
    double since_us = effnet_clock_us();
    int status = setup_open_model(&o->setup, &job->model);
    effnet_clock_lap(&since_us, &job->stats.load_model);
    if (status) return status;
    EFFNET_TRY(check_not_read(o, job->model));
    EFFNET_TRY(limit_classes(job, effnet_model_get_info(job->model)));
    if (walk_open(&o->inputs, &job->walk, &error)) return cli_fail_library(&error);
    if (o->cam) EFFNET_TRY(cam_open(&job->cam, o, job->model));
    EFFNET_TRY(classify_files_open(&job->files, o, job->model, job->top_k));
    job->pace.total = walk_total(job->walk);
    return job->files.record.finished ? EFFNET_OK : skip_done(job);
}

/* The pipeline comes before the session, so that the first images are decoded while that is built. */
static int open_pipeline(struct job *job)
{
    const struct classify_options *o = job->options;
    struct effnet_error error;
    struct effnet_pipeline_options options = setup_pipeline_options(&o->setup, o->decode);
    options.image = o->image;
    options.crops = job->cam != NULL;
    if (!options.crops) options.early_bytes = EARLY_BYTES; /* else each would have a second crop beside it */
    if (effnet_pipeline_open(job->model, &options, next_item, job, &job->pipeline, &error))
        return cli_fail_library(&error);
    job->signals = interrupt_begin(stop_pipeline, job->pipeline);
    job->pace.start_us = effnet_clock_us();
    double since_us = effnet_clock_us();
    int status = sessions_open(&o->setup, job->model, batch_size(o), &job->sessions);
    effnet_clock_lap(&since_us, &job->stats.open_session);
    if (status) return status;
    if (effnet_pipeline_start_sessions(job->pipeline, job->sessions.session, job->sessions.count, &error))
        return cli_fail_library(&error);
    return EFFNET_OK;
}

static void notice_end(const struct job *job)
{
    const struct resume_record *record = &job->files.record;
    char message[EFFNET_PATH_TEXT_SIZE + 128], name[EFFNET_PATH_TEXT_SIZE];
    if (job->options->setup.quiet) return;
    if (record->skipped) {
        snprintf(message, sizeof message, "skipped %" PRId64 " file%s of folders: no image%s",
                 record->skipped, record->skipped == 1 ? "" : "s", record->skipped == 1 ? "" : "s");
        cli_notice(message);
    }
    for (int i = 0; record->failed && i < ARRAYS; i++) {
        if (!job->options->arrays[i]) continue;
        effnet_keep_end(name, sizeof name, job->options->arrays[i]);
        snprintf(message, sizeof message,
                 "%s: %" PRId64 " of %" PRId64 " rows are NaN: those of files that failed", name,
                 record->failed, record->rows);
        cli_notice(message);
    }
    if (!record->items && job->options->inputs.shard.count == 1) cli_notice("there is no file to classify");
}

static void notice_interrupted(const struct job *job)
{
    char message[2 * EFFNET_PATH_TEXT_SIZE], name[EFFNET_PATH_TEXT_SIZE];
    if (!job->files.resume || job->options->setup.quiet) return;
    effnet_keep_end(name, sizeof name, job->files.results.partial);
    snprintf(message, sizeof message,
             "interrupted after %" PRId64 " files, which are in %s: --resume goes on",
             job->files.record.items, name);
    cli_notice(message);
}

static void close_all(struct job *job)
{
    effnet_pipeline_close(job->pipeline);
    sessions_close(&job->sessions);
    cam_close(job->cam);
    walk_close(job->walk);
    effnet_model_close(job->model);
    classify_stats_free(&job->stats);
    free(job->top);
}

int classify_run(const struct classify_options *options)
{
    struct job job = {.options = options, .format = result_format_find(options->format)};
    classify_stats_begin(&job.stats);
    int status = open_inputs(&job);
    const bool to_run = !status && !job.files.record.finished;
    if (to_run) status = open_pipeline(&job);
    if (to_run && !status) status = run_all(&job);
    const bool interrupted = job.signals && interrupt_came();
    if (to_run && (status || interrupted))
        (void)classify_files_note(&job.files, true);
    else if (!status)
        status = classify_files_finish(&job.files, job.walk);
    const bool done = !status && !interrupted;
    if (done) notice_end(&job);
    if (interrupted && !status) notice_interrupted(&job);
    if (done && options->stats && job.pipeline) {
        struct effnet_pipeline_stats stats;
        effnet_pipeline_get_stats(job.pipeline, &stats);
        classify_stats_print(&job.stats, &stats, &job.files.record);
    }
    const int first_failure = (int)job.files.record.status;
    classify_files_close(&job.files, done);
    if (job.signals) interrupt_end();
    /* A worker may be waiting for standard input or a pipe, for ever; the GPU's decoder may only be opening.
     */
    if (job.pipeline && (status || !strcmp(options->decode, "gpu"))) {
        const int written = cli_flush_output();
        if (!status) status = first_failure ? first_failure : written;
        cli_exit_now(status);
    }
    close_all(&job);
    return status ? status : first_failure;
}
