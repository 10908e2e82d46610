/* effnet verify: every unit of a session alone, fed with the reference's input, against the reference; then
 * the logits of the whole network. */
#include "cli/cli.h"
#include "cli/compare.h"
#include "cli/images.h"
#include "cli/reference.h"
#include "cli/report.h"
#include "cli/units.h"

#include <fnmatch.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>

enum { BATCH_DEFAULT = 2, BATCH_MAX = 1024, ALLOWANCE_MAX = 1000000 };

struct verify_options {
    struct setup setup;
    int64_t batch, seed;
    double unit_allowance, logits_allowance; /* 0: the precision's */
    const char *format, *only;
};

struct verify {
    const struct verify_options *options;
    char *const *paths; /* images to read, or NULL for drawn ones */
    int images, batch;
    effnet_model *model;
    effnet_session *session;
    int unit_count, last_unit; /* units up to last_unit are run */
    bool *selected;            /* [unit_count] */
    struct comparison *units;  /* [unit_count] */
    struct comparison logits;
    int same_answer; /* images of which the device says what the reference says */
    double unit_allowance, logits_allowance;
    uint8_t *pixels;  /* [batch][crop][crop][3] */
    double *term_rms; /* [batch]: reference_term_rms of the unit that was run last */
};

/* ---------------------------------------------------------------- units */

/* The units must be the network's layers in order, and agree on who applies bias and activation. */
static int check_units(const struct verify *v)
{
    int next = 0, layers = effnet_model_get_info(v->model)->layer_count;
    bool raw = false;
    for (int i = 0; i < v->unit_count; i++) {
        const struct effnet_unit *unit = effnet_session_unit(v->session, i);
        if (unit->first != next || unit->last < unit->first || unit->last >= layers || unit->raw_input != raw)
            return cli_fail(EFFNET_E_INTERNAL, "verify: unit %d (%s) does not follow on the one before", i,
                            unit->kernel);
        next = unit->last + 1;
        raw = unit->raw_output;
    }
    if (next != layers || raw)
        return cli_fail(EFFNET_E_INTERNAL, "verify: the last unit does not end with the last layer");
    return EFFNET_OK;
}

static int select_units(struct verify *v)
{
    v->last_unit = -1;
    for (int i = 0; i < v->unit_count; i++) {
        const struct effnet_unit *unit = effnet_session_unit(v->session, i);
        for (int l = unit->first; l <= unit->last && !v->selected[i]; l++)
            v->selected[i] = !v->options->only ||
                             !fnmatch(v->options->only, effnet_model_layer(v->model, l)->name, 0);
        if (v->selected[i]) v->last_unit = i;
    }
    if (v->last_unit < 0)
        return cli_fail(EFFNET_E_USAGE, "verify: --only %s: no layer has such a name", v->options->only);
    return EFFNET_OK;
}

/* Memory that shows where nothing was written. */
static float *poisoned(size_t count)
{
    float *values = malloc(count * sizeof *values);
    for (size_t i = 0; values && i < count; i++) values[i] = NAN;
    return values;
}

/* Runs unit `index` alone and compares it with `want`. `raw`: what it takes as its first input where that is
 * without bias and activation. */
static int run_unit(struct verify *v, const struct reference *reference, int index, const float *raw,
                    const float *want)
{
    const struct effnet_unit *unit = effnet_session_unit(v->session, index);
    const struct effnet_layer *last = effnet_model_layer(v->model, unit->last);
    const struct shape shape = {last->out_height, last->out_width, last->out_channels};
    const float *inputs[EFFNET_UNIT_INPUTS] = {NULL};
    for (int i = 0; i < unit->input_count; i++) inputs[i] = reference_output(reference, unit->inputs[i]);
    if (unit->raw_input) inputs[0] = raw;
    float *got = poisoned((size_t)reference->n * effnet_layer_out_size(last));
    if (!got) return cli_fail_nomem("a unit's output");
    struct effnet_error error;
    int status = effnet_session_run_unit(v->session, index, reference->n, inputs, got, &error);
    reference_term_rms(reference, unit->last, v->term_rms);
    if (status)
        cli_fail_library(&error);
    else
        compare(&v->units[index], got, want, reference->n, shape, v->unit_allowance, v->term_rms,
                unit->last - unit->first + 1);
    free(got);
    return status;
}

/* The reference through one unit, then the unit. *raw is the reference's output of the unit before without
 * bias and activation where this one takes that; it is replaced by this one's own. */
static int verify_unit(struct verify *v, struct reference *reference, int index, float **raw)
{
    const struct effnet_unit *unit = effnet_session_unit(v->session, index);
    float *raw_output = NULL;
    int status = EFFNET_OK;
    for (int l = unit->first; !status && l <= unit->last; l++)
        status = reference_run(reference, l, false, &reference->outputs[l]);
    if (!status && unit->raw_output) status = reference_run(reference, unit->last, true, &raw_output);
    if (!status && v->selected[index])
        status = run_unit(v, reference, index, *raw,
                          unit->raw_output ? raw_output : reference->outputs[unit->last]);
    free(*raw);
    *raw = raw_output;
    reference_forget(reference, unit->last + 1);
    return status;
}

/* ---------------------------------------------------------------- logits */

/* Whether both say the same of an image: the most probable class, or the classes that are more probable than
 * not. */
static bool same_answer(const struct effnet_model_info *info, const float *got, const float *want)
{
    struct effnet_class mine, reference;
    bool same = true;
    if (info->multi_label) {
        for (int i = 0; i < info->classes; i++) same &= (got[i] >= 0) == (want[i] >= 0);
        return same;
    }
    effnet_top_k(got, info->classes, 1, &mine);
    effnet_top_k(want, info->classes, 1, &reference);
    return mine.index == reference.index;
}

/* After the last unit, whose outputs the logits are. */
static int verify_logits(struct verify *v, int n, const float *want)
{
    const struct effnet_model_info *info = effnet_model_get_info(v->model);
    const int classes = info->classes;
    float *got = poisoned((size_t)n * (size_t)classes);
    if (!got) return cli_fail_nomem("the logits");
    struct effnet_error error;
    int status = effnet_session_run(v->session, v->pixels, n, got, &error);
    if (status) {
        cli_fail_library(&error);
    } else {
        compare(&v->logits, got, want, n, (struct shape){1, 1, classes}, v->logits_allowance, v->term_rms, 1);
        for (size_t i = 0; i < (size_t)n * (size_t)classes; i += (size_t)classes)
            v->same_answer += same_answer(info, got + i, want + i);
    }
    free(got);
    return status;
}

/* Images first..first+n-1. */
static int verify_images(struct verify *v, int first, int n)
{
    const struct effnet_model_info *info = effnet_model_get_info(v->model);
    const struct effnet_preprocess *p = &info->preprocess;
    size_t crop_bytes = (size_t)p->crop * (size_t)p->crop * 3;
    struct reference reference;
    if (v->paths)
        EFFNET_TRY(images_read(v->paths + first, n, p, v->pixels));
    else
        for (int i = 0; i < n; i++)
            images_draw((uint64_t)v->options->seed, first + i, p->crop, v->pixels + (size_t)i * crop_bytes);
    EFFNET_TRY(reference_open(v->model, v->pixels, n, &reference));
    int status = EFFNET_OK;
    float *raw = NULL;
    for (int i = 0; !status && i <= v->last_unit; i++) {
        if (!v->options->setup.quiet) progress_show("verify: unit", i + 1, v->last_unit + 1);
        status = verify_unit(v, &reference, i, &raw);
    }
    progress_clear();
    free(raw);
    if (!status && !v->options->only) status = verify_logits(v, n, reference.outputs[info->layer_count - 1]);
    reference_close(&reference);
    return status;
}

/* ---------------------------------------------------------------- report */

enum { COMPARISON_CELLS_SIZE = 256 };

/* The cells of COMPARISON_COLUMNS, for a row. Returns cells. */
static const char *comparison_cells(const struct comparison *c, double allowance,
                                    char cells[COMPARISON_CELLS_SIZE])
{
    snprintf(cells, COMPARISON_CELLS_SIZE, "%.3e\t%.3e\t%g\t%.1f\t(%d,%d,%d,%d)\t%.6g\t%.6g\t%" PRId64 "\t%s",
             c->absolute, c->relative_l2, allowance, 100 * c->share, c->n, c->h, c->w, c->c,
             (double)c->worst_got, (double)c->worst_want, c->mismatches, comparison_ok(c) ? "ok" : "MISS");
    return cells;
}

#define COMPARISON_COLUMNS                                                                                   \
    {"absolute_error", "abs error", VALUE_NUMBER}, {"relative_l2_error", "rel L2", VALUE_NUMBER},            \
        {"allowance", "allowance", VALUE_NUMBER}, {"share_percent", "share %", VALUE_NUMBER},                \
        {"worst", "worst (n,h,w,c)", VALUE_NUMBERS}, {"worst_value", "there", VALUE_NUMBER},                 \
        {"worst_reference", "reference", VALUE_NUMBER}, {"nonfinite", "non-finite", VALUE_NUMBER},           \
    {                                                                                                        \
        "verdict", "verdict", VALUE_TEXT                                                                     \
    }

static void report_units(struct report *report, const struct verify *v)
{
    static const struct column columns[] = {{"unit", "#", VALUE_NUMBER},
                                            {"layers", "layers", VALUE_TEXT},
                                            {"kernel", "kernel", VALUE_TEXT},
                                            COMPARISON_COLUMNS};
    report_table(report, "units", "Units, each fed with the reference's input", columns,
                 sizeof columns / sizeof columns[0]);
    for (int i = 0; i < v->unit_count; i++) {
        if (!v->selected[i]) continue;
        const struct effnet_unit *unit = effnet_session_unit(v->session, i);
        char label[UNIT_LABEL_SIZE], cells[COMPARISON_CELLS_SIZE];
        report_row(report, "%d\t%s\t%s\t%s", i, unit_label(v->model, unit, label), unit->kernel,
                   comparison_cells(&v->units[i], v->unit_allowance, cells));
    }
}

static void report_logits(struct report *report, const struct verify *v)
{
    static const struct column columns[] = {{"images", "images", VALUE_NUMBER},
                                            {"same_top_1", "same top-1", VALUE_NUMBER},
                                            COMPARISON_COLUMNS},
                               multi_label[] = {{"images", "images", VALUE_NUMBER},
                                                {"same_classes", "same classes", VALUE_NUMBER},
                                                COMPARISON_COLUMNS};
    report_table(report, "logits", "Logits of the whole network",
                 effnet_model_get_info(v->model)->multi_label ? multi_label : columns,
                 sizeof columns / sizeof columns[0]);
    char cells[COMPARISON_CELLS_SIZE];
    report_row(report, "%d\t%d\t%s", v->images, v->same_answer,
               comparison_cells(&v->logits, v->logits_allowance, cells));
}

static int count_misses(const struct verify *v)
{
    int misses = 0;
    for (int i = 0; i < v->unit_count; i++) misses += v->selected[i] && !comparison_ok(&v->units[i]);
    return misses + (!v->options->only && !comparison_ok(&v->logits));
}

static int print_verify(const struct verify *v)
{
    struct report *report;
    EFFNET_TRY(report_open(v->options->format, stdout, &report));
    int misses = count_misses(v);
    report_model_facts(report, v->model);
    report_session_facts(report, &v->options->setup, v->session);
    report_fact(report, VALUE_NUMBER, "images", "images", "%d", v->images);
    report_fact(report, VALUE_NUMBER, "batch", "batch", "%d", v->batch);
    if (!v->paths) report_fact(report, VALUE_NUMBER, "seed", "seed", "%" PRId64, v->options->seed);
    report_fact(report, VALUE_NUMBER, "misses", "misses", "%d", misses);
    report_fact(report, VALUE_BOOL, "ok", "ok", "%s", report_bool(!misses));
    report_units(report, v);
    if (!v->options->only) report_logits(report, v);
    report_note(report,
                "share: the larger of relative L2 and the worst element's error, in percent of what is "
                "allowed.");
    EFFNET_TRY(report_close(report));
    if (!misses) return EFFNET_OK;
    return cli_fail(CLI_MISS, "verify: %d result%s outside the allowance", misses, misses == 1 ? "" : "s");
}

static int open_verify(struct verify *v)
{
    EFFNET_TRY(setup_open_model(&v->options->setup, &v->model));
    EFFNET_TRY(setup_open_session(&v->options->setup, v->model, v->batch, &v->session));
    const struct allowance usual = find_allowance(effnet_session_get_info(v->session)->precision);
    const struct verify_options *o = v->options;
    v->unit_allowance = o->unit_allowance > 0 ? o->unit_allowance : usual.unit;
    v->logits_allowance = o->logits_allowance > 0 ? o->logits_allowance : usual.logits;
    v->unit_count = effnet_session_unit_count(v->session);
    v->selected = calloc((size_t)v->unit_count, sizeof *v->selected);
    v->units = calloc((size_t)v->unit_count, sizeof *v->units);
    size_t crop = (size_t)effnet_model_get_info(v->model)->preprocess.crop;
    v->pixels = malloc((size_t)v->batch * crop * crop * 3);
    v->term_rms = calloc((size_t)v->batch, sizeof *v->term_rms);
    if (!v->selected || !v->units || !v->pixels || !v->term_rms) return cli_fail_nomem("verify");
    EFFNET_TRY(check_units(v));
    return select_units(v);
}

static int verify(const struct verify_options *options, char *const *paths, int count)
{
    struct verify v = {.options = options, .paths = count ? paths : NULL};
    int batch = options->batch ? (int)options->batch : BATCH_DEFAULT;
    v.images = count ? count : batch;
    v.batch = batch < v.images ? batch : v.images;
    int status = open_verify(&v);
    for (int first = 0; !status && first < v.images; first += v.batch)
        status = verify_images(&v, first, v.images - first < v.batch ? v.images - first : v.batch);
    if (!status) status = print_verify(&v);
    effnet_session_close(v.session);
    effnet_model_close(v.model);
    free(v.selected);
    free(v.units);
    free(v.pixels);
    free(v.term_rms);
    return status;
}

int cmd_verify(int argc, char **argv)
{
    static const struct command_help help = {
        "verify",
        "[options] [FILE...]",
        "Runs every unit of a device alone on the plain reference's input and compares, then the\n"
        "whole network; on drawn images, or on FILEs. Prints the largest absolute error, the\n"
        "relative L2 error of the worst image, and where one element is furthest off. The\n"
        "allowance, as relative L2, is 1e-5 for fp32, 1e-3 for fp16 and 2e-2 for bf16, for\n"
        "logits 1e-5, 5e-3 and 5e-2; every element must also be within the allowance times its\n"
        "size plus 16 times the image's root mean square, times the root of the unit's layers.\n"
        "Fewer than 16 outputs of a linear layer may all be near 0: they count as at least as\n"
        "large as their sums' terms are together.\n"
        "NaN passes only where the reference has it. Exits with 1 where a result is outside its\n"
        "allowance.",
    };
    struct verify_options o = {.seed = 1, .format = "text"};
    const struct option_spec options[] = {
        INTEGER('b', "batch-size", "N", "images a pass; without FILEs so many are drawn (default 2)",
                &o.batch, 1, BATCH_MAX),
        INTEGER(0, "seed", "N", "of the drawn images (default 1)", &o.seed, 0, 9007199254740991.0),
        TEXT(0, "only", "PATTERN", "only units with a layer of such a name, as in 'blocks.3.*';\nno logits",
             &o.only),
        REAL(0, "allowance", "X", "relative L2 that a unit may be off (default: the precision's)",
             &o.unit_allowance, 1e-15, ALLOWANCE_MAX),
        REAL(0, "logits-allowance", "X", "the same for the logits", &o.logits_allowance, 1e-15,
             ALLOWANCE_MAX),
        CHOICE(0, "format", "text|json", "how to print (default text)", &o.format),
    };
    int first = setup_parse(&help, options, sizeof options / sizeof options[0], &o.setup, NULL, argc, argv);
    if (first <= 0) return first;
    return verify(&o, argv + first, argc - first);
}
