/* The parts of `effnet classify`: options in classify.c, the run in classify_run.c, its files in
 * classify_files.c, what --stats says in classify_stats.c, class activation maps in classify_cam.c. */
#ifndef EFFNET_CLI_CLASSIFY_H
#define EFFNET_CLI_CLASSIFY_H

#include "cli/cli.h"
#include "cli/output.h"
#include "cli/part.h"
#include "cli/results.h"
#include "cli/resume.h"
#include "pipeline/walk.h"

/* Arrays that are written beside the results, a row a file. */
enum classify_array { ARRAY_LOGITS, ARRAY_EMBEDDINGS, ARRAYS };

struct classify_options {
    struct setup setup;
    struct walk_options inputs;
    int64_t top_k, batch_size;
    double threshold;
    bool top_k_given, threshold_given;
    const char *format, *scores, *shard, *decode;
    const char *output, *arrays[ARRAYS]; /* files, or NULL */
    const char *cam;                     /* a PNG or a folder, or NULL */
    bool no_header, resume, stats;
    struct effnet_image_options image;
};

int classify_run(const struct classify_options *options);

/* ---------------------------------------------------------------- classify_files.c */

enum { CLASSIFY_RUN_BYTES = RESUME_HEADER_BYTES / 2 };

/* What a run writes, and how far it has come. */
struct classify_files {
    struct output results, arrays[ARRAYS];
    int columns[ARRAYS];
    struct shard shard;
    bool parts;                   /* --shard was given: each output is a part (part.h) */
    char run[CLASSIFY_RUN_BYTES]; /* what its bytes depend on, lines of key=value */
    struct resume *resume;        /* NULL: it cannot go on where it broke off */
    struct resume_record record;  /* kept up by who prints */
    double noted_us;
};

/* Opens the outputs, and goes on with those of an earlier run where the options say so. All of these report
 * their failures. */
int classify_files_open(struct classify_files *files, const struct classify_options *options,
                        const effnet_model *model, int top_k);
/* A row of each array; of an item that failed, of NaN. */
int classify_files_add_rows(struct classify_files *files, const struct effnet_result *result);
/* After each item: what was written is passed on, and how far the run has come is noted, at once where `now`
 * says so, else from time to time. */
int classify_files_note(struct classify_files *files, bool now);
/* All items are done: the files get their names. `walk` has handed out all of them. */
int classify_files_finish(struct classify_files *files, const struct walk *walk);
/* Closes them. Unless `done`, what a later run can go on with is kept. */
void classify_files_close(struct classify_files *files, bool done);

/* ---------------------------------------------------------------- classify_stats.c */

enum { SLOWEST = 5 };

/* Where the time went, in microseconds. */
struct classify_stats {
    double before_main; /* processor time by then: loading libraries */
    double start;       /* when the rest began, by effnet_clock_us */
    double load_model, open_session, wait, print;
    struct slow_file {
        double read_us, decode_us, fit_us;
        char *name;
    } slowest[SLOWEST]; /* the slowest first */
};

void classify_stats_begin(struct classify_stats *stats);
void classify_stats_add(struct classify_stats *stats, const struct effnet_result *result);
/* Prints them on standard error. */
void classify_stats_print(const struct classify_stats *stats, const struct effnet_pipeline_stats *pipeline,
                          const struct resume_record *record);
void classify_stats_free(struct classify_stats *stats);

/* ---------------------------------------------------------------- classify_cam.c */

struct cam;

/* Whether --cam names a folder, which may not be there yet, and not one PNG. */
bool cam_is_folder(const char *path);
/* Makes the folder, and refuses what cannot be drawn or written. These report their failures. */
int cam_open(struct cam **cam, const struct classify_options *options, const effnet_model *model);
/* Draws the map of a class, from the result's feature map and crop. */
int cam_draw(struct cam *cam, const struct effnet_result *result, int class_index);
void cam_close(struct cam *cam);

#endif
