/* One or two sessions that run over the same images side by side. Each has a pipeline of its own, and their
 * results are taken in step, so that memory does not grow with the number of logits. Functions report their
 * own failures. */
#ifndef EFFNET_CLI_EVALUATE_SIDES_H
#define EFFNET_CLI_EVALUATE_SIDES_H

#include "cli/cli.h"
#include "cli/evaluate/dataset.h"

struct side {
    const struct dataset *dataset;
    int64_t next; /* image that the pipeline takes next */
    effnet_session *session;
    effnet_pipeline *pipeline;
};

/* Starts zeroed, but for the first two, and stays where it is: pipelines keep pointers into it. */
struct sides {
    const struct dataset *dataset;
    struct effnet_image_options image;
    struct side side[2];
    int count;
    int64_t failed;    /* images that could not be read */
    int first_failure; /* the first one's status; EFFNET_OK: none failed */
    int64_t blank;     /* images of one colour without their alpha */
};

/* Opens the next one: a session for `batch_size` images, or for the usual number where that is 0, of a model
 * that must outlive it; `decode` is DECODE_OPTION's word. */
int sides_add(struct sides *sides, const effnet_model *model, const struct setup *setup, const char *decode,
              int64_t batch_size);

/* Goes through all images. `take` gets each image's results [sides->count]; one that could not be read is
 * reported and counted instead. `what` is the command's name, which stands before the progress. */
int sides_run(struct sides *sides, const char *what, bool quiet,
              void (*take)(void *context, int64_t image, const struct effnet_result *const *results),
              void *context);

/* After a failure of either: ends the process with its status where a pipeline is open, since a worker may be
 * waiting for ever, for a pipe that a CSV names. */
void sides_give_up(const struct sides *sides, int status);

/* Takes zeroed ones. */
void sides_close(struct sides *sides);

#endif
