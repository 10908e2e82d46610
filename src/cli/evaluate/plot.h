/* Two figures as one SVG: accuracy by confidence (a reliability diagram), and how the classes that are
 * confused most are taken for each other. */
#ifndef EFFNET_CLI_EVALUATE_PLOT_H
#define EFFNET_CLI_EVALUATE_PLOT_H

#include "cli/evaluate/metrics.h"
#include "effnet.h"

/* Reports its own failure. */
int plot_write(const char *path, const effnet_model *model, const struct metrics *metrics);

#endif
