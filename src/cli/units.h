/* What info, verify and bench say about a session and its units. */
#ifndef EFFNET_CLI_UNITS_H
#define EFFNET_CLI_UNITS_H

#include "cli/cli.h"
#include "cli/report.h"
#include "effnet_lab.h"

enum { UNIT_LABEL_SIZE = 160 };

/* The layers of a unit: "stem", "blocks.1.expand..blocks.1.project". Returns label. */
const char *unit_label(const effnet_model *model, const struct effnet_unit *unit,
                       char label[UNIT_LABEL_SIZE]);
/* Floating-point operations of a unit for one image: two a multiply-add. */
int64_t unit_flops(const effnet_model *model, const struct effnet_unit *unit);

/* Facts: network and file; backend, device, precision, threads, and on a GPU the plan. */
void report_model_facts(struct report *report, const effnet_model *model);
void report_session_facts(struct report *report, const struct setup *setup, const effnet_session *session);

#endif
