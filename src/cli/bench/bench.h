/* What bench's files share: its options, what it has at hand, how passes are repeated and told, and what it
 * measures, one file each. */
#ifndef EFFNET_CLI_BENCH_BENCH_H
#define EFFNET_CLI_BENCH_BENCH_H

#include "cli/cli.h"
#include "cli/report.h"
#include "cli/sessions.h"

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
    const char *decode;
};

enum { BENCH_NOTE_SIZE = 160 };

struct bench {
    const struct bench_options *options;
    char *const *paths; /* for end to end */
    int count;
    effnet_model *model;
    float *reference; /* logits of image 0, or NULL until something is verified */
    double term_rms;  /* theirs: reference_term_rms */
    struct report *report;
    char notes[2 * INTEGER_LIST_MAX][BENCH_NOTE_SIZE]; /* for the end of the report */
    int note_count;

    /* of the batch at hand */
    struct sessions sessions; /* where --device names several, all of them; */
    effnet_session *session;  /* the first, which most is measured with */
    int batch;
    uint8_t *pixels; /* [batch][crop][crop][3] */
    float *logits;   /* [batch][classes] */
};

/* ---------------------------------------------------------------- passes.c */

/* Grows as needed; starts zeroed. */
struct samples {
    double *values;
    size_t count, capacity;
};

struct statistics {
    size_t count;
    double median, minimum, p90, p99;
};

/* EFFNET_OK, or EFFNET_E_NOMEM, reported. */
int samples_add(struct samples *samples, double value);
void samples_free(struct samples *samples);

/* Of count >= 1 values, which it sorts. Percentiles are by nearest rank: the smallest value that so many
 * percent do not exceed; the median of an even number is the mean of the middle two. */
struct statistics statistics_of(double *values, size_t count);

/* One timed pass, which adds what it took; reports its own failure. */
typedef int timed_pass(void *context, struct samples *samples);

/* Warms up, then calls pass until the options say that it is enough. samples, zeroed before, has the timed
 * passes; the caller frees it, also after a failure. */
int passes_run(const struct pass_options *options, timed_pass *pass, void *context, struct samples *samples);

/* Columns of a table for how many passes there were and what they took, `unit` being "ms" or "us"; and a
 * row's cells for them, in units of so many microseconds; pass_cells returns cells. */
#define PASS_COLUMNS(unit)                                                                                   \
    {"repetitions", "repetitions", VALUE_NUMBER}, {"median_" unit, "median " unit, VALUE_NUMBER},            \
        {"min_" unit, "min " unit, VALUE_NUMBER}, {"p90_" unit, "p90 " unit, VALUE_NUMBER},                  \
    {                                                                                                        \
        "p99_" unit, "p99 " unit, VALUE_NUMBER                                                               \
    }
enum { PASS_CELLS_SIZE = 256 };
const char *pass_cells(const struct statistics *statistics, double unit_us, int digits,
                       char cells[PASS_CELLS_SIZE]);

/* ---------------------------------------------------------------- network.c and units.c */

/* Each begins its table, and adds rows to it for the batch at hand. */
void bench_network_table(struct bench *bench);
int bench_network(struct bench *bench);
void bench_units_table(struct bench *bench);
int bench_units(struct bench *bench);

/* ---------------------------------------------------------------- linear.c */

/* `effnet bench linear`, argv[0] being "linear". */
int cmd_bench_linear(int argc, char **argv);

#endif
