/* The two threads that use the session: so that a stage is submitted as soon as it is full, whatever the
 * device is doing, and logits are handed out as soon as they are there. */
#include "pipeline/pipeline.h"

#include "common/cpu.h"
#include "common/error.h"

#include <string.h>
#include <time.h>

/* How long a batch that could take more images waits for them while the device has nothing to do and nobody
 * decodes. */
enum { PATIENCE_NS = 5000000 };

/* ---------------------------------------------------------------- submitting */

/* Whether the stage that gives seats should go as it is: its images would wait for ones that may take long.
 */
static bool is_stuck(const struct effnet_pipeline *p)
{
    const struct stage *stage = p->filling;
    return stage && stage->taken > 0 && stage->filled == stage->taken && p->decoding == 0 &&
           !p->first_early && !p->in_flight && !p->full;
}

static void wait_patiently(struct effnet_pipeline *p)
{
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_nsec += PATIENCE_NS;
    if (until.tv_nsec >= 1000000000) {
        until.tv_sec++;
        until.tv_nsec -= 1000000000;
    }
    pthread_cond_timedwait(&p->submitter_wanted, &p->lock, &until);
}

/* A stage to submit, or NULL: first there are decoded images to submit (p->encoded.submit), or seats to bring
 * (p->filling is NULL and some are wanted), or there is an end. */
static struct stage *wait_for_stage(struct effnet_pipeline *p)
{
    bool waited = false;
    while (!p->stop) {
        struct stage *stage = p->full;
        if (stage && stage->filled == p->max_batch) {
            p->full = stage->next;
            if (!p->full) p->last_full = &p->full;
            return stage;
        }
        if (((!p->filling && p->seats_wanted) || p->encoded.submit) && p->free_stages) return NULL;
        if (is_stuck(p) && (waited || p->source_ended)) {
            stage = p->filling;
            p->filling = NULL;
            return stage;
        }
        waited = is_stuck(p);
        if (waited)
            wait_patiently(p);
        else
            pthread_cond_wait(&p->submitter_wanted, &p->lock);
    }
    return NULL;
}

static void submit(struct effnet_pipeline *p, struct stage *stage)
{
    struct effnet_error error;
    stage->next = NULL;
    *p->last_submitted = stage;
    p->last_submitted = &stage->next;
    pthread_mutex_unlock(&p->lock);
    const int status = (stage->decoded ? effnet_session_submit_decoded : effnet_session_submit)(
        p->session, stage->pixels, stage->taken, &error);
    pthread_mutex_lock(&p->lock);
    if (status) {
        effnet_pipeline_fail(p, &error);
        return;
    }
    if (p->in_flight++ == 0) p->device_since_us = effnet_clock_us();
    p->stats.passes++;
    pthread_cond_signal(&p->pass_submitted);
}

/* A free stage, of which there is one; NULL: that failed. */
static struct stage *open_stage(struct effnet_pipeline *p)
{
    struct effnet_error error;
    uint8_t *pixels;
    pthread_mutex_unlock(&p->lock);
    const int status = effnet_session_stage(p->session, &pixels, &error);
    pthread_mutex_lock(&p->lock);
    if (!status && !pixels)
        effnet_fail(&error, EFFNET_E_USAGE, "pipeline: the session's stages are in use elsewhere");
    if (!pixels) {
        effnet_pipeline_fail(p, &error);
        return NULL;
    }
    struct stage *stage = p->free_stages;
    p->free_stages = stage->next;
    stage->next = NULL;
    stage->pixels = pixels;
    stage->taken = stage->filled = 0;
    stage->decoded = false;
    return stage;
}

/* The next stage's seats are there. */
static void bring_seats(struct effnet_pipeline *p)
{
    p->filling = open_stage(p);
    if (p->filling) pthread_cond_broadcast(&p->seat_free);
}

/* What the device has decoded goes through the network; it may decode the next then. */
static void submit_decoded(struct effnet_pipeline *p)
{
    struct stage *stage = open_stage(p);
    if (!stage) return;
    stage->decoded = true;
    stage->taken = stage->filled = p->encoded.submit;
    memcpy(stage->records, p->encoded.records, (size_t)stage->taken * sizeof *stage->records);
    submit(p, stage);
    p->encoded.submit = 0;
    pthread_cond_broadcast(&p->encoded.changed);
}

void *effnet_pipeline_submit(void *argument)
{
    struct effnet_pipeline *p = argument;
    pthread_mutex_lock(&p->lock);
    while (!p->stop) {
        struct stage *stage = wait_for_stage(p);
        if (stage)
            submit(p, stage);
        else if (!p->stop && p->encoded.submit)
            submit_decoded(p);
        else if (!p->stop)
            bring_seats(p);
    }
    pthread_mutex_unlock(&p->lock);
    return NULL;
}

/* ---------------------------------------------------------------- collecting */

/* What the oldest pass gave goes to the records of its images. */
static void hand_results(struct effnet_pipeline *p, struct stage *stage)
{
    const size_t classes = (size_t)p->classes, features = (size_t)p->feature_count;
    for (int i = 0; i < stage->taken; i++) {
        struct record *record = stage->records[i];
        if (!record->error.status) {
            memcpy(record->logits, p->batch_logits + (size_t)i * classes, classes * sizeof *record->logits);
            record->result.logits = record->logits;
            if (features)
                memcpy(record->features, p->batch_features + (size_t)i * features,
                       features * sizeof *record->features);
            record->result.features = record->features;
            record->result.crop = record->crop;
        }
        effnet_pipeline_finish(p, record);
    }
}

/* While the stage is not collected yet: then others may write to it. */
static void keep_crops(const struct effnet_pipeline *p, const struct stage *stage)
{
    for (int i = 0; i < stage->taken; i++)
        memcpy(stage->records[i]->crop, stage->pixels + (size_t)i * p->crop_bytes, p->crop_bytes);
}

static void collect(struct effnet_pipeline *p)
{
    struct effnet_error error;
    int images;
    struct stage *stage = p->submitted;
    pthread_mutex_unlock(&p->lock);
    if (p->crops) keep_crops(p, stage);
    const int status = p->feature_count
                           ? effnet_session_collect_features(p->session, p->batch_logits, p->batch_features,
                                                             &images, &error)
                           : effnet_session_collect(p->session, p->batch_logits, &images, &error);
    pthread_mutex_lock(&p->lock);
    if (--p->in_flight == 0) p->stats.device_us += effnet_clock_us() - p->device_since_us;
    if (status) {
        effnet_pipeline_fail(p, &error);
        return;
    }
    p->submitted = stage->next;
    if (!p->submitted) p->last_submitted = &p->submitted;
    hand_results(p, stage);
    stage->next = p->free_stages;
    p->free_stages = stage;
    pthread_cond_signal(&p->submitter_wanted); /* a stage is free, and the device perhaps */
}

void *effnet_pipeline_collect(void *argument)
{
    struct effnet_pipeline *p = argument;
    pthread_mutex_lock(&p->lock);
    for (;;) {
        while (!p->stop && !p->in_flight) pthread_cond_wait(&p->pass_submitted, &p->lock);
        if (p->stop) break;
        collect(p);
    }
    pthread_mutex_unlock(&p->lock);
    return NULL;
}
