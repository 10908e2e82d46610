/* What the files of `effnet bench` share. */
#ifndef EFFNET_CLI_BENCH_H
#define EFFNET_CLI_BENCH_H

#include "cli/cli.h"
#include "cli/report.h"
#include "cli/stats.h"

struct bench_options {
    struct setup setup;
    struct integer_list batches;
    int64_t warmup, repetitions; /* repetitions 0: as many as fit into the duration */
    double duration;             /* seconds for each measure */
    double peak_bandwidth;       /* GB/s, or 0 */
    double peak_compute;         /* GFLOP/s, or 0 */
    const char *format;
    bool cold, layers, end_to_end, no_verify;
};

struct bench {
    const struct bench_options *options;
    char *const *paths; /* for end to end */
    int count;
    effnet_model *model;
    float *reference; /* logits of image 0, or NULL where nothing is verified */
    struct report *report;

    /* of the batch at hand */
    effnet_session *session;
    int batch;
    uint8_t *pixels; /* [batch][crop][crop][3] */
    float *logits;   /* [batch][classes] */
};

/* One timed pass; reports its own failure. */
typedef int bench_pass(struct bench *bench, void *context);

/* Warms up, then calls pass until the options say that it is enough. */
int bench_repeat(struct bench *bench, bench_pass *pass, void *context);

/* `effnet bench linear`, argv[0] being "linear". */
int cmd_bench_linear(int argc, char **argv);

/* Adds rows for the batch at hand: the whole network's, or each unit's. */
int bench_network(struct bench *bench);
int bench_units(struct bench *bench);
/* Begins the table that those rows go into. */
void bench_network_table(struct bench *bench);
void bench_units_table(struct bench *bench);

#endif
