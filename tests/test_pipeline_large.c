/* What needs much memory waits until a pipeline has its session, which may need that memory to be opened.
 * What needs little does not wait, and nothing hangs where there never is a session. */
#include "common/cpu.h"
#include "effnet.h"
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

enum { WIDTH = 8192, HEIGHT = 4200, BITMAP_BYTES = WIDTH / 8 * HEIGHT, PPM_SIDE = 4800 };

static effnet_model *model;
static effnet_session *session;
static double decode_us; /* of the large image, about */

static struct {
    uint8_t small[64];
    size_t small_bytes;
    uint8_t large[64 + BITMAP_BYTES]; /* 103 MB, once decoded */
    size_t large_bytes;
    char path[64]; /* of 69 MB, as many as its pixels */
} files;

static int set_up(void **state)
{
    (void)state;
    model = weights_open(weights_tiny(1));
    struct effnet_session_options options = effnet_session_defaults();
    options.device = "cpu";
    options.max_batch = 4;
    if (effnet_session_open(model, &options, &session, NULL)) return -1;
    files.small_bytes = (size_t)sprintf((char *)files.small, "P5 1 1 255\n") + 1;
    files.large_bytes = (size_t)sprintf((char *)files.large, "P4 %d %d\n", WIDTH, HEIGHT) + BITMAP_BYTES;
    struct effnet_image image;
    const double start_us = effnet_clock_us();
    if (effnet_image_decode(files.large, files.large_bytes, "large", NULL, &image, NULL)) return -1;
    decode_us = effnet_clock_us() - start_us;
    effnet_image_free(&image);
    strcpy(files.path, "/tmp/effnet-test-XXXXXX");
    const int fd = mkstemp(files.path);
    if (fd < 0) return -1;
    const int header_bytes = dprintf(fd, "P6 %d %d 255\n", PPM_SIDE, PPM_SIDE);
    const int status = ftruncate(fd, header_bytes + PPM_SIDE * PPM_SIDE * 3);
    close(fd);
    return status;
}

static int tear_down(void **state)
{
    (void)state;
    effnet_session_close(session);
    effnet_model_close(model);
    return unlink(files.path);
}

enum kind { SMALL, LARGE_IMAGE, LARGE_FILE };

struct list {
    enum kind kind[4];
    int count, next;
    atomic_bool ended;
};

static int next_item(void *context, struct effnet_item *item, struct effnet_error *error)
{
    (void)error;
    struct list *list = context;
    if (list->next == list->count) {
        atomic_store(&list->ended, true);
        return 0;
    }
    switch (list->kind[list->next++]) {
    case SMALL: *item = (struct effnet_item){"small", files.small, files.small_bytes, NULL}; break;
    case LARGE_IMAGE: *item = (struct effnet_item){"large", files.large, files.large_bytes, NULL}; break;
    case LARGE_FILE: *item = (struct effnet_item){.name = files.path}; break;
    }
    return 1;
}

/* The source has ended. */
static effnet_pipeline *open_pipeline(struct list *list, int threads)
{
    struct effnet_pipeline_options options = effnet_pipeline_defaults();
    struct effnet_error error;
    effnet_pipeline *pipeline;
    options.threads = threads;
    options.early_bytes = 1 << 20;
    if (effnet_pipeline_open(model, &options, next_item, list, &pipeline, &error))
        fail_msg("%s", error.message);
    while (!atomic_load(&list->ended)) usleep(1000);
    return pipeline;
}

static bool has_decoded(effnet_pipeline *pipeline)
{
    struct effnet_pipeline_stats stats;
    effnet_pipeline_get_stats(pipeline, &stats);
    return stats.decode_us > 0;
}

static void expect_results(effnet_pipeline *pipeline, int count)
{
    const struct effnet_result *result;
    for (int i = 0; i < count; i++) {
        assert_int_equal(effnet_pipeline_next(pipeline, &result, NULL), EFFNET_OK);
        assert_non_null(result);
        if (result->status) fail_msg("%s", result->error->message);
        assert_int_equal(result->index, i);
    }
    assert_int_equal(effnet_pipeline_next(pipeline, &result, NULL), EFFNET_OK);
    assert_null(result);
}

static void test_large_waits(void **state)
{
    (void)state;
    for (int threads = 1; threads <= 3; threads += 2) {
        struct list list = {{LARGE_IMAGE, LARGE_FILE}, .count = 2};
        effnet_pipeline *pipeline = open_pipeline(&list, threads);
        usleep((useconds_t)(4 * decode_us)); /* in which another pipeline would have decoded one */
        assert_false(has_decoded(pipeline));
        assert_int_equal(effnet_pipeline_start(pipeline, session, NULL), EFFNET_OK);
        expect_results(pipeline, 2);
        assert_true(has_decoded(pipeline));
        effnet_pipeline_close(pipeline);
    }
}

static void test_small_does_not_wait(void **state)
{
    (void)state;
    for (enum kind kind = LARGE_IMAGE; kind <= LARGE_FILE; kind++) {
        struct list list = {{kind, SMALL, SMALL}, .count = 3};
        effnet_pipeline *pipeline = open_pipeline(&list, 3); /* one decodes, one waits, one stays back */
        for (int i = 0; i < 6000 && !has_decoded(pipeline); i++) usleep(10000);
        assert_true(has_decoded(pipeline));
        assert_int_equal(effnet_pipeline_start(pipeline, session, NULL), EFFNET_OK);
        expect_results(pipeline, 3);
        effnet_pipeline_close(pipeline);
    }
}

/* Where the session cannot be opened, or somebody cancels before. */
static void test_no_session(void **state)
{
    (void)state;
    for (enum kind kind = LARGE_IMAGE; kind <= LARGE_FILE; kind++) {
        for (int cancelled = 0; cancelled < 2; cancelled++) {
            struct list list = {{kind, SMALL, kind}, .count = 3};
            effnet_pipeline *pipeline = open_pipeline(&list, 2);
            usleep(20000); /* it is likely to wait by now */
            if (cancelled) {
                effnet_pipeline_cancel(pipeline);
                assert_int_equal(effnet_pipeline_start(pipeline, session, NULL), EFFNET_OK);
                expect_results(pipeline, 0);
            }
            effnet_pipeline_close(pipeline);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_large_waits),
        cmocka_unit_test(test_small_does_not_wait),
        cmocka_unit_test(test_no_session),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
