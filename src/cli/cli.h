/* What the subcommands share. Convention below main: a function that can fail says so on standard error
 * itself, in one line, and returns a negative enum effnet_status, which main turns into an exit status. */
#ifndef EFFNET_CLI_CLI_H
#define EFFNET_CLI_CLI_H

#include "cli/args.h"
#include "common/error.h"
#include "effnet.h"

#include <limits.h>
#include <stdio.h>

/* A subcommand returns EFFNET_OK, a negative enum effnet_status, or CLI_MISS: it ran, and what it checked
 * is not as it should be. */
enum { CLI_MISS = 1 };

int cmd_classify(int argc, char **argv);
int cmd_merge(int argc, char **argv);
int cmd_info(int argc, char **argv);
int cmd_verify(int argc, char **argv);
int cmd_bench(int argc, char **argv);
int cmd_evaluate(int argc, char **argv);
int cmd_tune(int argc, char **argv);
int cmd_quantize(int argc, char **argv);

/* ---------------------------------------------------------------- status.c */

/* The exit status for what a subcommand returned, in the style of sysexits.h. */
int cli_exit_status(int status);
/* The table of exit statuses, as --help shows it. */
void cli_print_exit_statuses(FILE *out);

/* Prints "effnet: " and the message (printf style) on standard error, and returns status. */
int cli_fail(int status, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* The same for an error of the library; returns its status. */
int cli_fail_library(const struct effnet_error *error);
/* Out of memory while doing `what`. */
int cli_fail_nomem(const char *what);
/* A line on standard error that is no error. */
void cli_notice(const char *message);
/* Flushes standard output; a failure of this or an earlier write is EFFNET_E_OUTPUT, reported once. */
int cli_flush_output(void);
/* Right after printing, while errno still tells the reason: whether a write has failed, as above. */
int cli_check_output(void);
/* Ends the process at once with the exit status for `status`, for when a thread may be blocked in a read
 * that never ends, or busy for long. What standard output still buffers is lost. */
_Noreturn void cli_exit_now(int status);

/* ---------------------------------------------------------------- terminal.c */

/* Escape sequences for a stream, or empty strings where it is no terminal, TERM is "dumb" or NO_COLOR is
 * set. */
struct style {
    const char *bold, *dim, *good, *bad, *reset;
};
struct style style_for(FILE *stream);

/* A line on standard error that overwrites itself, while standard error is a terminal and standard output
 * is not; else nothing. cli_fail and cli_notice clear it. */
void progress_show(const char *what, int64_t done, int64_t total);
/* The same with images a second and, where it is known how much is left, the time that will take. */
struct pace {
    double start_us;           /* by effnet_clock_us */
    int64_t done, done_before; /* images so far; those of them that were done at the start */
    int64_t total;             /* below 0: not known */
    double part, part_before;  /* what part of all that is, from 0 to 1; below 0: not known */
};
void progress_show_rate(const char *what, const struct pace *pace);
void progress_clear(void);

/* ---------------------------------------------------------------- setup.c */

/* The options of every subcommand that opens a model or a session. */
struct setup {
    const char *model, *device, *precision, *plan;
    int64_t threads;
    bool quiet;
    enum effnet_features features; /* of a session; what the command wants, and no option */
};
/* args_parse with a command's own options and these. Where plan_given is not NULL, --plan needs no argument
 * and sets it. */
int setup_parse(const struct command_help *help, const struct option_spec *options, int count,
                struct setup *setup, bool *plan_given, int argc, char **argv);

/* Rows of an option table, for commands that take image files: how many go through the network at a time
 * (int64_t *batch_size; 0: not given) and how they are read (struct effnet_image_options *image). */
enum {
    IMAGE_BATCH_DEFAULT = 32, /* past this a bigger batch is hardly faster, and results come later */
    IMAGE_BATCH_MAX = 4096,
};
#define IMAGE_OPTIONS(batch_size, image)                                                                     \
    INTEGER('b', "batch-size", "N",                                                                          \
            "images a pass through the network\n(default: as many as there are, at most 32)", batch_size, 1, \
            IMAGE_BATCH_MAX),                                                                                \
        INTEGER(0, "max-pixels", "N", "refuse an image of more pixels (default 178956970)",                  \
                &(image)->max_pixels, 1, INT_MAX),                                                           \
        FLAG(0, "ignore-exif", "ignore the orientation in EXIF and XMP data", &(image)->ignore_exif),        \
        OPTION_SPEC(0, "background", "COLOUR",                                                               \
                    "lay transparent pixels over a colour: #rgb, #rrggbb, or a name such as\n"               \
                    "white or grey (default: ignore transparency)",                                          \
                    OPTION_COLOUR, uint8_t, (image)->background, 0, 0, &(image)->has_background)
/* What decodes them (const char **decode, "cpu" before). */
#define DECODE_OPTION(decode)                                                                                \
    CHOICE(0, "decode", "cpu|gpu",                                                                           \
           "what decodes; gpu: a GPU's JPEG engines beside the CPU, with pixels that\n"                      \
           "differ by rounding (default cpu)",                                                               \
           decode)

/* Finds the weights file (-m, EFFNET_MODEL, the build's and the installed folder) and opens it. */
int setup_open_model(const struct setup *setup, effnet_model **out);
/* What the options say of a session for up to max_batch images. */
struct effnet_session_options setup_session_options(const struct setup *setup, int max_batch);
/* Opens a session for up to max_batch images; passes its notice on unless quiet. */
int setup_open_session(const struct setup *setup, const effnet_model *model, int max_batch,
                       effnet_session **out);
/* What --threads and DECODE_OPTION's word say of a pipeline. */
struct effnet_pipeline_options setup_pipeline_options(const struct setup *setup, const char *decode);
/* How many threads to share work out to: --threads, else as many as the process may use. */
int setup_threads(const struct setup *setup);

#endif
