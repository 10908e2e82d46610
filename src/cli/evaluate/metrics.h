/* What `effnet evaluate` works out of logits and labels: pure functions. Sums are in double and in the order
 * of the images, so that the same answers give the same figures. docs/evaluate.md has the formulas. */
#ifndef EFFNET_CLI_EVALUATE_METRICS_H
#define EFFNET_CLI_EVALUATE_METRICS_H

#include <stdbool.h>
#include <stdint.h>

enum {
    CALIBRATION_BINS = 15,
    TOP_FIVE = 5, /* a label is among the top five; of fewer classes it always is */
};

/* What a network said of one labelled image. */
struct answer {
    int label;         /* the class that the image shows */
    int predicted;     /* the most probable class; -1: there is no answer, and the image counts nowhere */
    int rank;          /* of the label, in the order of effnet_top_k: 0 is first, and right */
    bool finite;       /* all logits are numbers; else the next two are NaN and count nowhere */
    double confidence; /* probability of the predicted class */
    double log_loss;   /* -ln of the label's probability */
};

/* logits [classes], label in [0, classes) */
struct answer answer_of(const float *logits, int classes, int label);

/* Wilson's interval that covers the true share with 95 % where `hits` of `count` were seen, in [0, 1]. All of
 * [0, 1] where count is 0. */
struct interval {
    double low, high;
};
struct interval wilson_interval(int64_t hits, int64_t count);

/* Images whose confidence is in ((i) / BINS, (i + 1) / BINS], for bin i. */
struct calibration_bin {
    int64_t images, hits;
    double confidence; /* their mean; 0 where there are none */
};

struct class_figures {
    int64_t images, top1, top5;
    int64_t predicted;     /* images, of any class, that were taken for this one */
    int64_t mistaken;      /* images of it that were taken for */
    int most_mistaken_for; /* this other class, the most frequent; -1: none was */
};

/* Images of one class that were taken for another. */
struct confusion {
    int label, predicted;
    int64_t images;
};

struct metrics {
    int64_t images, top1, top5;
    int64_t finite; /* images whose logits are all numbers: those that the following four are about */
    double calibration_error, mean_confidence, log_loss; /* NaN where there are none */
    struct calibration_bin bins[CALIBRATION_BINS];
    double class_accuracy; /* mean of top1 / images of the classes that have images */

    int classes, classes_seen;      /* seen: have images */
    struct class_figures *by_class; /* [classes] */
    int *worst;                     /* [classes_seen] classes, least top-1 first, then those of more images */
    struct confusion *confusions;   /* [confusion_count], the most frequent first */
    int64_t confusion_count;
};

/* Works all of it out of answers[count], at least one of which is an answer. False where memory is short. */
bool metrics_open(const struct answer *answers, int64_t count, int classes, struct metrics *out);
/* Takes zeroed ones. */
void metrics_close(struct metrics *metrics);

/* How far two networks' answers to the same images agree; starts zeroed. */
struct agreement {
    int64_t images, same; /* same: most probable class */
    double largest;       /* |difference| of two logits; infinite where one alone is NaN */
    int64_t image;        /* where that is: the number given to agreement_add */
    int class_index;
};
void agreement_add(struct agreement *agreement, int64_t image, const float *logits, const float *others,
                   int classes);

#endif
