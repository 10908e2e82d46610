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
};

struct backend_state; /* each backend's own */

/* Batches that can be handed out or under way at once: one that is filled while another one waits for its
 * last image, one that computes and one whose pixels travel. */
enum { BACKEND_STAGES = 4 };

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

    /* As effnet_session_run; any n >= 1, the backend splits it into passes. */
    int (*run)(struct backend_state *state, const uint8_t *pixels, int n, float *logits,
               struct effnet_error *error);

    /* Stages of its own and passes over them; all three NULL: session.c has stages in ordinary memory, and
     * calls run. Each stage is allocated at the first call of stage for its index, and stays; [max_batch]
     * images. start does not wait, finish waits for the pass over that stage; finish may be called by one
     * thread while another one is in stage or start. Not while run is. */
    int (*stage)(struct backend_state *state, int index, uint8_t **pixels, struct effnet_error *error);
    int (*start)(struct backend_state *state, int index, int n, struct effnet_error *error);
    int (*finish)(struct backend_state *state, int index, float *logits, struct effnet_error *error);

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
};
/* effnet_session_open with another choice than this build and machine give, for tests. */
int effnet_session_open_from(const struct backend_choice *choice, const effnet_model *model,
                             const struct effnet_session_options *options, effnet_session **out,
                             struct effnet_error *error);

extern const struct backend backend_reference;
extern const struct backend backend_onednn;
extern const struct backend backend_cuda;

#endif
