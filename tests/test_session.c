/* Sessions: options, arguments, units, and that a pass gives the same whatever surrounds an image. */
#include "common/nvidia.h"
#include "effnet_lab.h"
#include "random.h"
#include "reference_logits.h"
#include "weights_builder.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#define CLASSES 11
#define IMAGE   (21 * 21 * 3)

static effnet_session *open_session(const effnet_model *model, const char *device, int max_batch)
{
    struct effnet_session_options options = {.device = device, .max_batch = max_batch};
    struct effnet_error error = {0};
    effnet_session *session;
    if (effnet_session_open(model, &options, &session, &error)) fail_msg("%s: %s", device, error.message);
    return session;
}

static uint8_t *random_pixels(size_t count, uint64_t *random)
{
    uint8_t *pixels = malloc(count);
    assert_non_null(pixels);
    for (size_t i = 0; i < count; i++) pixels[i] = (uint8_t)random_next(random);
    return pixels;
}

static void expect_refused(const effnet_model *model, struct effnet_session_options options, int status,
                           const char *part)
{
    effnet_session *session = (effnet_session *)&session;
    struct effnet_error error = {0};
    int got = effnet_session_open(model, &options, &session, &error);
    if (got != status || error.status != status || session || !strstr(error.message, part))
        fail_msg("status %d, message \"%s\"; expected %d and \"%s\"", got, error.message, status, part);
    assert_int_equal(effnet_session_open(model, &options, &session, NULL), status);
}

#define OPTIONS(...) ((struct effnet_session_options){__VA_ARGS__})

static void test_options(void **state)
{
    (void)state;
    effnet_model *model = weights_open(weights_tiny(1));
    static const char *const devices[] = {
        "gpu",     "",        "CPU",       "cuda:",     "cuda:x",
        "cuda:1x", "cuda:-1", "cuda: 1",   "cuda:1024", "cuda:99999999999999999999",
        "cuda0",   "cpu ",    "reference2"};
    for (size_t i = 0; i < sizeof devices / sizeof devices[0]; i++)
        expect_refused(model, OPTIONS(.device = devices[i]), EFFNET_E_USAGE, "device");
    static const char *const precisions[] = {"", "fp64", "int4", "FP32", "fp32x"};
    for (size_t i = 0; i < sizeof precisions / sizeof precisions[0]; i++)
        expect_refused(model, OPTIONS(.device = "reference", .precision = precisions[i]), EFFNET_E_USAGE,
                       "unknown precision");
    expect_refused(model, OPTIONS(.plan = "fast"), EFFNET_E_USAGE, "unknown plan \"fast\"");
    expect_refused(model, OPTIONS(.max_batch = -1), EFFNET_E_USAGE, "batch size -1");
    expect_refused(model, OPTIONS(.max_batch = 65537), EFFNET_E_USAGE, "batch size 65537");
    expect_refused(model, OPTIONS(.threads = -1), EFFNET_E_USAGE, "-1 threads");
    expect_refused(model, OPTIONS(.threads = 1 << 30), EFFNET_E_USAGE, "threads");
    expect_refused(NULL, OPTIONS(.threads = 1), EFFNET_E_USAGE, "no model");
    expect_refused(model, OPTIONS(.device = "reference", .precision = "bf16"), EFFNET_E_UNAVAILABLE, "bf16");
    expect_refused(model, OPTIONS(.device = "reference", .precision = "fp16"), EFFNET_E_UNAVAILABLE, "fp16");
    expect_refused(model, OPTIONS(.device = "cpu", .precision = "fp16"), EFFNET_E_UNAVAILABLE, "fp16");
#ifndef EFFNET_HAVE_CUDA
    expect_refused(model, OPTIONS(.device = "cuda"), EFFNET_E_UNAVAILABLE,
                   "device \"cuda\": this build has no CUDA");
    expect_refused(model, OPTIONS(.device = "cuda:3"), EFFNET_E_UNAVAILABLE,
                   "device \"cuda:3\": this build has no CUDA");
    expect_refused(model, OPTIONS(.device = "auto", .precision = "fp16"), EFFNET_E_UNAVAILABLE, "fp16");
#endif
    assert_int_equal(effnet_session_open(model, NULL, NULL, NULL), EFFNET_E_USAGE);
    effnet_session_close(NULL);
    effnet_model_close(model);
}

static void test_info(void **state)
{
    (void)state;
    effnet_model *model = weights_open(weights_tiny(1));
    effnet_session *session = open_session(model, "reference", 0);
    const struct effnet_session_info *info = effnet_session_get_info(session);
    assert_string_equal(info->backend, "reference");
    assert_string_equal(info->precision, "fp32");
    assert_string_equal(info->notice, "");
    assert_true(info->device[0]);
    assert_int_equal(info->max_batch, 1);
    assert_int_equal(info->threads, 1);
    assert_true(info->memory_bytes > 0);
    effnet_session_close(session);

    static const char *const devices[] = {NULL, "auto", "cpu"};
    for (int i = 0; i < 3; i++) {
        session = open_session(model, devices[i], 3);
        info = effnet_session_get_info(session);
        assert_int_equal(info->max_batch, 3);
        assert_true(info->threads >= 1);
        assert_true(info->device[0] && info->precision[0]);
        if (strcmp(info->backend, "cuda") != 0) {
#ifdef EFFNET_HAVE_ONEDNN
            assert_string_equal(info->backend, "onednn");
#else
            assert_string_equal(info->backend, "reference");
#endif
            /* why not the GPU, which "cpu" did not ask for */
            assert_int_equal(info->notice[0] != 0, i < 2 && effnet_nvidia_hardware(""));
        }
        effnet_session_close(session);
    }
    effnet_model_close(model);
}

/* The reference session gives what its layers give one after the other with every output kept: so none is
 * overwritten before its last reader, at whatever distance that is. */
static void test_layers_in_a_row(void **state)
{
    (void)state;
    uint64_t random = random_seed("layers in a row", 21);
    for (int round = 0; round < 60; round++) {
        effnet_model *model = weights_open(weights_graph(random_next(&random)));
        effnet_session *session = open_session(model, "reference", 1);
        uint8_t *pixels = random_pixels(2 * 7 * 7 * 3, &random);
        float logits[2 * CLASSES], *expected = reference_logits(model, pixels, 2);
        assert_int_equal(effnet_session_run(session, pixels, 2, logits, NULL), EFFNET_OK);
        assert_memory_equal(logits, expected, sizeof logits);
        free(expected);
        free(pixels);
        effnet_session_close(session);
        effnet_model_close(model);
    }
}

/* Any number of images, in one pass or several, gives each image the same bits. */
static void check_batches(const effnet_model *model, const char *device)
{
    enum { IMAGES = 7 };
    uint64_t random = random_seed(device, 22);
    uint8_t *pixels = random_pixels(IMAGES * IMAGE, &random);
    float all[IMAGES * CLASSES], one[CLASSES], some[IMAGES * CLASSES + 1];
    effnet_session *session = open_session(model, device, IMAGES);
    assert_int_equal(effnet_session_run(session, pixels, IMAGES, all, NULL), EFFNET_OK);
    for (int i = 0; i < IMAGES; i++) {
        assert_int_equal(effnet_session_run(session, pixels + i * IMAGE, 1, one, NULL), EFFNET_OK);
        assert_memory_equal(one, all + i * CLASSES, sizeof one);
        for (int c = 0; c < CLASSES; c++) assert_true(isfinite(one[c]));
    }
    assert_memory_not_equal(all, all + CLASSES, sizeof one);
    effnet_session_close(session);

    for (int max_batch = 1; max_batch <= 4; max_batch++) {
        float again[IMAGES * CLASSES];
        session = open_session(model, device, max_batch);
        for (int n = 1; n <= IMAGES; n++) {
            for (int i = 0; i <= IMAGES * CLASSES; i++) some[i] = NAN;
            assert_int_equal(effnet_session_run(session, pixels, n, some, NULL), EFFNET_OK);
            assert_true(isnan(some[n * CLASSES])); /* nothing behind the n images */
            assert_int_equal(effnet_session_run(session, pixels, n, again, NULL), EFFNET_OK);
            assert_memory_equal(again, some, sizeof(float) * (size_t)(n * CLASSES));
            /* Another max_batch may choose other kernels: close, but not the same bits, save in the
             * reference. */
            for (int i = 0; i < n * CLASSES; i++)
                assert_true(fabsf(some[i] - all[i]) <= 1e-4f * (1 + fabsf(all[i])));
            if (strcmp(device, "reference") == 0)
                assert_memory_equal(all, some, sizeof(float) * (size_t)(n * CLASSES));
        }
        effnet_session_close(session);
    }
    free(pixels);
}

static void test_batches(void **state)
{
    (void)state;
    for (int excited = 0; excited < 2; excited++) {
        effnet_model *model = weights_open(excited ? weights_tiny_excited(3) : weights_tiny(3));
        check_batches(model, "reference");
        check_batches(model, "cpu");
        effnet_model_close(model);
    }
}

static void test_run_arguments(void **state)
{
    (void)state;
    effnet_model *model = weights_open(weights_tiny(1));
    effnet_session *session = open_session(model, "reference", 2);
    static uint8_t pixels[IMAGE];
    static float in[200000], out[200000];
    const float *const inputs[2] = {in, NULL};
    double us[64];
    struct effnet_error error = {0};
    assert_int_equal(effnet_session_run(NULL, pixels, 1, out, &error), EFFNET_E_USAGE);
    assert_int_equal(effnet_session_run(session, NULL, 1, out, &error), EFFNET_E_USAGE);
    assert_int_equal(effnet_session_run(session, pixels, 1, NULL, &error), EFFNET_E_USAGE);
    assert_int_equal(effnet_session_run(session, pixels, 0, out, &error), EFFNET_E_USAGE);
    assert_int_equal(effnet_session_run(session, pixels, -1, out, NULL), EFFNET_E_USAGE);

    assert_int_equal(effnet_session_run_unit(NULL, 0, 1, inputs, out, &error), EFFNET_E_USAGE);
    assert_int_equal(effnet_session_run_unit(session, 0, 1, NULL, out, &error), EFFNET_E_USAGE);
    assert_int_equal(effnet_session_run_unit(session, 0, 1, inputs, NULL, &error), EFFNET_E_USAGE);
    assert_int_equal(effnet_session_run_unit(session, 0, 0, inputs, out, &error), EFFNET_E_USAGE);
    assert_int_equal(effnet_session_run_unit(session, 0, 3, inputs, out, &error), EFFNET_E_USAGE);
    assert_non_null(strstr(error.message, "3 images"));
    assert_int_equal(effnet_session_run_unit(session, -1, 1, inputs, out, &error), EFFNET_E_USAGE);
    assert_int_equal(effnet_session_run_unit(session, 12, 1, inputs, out, &error), EFFNET_E_USAGE);
    assert_non_null(strstr(error.message, "no unit 12"));
    assert_int_equal(effnet_session_run_unit(session, 8, 1, inputs, out, &error), EFFNET_E_USAGE);
    assert_non_null(strstr(error.message, "unit 8 takes 'blocks.1.project', which is missing"));

    assert_int_equal(effnet_session_time(session, 1, false, NULL, &error), EFFNET_E_USAGE);
    assert_int_equal(effnet_session_time(session, 3, false, us, &error), EFFNET_E_USAGE);
    assert_int_equal(effnet_session_time(session, 0, false, us, &error), EFFNET_E_USAGE);
    assert_int_equal(effnet_session_profile(session, 3, false, us, &error), EFFNET_E_USAGE);
    assert_int_equal(effnet_session_profile(session, 1, false, NULL, &error), EFFNET_E_USAGE);
    assert_int_equal(effnet_session_profile(NULL, 1, false, us, &error), EFFNET_E_USAGE);
    assert_null(effnet_session_unit(session, -1));
    assert_null(effnet_session_unit(session, 12));
    effnet_session_close(session);
    effnet_model_close(model);
}

/* Units cover the table in order; each gives what the reference's layers give. */
static void check_units(const effnet_model *model, const char *device)
{
    enum { N = 2 };
    uint64_t random = random_seed(device, 23);
    effnet_session *session = open_session(model, device, N);
    int next = 0, compared = 0;
    for (int u = 0; u < effnet_session_unit_count(session); u++) {
        const struct effnet_unit *unit = effnet_session_unit(session, u);
        assert_int_equal(unit->first, next);
        assert_in_range(unit->last, unit->first, effnet_model_get_info(model)->layer_count - 1);
        assert_true(unit->kernel && unit->kernel[0]);
        assert_true(unit->bytes_per_image > 0 && unit->weight_bytes >= 0 && unit->workspace_bytes >= 0);
        next = unit->last + 1;
        if (unit->first != unit->last || unit->raw_input) continue;
        compared++;

        const struct effnet_layer *layer = effnet_model_layer(model, unit->first);
        size_t out_size = N * effnet_layer_out_size(layer);
        float *in[2] = {NULL}, *out = malloc(out_size * sizeof *out),
              *expected = malloc(out_size * sizeof *expected);
        assert_true(out && expected);
        assert_int_equal(unit->input_count, layer->input_count);
        for (int k = 0; k < unit->input_count; k++) {
            size_t in_size = N * effnet_layer_in_size(layer, k);
            in[k] = malloc(in_size * sizeof *in[k]);
            assert_non_null(in[k]);
            assert_int_equal(unit->inputs[k], layer->inputs[k]);
            for (size_t i = 0; i < in_size; i++) in[k][i] = random_float(&random, 3);
        }
        const float *const *inputs = (const float *const *)in;
        for (size_t i = 0; i < out_size; i++) out[i] = NAN;
        assert_int_equal(effnet_session_run_unit(session, u, N, inputs, out, NULL), EFFNET_OK);
        assert_int_equal(
            effnet_reference_layer(model, unit->first, N, inputs, unit->raw_output, expected, NULL),
            EFFNET_OK);
        for (size_t i = 0; i < out_size; i++)
            if (!(fabsf(out[i] - expected[i]) <= 1e-4f * (1 + fabsf(expected[i]))))
                fail_msg("%s: layer '%s', element %zu: %g, expected %g", device, layer->name, i,
                         (double)out[i], (double)expected[i]);
        free(in[0]);
        free(in[1]);
        free(out);
        free(expected);
    }
    assert_int_equal(next, effnet_model_get_info(model)->layer_count);
    assert_true(compared > 0);
    effnet_session_close(session);
}

static void test_units(void **state)
{
    (void)state;
    for (int excited = 0; excited < 2; excited++) {
        effnet_model *model = weights_open(excited ? weights_tiny_excited(4) : weights_tiny(4));
        check_units(model, "reference");
        check_units(model, "cpu");
        effnet_model_close(model);
    }
}

/* Timing before, between and after runs changes no result. */
static void check_timing(const effnet_model *model, const char *device)
{
    uint64_t random = random_seed(device, 24);
    uint8_t *pixels = random_pixels(2 * IMAGE, &random);
    float before[2 * CLASSES], after[2 * CLASSES];
    effnet_session *session = open_session(model, device, 2);
    double unit_us[64] = {0}, elapsed_us = 0;
    for (int cold = 0; cold < 2; cold++) {
        assert_int_equal(effnet_session_time(session, 2, cold, &elapsed_us, NULL), EFFNET_OK);
        assert_true(elapsed_us > 0 && elapsed_us < 60e6);
        assert_int_equal(effnet_session_run(session, pixels, 2, cold ? after : before, NULL), EFFNET_OK);
        assert_int_equal(effnet_session_profile(session, 1, cold, unit_us, NULL), EFFNET_OK);
        for (int i = 0; i < effnet_session_unit_count(session); i++)
            assert_true(unit_us[i] >= 0 && unit_us[i] < 60e6);
    }
    assert_memory_equal(before, after, sizeof before);
    effnet_session_close(session);
    free(pixels);
}

/* Of a few layers only: cold, caches are evicted before each, which writes twice their size. */
static void test_timing(void **state)
{
    (void)state;
    struct weights *weights = weights_new(5, 21, 21);
    weights_head(weights, 8, "relu6", CLASSES);
    effnet_model *model = weights_open(weights);
    check_timing(model, "reference");
    check_timing(model, "cpu");
    effnet_model_close(model);
}

struct seen {
    int count;
    bool cpu, reference, cuda;
};

static void visit(const struct effnet_device *device, void *context)
{
    struct seen *seen = context;
    seen->count++;
    assert_true(device->name && device->description && device->backend && device->precisions &&
                device->detail);
    if (!device->available) assert_true(device->detail[0]);
    if (strcmp(device->name, "cpu") == 0) seen->cpu = device->available;
    if (strcmp(device->name, "reference") == 0) seen->reference = device->available;
    if (strncmp(device->name, "cuda", 4) == 0) seen->cuda = true;
}

static void test_devices(void **state)
{
    (void)state;
    struct seen seen = {0};
    effnet_devices(visit, &seen);
    assert_true(seen.count >= 3 && seen.cpu && seen.reference && seen.cuda);
}

#ifdef EFFNET_HAVE_CUDA

/* What a GPU does not compute is refused before one is looked for, by the layer's name. */
static void test_cuda_refuses(void **state)
{
    (void)state;
    struct weights *w = weights_new(1, 16, 16);
    weights_conv(w, "stem", 8, 3, 1, WEIGHTS_SAME, "sigmoid");
    weights_head(w, 8, "relu6", CLASSES);
    effnet_model *model = weights_open(w);
    expect_refused(model, OPTIONS(.device = "cuda"), EFFNET_E_UNAVAILABLE,
                   "layer stem: activation sigmoid is not supported on a GPU");
    effnet_model_close(model);
}

#endif

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_options),         cmocka_unit_test(test_info),
        cmocka_unit_test(test_layers_in_a_row), cmocka_unit_test(test_batches),
        cmocka_unit_test(test_run_arguments),   cmocka_unit_test(test_units),
        cmocka_unit_test(test_timing),          cmocka_unit_test(test_devices),
#ifdef EFFNET_HAVE_CUDA
        cmocka_unit_test(test_cuda_refuses),
#endif
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
