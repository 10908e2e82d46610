/* What every backend implements. src/backend/session.c owns the session, picks the backend and calls
 * through this table; nobody else does. What a backend fuses is its own affair: it says so in units. */
#ifndef EFFNET_BACKEND_BACKEND_H
#define EFFNET_BACKEND_BACKEND_H

#include "effnet_lab.h"

/* Options after defaults are applied; device is without the backend's name ("cuda:1" -> device_index 1). */
struct backend_options {
    const char *precision; /* NULL: the backend's own */
    const char *plan;      /* never NULL */
    int max_batch, threads, device_index;
    int features_layer; /* its output is handed out beside the logits; -1: none is */
    bool each_layer;    /* a unit a layer, where the backend can */
};

struct backend_state; /* each backend's own */

/* Batches that can be handed out or under way at once: one that is filled while another one waits for its
 * last image, one that computes and one whose pixels travel. */
enum { BACKEND_STAGES = 4 };

/* JPEGs that a device decodes at a time, at most; and no more than the session's batch. */
enum { BACKEND_DECODE_BATCH = 128 };

struct backend_jpeg {
    const uint8_t *data;
    size_t size_bytes;
    int width, height; /* as accepts gave them */
};

struct backend {
    const char *name;

    /* Calls visit for each device this backend could use (see effnet_devices). */
    void (*devices)(void (*visit)(const struct effnet_device *, void *), void *context);

    /* Builds everything for up to max_batch images; allocates all memory that run needs. *out is NULL on
     * failure. */
    int (*open)(const effnet_model *model, const struct backend_options *options, struct backend_state **out,
                struct effnet_error *error);
    /* Also in a child of the process that opened the state, where neither its threads nor its GPU are. */
    void (*close)(struct backend_state *state);

    /* As effnet_tune. NULL: there is nothing to measure. */
    int (*tune)(const effnet_model *model, const struct backend_options *options, effnet_tuned_visitor *visit,
                void *context, struct effnet_error *error);

    /* Fills device, precision, threads and memory_bytes; strings live as long as the state. */
    void (*describe)(const struct backend_state *state, struct effnet_session_info *info);

    /* Unit `index` >= 0; NULL behind the last one. */
    const struct effnet_unit *(*unit)(const struct backend_state *state, int index);

    /* Around a call of one of the next, on its thread. NULL: there is nothing to do. */
    int (*enter)(const struct backend_state *state, struct effnet_error *error);
    void (*leave)(void);

    /* As effnet_session_run_features; any n >= 1, the backend splits it into passes. features NULL: they are
     * not wanted. */
    int (*run)(struct backend_state *state, const uint8_t *pixels, int n, float *logits, float *features,
               struct effnet_error *error);

    /* Stages of its own and passes over them; all three NULL: session.c has stages in ordinary memory, and
     * calls run. Each stage is allocated at the first call of stage for its index, and stays; [max_batch]
     * images. start does not wait, finish waits for the pass over that stage; finish may be called by one
     * thread while another one is in stage or start. Not while run is. */
    int (*stage)(struct backend_state *state, int index, uint8_t **pixels, struct effnet_error *error);
    int (*start)(struct backend_state *state, int index, int n, struct effnet_error *error);
    int (*finish)(struct backend_state *state, int index, float *logits, float *features,
                  struct effnet_error *error);

    /* A device that decodes JPEGs itself; all NULL: none does. load_decoder loads what that takes beyond the
     * backend; it needs no state, and may be called before there is one. open_decoder makes the state's
     * decoder, if it has none yet. accepts tells, in any thread, whether a JPEG is for it, fills *jpeg, which
     * refers to the bytes, and takes microseconds. decode turns n <= BACKEND_DECODE_BATCH of these into crops
     * on the device, and waits until the bytes are not needed any more; after a failure all are for the CPU.
     * start_decoded is start over the crops that decode has left, which takes them. One thread may be in
     * open_decoder or decode while others use stages; start_decoded is not called while decode is. */
    int (*load_decoder)(struct effnet_error *error);
    int (*open_decoder)(struct backend_state *state, struct effnet_error *error);
    bool (*accepts)(struct backend_state *state, const void *data, size_t size_bytes,
                    struct backend_jpeg *jpeg);
    int (*decode)(struct backend_state *state, const struct backend_jpeg *jpegs, int n,
                  struct effnet_error *error);
    int (*start_decoded)(struct backend_state *state, int index, int n, struct effnet_error *error);

    /* As their namesakes in effnet_lab.h, arguments checked already. */
    int (*run_unit)(struct backend_state *state, int index, int n, const float *const *inputs, float *output,
                    struct effnet_error *error);
    int (*time)(struct backend_state *state, int n, bool cold, double *elapsed_us,
                struct effnet_error *error);
    int (*time_upload)(struct backend_state *state, int n, double *elapsed_us,
                       struct effnet_error *error); /* NULL: there is none */
    int (*profile)(struct backend_state *state, int n, bool cold, double *unit_us,
                   struct effnet_error *error);
};

/* units.c: a unit of these layers, with its inputs. */
struct effnet_unit effnet_unit_of(const effnet_model *model, int first, int last);
/* Which of a unit's inputs is the output of layer `index` (or EFFNET_IMAGE); -1: none. */
int effnet_unit_input(const struct effnet_unit *unit, int index);

enum backend_device { DEVICE_AUTO, DEVICE_CPU, DEVICE_REFERENCE, DEVICE_CUDA };

/* Reads "auto", "cpu", "reference", "cuda" or "cuda:N"; NULL is auto. */
int effnet_parse_device(const char *name, enum backend_device *kind, int *index, struct effnet_error *error);
/* What to say where CUDA is asked for and the build has none. */
extern const char effnet_no_cuda[];

/* What sessions may choose from. */
struct backend_choice {
    const struct backend *cpu, *cuda; /* cuda NULL: not in this build */
    /* Whether there is some, so that "auto" owes an explanation where it takes the CPU; nobody else asks. */
    bool (*nvidia_hardware)(const char *root);
    bool each_layer; /* as in backend_options */
};
/* effnet_session_open with another choice than this build and machine give, for tests. */
int effnet_session_open_from(const struct backend_choice *choice, const effnet_model *model,
                             const struct effnet_session_options *options, effnet_session **out,
                             struct effnet_error *error);

/* session.c, for the pipeline. */
/* As effnet_session_collect, or where features is not NULL _collect_features; but the stage of a pass that
 * fails stays the caller's, with its pixels, until it is submitted again or given back. */
int effnet_session_collect_or_keep(effnet_session *session, float *logits, float *features, int *n,
                                   struct effnet_error *error);

/* The same: a session's device decodes JPEGs. They are as in struct backend. */
/* Loads what this build's sessions may want, so that the next has less to do; the next says whether it
 * failed. */
void effnet_preload_decoder(void);
/* Loads it. EFFNET_E_UNAVAILABLE where the session's device does not decode, or it is not there. */
int effnet_session_load_decoder(const effnet_session *session, struct effnet_error *error);
int effnet_session_open_decoder(effnet_session *session, struct effnet_error *error);
bool effnet_session_accepts(effnet_session *session, const void *data, size_t size_bytes,
                            struct backend_jpeg *jpeg);
int effnet_session_decode(effnet_session *session, const struct backend_jpeg *jpegs, int n,
                          struct effnet_error *error);
/* As effnet_session_submit, over the n crops that were decoded last. */
int effnet_session_submit_decoded(effnet_session *session, uint8_t *pixels, int n,
                                  struct effnet_error *error);

extern const struct backend backend_reference;
extern const struct backend backend_onednn;
extern const struct backend backend_cuda;
extern const struct backend backend_int8; /* of integer networks, and of these alone */

#endif
