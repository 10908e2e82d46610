/* Integer networks: what the reference computes, against their definition (docs/weights-format.md) written
 * another way, and against numbers worked out by hand; what sessions say of them. */
#include "effnet_lab.h"
#include "random.h"
#include "weights_integer.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

enum { IMAGES = 2, NETWORKS = 40 };

/* The step that a float stands for. */
static long step_of(float value, double scale, int zero)
{
    return lrint((double)value / scale) + zero;
}

/* SiLU's or sigmoid's output for x: `got`, if that is the nearest step as far as the error of e^-x, a few
 * millionths, lets be told; else the nearest. */
static float define_curved(const struct effnet_layer *l, double x, int o, float got)
{
    const struct effnet_integer *q = l->integer;
    const double y = (l->activation == EFFNET_ACT_SILU ? x : 1) / (1 + exp(-x));
    if (q->out_scale == 0) return fabs((double)got - y) < 4e-6 * fabs(y) + 1e-30 ? got : (float)y;
    const double exact = fmin(q->out_most,
                              fmax(0, y * (double)q->gain[o] / (double)q->out_scale + q->out_zero));
    const long near = step_of(got, (double)q->out_scale, q->out_zero);
    const long step = fabs(exact - (double)near) < 0.5 + 4e-6 * exact ? near : lrint(exact);
    return q->out_scale * (float)(step - q->out_zero);
}

/* What layer `l` makes of steps, of which the reference made `got`: one element of its output, in exact
 * arithmetic up to the two roundings to float that the definition has. in(c, y, x): the input's step less its
 * zero, 0 outside of the map. */
static float define(const struct effnet_layer *l, const float *const *inputs, int y, int x, int o, float got)
{
    const struct effnet_integer *q = l->integer;
    int64_t sum = q->bias ? q->bias[o] : 0;
    const int kernel_h = l->op == EFFNET_OP_POOL ? l->in_height : l->kernel;
    const int kernel_w = l->op == EFFNET_OP_POOL ? l->in_width : l->kernel;
    const bool single = l->op == EFFNET_OP_POOL || l->op == EFFNET_OP_SCALE || l->op == EFFNET_OP_DEPTHWISE;
    for (int c = single ? o : 0; c < (single ? o + 1 : l->in_channels); c++)
        for (int ky = 0; ky < kernel_h; ky++)
            for (int kx = 0; kx < kernel_w; kx++) {
                const int iy = y * l->stride + ky - l->pad_top, ix = x * l->stride + kx - l->pad_left;
                if (iy < 0 || ix < 0 || iy >= l->in_height || ix >= l->in_width) continue;
                const float value = inputs[0][(iy * l->in_width + ix) * l->in_channels + c];
                const long in = q->image
                                    ? lrint((double)value * q->image->std[c % 3] + q->image->mean[c % 3]) -
                                          lrint((double)q->image->mean[c % 3])
                                    : step_of(value, q->in_scale, 0);
                const int at = ((o * (single ? 1 : l->in_channels) + (single ? 0 : c)) * l->kernel + ky) *
                                   l->kernel +
                               kx;
                sum += in * (q->weight ? q->weight[at] : 1);
            }
    assert_true(sum <= INT32_MAX && sum >= -INT32_MAX);
    if (l->op == EFFNET_OP_SCALE) sum *= step_of(inputs[1][o], q->second_scale, 0);
    const float product = (float)sum * q->multiplier[o];
    if (l->activation >= EFFNET_ACT_SILU) return define_curved(l, (double)product, o, got);
    if (q->out_scale == 0) return l->activation == EFFNET_ACT_NONE ? product : fmaxf(product, 0);
    const size_t at = ((size_t)y * (size_t)l->out_width + (size_t)x) * (size_t)l->out_channels + (size_t)o;
    const long added = l->residual < 0 ? 0 : step_of(inputs[1][at], q->second_scale, 0);
    const double steps = l->residual < 0 ? (double)product
                                         : (double)fmaf((float)added, q->residual_multiplier, product);
    long step = lrint(steps) + q->out_zero;
    const long low = l->activation == EFFNET_ACT_NONE ? 0 : q->out_zero;
    if (step < low) step = low;
    if (l->activation == EFFNET_ACT_RELU6 && step > q->out_zero + lrint(6 / (double)q->out_scale))
        step = q->out_zero + lrint(6 / (double)q->out_scale);
    if (step > q->out_most) step = q->out_most;
    return q->out_scale * (float)(step - q->out_zero);
}

/* Runs all layers of a network on drawn pixels by the reference, and each against its definition. Adds to
 * inner[2] how many steps there were, and how many of them were at neither end. */
static void check_network(struct weights *w, uint64_t *random, int64_t inner[2])
{
    effnet_model *model = weights_open(w);
    const struct effnet_model_info *info = effnet_model_get_info(model);
    assert_true(info->integer);
    const size_t size = (size_t)info->height * (size_t)info->width * 3;
    uint8_t *pixels = malloc(size);
    float *image = malloc(size * sizeof *image);
    float **outputs = calloc((size_t)info->layer_count, sizeof *outputs);
    for (size_t i = 0; i < size; i++) pixels[i] = (uint8_t)random_next(random);
    effnet_reference_normalise(&info->preprocess, 1, pixels, image);
    for (int i = 0; i < info->layer_count; i++) {
        const struct effnet_layer *l = effnet_model_layer(model, i);
        const float *inputs[2] = {NULL};
        for (int k = 0; k < l->input_count; k++)
            inputs[k] = l->inputs[k] == EFFNET_IMAGE ? image : outputs[l->inputs[k]];
        outputs[i] = malloc(effnet_layer_out_size(l) * sizeof(float));
        struct effnet_error error;
        assert_int_equal(effnet_reference_layer(model, i, 1, inputs, false, outputs[i], &error), EFFNET_OK);
        size_t at = 0;
        for (int y = 0; y < l->out_height; y++)
            for (int x = 0; x < l->out_width; x++)
                for (int o = 0; o < l->out_channels; o++, at++) {
                    const float want = define(l, inputs, y, x, o, outputs[i][at]);
                    if (outputs[i][at] != want)
                        fail_msg("layer %s (%d,%d,%d): %.9g, not %.9g", l->name, y, x, o,
                                 (double)outputs[i][at], (double)want);
                    if (i + 1 == info->layer_count) continue;
                    const long step = step_of(want, l->integer->out_scale, l->integer->out_zero);
                    inner[0]++;
                    inner[1] += step > l->integer->low && step < l->integer->high;
                }
    }
    for (int i = 0; i < info->layer_count; i++) free(outputs[i]);
    free(outputs);
    free(image);
    free(pixels);
    effnet_model_close(model);
}

static void test_reference_is_the_definition(void **state)
{
    (void)state;
    uint64_t random = random_seed("integer networks", 18);
    int64_t inner[2] = {0};
    for (int i = 0; i < 3; i++) {
        check_network(weights_tiny_integer(random_next(&random)), &random, inner);
        check_network(weights_excited_integer(random_next(&random)), &random, inner);
    }
    for (int i = 0; i < NETWORKS; i++)
        check_network(weights_random_integer(random_next(&random)), &random, inner);
    assert_true(inner[1] > inner[0] / 4); /* else nearly all is clipped, and shows nothing */
}

/* One image of 1 x 1 pixels, mean 127, 116, 104 (116.5 rounds to even), through a pointwise layer with
 * weights 1, 2, -1 in its one channel, steps of 1/4, and a classifier that passes that on: rounding and
 * clipping by hand. */
static void test_by_hand(void **state)
{
    (void)state;
    static const struct {
        const char *activation;
        int pixels[3], zero;
        double scale; /* of the output; a step of the sum is 1/4 */
        float logit;  /* what the byte stands for, times 4 */
    } cases[] = {
        {"none", {128, 116, 104}, 100, 0.5, 0},    /* 1/4 is half a step, to even: 0 */
        {"none", {130, 116, 104}, 100, 0.5, 4},    /* 3/4 is one and a half: 2 steps */
        {"none", {124, 116, 104}, 100, 0.5, -4},   /* -3/4: -2 steps */
        {"none", {127, 117, 105}, 100, 0.25, 1},   /* 2 - 1 */
        {"none", {0, 0, 255}, 100, 0.25, -100},    /* -127 - 232 - 151, clipped at byte 0 */
        {"none", {255, 255, 0}, 100, 0.25, 155},   /* at byte 255 */
        {"relu", {0, 0, 255}, 100, 0.25, 0},       /* at zero */
        {"relu6", {255, 116, 104}, 100, 0.25, 24}, /* 128 / 4, clipped at 6 */
        {"relu6", {255, 116, 104}, 250, 0.25, 5},  /* at 255 before that */
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct weights *w = weights_new(1, 1, 1);
        weights_layer(w, "mix", "pointwise", 1, 1, 1, NULL, cases[i].activation, NULL, -1);
        weights_layer(w, "pool", "pool", 1, 1, 1, NULL, NULL, NULL, -1);
        weights_layer(w, "classifier", "linear", 1, 1, 1, NULL, "none", NULL, -1);
        weights_labels(w, 1);
        weights_make_integer(w);
        cJSON *layers = cJSON_GetObjectItem(w->network, "layers");
        for (int l = 0; l < 2; l++) {
            cJSON *layer = cJSON_GetArrayItem(layers, l);
            cJSON_ReplaceItemInObject(layer, "output_scale", cJSON_CreateNumber(cases[i].scale));
            cJSON_ReplaceItemInObject(layer, "output_zero", cJSON_CreateNumber(cases[i].zero));
        }
        /* mix.bias, mix.scale, classifier.bias, classifier.scale, mix.weight [3], classifier.weight */
        int32_t zero = 0;
        float quarter = 0.25f, four = 4;
        memcpy(w->data, &zero, 4);
        memcpy(w->data + 1, &quarter, 4);
        memcpy(w->data + 2, &zero, 4);
        memcpy(w->data + 3, &four, 4);
        memcpy(w->data + 4, (int8_t[]){1, 2, -1, 1}, 4);
        effnet_model *model = weights_open(w);
        const struct effnet_session_options options = {.device = "reference", .precision = "int8"};
        effnet_session *session;
        struct effnet_error error;
        const uint8_t pixels[] = {(uint8_t)cases[i].pixels[0], (uint8_t)cases[i].pixels[1],
                                  (uint8_t)cases[i].pixels[2]};
        float logit;
        assert_int_equal(effnet_session_open(model, &options, &session, &error), EFFNET_OK);
        assert_int_equal(effnet_session_run(session, pixels, 1, &logit, &error), EFFNET_OK);
        if (logit != cases[i].logit)
            fail_msg("case %zu: %g, not %g", i, (double)logit, (double)cases[i].logit);
        effnet_session_close(session);
        effnet_model_close(model);
    }
}

static void expect_unavailable(const effnet_model *model, const char *device, const char *precision,
                               const char *message)
{
    const struct effnet_session_options options = {.device = device, .precision = precision};
    effnet_session *session;
    struct effnet_error error = {0};
    assert_int_equal(effnet_session_open(model, &options, &session, &error), EFFNET_E_UNAVAILABLE);
    assert_null(session);
    if (!strstr(error.message, message)) fail_msg("\"%s\", not \"%s\"", error.message, message);
}

/* The smallest scales that the format allows; the stem's are floats 9 to 17 of the data. */
static void test_smallest_scales(void **state)
{
    (void)state;
    struct weights *w = weights_tiny_integer(1);
    cJSON *stem = cJSON_GetObjectItem(w->network, "layers")->child;
    cJSON_SetNumberValue(cJSON_GetObjectItem(stem, "output_scale"), 1e-9);
    for (int c = 0; c < 9; c++) w->data[9 + c] = 1e-9f;
    effnet_model_close(weights_open(w));
}

/* What no image and no layer gives is taken as the nearest step. */
static void test_inputs_out_of_range(void **state)
{
    (void)state;
    static const float values[] = {-1e30f, 1e30f, NAN, -1, 400};
    effnet_model *model = weights_open(weights_tiny_integer(1));
    for (int i = 0; i < 3; i++) {
        const struct effnet_layer *l = effnet_model_layer(model, i);
        const size_t size = effnet_layer_in_size(l, 0), out_size = effnet_layer_out_size(l);
        float *input = malloc(size * sizeof *input), *output = malloc(out_size * sizeof *output);
        for (size_t k = 0; k < size; k++) input[k] = values[k % 5];
        const float *inputs[2] = {input, NULL};
        struct effnet_error error;
        assert_int_equal(effnet_reference_layer(model, i, 1, inputs, false, output, &error), EFFNET_OK);
        for (size_t k = 0; k < out_size; k++) assert_true(isfinite(output[k]));
        free(input);
        free(output);
    }
    effnet_model_close(model);
}

static void test_sessions(void **state)
{
    (void)state;
    effnet_model *integer = weights_open(weights_tiny_integer(1)), *floats = weights_open(weights_tiny(1));
    expect_unavailable(integer, "cpu", "fp32", "network tiny is of integers: int8 alone, not fp32");
    expect_unavailable(integer, "cuda", NULL, "network tiny is of integers, which run on the CPU alone");
    expect_unavailable(floats, "cpu", "int8", "network tiny is of floats: effnet quantize makes weights");
    static const char *const devices[] = {"auto", "cpu", "reference"};
    for (int i = 0; i < 3; i++) {
        const struct effnet_session_options options = {.device = devices[i]};
        effnet_session *session;
        assert_int_equal(effnet_session_open(integer, &options, &session, NULL), EFFNET_OK);
        assert_string_equal(effnet_session_get_info(session)->precision, "int8");
        effnet_session_close(session);
    }
    struct effnet_error error = {0};
    assert_int_equal(effnet_tune(integer, NULL, NULL, NULL, &error), EFFNET_E_UNAVAILABLE);
    assert_non_null(strstr(error.message, "there is nothing to tune"));
    float x = 0;
    const float *inputs[] = {&x};
    assert_int_equal(effnet_reference_layer(integer, 0, 1, inputs, true, &x, &error), EFFNET_E_USAGE);
    assert_non_null(strstr(error.message, "no output without bias and activation"));
    assert_false(effnet_model_get_info(floats)->integer);
    effnet_model_close(floats);
    effnet_model_close(integer);
}

/* Its weights are what the classifier's bytes stand for. */
static void test_class_activation(void **state)
{
    (void)state;
    struct weights *w = weights_new(5, 8, 8);
    weights_conv(w, "stem", 6, 3, 2, WEIGHTS_SAME, "relu");
    weights_head(w, 9, "relu", 4);
    weights_make_integer(w);
    effnet_model *model = weights_open(w);
    const struct effnet_model_info *info = effnet_model_get_info(model);
    const struct effnet_integer *last = effnet_model_layer(model, info->layer_count - 1)->integer;
    float map[4 * 4 * 9] = {0}, activation[4 * 4];
    map[5 * 9 + 3] = 2;
    assert_int_equal(effnet_class_activation(model, 1, map, activation, NULL), EFFNET_OK);
    for (int p = 0; p < 16; p++)
        assert_float_equal(activation[p],
                           p == 5 ? 2 * (double)last->weight[9 + 3] * last->weight_scale[1] : 0, 1e-6);
    effnet_model_close(model);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reference_is_the_definition),
        cmocka_unit_test(test_by_hand),
        cmocka_unit_test(test_smallest_scales),
        cmocka_unit_test(test_inputs_out_of_range),
        cmocka_unit_test(test_sessions),
        cmocka_unit_test(test_class_activation),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
