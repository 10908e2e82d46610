#include "cli/feed.h"

#include "cli/cli.h"
#include "common/cpu.h"
#include "common/thread.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

struct slot {
    struct feed_item item;
    bool ready;
};

struct feed {
    struct feed_options options;
    char *const *paths;
    int count;

    pthread_mutex_t lock; /* guards all below, but not what a claimed slot holds until it is ready */
    pthread_cond_t slot_free, slot_ready;
    int next_in;  /* the file that a worker takes next; at most slot_count past next_out */
    int next_out; /* the file that feed_batch takes next */
    bool stop;
    struct feed_time time;

    int slot_count;
    struct slot *slots; /* file i goes through slot i % slot_count */
    uint8_t *crops;
    pthread_t *threads;
};

static void read_and_fit(struct feed *feed, int index, struct slot *slot)
{
    struct effnet_image image = {0};
    uint8_t *crop = (uint8_t *)slot->item.crop; /* the slot's part of feed->crops */
    double start_us = effnet_clock_us();
    slot->item.index = index;
    slot->item.status = effnet_image_read(feed->paths[index], &feed->options.image, &image,
                                          &slot->item.error);
    double decoded_us = effnet_clock_us();
    if (!slot->item.status)
        slot->item.status = effnet_image_fit(&image, feed->options.preprocess, crop, &slot->item.error);
    slot->item.blank_without_alpha = image.blank_without_alpha;
    effnet_image_free(&image);
    double end_us = effnet_clock_us();

    pthread_mutex_lock(&feed->lock);
    feed->time.decode_us += decoded_us - start_us;
    feed->time.fit_us += end_us - decoded_us;
    slot->ready = true;
    pthread_cond_signal(&feed->slot_ready);
    pthread_mutex_unlock(&feed->lock);
}

static void *work(void *argument)
{
    struct feed *feed = argument;
    for (;;) {
        pthread_mutex_lock(&feed->lock);
        while (!feed->stop && feed->next_in < feed->count &&
               feed->next_in - feed->next_out >= feed->slot_count)
            pthread_cond_wait(&feed->slot_free, &feed->lock);
        bool done = feed->stop || feed->next_in >= feed->count;
        int index = done ? 0 : feed->next_in++;
        pthread_mutex_unlock(&feed->lock);
        if (done) return NULL;
        read_and_fit(feed, index, &feed->slots[index % feed->slot_count]);
    }
}

int feed_open(const struct feed_options *options, char *const *paths, int count, struct feed **out)
{
    *out = NULL;
    int crop = options->preprocess->crop;
    size_t crop_bytes = (size_t)crop * (size_t)crop * 3;
    int slot_count = options->ahead < count ? options->ahead : count;
    int workers = options->workers < count ? options->workers : count;
    struct feed *feed = calloc(1, sizeof *feed);
    if (!feed) return cli_fail_nomem("the images");
    pthread_mutex_init(&feed->lock, NULL);
    pthread_cond_init(&feed->slot_free, NULL);
    pthread_cond_init(&feed->slot_ready, NULL);
    feed->options = *options;
    feed->paths = paths;
    feed->count = count;
    feed->slot_count = slot_count;
    feed->slots = calloc((size_t)slot_count, sizeof *feed->slots);
    feed->crops = calloc((size_t)slot_count, crop_bytes);
    feed->threads = calloc((size_t)workers, sizeof *feed->threads);
    if (!feed->slots || !feed->crops || !feed->threads) {
        feed_close(feed);
        return cli_fail_nomem("the images");
    }
    for (int i = 0; i < slot_count; i++) feed->slots[i].item.crop = feed->crops + (size_t)i * crop_bytes;
    while (feed->time.workers < workers &&
           !effnet_thread_start(&feed->threads[feed->time.workers], work, feed))
        feed->time.workers++;
    *out = feed;
    return EFFNET_OK;
}

/* The next file's slot, once it is ready. */
static struct slot *wait_for_next(struct feed *feed)
{
    struct slot *slot = &feed->slots[feed->next_out % feed->slot_count];
    if (!feed->time.workers)
        read_and_fit(feed, feed->next_out, slot); /* the system gave no thread: then here */
    pthread_mutex_lock(&feed->lock);
    while (!slot->ready) pthread_cond_wait(&feed->slot_ready, &feed->lock);
    pthread_mutex_unlock(&feed->lock);
    return slot;
}

static void free_next(struct feed *feed, struct slot *slot)
{
    pthread_mutex_lock(&feed->lock);
    slot->ready = false;
    feed->next_out++;
    pthread_cond_signal(&feed->slot_free);
    pthread_mutex_unlock(&feed->lock);
}

int feed_batch(struct feed *feed, int size, uint8_t *crops, int *files, int *images, feed_visit *visit,
               void *context)
{
    size_t crop = (size_t)feed->options.preprocess->crop, crop_bytes = crop * crop * 3;
    int status = EFFNET_OK;
    *images = 0;
    while (!status && *images < size && feed->next_out < feed->count) {
        struct slot *slot = wait_for_next(feed);
        status = visit(&slot->item, context);
        if (!status && !slot->item.status) {
            memcpy(crops + (size_t)*images * crop_bytes, slot->item.crop, crop_bytes);
            if (files) files[*images] = slot->item.index;
            ++*images;
        }
        free_next(feed, slot);
    }
    return status;
}

struct feed_time feed_get_time(const struct feed *feed)
{
    return feed->time; /* the last slot became ready after it */
}

void feed_close(struct feed *feed)
{
    if (!feed) return;
    pthread_mutex_lock(&feed->lock);
    feed->stop = true;
    pthread_cond_broadcast(&feed->slot_free);
    pthread_mutex_unlock(&feed->lock);
    for (int i = 0; i < feed->time.workers; i++) pthread_join(feed->threads[i], NULL);
    pthread_cond_destroy(&feed->slot_ready);
    pthread_cond_destroy(&feed->slot_free);
    pthread_mutex_destroy(&feed->lock);
    free(feed->threads);
    free(feed->crops);
    free(feed->slots);
    free(feed);
}
