#include "pipeline/pipeline.h"

#include "backend/backend.h"
#include "common/cpu.h"
#include "common/error.h"
#include "common/fork.h"
#include "common/thread.h"

#include <stdlib.h>
#include <string.h>

enum { MOST_THREADS = 1024, MOST_EARLY = MOST_RECORDS / 4 };

struct effnet_pipeline_options effnet_pipeline_defaults(void)
{
    return (struct effnet_pipeline_options){.image = effnet_image_defaults()};
}

/* ---------------------------------------------------------------- opening */

static int check_options(struct effnet_pipeline_options *options, struct effnet_error *error)
{
    if (options->threads < 0 || options->threads > MOST_THREADS)
        return effnet_fail(error, EFFNET_E_USAGE, "pipeline: %d threads: from 1 to %d, or 0 for all",
                           options->threads, MOST_THREADS);
    if (options->early_bytes < 0)
        return effnet_fail(error, EFFNET_E_USAGE, "pipeline: %lld bytes for early crops",
                           (long long)options->early_bytes);
    EFFNET_TRY(effnet_check_reserved(options->reserved, sizeof options->reserved, "pipeline", error));
    if (options->crops && options->decode_gpu)
        return effnet_fail(error, EFFNET_E_USAGE, "pipeline: crops that a GPU decodes stay there");
    if (!options->threads) options->threads = effnet_cpu_threads();
    if (options->threads > MOST_THREADS) options->threads = MOST_THREADS;
    return EFFNET_OK;
}

static void add_records(struct effnet_pipeline *p, struct record *records, int count)
{
    for (int i = 0; i < count; i++) {
        records[i].next = p->free_records;
        p->free_records = &records[i];
    }
}

#define CONDITIONS(p)                                                                                        \
    {                                                                                                        \
        &(p)->work_there, &(p)->large_done, &(p)->processor_free, &(p)->seat_free, &(p)->submitter_wanted,   \
            &(p)->pass_submitted, &(p)->result_ready                                                         \
    }

static void init_locks(struct effnet_pipeline *p)
{
    pthread_cond_t *const conditions[] = CONDITIONS(p);
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    for (size_t i = 0; i < sizeof conditions / sizeof conditions[0]; i++)
        pthread_cond_init(conditions[i], &monotonic);
    for (int i = 0; i < MOST_LANES; i++) pthread_cond_init(&p->lanes[i].encoded.changed, &monotonic);
    pthread_condattr_destroy(&monotonic);
    pthread_mutex_init(&p->lock, NULL);
}

static void destroy_locks(struct effnet_pipeline *p)
{
    pthread_cond_t *const conditions[] = CONDITIONS(p);
    for (size_t i = 0; i < sizeof conditions / sizeof conditions[0]; i++) pthread_cond_destroy(conditions[i]);
    for (int i = 0; i < MOST_LANES; i++) pthread_cond_destroy(&p->lanes[i].encoded.changed);
    pthread_mutex_destroy(&p->lock);
}

/* As many workers as the system gives; none is a failure. */
static int start_workers(struct effnet_pipeline *p, struct effnet_error *error)
{
    while (p->worker_count < p->worker_slots &&
           !effnet_thread_start(&p->workers[p->worker_count], effnet_pipeline_work, p))
        p->worker_count++;
    if (p->worker_count) return EFFNET_OK;
    return effnet_fail(error, EFFNET_E_NOMEM, "pipeline: the system gives no thread");
}

static int count_early(const struct effnet_pipeline *p)
{
    const int64_t count = p->options.early_bytes / (int64_t)p->crop_bytes;
    return count < MOST_EARLY ? (int)count : MOST_EARLY;
}

int effnet_pipeline_open(const effnet_model *model, const struct effnet_pipeline_options *from,
                         effnet_source *source, void *context, effnet_pipeline **out,
                         struct effnet_error *error)
{
    struct effnet_pipeline_options options = from ? *from : effnet_pipeline_defaults();
    if (!out) return effnet_fail(error, EFFNET_E_USAGE, "pipeline: no place to put it");
    *out = NULL;
    if (!model || !source) return effnet_fail(error, EFFNET_E_USAGE, "pipeline: no model, or no source");
    EFFNET_TRY(check_options(&options, error));
    struct effnet_pipeline *p = calloc(1, sizeof *p);
    if (!p) return effnet_fail_nomem(error, "a pipeline", sizeof *p);
    const struct effnet_model_info *info = effnet_model_get_info(model);
    p->model = model;
    p->preprocess = &info->preprocess;
    p->options = options;
    p->source = source;
    p->context = context;
    p->crop_bytes = (size_t)info->preprocess.crop * (size_t)info->preprocess.crop * 3;
    p->classes = info->classes;
    p->forks = effnet_fork_count();
    p->last_ready = &p->first_ready;
    p->last_early = &p->first_early;
    for (int i = 0; i < MOST_LANES; i++) p->lanes[i].pipeline = p;
    p->stats.threads = options.threads;
    p->worker_slots = options.threads + EXTRA_WORKERS;
    p->early_left = count_early(p);
    p->first_count = p->worker_slots + p->early_left;
    init_locks(p);
    p->workers = calloc((size_t)p->worker_slots, sizeof *p->workers);
    p->decoders = calloc((size_t)options.threads, sizeof *p->decoders);
    p->first_records = calloc((size_t)p->first_count, sizeof *p->first_records);
    int status = EFFNET_OK;
    while (p->decoders && p->idle_decoders < options.threads &&
           (p->decoders[p->idle_decoders] = image_workspace_open()))
        p->idle_decoders++;
    if (!p->workers || !p->first_records || p->idle_decoders < options.threads)
        status = effnet_fail_nomem(error, "a pipeline", (size_t)p->first_count * sizeof *p->first_records);
    if (!status) {
        add_records(p, p->first_records, p->first_count);
        status = start_workers(p, error);
    }
    if (!status && options.decode_gpu) status = effnet_pipeline_open_decoder(&p->lanes[0], error);
    if (status)
        effnet_pipeline_close(p);
    else
        *out = p;
    return status;
}

/* ---------------------------------------------------------------- starting */

/* Bytes of one result. */
static size_t result_bytes(const struct effnet_pipeline *p)
{
    return ((size_t)p->classes + (size_t)p->feature_count) * sizeof(float) +
           (p->options.crops ? p->crop_bytes : 0);
}

static int count_records(const struct effnet_pipeline *p, int lanes)
{
    const int64_t affordable = LEAST_BYTES / (int64_t)result_bytes(p);
    const int64_t least = affordable < LEAST_RECORDS ? affordable : LEAST_RECORDS;
    /* Where two ways of decoding fill batches, each waits for the other's. */
    int64_t count = lanes * (int64_t)(p->options.decode_gpu ? 2 : 1) * BATCHES_OF_RECORDS *
                    (int64_t)p->max_batch;
    if (count < least) count = least;
    count += p->first_count;
    return (int)(count < MOST_RECORDS ? count : MOST_RECORDS);
}

#define FREE(pointer) (free(pointer), (pointer) = NULL)

/* What allocate has made, so that another start may. */
static void free_allocated(struct effnet_pipeline *p)
{
    FREE(p->more_records);
    FREE(p->logits);
    FREE(p->features);
    FREE(p->crops);
    for (int i = 0; i < MOST_LANES; i++) {
        FREE(p->lanes[i].batch_logits);
        FREE(p->lanes[i].batch_features);
        FREE(p->lanes[i].seat_records);
        p->lanes[i].free_stages = NULL;
    }
}

/* Memory that depends on the sessions' batch. */
static int allocate(struct effnet_pipeline *p, int lanes, struct effnet_error *error)
{
    const int records = count_records(p, lanes);
    p->more_records = calloc((size_t)(records - p->first_count), sizeof *p->more_records);
    p->more_count = records - p->first_count;
    p->logits = malloc((size_t)records * (size_t)p->classes * sizeof(float));
    if (p->feature_count) p->features = malloc((size_t)records * (size_t)p->feature_count * sizeof(float));
    if (p->options.crops) p->crops = malloc((size_t)records * p->crop_bytes);
    int status = EFFNET_OK;
    if (!p->more_records || !p->logits || (p->feature_count && !p->features) ||
        (p->options.crops && !p->crops))
        status = effnet_fail_nomem(error, "the pipeline's results", (size_t)records * result_bytes(p));
    for (int i = 0; i < lanes && !status; i++) status = effnet_pipeline_allocate_lane(&p->lanes[i], error);
    if (status) free_allocated(p);
    return status;
}

/* Hands all of it to the workers. */
static void spread(struct effnet_pipeline *p, effnet_session *const *sessions, int lanes)
{
    const int first = p->first_count;
    pthread_mutex_lock(&p->lock);
    for (int i = 0; i < first + p->more_count; i++) {
        struct record *record = i < first ? &p->first_records[i] : &p->more_records[i - first];
        record->logits = p->logits + (size_t)i * (size_t)p->classes;
        if (p->features) record->features = p->features + (size_t)i * (size_t)p->feature_count;
        if (p->crops) record->crop = p->crops + (size_t)i * p->crop_bytes;
    }
    add_records(p, p->more_records, p->more_count);
    for (int i = 0; i < lanes; i++) p->lanes[i].session = sessions[i];
    p->lane_count = p->lanes_alive = lanes;
    effnet_pipeline_wake_all(p);
    pthread_mutex_unlock(&p->lock);
}

static int check_sessions(const struct effnet_pipeline *p, effnet_session *const *sessions, int count,
                          struct effnet_error *error)
{
    for (int i = 0; i < count; i++) {
        if (!sessions[i]) return effnet_fail(error, EFFNET_E_USAGE, "pipeline: session %d is NULL", i);
        const struct effnet_session_info *info = effnet_session_get_info(sessions[i]);
        const struct effnet_session_info *first = effnet_session_get_info(sessions[0]);
        if (info->max_batch != first->max_batch || info->feature_count != first->feature_count)
            return effnet_fail(error, EFFNET_E_USAGE,
                               "pipeline: session %d has another batch or other features than the first", i);
        for (int k = 0; k < i; k++)
            if (sessions[k] == sessions[i])
                return effnet_fail(error, EFFNET_E_USAGE, "pipeline: session %d is there twice", k);
        if (p->options.decode_gpu) EFFNET_TRY(effnet_session_load_decoder(sessions[i], error));
    }
    return EFFNET_OK;
}

int effnet_pipeline_start_sessions(effnet_pipeline *p, effnet_session *const *sessions, int count,
                                   struct effnet_error *error)
{
    if (!p || !sessions) return effnet_fail(error, EFFNET_E_USAGE, "pipeline: no pipeline, or no session");
    if (p->lane_count) return effnet_fail(error, EFFNET_E_USAGE, "pipeline: it was started before");
    if (count < 1 || count > MOST_LANES)
        return effnet_fail(error, EFFNET_E_USAGE, "pipeline: %d sessions: from 1 to %d", count, MOST_LANES);
    EFFNET_TRY(check_sessions(p, sessions, count, error));
    p->max_batch = effnet_session_get_info(sessions[0])->max_batch;
    p->feature_count = effnet_session_get_info(sessions[0])->feature_count;
    EFFNET_TRY(allocate(p, count, error));
    spread(p, sessions, count);
    int status = EFFNET_OK;
    for (int i = 0; !status && i < count; i++) status = effnet_pipeline_start_lane(&p->lanes[i], error);
    if (status) {
        effnet_pipeline_cancel(p);
        return status;
    }
    pthread_mutex_lock(&p->lock);
    p->started = true;
    pthread_cond_broadcast(&p->large_done);
    pthread_mutex_unlock(&p->lock);
    return EFFNET_OK;
}

int effnet_pipeline_start(effnet_pipeline *p, effnet_session *session, struct effnet_error *error)
{
    if (!session) return effnet_fail(error, EFFNET_E_USAGE, "pipeline: no pipeline, or no session");
    return effnet_pipeline_start_sessions(p, &session, 1, error);
}

int effnet_pipeline_session_status(effnet_pipeline *p, int index, struct effnet_error *error)
{
    if (!p || index < 0 || index >= p->lane_count)
        return effnet_fail(error, EFFNET_E_USAGE, "pipeline: it has no session %d", index);
    struct effnet_error failure = {0};
    pthread_mutex_lock(&p->lock);
    if (p->lanes[index].status) failure = p->lanes[index].error;
    pthread_mutex_unlock(&p->lock);
    return failure.status ? effnet_fail(error, failure.status, "%s", failure.message) : EFFNET_OK;
}

/* ---------------------------------------------------------------- results */

/* The record whose result is the next to be handed out; NULL: none is ready. */
static struct record *take_ready(struct effnet_pipeline *p)
{
    struct record *record;
    if (p->options.unordered) {
        record = p->first_ready;
        if (!record) return NULL;
        p->first_ready = record->next;
        if (!p->first_ready) p->last_ready = &p->first_ready;
    } else {
        record = p->ordered[p->next_out % MOST_RECORDS];
        if (!record || record->state != RECORD_READY) return NULL;
        p->ordered[p->next_out % MOST_RECORDS] = NULL;
        p->next_out++;
    }
    p->under_way--;
    return record;
}

/* The record before can be used again, and what its result points to. */
static void take_back(struct effnet_pipeline *p)
{
    if (!p->handed_out) return;
    p->handed_out->state = RECORD_FREE;
    p->handed_out->next = p->free_records;
    p->free_records = p->handed_out;
    p->handed_out = NULL;
    pthread_cond_signal(&p->work_there);
}

int effnet_pipeline_next(effnet_pipeline *p, const struct effnet_result **result, struct effnet_error *error)
{
    if (!p || !result)
        return effnet_fail(error, EFFNET_E_USAGE, "pipeline: no pipeline, or no place for a result");
    *result = NULL;
    if (!p->lane_count) return effnet_fail(error, EFFNET_E_USAGE, "pipeline: it was not started");
    if (p->forks != effnet_fork_count())
        return effnet_fail(error, EFFNET_E_USAGE,
                           "pipeline: it belongs to the process that this one was forked from");
    struct record *record = NULL;
    pthread_mutex_lock(&p->lock);
    take_back(p);
    while (!(record = take_ready(p)) && !p->stop && !(p->source_ended && p->under_way == 0))
        pthread_cond_wait(&p->result_ready, &p->lock);
    p->handed_out = record;
    const struct effnet_error failure = p->failure.status ? p->failure : p->source_failure;
    pthread_mutex_unlock(&p->lock);
    if (record) {
        *result = &record->result;
        return EFFNET_OK;
    }
    return failure.status ? effnet_fail(error, failure.status, "%s", failure.message) : EFFNET_OK;
}

void effnet_pipeline_get_stats(effnet_pipeline *p, struct effnet_pipeline_stats *stats)
{
    pthread_mutex_lock(&p->lock);
    *stats = p->stats;
    if (p->in_flight) stats->device_us += effnet_clock_us() - p->device_since_us;
    pthread_mutex_unlock(&p->lock);
}

/* ---------------------------------------------------------------- ending */

void effnet_pipeline_cancel(effnet_pipeline *p)
{
    pthread_mutex_lock(&p->lock);
    p->stop = true;
    effnet_pipeline_wake_all(p);
    pthread_mutex_unlock(&p->lock);
}

static void free_records(struct record *records, int count)
{
    for (int i = 0; i < count; i++) {
        free(records[i].name);
        free(records[i].copy);
        free(records[i].early);
    }
}

/* What the workers worked with. */
static void free_work(struct effnet_pipeline *p)
{
    if (p->first_records) free_records(p->first_records, p->first_count);
    if (p->more_records) free_records(p->more_records, p->more_count);
    for (int i = 0; p->decoders && i < p->options.threads; i++) image_workspace_close(p->decoders[i]);
}

static void free_memory(struct effnet_pipeline *p)
{
    free(p->decoders);
    free(p->workers);
    free(p->first_records);
    free_allocated(p);
    for (int i = 0; i < MOST_LANES; i++) free(p->lanes[i].encoded.records);
    free(p);
}

void effnet_pipeline_close(effnet_pipeline *p)
{
    if (!p) return;
    if (p->forks !=
        effnet_fork_count()) { /* its threads are not here, and work and locks as they left them */
        free_memory(p);
        return;
    }
    effnet_pipeline_cancel(p);
    for (int i = 0; i < p->worker_count; i++) pthread_join(p->workers[i], NULL);
    for (int i = 0; i < MOST_LANES; i++) effnet_pipeline_close_lane(&p->lanes[i]);
    destroy_locks(p);
    free_work(p);
    free_memory(p);
}
