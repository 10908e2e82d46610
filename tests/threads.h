/* Sessions that several threads open, run and close at once, on whatever device the cases name: every run
 * gives the bits that a session gave which had the machine to itself. Ends the program where it runs out of
 * memory.
 *
 *   struct threads_case cases[] = {{.name = "lite1", .model = model, .images = 3,
 *                                   .options = {.device = "cpu", .max_batch = 2}}};
 *   int failed = threads_prepare(cases, 1, seed);
 *   if (!failed) failed = threads_run(cases, 1, 8, 200, seed, NULL, NULL);
 *   threads_free(cases, 1); */
#ifndef EFFNET_TESTS_THREADS_H
#define EFFNET_TESTS_THREADS_H

#include "effnet.h"
#include "random.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

struct threads_case {
    const char *name;
    const effnet_model *model;
    struct effnet_session_options options;
    int images; /* of a run; more than max_batch are several passes */
    /* threads_prepare's */
    uint8_t *pixels;
    float *expected; /* [images][classes] */
};

/* What a thread does between two sessions; returns NULL, or what went wrong, in a text that stays. */
typedef const char *threads_extra(void *context, int thread, uint64_t *random);

struct threads_worker {
    const struct threads_case *cases;
    int case_count, rounds, number, failures;
    uint64_t random;
    threads_extra *extra;
    void *context;
    pthread_barrier_t *start;
    char message[700]; /* of the first failure */
};

static inline void *threads_alloc(size_t count, size_t size)
{
    void *memory = calloc(count, size);
    if (memory) return memory;
    fprintf(stderr, "threads: out of memory\n");
    exit(1);
}

static inline size_t threads_image_bytes(const struct threads_case *c)
{
    const struct effnet_model_info *info = effnet_model_get_info(c->model);
    return (size_t)info->height * (size_t)info->width * (size_t)info->channels;
}

static inline size_t threads_classes(const struct threads_case *c)
{
    return (size_t)effnet_model_get_info(c->model)->classes;
}

static inline void threads_failed(struct threads_worker *w, const struct threads_case *c, int round,
                                  const char *what)
{
    if (!w->failures++)
        snprintf(w->message, sizeof w->message, "thread %d, round %d, %s: %.512s", w->number, round,
                 c ? c->name : "between sessions", what);
}

/* Opens a session, runs all images at once and then one of them alone, and closes it. */
static inline void threads_round(struct threads_worker *w, const struct threads_case *c, int round)
{
    const size_t classes = threads_classes(c), count = (size_t)c->images * classes;
    struct effnet_error error = {0};
    effnet_session *session;
    if (effnet_session_open(c->model, &c->options, &session, &error)) {
        threads_failed(w, c, round, error.message);
        return;
    }
    float *logits = threads_alloc(count, sizeof *logits);
    memset(logits, 0xff, count * sizeof *logits); /* NaNs */
    if (effnet_session_run(session, c->pixels, c->images, logits, &error))
        threads_failed(w, c, round, error.message);
    else if (memcmp(logits, c->expected, count * sizeof *logits) != 0)
        threads_failed(w, c, round, "other logits than alone");

    const size_t one = (size_t)random_int(&w->random, 0, c->images - 1);
    memset(logits, 0xff, classes * sizeof *logits);
    if (effnet_session_run(session, c->pixels + one * threads_image_bytes(c), 1, logits, &error))
        threads_failed(w, c, round, error.message);
    else if (memcmp(logits, c->expected + one * classes, classes * sizeof *logits) != 0)
        threads_failed(w, c, round, "one image has other logits than in its batch");
    effnet_session_close(session);
    free(logits);
}

static inline void *threads_work(void *argument)
{
    struct threads_worker *w = argument;
    pthread_barrier_wait(w->start);
    for (int round = 0; round < w->rounds; round++) {
        threads_round(w, &w->cases[random_int(&w->random, 0, w->case_count - 1)], round);
        const char *wrong = w->extra ? w->extra(w->context, w->number, &w->random) : NULL;
        if (wrong) threads_failed(w, NULL, round, wrong);
    }
    return NULL;
}

/* Draws each case's pixels and runs them in a session of their own, one after the other. Returns how many
 * cases failed, each with a line on standard output. */
static inline int threads_prepare(struct threads_case *cases, int count, uint64_t seed)
{
    int failed = 0;
    for (int i = 0; i < count; i++) {
        struct threads_case *c = &cases[i];
        const size_t bytes = (size_t)c->images * threads_image_bytes(c);
        struct effnet_error error = {0};
        effnet_session *session;
        c->pixels = threads_alloc(bytes, 1);
        c->expected = threads_alloc((size_t)c->images * threads_classes(c), sizeof *c->expected);
        for (size_t p = 0; p < bytes; p++) c->pixels[p] = (uint8_t)random_next(&seed);
        int status = effnet_session_open(c->model, &c->options, &session, &error);
        if (!status) status = effnet_session_run(session, c->pixels, c->images, c->expected, &error);
        effnet_session_close(session);
        if (status) printf("%s, alone: %s\n", c->name, error.message);
        failed += status != EFFNET_OK;
    }
    return failed;
}

/* Every one of `threads` threads opens, runs and closes `rounds` sessions of cases that it draws, and calls
 * `extra` (or NULL) after each. Returns how many rounds failed, with a line for each thread's first. */
static inline int threads_run(const struct threads_case *cases, int count, int threads, int rounds,
                              uint64_t seed, threads_extra *extra, void *context)
{
    struct threads_worker *workers = threads_alloc((size_t)threads, sizeof *workers);
    pthread_t *handles = threads_alloc((size_t)threads, sizeof *handles);
    pthread_barrier_t start;
    int failures = 0;
    pthread_barrier_init(&start, NULL, (unsigned)threads);
    for (int i = 0; i < threads; i++) {
        workers[i] = (struct threads_worker){.cases = cases,
                                             .case_count = count,
                                             .rounds = rounds,
                                             .number = i,
                                             .random = random_next(&seed),
                                             .extra = extra,
                                             .context = context,
                                             .start = &start};
        if (!pthread_create(&handles[i], NULL, threads_work, &workers[i])) continue;
        fprintf(stderr, "threads: the system gives no thread\n");
        exit(1);
    }
    for (int i = 0; i < threads; i++) {
        pthread_join(handles[i], NULL);
        if (workers[i].failures) printf("%s (one of %d failures)\n", workers[i].message, workers[i].failures);
        failures += workers[i].failures;
    }
    pthread_barrier_destroy(&start);
    free(handles);
    free(workers);
    return failures;
}

static inline void threads_free(struct threads_case *cases, int count)
{
    for (int i = 0; i < count; i++) {
        free(cases[i].pixels);
        free(cases[i].expected);
        cases[i].pixels = NULL;
        cases[i].expected = NULL;
    }
}

#endif
