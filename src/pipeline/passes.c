/* The two threads that use a session: so that a stage is submitted as soon as it is full, whatever the
 * device is doing, and logits are handed out as soon as they are there. */
#include "pipeline/pipeline.h"

#include "common/cpu.h"
#include "common/error.h"
#include "common/thread.h"

#include <string.h>
#include <time.h>

/* How long a batch that could take more images waits for them while the device has nothing to do and nobody
 * decodes. */
enum { PATIENCE_NS = 5000000 };

/* ---------------------------------------------------------------- submitting */

/* Whether the stage that gives seats is the lane's and should go as it is: its images would wait for ones
 * that may take long. */
static bool is_stuck(const struct lane *lane)
{
    const struct effnet_pipeline *p = lane->pipeline;
    const struct stage *stage = p->filling;
    return stage && stage->lane == lane && stage->taken > 0 && stage->filled == stage->taken &&
           p->decoding == 0 && !p->first_early && !lane->in_flight && !lane->full;
}

/* Whether seats are wanted, and the lane has the least to do of those that could bring some. */
static bool is_to_bring(const struct lane *lane)
{
    const struct effnet_pipeline *p = lane->pipeline;
    if (p->filling || p->bringing || !p->seats_wanted || !lane->free_stages) return false;
    for (int i = 0; i < p->lane_count; i++)
        if (!p->lanes[i].status && p->lanes[i].stages_used < lane->stages_used) return false;
    return true;
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

/* A stage to submit, or NULL: first there are decoded images to submit (lane->encoded.submit), or seats to
 * bring, or there is an end. */
static struct stage *wait_for_stage(struct lane *lane)
{
    struct effnet_pipeline *p = lane->pipeline;
    bool waited = false;
    while (!p->stop && !lane->status) {
        struct stage *stage = lane->full;
        if (stage && stage->filled == p->max_batch) {
            lane->full = stage->next;
            if (!lane->full) lane->last_full = &lane->full;
            return stage;
        }
        if (is_to_bring(lane) || (lane->encoded.submit && lane->free_stages)) return NULL;
        if (is_stuck(lane) && (waited || p->source_ended)) {
            stage = p->filling;
            p->filling = NULL;
            return stage;
        }
        waited = is_stuck(lane);
        if (waited)
            wait_patiently(p);
        else
            pthread_cond_wait(&p->submitter_wanted, &p->lock);
    }
    return NULL;
}

static void submit(struct lane *lane, struct stage *stage)
{
    struct effnet_pipeline *p = lane->pipeline;
    struct effnet_error error;
    stage->next = NULL;
    *lane->last_submitted = stage;
    lane->last_submitted = &stage->next;
    pthread_mutex_unlock(&p->lock);
    const int status = (stage->decoded ? effnet_session_submit_decoded : effnet_session_submit)(
        lane->session, stage->pixels, stage->taken, &error);
    pthread_mutex_lock(&p->lock);
    if (status) {
        effnet_pipeline_fail_lane(lane, &error);
        return;
    }
    lane->in_flight++;
    if (p->in_flight++ == 0) p->device_since_us = effnet_clock_us();
    p->stats.passes++;
    pthread_cond_broadcast(&p->pass_submitted);
}

/* A free stage, of which there is one; NULL: that failed. */
static struct stage *open_stage(struct lane *lane)
{
    struct effnet_pipeline *p = lane->pipeline;
    struct effnet_error error;
    uint8_t *pixels;
    pthread_mutex_unlock(&p->lock);
    const int status = effnet_session_stage(lane->session, &pixels, &error);
    pthread_mutex_lock(&p->lock);
    if (!status && !pixels)
        effnet_fail(&error, EFFNET_E_USAGE, "pipeline: the session's stages are in use elsewhere");
    if (!pixels) {
        effnet_pipeline_fail_lane(lane, &error);
        return NULL;
    }
    struct stage *stage = lane->free_stages;
    lane->free_stages = stage->next;
    lane->stages_used++;
    stage->next = NULL;
    stage->pixels = pixels;
    stage->taken = stage->filled = 0;
    stage->decoded = false;
    return stage;
}

/* The next stage's seats are there. */
static void bring_seats(struct lane *lane)
{
    struct effnet_pipeline *p = lane->pipeline;
    p->bringing = true;
    struct stage *stage = open_stage(lane);
    p->bringing = false;
    if (!stage) {
        pthread_cond_broadcast(&p->submitter_wanted); /* another lane is to bring some */
        return;
    }
    p->filling = stage;
    pthread_cond_broadcast(&p->seat_free);
}

/* What the device has decoded goes through the network; it may decode the next then. */
static void submit_decoded(struct lane *lane)
{
    struct encoded *encoded = &lane->encoded;
    struct stage *stage = open_stage(lane);
    if (!stage) return;
    stage->decoded = true;
    stage->taken = stage->filled = encoded->submit;
    memcpy(stage->records, encoded->records, (size_t)stage->taken * sizeof *stage->records);
    submit(lane, stage);
    encoded->submit = 0;
    pthread_cond_broadcast(&encoded->changed);
}

static void *submit_all(void *argument)
{
    struct lane *lane = argument;
    struct effnet_pipeline *p = lane->pipeline;
    pthread_mutex_lock(&p->lock);
    while (!p->stop && !lane->status) {
        struct stage *stage = wait_for_stage(lane);
        if (stage)
            submit(lane, stage);
        else if (!p->stop && !lane->status && lane->encoded.submit && lane->free_stages)
            submit_decoded(lane);
        else if (!p->stop && !lane->status)
            bring_seats(lane);
    }
    pthread_mutex_unlock(&p->lock);
    effnet_pipeline_rescue(lane);
    return NULL;
}

/* ---------------------------------------------------------------- collecting */

/* What the oldest pass gave goes to the records of its images. */
static void hand_results(const struct lane *lane, struct stage *stage)
{
    struct effnet_pipeline *p = lane->pipeline;
    const size_t classes = (size_t)p->classes, features = (size_t)p->feature_count;
    for (int i = 0; i < stage->taken; i++) {
        struct record *record = stage->records[i];
        if (!record->error.status) {
            memcpy(record->logits, lane->batch_logits + (size_t)i * classes,
                   classes * sizeof *record->logits);
            record->result.logits = record->logits;
            if (features)
                memcpy(record->features, lane->batch_features + (size_t)i * features,
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

static void collect(struct lane *lane)
{
    struct effnet_pipeline *p = lane->pipeline;
    struct effnet_error error;
    int images;
    struct stage *stage = lane->submitted;
    pthread_mutex_unlock(&p->lock);
    if (p->crops) keep_crops(p, stage);
    const int status = effnet_session_collect_or_keep(lane->session, lane->batch_logits, lane->batch_features,
                                                      &images, &error);
    pthread_mutex_lock(&p->lock);
    lane->in_flight--;
    if (--p->in_flight == 0) p->stats.device_us += effnet_clock_us() - p->device_since_us;
    if (status) {
        effnet_pipeline_fail_lane(lane, &error);
        return;
    }
    lane->submitted = stage->next;
    if (!lane->submitted) lane->last_submitted = &lane->submitted;
    hand_results(lane, stage);
    stage->next = lane->free_stages;
    lane->free_stages = stage;
    lane->stages_used--;
    pthread_cond_broadcast(&p->submitter_wanted); /* a stage is free, and the device perhaps */
}

static void *collect_all(void *argument)
{
    struct lane *lane = argument;
    struct effnet_pipeline *p = lane->pipeline;
    pthread_mutex_lock(&p->lock);
    for (;;) {
        while (!p->stop && !lane->status && !lane->in_flight) pthread_cond_wait(&p->pass_submitted, &p->lock);
        if (p->stop || lane->status) break;
        collect(lane);
    }
    lane->collector_ended = true;
    pthread_cond_broadcast(&p->submitter_wanted);
    pthread_mutex_unlock(&p->lock);
    return NULL;
}

/* ---------------------------------------------------------------- starting */

int effnet_pipeline_start_lane(struct lane *lane, struct effnet_error *error)
{
    if (lane->pipeline->options.decode_gpu && !lane->encoded.runs)
        EFFNET_TRY(effnet_pipeline_open_decoder(lane, error));
    lane->submitter_runs = !effnet_thread_start(&lane->submitter, submit_all, lane);
    lane->collector_runs = !effnet_thread_start(&lane->collector, collect_all, lane);
    if (lane->submitter_runs && lane->collector_runs) return EFFNET_OK;
    return effnet_fail(error, EFFNET_E_NOMEM, "pipeline: the system gives no thread");
}
