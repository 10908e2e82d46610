#include "cli/evaluate/print.h"

#include "cli/output.h"
#include "cli/report.h"
#include "cli/text.h"
#include "cli/units.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

enum { CONFUSIONS_SHOWN = 10 };

static double percent(int64_t hits, int64_t count)
{
    return count ? 100 * (double)hits / (double)count : NAN;
}

/* ---------------------------------------------------------------- text */

static void share_fact(struct report *report, const char *heading, int64_t hits, int64_t count)
{
    const struct interval interval = wilson_interval(hits, count);
    report_fact(report, VALUE_TEXT, "", heading,
                "%.2f %%  (95 %% interval %.2f to %.2f; %" PRId64 " of %" PRId64 ")", percent(hits, count),
                100 * interval.low, 100 * interval.high, hits, count);
}

static void agreement_facts_text(struct report *report, const struct evaluation *e)
{
    const struct effnet_session_info *info = effnet_session_get_info(e->other);
    const struct agreement *a = &e->agreement;
    report_fact(report, VALUE_TEXT, "", "against", "%s, %s, %s", info->backend, info->device,
                info->precision);
    share_fact(report, "  same top-1", a->same, a->images);
    share_fact(report, "  its top-1", e->other_top1, a->images);
    if (a->largest > 0)
        report_fact(report, VALUE_TEXT, "", "  logits differ", "by up to %.3g  (%s, class %d)", a->largest,
                    e->dataset->images[a->image].path, a->class_index);
    else
        report_fact(report, VALUE_TEXT, "", "  logits differ", "nowhere");
}

static void facts_text(struct report *report, const struct evaluation *e)
{
    const struct metrics *m = e->metrics;
    report_model_facts(report, e->model);
    report_session_facts(report, e->setup, e->session);
    if (e->dataset->folders)
        report_fact(report, VALUE_TEXT, "", "images of", "%s  (%d folder%s, classes by %s)", e->set,
                    e->dataset->folders, e->dataset->folders == 1 ? "" : "s", e->dataset->named_by);
    else
        report_fact(report, VALUE_TEXT, "", "images of", "%s  (classes by %s)", e->set, e->dataset->named_by);
    report_fact(report, VALUE_TEXT, "", "images", "%" PRId64 ", of %d of %d classes", m->images,
                m->classes_seen, m->classes);
    if (e->failed)
        report_fact(report, VALUE_TEXT, "", "left out", "%" PRId64 ", which could not be read", e->failed);
    share_fact(report, "top-1", m->top1, m->images);
    share_fact(report, "top-5", m->top5, m->images);
    report_fact(report, VALUE_TEXT, "", "mean of classes", "%.2f %%", 100 * m->class_accuracy);
    if (m->finite < m->images)
        report_fact(report, VALUE_TEXT, "", "not finite",
                    "logits of %" PRId64 " images, which the following leaves out", m->images - m->finite);
    report_fact(report, VALUE_TEXT, "", "confidence", "%.2f %%  (mean)", 100 * m->mean_confidence);
    report_fact(report, VALUE_TEXT, "", "calibration", "off by %.2f %%  (expected error, %d bins)",
                100 * m->calibration_error, CALIBRATION_BINS);
    report_fact(report, VALUE_TEXT, "", "log loss", "%.4f  (negative log-likelihood, mean)", m->log_loss);
    if (e->other) agreement_facts_text(report, e);
}

/* ---------------------------------------------------------------- json and csv: timm's names first */

static void number_fact(struct report *report, const char *key, double value, int digits)
{
    report_fact(report, VALUE_NUMBER, key, key, "%.*f", digits, value);
}

static void count_fact(struct report *report, const char *key, int64_t value)
{
    report_fact(report, VALUE_NUMBER, key, key, "%" PRId64, value);
}

/* The columns of timm's validate.py, with its numbers of digits. */
static void facts_timm(struct report *report, const struct evaluation *e)
{
    const struct effnet_model_info *info = effnet_model_get_info(e->model);
    const struct effnet_preprocess *p = &info->preprocess;
    const double top1 = percent(e->metrics->top1, e->metrics->images);
    const double top5 = percent(e->metrics->top5, e->metrics->images);
    report_fact(report, VALUE_TEXT, "model", "model", "%s", info->network);
    number_fact(report, "top1", top1, 4);
    number_fact(report, "top1_err", 100 - top1, 4);
    number_fact(report, "top5", top5, 4);
    number_fact(report, "top5_err", 100 - top5, 4);
    number_fact(report, "param_count", (double)info->parameters / 1e6, 2);
    count_fact(report, "img_size", p->crop);
    number_fact(report, "crop_pct",
                p->resize == EFFNET_RESIZE_SQUASH ? 1 : (double)p->crop / (double)p->short_side, 3);
    report_fact(report, VALUE_TEXT, "interpolation", "interpolation", "%s",
                p->interpolation == EFFNET_BICUBIC ? "bicubic" : "bilinear");
}

static void facts_other(struct report *report, const struct evaluation *e)
{
    const struct effnet_session_info *info = effnet_session_get_info(e->other);
    const struct agreement *a = &e->agreement;
    report_fact(report, VALUE_TEXT, "against_backend", "", "%s", info->backend);
    report_fact(report, VALUE_TEXT, "against_device", "", "%s", info->device);
    report_fact(report, VALUE_TEXT, "against_precision", "", "%s", info->precision);
    number_fact(report, "against_top1", percent(e->other_top1, a->images), 4);
    count_fact(report, "compared", a->images);
    count_fact(report, "same_top1", a->same);
    report_fact(report, VALUE_NUMBER, "largest_difference", "", "%.9g", a->largest);
}

static void facts_for_programs(struct report *report, const struct evaluation *e)
{
    const struct metrics *m = e->metrics;
    const struct interval top1 = wilson_interval(m->top1, m->images);
    const struct interval top5 = wilson_interval(m->top5, m->images);
    facts_timm(report, e);
    count_fact(report, "images", m->images);
    count_fact(report, "failed", e->failed);
    number_fact(report, "top1_low", 100 * top1.low, 4);
    number_fact(report, "top1_high", 100 * top1.high, 4);
    number_fact(report, "top5_low", 100 * top5.low, 4);
    number_fact(report, "top5_high", 100 * top5.high, 4);
    number_fact(report, "class_mean", 100 * m->class_accuracy, 4);
    report_fact(report, VALUE_NUMBER, "confidence", "", "%.9g", m->mean_confidence);
    report_fact(report, VALUE_NUMBER, "calibration_error", "", "%.9g", m->calibration_error);
    report_fact(report, VALUE_NUMBER, "log_loss", "", "%.9g", m->log_loss);
    count_fact(report, "not_finite", m->images - m->finite);
    report_fact(report, VALUE_TEXT, "weights", "", "%s", effnet_model_get_info(e->model)->path);
    report_fact(report, VALUE_TEXT, "set", "", "%s", e->set);
    report_fact(report, VALUE_TEXT, "classes_by", "", "%s", e->dataset->named_by);
    report_session_facts(report, e->setup, e->session);
    if (e->other) facts_other(report, e);
}

/* ---------------------------------------------------------------- tables */

static void report_confusions(struct report *report, const struct evaluation *e)
{
    static const struct column columns[] = {
        {"images", "images", VALUE_NUMBER}, {"share", "% of class", VALUE_NUMBER},
        {"index", "#", VALUE_NUMBER},       {"label", "of", VALUE_TEXT},
        {"predicted", "#", VALUE_NUMBER},   {"predicted_label", "taken for", VALUE_TEXT},
    };
    const struct metrics *m = e->metrics;
    report_table(report, "confusions", "Most frequent confusions", columns,
                 sizeof columns / sizeof columns[0]);
    for (int64_t i = 0; i < m->confusion_count && i < CONFUSIONS_SHOWN; i++) {
        const struct confusion *c = &m->confusions[i];
        report_row(report, "%" PRId64 "\t%.2f\t%d\t%s\t%d\t%s", c->images,
                   percent(c->images, m->by_class[c->label].images), c->label,
                   effnet_model_label(e->model, c->label).name, c->predicted,
                   effnet_model_label(e->model, c->predicted).name);
    }
}

static void report_classes(struct report *report, const struct evaluation *e)
{
    static const struct column columns[] = {
        {"index", "#", VALUE_NUMBER},
        {"id", "id", VALUE_TEXT},
        {"label", "class", VALUE_TEXT},
        {"class_images", "images", VALUE_NUMBER},
        {"class_top1", "top-1 %", VALUE_NUMBER},
        {"class_top5", "top-5 %", VALUE_NUMBER},
        {"predicted", "answers", VALUE_NUMBER},
        {"predicted_right", "right %", VALUE_NUMBER},
        {"mistaken", "mistaken", VALUE_NUMBER},
        {"mistaken_for", "most often for", VALUE_TEXT},
    };
    const struct metrics *m = e->metrics;
    report_table(report, "classes", "Classes, the least accurate first", columns,
                 sizeof columns / sizeof columns[0]);
    for (int i = 0; i < m->classes_seen; i++) {
        const struct class_figures *c = &m->by_class[m->worst[i]];
        const struct effnet_label label = effnet_model_label(e->model, m->worst[i]);
        report_row(report, "%d\t%s\t%s\t%" PRId64 "\t%.2f\t%.2f\t%" PRId64 "\t%.2f\t%" PRId64 "\t%s",
                   m->worst[i], label.id, label.name, c->images, percent(c->top1, c->images),
                   percent(c->top5, c->images), c->predicted, percent(c->top1, c->predicted), c->mistaken,
                   c->mistaken ? effnet_model_label(e->model, c->most_mistaken_for).name : "");
    }
    report_note(report, "answers: images, of any class, that were taken for this one; right %: of these.");
}

int print_evaluation(const struct evaluation *evaluation, const char *format, bool per_class)
{
    struct report *report;
    EFFNET_TRY(report_open(format, stdout, &report));
    const bool text = !strcmp(format, "text");
    (text ? facts_text : facts_for_programs)(report, evaluation);
    if (per_class) report_classes(report, evaluation);
    if (!strcmp(format, "json") || (text && evaluation->metrics->confusion_count))
        report_confusions(report, evaluation);
    return report_close(report);
}

/* ---------------------------------------------------------------- predictions */

int print_predictions(const struct evaluation *e, const char *path)
{
    struct output output;
    EFFNET_TRY(output_begin(&output, path));
    fputs("file,label,label_name,predicted,predicted_name,probability,rank\r\n", output.file);
    for (int64_t i = 0; i < e->dataset->count; i++) {
        const struct answer *a = &e->answers[i];
        if (a->predicted < 0) continue;
        text_write_csv(output.file, e->dataset->images[i].path);
        fprintf(output.file, ",%d,", a->label);
        text_write_csv(output.file, effnet_model_label(e->model, a->label).name);
        fprintf(output.file, ",%d,", a->predicted);
        text_write_csv(output.file, effnet_model_label(e->model, a->predicted).name);
        fprintf(output.file, ",%.9g,%d\r\n", a->confidence, a->rank + 1);
    }
    return output_end(&output, EFFNET_OK);
}
