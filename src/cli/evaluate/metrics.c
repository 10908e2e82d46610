#include "cli/evaluate/metrics.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---------------------------------------------------------------- one image */

/* Whether class a comes before class b in the order of effnet_top_k: higher logit first, ties by lower index,
 * NaN after all numbers. */
static bool comes_before(const float *logits, int a, int b)
{
    if (isnan(logits[a]) != isnan(logits[b])) return isnan(logits[b]);
    if (!isnan(logits[a]) && logits[a] != logits[b]) return logits[a] > logits[b];
    return a < b;
}

static int most_probable(const float *logits, int classes)
{
    int best = 0;
    for (int i = 1; i < classes; i++)
        if (comes_before(logits, i, best)) best = i;
    return best;
}

struct answer answer_of(const float *logits, int classes, int label)
{
    struct answer answer = {.label = label,
                            .predicted = most_probable(logits, classes),
                            .finite = true,
                            .confidence = NAN,
                            .log_loss = NAN};
    for (int i = 0; i < classes; i++) {
        answer.rank += comes_before(logits, i, label);
        answer.finite = answer.finite && isfinite(logits[i]);
    }
    if (!answer.finite) return answer;
    const double largest = (double)logits[answer.predicted];
    double sum = 0; /* of the softmax's exponentials, the largest of which is 1 */
    for (int i = 0; i < classes; i++) sum += exp((double)logits[i] - largest);
    answer.confidence = 1 / sum;
    answer.log_loss = log(sum) + (largest - (double)logits[label]);
    return answer;
}

void agreement_add(struct agreement *agreement, int64_t image, const float *logits, const float *others,
                   int classes)
{
    agreement->images++;
    agreement->same += most_probable(logits, classes) == most_probable(others, classes);
    for (int i = 0; i < classes; i++) {
        double difference = fabs((double)logits[i] - (double)others[i]);
        if (isnan(logits[i]) && isnan(others[i])) continue;
        if (logits[i] == others[i]) difference = 0; /* two infinities, too */
        if (isnan(difference)) difference = INFINITY;
        if (difference <= agreement->largest) continue;
        agreement->largest = difference;
        agreement->image = image;
        agreement->class_index = i;
    }
}

/* ---------------------------------------------------------------- intervals and calibration */

/* E. B. Wilson, "Probable inference, the law of succession, and statistical inference", Journal of the
 * American Statistical Association 22 (1927): unlike p +- 1.96 sqrt(p (1 - p) / n), it stays in [0, 1] and
 * holds for few images and for shares near 0 and 1. */
struct interval wilson_interval(int64_t hits, int64_t count)
{
    static const double z = 1.959963984540054; /* of the normal distribution 95 % lie within +- z */
    if (count == 0) return (struct interval){0, 1};
    const double n = (double)count, p = (double)hits / n;
    const double centre = (p + z * z / (2 * n)) / (1 + z * z / n);
    const double half = z / (1 + z * z / n) * sqrt(p * (1 - p) / n + z * z / (4 * n * n));
    /* exact where rounding would leave 1 - 1e-17 of a whole */
    return (struct interval){hits == 0 ? 0 : centre - half, hits == count ? 1 : centre + half};
}

/* The bin i with confidence in (i / BINS, (i + 1) / BINS]. */
static int bin_of(double confidence)
{
    const int bin = (int)ceil(confidence * CALIBRATION_BINS) - 1;
    return bin < 0 ? 0 : bin >= CALIBRATION_BINS ? CALIBRATION_BINS - 1 : bin;
}

/* Expected calibration error, equation 3 of C. Guo, G. Pleiss, Y. Sun, K. Q. Weinberger, "On calibration of
 * modern neural networks" (ICML 2017): the sum over the bins of |bin| / n |accuracy - mean confidence|, bins
 * of equal width. */
static void calibrate(const struct answer *answers, int64_t count, struct metrics *m)
{
    double confidence = 0, log_loss = 0, error = 0;
    for (int64_t i = 0; i < count; i++) {
        const struct answer *a = &answers[i];
        if (a->predicted < 0 || !a->finite) continue;
        struct calibration_bin *bin = &m->bins[bin_of(a->confidence)];
        m->finite++;
        confidence += a->confidence;
        log_loss += a->log_loss;
        bin->images++;
        bin->hits += a->rank == 0;
        bin->confidence += a->confidence;
    }
    for (int i = 0; i < CALIBRATION_BINS; i++) {
        struct calibration_bin *bin = &m->bins[i];
        error += fabs((double)bin->hits - bin->confidence);
        if (bin->images) bin->confidence /= (double)bin->images;
    }
    const double n = m->finite ? (double)m->finite : NAN;
    m->mean_confidence = confidence / n;
    m->log_loss = log_loss / n;
    m->calibration_error = error / n;
}

/* ---------------------------------------------------------------- classes */

static int by_pair(const void *a, const void *b)
{
    const struct confusion *x = a, *y = b;
    if (x->label != y->label) return x->label < y->label ? -1 : 1;
    return (x->predicted > y->predicted) - (x->predicted < y->predicted);
}

static int by_frequency(const void *a, const void *b)
{
    const struct confusion *x = a, *y = b;
    if (x->images != y->images) return x->images > y->images ? -1 : 1;
    return by_pair(a, b);
}

/* Counts equal pairs together, and finds each class's most frequent one. */
static bool find_confusions(const struct answer *answers, int64_t count, struct metrics *m)
{
    const int64_t wrong = m->images - m->top1;
    m->confusions = malloc(((size_t)wrong + 1) * sizeof *m->confusions);
    if (!m->confusions) return false;
    int64_t pairs = 0;
    for (int64_t i = 0; i < count; i++)
        if (answers[i].predicted >= 0 && answers[i].rank > 0)
            m->confusions[pairs++] = (struct confusion){answers[i].label, answers[i].predicted, 1};
    qsort(m->confusions, (size_t)pairs, sizeof *m->confusions, by_pair);
    for (int64_t i = 0; i < pairs; i++) {
        struct confusion *last = &m->confusions[m->confusion_count - (m->confusion_count > 0)];
        if (m->confusion_count && by_pair(last, &m->confusions[i]) == 0)
            last->images++;
        else
            m->confusions[m->confusion_count++] = m->confusions[i];
    }
    qsort(m->confusions, (size_t)m->confusion_count, sizeof *m->confusions, by_frequency);
    for (int64_t i = 0; i < m->confusion_count; i++) {
        struct class_figures *class = &m->by_class[m->confusions[i].label];
        if (class->most_mistaken_for >= 0) continue;
        class->most_mistaken_for = m->confusions[i].predicted;
        class->mistaken = m->confusions[i].images;
    }
    return true;
}

struct ranked {
    int index;
    int64_t images, top1;
};

/* Shares are compared by cross multiplication, so that equal ones are equal. */
static int by_accuracy(const void *a, const void *b)
{
    const struct ranked *x = a, *y = b;
    const int64_t left = x->top1 * y->images, right = y->top1 * x->images;
    if (left != right) return left < right ? -1 : 1;
    if (x->images != y->images) return x->images > y->images ? -1 : 1;
    return x->index - y->index;
}

static bool find_worst(struct metrics *m)
{
    struct ranked *ranked = malloc((size_t)m->classes * sizeof *ranked);
    m->worst = malloc((size_t)m->classes * sizeof *m->worst);
    double accuracy = 0;
    for (int i = 0; ranked && i < m->classes; i++) {
        const struct class_figures *class = &m->by_class[i];
        if (!class->images) continue;
        ranked[m->classes_seen++] = (struct ranked){i, class->images, class->top1};
        accuracy += (double)class->top1 / (double)class->images;
    }
    m->class_accuracy = accuracy / m->classes_seen;
    const bool ok = ranked && m->worst;
    if (ok) qsort(ranked, (size_t)m->classes_seen, sizeof *ranked, by_accuracy);
    for (int i = 0; ok && i < m->classes_seen; i++) m->worst[i] = ranked[i].index;
    free(ranked);
    return ok;
}

bool metrics_open(const struct answer *answers, int64_t count, int classes, struct metrics *out)
{
    *out = (struct metrics){.classes = classes};
    out->by_class = calloc((size_t)classes, sizeof *out->by_class);
    if (!out->by_class) return false;
    for (int i = 0; i < classes; i++) out->by_class[i].most_mistaken_for = -1;
    for (int64_t i = 0; i < count; i++) {
        const struct answer *a = &answers[i];
        if (a->predicted < 0) continue;
        struct class_figures *class = &out->by_class[a->label];
        const bool top1 = a->rank == 0, top5 = a->rank < TOP_FIVE;
        out->images++;
        out->top1 += top1;
        out->top5 += top5;
        class->images++;
        class->top1 += top1;
        class->top5 += top5;
        out->by_class[a->predicted].predicted++;
    }
    calibrate(answers, count, out);
    if (find_confusions(answers, count, out) && find_worst(out)) return true;
    metrics_close(out);
    return false;
}

void metrics_close(struct metrics *metrics)
{
    free(metrics->by_class);
    free(metrics->worst);
    free(metrics->confusions);
    memset(metrics, 0, sizeof *metrics);
}
