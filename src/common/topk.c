#include "effnet.h"

#include <math.h>
#include <stdlib.h>

/* The order of classes: higher logit first, ties by lower index, NaN after all numbers. */
static int compare(const void *a, const void *b)
{
    const struct effnet_class *x = a, *y = b;
    bool x_nan = isnan(x->logit), y_nan = isnan(y->logit);
    if (x_nan != y_nan) return x_nan ? 1 : -1;
    if (!x_nan && x->logit != y->logit) return x->logit > y->logit ? -1 : 1;
    return x->index - y->index;
}

/* The class's share before division by the sum. Where the largest logit is infinite, those that equal it
 * share everything. A NaN gives NaN. */
static double softmax_share(float logit, float largest)
{
    if (isnan(logit)) return NAN;
    if (isinf(largest)) return logit == largest;
    return exp((double)logit - (double)largest);
}

/* The k best of the classes, in order. */
static void select_best(const float *logits, int classes, int k, struct effnet_class *top)
{
    for (int i = 0; i < k; i++) top[i] = (struct effnet_class){.index = i, .logit = logits[i]};
    qsort(top, (size_t)k, sizeof *top, compare);
    /* The k best seen so far; the last makes room for a better class. */
    for (int i = k; i < classes; i++) {
        const struct effnet_class candidate = {.index = i, .logit = logits[i]};
        int place = k - 1;
        if (compare(&candidate, &top[place]) > 0) continue;
        for (; place > 0 && compare(&candidate, &top[place - 1]) < 0; place--) top[place] = top[place - 1];
        top[place] = candidate;
    }
}

int effnet_top_k(const float *logits, int classes, int k, struct effnet_class *top)
{
    if (!logits || !top || classes < 1 || k < 1) return 0;
    if (k > classes) k = classes;

    float largest = -INFINITY;
    for (int i = 0; i < classes; i++)
        if (logits[i] > largest) largest = logits[i];
    double sum = 0; /* over the classes that have a number */
    for (int i = 0; i < classes; i++)
        if (!isnan(logits[i])) sum += softmax_share(logits[i], largest);

    select_best(logits, classes, k, top);
    for (int i = 0; i < k; i++) top[i].probability = (float)(softmax_share(top[i].logit, largest) / sum);
    return k;
}

int effnet_top_k_multi_label(const float *logits, int classes, int k, struct effnet_class *top)
{
    if (!logits || !top || classes < 1 || k < 1) return 0;
    if (k > classes) k = classes;
    select_best(logits, classes, k, top);
    for (int i = 0; i < k; i++) top[i].probability = (float)(1 / (1 + exp(-(double)top[i].logit)));
    return k;
}
