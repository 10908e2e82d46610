/* Unit by unit: where the time of a pass goes, and how near that is to what the machine can do. */
#ifndef EFFNET_CLI_BENCH_UNITS_H
#define EFFNET_CLI_BENCH_UNITS_H

#include "cli/bench/passes.h"

/* Begins the table, and adds rows for the batch at hand. */
void bench_units_table(struct bench *bench);
int bench_units(struct bench *bench);

#endif
