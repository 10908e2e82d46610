/* fork with sessions open and other threads at work: a child may close what it has, exit, open its own and
 * use that, decode, and multiply; what it may not do is refused in words. Nothing of it hangs: an alarm ends
 * a child that does. */
#include "effnet_lab.h"
#include "threads.h"
#include "weights_builder.h"

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

/* clang's way of saying it. */
#ifdef __has_feature
#if __has_feature(thread_sanitizer)
#define __SANITIZE_THREAD__ 1
#elif __has_feature(address_sanitizer)
#define __SANITIZE_ADDRESS__ 1
#endif
#endif

enum { ROUNDS = 35, STREAM_ROUNDS = 8, IMAGES = 3, CLASSES = 11, CHILD_SECONDS = 60 };

/* The leak sanitizer asks this when a process ends. In a child it finds what OpenMP kept for the parent's
 * threads, which are not there to free it. */
static bool is_child;
/* The sanitizer's library is to find it. */
__attribute__((visibility("default"))) int __lsan_is_turned_off(void);
int __lsan_is_turned_off(void)
{
    return is_child;
}

/* What a child does; returns NULL, or what went wrong. */
typedef const char *child_task(void *context);

/* Runs a task in a child. Its standard output goes nowhere, since it has what is still buffered here. */
static void in_child(child_task *task, void *context)
{
    int pipes[2], status;
    char message[256] = "";
    assert_int_equal(pipe(pipes), 0);
    fflush(NULL);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        is_child = true;
        alarm(CHILD_SECONDS);
        const char *wrong = task(context);
        ssize_t written = wrong ? write(pipes[1], wrong, strlen(wrong)) : 0;
        exit(wrong || written < 0 ? 1 : 0); /* with all that exit does, not _exit */
    }
    close(pipes[1]);
    ssize_t length = read(pipes[0], message, sizeof message - 1);
    close(pipes[0]);
    assert_int_equal(waitpid(child, &status, 0), child);
    if (WIFSIGNALED(status))
        fail_msg("the child ended by signal %d (%s)", WTERMSIG(status), strsignal(WTERMSIG(status)));
    if (length > 0 || WEXITSTATUS(status))
        fail_msg("the child: exit status %d, %s", WEXITSTATUS(status), message);
}

struct family {
    effnet_model *model;
    effnet_session *session; /* the parent's */
    uint8_t *pixels;
    float expected[IMAGES * CLASSES];
    const char *device;
    struct effnet_linear_args linear;
    float *product;
};

static effnet_session *open_session(const struct family *f)
{
    const struct effnet_session_options options = {.device = f->device, .max_batch = 2, .threads = 3};
    effnet_session *session;
    return effnet_session_open(f->model, &options, &session, NULL) ? NULL : session;
}

static bool runs_right(const struct family *f, effnet_session *session)
{
    float logits[IMAGES * CLASSES];
    memset(logits, 0xff, sizeof logits);
    return !effnet_session_run(session, f->pixels, IMAGES, logits, NULL) &&
           memcmp(logits, f->expected, sizeof logits) == 0;
}

enum { SIDE = 160 }; /* large enough for several threads */

static bool multiplies_right(const struct family *f)
{
    static _Thread_local float y[SIDE * SIDE];
    struct effnet_linear_args args = f->linear;
    args.y = y;
    memset(y, 0xff, sizeof y);
    return !effnet_linear(&args, EFFNET_MEMORY_HOST, NULL, NULL) && memcmp(y, f->product, sizeof y) == 0;
}

static struct family family_new(const char *device)
{
    uint64_t random = random_seed(device, 81);
    struct family f = {.device = device, .model = weights_open(weights_tiny(random_next(&random)))};
    const struct effnet_model_info *info = effnet_model_get_info(f.model);
    const size_t bytes = (size_t)(IMAGES * info->height * info->width * 3);
    f.pixels = malloc(bytes);
    f.product = malloc(SIDE * SIDE * sizeof *f.product);
    float *x = malloc(SIDE * SIDE * sizeof *x);
    assert_true(f.pixels && f.product && x);
    for (size_t i = 0; i < bytes; i++) f.pixels[i] = (uint8_t)random_next(&random);
    for (int i = 0; i < SIDE * SIDE; i++) x[i] = random_float(&random, 1);
    f.linear = (struct effnet_linear_args){.m = SIDE,
                                           .n = SIDE,
                                           .k = SIDE,
                                           .x = x,
                                           .w = x,
                                           .y = f.product,
                                           .ldx = SIDE,
                                           .ldw = SIDE,
                                           .ldy = SIDE,
                                           .x_type = EFFNET_FP32,
                                           .w_type = EFFNET_FP32,
                                           .y_type = EFFNET_FP32};
    assert_int_equal(effnet_linear(&f.linear, EFFNET_MEMORY_HOST, NULL, NULL), EFFNET_OK);
    f.session = open_session(&f);
    assert_non_null(f.session);
    assert_int_equal(effnet_session_run(f.session, f.pixels, IMAGES, f.expected, NULL), EFFNET_OK);
    return f;
}

/* The parent's session has come to no harm by its children. */
static void family_free(struct family *f)
{
    assert_true(runs_right(f, f->session) && multiplies_right(f));
    effnet_session_close(f->session);
    effnet_model_close(f->model);
    free((void *)(uintptr_t)f->linear.x);
    free(f->product);
    free(f->pixels);
}

/* ---------------------------------------------------------------- what children do */

static const char *child_exit(void *context)
{
    (void)context;
    return NULL;
}

static const char *child_close(void *context)
{
    struct family *f = context;
    effnet_session_close(f->session);
    effnet_model_close(f->model);
    return NULL;
}

static const char *child_open(void *context)
{
    struct family *f = context;
    effnet_session *own = open_session(f);
    if (!own) return "a session does not open";
    if (!runs_right(f, own)) return "a session gives other logits";
    effnet_session_close(f->session);
    if (!runs_right(f, own)) return "a session gives other logits once the parent's is closed";
    effnet_session_close(own);
    effnet_model_close(f->model);
    return NULL;
}

static const char *child_multiply(void *context)
{
    struct family *f = context;
    for (int i = 0; i < 3; i++)
        if (!multiplies_right(f)) return "another product";
    return NULL;
}

/* Whether a call on the parent's session was refused in words. */
static bool refused(int status, const struct effnet_error *error)
{
    return status == EFFNET_E_USAGE && error->status == status && strstr(error->message, "forked");
}

static const char *child_misuse(void *context)
{
    struct family *f = context;
    static float tensor[1 << 16];
    double us[64];
    struct effnet_error error = {0};
    if (!refused(effnet_session_run(f->session, f->pixels, 1, tensor, &error), &error)) return "run";
    if (!refused(effnet_session_run_unit(f->session, 0, 1, &(const float *){tensor}, tensor, &error), &error))
        return "run_unit";
    if (!refused(effnet_session_time(f->session, 1, false, us, &error), &error)) return "time";
    if (!refused(effnet_session_profile(f->session, 1, false, us, &error), &error)) return "profile";
    /* What only reads may go on. */
    if (effnet_session_get_info(f->session)->max_batch != 2) return "get_info";
    if (effnet_session_unit_count(f->session) < 1 || !effnet_session_unit(f->session, 0)->kernel)
        return "units";
    if (!effnet_model_layer(f->model, 0)->weight) return "layer";
    effnet_session_close(f->session);
    return NULL;
}

/* A child of a child, which opens what its own child then closes. */
static const char *child_with_child(void *context)
{
    struct family f = *(struct family *)context;
    effnet_session *parents = f.session;
    f.session = open_session(&f);
    if (!f.session || !runs_right(&f, f.session)) return "a session in the child";
    in_child(child_misuse, &f);
    in_child(child_open, &f);
    if (!runs_right(&f, f.session)) return "a session in the child, after its own children";
    effnet_session_close(f.session);
    effnet_session_close(parents);
    return NULL;
}

/* A network of sizes that nobody had before, so that oneDNN makes primitives and locks its cache for them. */
static effnet_model *new_network(uint64_t *random)
{
    const int side = random_int(random, 9, 60);
    struct weights *w = weights_new(random_next(random), side, side);
    weights_conv(w, "stem", random_int(random, 3, 40), 3, 2, WEIGHTS_SAME, "relu6");
    for (int i = 0; i < 4; i++)
        weights_mbconv(w, random_int(random, 3, 60), random_int(random, 3, 90), 3, 1, WEIGHTS_SAME, "relu6",
                       false);
    weights_head(w, random_int(random, 3, 90), "relu6", CLASSES);
    return weights_open(w);
}

static const char *child_open_new(void *context)
{
    const struct family *f = context;
    uint64_t random = (uint64_t)getpid();
    for (int i = 0; i < 2; i++) {
        struct family other = {.device = f->device, .model = new_network(&random)};
        effnet_session *own = open_session(&other);
        if (!own) return "a session of another network does not open";
        effnet_session_close(own);
        effnet_model_close(other.model);
    }
    return NULL;
}

static child_task *const tasks[] = {child_exit,     child_close,  child_open,      child_open_new,
                                    child_multiply, child_misuse, child_with_child};
enum { TASKS = sizeof tasks / sizeof tasks[0] };

/* ---------------------------------------------------------------- the tests */

static void check_quiet(const char *device)
{
    struct family f = family_new(device);
    for (int i = 0; i < TASKS; i++) in_child(tasks[i], &f);
    family_free(&f);
}

static void test_quiet(void **state)
{
    (void)state;
    check_quiet("cpu");
    check_quiet("reference");
}

#ifndef __SANITIZE_ADDRESS__ /* its allocator leaves a child the locks that other threads held */
struct noise {
    const struct family *family;
    atomic_bool stop;
    atomic_int wrong, rounds;
    int kind;
};

/* Sessions that are opened and closed again; one that runs all the time; products. */
static void *make_noise(void *argument)
{
    struct noise *noise = argument;
    const struct family *f = noise->family;
    uint64_t random = 83;
    effnet_session *kept = noise->kind == 1 ? open_session(f) : NULL;
    while (!atomic_load(&noise->stop)) {
        bool good;
        if (noise->kind == 0) {
            struct family other = {.device = "cpu", .model = new_network(&random)};
            effnet_session *session = open_session(&other);
            good = session != NULL;
            effnet_session_close(session);
            effnet_model_close(other.model);
        } else {
            good = kept ? runs_right(f, kept) : multiplies_right(f);
        }
        atomic_fetch_add(&noise->rounds, 1);
        if (!good) atomic_fetch_add(&noise->wrong, 1);
    }
    effnet_session_close(kept);
    return NULL;
}

/* Children made at any moment of what other threads do. */
static void test_busy(void **state)
{
    (void)state;
    enum { NOISES = 3 };
    struct family f = family_new("cpu");
    struct noise noises[NOISES];
    pthread_t threads[NOISES];
    for (int i = 0; i < NOISES; i++) {
        noises[i] = (struct noise){.family = &f, .kind = i};
        assert_int_equal(pthread_create(&threads[i], NULL, make_noise, &noises[i]), 0);
    }
    uint64_t random = random_seed("busy", 82);
    for (int round = 0; round < ROUNDS; round++) {
        usleep((useconds_t)random_int(&random, 0, 3000));
        in_child(tasks[round % TASKS], &f);
    }
    for (int i = 0; i < NOISES; i++) {
        atomic_store(&noises[i].stop, true);
        pthread_join(threads[i], NULL);
        assert_true(noises[i].rounds > 0);
        assert_int_equal(noises[i].wrong, 0);
    }
    family_free(&f);
}

/* ---------------------------------------------------------------- pipelines */

struct stream {
    struct family *family;
    effnet_pipeline *pipeline;
    atomic_bool stop;
    int wrong;
};

/* Images for ever, black and of seven sizes in turn, so that the memory that decodes them grows and shrinks.
 */
static int give_image(void *context, struct effnet_item *item, struct effnet_error *error)
{
    enum { LARGEST = 7 };
    static uint8_t images[LARGEST][64 * LARGEST * 64 * LARGEST * 3 + 32];
    static int turn;
    (void)context;
    (void)error;
    turn = turn % LARGEST + 1;
    uint8_t *image = images[turn - 1];
    const int side = 64 * turn, header = sprintf((char *)image, "P6 %d %d 255\n", side, side);
    *item = (struct effnet_item){
        .name = "image", .data = image, .size_bytes = (size_t)header + (size_t)side * (size_t)side * 3};
    return 1;
}

static void *take_results(void *argument)
{
    struct stream *stream = argument;
    const struct effnet_result *result;
    while (!atomic_load(&stream->stop))
        if (effnet_pipeline_next(stream->pipeline, &result, NULL) || !result || result->status)
            stream->wrong++;
    return NULL;
}

static const char *child_close_stream(void *context)
{
    const struct stream *stream = context;
    const struct effnet_result *result;
    struct effnet_error error = {0};
    if (!refused(effnet_pipeline_next(stream->pipeline, &result, &error), &error)) return "next";
    effnet_pipeline_close(stream->pipeline);
    effnet_session_close(stream->family->session);
    return NULL;
}

/* A child closes a pipeline that is decoding. */
static void test_stream(void **state)
{
    (void)state;
    struct family f = family_new("cpu");
    struct stream stream = {.family = &f};
    struct effnet_pipeline_options options = effnet_pipeline_defaults();
    pthread_t taker;
    options.threads = 3;
    assert_int_equal(effnet_pipeline_open(f.model, &options, give_image, NULL, &stream.pipeline, NULL),
                     EFFNET_OK);
    assert_int_equal(effnet_pipeline_start(stream.pipeline, f.session, NULL), EFFNET_OK);
    assert_int_equal(pthread_create(&taker, NULL, take_results, &stream), 0);
    uint64_t random = random_seed("stream", 84);
    for (int round = 0; round < STREAM_ROUNDS; round++) {
        usleep((useconds_t)random_int(&random, 0, 3000));
        in_child(child_close_stream, &stream);
    }
    atomic_store(&stream.stop, true);
    pthread_join(taker, NULL);
    assert_int_equal(stream.wrong, 0);
    effnet_pipeline_close(stream.pipeline);
    family_free(&f);
}
#endif

int main(void)
{
#ifdef __SANITIZE_THREAD__
    printf("the thread sanitizer does not follow a program with threads into its children\n");
    return 77;
#endif
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_quiet),
#ifndef __SANITIZE_ADDRESS__
        cmocka_unit_test(test_busy),
        cmocka_unit_test(test_stream),
#endif
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
