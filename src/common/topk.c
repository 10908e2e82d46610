#include "effnet.h"

#include <math.h>
#include <stddef.h>

/* Whether class a comes before class b: higher logit first, ties by lower index, NaN after all numbers. */
static bool before(const struct effnet_class *a, const struct effnet_class *b)
{
    bool a_nan = isnan(a->logit), b_nan = isnan(b->logit);
    if (a_nan != b_nan) return b_nan;
    if (!a_nan && a->logit != b->logit) return a->logit > b->logit;
    return a->index < b->index;
}

/* Restores the heap top[0..count), whose root is the last class in order, after top[0] has changed. */
static void sift_down(struct effnet_class *top, int count)
{
    struct effnet_class moved = top[0];
    int hole = 0;
    for (;;) {
        int child = 2 * hole + 1;
        if (child >= count) break;
        if (child + 1 < count && before(&top[child], &top[child + 1])) child++;
        if (!before(&moved, &top[child])) break;
        top[hole] = top[child];
        hole = child;
    }
    top[hole] = moved;
}

static void sift_up(struct effnet_class *top, int hole)
{
    struct effnet_class moved = top[hole];
    while (hole > 0 && before(&top[(hole - 1) / 2], &moved)) {
        top[hole] = top[(hole - 1) / 2];
        hole = (hole - 1) / 2;
    }
    top[hole] = moved;
}

/* The class's share before division by the sum. Where the largest logit is infinite, those that equal it
 * share everything. A NaN gives NaN. */
static double softmax_share(float logit, float largest)
{
    if (isnan(logit)) return NAN;
    if (isinf(largest)) return logit == largest;
    return exp((double)logit - (double)largest);
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

    /* The k best seen so far are a heap; a better class replaces its root, the worst of them. */
    for (int i = 0; i < classes; i++) {
        struct effnet_class candidate = {.index = i, .logit = logits[i]};
        if (i < k) {
            top[i] = candidate;
            sift_up(top, i);
        } else if (before(&candidate, &top[0])) {
            top[0] = candidate;
            sift_down(top, k);
        }
    }
    for (int count = k; count > 1; count--) { /* the worst goes to the end */
        struct effnet_class worst = top[0];
        top[0] = top[count - 1];
        sift_down(top, count - 1);
        top[count - 1] = worst;
    }
    for (int i = 0; i < k; i++) top[i].probability = (float)(softmax_share(top[i].logit, largest) / sum);
    return k;
}
