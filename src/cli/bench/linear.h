/* effnet bench linear: one linear layer on random data, verified, then timed. */
#ifndef EFFNET_CLI_BENCH_LINEAR_H
#define EFFNET_CLI_BENCH_LINEAR_H

/* argv[0] is "linear". */
int cmd_bench_linear(int argc, char **argv);

#endif
