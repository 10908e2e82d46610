/* The stages of a session: who has which, and in what order passes were submitted. */
#ifndef EFFNET_BACKEND_STAGES_H
#define EFFNET_BACKEND_STAGES_H

#include "backend/backend.h"

#include <pthread.h>

struct stages {
    const struct backend *backend;
    struct backend_state *state;
    size_t pixel_bytes; /* of a stage */

    pthread_mutex_t lock; /* guards what follows; not held during a call of the backend */
    struct {
        uint8_t *pixels; /* NULL: not allocated yet */
        bool own;        /* malloc's, not the backend's */
        bool busy;       /* handed out, or submitted */
        int images;      /* of the pass; 0: not submitted */
    } stage[BACKEND_STAGES];
    int queue[BACKEND_STAGES]; /* submitted stages; a ring */
    int first, count;          /* the oldest one's place in it, and how many there are */
};

void effnet_stages_open(struct stages *stages, const struct backend *backend, struct backend_state *state,
                        size_t pixel_bytes);
void effnet_stages_close(struct stages *stages);
/* Whether any is handed out or submitted. */
bool effnet_stages_busy(struct stages *stages);
/* As their namesakes of effnet.h; n is at most the session's batch. `decoded`: the images are those that the
 * backend has decoded last, not what is in the stage. */
int effnet_stages_take(struct stages *stages, uint8_t **pixels, struct effnet_error *error);
int effnet_stages_submit(struct stages *stages, const uint8_t *pixels, int n, bool decoded,
                         struct effnet_error *error);
/* features NULL: they are not wanted. keep_failed: the stage of a pass that fails stays handed out. */
int effnet_stages_collect(struct stages *stages, float *logits, float *features, bool keep_failed, int *n,
                          struct effnet_error *error);

#endif
