/* Items that a session's device decodes. Workers put what it accepts into a queue while there is room, and
 * do the rest themselves; a thread takes a batch from it, has it decoded and waits until the submitter has
 * started a pass over it. A batch that fails goes the workers' way, on this thread. */
#include "pipeline/pipeline.h"

#include "common/cpu.h"
#include "common/error.h"
#include "common/thread.h"

#include <stdlib.h>
#include <string.h>

enum {
    BATCHES_WAITING = 2,
    MOST_BYTES = 64 << 20, /* of files in memory; one more goes beyond it */
};

/* ---------------------------------------------------------------- the workers' side */

/* With the lock held. */
static bool has_room(const struct lane *lane)
{
    const struct encoded *encoded = &lane->encoded;
    return encoded->ready && !lane->status && !lane->pipeline->stop &&
           encoded->waiting < BATCHES_WAITING * encoded->batch && encoded->bytes < MOST_BYTES;
}

/* The lane with the shortest queue, of those with room; NULL: there is none. */
static struct lane *find_room(struct effnet_pipeline *p)
{
    struct lane *found = NULL;
    pthread_mutex_lock(&p->lock);
    for (int i = 0; i < p->lane_count; i++) {
        struct lane *lane = &p->lanes[i];
        if (has_room(lane) && (!found || lane->encoded.waiting < found->encoded.waiting)) found = lane;
    }
    pthread_mutex_unlock(&p->lock);
    return found;
}

/* The decoder refers to the item's bytes, or to a copy of the file's. */
static bool accept(const struct lane *lane, struct record *record, const struct image_workspace *reader)
{
    const void *data = record->data;
    size_t size_bytes = record->size_bytes;
    if (!data && (!strcmp(record->name, "-") || !image_workspace_bytes(reader, &data, &size_bytes)))
        return false;
    struct backend_jpeg *jpeg = &record->jpeg;
    if (!effnet_session_accepts(lane->session, data, size_bytes, jpeg)) return false;
    if ((int64_t)jpeg->width * jpeg->height > lane->pipeline->options.image.max_pixels) return false;
    if (record->data) return true;
    record->copy = malloc(size_bytes);
    if (!record->copy) return false;
    memcpy(record->copy, data, size_bytes);
    jpeg->data = record->copy;
    return true;
}

bool effnet_pipeline_take_encoded(struct effnet_pipeline *p, struct record *record,
                                  const struct image_workspace *reader)
{
    struct lane *lane = p->options.decode_gpu ? find_room(p) : NULL;
    if (!lane || !accept(lane, record, reader)) return false;
    struct encoded *encoded = &lane->encoded;
    pthread_mutex_lock(&p->lock);
    const bool taken = !lane->status;
    if (taken) {
        record->next = NULL;
        *encoded->last = record;
        encoded->last = &record->next;
        encoded->waiting++;
        if (record->copy) encoded->bytes += record->jpeg.size_bytes;
        if (encoded->waiting == 1) pthread_cond_broadcast(&encoded->changed);
    }
    pthread_mutex_unlock(&p->lock);
    if (!taken) {
        free(record->copy);
        record->copy = NULL;
    }
    return taken;
}

/* ---------------------------------------------------------------- the thread */

static bool ends(const struct lane *lane)
{
    return lane->pipeline->stop || lane->status;
}

/* What is in the queue, as much as goes together; 0: the lane ends. */
static int take_batch(struct lane *lane)
{
    struct encoded *encoded = &lane->encoded;
    int n = 0;
    while (!ends(lane) && !encoded->first) pthread_cond_wait(&encoded->changed, &lane->pipeline->lock);
    while (!ends(lane) && encoded->first && n < encoded->batch) {
        struct record *record = encoded->first;
        encoded->first = record->next;
        if (!encoded->first) encoded->last = &encoded->first;
        encoded->records[n++] = record;
    }
    encoded->waiting -= n;
    return n;
}

static void free_copy(struct encoded *encoded, struct record *record)
{
    if (record->copy) encoded->bytes -= record->jpeg.size_bytes;
    free(record->copy);
    record->copy = NULL;
}

/* Whatever the device had against one of them, the workers' way has the last word about each. A record that
 * has gone it may be another item's. */
static void decode_here(struct lane *lane, int n)
{
    struct effnet_pipeline *p = lane->pipeline;
    for (int i = 0; i < n; i++) {
        struct record *record = lane->encoded.records[i];
        const size_t size_bytes = record->jpeg.size_bytes;
        void *copy = record->copy;
        record->copy = NULL;
        record->data = record->jpeg.data;
        record->size_bytes = size_bytes;
        effnet_pipeline_decode_and_fit(p, record, NULL);
        if (!copy) continue;
        free(copy);
        pthread_mutex_lock(&p->lock);
        lane->encoded.bytes -= size_bytes;
        pthread_mutex_unlock(&p->lock);
    }
}

static void do_batch(struct lane *lane, struct backend_jpeg *jpegs, int n)
{
    struct effnet_pipeline *p = lane->pipeline;
    struct encoded *encoded = &lane->encoded;
    for (int i = 0; i < n; i++) jpegs[i] = encoded->records[i]->jpeg;
    pthread_mutex_unlock(&p->lock);
    const double start_us = effnet_clock_us();
    const int status = effnet_session_decode(lane->session, jpegs, n, NULL);
    const double elapsed_us = effnet_clock_us() - start_us;
    if (status) decode_here(lane, n);
    pthread_mutex_lock(&p->lock);
    if (status) return;
    for (int i = 0; i < n; i++) {
        free_copy(encoded, encoded->records[i]);
        p->stats.read_us += encoded->records[i]->result.read_us;
    }
    p->stats.decoded_gpu += n;
    p->stats.decode_gpu_us += elapsed_us;
    encoded->submit = n;
    pthread_cond_broadcast(&p->submitter_wanted);
    while (encoded->submit && !ends(lane)) pthread_cond_wait(&encoded->changed, &p->lock);
}

/* Waits for the session and opens its decoder; false: the pipeline stops. */
static bool open_decoder(struct lane *lane)
{
    struct effnet_pipeline *p = lane->pipeline;
    struct encoded *encoded = &lane->encoded;
    struct effnet_error error;
    while (!p->lane_count && !p->stop) pthread_cond_wait(&encoded->changed, &p->lock);
    if (p->stop) return false;
    encoded->batch = p->max_batch < BACKEND_DECODE_BATCH ? p->max_batch : BACKEND_DECODE_BATCH;
    pthread_mutex_unlock(&p->lock);
    const int status = effnet_session_open_decoder(lane->session, &error);
    pthread_mutex_lock(&p->lock);
    encoded->ready = !status;
    if (status) effnet_pipeline_fail(p, &error);
    return !status && !p->stop;
}

static void *decode(void *argument)
{
    struct lane *lane = argument;
    struct effnet_pipeline *p = lane->pipeline;
    struct backend_jpeg jpegs[BACKEND_DECODE_BATCH];
    int n;
    effnet_preload_decoder();
    pthread_mutex_lock(&p->lock);
    if (open_decoder(lane))
        while ((n = take_batch(lane)) > 0) do_batch(lane, jpegs, n);
    lane->encoded.ended = true;
    pthread_cond_broadcast(&p->submitter_wanted);
    pthread_mutex_unlock(&p->lock);
    return NULL;
}

/* ---------------------------------------------------------------- opening and closing */

int effnet_pipeline_open_decoder(struct lane *lane, struct effnet_error *error)
{
    struct encoded *encoded = &lane->encoded;
    encoded->last = &encoded->first;
    encoded->records = calloc(BACKEND_DECODE_BATCH, sizeof *encoded->records);
    if (!encoded->records) return effnet_fail_nomem(error, "a pipeline", 0);
    encoded->runs = !effnet_thread_start(&encoded->thread, decode, lane);
    if (encoded->runs) return EFFNET_OK;
    return effnet_fail(error, EFFNET_E_NOMEM, "pipeline: the system gives no thread");
}

struct record *effnet_pipeline_take_back_encoded(struct lane *lane)
{
    struct encoded *encoded = &lane->encoded;
    struct record *list = encoded->first;
    for (struct record *record = list; record; record = record->next) free_copy(encoded, record);
    for (int i = 0; i < encoded->submit; i++) {
        encoded->records[i]->next = list;
        list = encoded->records[i];
    }
    encoded->first = NULL;
    encoded->last = &encoded->first;
    encoded->waiting = encoded->submit = 0;
    return list;
}

void effnet_pipeline_close_decoder(struct lane *lane)
{
    if (lane->encoded.runs) pthread_join(lane->encoded.thread, NULL);
    lane->encoded.runs = false;
}
