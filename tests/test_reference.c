/* The reference's layers against their definition, written another way: a zero-padded copy of the input,
 * sums in long double in the order of the file's weights, activations by other formulas. */
#include "effnet_lab.h"
#include "random.h"
#include "weights_builder.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#define GUARD 64 /* floats around every output */

static const char *const activations[] = {"none",      "relu",    "relu6",     "silu", "gelu",
                                          "gelu_relu", "sigmoid", "hardswish", "tanh"};
enum { ACTIVATIONS = sizeof activations / sizeof activations[0] };

static long double activate(enum effnet_activation activation, long double x)
{
    switch (activation) {
    case EFFNET_ACT_NONE: return x;
    case EFFNET_ACT_RELU: return fmaxl(x, 0);
    case EFFNET_ACT_RELU6: return fminl(fmaxl(x, 0), 6);
    case EFFNET_ACT_SILU: return x / 2 * (1 + tanhl(x / 2));
    case EFFNET_ACT_GELU: return x / 2 * (1 + erfl(x / sqrtl(2)));
    case EFFNET_ACT_SIGMOID: return 0.5L * (1 + tanhl(x / 2));
    case EFFNET_ACT_HARDSWISH: return x * fminl(fmaxl(x + 3, 0), 6) / 6;
    case EFFNET_ACT_TANH: return tanhl(x);
    case EFFNET_ACT_GELU_RELU: return fmaxl(x / 2 * (1 + erfl(x / sqrtl(2))), 0);
    }
    return NAN;
}

/* input[n][c][y][x] with the layer's padding around it, one image; freed by the caller. */
static float *pad_image(const struct effnet_layer *l, const float *image)
{
    size_t height = (size_t)(l->in_height + l->pad_top + l->pad_bottom);
    size_t width = (size_t)(l->in_width + l->pad_left + l->pad_right), channels = (size_t)l->in_channels;
    float *padded = calloc(channels * height * width, sizeof *padded);
    assert_non_null(padded);
    for (size_t y = 0; y < (size_t)l->in_height; y++)
        for (size_t x = 0; x < (size_t)l->in_width; x++)
            for (size_t c = 0; c < channels; c++)
                padded[(c * height + y + (size_t)l->pad_top) * width + x + (size_t)l->pad_left] =
                    image[(y * (size_t)l->in_width + x) * channels + c];
    return padded;
}

/* Output (y, x, o) before bias, residual and activation; *size receives the sum of the terms' magnitudes. */
static long double define(const struct effnet_layer *l, const float *padded, int y, int x, int o,
                          long double *size)
{
    int height = l->in_height + l->pad_top + l->pad_bottom, width = l->in_width + l->pad_left + l->pad_right;
    long double sum = 0;
    *size = 0;
    if (l->op == EFFNET_OP_POOL) {
        for (int i = 0; i < height * width; i++) sum += padded[o * height * width + i];
        for (int i = 0; i < height * width; i++) *size += fabsf(padded[o * height * width + i]);
        return sum / (height * width);
    }
    if (l->op == EFFNET_OP_SCALE) return padded[o * height * width + y * width + x];
    bool depthwise = l->op == EFFNET_OP_DEPTHWISE;
    int inputs = depthwise ? 1 : l->in_channels;
    const float *weight = l->weight + (size_t)o * (size_t)(inputs * l->kernel * l->kernel);
    for (int i = 0; i < inputs; i++) {
        const float *plane = padded + (size_t)(depthwise ? o : i) * (size_t)(height * width);
        for (int ky = 0; ky < l->kernel; ky++)
            for (int kx = 0; kx < l->kernel; kx++) {
                long double term = (long double)*weight++ *
                                   plane[(y * l->stride + ky) * width + x * l->stride + kx];
                sum += term;
                *size += fabsl(term);
            }
    }
    return sum;
}

/* second: the residual or the gate, of one image. */
static void check_point(const struct effnet_layer *l, const float *padded, const float *second, bool raw,
                        const float *output, int y, int x, int o)
{
    size_t at = ((size_t)y * (size_t)l->out_width + (size_t)x) * (size_t)l->out_channels + (size_t)o;
    long double size, expected = define(l, padded, y, x, o, &size);
    if (l->residual >= 0) expected += second[at];
    if (l->op == EFFNET_OP_SCALE) expected *= second[o];
    if (l->weight && !raw) expected = activate(l->activation, expected + l->bias[o]);
    /* Half a unit in the last place of float, and what double rounding of the sum may add. */
    long double allowed = fabsl(expected) * 0x1.01p-24L + (size + 8) * 1e-14L + 1e-45L;
    if (!(fabsl(output[at] - expected) <= allowed))
        fail_msg("layer '%s' %s at y %d x %d channel %d: %.9g, expected %.12Lg", l->name,
                 effnet_op_name(l->op), y, x, o, (double)output[at], expected);
}

/* The corners, edges and `samples` random places of every image of one layer. */
static void check_outputs(const struct effnet_layer *l, int n, float *const *inputs, bool raw,
                          const float *output, int samples, uint64_t *random)
{
    size_t out_size = effnet_layer_out_size(l);
    for (size_t i = 0; i < (size_t)n; i++) {
        float *padded = pad_image(l, inputs[0] + i * effnet_layer_in_size(l, 0));
        const float *second = inputs[1] ? inputs[1] + i * effnet_layer_in_size(l, 1) : NULL;
        for (int s = 0; s < samples + 16; s++) {
            int y = random_int(random, 0, l->out_height - 1), x = random_int(random, 0, l->out_width - 1);
            int o = random_int(random, 0, l->out_channels - 1);
            if (s < 16 && s % 4 < 2) y = s % 4 ? l->out_height - 1 : 0;
            if (s < 16 && s / 4 < 2) x = s / 4 ? l->out_width - 1 : 0;
            check_point(l, padded, second, raw, output + i * out_size, y, x, o);
        }
        free(padded);
    }
}

static float *random_tensor(size_t count, double limit, uint64_t *random)
{
    float *tensor = malloc(count * sizeof *tensor);
    assert_non_null(tensor);
    for (size_t i = 0; i < count; i++) tensor[i] = random_float(random, limit);
    return tensor;
}

/* Runs one layer on random input into poisoned memory between guards, and checks it. */
static void check_layer(const effnet_model *model, int index, int n, bool raw, int samples, uint64_t *random)
{
    const struct effnet_layer *l = effnet_model_layer(model, index);
    size_t out = (size_t)n * effnet_layer_out_size(l);
    float *inputs[2] = {NULL};
    for (int k = 0; k < l->input_count; k++)
        inputs[k] = random_tensor((size_t)n * effnet_layer_in_size(l, k), 4, random);
    float *memory = malloc((out + 2 * GUARD) * sizeof *memory);
    assert_non_null(memory);
    for (size_t i = 0; i < out + 2 * GUARD; i++) memory[i] = NAN;
    float *output = memory + GUARD;
    assert_int_equal(effnet_reference_layer(model, index, n, (const float *const *)inputs, raw, output, NULL),
                     EFFNET_OK);
    for (size_t i = 0; i < out; i++)
        if (isnan(output[i])) fail_msg("layer '%s': element %zu is NaN or was not written", l->name, i);
    for (size_t i = 0; i < GUARD; i++)
        if (!isnan(memory[i]) || !isnan(output[out + i]))
            fail_msg("layer '%s' writes outside its output", l->name);
    check_outputs(l, n, inputs, raw, output, samples, random);
    free(inputs[0]);
    free(inputs[1]);
    free(memory);
}

static void check_layers(struct weights *w, int n, int samples, uint64_t *random)
{
    effnet_model *model = weights_open(w);
    for (int i = 0; i < effnet_model_get_info(model)->layer_count; i++)
        check_layer(model, i, n, false, samples, random);
    effnet_model_close(model);
}

/* The shapes that are particular in lite1 and b1-plain: the stems, asymmetric padding of both kernels at
 * stride 2, the widest layers, the head. */
static void test_network_shapes(void **state)
{
    (void)state;
    uint64_t random = random_seed("network shapes", 11);
    struct weights *w = weights_new(random, 240, 240);
    weights_conv(w, "stem", 32, 3, 2, WEIGHTS_SAME, "relu6");
    weights_mbconv(w, 16, 32, 3, 1, WEIGHTS_SAME, "relu6", false);
    weights_mbconv(w, 24, 96, 3, 2, WEIGHTS_SAME, "relu6", false);
    weights_mbconv(w, 40, 144, 5, 2, WEIGHTS_SAME, "relu6", false);
    weights_mbconv(w, 40, 240, 5, 1, WEIGHTS_SAME, "relu6", true);
    weights_mbconv(w, 80, 240, 3, 2, WEIGHTS_SAME, "relu6", false);
    weights_mbconv(w, 192, 672, 5, 2, WEIGHTS_SAME, "relu6", false);
    weights_mbconv(w, 192, 1152, 5, 1, WEIGHTS_SAME, "relu6", true);
    weights_head(w, 1280, "relu6", 1000);
    check_layers(w, 1, 300, &random);

    w = weights_new(random, 240, 240);
    weights_conv(w, "stem", 32, 3, 2, WEIGHTS_SYMMETRIC, "relu");
    weights_mbconv(w, 24, 96, 3, 2, WEIGHTS_SYMMETRIC, "relu6", false);
    weights_head(w, 64, "relu", 10);
    check_layers(w, 1, 300, &random);
}

/* Random networks of one window layer, one 1 x 1 with a residual and a head, with every activation. */
static void test_awkward_shapes(void **state)
{
    (void)state;
    static const int channels[] = {1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 33, 65};
    uint64_t random = random_seed("awkward shapes", 12);
    for (int round = 0; round < 150; round++) {
        int size = random_int(&random, 1, 19), kernel = random_int(&random, 1, 7),
            stride = random_int(&random, 1, 4);
        int pad[4];
        for (int i = 0; i < 4; i++) pad[i] = random_int(&random, 0, kernel - 1);
        if (size + pad[0] + pad[2] < kernel || size + pad[1] + pad[3] < kernel) continue;
        struct weights *w = weights_new(random_next(&random), size, size);
        int c = channels[random_int(&random, 0, 11)];
        weights_layer(w, "first", "pointwise", c, 1, 1, NULL,
                      activations[random_int(&random, 0, ACTIVATIONS - 1)], NULL, -1);
        weights_layer(w, "window", random_int(&random, 0, 1) ? "depthwise" : "conv", c, kernel, stride, pad,
                      activations[random_int(&random, 0, ACTIVATIONS - 1)], NULL, -1);
        weights_layer(w, "residual", "pointwise", c, 1, 1, NULL,
                      activations[random_int(&random, 0, ACTIVATIONS - 1)], "window", -1);
        weights_head(w, channels[random_int(&random, 0, 11)],
                     activations[random_int(&random, 0, ACTIVATIONS - 1)], 5);
        check_layers(w, random_int(&random, 1, 3), 40, &random);
    }
}

/* Each activation over its whole range, through a 1 x 1 layer with weight 1 and bias 0. */
static void test_activations(void **state)
{
    (void)state;
    static const double values[] = {0,     -0.0, 1e-40,     -1e-40, 1e-8,      -1e-8, 0.5,  -0.5, 1,   -1,
                                    3,     -3,   5.9999995, 6,      6.0000005, -5,    -8,   -13,  -20, -37,
                                    -38.5, 30,   90,        -90,    800,       -800,  3e38, -3e38};
    for (size_t a = 0; a < ACTIVATIONS; a++) {
        struct weights *w = weights_new(1, 1, 1);
        weights_layer(w, "act", "pointwise", 3, 1, 1, NULL, activations[a], NULL, -1);
        weights_head(w, 3, "none", 2);
        memset(w->data, 0, 12 * sizeof *w->data);
        for (int i = 0; i < 3; i++) w->data[4 * i] = 1;
        effnet_model *model = weights_open(w);
        for (size_t v = 0; v < sizeof values / sizeof values[0]; v++) {
            float input[3] = {(float)values[v], NAN, 0}, output[3] = {7, 7, 7},
                  first[3] = {(float)values[v], 0, 0};
            assert_int_equal(
                effnet_reference_layer(model, 0, 1, &(const float *){first}, false, output, NULL), EFFNET_OK);
            /* erfl loses the digits of 1 + erf(x) for x far below zero: there, the continued fraction of
             * erfc (Abramowitz and Stegun 7.1.14). */
            long double x = first[0], expected = activate((enum effnet_activation)a, x);
            if (a == EFFNET_ACT_GELU && x < -4) {
                long double z = -x / sqrtl(2), f = 0;
                for (int k = 200; k > 0; k--) f = k / 2.0L / (z + f);
                expected = x / 2 * expl(-z * z) / sqrtl(acosl(-1)) / (z + f);
            }
            if (a == EFFNET_ACT_SIGMOID && x < -4) expected = expl(x) / (1 + expl(x));
            if (a == EFFNET_ACT_SILU && x < -4) expected = x * expl(x) / (1 + expl(x));
            if (!(fabsl(output[0] - expected) <= fabsl(expected) * 0x1.01p-24L + 1e-45L))
                fail_msg("%s(%g): %.9g, expected %.12Lg", activations[a], values[v], (double)output[0],
                         expected);
            /* A NaN stays one, and every output depends on it. */
            assert_int_equal(
                effnet_reference_layer(model, 0, 1, &(const float *){input}, false, output, NULL), EFFNET_OK);
            for (int i = 0; i < 3; i++) assert_true(isnan(output[i]));
        }
        effnet_model_close(model);
    }
}

/* raw leaves bias and activation out, of every layer that has them. */
static void test_raw(void **state)
{
    (void)state;
    uint64_t random = random_seed("raw", 13);
    effnet_model *model = weights_open(weights_tiny(random));
    for (int i = 0; i < effnet_model_get_info(model)->layer_count; i++)
        check_layer(model, i, 2, true, 100, &random);
    effnet_model_close(model);
}

/* Maps, gates and residuals from anywhere. */
static void test_graphs(void **state)
{
    (void)state;
    uint64_t random = random_seed("graphs", 14);
    check_layers(weights_tiny_excited(random), 2, 100, &random);
    for (int round = 0; round < 20; round++)
        check_layers(weights_graph(random_next(&random)), 2, 40, &random);
}

/* A NaN in one pixel reaches the windows that hold it, in its image, and nothing else. */
static void test_nan_stays(void **state)
{
    (void)state;
    struct weights *w = weights_new(5, 9, 9);
    weights_conv(w, "stem", 4, 3, 2, WEIGHTS_SYMMETRIC, "relu6");
    weights_head(w, 8, "relu6", 3);
    effnet_model *model = weights_open(w);
    uint64_t random = 5;
    float *input = random_tensor(2 * 9 * 9 * 3, 2, &random), output[2][5][5][4];
    input[9 * 9 * 3 + (4 * 9 + 4) * 3 + 1] = NAN; /* image 1, y 4, x 4 */
    assert_int_equal(
        effnet_reference_layer(model, 0, 2, &(const float *){input}, false, &output[0][0][0][0], NULL),
        EFFNET_OK);
    for (int i = 0; i < 2; i++)
        for (int y = 0; y < 5; y++)
            for (int x = 0; x < 5; x++)
                for (int c = 0; c < 4; c++)
                    assert_int_equal(isnan(output[i][y][x][c]), i == 1 && y == 2 && x == 2);
    free(input);
    effnet_model_close(model);
}

static void test_normalise(void **state)
{
    (void)state;
    struct effnet_preprocess p = {
        .short_side = 9, .crop = 8, .mean = {123.675f, 116.28f, 0}, .std = {58.395f, 0.5f, 1}};
    uint8_t pixels[2 * 8 * 8 * 3];
    float tensor[2 * 8 * 8 * 3 + 1];
    for (int i = 0; i < 384; i++) pixels[i] = (uint8_t)(i * 7);
    tensor[384] = 12345;
    effnet_reference_normalise(&p, 2, pixels, tensor);
    for (int i = 0; i < 384; i++) {
        long double expected = ((long double)pixels[i] - p.mean[i % 3]) / p.std[i % 3];
        assert_true(fabsl(tensor[i] - expected) <= fabsl(expected) * 0x1.01p-24L);
    }
    assert_true(tensor[384] == 12345);
}

static void test_arguments(void **state)
{
    (void)state;
    effnet_model *model = weights_open(weights_tiny(1));
    static float in[100000], out[100000];
    const float *const inputs[2] = {in, NULL};
    struct effnet_error error = {0};
    assert_int_equal(effnet_reference_layer(NULL, 0, 1, inputs, false, out, &error), EFFNET_E_USAGE);
    assert_int_equal(effnet_reference_layer(model, 0, 1, NULL, false, out, &error), EFFNET_E_USAGE);
    assert_int_equal(effnet_reference_layer(model, 0, 1, inputs, false, NULL, &error), EFFNET_E_USAGE);
    assert_int_equal(effnet_reference_layer(model, 0, 0, inputs, false, out, &error), EFFNET_E_USAGE);
    assert_int_equal(effnet_reference_layer(model, -1, 1, inputs, false, out, &error), EFFNET_E_USAGE);
    assert_int_equal(effnet_reference_layer(model, 12, 1, inputs, false, out, &error), EFFNET_E_USAGE);
    assert_non_null(strstr(error.message, "no layer 12"));
    assert_int_equal(effnet_reference_layer(model, 8, 1, inputs, false, out, &error), EFFNET_E_USAGE);
    assert_non_null(strstr(error.message, "'blocks.2.project'"));
    assert_non_null(strstr(error.message, "'blocks.1.project'"));
    effnet_model_close(model);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_network_shapes), cmocka_unit_test(test_awkward_shapes),
        cmocka_unit_test(test_activations),    cmocka_unit_test(test_raw),
        cmocka_unit_test(test_graphs),         cmocka_unit_test(test_nan_stays),
        cmocka_unit_test(test_normalise),      cmocka_unit_test(test_arguments),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
