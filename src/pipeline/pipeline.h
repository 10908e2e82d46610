/* The inside of a pipeline. Its parts, each a file:
 *
 *   work.c      worker threads: item -> bytes
 *   crop.c      bytes -> pixels -> a seat in a stage, or before there is a session memory of the record's own
 *   encoded.c   with decode_gpu a thread more: what the device decodes, and a batch of that for a pass
 *   passes.c    two threads for each session: one submits stages, the other collects
 *   lanes.c     sessions: each with its threads is a *lane*; what one that fails had goes to the others
 *   signals.c   what these tell one another
 *   pipeline.c  opening, results, closing
 *
 * An item goes through a *record*, which later holds its result. A *seat* is a place for one crop in a stage
 * of a session. Seats are given to images in the order in which they are decoded, not in that of the items:
 * an image's logits do not depend on its place, and a bad file leaves no hole. Records bring the order back.
 */
#ifndef EFFNET_PIPELINE_PIPELINE_H
#define EFFNET_PIPELINE_PIPELINE_H

#include "backend/backend.h"
#include "image/workspace.h"

#include <pthread.h>

enum {
    /* Threads beyond those that decode, so that some may wait for slow files while others go on. */
    EXTRA_WORKERS = 14,
    MOST_LANES = 64,
    LEAST_RECORDS = 512,    /* beside those of a few batches; so many items may wait for an earlier one, */
    LEAST_BYTES = 32 << 20, /* unless their results take more than this */
    MOST_RECORDS = 1 << 16,
    BATCHES_OF_RECORDS = 5, /* a lane, so that all stages can be full, and more images decoded */
};

enum record_state { RECORD_FREE, RECORD_TAKEN, RECORD_READY };

struct record {
    enum record_state state;
    struct effnet_result result;
    struct effnet_error error;
    char *name; /* the item's, in memory that the record keeps */
    size_t name_bytes;
    const void *data;
    size_t size_bytes;
    void *copy;               /* of a file's bytes, for the device's decoder; NULL: none */
    struct backend_jpeg jpeg; /* the item, where the device decodes it */
    float *logits;
    float *features;     /* NULL: the session hands out none */
    uint8_t *crop;       /* NULL: not kept */
    uint8_t *early;      /* the crop, while it waits for a session; NULL: none */
    struct record *next; /* in the list of free ones, of early ones, or of ready ones without an order */
};

/* Items that a lane's device decodes: a queue, a batch that is decoded, then waits for a stage. */
struct encoded {
    pthread_cond_t changed; /* for the thread: there is a session, something queued, nothing to submit */
    bool ready;             /* the decoder is open */
    int batch;              /* items that are decoded at a time, at most */
    struct record *first, **last; /* the queue; */
    int waiting;                  /* so many are in it */
    size_t bytes;                 /* of copies that are not freed yet */
    struct record **records;      /* [batch], of the batch; */
    int submit;                   /* so many wait to be submitted; 0: none do */
    pthread_t thread;
    bool runs, ended; /* it was started; it does nothing any more */
};

/* A batch that is being filled. */
struct stage {
    struct lane *lane;
    uint8_t *pixels; /* NULL: none */
    int taken, filled;
    bool decoded;            /* its images are the device's, not in `pixels` */
    struct record **records; /* [max_batch], whose image has which seat */
    struct stage *next;      /* in the list that it is in */
};

struct lane {
    struct effnet_pipeline *pipeline;
    effnet_session *session;
    struct stage *full, **last_full; /* all seats taken, perhaps not filled yet; the oldest first */
    struct stage *submitted, **last_submitted;
    struct stage *free_stages; /* none of the session's */
    int stages_used;
    int in_flight; /* passes submitted and not collected */
    int status;    /* EFFNET_OK, or why it does nothing any more: */
    struct effnet_error error;
    float *batch_logits;   /* [max_batch][classes], the collector's */
    float *batch_features; /* [max_batch][feature_count], the same */
    struct encoded encoded;
    pthread_t submitter, collector;
    bool submitter_runs, collector_runs, collector_ended;
    struct stage stages[BACKEND_STAGES];
    struct record **seat_records; /* [BACKEND_STAGES][max_batch] */
};

struct effnet_pipeline {
    const effnet_model *model;
    const struct effnet_preprocess *preprocess;
    struct effnet_pipeline_options options;
    effnet_source *source;
    void *context;
    size_t crop_bytes;
    int classes;

    pthread_mutex_t lock;            /* guards all that follows */
    pthread_cond_t work_there;       /* for workers that have no item: next_record says what counts */
    pthread_cond_t large_done;       /* for workers with a large file to read, or a large image to decode */
    pthread_cond_t processor_free;   /* for workers with bytes to decode */
    pthread_cond_t seat_free;        /* for workers with a decoded image */
    pthread_cond_t submitter_wanted; /* a seat is wanted, a stage is full, or nothing decodes */
    pthread_cond_t pass_submitted;   /* for collectors */
    pthread_cond_t result_ready;     /* for effnet_pipeline_next */
    bool stop;                       /* cancelled, or failed */
    bool source_busy;                /* a worker is calling it */
    bool source_ended;
    struct effnet_error source_failure, failure; /* statuses EFFNET_OK: none */

    struct record *free_records, *first_ready, **last_ready;
    struct record *ordered[MOST_RECORDS]; /* item i's record is [i % MOST_RECORDS] */
    struct record *handed_out;            /* effnet_pipeline_next's last */
    int64_t next_in, next_out;            /* index of the next item; of the next result */
    int64_t under_way;                    /* items that were taken and not handed out */

    int64_t large_bytes; /* of large files that are being read or decoded (work.c) */

    struct image_workspace **decoders; /* [threads], of which the first idle_decoders are free */
    int idle_decoders;
    int decoding; /* workers that decode, fit, or wait to do so */
    int seats_wanted;

    struct lane lanes[MOST_LANES]; /* the first is there before the session, for what its decoder loads */
    int lane_count;                /* 0: there is no session yet */
    bool started;                  /* whatever else that needs is there, too */
    int lanes_alive;
    int max_batch;
    int feature_count;                        /* of an image; 0: the sessions hand out none */
    struct record *first_early, **last_early; /* with crops that wait for seats */
    int early_left;                           /* so many more crops may be made before there is a session */
    struct stage *filling;                    /* gives seats; NULL: none */
    bool bringing;                            /* a lane is about to bring the next */
    int in_flight;                            /* passes, of all lanes */

    struct effnet_pipeline_stats stats;
    double device_since_us; /* when in_flight last became 1 */

    int worker_count, worker_slots;
    pthread_t *workers;
    int forks;                                   /* effnet_fork_count when it was opened */
    int first_count, more_count;                 /* worker_slots, and one for each early crop; the rest */
    struct record *first_records, *more_records; /* [first_count], from the start; [more_count] */
    float *logits;                               /* [records][classes] */
    float *features;                             /* [records][feature_count] */
    uint8_t *crops;                              /* [records][crop_bytes] */
};

/* work.c */
/* A worker thread's function; the argument is the pipeline. */
void *effnet_pipeline_work(void *pipeline);
/* Reads an item, and decodes it or has that done. */
void effnet_pipeline_do_item(struct effnet_pipeline *pipeline, struct record *record,
                             struct image_workspace *reader);

/* crop.c */
/* From bytes to the crop in a seat, on the calling thread. `reader` has the bytes where the record's data is
 * NULL. */
void effnet_pipeline_decode_and_fit(struct effnet_pipeline *pipeline, struct record *record,
                                    struct image_workspace *reader);

/* Gives a record's early crop a seat. p->decoding counts the calling thread from when the record left its
 * list. */
void effnet_pipeline_place_early(struct effnet_pipeline *pipeline, struct record *record);

/* With the lock held: the worker's part is done; stage NULL: its record has no seat, and a failure as its
 * result, or none because the pipeline stops. */
void effnet_pipeline_end_item(struct effnet_pipeline *pipeline, struct record *record, struct stage *stage);

/* encoded.c: for pipelines with decode_gpu. */
/* The decoder's library is loaded in a thread that later decodes. */
int effnet_pipeline_open_decoder(struct lane *lane, struct effnet_error *error);
/* Whether the record was taken for a device's decoder: then it is not the caller's any more. `reader` as
 * above. Any pipeline. */
bool effnet_pipeline_take_encoded(struct effnet_pipeline *pipeline, struct record *record,
                                  const struct image_workspace *reader);
/* With the lock held, of a lane that has failed and whose thread has ended: the items that it had, in a list;
 * their bytes must be read again. */
struct record *effnet_pipeline_take_back_encoded(struct lane *lane);
/* Waits for the thread, if there is one. */
void effnet_pipeline_close_decoder(struct lane *lane);

/* passes.c: starts the threads of a lane. */
int effnet_pipeline_start_lane(struct lane *lane, struct effnet_error *error);

/* lanes.c */
/* Memory for the sessions' stages, of lanes that pipeline->lanes has. */
int effnet_pipeline_allocate_lane(struct lane *lane, struct effnet_error *error);
/* With the lock held: its session has failed. The last one is the pipeline's failure. */
void effnet_pipeline_fail_lane(struct lane *lane, const struct effnet_error *failure);
/* Of a lane that has failed, on its submitter's thread: what it had under way goes to the others. */
void effnet_pipeline_rescue(struct lane *lane);
/* Waits for the threads, gives the stages back to the session. */
void effnet_pipeline_close_lane(struct lane *lane);

/* signals.c, all with the lock held. */
/* The record's result can be handed out. */
void effnet_pipeline_finish(struct effnet_pipeline *pipeline, struct record *record);
/* Stops everything; the first failure is what effnet_pipeline_next will return. */
void effnet_pipeline_fail(struct effnet_pipeline *pipeline, const struct effnet_error *failure);
void effnet_pipeline_wake_all(struct effnet_pipeline *pipeline);

#endif
