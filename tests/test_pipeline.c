/* Pipelines and streams of batches: every item's logits are the bits that the steps one by one give, in
 * order, whatever fails, waits or ends around it. */
#include "effnet.h"
#include "random.h"
#include "weights_builder.h"

#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

enum {
    CLASSES = 11,
    CHANNELS = 65,
    CROP_BYTES = 21 * 21 * 3,
    IMAGES = 97,
    MAX_FILE_BYTES = 64 + 3 * 40 * 40
};

static effnet_model *model;

/* Encoded images, and what the steps one by one make of them. */
struct fixture {
    uint8_t files[IMAGES][MAX_FILE_BYTES];
    size_t sizes[IMAGES];
    int status[IMAGES];
    float logits[IMAGES][CLASSES];
    float features[IMAGES][CHANNELS];
    uint8_t crops[IMAGES][CROP_BYTES];
};

static struct fixture fixture;

static effnet_session *open_session_for(const char *device, int max_batch, enum effnet_features features)
{
    struct effnet_session_options options = effnet_session_defaults();
    struct effnet_error error = {0};
    effnet_session *session;
    options.device = device;
    options.max_batch = max_batch;
    options.threads = 2;
    options.features = features;
    if (effnet_session_open(model, &options, &session, &error)) fail_msg("%s: %s", device, error.message);
    return session;
}

static effnet_session *open_session(const char *device, int max_batch)
{
    return open_session_for(device, max_batch, EFFNET_FEATURES_NONE);
}

/* A PPM of random size and pixels; every tenth is cut short. */
static void make_file(int index, uint64_t *random)
{
    const int width = 1 + (int)(random_next(random) % 40), height = 1 + (int)(random_next(random) % 40);
    const size_t pixels = (size_t)width * (size_t)height * 3;
    uint8_t *file = fixture.files[index];
    const size_t header = (size_t)sprintf((char *)file, "P6\n%d %d\n255\n", width, height);
    for (size_t i = 0; i < pixels; i++) file[header + i] = (uint8_t)random_next(random);
    fixture.sizes[index] = header + pixels - (index % 10 == 3);
}

static int set_up(void **state)
{
    (void)state;
    uint64_t random = 20261128;
    model = weights_open(weights_tiny(1));
    const struct effnet_preprocess *p = &effnet_model_get_info(model)->preprocess;
    effnet_session *session = open_session_for("cpu", 1, EFFNET_FEATURES_POOLED);
    for (int i = 0; i < IMAGES; i++) {
        struct effnet_image image;
        make_file(i, &random);
        fixture.status[i] = effnet_image_decode(fixture.files[i], fixture.sizes[i], "x", NULL, &image, NULL);
        uint8_t *crop = fixture.crops[i];
        if (fixture.status[i]) continue;
        if (effnet_image_fit(&image, p, crop, NULL)) return -1;
        if (effnet_session_run_features(session, crop, 1, fixture.logits[i], fixture.features[i], NULL))
            return -1;
        effnet_image_free(&image);
    }
    effnet_session_close(session);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    effnet_model_close(model);
    return 0;
}

/* ---------------------------------------------------------------- sources */

struct list {
    int next, count;
    int fails_at;            /* this call fails; -1: none */
    const char *const *path; /* one item is this file and no memory; NULL: none */
    int path_at;
    atomic_int inside; /* two calls at once would be wrong */
};

static int next_item(void *context, struct effnet_item *item, struct effnet_error *error)
{
    struct list *list = context;
    char name[64];
    assert_int_equal(atomic_fetch_add(&list->inside, 1), 0);
    const int i = list->next++;
    int given = i < list->count;
    if (i == list->fails_at) {
        error->status = EFFNET_E_NOINPUT;
        snprintf(error->message, sizeof error->message, "the list ends early");
        given = EFFNET_E_NOINPUT;
    } else if (given && list->path && i == list->path_at) {
        *item = (struct effnet_item){.name = *list->path, .tag = list};
    } else if (given) {
        snprintf(name, sizeof name, "item %d", i);
        *item = (struct effnet_item){.name = strdup(name),
                                     .data = fixture.files[i % IMAGES],
                                     .size_bytes = fixture.sizes[i % IMAGES],
                                     .tag = list};
        /* The name is copied before the next call: it may go then. */
        static char *last;
        free(last);
        last = (char *)item->name;
        if (i == list->count - 1) {
            static char copy[64];
            item->name = strcpy(copy, last);
            free(last);
            last = NULL;
        }
    }
    atomic_fetch_sub(&list->inside, 1);
    return given;
}

static void check_result(const struct effnet_result *result, const struct list *list)
{
    char name[64];
    const int i = (int)(result->index % IMAGES);
    snprintf(name, sizeof name, "item %d", (int)result->index);
    assert_string_equal(result->name, name);
    assert_ptr_equal(result->tag, list);
    assert_int_equal(result->status, fixture.status[i]);
    if (result->status) {
        assert_null(result->logits);
        if (!strstr(result->error->message, name) || !strstr(result->error->message, "truncated"))
            fail_msg("%s: %s", name, result->error->message);
    } else {
        assert_memory_equal(result->logits, fixture.logits[i], sizeof fixture.logits[i]);
    }
}

static int64_t early_bytes; /* of the pipelines that follow */

static effnet_pipeline *open_pipeline_for(struct list *list, int threads, bool unordered, bool crops)
{
    struct effnet_pipeline_options options = effnet_pipeline_defaults();
    struct effnet_error error = {0};
    effnet_pipeline *pipeline;
    options.threads = threads;
    options.unordered = unordered;
    options.early_bytes = early_bytes;
    options.crops = crops;
    if (effnet_pipeline_open(model, &options, next_item, list, &pipeline, &error))
        fail_msg("%s", error.message);
    return pipeline;
}

static effnet_pipeline *open_pipeline(struct list *list, int threads, bool unordered)
{
    return open_pipeline_for(list, threads, unordered, false);
}

static const struct effnet_result *next_result(effnet_pipeline *pipeline)
{
    const struct effnet_result *result;
    struct effnet_error error = {0};
    if (effnet_pipeline_next(pipeline, &result, &error)) fail_msg("%s", error.message);
    return result;
}

/* ---------------------------------------------------------------- tests */

static void run_whole(const char *device, int max_batch, int threads, int count, bool unordered, bool crops,
                      enum effnet_features features)
{
    struct list list = {.count = count, .fails_at = -1};
    effnet_pipeline *pipeline = open_pipeline_for(&list, threads, unordered, crops);
    effnet_session *session = open_session_for(device, max_batch, features);
    char *seen = calloc((size_t)count + 1, 1);
    const struct effnet_result *result;
    int failed = 0;
    assert_int_equal(effnet_pipeline_start(pipeline, session, NULL), EFFNET_OK);
    for (int i = 0; (result = next_result(pipeline)); i++) {
        if (!unordered) assert_int_equal(result->index, i);
        assert_in_range(result->index, 0, count - 1);
        assert_false(seen[result->index]);
        seen[result->index] = 1;
        failed += result->status != EFFNET_OK;
        check_result(result, &list);
        if (features && !result->status)
            assert_memory_equal(result->features, fixture.features[result->index % IMAGES],
                                sizeof fixture.features[0]);
        else
            assert_null(result->features);
        if (crops && !result->status)
            assert_memory_equal(result->crop, fixture.crops[result->index % IMAGES], CROP_BYTES);
        else
            assert_null(result->crop);
    }
    assert_null(next_result(pipeline)); /* it stays ended */
    for (int i = 0; i < count; i++) assert_true(seen[i]);
    struct effnet_pipeline_stats stats;
    effnet_pipeline_get_stats(pipeline, &stats);
    assert_int_equal(stats.items, count);
    assert_int_equal(stats.failed, failed);
    assert_true(stats.passes * max_batch >= count - failed);
    effnet_pipeline_close(pipeline);
    free(seen);
    /* The session is free again. */
    uint8_t *pixels = calloc(1, 21 * 21 * 3);
    float logits[CLASSES];
    assert_int_equal(effnet_session_run(session, pixels, 1, logits, NULL), EFFNET_OK);
    free(pixels);
    effnet_session_close(session);
}

static void test_whole(void **state)
{
    (void)state;
    static const int counts[] = {0, 1, 2, 31, 1500}, batches[] = {1, 3, 32};
    for (int c = 0; c < 5; c++)
        for (int b = 0; b < 3; b++)
            for (int threads = 1; threads <= 4; threads += 3)
                for (int unordered = 0; unordered < 2; unordered++)
                    run_whole("cpu", batches[b], threads, counts[c], unordered, batches[b] % 2,
                              unordered ? EFFNET_FEATURES_POOLED : EFFNET_FEATURES_NONE);
}

/* A source that waits for long after some items: these are answered meanwhile. */
struct gate {
    struct list list;
    pthread_mutex_t lock;
    int opens_at; /* the source gives no more than so many items until the lock is free */
};

static int next_behind_gate(void *context, struct effnet_item *item, struct effnet_error *error)
{
    struct gate *gate = context;
    if (gate->list.next == gate->opens_at) {
        pthread_mutex_lock(&gate->lock);
        pthread_mutex_unlock(&gate->lock);
    }
    return next_item(&gate->list, item, error);
}

static void test_source_waits(void **state)
{
    (void)state;
    effnet_session *session = open_session("cpu", 8);
    for (early_bytes = 0; early_bytes <= 5000000; early_bytes += 5000000) {
        struct gate gate = {.list = {.count = 30, .fails_at = -1}, .opens_at = 12};
        struct effnet_pipeline_options options = effnet_pipeline_defaults();
        effnet_pipeline *pipeline;
        options.early_bytes = early_bytes;
        pthread_mutex_init(&gate.lock, NULL);
        pthread_mutex_lock(&gate.lock);
        assert_int_equal(effnet_pipeline_open(model, &options, next_behind_gate, &gate, &pipeline, NULL),
                         EFFNET_OK);
        usleep(20000); /* the source is likely to be called for the last time before it waits */
        assert_int_equal(effnet_pipeline_start(pipeline, session, NULL), EFFNET_OK);
        for (int i = 0; i < 30; i++) {
            if (i == 12) pthread_mutex_unlock(&gate.lock);
            check_result(next_result(pipeline), &gate.list);
        }
        assert_null(next_result(pipeline));
        effnet_pipeline_close(pipeline);
        pthread_mutex_destroy(&gate.lock);
    }
    early_bytes = 0;
    effnet_session_close(session);
}

static void test_source_fails(void **state)
{
    (void)state;
    struct list list = {.count = 90, .fails_at = 70};
    struct effnet_error error = {0};
    const struct effnet_result *result;
    effnet_session *session = open_session("cpu", 8);
    effnet_pipeline *pipeline = open_pipeline(&list, 2, false);
    assert_int_equal(effnet_pipeline_start(pipeline, session, NULL), EFFNET_OK);
    for (int i = 0; i < 70; i++) check_result(next_result(pipeline), &list);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(effnet_pipeline_next(pipeline, &result, &error), EFFNET_E_NOINPUT);
        assert_null(result);
        assert_string_equal(error.message, "the list ends early");
    }
    effnet_pipeline_close(pipeline);
    effnet_session_close(session);
}

static void test_cancel(void **state);

/* Crops that are made before there is a session: few, and more than there are items. */
static void test_early(void **state)
{
    for (early_bytes = 5000; early_bytes <= 5000000; early_bytes *= 1000) {
        for (int unordered = 0; unordered < 2; unordered++) {
            run_whole("cpu", 3, 1, 31, unordered, true, EFFNET_FEATURES_NONE);
            run_whole("cpu", 32, 4, 1500, unordered, unordered, EFFNET_FEATURES_POOLED);
        }
        test_source_fails(state);
        test_cancel(state);
    }
    early_bytes = 0;
}

/* Whenever it is closed, nothing hangs, and the session can be used again. */
static void test_cancel(void **state)
{
    (void)state;
    effnet_session *session = open_session("cpu", 8);
    for (int taken = 0; taken < 120; taken += 7) {
        struct list list = {.count = 100000, .fails_at = -1};
        effnet_pipeline *pipeline = open_pipeline(&list, 3, taken % 2);
        if (taken) assert_int_equal(effnet_pipeline_start(pipeline, session, NULL), EFFNET_OK);
        for (int i = 1; i < taken; i++) check_result(next_result(pipeline), &list);
        if (taken % 3 == 0) effnet_pipeline_cancel(pipeline);
        effnet_pipeline_close(pipeline);
    }
    uint8_t *stages[8];
    int count = 0;
    while (assert_int_equal(effnet_session_stage(session, &stages[count], NULL), EFFNET_OK), stages[count])
        count++;
    assert_true(count >= 3); /* none was kept */
    effnet_session_close(session);
}

struct opener {
    const char *path;
    atomic_bool open;
};

/* Another process at work: writes the image half, waits to be told, writes the rest. */
static void *write_slowly(void *argument)
{
    struct opener *opener = argument;
    const int fd = open(opener->path, O_WRONLY);
    const size_t half = fixture.sizes[0] / 2;
    assert_int_equal(write(fd, fixture.files[0], half), (ssize_t)half);
    while (!atomic_load(&opener->open)) usleep(1000);
    assert_int_equal(write(fd, fixture.files[0] + half, fixture.sizes[0] - half),
                     (ssize_t)(fixture.sizes[0] - half));
    close(fd);
    return NULL;
}

/* A file that gives half of its bytes and then nothing: the others come all the same, where there is no
 * order, although their batch is not full. */
static void test_slow_file(void **state)
{
    (void)state;
    char folder[] = "/tmp/effnet-test-XXXXXX", path[64];
    assert_non_null(mkdtemp(folder));
    snprintf(path, sizeof path, "%s/fifo", folder);
    assert_int_equal(mkfifo(path, 0600), 0);
    struct opener opener = {.path = path};
    pthread_t writer;
    assert_int_equal(pthread_create(&writer, NULL, write_slowly, &opener), 0);

    const char *const slow = path;
    struct list list = {.count = 61, .fails_at = -1, .path = &slow, .path_at = 5};
    effnet_session *session = open_session("cpu", 32);
    effnet_pipeline *pipeline = open_pipeline(&list, 1, true);
    assert_int_equal(effnet_pipeline_start(pipeline, session, NULL), EFFNET_OK);
    for (int i = 0; i < 60; i++) {
        const struct effnet_result *result = next_result(pipeline);
        assert_int_not_equal(result->index, 5);
        check_result(result, &list);
    }
    atomic_store(&opener.open, true);
    const struct effnet_result *result = next_result(pipeline);
    assert_int_equal(result->index, 5);
    assert_string_equal(result->name, path);
    assert_memory_equal(result->logits, fixture.logits[0], sizeof fixture.logits[0]);
    assert_null(next_result(pipeline));
    pthread_join(writer, NULL);
    effnet_pipeline_close(pipeline);
    effnet_session_close(session);
    unlink(path);
    rmdir(folder);
}

struct twice {
    const char *path;
    int left;
};

static int next_twice(void *context, struct effnet_item *item, struct effnet_error *error)
{
    struct twice *twice = context;
    (void)error;
    item->name = twice->path;
    return twice->left-- > 0;
}

/* A file that is nearly as large as what large ones share before there is a session, twice: the first keeps
 * its part, the second waits, and is not opened when the pipeline stops. */
static void test_large_files_stop(void **state)
{
    (void)state;
    char path[] = "/tmp/effnet-test-XXXXXX", event[sizeof(struct inotify_event)];
    const int fd = mkstemp(path), events = inotify_init1(IN_CLOEXEC);
    assert_int_equal(write(fd, fixture.files[0], fixture.sizes[0]), (ssize_t)fixture.sizes[0]);
    assert_int_equal(ftruncate(fd, 60 << 20), 0);
    assert_true(inotify_add_watch(events, path, IN_OPEN) >= 0);

    struct twice twice = {path, 2};
    struct effnet_pipeline_options options = effnet_pipeline_defaults();
    effnet_pipeline *pipeline;
    options.threads = 1;
    assert_int_equal(effnet_pipeline_open(model, &options, next_twice, &twice, &pipeline, NULL), EFFNET_OK);
    assert_int_equal(read(events, event, sizeof event), (ssize_t)sizeof event);
    usleep(20000); /* the second is likely to wait */
    effnet_pipeline_close(pipeline);
    assert_int_equal(fcntl(events, F_SETFL, O_NONBLOCK), 0);
    assert_int_equal(read(events, event, sizeof event), -1);
    close(events);
    close(fd);
    unlink(path);
}

static void expect_usage(int status, const struct effnet_error *error, const char *part)
{
    if (status != EFFNET_E_USAGE || !strstr(error->message, part))
        fail_msg("status %d, \"%s\"; expected \"%s\"", status, error->message, part);
}

static void test_arguments(void **state)
{
    (void)state;
    struct effnet_error error = {0};
    struct effnet_pipeline_options options = effnet_pipeline_defaults();
    const struct effnet_result *result;
    struct list list = {.count = 1, .fails_at = -1};
    effnet_pipeline *pipeline = (effnet_pipeline *)&pipeline;
    expect_usage(effnet_pipeline_open(NULL, NULL, next_item, &list, &pipeline, &error), &error, "no model");
    assert_null(pipeline);
    expect_usage(effnet_pipeline_open(model, NULL, NULL, &list, &pipeline, &error), &error, "no source");
    expect_usage(effnet_pipeline_open(model, NULL, next_item, &list, NULL, &error), &error, "no place");
    options.threads = -1;
    expect_usage(effnet_pipeline_open(model, &options, next_item, &list, &pipeline, &error), &error,
                 "-1 threads");
    options = effnet_pipeline_defaults();
    options.early_bytes = -1;
    expect_usage(effnet_pipeline_open(model, &options, next_item, &list, &pipeline, &error), &error, "early");
    options = effnet_pipeline_defaults();
    options.crops = options.decode_gpu = true;
    expect_usage(effnet_pipeline_open(model, &options, next_item, &list, &pipeline, &error), &error,
                 "crops that a GPU decodes");
    options = effnet_pipeline_defaults();
    options.reserved[3] = 1;
    expect_usage(effnet_pipeline_open(model, &options, next_item, &list, &pipeline, &error), &error,
                 "pipeline");
    assert_int_equal(list.next, 0);

    effnet_session *session = open_session("cpu", 2);
    assert_int_equal(effnet_pipeline_open(model, NULL, next_item, &list, &pipeline, &error), EFFNET_OK);
    expect_usage(effnet_pipeline_next(pipeline, &result, &error), &error, "not started");
    expect_usage(effnet_pipeline_start(pipeline, NULL, &error), &error, "no session");
    assert_int_equal(effnet_pipeline_start(pipeline, session, &error), EFFNET_OK);
    expect_usage(effnet_pipeline_start(pipeline, session, &error), &error, "started before");
    effnet_pipeline_close(pipeline);
    effnet_pipeline_close(NULL);
    effnet_session_close(session);
}

/* The sanitizers end a program that asks for more memory than there can be, unless they are told. */
const char *__asan_default_options(void);
const char *__tsan_default_options(void);

__attribute__((visibility("default"))) const char *__asan_default_options(void)
{
    return "allocator_may_return_null=1";
}

__attribute__((visibility("default"))) const char *__tsan_default_options(void)
{
    return "allocator_may_return_null=1";
}

/* A start that has no memory for the session's features, half way, can be tried again. That it leaves nothing
 * behind is for the address sanitizer to see. */
static void test_start_again(void **state)
{
    (void)state;
    struct list list = {.count = IMAGES, .fails_at = -1};
    struct effnet_error error = {0};
    effnet_session *session = open_session_for("cpu", 2, EFFNET_FEATURES_POOLED);
    struct effnet_session_info *info = (struct effnet_session_info *)effnet_session_get_info(session);
    effnet_pipeline *pipeline = open_pipeline_for(&list, 2, false, true);
    const int features = info->feature_count;
    const struct effnet_result *result;
    for (int i = 0; i < 2; i++) {
        info->feature_count = -1; /* as a size, more than there can be */
        assert_int_equal(effnet_pipeline_start(pipeline, session, &error), EFFNET_E_NOMEM);
        assert_non_null(strstr(error.message, "results"));
        expect_usage(effnet_pipeline_next(pipeline, &result, &error), &error, "not started");
        if (i == 1) break; /* closed without */
        info->feature_count = features;
        assert_int_equal(effnet_pipeline_start(pipeline, session, &error), EFFNET_OK);
        for (int k = 0; k < IMAGES; k++) check_result(next_result(pipeline), &list);
        assert_null(next_result(pipeline));
        effnet_pipeline_close(pipeline);
        list = (struct list){.count = IMAGES, .fails_at = -1};
        pipeline = open_pipeline_for(&list, 2, false, true);
    }
    effnet_pipeline_close(pipeline);
    info->feature_count = features;
    effnet_session_close(session);
}

static uint8_t *take_stage(effnet_session *session)
{
    uint8_t *pixels;
    assert_int_equal(effnet_session_stage(session, &pixels, NULL), EFFNET_OK);
    return pixels;
}

/* Batches by hand: in the order of submitting, each with its own pixels. */
static void check_stream(const char *device)
{
    enum { BATCH = 3, ROUNDS = 40, IMAGE = 21 * 21 * 3 };
    effnet_session *session = open_session(device, BATCH);
    struct effnet_error error = {0};
    float expected[4][BATCH * CLASSES], logits[BATCH * CLASSES];
    int images[4] = {0}, n, under_way = 0, first = 0;
    uint64_t random = 5;
    for (int round = 0; round < ROUNDS; round++) {
        uint8_t *pixels = take_stage(session);
        if (!pixels) {
            memset(logits, 0xff, sizeof logits);
            assert_int_equal(effnet_session_collect(session, logits, &n, NULL), EFFNET_OK);
            assert_int_equal(n, images[first]);
            assert_memory_equal(logits, expected[first], (size_t)n * CLASSES * sizeof *logits);
            first = (first + 1) % 4;
            under_way--;
            pixels = take_stage(session);
        }
        assert_non_null(pixels);
        const int place = (first + under_way++) % 4;
        images[place] = 1 + round % BATCH;
        for (int i = 0; i < images[place] * IMAGE; i++) pixels[i] = (uint8_t)random_next(&random);
        effnet_session *alone = open_session(device, BATCH);
        assert_int_equal(effnet_session_run(alone, pixels, images[place], expected[place], NULL), EFFNET_OK);
        effnet_session_close(alone);
        expect_usage(effnet_session_run(session, pixels, 1, logits, &error), &error, "stages handed out");
        assert_int_equal(effnet_session_submit(session, pixels, images[place], NULL), EFFNET_OK);
        expect_usage(effnet_session_submit(session, pixels, 1, &error), &error, "no stage");
    }
    for (n = 1; n; first = (first + 1) % 4) {
        assert_int_equal(effnet_session_collect(session, logits, &n, NULL), EFFNET_OK);
        if (n) assert_memory_equal(logits, expected[first], (size_t)n * CLASSES * sizeof *logits);
    }
    uint8_t *pixels = take_stage(session);
    expect_usage(effnet_session_submit(session, pixels, BATCH + 1, &error), &error, "4 images");
    expect_usage(effnet_session_submit(session, pixels + 1, 1, &error), &error, "no stage");
    assert_int_equal(effnet_session_submit(session, pixels, 0, NULL), EFFNET_OK); /* given back */
    assert_int_equal(effnet_session_run(session, pixels, 1, logits, NULL), EFFNET_OK);
    pixels = take_stage(session); /* handed out when the session is closed */
    assert_non_null(pixels);
    effnet_session_close(session);
}

static void test_stream(void **state)
{
    (void)state;
    check_stream("cpu");
    check_stream("reference");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_stream),       cmocka_unit_test(test_arguments),
        cmocka_unit_test(test_start_again),  cmocka_unit_test(test_whole),
        cmocka_unit_test(test_early),        cmocka_unit_test(test_source_waits),
        cmocka_unit_test(test_source_fails), cmocka_unit_test(test_cancel),
        cmocka_unit_test(test_slow_file),    cmocka_unit_test(test_large_files_stop),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
