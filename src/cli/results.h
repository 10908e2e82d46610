/* How `effnet classify` prints: one struct a format, all with the same functions. */
#ifndef EFFNET_CLI_RESULTS_H
#define EFFNET_CLI_RESULTS_H

#include "effnet.h"

#include <stdio.h>

struct result {
    const char *filename;
    const effnet_model *model;      /* for the labels */
    int count, most;                /* classes; and how many an image of this run has at most */
    const struct effnet_class *top; /* best first */
    double threshold;               /* where there are none: all are below it */
    bool logits;                    /* are printed, and not probabilities */
};

struct result_format {
    const char *name;
    /* Before the first result, or NULL; at most `most` classes an image will follow, with probabilities or
     * logits. */
    void (*begin)(FILE *out, int most, bool logits);
    /* EFFNET_OK or EFFNET_E_NOMEM, reported. Write errors stay with the stream. */
    int (*print)(FILE *out, const struct result *result);
};

/* The format by its name, one of "text", "json", "csv". */
const struct result_format *result_format_find(const char *name);

#endif
