/* What bench's measures share: its options, what it has at hand, and how passes are repeated and told. */
#ifndef EFFNET_CLI_BENCH_PASSES_H
#define EFFNET_CLI_BENCH_PASSES_H

#include "cli/bench/stats.h"
#include "cli/cli.h"
#include "cli/report.h"

struct pass_options {
    int64_t warmup, repetitions; /* repetitions 0: as many as fit into the duration */
    double duration;             /* seconds for each measure */
    double peak_compute;         /* GFLOP/s, or 0 */
    const char *format;
    bool cold, no_verify;
};
static const struct pass_options pass_defaults = {.warmup = 3, .duration = 1, .format = "text"};

enum { REPETITIONS_MAX = 1000000 };

/* Rows of an option table. */
#define PASS_OPTIONS(o)                                                                                      \
    INTEGER(0, "warmup", "N", "passes before the timed ones (default 3)", &(o)->warmup, 0, 1000000),         \
        REAL(0, "duration", "SECONDS", "measure for so long, three passes at least (default 1)",             \
             &(o)->duration, 0, 3600),                                                                       \
        INTEGER(0, "repetitions", "N", "time so many passes, however long they take", &(o)->repetitions, 1,  \
                REPETITIONS_MAX),                                                                            \
        FLAG(0, "no-verify", "time without checking the results first", &(o)->no_verify),                    \
        CHOICE(0, "format", "text|json|csv|markdown", "how to print (default text)", &(o)->format)

struct bench_options {
    struct setup setup;
    struct pass_options passes;
    struct integer_list batches;
    double peak_bandwidth; /* GB/s, or 0 */
    bool layers, end_to_end;
};

struct bench {
    const struct bench_options *options;
    char *const *paths; /* for end to end */
    int count;
    effnet_model *model;
    float *reference; /* logits of image 0, or NULL until something is verified */
    struct report *report;

    /* of the batch at hand */
    effnet_session *session;
    int batch;
    uint8_t *pixels; /* [batch][crop][crop][3] */
    float *logits;   /* [batch][classes] */
};

/* One timed pass, which adds what it took; reports its own failure. */
typedef int timed_pass(void *context, struct samples *samples);

/* Warms up, then calls pass until the options say that it is enough. samples, zeroed before, has the timed
 * passes; the caller frees it, also after a failure. */
int passes_run(const struct pass_options *options, timed_pass *pass, void *context, struct samples *samples);

/* Columns of a table for how many passes there were and what they took, `unit` being "ms" or "us"; and a
 * row's cells for them, in units of so many microseconds. */
#define PASS_COLUMNS(unit)                                                                                   \
    {"repetitions", "repetitions", VALUE_NUMBER}, {"median_" unit, "median " unit, VALUE_NUMBER},            \
        {"min_" unit, "min " unit, VALUE_NUMBER}, {"p90_" unit, "p90 " unit, VALUE_NUMBER},                  \
    {                                                                                                        \
        "p99_" unit, "p99 " unit, VALUE_NUMBER                                                               \
    }
void report_passes(struct report *report, const struct statistics *statistics, double unit_us, int digits);

#endif
