/* The workers. Reading is not counted as work: a thread that waits for a slow disk leaves its processor to
 * another one. */
#include "pipeline/pipeline.h"

#include "common/cpu.h"
#include "common/error.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* More threads read than decode. So that they do not fill the memory with large files that wait to be
 * decoded, these share a budget, which one takes whole that is larger. The others do not wait. Until the
 * session is there with its threads, which need memory too, the budget is small and nobody takes it whole. */
enum {
    LARGE_FILE_BYTES = 8 << 20,
    LARGE_BUDGET_BYTES = 128 << 20, /* a thread that decodes */
    EARLY_BUDGET_BYTES = 64 << 20,
};

static void give_back(struct effnet_pipeline *p, struct record *record)
{
    record->state = RECORD_FREE;
    record->next = p->free_records;
    p->free_records = record;
}

static bool keep_name(struct record *record, const char *name)
{
    const size_t bytes = strlen(name) + 1;
    if (bytes > record->name_bytes) {
        char *room = realloc(record->name, bytes);
        if (!room) return false;
        record->name = room;
        record->name_bytes = bytes;
    }
    memcpy(record->name, name, bytes);
    return true;
}

/* The item is the record's from now on. Without memory for its name it fails, but is not lost. */
static void fill_record(struct effnet_pipeline *p, struct record *record, const struct effnet_item *item)
{
    const char *name = item->name ? item->name : "";
    record->state = RECORD_TAKEN;
    record->error = (struct effnet_error){0};
    record->data = item->data;
    record->size_bytes = item->size_bytes;
    record->result = (struct effnet_result){.index = p->next_in, .tag = item->tag, .error = &record->error};
    if (!keep_name(record, name)) effnet_fail_nomem(&record->error, "an item's name", strlen(name));
    record->result.name = record->error.status ? "" : record->name;
    p->ordered[p->next_in % MOST_RECORDS] = record;
    p->next_in++;
    p->under_way++;
}

/* Asks the source for an item; returns its record, or NULL where there are no more items. With the lock held,
 * but for the call of the source. */
static struct record *take_item(struct effnet_pipeline *p)
{
    struct effnet_item item = {0};
    struct effnet_error error = {0};
    struct record *record = p->free_records;
    p->free_records = record->next;
    p->source_busy = true;
    pthread_mutex_unlock(&p->lock);
    const int given = p->source(p->context, &item, &error);
    pthread_mutex_lock(&p->lock);
    p->source_busy = false;
    if (given > 0 && !p->stop) {
        fill_record(p, record, &item);
        pthread_cond_signal(&p->work_there);
        return record;
    }
    give_back(p, record);
    p->source_ended = true;
    if (given < 0) {
        p->source_failure = error;
        p->source_failure.status = given;
    }
    effnet_pipeline_wake_all(p);
    return NULL;
}

static struct record *take_early(struct effnet_pipeline *p)
{
    struct record *record = p->first_early;
    p->first_early = record->next;
    if (!p->first_early) p->last_early = &p->first_early;
    p->decoding++;
    return record;
}

/* Waits for the next record to work on: with a crop that waits for a seat, or of a new item. NULL: there is
 * nothing more to do. */
static struct record *next_record(struct effnet_pipeline *p)
{
    struct record *record = NULL;
    pthread_mutex_lock(&p->lock);
    while (!record && !p->stop && !(p->source_ended && !p->first_early)) {
        if (p->lane_count && p->first_early)
            record = take_early(p);
        else if (!p->source_ended && !p->source_busy && p->free_records)
            record = take_item(p);
        else
            pthread_cond_wait(&p->work_there, &p->lock);
    }
    pthread_mutex_unlock(&p->lock);
    return record;
}

static int64_t large_budget(const struct effnet_pipeline *p)
{
    return (int64_t)p->options.threads * LARGE_BUDGET_BYTES;
}

/* What an item whose file is large takes of the budget, else 0. What is no regular file, such as a pipe,
 * tells no size; nobody has many of these. */
static int64_t find_large(const struct effnet_pipeline *p, const struct record *record)
{
    const int64_t budget = large_budget(p);
    struct stat status;
    if (record->data || !strcmp(record->name, "-") || stat(record->name, &status)) return 0;
    if (!S_ISREG(status.st_mode) || status.st_size <= LARGE_FILE_BYTES) return 0;
    return status.st_size < budget ? (int64_t)status.st_size : budget;
}

/* False: the pipeline stops, and the file is not wanted any more. */
static bool begin_large(struct effnet_pipeline *p, int64_t size_bytes)
{
    pthread_mutex_lock(&p->lock);
    while (p->large_bytes + size_bytes > (p->started ? large_budget(p) : EARLY_BUDGET_BYTES) && !p->stop)
        pthread_cond_wait(&p->large_done, &p->lock);
    const bool begun = !p->stop;
    if (begun) p->large_bytes += size_bytes;
    pthread_mutex_unlock(&p->lock);
    return begun;
}

static void end_large(struct effnet_pipeline *p, struct image_workspace *reader, int64_t size_bytes)
{
    image_workspace_forget_file(reader);
    pthread_mutex_lock(&p->lock);
    p->large_bytes -= size_bytes;
    pthread_cond_broadcast(&p->large_done);
    pthread_mutex_unlock(&p->lock);
}

void effnet_pipeline_do_item(struct effnet_pipeline *p, struct record *record, struct image_workspace *reader)
{
    int status = record->error.status;
    const int64_t large_bytes = status ? 0 : find_large(p, record);
    if (large_bytes && !begin_large(p, large_bytes)) return;
    if (!status && !record->data) {
        double since_us = effnet_clock_us();
        status = image_workspace_read(reader, record->name, &p->options.image, &record->error);
        effnet_clock_lap(&since_us, &record->result.read_us);
    }
    if (status) {
        pthread_mutex_lock(&p->lock);
        effnet_pipeline_end_item(p, record, NULL);
        pthread_mutex_unlock(&p->lock);
    } else if (!effnet_pipeline_take_encoded(p, record, reader)) {
        effnet_pipeline_decode_and_fit(p, record, reader);
    }
    if (large_bytes) end_large(p, reader, large_bytes);
}

void *effnet_pipeline_work(void *argument)
{
    struct effnet_pipeline *p = argument;
    struct image_workspace *reader = image_workspace_open();
    struct record *record;
    if (!reader) {
        struct effnet_error error;
        effnet_fail_nomem(&error, "a thread that reads", 0);
        pthread_mutex_lock(&p->lock);
        effnet_pipeline_fail(p, &error);
        pthread_mutex_unlock(&p->lock);
        return NULL;
    }
    while ((record = next_record(p))) {
        if (record->early)
            effnet_pipeline_place_early(p, record);
        else
            effnet_pipeline_do_item(p, record, reader);
    }
    image_workspace_close(reader);
    return NULL;
}
