/* effnet evaluate: labelled files -> pipeline -> logits -> figures. */
#include "cli/cli.h"
#include "cli/evaluate/dataset.h"
#include "cli/evaluate/metrics.h"
#include "cli/evaluate/plot.h"
#include "cli/evaluate/print.h"
#include "cli/evaluate/sides.h"
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

struct job {
    const struct evaluate_options *options;
    effnet_model *model;
    struct dataset dataset;
    struct sides sides;     /* a second one where two are compared */
    struct answer *answers; /* [dataset.count] */
    struct evaluation evaluation;
};

static int open_sides(struct job *job)
{
    const struct evaluate_options *o = job->options;
    job->sides.dataset = &job->dataset;
    job->sides.image = o->image;
    EFFNET_TRY(sides_add(&job->sides, job->model, &o->setup, o->decode, o->batch_size));
    if (!o->against_device && !o->against_precision) return EFFNET_OK;
    struct setup other = o->setup;
    if (o->against_device) {
        other.device = o->against_device;
        other.precision = NULL; /* the other device's own, */
        other.plan = NULL;
    }
    if (o->against_precision) other.precision = o->against_precision;
    return sides_add(&job->sides, job->model, &other, o->against_device ? "cpu" : o->decode, o->batch_size);
}

static void take_results(void *context, int64_t i, const struct effnet_result *const *results)
{
    struct job *job = context;
    const int classes = effnet_model_get_info(job->model)->classes, label = job->dataset.images[i].label;
    job->answers[i] = answer_of(results[0]->logits, classes, label);
    if (job->sides.count == 1) return;
    agreement_add(&job->evaluation.agreement, i, results[0]->logits, results[1]->logits, classes);
    job->evaluation.other_top1 += answer_of(results[1]->logits, classes, label).rank == 0;
}

static void notice_blank(const struct job *job)
{
    char message[160];
    if (!job->sides.blank || job->options->setup.quiet) return;
    snprintf(message, sizeof message,
             "%" PRId64 " image%s one colour without alpha, which is dropped; try --background white",
             job->sides.blank, job->sides.blank == 1 ? " is" : "s are");
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
    e->failed = job->sides.failed;
    if (e->failed == job->dataset.count)
        return cli_fail(job->sides.first_failure, "%s: none of its %" PRId64 " images could be read", e->set,
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
    if (o->predictions) EFFNET_TRY(output_check_no_image(o->predictions));
    if (o->plot) EFFNET_TRY(plot_check_place(o->plot));
    int status = setup_open_model(&o->setup, &job.model);
    if (!status) status = check_not_read(o, job.model);
    if (!status) status = read_dataset(&job);
    if (!status) status = open_sides(&job);
    if (!status) status = sides_run(&job.sides, "evaluate", o->setup.quiet, take_results, &job);
    job.evaluation.set = o->labels_from ? o->labels_from : o->folder;
    job.evaluation.dataset = &job.dataset;
    job.evaluation.setup = &o->setup;
    job.evaluation.model = job.model;
    job.evaluation.session = job.sides.side[0].session;
    job.evaluation.answers = job.answers;
    job.evaluation.other = job.sides.side[1].session;
    if (status)
        sides_give_up(&job.sides, status);
    else
        status = conclude(&job);
    sides_close(&job.sides);
    free(job.answers);
    dataset_close(&job.dataset);
    effnet_model_close(job.model);
    return status ? status : job.sides.first_failure;
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
        LABEL_OPTIONS(&o.columns, &o.class_order),
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
