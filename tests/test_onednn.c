/* The CPU backend: every kind of layer against the reference, real shapes first and then awkward ones; that
 * an image's bits do not depend on its batch; many threads and many sessions. */
#include "effnet_lab.h"
#include "random.h"
#include "reference_logits.h"
#include "weights_builder.h"

#include <math.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#ifdef EFFNET_HAVE_ONEDNN

/* Of a layer's output: what 32-bit sums in any order stay far below. */
#define RELATIVE_L2 5e-6
#define ELEMENT     1e-4 /* times 1 + |reference| */

#define GUARD 64 /* elements in front of and behind an output that must stay as they were */

static const char *const activations[] = {"none",      "relu",    "relu6",     "silu", "gelu",
                                          "gelu_relu", "sigmoid", "hardswish", "tanh"};
enum { ACTIVATIONS = sizeof activations / sizeof activations[0] };

static effnet_session *open_session(const effnet_model *model, int threads, int max_batch,
                                    const char *precision)
{
    struct effnet_session_options options = {
        .device = "cpu", .precision = precision, .max_batch = max_batch, .threads = threads};
    struct effnet_error error = {0};
    effnet_session *session;
    if (effnet_session_open(model, &options, &session, &error)) fail_msg("%s", error.message);
    assert_string_equal(effnet_session_get_info(session)->backend, "onednn");
    return session;
}

static float *new_floats(size_t count, uint64_t *random, double limit)
{
    float *values = malloc(count * sizeof *values);
    assert_non_null(values);
    for (size_t i = 0; i < count; i++) values[i] = random_float(random, limit);
    return values;
}

static uint8_t *new_pixels(const effnet_model *model, int images, uint64_t *random)
{
    const struct effnet_model_info *info = effnet_model_get_info(model);
    size_t count = (size_t)images * (size_t)info->height * (size_t)info->width * 3;
    uint8_t *pixels = malloc(count);
    assert_non_null(pixels);
    for (size_t i = 0; i < count; i++) pixels[i] = (uint8_t)random_next(random);
    return pixels;
}

static void compare(const struct effnet_layer *layer, const char *kernel, const float *got,
                    const float *expected, size_t count)
{
    double error = 0, norm = 0;
    for (size_t i = 0; i < count; i++) {
        double difference = (double)got[i] - (double)expected[i];
        error += difference * difference;
        norm += (double)expected[i] * (double)expected[i];
        if (!(fabs(difference) <= ELEMENT * (1 + fabs((double)expected[i])))) {
            size_t c = i % (size_t)layer->out_channels, pixel = i / (size_t)layer->out_channels;
            size_t x = pixel % (size_t)layer->out_width, y = pixel / (size_t)layer->out_width;
            fail_msg("layer '%s' (%s, %s, %dx%dx%d, kernel %d, stride %d, pad %d %d %d %d, adds %d, to "
                     "%dx%dx%d; %s): "
                     "y=%zu x=%zu c=%zu: %.9g, expected %.9g",
                     layer->name, effnet_op_name(layer->op), effnet_activation_name(layer->activation),
                     layer->in_height, layer->in_width, layer->in_channels, layer->kernel, layer->stride,
                     layer->pad_top, layer->pad_left, layer->pad_bottom, layer->pad_right, layer->residual,
                     layer->out_height, layer->out_width, layer->out_channels, kernel, y, x, c,
                     (double)got[i], (double)expected[i]);
        }
    }
    if (!(error <= RELATIVE_L2 * RELATIVE_L2 * norm))
        fail_msg("layer '%s': relative L2 %g", layer->name, sqrt(error / norm));
}

/* The unit's layers one after the other by the reference; inputs as the unit names them. Returns the last
 * one's output. */
static float *reference_unit(const effnet_model *model, const struct effnet_unit *unit, int n,
                             const float *const *inputs)
{
    enum { LAYERS = 8 };
    float *outputs[LAYERS] = {NULL};
    const int count = unit->last - unit->first + 1;
    assert_in_range(count, 1, LAYERS);
    for (int l = 0; l < count; l++) {
        const struct effnet_layer *layer = effnet_model_layer(model, unit->first + l);
        const float *given[2] = {NULL};
        for (int k = 0; k < layer->input_count; k++) {
            const int from = layer->inputs[k];
            for (int i = 0; i < unit->input_count; i++)
                if (unit->inputs[i] == from) given[k] = inputs[i];
            if (from >= unit->first) given[k] = outputs[from - unit->first];
            assert_non_null(given[k]);
        }
        outputs[l] = malloc((size_t)n * effnet_layer_out_size(layer) * sizeof(float));
        assert_non_null(outputs[l]);
        assert_int_equal(effnet_reference_layer(model, unit->first + l, n, given, false, outputs[l], NULL),
                         0);
    }
    for (int l = 0; l < count - 1; l++) free(outputs[l]);
    return outputs[count - 1];
}

/* How many values one image's tensor has that unit->inputs[index] names; whether it is a gate. */
static size_t unit_input_size(const effnet_model *model, const struct effnet_unit *unit, int index,
                              bool *gate)
{
    for (int l = unit->first;; l++) {
        const struct effnet_layer *layer = effnet_model_layer(model, l);
        for (int k = 0; k < layer->input_count; k++) {
            if (layer->inputs[k] != unit->inputs[index]) continue;
            *gate = k > 0 && layer->op == EFFNET_OP_SCALE;
            return effnet_layer_in_size(layer, k);
        }
    }
}

/* One unit, with seeded inputs and a poisoned output, against the reference. */
static void check_unit(const effnet_model *model, effnet_session *session, int index, int n, uint64_t *random)
{
    const struct effnet_unit *unit = effnet_session_unit(session, index);
    const struct effnet_layer *layer = effnet_model_layer(model, unit->last);
    assert_true(unit->kernel[0]);
    size_t out = (size_t)n * effnet_layer_out_size(layer), bytes[EFFNET_UNIT_INPUTS];
    float *inputs[EFFNET_UNIT_INPUTS] = {NULL}, *copies[EFFNET_UNIT_INPUTS] = {NULL};
    for (int k = 0; k < unit->input_count; k++) {
        bool gate;
        const size_t count = (size_t)n * unit_input_size(model, unit, k, &gate);
        bytes[k] = count * sizeof(float);
        inputs[k] = new_floats(count, random, 2);
        for (size_t i = 0; gate && i < count; i++)
            inputs[k][i] = inputs[k][i] / 4 + 0.5f; /* a gate lies between 0 and 1 */
        copies[k] = malloc(bytes[k]);
        assert_non_null(copies[k]);
        memcpy(copies[k], inputs[k], bytes[k]);
    }
    float *got = malloc((out + 2 * GUARD) * sizeof *got);
    assert_non_null(got);
    memset(got, 0xff, (out + 2 * GUARD) * sizeof *got); /* NaN */

    struct effnet_error error = {0};
    if (effnet_session_run_unit(session, index, n, (const float *const *)inputs, got + GUARD, &error))
        fail_msg("%s", error.message);
    float *expected = reference_unit(model, unit, n, (const float *const *)inputs);
    compare(layer, unit->kernel, got + GUARD, expected, out);
    for (size_t i = 0; i < GUARD * sizeof *got; i++) {
        assert_int_equal(((unsigned char *)got)[i], 0xff);
        assert_int_equal(((unsigned char *)(got + GUARD + out))[i], 0xff);
    }
    for (int k = 0; k < unit->input_count; k++) {
        assert_memory_equal(inputs[k], copies[k], bytes[k]);
        free(inputs[k]);
        free(copies[k]);
    }
    free(expected);
    free(got);
}

/* Every unit, and that they are the table's layers in order. Returns how many layers lie in units of several.
 */
static int check_all_units(const effnet_model *model, effnet_session *session, int n, uint64_t *random)
{
    int next = 0, together = 0;
    for (int u = 0; u < effnet_session_unit_count(session); u++) {
        const struct effnet_unit *unit = effnet_session_unit(session, u);
        assert_int_equal(unit->first, next);
        next = unit->last + 1;
        if (unit->last > unit->first) together += next - unit->first;
        check_unit(model, session, u, n, random);
    }
    assert_int_equal(next, effnet_model_get_info(model)->layer_count);
    return together;
}

static effnet_model *open_weights(const char *path)
{
    struct effnet_error error = {0};
    effnet_model *model;
    if (effnet_model_open(path, &model, &error)) fail_msg("%s (`make weights` makes it)", error.message);
    return model;
}

static const char *const networks[] = {"weights/lite1.safetensors", "weights/b1-plain.safetensors"};

static void test_real_layers(void **state)
{
    (void)state;
    uint64_t random = random_seed("real layers", 31);
    for (int i = 0; i < 2; i++) {
        effnet_model *model = open_weights(networks[i]);
        effnet_session *session = open_session(model, 3, 1, NULL);
        assert_int_equal(check_all_units(model, session, 1, &random), 0);
        effnet_session_close(session);
        effnet_model_close(model);
    }
}

/* A convolution or a depthwise layer: any window that the table allows. */
static void add_window(struct weights *w, const char *name, const char *op, int out, const char *activation,
                       const char *add, uint64_t *random)
{
    int kernel = random_int(random, 1, 7), stride = random_int(random, 1, 3), pad[4];
    for (int i = 0; i < 4; i++) pad[i] = random_int(random, 0, kernel - 1);
    while (w->height + pad[0] + pad[2] < kernel || w->width + pad[1] + pad[3] < kernel) kernel--;
    for (int i = 0; i < 4; i++) pad[i] = pad[i] < kernel ? pad[i] : kernel - 1;
    if (add) { /* the size must stay */
        kernel |= 1;
        stride = 1;
        for (int i = 0; i < 4; i++) pad[i] = i < 2 ? kernel / 2 : kernel - 1 - kernel / 2;
    }
    weights_layer(w, name, op, out, kernel, stride, pad, activation, add, -1);
}

/* Channels: few, odd, around the widths of vectors, or hundreds. */
static int random_channels(uint64_t *random)
{
    static const int around[] = {7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65};
    switch (random_int(random, 0, 3)) {
    case 0: return random_int(random, 1, 6);
    case 1: return around[random_int(random, 0, 11)];
    case 2: return 8 * random_int(random, 1, 12);
    default: return random_int(random, 66, 300);
    }
}

/* Layers of every operation and activation, whose sizes, windows and padding are drawn: `activation` goes
 * through all of them. Some add their own input, some what lies before that, which they then overwrite. */
static struct weights *awkward(uint64_t seed, int activation)
{
    enum { LAYERS = 6 };
    uint64_t random = seed;
    int size = random_int(&random, 1, 23), sizes[LAYERS][3];
    struct weights *w = weights_new(seed, size, size);
    for (int i = 0; i < LAYERS; i++) {
        char name[32], add[32];
        const char *act = activations[(activation + i) % ACTIVATIONS];
        int kind = i == 0 ? 0 : random_int(&random, 0, 2), from = i - 1;
        if (i > 1 && memcmp(sizes[i - 2], sizes[i - 1], sizeof sizes[0]) == 0)
            from -= random_int(&random, 0, 1);
        bool residual = i > 0 && random_int(&random, 0, 1) == 0;
        int out = residual ? w->channels : random_channels(&random);
        snprintf(name, sizeof name, "layer%d", i);
        snprintf(add, sizeof add, "layer%d", from);
        if (kind == 0)
            add_window(w, name, "conv", out, act, residual ? add : NULL, &random);
        else if (kind == 1)
            add_window(w, name, "depthwise", w->channels, act, residual ? add : NULL, &random);
        else
            weights_layer(w, name, "pointwise", out, 1, 1, NULL, act, residual ? add : NULL, -1);
        memcpy(sizes[i], (int[]){w->height, w->width, w->channels}, sizeof sizes[i]);
    }
    const char *act = activations[activation];
    int classes = random_channels(&random);
    weights_layer(w, "pool", "pool", w->channels, 1, 1, NULL, NULL, NULL, -1);
    weights_layer(w, "linear0", "linear", random_channels(&random), 1, 1, NULL, act, NULL, -1);
    weights_layer(w, "linear1", "linear", w->channels, 1, 1, NULL, act, "linear0", -1);
    weights_layer(w, "classifier", "linear", classes, 1, 1, NULL, "none", NULL, -1);
    weights_labels(w, classes);
    return w;
}

static void test_awkward_layers(void **state)
{
    (void)state;
    uint64_t random = random_seed("awkward layers", 32);
    for (int round = 0; round < 63; round++) {
        effnet_model *model = weights_open(awkward(random_next(&random), round % ACTIVATIONS));
        int n = random_int(&random, 1, 3);
        effnet_session *session = open_session(model, random_int(&random, 1, 6), random_int(&random, n, 8),
                                               NULL);
        assert_int_equal(check_all_units(model, session, n, &random), 0);
        effnet_session_close(session);
        effnet_model_close(model);
    }
}

/* Large maps, over channels that make whole blocks and chunks of the backend's own mean and that do not. Flat
 * ones too, where sums of floats one by one would round the same way at every step. */
static void test_large_pools(void **state)
{
    (void)state;
    static const int channels[] = {1, 15, 16, 17, 48, 255, 256, 257, 300};
    uint64_t random = random_seed("large pools", 40);
    for (size_t round = 0; round < sizeof channels / sizeof channels[0]; round++) {
        struct weights *w = weights_new(random_next(&random), 33 + (int)round, 33 + (int)round);
        weights_layer(w, "mix", "pointwise", channels[round], 1, 1, NULL, "none", NULL, -1);
        weights_layer(w, "pool", "pool", channels[round], 1, 1, NULL, NULL, NULL, -1);
        weights_layer(w, "classifier", "linear", 11, 1, 1, NULL, "none", NULL, -1);
        weights_labels(w, 11);
        effnet_model *model = weights_open(w);
        const struct effnet_layer *pool = effnet_model_layer(model, 1);
        effnet_session *session = open_session(model, random_int(&random, 1, 5), 1, NULL);
        assert_non_null(strstr(effnet_session_unit(session, 1)->kernel, "mean"));
        check_unit(model, session, 1, 1, &random);
        size_t count = effnet_layer_in_size(pool, 0);
        float *flat = new_floats(count, &random, 2), got[300];
        for (size_t i = (size_t)pool->in_channels; i < count; i++)
            flat[i] = flat[i % (size_t)pool->in_channels];
        assert_int_equal(effnet_session_run_unit(session, 1, 1, &(const float *){flat}, got, NULL),
                         EFFNET_OK);
        for (int c = 0; c < pool->in_channels; c++)
            if (!(fabsf(got[c] - flat[c]) <= 2e-6f * fabsf(flat[c])))
                fail_msg("%d channels, channel %d: %.9g, expected %.9g", pool->in_channels, c, (double)got[c],
                         (double)flat[c]);
        free(flat);
        effnet_session_close(session);
        effnet_model_close(model);
    }
}

/* Graphs, and residuals that reach back over any distance: nothing may be overwritten before its last reader,
 * whether the images share the threads or not; and every unit alone. */
static void test_graphs(void **state)
{
    (void)state;
    enum { N = 3 };
    uint64_t random = random_seed("graphs", 33);
    for (int round = 0; round < 60; round++) {
        effnet_model *model = weights_open(weights_graph(random_next(&random)));
        uint8_t *pixels = new_pixels(model, N, &random);
        float *expected = reference_logits(model, pixels, N), got[N * 11];
        effnet_session *session = open_session(model, 2, random_int(&random, 1, N), NULL);
        const int layers = effnet_model_get_info(model)->layer_count;
        assert_int_equal(effnet_session_run(session, pixels, N, got, NULL), EFFNET_OK);
        compare(effnet_model_layer(model, layers - 1), "whole network", got, expected, N * 11);
        check_all_units(model, session, 1, &random);
        effnet_session_close(session);
        effnet_model_close(model);
        free(expected);
        free(pixels);
    }
}

/* Every number of images up to a little over a batch: each image has the bits that it has alone. */
static void check_batches(const effnet_model *model, int threads, int max_batch, const char *precision,
                          uint64_t *random)
{
    int classes = effnet_model_get_info(model)->classes, images = max_batch + 2;
    size_t image = (size_t)effnet_model_get_info(model)->height *
                   (size_t)effnet_model_get_info(model)->width * 3;
    uint8_t *pixels = new_pixels(model, images, random);
    float *alone = new_floats((size_t)(images * classes), random, 1);
    float *together = new_floats((size_t)(images * classes), random, 1);
    effnet_session *session = open_session(model, threads, max_batch, precision);
    for (int i = 0; i < images; i++)
        assert_int_equal(
            effnet_session_run(session, pixels + (size_t)i * image, 1, alone + i * classes, NULL), EFFNET_OK);
    for (int n = 1; n <= images; n++) {
        memset(together, 0xff, (size_t)(images * classes) * sizeof *together);
        assert_int_equal(effnet_session_run(session, pixels, n, together, NULL), EFFNET_OK);
        assert_memory_equal(together, alone, (size_t)(n * classes) * sizeof *together);
        for (int i = n * classes; i < images * classes; i++) assert_true(isnan(together[i]));
    }
    assert_memory_not_equal(alone, alone + classes, (size_t)classes * sizeof *alone);
    effnet_session_close(session);
    free(pixels);
    free(alone);
    free(together);
}

static void test_batches(void **state)
{
    (void)state;
    uint64_t random = random_seed("batches", 34);
    for (int i = 0; i < 2; i++) {
        effnet_model *model = open_weights(networks[i]);
        check_batches(model, 2, 4, NULL, &random);
        effnet_model_close(model);
    }
    for (int round = 0; round < 12; round++) {
        uint64_t seed = random_next(&random);
        effnet_model *model = weights_open(round % 2 ? weights_tiny(seed) : weights_tiny_excited(seed));
        check_batches(model, random_int(&random, 1, 6), random_int(&random, 1, 9), NULL, &random);
        effnet_model_close(model);
    }
}

static bool has_avx2(void)
{
#if defined(__x86_64__) || defined(__i386__)
    return __builtin_cpu_supports("avx2");
#else
    return false;
#endif
}

/* Blocks with squeeze-and-excite of any size, also such that are cut into many strips for the cache: as
 * units, as a network, alone and in batches. */
static void test_squeeze_excite(void **state)
{
    (void)state;
    uint64_t random = random_seed("squeeze and excite", 41);
    const bool fused = has_avx2() && !getenv("ONEDNN_MAX_CPU_ISA");
    for (int round = 0; round < 14; round++) {
        const int size = random_int(&random, 5, round % 7 == 0 ? 90 : 30);
        struct weights *w = weights_new(random_next(&random), size, size);
        weights_conv(w, "stem", random_channels(&random), 3, 2, WEIGHTS_SAME, "silu");
        for (int b = 0; b < 2; b++)
            weights_mbconv_excited(w, b ? w->channels : random_channels(&random), random_channels(&random),
                                   random_int(&random, 1, 2) * 2 + 1, b ? 1 : random_int(&random, 1, 2),
                                   random_int(&random, 1, 20), b == 1);
        weights_head(w, 33, "silu", 11);
        effnet_model *model = weights_open(w);
        uint8_t *pixels = new_pixels(model, 2, &random);
        float *expected = reference_logits(model, pixels, 2), got[2 * 11];
        const int threads = random_int(&random, 1, 8);
        effnet_session *session = open_session(model, threads, 2, NULL);
        const int together = check_all_units(model, session, 1, &random);
        if (fused) assert_int_equal(together, 12);
        assert_int_equal(effnet_session_run(session, pixels, 2, got, NULL), EFFNET_OK);
        compare(effnet_model_layer(model, effnet_model_get_info(model)->layer_count - 1), "whole network",
                got, expected, 2 * 11);
        effnet_session_close(session);
        if (round < 4) check_batches(model, threads, random_int(&random, 1, 4), NULL, &random);
        effnet_model_close(model);
        free(expected);
        free(pixels);
    }
}

/* More threads than there is work for, and sessions opened and closed in a row. */
static void test_many_threads(void **state)
{
    (void)state;
    uint64_t random = random_seed("many threads", 35);
    effnet_model *model = weights_open(weights_tiny(random_next(&random)));
    uint8_t *pixels = new_pixels(model, 5, &random);
    float *expected = reference_logits(model, pixels, 5), got[5 * 11];
    for (int round = 0; round < 12; round++) {
        effnet_session *session = open_session(model, round % 2 ? 100 : 7, 1 + round % 5, NULL);
        assert_int_equal(effnet_session_run(session, pixels, 5, got, NULL), EFFNET_OK);
        compare(effnet_model_layer(model, effnet_model_get_info(model)->layer_count - 1), "whole network",
                got, expected, 5 * 11);
        effnet_session_close(session);
    }
    effnet_model_close(model);
    free(expected);
    free(pixels);
}

struct user {
    const effnet_model *model;
    const uint8_t *pixels;
    const float *expected;
    int threads;
    bool ok;
};

static void *use_session(void *argument)
{
    struct user *user = argument;
    struct effnet_session_options options = {.device = "cpu", .max_batch = 3, .threads = user->threads};
    effnet_session *session;
    float got[5 * 11];
    user->ok = effnet_session_open(user->model, &options, &session, NULL) == EFFNET_OK;
    for (int round = 0; user->ok && round < 30; round++) {
        user->ok = effnet_session_run(session, user->pixels, 5, got, NULL) == EFFNET_OK;
        for (int i = 0; user->ok && i < 5 * 11; i++)
            user->ok = fabsf(got[i] - user->expected[i]) <= 1e-4f * (1 + fabsf(user->expected[i]));
    }
    effnet_session_close(session);
    return NULL;
}

/* Different sessions in different threads at the same time, on one model. */
static void test_concurrent_sessions(void **state)
{
    (void)state;
    enum { USERS = 4 };
    uint64_t random = random_seed("concurrent sessions", 36);
    effnet_model *model = weights_open(weights_tiny(random_next(&random)));
    uint8_t *pixels = new_pixels(model, 5, &random);
    float *expected = reference_logits(model, pixels, 5);
    struct user users[USERS];
    pthread_t threads[USERS];
    for (int i = 0; i < USERS; i++) {
        users[i] = (struct user){model, pixels, expected, i + 1, false};
        assert_int_equal(pthread_create(&threads[i], NULL, use_session, &users[i]), 0);
    }
    for (int i = 0; i < USERS; i++) {
        pthread_join(threads[i], NULL);
        assert_true(users[i].ok);
    }
    effnet_model_close(model);
    free(expected);
    free(pixels);
}

/* Both ways of running are timed: images that share the threads and images with a thread each. */
/* Cold ones are in test_session.c. */
static void test_timing(void **state)
{
    (void)state;
    effnet_model *model = weights_open(weights_tiny(37));
    effnet_session *session = open_session(model, 2, 5, NULL);
    int units = effnet_session_unit_count(session);
    double elapsed_us, unit_us[64];
    for (int n = 1; n <= 5; n++) {
        assert_int_equal(effnet_session_time(session, n, false, &elapsed_us, NULL), EFFNET_OK);
        assert_true(elapsed_us > 0 && elapsed_us < 60e6);
        assert_int_equal(effnet_session_profile(session, n, false, unit_us, NULL), EFFNET_OK);
        for (int i = 0; i < units; i++) assert_true(unit_us[i] > 0 && unit_us[i] < 60e6);
    }
    effnet_session_close(session);
    effnet_model_close(model);
}

/* Where the CPU has bf16: near the reference, and batches as in fp32. Where not, a refusal that says so. */
static void test_bf16(void **state)
{
    (void)state;
    effnet_model *model = open_weights(networks[0]);
    struct effnet_session_options options = {.device = "cpu", .precision = "bf16", .max_batch = 2};
    struct effnet_error error = {0};
    effnet_session *session;
    int status = effnet_session_open(model, &options, &session, &error);
    if (status) {
        assert_int_equal(status, EFFNET_E_UNAVAILABLE);
        assert_null(session);
        assert_non_null(strstr(error.message, "this CPU has no bf16 instructions"));
        effnet_model_close(model);
        skip();
    }
    assert_string_equal(effnet_session_get_info(session)->precision, "bf16");
    uint64_t random = random_seed("bf16", 38);
    uint8_t *pixels = new_pixels(model, 2, &random);
    float *expected = reference_logits(model, pixels, 2), *got = new_floats(2000, &random, 1), alone[1000];
    assert_int_equal(effnet_session_run(session, pixels, 2, got, NULL), EFFNET_OK);
    double norm = 0, difference = 0;
    for (int i = 0; i < 2000; i++) {
        norm += (double)expected[i] * (double)expected[i];
        difference += pow((double)got[i] - (double)expected[i], 2);
    }
    assert_true(sqrt(difference / norm) <= 0.05);
    assert_int_equal(effnet_session_run(session, pixels, 1, alone, NULL), EFFNET_OK);
    assert_memory_equal(alone, got, sizeof alone);
    effnet_session_close(session);
    effnet_model_close(model);
    model = weights_open(weights_tiny_excited(random_next(&random)));
    check_batches(model, 2, 4, "bf16", &random);
    effnet_model_close(model);
    free(pixels);
    free(expected);
    free(got);
}

static void test_fp16_refused(void **state)
{
    (void)state;
    effnet_model *model = weights_open(weights_tiny(39));
    struct effnet_session_options options = {.device = "cpu", .precision = "fp16"};
    struct effnet_error error = {0};
    effnet_session *session;
    assert_int_equal(effnet_session_open(model, &options, &session, &error), EFFNET_E_UNAVAILABLE);
    assert_null(session);
    assert_non_null(strstr(error.message, "fp16"));
    effnet_model_close(model);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_real_layers),  cmocka_unit_test(test_awkward_layers),
        cmocka_unit_test(test_graphs),       cmocka_unit_test(test_large_pools),
        cmocka_unit_test(test_batches),      cmocka_unit_test(test_squeeze_excite),
        cmocka_unit_test(test_many_threads), cmocka_unit_test(test_concurrent_sessions),
        cmocka_unit_test(test_timing),       cmocka_unit_test(test_bf16),
        cmocka_unit_test(test_fp16_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

#else

int main(void)
{
    printf("this build has no oneDNN\n");
    return 77;
}

#endif
