/* What bench measures, one file each. */
#ifndef EFFNET_CLI_BENCH_MEASURES_H
#define EFFNET_CLI_BENCH_MEASURES_H

#include "cli/bench/passes.h"

/* network.c and units.c: each begins its table, and adds rows to it for the batch at hand. */
void bench_network_table(struct bench *bench);
int bench_network(struct bench *bench);
void bench_units_table(struct bench *bench);
int bench_units(struct bench *bench);

/* linear.c: `effnet bench linear`, argv[0] being "linear". */
int cmd_bench_linear(int argc, char **argv);

#endif
