/* The whole network: compute alone, with the host's part, and from files. */
#ifndef EFFNET_CLI_BENCH_NETWORK_H
#define EFFNET_CLI_BENCH_NETWORK_H

#include "cli/bench/passes.h"

/* Begins the table, and adds rows for the batch at hand. */
void bench_network_table(struct bench *bench);
int bench_network(struct bench *bench);

#endif
