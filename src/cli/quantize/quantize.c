/* effnet quantize: from weights of floats to weights of integers. */
#include "quantize/quantize.h"

#include "cli/cli.h"
#include "cli/evaluate/dataset.h"
#include "cli/file.h"
#include "cli/images.h"
#include "cli/output.h"
#include "cli/quantize/accuracy.h"
#include "cli/report.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { RANDOM_MAX = 1024, IMAGES_MAX = 4096, COMPARED_MAX = 32 };

struct quantize_options {
    const char *output, *format;
    bool calibrate, quiet;
    int64_t random, seed, threads;
    const char *evaluate, *class_order;
    struct dataset_columns columns;
};

/* The images' crops. */
struct crops {
    const struct effnet_preprocess *preprocess;
    uint8_t *pixels;
    int count, room;
};

static size_t crop_bytes(const struct crops *crops)
{
    return (size_t)crops->preprocess->crop * (size_t)crops->preprocess->crop * 3;
}

/* Room for one more. */
static uint8_t *next_crop(struct crops *crops)
{
    if (crops->count == crops->room) {
        const int room = crops->room ? 2 * crops->room : 64;
        uint8_t *grown = realloc(crops->pixels, (size_t)room * crop_bytes(crops));
        if (!grown) return NULL;
        crops->pixels = grown;
        crops->room = room;
    }
    return crops->pixels + (size_t)crops->count * crop_bytes(crops);
}

static int read_files(struct crops *crops, char *const *operands, int count)
{
    struct dataset dataset;
    EFFNET_TRY(dataset_read_images(operands, count, &dataset));
    int status = EFFNET_OK;
    if (dataset.count > IMAGES_MAX)
        status = cli_fail(EFFNET_E_USAGE, "quantize: more than %d images to calibrate with", IMAGES_MAX);
    for (int64_t i = 0; !status && i < dataset.count; i++) {
        uint8_t *crop = next_crop(crops);
        status = crop ? images_read(&dataset.images[i].path, 1, crops->preprocess, crop)
                      : cli_fail_nomem("images to calibrate with");
        if (!status) crops->count++;
    }
    dataset_close(&dataset);
    return status;
}

static int draw(struct crops *crops, const struct quantize_options *o)
{
    for (int i = 0; i < o->random; i++) {
        uint8_t *crop = next_crop(crops);
        if (!crop) return cli_fail_nomem("images to calibrate with");
        images_draw((uint64_t)o->seed, i, crops->preprocess->crop, crop);
        crops->count++;
    }
    return EFFNET_OK;
}

static void show_progress(void *context, int done, int total)
{
    const struct quantize_options *o = context;
    if (!o->quiet) progress_show("quantize: image", done, total);
}

/* The weights take their place after they have been opened: a good file of that name stays if they do not. */
static int write_file(const struct quantizer *q, const char *path, effnet_model **integer)
{
    struct effnet_error error;
    struct output output;
    void *bytes;
    size_t size;
    if (quantizer_write(q, &bytes, &size, &error)) return cli_fail_library(&error);
    int status = output_begin(&output, path);
    if (!status) {
        fwrite(bytes, 1, size, output.file);
        status = output_check(&output);
        if (!status) status = output_flush(&output);
        if (!status && effnet_model_open(output.partial, integer, &error))
            status = cli_fail(error.status, "%s: not written: %s", path, error.message);
        status = output_end(&output, status);
    }
    free(bytes);
    return status;
}

/* ---------------------------------------------------------------- report */

static void report_outputs(struct report *report, const effnet_model *model, const struct quantizer *q,
                           const struct quantize_loss *loss)
{
    static const struct column columns[] = {
        {"name", "layer", VALUE_TEXT},    {"scale", "scale", VALUE_NUMBER},
        {"zero", "zero", VALUE_NUMBER},   {"bits", "bits", VALUE_NUMBER},
        {"range", "range", VALUE_TEXT},   {"clipped", "clipped %", VALUE_NUMBER},
        {"grown", "grown", VALUE_NUMBER}, {"snr_db", "SNR dB", VALUE_NUMBER},
    };
    static const char *const ranges[] = {[QUANTIZE_MIN_MAX] = "min-max",
                                         [QUANTIZE_PERCENTILE] = "percentile",
                                         [QUANTIZE_LEAST_SQUARES] = "least squares"};
    const int layers = effnet_model_get_info(model)->layer_count;
    report_table(report, "layers", "Outputs", columns, sizeof columns / sizeof columns[0]);
    for (int i = 0; i < layers; i++) {
        const char *name = effnet_model_layer(model, i)->name;
        const struct quantize_output output = quantizer_output(q, i);
        if (i + 1 == layers)
            report_row(report, "%s\t1\t0\t32\tfloats\t0\t1\t%.1f", name, loss->layer_db[i]);
        else
            report_row(report, "%s\t%.6g\t%d\t%d\t%s\t%.4f\t%.2f\t%.1f", name, (double)output.scale,
                       output.zero, output.bits, ranges[output.range], output.clipped_percent,
                       (double)output.most_grown, loss->layer_db[i]);
    }
    report_note(report, "SNR: of each output, with the layers before it of integers too.");
    report_note(report, "grown: the largest factor of a channel, by which the weights that read it shrink.");
}

/* accuracy may be NULL. */
static int print_report(const struct quantize_options *o, const effnet_model *model,
                        const effnet_model *integer, struct quantizer *q, const struct crops *crops,
                        const struct accuracy *accuracy)
{
    const struct effnet_model_info *info = effnet_model_get_info(model);
    const int compared = crops->count < COMPARED_MAX ? crops->count : COMPARED_MAX;
    struct quantize_loss loss = {.layer_db = calloc((size_t)info->layer_count, sizeof(double))};
    struct effnet_error error;
    struct report *report;
    int status = loss.layer_db ? EFFNET_OK : cli_fail_nomem("the report");
    if (!status && quantizer_compare(q, integer, crops->pixels, compared, &loss, &error))
        status = cli_fail_library(&error);
    progress_clear();
    if (!status) status = report_open(o->format, stdout, &report);
    if (!status) {
        report_fact(report, VALUE_TEXT, "model", "model", "%s", info->path);
        report_fact(report, VALUE_TEXT, "network", "network", "%s", info->network);
        report_fact(report, VALUE_TEXT, "output", "output", "%s", o->output);
        report_fact(report, VALUE_NUMBER, "images", o->random ? "images, drawn" : "images", "%d",
                    crops->count);
        report_fact(report, VALUE_NUMBER, "compared", "compared", "%d", compared);
        report_fact(report, VALUE_NUMBER, "same_answer", "same answer", "%d", loss.same);
        if (accuracy) accuracy_facts(report, o->evaluate, accuracy);
        report_outputs(report, model, q, &loss);
        status = report_close(report);
    }
    free(loss.layer_db);
    return status;
}

/* ---------------------------------------------------------------- the command */

static struct setup setup_of(const struct quantize_options *o, const char *model)
{
    return (struct setup){.model = model, .device = "cpu", .threads = o->threads, .quiet = o->quiet};
}

/* evaluated: NULL for none. */
static int quantize_model(const struct quantize_options *o, const effnet_model *model, struct crops *crops,
                          const struct dataset *evaluated)
{
    const struct setup setup = setup_of(o, NULL);
    struct quantizer *q;
    struct effnet_error error;
    effnet_model *integer = NULL;
    struct accuracy accuracy = {0};
    if (quantizer_open(model, (int)o->threads, &q, &error)) return cli_fail_library(&error);
    int status = EFFNET_OK;
    if (quantizer_calibrate(q, crops->pixels, crops->count, show_progress, (void *)o, &error))
        status = cli_fail_library(&error);
    progress_clear();
    if (!status) status = write_file(q, o->output, &integer);
    if (!status && evaluated) status = accuracy_measure(model, integer, &setup, evaluated, &accuracy);
    if (!status) status = print_report(o, model, integer, q, crops, evaluated ? &accuracy : NULL);
    effnet_model_close(integer);
    quantizer_close(q);
    return status ? status : accuracy.first_failure;
}

/* A slip of the shell's completion must not cost an image: replaced are weights alone, by how they begin, and
 * what is empty. */
static int check_replaced(const char *path)
{
    static const char start[] = "\0\0\0\0{"; /* half of the header's length, never 4 GB; the header, JSON */
    enum { START_AT = 4, BYTES = START_AT + sizeof start - 1 };
    char bytes[BYTES];
    const char *reason;
    const ssize_t size = file_read_start(path, bytes, BYTES, &reason);
    if (size < 0 && errno == ENOENT) return EFFNET_OK;
    if (size < 0) return cli_fail(EFFNET_E_OUTPUT, "%s: %s", path, reason);
    if (!size || (size == BYTES && !memcmp(bytes + START_AT, start, sizeof start - 1))) return EFFNET_OK;
    return cli_fail(EFFNET_E_OUTPUT, "%s: is no safetensors file, and not overwritten", path);
}

static int quantize(const struct quantize_options *o, char *const *operands, int count)
{
    const struct setup setup = setup_of(o, operands[0]);
    struct dataset evaluated = {0};
    effnet_model *model;
    EFFNET_TRY(output_check_place(o->output));
    EFFNET_TRY(output_check_not_read(o->output, o->evaluate));
    EFFNET_TRY(check_replaced(o->output));
    EFFNET_TRY(setup_open_model(&setup, &model));
    struct crops crops = {.preprocess = &effnet_model_get_info(model)->preprocess};
    int status = output_check_not_read(o->output, effnet_model_get_info(model)->path);
    if (!status && o->evaluate)
        status = accuracy_dataset(o->evaluate, model, &o->columns, !strcmp(o->class_order, "sorted"),
                                  &evaluated);
    if (!status) status = o->random ? draw(&crops, o) : read_files(&crops, operands + 1, count - 1);
    if (!status && o->random && !o->quiet)
        cli_notice("drawn images tell ranges roughly: expect to lose more answers than with photos of what "
                   "the network is for");
    if (!status) status = quantize_model(o, model, &crops, o->evaluate ? &evaluated : NULL);
    dataset_close(&evaluated);
    free(crops.pixels);
    effnet_model_close(model);
    return status;
}

int cmd_quantize(int argc, char **argv)
{
    static const struct command_help help = {
        "quantize",
        "MODEL -o OUT --calibrate FILE|FOLDER...",
        "Makes weights of 8-bit integers for the CPU from weights of floats: a quarter of the size, and\n"
        "faster. Calibrates with images like those that the network is for, some dozens of them: how\n"
        "large activations are, which channels use little of their range, what rounding shifts.\n"
        "Prints what each layer's output loses, on the first 32 images. The same weights and images\n"
        "give the same file. With --evaluate it prints how often the answers are right, of floats and\n"
        "of integers, on other images.",
    };
    struct quantize_options o = {.seed = 1, .format = "text", .class_order = "names"};
    const struct option_spec options[] = {
        TEXT('o', "output", "OUT",
             "the weights file to write; of files that are there, it replaces safetensors and\n"
             "empty ones alone",
             &o.output),
        FLAG(0, "calibrate", "what follows MODEL are images to calibrate with, and folders of them",
             &o.calibrate),
        INTEGER(0, "random", "N", "calibrate with N drawn images, for want of others: a worse network",
                &o.random, 1, RANDOM_MAX),
        INTEGER(0, "seed", "N", "of the drawn images (default 1)", &o.seed, 0, 9007199254740991.0),
        TEXT(0, "evaluate", "FILE|FOLDER",
             "print top-1 before and after, on a folder with a folder a class or a CSV of\n"
             "file and label, as evaluate takes them; or, on an image or a folder of images\n"
             "without labels, how many answers stay",
             &o.evaluate),
        LABEL_OPTIONS(&o.columns, &o.class_order),
        INTEGER(0, "threads", "N", "threads; 0 is as many as the process may use (default 0)", &o.threads, 0,
                4096),
        CHOICE(0, "format", "text|json|csv|markdown", "how to print (default text)", &o.format),
        FLAG('q', "quiet", "no notices and no progress on standard error; errors stay", &o.quiet),
    };
    const struct option_group groups[] = {{"Options", options, sizeof options / sizeof options[0]}};
    const int first = args_parse(&help, groups, 1, argc, argv);
    if (first <= 0) return first;
    if (first == argc)
        return cli_fail(EFFNET_E_USAGE, "quantize: MODEL is missing (see 'effnet quantize --help')");
    if (!o.output) return cli_fail(EFFNET_E_USAGE, "quantize: -o OUT is missing");
    if (o.calibrate && o.random)
        return cli_fail(EFFNET_E_USAGE, "quantize: --calibrate and --random do not go together");
    if (!o.calibrate && !o.random)
        return cli_fail(EFFNET_E_USAGE, "quantize: --calibrate FILE|FOLDER..., or --random N, is missing");
    if (o.calibrate && argc - first < 2)
        return cli_fail(EFFNET_E_USAGE, "quantize: --calibrate without an image or a folder");
    if (o.random && argc - first > 1)
        return cli_fail(EFFNET_E_USAGE, "quantize: unexpected '%s' (see 'effnet quantize --help')",
                        argv[first + 1]);
    if (!o.evaluate && (o.columns.file || o.columns.label || strcmp(o.class_order, "names")))
        return cli_fail(EFFNET_E_USAGE,
                        "quantize: --file-column, --label-column and --class-order go with --evaluate");
    return quantize(&o, argv + first, argc - first);
}
