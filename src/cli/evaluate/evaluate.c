/* effnet evaluate: labelled files -> pipeline -> logits -> figures. Where two devices or precisions are
 * compared, each has a pipeline of its own over the same files, and their results are taken side by side, so
 * that memory does not grow with the number of logits. */
#include "cli/cli.h"
#include "cli/evaluate/dataset.h"
#include "cli/evaluate/metrics.h"
#include "cli/evaluate/plot.h"
#include "cli/evaluate/print.h"
#include "cli/output.h"

#include <inttypes.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

struct evaluate_options {
    struct setup setup;
    const char *folder, *labels_from;
    struct dataset_columns columns;
    const char *class_order, *format;
    const char *against_device, *against_precision;
    const char *predictions, *plot, *decode;
    bool per_class;
    int64_t batch_size;
    struct effnet_image_options image;
};

/* A session and what feeds it. */
struct side {
    const struct dataset *dataset;
    int64_t next; /* image that the pipeline takes next */
    effnet_session *session;
    effnet_pipeline *pipeline;
};

struct job {
    const struct evaluate_options *options;
    effnet_model *model;
    struct dataset dataset;
    struct side sides[2]; /* the second one where two are compared */
    int side_count;
    struct answer *answers; /* [dataset.count] */
    struct evaluation evaluation;
    int64_t blank; /* images of one colour without their alpha */
    int first_failure;
};

static int next_item(void *context, struct effnet_item *item, struct effnet_error *error)
{
    struct side *side = context;
    (void)error;
    if (side->next == side->dataset->count) return 0;
    *item = (struct effnet_item){.name = side->dataset->images[side->next++].path};
    return 1;
}

/* The pipeline comes before the session, so that the first images are decoded while that is built. */
static int open_side(struct job *job, struct side *side, const struct setup *setup, const char *decode)
{
    const struct evaluate_options *o = job->options;
    const int64_t batch = o->batch_size ? o->batch_size : IMAGE_BATCH_DEFAULT;
    struct effnet_pipeline_options pipeline = setup_pipeline_options(setup, decode);
    struct effnet_error error;
    pipeline.image = o->image;
    *side = (struct side){.dataset = &job->dataset};
    if (effnet_pipeline_open(job->model, &pipeline, next_item, side, &side->pipeline, &error))
        return cli_fail_library(&error);
    EFFNET_TRY(setup_open_session(
        setup, job->model, (int)(batch < job->dataset.count ? batch : job->dataset.count), &side->session));
    return effnet_pipeline_start(side->pipeline, side->session, &error) ? cli_fail_library(&error)
                                                                        : EFFNET_OK;
}

static int open_sides(struct job *job)
{
    const struct evaluate_options *o = job->options;
    EFFNET_TRY(open_side(job, &job->sides[0], &o->setup, o->decode));
    job->side_count = 1;
    if (!o->against_device && !o->against_precision) return EFFNET_OK;
    struct setup other = o->setup;
    if (o->against_device) {
        other.device = o->against_device;
        other.precision = NULL; /* the other device's own, */
        other.plan = NULL;
    }
    if (o->against_precision) other.precision = o->against_precision;
    EFFNET_TRY(open_side(job, &job->sides[1], &other, o->against_device ? "cpu" : o->decode));
    job->side_count = 2;
    return EFFNET_OK;
}

/* Says of a file that it has no answer; of one that both sides failed at, once. */
static void count_failure(struct job *job, const struct effnet_result *result)
{
    cli_fail_library(result->error);
    job->evaluation.failed++;
    if (!job->first_failure) job->first_failure = result->status;
}

static void take_results(struct job *job, int64_t i, const struct effnet_result *first,
                         const struct effnet_result *second)
{
    const int classes = effnet_model_get_info(job->model)->classes, label = job->dataset.images[i].label;
    const bool failed = first->status || (second && second->status);
    if (failed) {
        count_failure(job, first->status ? first : second);
        return;
    }
    job->blank += first->blank_without_alpha;
    job->answers[i] = answer_of(first->logits, classes, label);
    if (!second) return;
    agreement_add(&job->evaluation.agreement, i, first->logits, second->logits, classes);
    job->evaluation.other_top1 += answer_of(second->logits, classes, label).rank == 0;
}

static int run_all(struct job *job)
{
    const struct effnet_result *results[2] = {NULL, NULL};
    struct effnet_error error;
    for (int64_t i = 0; i < job->dataset.count; i++) {
        for (int s = 0; s < job->side_count; s++) {
            if (effnet_pipeline_next(job->sides[s].pipeline, &results[s], &error))
                return cli_fail_library(&error);
            if (!results[s]) return cli_fail(EFFNET_E_INTERNAL, "evaluate: a result is missing");
        }
        take_results(job, i, results[0], results[1]);
        if (!job->options->setup.quiet) progress_show("evaluate", i + 1, job->dataset.count);
    }
    progress_clear();
    return EFFNET_OK;
}

static void notice_blank(const struct job *job)
{
    char message[160];
    if (!job->blank || job->options->setup.quiet) return;
    snprintf(message, sizeof message,
             "%" PRId64 " image%s one colour without alpha, which is dropped; try --background white",
             job->blank, job->blank == 1 ? " is" : "s are");
    cli_notice(message);
}

/* Works out the figures, prints and writes them. */
static int conclude(struct job *job)
{
    const struct evaluate_options *o = job->options;
    const int classes = effnet_model_get_info(job->model)->classes;
    struct evaluation *e = &job->evaluation;
    struct metrics metrics;
    notice_blank(job);
    if (e->failed == job->dataset.count)
        return cli_fail(job->first_failure, "%s: none of its %" PRId64 " images could be read", e->set,
                        e->failed);
    if (!metrics_open(job->answers, job->dataset.count, classes, &metrics))
        return cli_fail_nomem("the figures");
    e->metrics = &metrics;
    int status = print_evaluation(e, o->format, o->per_class);
    if (!status && o->predictions) status = print_predictions(e, o->predictions);
    if (!status && o->plot) status = plot_write(o->plot, job->model, &metrics);
    metrics_close(&metrics);
    return status;
}

static int read_dataset(struct job *job)
{
    const struct evaluate_options *o = job->options;
    const struct effnet_model_info *info = effnet_model_get_info(job->model);
    if (info->multi_label)
        return cli_fail(
            EFFNET_E_USAGE,
            "evaluate: %s is multi-label: its images show any number of classes, and have no top-1",
            info->network);
    if (o->labels_from)
        EFFNET_TRY(dataset_read_csv(o->labels_from, &o->columns, job->model, &job->dataset));
    else
        EFFNET_TRY(
            dataset_read_folders(o->folder, job->model, !strcmp(o->class_order, "sorted"), &job->dataset));
    job->answers = malloc((size_t)job->dataset.count * sizeof *job->answers);
    if (!job->answers) return cli_fail_nomem("the answers");
    for (int64_t i = 0; i < job->dataset.count; i++)
        job->answers[i] = (struct answer){.label = job->dataset.images[i].label, .predicted = -1};
    return EFFNET_OK;
}

static int check_not_read(const struct evaluate_options *o, const effnet_model *model)
{
    const char *const inputs[] = {o->labels_from, effnet_model_get_info(model)->path};
    for (size_t i = 0; i < sizeof inputs / sizeof inputs[0]; i++) {
        EFFNET_TRY(output_check_not_read(o->predictions, inputs[i]));
        EFFNET_TRY(output_check_not_read(o->plot, inputs[i]));
    }
    return EFFNET_OK;
}

static int evaluate(const struct evaluate_options *o)
{
    struct job job = {.options = o};
    if (o->predictions && o->plot && output_same_place(o->predictions, o->plot))
        return cli_fail(EFFNET_E_USAGE, "evaluate: --predictions and --plot name the same file");
    if (o->predictions) EFFNET_TRY(output_check_place(o->predictions));
    if (o->plot) EFFNET_TRY(output_check_place(o->plot));
    int status = setup_open_model(&o->setup, &job.model);
    if (!status) status = check_not_read(o, job.model);
    if (!status) status = read_dataset(&job);
    if (!status) status = open_sides(&job);
    if (!status) status = run_all(&job);
    job.evaluation.set = o->labels_from ? o->labels_from : o->folder;
    job.evaluation.dataset = &job.dataset;
    job.evaluation.setup = &o->setup;
    job.evaluation.model = job.model;
    job.evaluation.session = job.sides[0].session;
    job.evaluation.answers = job.answers;
    job.evaluation.other = job.sides[1].session;
    if (!status) status = conclude(&job);
    /* a worker may be waiting for a pipe that the CSV names, for ever */
    else if (job.sides[0].pipeline)
        cli_exit_now(status);
    for (int s = 0; s < 2; s++) {
        effnet_pipeline_close(job.sides[s].pipeline);
        effnet_session_close(job.sides[s].session);
    }
    free(job.answers);
    dataset_close(&job.dataset);
    effnet_model_close(job.model);
    return status ? status : job.first_failure;
}

static int check_usage(const struct evaluate_options *o, char *const *operands, int count)
{
    if (!count && !o->labels_from)
        return cli_fail(EFFNET_E_USAGE,
                        "evaluate: name a folder with a folder a class, or --labels-from FILE.csv "
                        "(see 'effnet evaluate --help')");
    if (count > !o->labels_from)
        return cli_fail(EFFNET_E_USAGE, "evaluate: unexpected '%s': %s (see 'effnet evaluate --help')",
                        operands[!o->labels_from],
                        o->labels_from ? "--labels-from names the images" : "one folder is evaluated");
    if (o->labels_from && o->class_order && !strcmp(o->class_order, "sorted"))
        return cli_fail(EFFNET_E_USAGE,
                        "evaluate: --class-order is for folders, and --labels-from names a CSV");
    if (!o->labels_from && (o->columns.file || o->columns.label))
        return cli_fail(EFFNET_E_USAGE, "evaluate: --file-column and --label-column go with --labels-from");
    return EFFNET_OK;
}

int cmd_evaluate(int argc, char **argv)
{
    static const struct command_help help = {
        "evaluate",
        "[options] FOLDER\n       effnet evaluate [options] --labels-from FILE.csv",
        "Classifies labelled images and prints how often the answers are right: top-1 and top-5\n"
        "with 95 % intervals, confidence and how well it is calibrated, log-likelihood, and the\n"
        "most frequent confusions. FOLDER has a folder a class, named by WordNet id, label or\n"
        "class index; all of one kind. A CSV names files and labels, likewise; its relative paths\n"
        "begin at its own folder. A label that the network does not have ends this before any\n"
        "image is read. A bad image gets a line on standard error and counts nowhere else, and the\n"
        "exit status is that of the first one.",
    };
    struct evaluate_options o = {
        .class_order = "names", .format = "text", .decode = "cpu", .image = effnet_image_defaults()};
    const struct option_spec options[] = {
        TEXT(0, "labels-from", "FILE", "a CSV of file and label, in place of FOLDER", &o.labels_from),
        TEXT(0, "file-column", "NAME|N",
             "its column with the file, by name or number from 1\n(default: one called file, "
             "filename, path, image, ..., else 1)",
             &o.columns.file),
        TEXT(0, "label-column", "NAME|N",
             "its column with the label, likewise\n(default: one called label, class, index, "
             "target, wnid, ..., else 2)",
             &o.columns.label),
        CHOICE(0, "class-order", "names|sorted",
               "sorted: classes are numbered by the order of the folders' names, as by\n"
               "torchvision's ImageFolder, whatever these are (default names)",
               &o.class_order),
        FLAG(0, "per-class", "a table of the classes, the least accurate first", &o.per_class),
        TEXT(0, "against-device", "NAME",
             "also run on this device, in its own precision, and print how far both\n"
             "agree; each reads and decodes the images for itself, this one on the\n"
             "CPU",
             &o.against_device),
        CHOICE(0, "against-precision", "fp32|bf16|fp16", "the same for a precision", &o.against_precision),
        TEXT(0, "predictions", "FILE", "write a CSV with the answer for each image", &o.predictions),
        TEXT(0, "plot", "FILE.svg",
             "draw accuracy by confidence, and what the least accurate classes are\n"
             "taken for",
             &o.plot),
        CHOICE(0, "format", "text|json|csv",
               "text for people; json, one object; csv, one record that begins with the\n"
               "columns of timm's validate.py, or with --per-class one a class\n(default text)",
               &o.format),
        IMAGE_OPTIONS(&o.batch_size, &o.image),
        DECODE_OPTION(&o.decode),
    };
    int first = setup_parse(&help, options, sizeof options / sizeof options[0], &o.setup, NULL, argc, argv);
    if (first <= 0) return first;
    EFFNET_TRY(check_usage(&o, argv + first, argc - first));
    o.folder = argv[first];
    return evaluate(&o);
}
