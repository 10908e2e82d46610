/* What `effnet evaluate` prints. */
#ifndef EFFNET_CLI_EVALUATE_PRINT_H
#define EFFNET_CLI_EVALUATE_PRINT_H

#include "cli/cli.h"
#include "cli/evaluate/dataset.h"
#include "cli/evaluate/metrics.h"

/* All that is known in the end. */
struct evaluation {
    const char *set; /* the folder or the CSV, as it was given */
    const struct dataset *dataset;
    const struct setup *setup;
    const effnet_model *model;
    const effnet_session *session;
    const struct answer *answers; /* [dataset->count] */
    int64_t failed;               /* images that could not be read */
    const struct metrics *metrics;

    const effnet_session *other; /* the one compared with; NULL: none */
    struct agreement agreement;
    int64_t other_top1; /* of agreement.images */
};

/* Prints figures, confusions and, with per_class, a table of the classes: in "text" and "json"; in "csv", one
 * record of figures or, with per_class, one a class. */
int print_evaluation(const struct evaluation *evaluation, const char *format, bool per_class);

/* Writes a CSV of what each image that was read was taken for. */
int print_predictions(const struct evaluation *evaluation, const char *path);

#endif
