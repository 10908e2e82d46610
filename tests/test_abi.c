/* What programs that were built with an earlier header rely on: structs whose size stays, reserved places
 * that are refused where they are set, defaults. */
#include "effnet_linear.h"
#include "weights_builder.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

/* Callers own these structs, so none may ever grow: a new option takes a reserved place. */
static void test_sizes(void **state)
{
    (void)state;
    if (sizeof(void *) != 8) skip();
    assert_int_equal(sizeof(struct effnet_error), 516);
    assert_int_equal(sizeof(struct effnet_image), 24);
    assert_int_equal(sizeof(struct effnet_image_options), 48);
    assert_int_equal(sizeof(struct effnet_preprocess), 64);
    assert_int_equal(sizeof(struct effnet_session_options), 96);
    assert_int_equal(sizeof(struct effnet_label), 16);
    assert_int_equal(sizeof(struct effnet_class), 12);
    assert_int_equal(sizeof(struct effnet_linear_args), 136);
}

/* Members of version 0.2 stay where they are. */
static void test_places(void **state)
{
    (void)state;
    if (sizeof(void *) != 8) skip();
    assert_int_equal(offsetof(struct effnet_image_options, background), 10);
    assert_int_equal(offsetof(struct effnet_preprocess, std), 24);
    assert_int_equal(offsetof(struct effnet_preprocess, resize), 36);
    assert_int_equal(offsetof(struct effnet_model_info, preprocess), 72);
    assert_int_equal(offsetof(struct effnet_model_info, multi_label), 136);
    assert_int_equal(offsetof(struct effnet_session_options, threads), 28);
    assert_int_equal(offsetof(struct effnet_session_options, features), 32);
    assert_int_equal(offsetof(struct effnet_session_info, memory_bytes), 40);
    assert_int_equal(offsetof(struct effnet_device, available), 40);
    assert_int_equal(offsetof(struct effnet_linear_args, activation), 100);
    assert_int_equal(offsetof(struct effnet_linear_bench_info, calls), 24);
}

static void test_version(void **state)
{
    (void)state;
    assert_string_equal(effnet_version(), EFFNET_VERSION);
}

#define LAST(array) array[sizeof(array) / sizeof(array)[0] - 1]
#define ASSERT_REFUSED(call)                                                                                 \
    do {                                                                                                     \
        struct effnet_error error = {0};                                                                     \
        assert_int_equal(call, EFFNET_E_USAGE);                                                              \
        assert_non_null(strstr(error.message, "does not know"));                                             \
    } while (0)

static void test_image_options(void **state)
{
    (void)state;
    static const char ppm[] = "P6 1 1 255\nabc";
    struct effnet_image_options options = effnet_image_defaults();
    struct effnet_image image;
    assert_int_equal(options.max_pixels, EFFNET_MAX_PIXELS_DEFAULT);
    assert_int_equal(effnet_image_decode(ppm, sizeof ppm - 1, "ppm", &options, &image, NULL), EFFNET_OK);
    effnet_image_free(&image);
    LAST(options.reserved) = 1;
    ASSERT_REFUSED(effnet_image_decode(ppm, sizeof ppm - 1, "ppm", &options, &image, &error));
    assert_null(image.rgb);
}

static void test_preprocess(void **state)
{
    (void)state;
    uint8_t pixel[3] = {1, 2, 3}, crop[3];
    const struct effnet_image image = {.width = 1, .height = 1, .rgb = pixel};
    struct effnet_preprocess p = {.short_side = 1, .crop = 1};
    assert_int_equal(effnet_image_fit(&image, &p, crop, NULL), EFFNET_OK);
    LAST(p.reserved) = 1;
    ASSERT_REFUSED(effnet_image_fit(&image, &p, crop, &error));
}

static void test_session_options(void **state)
{
    (void)state;
    effnet_model *model = weights_open(weights_tiny(1));
    effnet_session *session;
    struct effnet_session_options options = effnet_session_defaults();
    options.device = "reference";
    assert_int_equal(effnet_session_open(model, &options, &session, NULL), EFFNET_OK);
    assert_int_equal(effnet_session_get_info(session)->max_batch, 1);
    effnet_session_close(session);
    LAST(options.reserved) = UINT64_C(1) << 63;
    ASSERT_REFUSED(effnet_session_open(model, &options, &session, &error));
    assert_null(session);
    effnet_model_close(model);
}

static void test_linear_args(void **state)
{
    (void)state;
    const float x[] = {1, 2, 3, 4, 5, 6}, w[] = {1, 10, 100};
    float y[2];
    struct effnet_linear_args args = effnet_linear_defaults(2, 1, 3);
    effnet_linear_bench *bench;
    args.x = x, args.w = w, args.y = y;
    assert_int_equal(effnet_linear(&args, EFFNET_MEMORY_HOST, NULL, NULL), EFFNET_OK);
    assert_true(y[0] == 321 && y[1] == 654);
    LAST(args.reserved) = 1;
    ASSERT_REFUSED(effnet_linear(&args, EFFNET_MEMORY_HOST, NULL, &error));
    ASSERT_REFUSED(effnet_linear_bench_open(&args, "cpu", false, 1, &bench, &error));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sizes),       cmocka_unit_test(test_places),
        cmocka_unit_test(test_version),     cmocka_unit_test(test_image_options),
        cmocka_unit_test(test_preprocess),  cmocka_unit_test(test_session_options),
        cmocka_unit_test(test_linear_args),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
