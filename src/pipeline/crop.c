/* From an item's bytes to its crop in a seat. */
#include "pipeline/pipeline.h"

#include "common/cpu.h"
#include "common/error.h"

#include <stdlib.h>
#include <string.h>

/* Whether a worker may have a decoder. While there is no session one stays back, if it is not the only one:
 * opening the session needs a processor, and all wait for that. */
static bool decoder_free(const struct effnet_pipeline *p)
{
    return p->idle_decoders > (p->lane_count || p->options.threads == 1 ? 0 : 1);
}

/* Waits for what it takes to decode: as many workers have it as may decode at once, so that no more images
 * than those are in memory. NULL: the pipeline stops. */
static struct image_workspace *begin_work(struct effnet_pipeline *p)
{
    struct image_workspace *decoder = NULL;
    pthread_mutex_lock(&p->lock);
    p->decoding++;
    while (!decoder_free(p) && !p->stop) pthread_cond_wait(&p->processor_free, &p->lock);
    if (!p->stop) decoder = p->decoders[--p->idle_decoders];
    pthread_mutex_unlock(&p->lock);
    return decoder;
}

/* Waits for a seat and takes it. NULL: the pipeline stops. */
static uint8_t *take_seat(struct effnet_pipeline *p, struct record *record, struct stage **stage)
{
    const double start_us = effnet_clock_us();
    uint8_t *seat = NULL;
    pthread_mutex_lock(&p->lock);
    while (!p->filling && !p->stop) {
        p->seats_wanted++;
        pthread_cond_broadcast(&p->submitter_wanted);
        pthread_cond_wait(&p->seat_free, &p->lock);
        p->seats_wanted--;
    }
    if (!p->stop) {
        struct stage *filling = p->filling;
        seat = filling->pixels + (size_t)filling->taken * p->crop_bytes;
        filling->records[filling->taken++] = record;
        *stage = filling;
        if (filling->taken == p->max_batch) { /* the submitter brings another one */
            p->filling = NULL;
            *filling->lane->last_full = filling;
            filling->lane->last_full = &filling->next;
            pthread_cond_broadcast(&p->submitter_wanted);
        }
    }
    p->stats.seat_wait_us += effnet_clock_us() - start_us;
    pthread_mutex_unlock(&p->lock);
    return seat;
}

/* While there is no session there are no seats either: memory for a crop until then, as far as it goes. NULL:
 * it takes a seat. */
static uint8_t *make_early(struct effnet_pipeline *p, struct record *record)
{
    pthread_mutex_lock(&p->lock);
    const bool may = !p->lane_count && p->early_left > 0;
    p->early_left -= may;
    pthread_mutex_unlock(&p->lock);
    if (may) record->early = malloc(p->crop_bytes);
    return record->early;
}

/* With the lock held: the crop waits for a seat in its turn. */
static void line_up(struct effnet_pipeline *p, struct record *record)
{
    record->next = NULL;
    *p->last_early = record;
    p->last_early = &record->next;
}

/* With the lock held: a crop is in the stage, or there is none; the stage may be complete, or as complete as
 * it gets. */
static void wake_submitter(struct effnet_pipeline *p, const struct stage *stage)
{
    if ((stage && (stage->filled == p->max_batch || stage->lane->status)) || p->decoding == 0)
        pthread_cond_broadcast(&p->submitter_wanted);
}

void effnet_pipeline_end_item(struct effnet_pipeline *p, struct record *record, struct stage *stage)
{
    const struct effnet_result *result = &record->result;
    p->stats.read_us += result->read_us;
    p->stats.decode_us += result->decode_us;
    p->stats.fit_us += result->fit_us;
    if (record->error.status) {
        free(record->early);
        record->early = NULL;
    }
    if (stage)
        stage->filled++;
    else if (record->early)
        line_up(p, record);
    else if (record->error.status)
        effnet_pipeline_finish(p, record);
    wake_submitter(p, stage);
}

/* After begin_work, whatever that returned. */
static void end_work(struct effnet_pipeline *p, struct image_workspace *decoder, struct record *record,
                     struct stage *stage)
{
    pthread_mutex_lock(&p->lock);
    p->decoding--;
    if (decoder) p->decoders[p->idle_decoders++] = decoder;
    pthread_cond_signal(&p->processor_free);
    effnet_pipeline_end_item(p, record, stage);
    pthread_mutex_unlock(&p->lock);
}

struct large {
    struct effnet_pipeline *pipeline;
    double waited_us;
    bool dropped;
};

/* A large image waits until the session is there with its threads: it could take the memory that these need.
 * False: the pipeline stops before. */
static bool pass_large(void *context)
{
    struct large *large = context;
    struct effnet_pipeline *p = large->pipeline;
    double since_us = effnet_clock_us();
    pthread_mutex_lock(&p->lock);
    while (!p->started && !p->stop) pthread_cond_wait(&p->large_done, &p->lock);
    large->dropped = !p->started;
    pthread_mutex_unlock(&p->lock);
    effnet_clock_lap(&since_us, &large->waited_us);
    return !large->dropped;
}

/* As image_workspace_decode; the record has no error where its image was dropped. */
static int decode(struct effnet_pipeline *p, struct image_workspace *decoder, struct record *record)
{
    struct large large = {.pipeline = p};
    const struct image_gate gate = {pass_large, &large};
    image_workspace_set_gate(decoder, &gate);
    const int status = image_workspace_decode(decoder, record->data, record->size_bytes, record->name,
                                              &p->options.image, p->preprocess, &record->error);
    image_workspace_set_gate(decoder, NULL);
    record->result.decode_us -= large.waited_us; /* whoever takes the time adds it */
    if (large.dropped) record->error = (struct effnet_error){0};
    return status;
}

void effnet_pipeline_decode_and_fit(struct effnet_pipeline *p, struct record *record,
                                    struct image_workspace *reader)
{
    struct stage *stage = NULL;
    struct effnet_result *result = &record->result;
    struct image_workspace *decoder = begin_work(p);
    if (decoder) {
        double since_us = effnet_clock_us(), waited_us = 0;
        if (!record->data) image_workspace_hand_over(reader, decoder);
        const int status = decode(p, decoder, record);
        effnet_clock_lap(&since_us, &result->decode_us);
        uint8_t *seat = status ? NULL : make_early(p, record);
        if (!status && !seat) seat = take_seat(p, record, &stage);
        effnet_clock_lap(&since_us, &waited_us);
        if (seat) {
            result->blank_without_alpha = image_workspace_decoded(decoder).blank_without_alpha;
            /* A crop that fails has a seat all the same: its pass computes what is there, for nobody. */
            image_workspace_fit(decoder, p->preprocess, seat, &record->error);
            memcpy(result->first_pixel, seat, sizeof result->first_pixel);
            effnet_clock_lap(&since_us, &result->fit_us);
        }
    }
    end_work(p, decoder, record, stage);
}

void effnet_pipeline_place_early(struct effnet_pipeline *p, struct record *record)
{
    struct stage *stage = NULL;
    uint8_t *early = record->early, *seat = take_seat(p, record, &stage);
    record->early = NULL;
    if (seat) memcpy(seat, early, p->crop_bytes);
    free(early);
    pthread_mutex_lock(&p->lock);
    p->decoding--;
    if (stage) stage->filled++;
    wake_submitter(p, stage);
    pthread_mutex_unlock(&p->lock);
}
