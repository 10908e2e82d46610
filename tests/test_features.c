/* Features: what a session hands out beside the logits is the output of the layer that it says, whatever the
 * head behind it does, and in any batch; asking for it changes no logit. */
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

enum { IMAGES = 5, BATCH = 3, GUARD = 64 };

static uint64_t random_state; /* of the pixels */

static effnet_session *open_session(const effnet_model *model, struct effnet_session_options options)
{
    struct effnet_error error = {0};
    effnet_session *session;
    if (effnet_session_open(model, &options, &session, &error))
        fail_msg("%s: %s", options.device, error.message);
    return session;
}

/* Room for IMAGES rows and a guard zone, all of it NaN. */
static float *poisoned(size_t count)
{
    float *values = malloc((IMAGES * count + GUARD) * sizeof *values);
    assert_non_null(values);
    memset(values, 0xff, (IMAGES * count + GUARD) * sizeof *values);
    return values;
}

static void free_guarded(float *values, size_t count)
{
    for (size_t i = 0; i < GUARD; i++) assert_true(isnan(values[IMAGES * count + i]));
    free(values);
}

/* A head whose linear layers are wider than the map: their outputs would lie over the features. */
static effnet_model *deep_head(uint64_t seed)
{
    struct weights *w = weights_new(seed, 3, 3);
    weights_conv(w, "stem", 24, 3, 2, WEIGHTS_SAME, "relu6");
    weights_layer(w, "pool", "pool", 24, 1, 1, NULL, NULL, NULL, -1);
    weights_layer(w, "classifier.0", "linear", 200, 1, 1, NULL, "hardswish", NULL, -1);
    weights_layer(w, "classifier.1", "linear", 200, 1, 1, NULL, "gelu", "classifier.0", -1);
    weights_layer(w, "classifier.2", "linear", 11, 1, 1, NULL, "none", NULL, -1);
    weights_labels(w, 11);
    return weights_open(w);
}

struct subject {
    const effnet_model *model;
    size_t classes, count, image; /* count: features of an image */
    uint8_t *pixels;
    float *logits, *features; /* as one run of all gives them */
};

static void check_near(const struct subject *s, const float *expected, double allowance)
{
    double error = 0, norm = 0;
    for (size_t i = 0; i < IMAGES * s->count; i++) {
        const double difference = (double)s->features[i] - (double)expected[i];
        error += difference * difference;
        norm += (double)expected[i] * (double)expected[i];
    }
    if (!(error <= allowance * allowance * norm)) fail_msg("relative L2 %g", sqrt(error / norm));
}

/* Image by image, by a stream, and by calls that want no features. */
static void check_other_ways(const struct subject *s, effnet_session *session)
{
    float *logits = poisoned(s->classes), *features = poisoned(s->count);
    uint8_t *stage;
    int n;
    for (size_t i = 0; i < IMAGES; i++)
        assert_int_equal(effnet_session_run_features(session, s->pixels + i * s->image, 1,
                                                     logits + i * s->classes, features + i * s->count, NULL),
                         EFFNET_OK);
    assert_memory_equal(logits, s->logits, IMAGES * s->classes * sizeof *logits);
    assert_memory_equal(features, s->features, IMAGES * s->count * sizeof *features);
    for (int wanted = 0; wanted < 2; wanted++) {
        memset(logits, 0xff, IMAGES * s->classes * sizeof *logits);
        memset(features, 0xff, IMAGES * s->count * sizeof *features);
        assert_int_equal(effnet_session_stage(session, &stage, NULL), EFFNET_OK);
        memcpy(stage, s->pixels, BATCH * s->image);
        assert_int_equal(effnet_session_submit(session, stage, BATCH, NULL), EFFNET_OK);
        assert_int_equal(wanted ? effnet_session_collect_features(session, logits, features, &n, NULL)
                                : effnet_session_collect(session, logits, &n, NULL),
                         EFFNET_OK);
        assert_int_equal(n, BATCH);
        assert_memory_equal(logits, s->logits, BATCH * s->classes * sizeof *logits);
        if (wanted) assert_memory_equal(features, s->features, BATCH * s->count * sizeof *features);
    }
    assert_int_equal(effnet_session_run(session, s->pixels, IMAGES, logits, NULL), EFFNET_OK);
    assert_memory_equal(logits, s->logits, IMAGES * s->classes * sizeof *logits);
    free_guarded(logits, s->classes);
    free_guarded(features, s->count);
}

/* A class's map adds up to its logit. */
static void check_activation(const struct subject *s, const float *bias, double allowance)
{
    const struct effnet_model_info *info = effnet_model_get_info(s->model);
    const size_t pixels = (size_t)info->feature_height * (size_t)info->feature_width;
    float *activation = malloc(pixels * sizeof *activation);
    assert_non_null(activation);
    for (size_t i = 0; i < IMAGES; i++)
        for (size_t class = 0; class < s->classes; class ++) {
            const float logit = s->logits[i * s->classes + class];
            double mean = 0, size = 0;
            assert_int_equal(
                effnet_class_activation(s->model, (int)class, s->features + i * s->count, activation, NULL),
                EFFNET_OK);
            for (size_t p = 0; p < pixels; p++) {
                mean += (double)activation[p] / (double)pixels;
                size += fabs((double)activation[p]) / (double)pixels;
            }
            if (!(fabs(mean + (double)bias[class] - (double)logit) <= allowance * (1 + size)))
                fail_msg("class %zu: mean %g and bias %g, but logit %g", class, mean, (double)bias[class],
                         (double)logit);
        }
    free(activation);
}

/* `allowance`: of the features' relative L2; 0: they are the reference's bits. */
static void check(const effnet_model *model, enum effnet_features kind, const char *device,
                  const char *precision, double allowance)
{
    const struct effnet_model_info *info = effnet_model_get_info(model);
    const int pool = effnet_model_head_pool(model);
    const int source = kind == EFFNET_FEATURES_MAP ? effnet_model_layer(model, pool)->inputs[0] : pool;
    const struct effnet_layer *last = effnet_model_layer(model, info->layer_count - 1);
    struct effnet_session_options options = {
        .device = device, .precision = precision, .max_batch = BATCH, .threads = 2};
    struct subject s = {.model = model,
                        .classes = (size_t)info->classes,
                        .count = effnet_layer_out_size(effnet_model_layer(model, source)),
                        .image = (size_t)info->height * (size_t)info->width * 3};
    effnet_session *plain = open_session(model, options);
    options.features = kind;
    effnet_session *session = open_session(model, options);
    assert_int_equal(effnet_session_get_info(plain)->feature_count, 0);
    assert_int_equal(effnet_session_get_info(session)->feature_count, s.count);
    s.pixels = malloc(IMAGES * s.image);
    assert_non_null(s.pixels);
    for (size_t i = 0; i < IMAGES * s.image; i++) s.pixels[i] = (uint8_t)random_next(&random_state);
    s.logits = poisoned(s.classes);
    s.features = poisoned(s.count);
    assert_int_equal(effnet_session_run_features(session, s.pixels, IMAGES, s.logits, s.features, NULL),
                     EFFNET_OK);
    float *expected = reference_layer_output(model, s.pixels, IMAGES, source);
    check_near(&s, expected, allowance);
    check_other_ways(&s, session);
    if (kind == EFFNET_FEATURES_MAP && last->inputs[0] == pool)
        check_activation(&s, last->bias, precision ? 2e-2 : 1e-5);
    float *logits = poisoned(s.classes);
    assert_int_equal(effnet_session_run(plain, s.pixels, IMAGES, logits, NULL), EFFNET_OK);
    assert_memory_equal(logits, s.logits, IMAGES * s.classes * sizeof *logits);
    free_guarded(logits, s.classes);
    free_guarded(s.logits, s.classes);
    free_guarded(s.features, s.count);
    free(expected);
    free(s.pixels);
    effnet_session_close(session);
    effnet_session_close(plain);
}

/* This machine's oneDNN may have no bf16. */
static bool has_bf16(const effnet_model *model)
{
    const struct effnet_session_options options = {.device = "cpu", .precision = "bf16"};
    effnet_session *session;
    if (effnet_session_open(model, &options, &session, NULL)) return false;
    effnet_session_close(session);
    return true;
}

static void check_devices(effnet_model *model)
{
    for (enum effnet_features kind = EFFNET_FEATURES_POOLED; kind <= EFFNET_FEATURES_MAP; kind++) {
        check(model, kind, "reference", NULL, 0);
        check(model, kind, "cpu", NULL, 1e-5);
        if (has_bf16(model)) check(model, kind, "cpu", "bf16", 5e-2);
    }
    effnet_model_close(model);
}

static void test_networks(void **state)
{
    (void)state;
    random_state = random_seed("pixels", 31);
    check_devices(weights_open(weights_tiny(3)));
    check_devices(weights_open(weights_tiny_excited(4)));
    check_devices(deep_head(5));
    for (uint64_t seed = 1; seed <= 10; seed++) check_devices(weights_open(weights_graph(seed)));
}

static void test_refusals(void **state)
{
    (void)state;
    effnet_model *model = weights_open(weights_tiny(1));
    struct effnet_session_options options = {.device = "reference", .features = (enum effnet_features)1000};
    struct effnet_error error = {0};
    effnet_session *session;
    uint8_t pixels[21 * 21 * 3] = {0};
    float logits[11], features[65];
    int n = -1;
    assert_int_equal(effnet_session_open(model, &options, &session, &error), EFFNET_E_USAGE);
    assert_string_equal(error.message, "session: unknown features 1000");
    options.features = EFFNET_FEATURES_NONE;
    session = open_session(model, options);
    assert_int_equal(effnet_session_run_features(session, pixels, 1, logits, features, &error),
                     EFFNET_E_USAGE);
    assert_string_equal(error.message, "run_features: the session was opened without features");
    assert_int_equal(effnet_session_collect_features(session, logits, features, &n, &error), EFFNET_E_USAGE);
    assert_string_equal(error.message, "collect_features: the session was opened without features");
    assert_int_equal(n, 0);
    effnet_session_close(session);
    options.features = EFFNET_FEATURES_POOLED;
    session = open_session(model, options);
    assert_int_equal(effnet_session_run_features(session, pixels, 1, logits, NULL, &error), EFFNET_E_USAGE);
    assert_int_equal(effnet_session_run_features(session, NULL, 1, logits, features, &error), EFFNET_E_USAGE);
    assert_int_equal(effnet_session_collect_features(session, logits, NULL, &n, &error), EFFNET_E_USAGE);
    assert_int_equal(effnet_session_collect_features(session, logits, features, &n, &error), EFFNET_OK);
    assert_int_equal(n, 0);
    effnet_session_close(session);
    effnet_model_close(model);
}

/* A network whose only pool reads `what`, behind which `activation` follows its one linear layer. */
static effnet_model *short_model(const char *what, const char *activation)
{
    struct weights *w = weights_new(7, 5, 5);
    if (strcmp(what, "image") != 0) weights_conv(w, what, 8, 3, 2, WEIGHTS_SAME, "relu6");
    weights_layer(w, "pool", "pool", w->channels, 1, 1, NULL, NULL, NULL, -1);
    weights_layer(w, "classifier", "linear", 11, 1, 1, NULL, activation, NULL, -1);
    weights_labels(w, 11);
    return weights_open(w);
}

static void test_no_map(void **state)
{
    (void)state;
    struct effnet_error error = {0};
    struct effnet_session_options options = {.device = "reference", .features = EFFNET_FEATURES_MAP};
    effnet_session *session;
    effnet_model *model = short_model("image", "none");
    assert_int_equal(effnet_session_open(model, &options, &session, &error), EFFNET_E_UNAVAILABLE);
    assert_non_null(strstr(error.message, "has no feature map: its last pooling reads the image"));
    effnet_model_close(model);

    effnet_model *const others[] = {deep_head(5), short_model("stem", "sigmoid")};
    for (int i = 0; i < 2; i++) {
        assert_int_equal(effnet_class_activation(others[i], 0, NULL, NULL, &error), EFFNET_E_UNAVAILABLE);
        assert_non_null(strstr(error.message, "is not one linear layer behind the pooling"));
        effnet_model_close(others[i]);
    }
    model = short_model("stem", "none");
    float map[3 * 3 * 8] = {0}, activation[3 * 3];
    assert_int_equal(effnet_class_activation(model, 0, NULL, NULL, &error), EFFNET_OK);
    assert_int_equal(effnet_class_activation(model, 10, map, activation, &error), EFFNET_OK);
    assert_int_equal(effnet_class_activation(model, 11, map, activation, &error), EFFNET_E_USAGE);
    assert_int_equal(effnet_class_activation(model, -1, map, activation, &error), EFFNET_E_USAGE);
    assert_int_equal(effnet_class_activation(model, 0, map, NULL, &error), EFFNET_E_USAGE);
    assert_int_equal(effnet_class_activation(NULL, 0, map, activation, &error), EFFNET_E_USAGE);
    effnet_model_close(model);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_networks),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_no_map),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
