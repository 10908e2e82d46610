/* effnet classify: files -> worker threads (decode, fit) -> batches -> session -> top k -> printer. */
#include "cli/cli.h"
#include "cli/feed.h"
#include "cli/results.h"
#include "common/cpu.h"
#include "common/utf8.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum {
    BATCH_DEFAULT_MAX = 32, /* past this a bigger batch is hardly faster, and results come later */
    BATCH_MAX = 4096,
};

struct classify_options {
    struct setup setup;
    int64_t top_k, batch_size;
    double threshold;
    bool top_k_given, threshold_given;
    const char *format;
    bool timing;
    struct effnet_image_options image;
};

/* Where the time of the process went, in microseconds. */
struct timing {
    double before_main; /* processor time by then: loading libraries */
    double start;       /* when the rest began, by effnet_clock_us */
    double load_model, open_session, wait, run, print;
};

struct job {
    const struct classify_options *options;
    char *const *paths;
    int count, batch, classes;
    int top_k;         /* classes an image at most */
    bool by_threshold; /* and of these those at or above options->threshold */
    const struct result_format *format;
    effnet_model *model;
    effnet_session *session;
    struct feed *feed;

    int *files;     /* [batch], which file each one is */
    uint8_t *crops; /* [batch][crop][crop][3] */
    float *logits;  /* [batch][classes] */
    struct effnet_class *top;

    int first_failure; /* status of the first bad file, or EFFNET_OK */
    struct timing timing;
};

static double processor_time_us(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3;
}

/* Adds what a step took since *since_us and restarts it. */
static void lap(double *since_us, double *step_us)
{
    double now = effnet_clock_us();
    *step_us += now - *since_us;
    *since_us = now;
}

static void print_timing(struct job *job)
{
    struct timing *t = &job->timing;
    struct feed_time feed = feed_get_time(job->feed);
    double total = effnet_clock_us() - t->start + t->before_main;
    double known = t->before_main + t->load_model + t->open_session + t->wait + t->run + t->print;
    fprintf(stderr,
            "timing, ms\n"
            "  start         %10.2f  before main: the libraries\n"
            "  load model    %10.2f\n"
            "  open session  %10.2f\n"
            "  wait          %10.2f  for images\n"
            "  run           %10.2f\n"
            "  print         %10.2f\n"
            "  other         %10.2f\n"
            "  total         %10.2f\n"
            "  decode        %10.2f  in %d thread%s beside the above\n"
            "  fit           %10.2f  likewise\n",
            t->before_main / 1e3, t->load_model / 1e3, t->open_session / 1e3, t->wait / 1e3, t->run / 1e3,
            t->print / 1e3, (total - known) / 1e3, total / 1e3, feed.decode_us / 1e3, feed.workers,
            feed.workers == 1 ? "" : "s", feed.fit_us / 1e3);
}

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

static int run_batch(struct job *job, int images)
{
    struct effnet_error error;
    double since_us = effnet_clock_us();
    int status = effnet_session_run(job->session, job->crops, images, job->logits, &error);
    lap(&since_us, &job->timing.run);
    if (status) return cli_fail_library(&error);
    progress_clear();
    for (int i = 0; !status && i < images; i++) {
        struct result result = {.filename = job->paths[job->files[i]],
                                .model = job->model,
                                .top = job->top,
                                .most = job->top_k,
                                .threshold = job->options->threshold};
        result.count = choose_classes(job, job->logits + (size_t)i * (size_t)job->classes);
        status = job->format->print(stdout, &result);
        if (!status) status = cli_check_output();
    }
    if (!status) status = cli_flush_output();
    lap(&since_us, &job->timing.print);
    return status;
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

/* Says what is to be said of a file, image or not. */
static int visit_item(const struct feed_item *item, void *context)
{
    struct job *job = context;
    const bool quiet = job->options->setup.quiet;
    if (item->status) {
        cli_fail_library(&item->error);
        if (!job->first_failure) job->first_failure = item->status;
    } else if (item->blank_without_alpha && !quiet) {
        notice_blank(job->paths[item->index], item->crop);
    }
    if (!quiet && job->count > 1) progress_show("classify", item->index + 1, job->count);
    return EFFNET_OK;
}

static int run_all(struct job *job)
{
    if (job->format->begin) job->format->begin(stdout, job->top_k);
    for (;;) {
        int images;
        double since_us = effnet_clock_us();
        int status = feed_batch(job->feed, job->batch, job->crops, job->files, &images, visit_item, job);
        lap(&since_us, &job->timing.wait);
        if (!status && images) status = run_batch(job, images);
        if (status || !images) {
            progress_clear();
            return status;
        }
    }
}

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
    return EFFNET_OK;
}

/* The feed comes before the session, so that the first images are decoded while that is built. */
static int open_all(struct job *job)
{
    const struct classify_options *o = job->options;
    double since_us = effnet_clock_us();
    int status = setup_open_model(&o->setup, &job->model);
    lap(&since_us, &job->timing.load_model);
    if (status) return status;
    const struct effnet_model_info *info = effnet_model_get_info(job->model);
    EFFNET_TRY(limit_classes(job, info));
    int64_t batch = o->batch_size ? o->batch_size : BATCH_DEFAULT_MAX;
    job->batch = batch < job->count ? (int)batch : job->count;
    job->files = calloc((size_t)job->batch, sizeof *job->files);
    job->crops = calloc((size_t)job->batch,
                        (size_t)info->preprocess.crop * (size_t)info->preprocess.crop * 3);
    job->logits = calloc((size_t)job->batch, (size_t)job->classes * sizeof *job->logits);
    job->top = calloc((size_t)job->top_k, sizeof *job->top);
    if (!job->files || !job->crops || !job->logits || !job->top) return cli_fail_nomem("a batch");

    int workers = setup_threads(&o->setup);
    const struct feed_options feed = {
        .preprocess = &info->preprocess,
        .image = o->image,
        .ahead = job->batch + workers,
        .workers = workers,
    };
    EFFNET_TRY(feed_open(&feed, job->paths, job->count, &job->feed));
    since_us = effnet_clock_us();
    status = setup_open_session(&o->setup, job->model, job->batch, &job->session);
    lap(&since_us, &job->timing.open_session);
    return status;
}

static void close_all(struct job *job)
{
    feed_close(job->feed);
    effnet_session_close(job->session);
    effnet_model_close(job->model);
    free(job->files);
    free(job->crops);
    free(job->logits);
    free(job->top);
}

static int classify(const struct classify_options *options, char *const *paths, int count)
{
    struct job job = {
        .options = options,
        .paths = paths,
        .count = count,
        .format = result_format_find(options->format),
        .timing = {.before_main = processor_time_us(), .start = effnet_clock_us()},
    };
    int status = open_all(&job);
    if (!status) status = run_all(&job);
    if (!status && options->timing) print_timing(&job);
    /* a worker may be waiting for standard input or a pipe, for ever */
    if (status && job.feed) cli_exit_now(status);
    close_all(&job);
    return status ? status : job.first_failure;
}

static int check_operands(char *const *paths, int count)
{
    int standard_inputs = 0;
    for (int i = 0; i < count; i++) standard_inputs += !strcmp(paths[i], "-");
    if (!count)
        return cli_fail(EFFNET_E_USAGE, "classify: name an image file (see 'effnet classify --help')");
    if (standard_inputs > 1) return cli_fail(EFFNET_E_USAGE, "classify: - can be named only once");
    return EFFNET_OK;
}

int cmd_classify(int argc, char **argv)
{
    static const struct command_help help = {
        "classify",
        "[options] FILE...",
        "Prints the most probable classes of each image, in the order of the files, with\n"
        "label, WordNet id and probability. Reads PNG, JPEG, BMP, GIF, TGA, PNM and\n"
        "WebP; - is standard input. A bad file gets a line on standard error, the others their\n"
        "answers, and the exit status is that of the first bad one. Of a multi-label\n"
        "network, where each class has a probability of its own: every class at or above\n"
        "--threshold, or with -k the N most probable, with both the N at most above it.",
    };
    struct classify_options o = {
        .top_k = 5, .threshold = 0.5, .format = "text", .image = effnet_image_defaults()};
    const struct option_spec options[] = {
        OPTION_SPEC('k', "topk", "N", "classes an image; more than there are means all (default 5)",
                    OPTION_INTEGER, int64_t, &o.top_k, 1, INT_MAX, &o.top_k_given),
        OPTION_SPEC(0, "threshold", "P",
                    "multi-label networks: the least probability, from 0 to 1, of a class that\n"
                    "is printed (default 0.5)",
                    OPTION_REAL, double, &o.threshold, 0, 1, &o.threshold_given),
        CHOICE(0, "format", "text|json|csv",
               "text for people; json, one object a line; csv, with the columns\n"
               "filename,index_0,label_0,prob_0,... (default text)",
               &o.format),
        INTEGER('b', "batch-size", "N",
                "images a pass through the network\n(default: as many as there are, at most 32)",
                &o.batch_size, 1, BATCH_MAX),
        INTEGER(0, "max-pixels", "N", "refuse an image of more pixels (default 178956970)",
                &o.image.max_pixels, 1, INT_MAX),
        FLAG(0, "ignore-exif", "ignore the orientation in EXIF and XMP data", &o.image.ignore_exif),
        OPTION_SPEC(0, "background", "COLOUR",
                    "lay transparent pixels over a colour: #rgb, #rrggbb, or a name such as\n"
                    "white or grey (default: ignore transparency)",
                    OPTION_COLOUR, uint8_t, o.image.background, 0, 0, &o.image.has_background),
        FLAG(0, "timing", "say on standard error where the time went", &o.timing),
    };
    int first = setup_parse(&help, options, sizeof options / sizeof options[0], &o.setup, NULL, argc, argv);
    if (first <= 0) return first;
    EFFNET_TRY(check_operands(argv + first, argc - first));
    return classify(&o, argv + first, argc - first);
}
