/* The sessions of a pipeline, each with its stages and threads: a lane. Seats come from one stage at a time,
 * whichever lane's, so that the lanes' passes are as full as those of one. */
#include "pipeline/pipeline.h"

#include "common/cpu.h"
#include "common/error.h"

#include <stdlib.h>
#include <string.h>

/* ---------------------------------------------------------------- opening and closing */

int effnet_pipeline_allocate_lane(struct lane *lane, struct effnet_error *error)
{
    const struct effnet_pipeline *p = lane->pipeline;
    const size_t batch = (size_t)p->max_batch, logits = (size_t)p->classes * sizeof(float);
    const size_t features = (size_t)p->feature_count * sizeof(float);
    lane->last_full = &lane->full;
    lane->last_submitted = &lane->submitted;
    lane->batch_logits = malloc(batch * logits);
    lane->seat_records = calloc(BACKEND_STAGES * batch, sizeof(struct record *));
    if (features) lane->batch_features = malloc(batch * features);
    if (!lane->batch_logits || !lane->seat_records || (features && !lane->batch_features))
        return effnet_fail_nomem(error, "the pipeline's results", batch * (logits + features));
    for (int i = 0; i < BACKEND_STAGES; i++) {
        lane->stages[i].lane = lane;
        lane->stages[i].records = lane->seat_records + (size_t)i * batch;
        lane->stages[i].next = lane->free_stages;
        lane->free_stages = &lane->stages[i];
    }
    return EFFNET_OK;
}

/* So that the session can be used again. */
static void return_stages(struct lane *lane)
{
    int images = 1;
    while (images && lane->batch_logits) /* one that fails is over, too */
        effnet_session_collect(lane->session, lane->batch_logits, &images, NULL);
    for (int i = 0; i < BACKEND_STAGES; i++)
        if (lane->stages[i].pixels) effnet_session_submit(lane->session, lane->stages[i].pixels, 0, NULL);
}

void effnet_pipeline_close_lane(struct lane *lane)
{
    if (lane->submitter_runs) pthread_join(lane->submitter, NULL);
    if (lane->collector_runs) pthread_join(lane->collector, NULL);
    effnet_pipeline_close_decoder(lane);
    if (lane->session) return_stages(lane);
}

/* ---------------------------------------------------------------- failing */

void effnet_pipeline_fail_lane(struct lane *lane, const struct effnet_error *failure)
{
    struct effnet_pipeline *p = lane->pipeline;
    if (lane->status) return;
    lane->status = failure->status;
    lane->error = *failure;
    if (--p->lanes_alive == 0) effnet_pipeline_fail(p, failure);
    pthread_cond_broadcast(&p->submitter_wanted);
    pthread_cond_broadcast(&p->pass_submitted);
    pthread_cond_broadcast(&lane->encoded.changed);
}

/* The lane's stages with images, in a list: none gives seats any more, no thread uses them, and every crop is
 * in its seat. NULL: there are none, or the pipeline stops. With the lock held. */
static struct stage *take_stages(struct lane *lane)
{
    struct effnet_pipeline *p = lane->pipeline;
    struct stage *all = NULL, *next;
    if (p->filling && p->filling->lane == lane) {
        *lane->last_full = p->filling;
        p->filling = NULL;
        pthread_cond_broadcast(&p->submitter_wanted);
    }
    while (!p->stop && (!lane->collector_ended || (lane->encoded.runs && !lane->encoded.ended)))
        pthread_cond_wait(&p->submitter_wanted, &p->lock);
    if (lane->in_flight && (p->in_flight -= lane->in_flight) == 0)
        p->stats.device_us += effnet_clock_us() - p->device_since_us;
    lane->in_flight = 0;
    *lane->last_submitted = lane->full;
    lane->full = NULL;
    for (struct stage *stage = lane->submitted; stage && !p->stop; stage = next) {
        next = stage->next;
        while (stage->filled < stage->taken && !p->stop) pthread_cond_wait(&p->submitter_wanted, &p->lock);
        stage->next = all;
        all = stage;
    }
    lane->submitted = NULL;
    return p->stop ? NULL : all;
}

/* An image in a seat of the lane goes to another lane's. */
static void move(struct effnet_pipeline *p, struct record *record, const uint8_t *crop)
{
    if (!record->error.status) {
        record->early = malloc(p->crop_bytes);
        if (!record->early) effnet_fail_nomem(&record->error, "a crop", p->crop_bytes);
    }
    if (record->error.status) {
        pthread_mutex_lock(&p->lock);
        effnet_pipeline_finish(p, record);
        pthread_mutex_unlock(&p->lock);
        return;
    }
    memcpy(record->early, crop, p->crop_bytes);
    pthread_mutex_lock(&p->lock);
    p->decoding++;
    pthread_mutex_unlock(&p->lock);
    effnet_pipeline_place_early(p, record);
}

/* What the device has decoded, or was to, is read again: its crops are gone with it. */
static void do_again(struct effnet_pipeline *p, struct record *record)
{
    struct image_workspace *reader = image_workspace_open();
    if (!reader) effnet_fail_nomem(&record->error, "a thread that reads", 0);
    effnet_pipeline_do_item(p, record, reader);
    if (reader) image_workspace_close(reader);
}

void effnet_pipeline_rescue(struct lane *lane)
{
    struct effnet_pipeline *p = lane->pipeline;
    pthread_mutex_lock(&p->lock);
    struct stage *stages = p->stop ? NULL : take_stages(lane);
    struct record *encoded = p->stop ? NULL : effnet_pipeline_take_back_encoded(lane), *next;
    pthread_mutex_unlock(&p->lock);
    for (; encoded; encoded = next) {
        next = encoded->next;
        do_again(p, encoded);
    }
    for (; stages; stages = stages->next) {
        for (int i = 0; i < stages->taken; i++) {
            if (stages->decoded)
                do_again(p, stages->records[i]);
            else
                move(p, stages->records[i], stages->pixels + (size_t)i * p->crop_bytes);
        }
    }
}
