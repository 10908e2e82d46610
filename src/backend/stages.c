#include "backend/stages.h"

#include "common/error.h"

#include <stdlib.h>

void effnet_stages_open(struct stages *stages, const struct backend *backend, struct backend_state *state,
                        size_t pixel_bytes)
{
    *stages = (struct stages){.backend = backend, .state = state, .pixel_bytes = pixel_bytes};
    pthread_mutex_init(&stages->lock, NULL);
}

void effnet_stages_close(struct stages *stages)
{
    for (int i = 0; i < BACKEND_STAGES; i++)
        if (stages->stage[i].own) free(stages->stage[i].pixels);
    pthread_mutex_destroy(&stages->lock);
}

bool effnet_stages_busy(struct stages *stages)
{
    bool busy = false;
    pthread_mutex_lock(&stages->lock);
    for (int i = 0; i < BACKEND_STAGES; i++) busy |= stages->stage[i].busy;
    pthread_mutex_unlock(&stages->lock);
    return busy;
}

static void set_busy(struct stages *stages, int index, bool busy)
{
    pthread_mutex_lock(&stages->lock);
    stages->stage[index].busy = busy;
    stages->stage[index].images = 0;
    pthread_mutex_unlock(&stages->lock);
}

static int allocate(struct stages *stages, int index, struct effnet_error *error)
{
    if (stages->backend->stage)
        return stages->backend->stage(stages->state, index, &stages->stage[index].pixels, error);
    uint8_t *pixels = malloc(stages->pixel_bytes);
    if (!pixels) return effnet_fail_nomem(error, "a batch's pixels", stages->pixel_bytes);
    stages->stage[index].pixels = pixels;
    stages->stage[index].own = true;
    return EFFNET_OK;
}

int effnet_stages_take(struct stages *stages, uint8_t **pixels, struct effnet_error *error)
{
    int index = 0;
    pthread_mutex_lock(&stages->lock);
    while (index < BACKEND_STAGES && stages->stage[index].busy) index++;
    if (index < BACKEND_STAGES) stages->stage[index].busy = true;
    pthread_mutex_unlock(&stages->lock);
    *pixels = NULL;
    if (index == BACKEND_STAGES) return EFFNET_OK;
    const int status = stages->stage[index].pixels ? EFFNET_OK : allocate(stages, index, error);
    if (status)
        set_busy(stages, index, false);
    else
        *pixels = stages->stage[index].pixels;
    return status;
}

/* The stage that `pixels` begins and that is handed out; -1: none. */
static int find(struct stages *stages, const uint8_t *pixels)
{
    int found = -1;
    pthread_mutex_lock(&stages->lock);
    for (int i = 0; i < BACKEND_STAGES; i++)
        if (stages->stage[i].busy && !stages->stage[i].images && stages->stage[i].pixels == pixels) found = i;
    pthread_mutex_unlock(&stages->lock);
    return found;
}

int effnet_stages_submit(struct stages *stages, const uint8_t *pixels, int n, bool decoded,
                         struct effnet_error *error)
{
    const struct backend *backend = stages->backend;
    const int index = find(stages, pixels);
    if (index < 0)
        return effnet_fail(error, EFFNET_E_USAGE, "submit: these pixels are no stage that was handed out");
    if (n == 0) {
        set_busy(stages, index, false);
        return EFFNET_OK;
    }
    if (decoded)
        EFFNET_TRY(backend->start_decoded(stages->state, index, n, error));
    else if (backend->start)
        EFFNET_TRY(backend->start(stages->state, index, n, error));
    pthread_mutex_lock(&stages->lock);
    stages->stage[index].images = n;
    stages->queue[(stages->first + stages->count++) % BACKEND_STAGES] = index;
    pthread_mutex_unlock(&stages->lock);
    return EFFNET_OK;
}

int effnet_stages_collect(struct stages *stages, float *logits, float *features, bool keep_failed, int *n,
                          struct effnet_error *error)
{
    pthread_mutex_lock(&stages->lock);
    const int index = stages->count ? stages->queue[stages->first] : -1;
    *n = index < 0 ? 0 : stages->stage[index].images;
    pthread_mutex_unlock(&stages->lock);
    if (index < 0) return EFFNET_OK;
    const int status = stages->backend->finish
                           ? stages->backend->finish(stages->state, index, logits, features, error)
                           : stages->backend->run(stages->state, stages->stage[index].pixels, *n, logits,
                                                  features, error);
    pthread_mutex_lock(&stages->lock);
    stages->first = (stages->first + 1) % BACKEND_STAGES;
    stages->count--;
    pthread_mutex_unlock(&stages->lock);
    set_busy(stages, index, status && keep_failed);
    return status;
}
