/* The backend for integer networks, with all kernels that this processor runs, against the reference: every
 * layer and the logits, bit for bit, whatever the batch and the threads. */
#include "backend/int8/int8.h"
#include "random.h"
#include "weights_integer.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

enum { NETWORKS = 60, IMAGES = 5, MOST_THREADS = 3 };

static size_t image_values(const struct effnet_model_info *info)
{
    return (size_t)info->height * (size_t)info->width * 3;
}

/* All layers' outputs of one image by the reference; freed by the caller. */
static float **run_reference(const effnet_model *model, const float *image)
{
    const struct effnet_model_info *info = effnet_model_get_info(model);
    float **outputs = calloc((size_t)info->layer_count, sizeof *outputs);
    for (int i = 0; i < info->layer_count; i++) {
        const struct effnet_layer *layer = effnet_model_layer(model, i);
        const float *inputs[2] = {NULL};
        for (int k = 0; k < layer->input_count; k++)
            inputs[k] = layer->inputs[k] == EFFNET_IMAGE ? image : outputs[layer->inputs[k]];
        outputs[i] = malloc(effnet_layer_out_size(layer) * sizeof(float));
        assert_int_equal(effnet_reference_layer(model, i, 1, inputs, false, outputs[i], NULL), EFFNET_OK);
    }
    return outputs;
}

static void expect_same(const float *got, const float *want, size_t count, const char *kernels,
                        const char *what)
{
    for (size_t i = 0; i < count; i++)
        if (got[i] != want[i])
            fail_msg("%s: %s: value %zu of %zu is %.9g, not %.9g", kernels, what, i, count, (double)got[i],
                     (double)want[i]);
}

/* Each unit alone, fed with the reference's outputs. */
static void check_units(effnet_session *session, const effnet_model *model, const float *image,
                        float *const *outputs, const char *kernels)
{
    const struct effnet_model_info *info = effnet_model_get_info(model);
    assert_int_equal(effnet_session_unit_count(session), info->layer_count);
    for (int i = 0; i < info->layer_count; i++) {
        const struct effnet_layer *layer = effnet_model_layer(model, i);
        const struct effnet_unit *unit = effnet_session_unit(session, i);
        const float *inputs[EFFNET_UNIT_INPUTS] = {NULL};
        for (int k = 0; k < unit->input_count; k++)
            inputs[k] = unit->inputs[k] == EFFNET_IMAGE ? image : outputs[unit->inputs[k]];
        const size_t size = effnet_layer_out_size(layer);
        float *got = malloc(size * sizeof *got);
        memset(got, 0xff, size * sizeof *got);
        assert_int_equal(effnet_session_run_unit(session, i, 1, inputs, got, NULL), EFFNET_OK);
        expect_same(got, outputs[i], size, kernels, layer->name);
        free(got);
    }
}

/* IMAGES images in passes of `batch`, with the pooled features beside. */
static void check_network(const effnet_model *model, const uint8_t *pixels, float *image, float ***outputs,
                          const struct int8_kernels *kernels, int batch, int threads)
{
    const struct effnet_model_info *info = effnet_model_get_info(model);
    const struct effnet_session_options options = {
        .device = "cpu", .max_batch = batch, .threads = threads, .features = EFFNET_FEATURES_POOLED};
    effnet_session *session;
    struct effnet_error error;
    effnet_int8_use_kernels(kernels);
    if (effnet_session_open(model, &options, &session, &error)) fail_msg("%s", error.message);
    effnet_int8_use_kernels(NULL);
    assert_string_equal(effnet_session_get_info(session)->backend, "int8");
    const size_t classes = (size_t)info->classes, features = (size_t)info->feature_channels;
    float *logits = malloc(IMAGES * classes * sizeof *logits);
    float *pooled = malloc(IMAGES * features * sizeof *pooled);
    assert_int_equal(effnet_session_run_features(session, pixels, IMAGES, logits, pooled, &error), EFFNET_OK);
    for (size_t i = 0; i < IMAGES; i++) {
        expect_same(logits + i * classes, outputs[i][info->layer_count - 1], classes, kernels->name,
                    "logits");
        expect_same(pooled + i * features, outputs[i][effnet_model_head_pool(model)], features, kernels->name,
                    "features");
    }
    effnet_reference_normalise(&info->preprocess, 1, pixels, image);
    check_units(session, model, image, outputs[0], kernels->name);
    double elapsed_us, *unit_us = malloc((size_t)info->layer_count * sizeof *unit_us);
    assert_int_equal(effnet_session_time(session, batch, false, &elapsed_us, &error), EFFNET_OK);
    assert_int_equal(effnet_session_profile(session, batch, false, unit_us, &error), EFFNET_OK);
    free(unit_us);
    free(pooled);
    free(logits);
    effnet_session_close(session);
}

static void check_model(effnet_model *model, uint64_t *random)
{
    const struct effnet_model_info *info = effnet_model_get_info(model);
    const size_t size = image_values(info);
    uint8_t *pixels = malloc(IMAGES * size);
    float *image = malloc(size * sizeof *image);
    float **outputs[IMAGES];
    for (size_t i = 0; i < IMAGES * size; i++) pixels[i] = (uint8_t)random_next(random);
    for (size_t i = 0; i < IMAGES; i++) {
        effnet_reference_normalise(&info->preprocess, 1, pixels + i * size, image);
        outputs[i] = run_reference(model, image);
    }
    for (int k = 0; int8_all_kernels[k]; k++) {
        if (!int8_all_kernels[k]->supported()) continue;
        const int batch = random_int(random, 1, IMAGES), threads = random_int(random, 1, MOST_THREADS);
        check_network(model, pixels, image, outputs, int8_all_kernels[k], batch, threads);
    }
    for (size_t i = 0; i < IMAGES; i++) {
        for (int l = 0; l < info->layer_count; l++) free(outputs[i][l]);
        free(outputs[i]);
    }
    free(image);
    free(pixels);
    effnet_model_close(model);
}

static void test_every_op(void **state)
{
    (void)state;
    uint64_t random = random_seed("every op", 181);
    for (int i = 0; i < 6; i++) {
        check_model(weights_open(weights_tiny_integer(random_next(&random))), &random);
        check_model(weights_open(weights_excited_integer(random_next(&random))), &random);
    }
}

static void test_random_networks(void **state)
{
    (void)state;
    uint64_t random = random_seed("random networks", 182);
    for (int i = 0; i < NETWORKS; i++)
        check_model(weights_open(weights_random_integer(random_next(&random))), &random);
}

/* Depths, widths and heights around what kernels take at a time. */
static void test_sizes(void **state)
{
    (void)state;
    static const int channels[] = {1, 3, 15, 16, 17, 31, 33, 63, 64, 65, 79, 80, 81, 96, 112, 128, 129};
    enum { CHANNELS = sizeof channels / sizeof channels[0] };
    uint64_t random = random_seed("sizes", 183);
    for (int i = 0; i < CHANNELS; i++) {
        const int size = random_int(&random, 1, 13), kernel = i % 2 ? 5 : 3, stride = 1 + i / 2 % 2;
        struct weights *w = weights_new(random_next(&random), size, size);
        weights_layer(w, "first", "pointwise", channels[i], 1, 1, NULL, "relu6", NULL, -1);
        weights_layer(w, "depthwise", "depthwise", channels[i], kernel, stride,
                      (const int[]){kernel / 2, kernel - 1, kernel - 1, kernel / 2}, "none", NULL, -1);
        weights_layer(w, "mixed", "pointwise", channels[CHANNELS - 1 - i], 1, 1, NULL, "none", NULL, -1);
        weights_layer(w, "added", "pointwise", channels[CHANNELS - 1 - i], 1, 1, NULL, "relu", "mixed", -1);
        weights_layer(w, "pool", "pool", w->channels, 1, 1, NULL, NULL, NULL, -1);
        weights_layer(w, "classifier", "linear", channels[i], 1, 1, NULL, i % 3 ? "relu6" : "none", NULL, -1);
        weights_labels(w, channels[i]);
        weights_make_integer(w);
        check_model(weights_open(w), &random);
    }
}

/* Weights and bytes at their ends, where sums of two products pass 16 bits. */
static void test_no_saturation(void **state)
{
    (void)state;
    struct weights *w = weights_new(7, 4, 4);
    weights_layer(w, "wide", "pointwise", 64, 1, 1, NULL, "none", NULL, -1);
    weights_layer(w, "sum", "pointwise", 20, 1, 1, NULL, "none", NULL, -1);
    weights_layer(w, "pool", "pool", 20, 1, 1, NULL, NULL, NULL, -1);
    weights_layer(w, "classifier", "linear", 11, 1, 1, NULL, "none", NULL, -1);
    weights_labels(w, 11);
    weights_make_integer(w);
    const cJSON *tensor = cJSON_GetObjectItem(w->tensors, "sum.weight");
    const int begin = cJSON_GetArrayItem(cJSON_GetObjectItem(tensor, "data_offsets"), 0)->valueint;
    const cJSON *bias = cJSON_GetObjectItem(w->tensors, "wide.bias");
    const int at = cJSON_GetArrayItem(cJSON_GetObjectItem(bias, "data_offsets"), 0)->valueint;
    for (int o = 0; o < 20; o++) memset((char *)w->data + begin + o * 64, o % 2 ? 127 : -128, 64);
    for (int c = 0; c < 64; c++) w->data[at / 4 + c] = 0x1p-100f; /* as an integer, a large one: byte 255 */
    effnet_model *model = weights_open(w);
    uint64_t random = 1;
    assert_true(effnet_model_layer(model, 0)->integer->bias[0] > 1 << 27);
    check_model(model, &random);
}

/* Outputs of SiLU that are far beyond their range, where a step of it is nothing: they are clipped. */
static void test_large_gains(void **state)
{
    (void)state;
    uint64_t random = random_seed("large gains", 184);
    for (int i = 0; i < 8; i++) {
        struct weights *w = weights_excited_integer(random_next(&random));
        for (cJSON *tensor = w->tensors->child; tensor; tensor = tensor->next) {
            const int begin = cJSON_GetArrayItem(cJSON_GetObjectItem(tensor, "data_offsets"), 0)->valueint;
            const int count = cJSON_GetArrayItem(cJSON_GetObjectItem(tensor, "shape"), 0)->valueint;
            const bool gain = strstr(tensor->string, ".gain") && !strstr(tensor->string, "excite");
            const bool first = strstr(tensor->string, "stem.scale") != NULL;
            for (int c = 0; c < count && (gain || first); c++) w->data[begin / 4 + c] = gain ? 100 : 1e5f;
        }
        check_model(weights_open(w), &random);
    }
}

static void test_best_kernels(void **state)
{
    (void)state;
    const struct int8_kernels *best = int8_best_kernels();
    assert_true(best->supported());
    for (int i = 0; int8_all_kernels[i]; i++)
        printf("%s: %s\n", int8_all_kernels[i]->name,
               !int8_all_kernels[i]->supported() ? "not on this processor"
               : int8_all_kernels[i] == best     ? "tested, the best"
                                                 : "tested");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_op),    cmocka_unit_test(test_random_networks),
        cmocka_unit_test(test_sizes),       cmocka_unit_test(test_no_saturation),
        cmocka_unit_test(test_large_gains), cmocka_unit_test(test_best_kernels),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
