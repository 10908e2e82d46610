/* Pipelines with one session or several, on devices that are made up: they decode some PPMs as the CPU does,
 * and fail at times, or break for good. Whoever decodes and computes, every item has the same bits, in order;
 * whatever fails or ends around it, nothing hangs. */
#include "backend/backend.h"
#include "common/error.h"
#include "random.h"
#include "weights_builder.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

enum {
    CLASSES = 11,
    IMAGES = 60,
    MAX_FILE_BYTES = 64 + 3 * 40 * 40,
    IMAGE_BYTES = 21 * 21 * 3,
    MOST_PIXELS = 1200,
    DEVICES = 3,
    NEVER = 1 << 30
};

static effnet_model *model;
static char folder[] = "/tmp/effnet-test-XXXXXX";

static struct {
    char paths[IMAGES][64];
    uint8_t files[IMAGES][MAX_FILE_BYTES];
    size_t sizes[IMAGES];
    int status[IMAGES];
    float logits[IMAGES][CLASSES];
} fixture;

/* ---------------------------------------------------------------- the device */

/* The reference, with stages of its own. */
static struct device {
    struct backend_state *state; /* NULL: the device is not in use */
    uint8_t *stages[BACKEND_STAGES];
    int images[BACKEND_STAGES];
    size_t stage_bytes;
    uint8_t crops[BACKEND_DECODE_BATCH * IMAGE_BYTES];
    int decoded;           /* of the last call of decode that did not fail */
    atomic_int with_crops; /* calls that use the crops */
    atomic_int starts, finishes, allocations, decodes;
    atomic_bool broken; /* every call fails */
} devices[DEVICES];

/* When a device breaks, at which call of what; and what fails before. */
static struct breaks {
    int at_start, at_finish, at_stage, at_decode;
} breaks[DEVICES];
static atomic_int decode_calls;
static int load_fails, open_fails;

static void break_never(void)
{
    for (int i = 0; i < DEVICES; i++) breaks[i] = (struct breaks){NEVER, NEVER, NEVER, NEVER};
}

static struct device *device_of(const struct backend_state *state)
{
    for (int i = 0; i < DEVICES; i++)
        if (devices[i].state == state) return &devices[i];
    fail_msg("no such device");
    return NULL;
}

/* Counts a call; a device that breaks stays broken. */
static int call_device(struct device *device, atomic_int *calls, int breaks_at, struct effnet_error *error)
{
    if (atomic_fetch_add(calls, 1) == breaks_at) atomic_store(&device->broken, true);
    if (!atomic_load(&device->broken)) return EFFNET_OK;
    return effnet_fail(error, EFFNET_E_INTERNAL, "device %d is broken", (int)(device - devices));
}

static bool no_hardware(const char *root)
{
    (void)root;
    return false;
}

static int fake_open(const effnet_model *from, const struct backend_options *options,
                     struct backend_state **out, struct effnet_error *error)
{
    struct device *device = device_of(NULL);
    memset(device, 0, sizeof *device);
    device->stage_bytes = (size_t)options->max_batch * IMAGE_BYTES;
    const int status = backend_reference.open(from, options, out, error);
    device->state = *out;
    return status;
}

static void fake_close(struct backend_state *state)
{
    struct device *device = device_of(state);
    for (int i = 0; i < BACKEND_STAGES; i++) free(device->stages[i]);
    device->state = NULL;
    backend_reference.close(state);
}

static int fake_stage(struct backend_state *state, int index, uint8_t **pixels, struct effnet_error *error)
{
    struct device *device = device_of(state);
    EFFNET_TRY(call_device(device, &device->allocations, breaks[device - devices].at_stage, error));
    device->stages[index] = *pixels = malloc(device->stage_bytes);
    return EFFNET_OK;
}

static int fake_start(struct backend_state *state, int index, int n, struct effnet_error *error)
{
    struct device *device = device_of(state);
    device->images[index] = n;
    return call_device(device, &device->starts, breaks[device - devices].at_start, error);
}

static int fake_finish(struct backend_state *state, int index, float *logits, float *features,
                       struct effnet_error *error)
{
    struct device *device = device_of(state);
    EFFNET_TRY(call_device(device, &device->finishes, breaks[device - devices].at_finish, error));
    return backend_reference.run(state, device->stages[index], device->images[index], logits, features,
                                 error);
}

static int fake_load_decoder(struct effnet_error *error)
{
    return load_fails ? effnet_fail(error, EFFNET_E_UNAVAILABLE, "no library") : EFFNET_OK;
}

static int fake_open_decoder(struct backend_state *state, struct effnet_error *error)
{
    (void)state;
    return open_fails ? effnet_fail(error, EFFNET_E_UNAVAILABLE, "no engines") : EFFNET_OK;
}

/* Two of three widths; of these, some are cut short. */
static bool fake_accepts(struct backend_state *state, const void *data, size_t size_bytes,
                         struct backend_jpeg *jpeg)
{
    (void)state;
    *jpeg = (struct backend_jpeg){.data = data, .size_bytes = size_bytes};
    return sscanf(data, "P6\n%d %d", &jpeg->width, &jpeg->height) == 2 && jpeg->width % 3;
}

static int fake_decode(struct backend_state *state, const struct backend_jpeg *jpegs, int n,
                       struct effnet_error *error)
{
    const struct effnet_preprocess *p = &effnet_model_get_info(model)->preprocess;
    struct device *device = device_of(state);
    assert_int_equal(atomic_fetch_add(&device->with_crops, 1), 0);
    assert_in_range(n, 1, (int)(device->stage_bytes / IMAGE_BYTES));
    int status = call_device(device, &device->decodes, breaks[device - devices].at_decode, error);
    if (atomic_fetch_add(&decode_calls, 1) % 5 == 4) status = effnet_fail(error, EFFNET_E_INTERNAL, "broken");
    memset(device->crops, 0xff, sizeof device->crops);
    for (int i = 0; i < n && !status; i++) {
        struct effnet_image image;
        status = effnet_image_decode(jpegs[i].data, jpegs[i].size_bytes, "x", NULL, &image, error);
        if (status) break;
        status = effnet_image_fit(&image, p, device->crops + i * IMAGE_BYTES, error);
        effnet_image_free(&image);
    }
    device->decoded = status ? 0 : n;
    atomic_fetch_sub(&device->with_crops, 1);
    return status;
}

static int fake_start_decoded(struct backend_state *state, int index, int n, struct effnet_error *error)
{
    struct device *device = device_of(state);
    assert_int_equal(atomic_fetch_add(&device->with_crops, 1), 0);
    assert_int_equal(n, device->decoded);
    memcpy(device->stages[index], device->crops, (size_t)n * IMAGE_BYTES);
    device->decoded = 0;
    atomic_fetch_sub(&device->with_crops, 1);
    return fake_start(state, index, n, error);
}

static effnet_session *open_session(const char *name, int max_batch)
{
    static struct backend fake;
    fake = backend_reference;
    fake.open = fake_open;
    fake.close = fake_close;
    fake.stage = fake_stage;
    fake.start = fake_start;
    fake.finish = fake_finish;
    fake.load_decoder = fake_load_decoder;
    fake.open_decoder = fake_open_decoder;
    fake.accepts = fake_accepts;
    fake.decode = fake_decode;
    fake.start_decoded = fake_start_decoded;
    const struct backend_choice choice = {&backend_reference, &fake, no_hardware, false};
    struct effnet_session_options options = effnet_session_defaults();
    struct effnet_error error = {0};
    effnet_session *session;
    options.device = name;
    options.max_batch = max_batch;
    if (effnet_session_open_from(&choice, model, &options, &session, &error)) fail_msg("%s", error.message);
    return session;
}

/* ---------------------------------------------------------------- items */

/* A PPM of random size and pixels, some of more than are allowed; two are cut short. */
static void make_file(int index, uint64_t *random)
{
    const int width = 1 + (int)(random_next(random) % 40), height = 1 + (int)(random_next(random) % 40);
    uint8_t *bytes = fixture.files[index];
    size_t size = (size_t)sprintf((char *)bytes, "P6\n%d %d\n255\n", width, height);
    for (int i = 0; i < width * height * 3; i++) bytes[size++] = (uint8_t)random_next(random);
    fixture.sizes[index] = size - (index % 30 == 3);
    snprintf(fixture.paths[index], sizeof fixture.paths[index], "%s/%d.ppm", folder, index);
    FILE *file = fopen(fixture.paths[index], "wb");
    assert_int_equal(fwrite(bytes, 1, fixture.sizes[index], file), fixture.sizes[index]);
    fclose(file);
}

static struct effnet_image_options image_options(void)
{
    struct effnet_image_options options = effnet_image_defaults();
    options.max_pixels = MOST_PIXELS;
    return options;
}

static int set_up(void **state)
{
    (void)state;
    break_never();
    uint64_t random = 20261128;
    if (!mkdtemp(folder)) return -1;
    model = weights_open(weights_tiny(1));
    const struct effnet_image_options options = image_options();
    effnet_session *session = open_session("reference", 1);
    uint8_t crop[IMAGE_BYTES];
    for (int i = 0; i < IMAGES; i++) {
        struct effnet_image image;
        make_file(i, &random);
        fixture.status[i] = effnet_image_decode(fixture.files[i], fixture.sizes[i], "x", &options, &image,
                                                NULL);
        if (fixture.status[i]) continue;
        if (effnet_image_fit(&image, &effnet_model_get_info(model)->preprocess, crop, NULL)) return -1;
        if (effnet_session_run(session, crop, 1, fixture.logits[i], NULL)) return -1;
        effnet_image_free(&image);
    }
    effnet_session_close(session);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    for (int i = 0; i < IMAGES; i++) unlink(fixture.paths[i]);
    rmdir(folder);
    effnet_model_close(model);
    return 0;
}

struct list {
    int next, count;
};

/* Every other one from memory. */
static int next_item(void *context, struct effnet_item *item, struct effnet_error *error)
{
    struct list *list = context;
    const int i = list->next % IMAGES;
    (void)error;
    if (list->next == list->count) return 0;
    *item = (struct effnet_item){.name = fixture.paths[i]};
    if (list->next % 2) {
        item->data = fixture.files[i];
        item->size_bytes = fixture.sizes[i];
    }
    list->next++;
    return 1;
}

static bool decodes_here; /* no device decodes in the pipelines that follow */

static effnet_pipeline *open_pipeline(struct list *list, int threads, bool unordered)
{
    struct effnet_pipeline_options options = effnet_pipeline_defaults();
    struct effnet_error error = {0};
    effnet_pipeline *pipeline;
    options.image = image_options();
    options.threads = threads;
    options.unordered = unordered;
    options.decode_gpu = !decodes_here;
    options.early_bytes = 20 * IMAGE_BYTES;
    if (effnet_pipeline_open(model, &options, next_item, list, &pipeline, &error))
        fail_msg("%s", error.message);
    return pipeline;
}

static void check_result(const struct effnet_result *result)
{
    const int i = (int)(result->index % IMAGES);
    assert_string_equal(result->name, fixture.paths[i]);
    if (result->status != fixture.status[i])
        fail_msg("status %d, not %d: %s", result->status, fixture.status[i], result->error->message);
    if (result->status)
        assert_non_null(strstr(result->error->message, fixture.paths[i]));
    else
        assert_memory_equal(result->logits, fixture.logits[i], sizeof fixture.logits[i]);
}

/* ---------------------------------------------------------------- tests */

/* Until the end or a failure; returns how many results there were. */
static int take_all(effnet_pipeline *pipeline, int count, bool unordered, struct effnet_error *error)
{
    char *seen = calloc((size_t)count + 1, 1);
    const struct effnet_result *result;
    int taken = 0;
    while (!effnet_pipeline_next(pipeline, &result, error) && result) {
        if (!unordered) assert_int_equal(result->index, taken);
        assert_in_range(result->index, 0, count - 1);
        assert_false(seen[result->index]);
        seen[result->index] = 1;
        check_result(result);
        taken++;
    }
    free(seen);
    return taken;
}

/* Every item's result is right. The devices that break are those that the pipeline says have failed. Returns
 * how many items the devices have decoded. */
static int64_t run_whole(int sessions, int max_batch, int threads, int count, bool unordered)
{
    struct list list = {.count = count};
    effnet_pipeline *pipeline = open_pipeline(&list, threads, unordered);
    effnet_session *session[DEVICES];
    struct effnet_error error = {0};
    struct effnet_pipeline_stats stats;
    for (int i = 0; i < sessions; i++) session[i] = open_session("cuda", max_batch);
    if (effnet_pipeline_start_sessions(pipeline, session, sessions, &error)) fail_msg("%s", error.message);
    assert_int_equal(take_all(pipeline, count, unordered, &error), count);
    assert_int_equal(error.status, EFFNET_OK);
    effnet_pipeline_get_stats(pipeline, &stats);
    assert_in_range(stats.items, count, count);
    assert_true(stats.decoded_gpu >= 0);
    for (int i = 0; i < sessions; i++) {
        const int status = effnet_pipeline_session_status(pipeline, i, &error);
        char message[64];
        snprintf(message, sizeof message, "device %d is broken", i);
        if (status) assert_string_equal(error.message, message);
        if (status) assert_true(devices[i].broken);
    }
    effnet_pipeline_close(pipeline);
    for (int i = 0; i < sessions; i++) effnet_session_close(session[i]);
    return stats.decoded_gpu;
}

static void test_whole(void **state)
{
    (void)state;
    static const int counts[] = {0, 1, 31, 120}, batches[] = {1, 3, 32};
    int64_t decoded = 0;
    for (int c = 0; c < 4; c++)
        for (int b = 0; b < 3; b++)
            for (int threads = 1; threads <= 4; threads += 3)
                for (int unordered = 0; unordered < 2; unordered++)
                    decoded += run_whole(1 + (b + c) % DEVICES, batches[b], threads, counts[c], unordered);
    assert_true(decoded > 0);
    assert_true(decode_calls > 5); /* some of them have failed */
}

/* Devices break at any call of any kind, as long as one stays whole; the pipeline loses nothing by it. */
static void test_sessions_break(void **state)
{
    (void)state;
    int broken = 0;
    for (int here = 0; here < 2; here++) {
        decodes_here = here;
        for (int at = 0; at < 8; at += 1 + at / 3) {
            for (int kind = 0; kind < 4; kind++) {
                for (int first = 0; first < 2; first++) {
                    struct breaks *two[] = {&breaks[first], &breaks[2]};
                    for (int i = 0; i < 1 + at % 2; i++) {
                        if (kind == 0) two[i]->at_start = at;
                        if (kind == 1) two[i]->at_finish = at + i;
                        if (kind == 2) two[i]->at_stage = at % BACKEND_STAGES;
                        if (kind == 3) two[i]->at_decode = at;
                    }
                    run_whole(3, 1 + 4 * first, 1 + at % 4, 150, at % 3 == 0);
                    for (int i = 0; i < DEVICES; i++) broken += devices[i].broken;
                    break_never();
                }
            }
        }
    }
    decodes_here = false;
    assert_true(broken > 20);
}

/* The last one's failure is the pipeline's, as that of one alone. */
static void test_all_sessions_break(void **state)
{
    (void)state;
    for (int sessions = 1; sessions <= DEVICES; sessions++) {
        for (int unordered = 0; unordered < 2; unordered++) {
            struct list list = {.count = 100000};
            struct effnet_error error = {0};
            effnet_pipeline *pipeline = open_pipeline(&list, 3, unordered);
            effnet_session *session[DEVICES];
            for (int i = 0; i < sessions; i++) {
                session[i] = open_session("cuda", 4);
                breaks[i].at_finish = 5 + 7 * i;
            }
            assert_int_equal(effnet_pipeline_start_sessions(pipeline, session, sessions, NULL), EFFNET_OK);
            assert_in_range(take_all(pipeline, list.count, unordered, &error), 0, list.count - 1);
            assert_int_equal(error.status, EFFNET_E_INTERNAL);
            assert_non_null(strstr(error.message, "is broken"));
            for (int i = 0; i < sessions; i++)
                assert_int_equal(effnet_pipeline_session_status(pipeline, i, NULL), EFFNET_E_INTERNAL);
            effnet_pipeline_close(pipeline);
            for (int i = 0; i < sessions; i++) effnet_session_close(session[i]);
            break_never();
        }
    }
}

static void test_arguments(void **state)
{
    (void)state;
    struct list list = {.count = 10};
    struct effnet_error error = {0};
    effnet_pipeline *pipeline = open_pipeline(&list, 2, false);
    effnet_session *session[] = {open_session("cuda", 4), open_session("cuda", 4), open_session("cuda", 3)};
    effnet_session *const twice[] = {session[0], session[1], session[0]}, *const none[] = {session[0], NULL};
    static const char *const parts[] = {"another batch", "there twice", "is NULL", "from 1 to 64",
                                        "no session"};
    effnet_session *const *const lists[] = {session, twice, none, session, NULL};
    static const int counts[] = {3, 3, 2, 0, 1};
    for (int i = 0; i < 5; i++) {
        assert_int_equal(effnet_pipeline_start_sessions(pipeline, lists[i], counts[i], &error),
                         EFFNET_E_USAGE);
        if (!strstr(error.message, parts[i])) fail_msg("%s", error.message);
    }
    assert_int_equal(effnet_pipeline_session_status(pipeline, 0, &error), EFFNET_E_USAGE);
    assert_int_equal(effnet_pipeline_start_sessions(pipeline, session, 2, NULL), EFFNET_OK);
    assert_int_equal(effnet_pipeline_start_sessions(pipeline, session, 2, &error), EFFNET_E_USAGE);
    assert_int_equal(take_all(pipeline, list.count, false, NULL), list.count);
    assert_int_equal(effnet_pipeline_session_status(pipeline, 1, &error), EFFNET_OK);
    assert_int_equal(effnet_pipeline_session_status(pipeline, 2, &error), EFFNET_E_USAGE);
    effnet_pipeline_close(pipeline);
    for (int i = 0; i < 3; i++) effnet_session_close(session[i]);
}

/* Whenever it is closed, also while a device breaks, nothing hangs, and all stages are free again. */
static void test_cancel(void **state)
{
    (void)state;
    effnet_session *session[] = {open_session("cuda", 8), open_session("cuda", 8)};
    for (int taken = 0; taken < 300; taken += 97) {
        struct list list = {.count = 100000};
        const struct effnet_result *result;
        effnet_pipeline *pipeline = open_pipeline(&list, 3, taken % 2);
        if (taken > 200) breaks[1].at_finish = devices[1].finishes + 3;
        if (taken) assert_int_equal(effnet_pipeline_start_sessions(pipeline, session, 2, NULL), EFFNET_OK);
        for (int i = 1; i < taken; i++) {
            assert_int_equal(effnet_pipeline_next(pipeline, &result, NULL), EFFNET_OK);
            check_result(result);
        }
        if (taken % 3 == 0) effnet_pipeline_cancel(pipeline);
        effnet_pipeline_close(pipeline);
    }
    atomic_store(&devices[1].broken, false);
    for (int i = 0; i < 2 * BACKEND_STAGES; i++) {
        uint8_t *pixels;
        assert_int_equal(effnet_session_stage(session[i % 2], &pixels, NULL), EFFNET_OK);
        assert_non_null(pixels);
    }
    break_never();
    for (int i = 0; i < 2; i++) effnet_session_close(session[i]);
}

static void expect_refused(const char *name, const char *part)
{
    struct list list = {.count = 100};
    struct effnet_error error = {0};
    effnet_session *session = open_session(name, 4);
    effnet_pipeline *pipeline = open_pipeline(&list, 2, false);
    assert_int_equal(effnet_pipeline_start(pipeline, session, &error), EFFNET_E_UNAVAILABLE);
    if (!strstr(error.message, part)) fail_msg("%s", error.message);
    effnet_pipeline_close(pipeline);
    effnet_session_close(session);
}

static void test_refused(void **state)
{
    (void)state;
    expect_refused("cpu", "runs on the CPU");
    load_fails = 1;
    expect_refused("cuda", "no library");
    load_fails = 0;
}

/* What is found out late fails the pipeline. */
static void test_open_fails(void **state)
{
    (void)state;
    struct list list = {.count = 1 << 30};
    struct effnet_error error = {0};
    const struct effnet_result *result;
    effnet_session *session = open_session("cuda", 4);
    effnet_pipeline *pipeline = open_pipeline(&list, 2, false);
    open_fails = 1;
    assert_int_equal(effnet_pipeline_start(pipeline, session, NULL), EFFNET_OK);
    int status;
    while (!(status = effnet_pipeline_next(pipeline, &result, &error))) check_result(result);
    assert_int_equal(status, EFFNET_E_UNAVAILABLE);
    assert_string_equal(error.message, "no engines");
    effnet_pipeline_close(pipeline);
    open_fails = 0;
    effnet_session_close(session);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_whole),
        cmocka_unit_test(test_sessions_break),
        cmocka_unit_test(test_all_sessions_break),
        cmocka_unit_test(test_arguments),
        cmocka_unit_test(test_cancel),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_open_fails),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
