/* Two figures as one SVG: accuracy by confidence (a reliability diagram), and how the classes that are
 * confused most are taken for each other. */
#ifndef EFFNET_CLI_EVALUATE_PLOT_H
#define EFFNET_CLI_EVALUATE_PLOT_H

#include "cli/evaluate/metrics.h"
#include "effnet.h"

/* Before long work: whether the plot may be written there. Of images it replaces SVGs alone, since it is one.
 * Reports: EFFNET_E_OUTPUT. */
int plot_check_place(const char *path);
/* Reports its own failure. */
int plot_write(const char *path, const effnet_model *model, const struct metrics *metrics);

#endif
