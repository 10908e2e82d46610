/* How much of its accuracy a network keeps when it becomes one of integers. Functions report their own
 * failures. */
#ifndef EFFNET_CLI_QUANTIZE_ACCURACY_H
#define EFFNET_CLI_QUANTIZE_ACCURACY_H

#include "cli/cli.h"
#include "cli/evaluate/dataset.h"
#include "cli/report.h"

struct accuracy {
    int64_t images, same; /* same: both networks' most probable class */
    bool labelled;
    int64_t fp32_top1, int8_top1; /* right answers to labelled images */
    int64_t failed;               /* images that could not be read */
    int first_failure;            /* the first one's status; EFFNET_OK: none failed */
};

/* The images that `path` stands for: with labels if it is a CSV, or a folder that has folders, which are then
 * named as classes are (dataset.h); without if it is an image or a folder of images alone. */
int accuracy_dataset(const char *path, const effnet_model *model, const struct dataset_columns *columns,
                     bool sorted, struct dataset *out);

/* Runs both networks, whose preprocessing is the same, over all images. `out` starts zeroed. */
int accuracy_measure(const effnet_model *floats, const effnet_model *integers, const struct setup *setup,
                     const struct dataset *dataset, struct accuracy *out);

/* `path` as above. */
void accuracy_facts(struct report *report, const char *path, const struct accuracy *accuracy);

#endif
