/* Image files on their way to the network: worker threads read and fit them ahead of the compute, into a
 * ring of slots; they come out in the order of the files. Memory is bounded by the slots and by one decoded
 * image a worker. */
#ifndef EFFNET_CLI_FEED_H
#define EFFNET_CLI_FEED_H

#include "effnet.h"

struct feed_options {
    const struct effnet_preprocess *preprocess; /* kept, not copied */
    struct effnet_image_options image;
    int ahead;   /* files that may be ready and waiting */
    int workers; /* threads */
};

struct feed_item {
    int index;                 /* which file */
    int status;                /* EFFNET_OK, or error says why not */
    bool blank_without_alpha;  /* as in struct effnet_image */
    const uint8_t *crop;       /* [crop][crop][3] */
    struct effnet_error error; /* set where status is not EFFNET_OK */
};

struct feed_time {
    double decode_us, fit_us; /* summed over the workers */
    int workers;
};

struct feed;

/* Starts on the files at once. `paths` must outlive the feed. Reports its own failure. */
int feed_open(const struct feed_options *options, char *const *paths, int count, struct feed **out);
/* Gathers the next images, up to `size` of them, into crops [size][crop][crop][3] and, where files is not
 * NULL, the numbers of their files into files [size]. *images becomes 0 after the last file. `visit` is told
 * of every file, in order, those that are no images too; a status that it returns ends this. */
typedef int feed_visit(const struct feed_item *item, void *context);
int feed_batch(struct feed *feed, int size, uint8_t *crops, int *files, int *images, feed_visit *visit,
               void *context);
/* After the last file. */
struct feed_time feed_get_time(const struct feed *feed);
/* Stops the workers, each after the file it is at, and waits for them. Takes NULL. */
void feed_close(struct feed *feed);

#endif
