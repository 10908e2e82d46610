/* What the tests of the CUDA backend as a whole share: small networks with seeded weights, images for them,
 * and sessions whose failures are counted. */
#ifndef EFFNET_TESTS_GPU_NETWORKS_H
#define EFFNET_TESTS_GPU_NETWORKS_H

#include "effnet_lab.h"

#include <unistd.h>

#include "small.h"
#include "weights_builder.h"

/* Of weights and images; main takes it from EFFNET_TEST_SEED. */
static uint64_t seed = 20260401;

static const char *const PLANS[] = {"auto", "cudnn"};

/* ---------------------------------------------------------------- networks */

enum { IMAGES_MAX = 11 };

/* A network, and images for it. */
struct subject {
    const char *name;
    effnet_model *model;
    size_t classes, crop_bytes;
    int images, max_batch;
    uint8_t *pixels; /* [images][crop][crop][3] */
};

/* Noise of another mean and contrast in each image; the first is black. */
static inline struct subject subject_new(const char *name, effnet_model *model, int images, int max_batch)
{
    const struct effnet_model_info *info = effnet_model_get_info(model);
    const size_t side = (size_t)info->preprocess.crop;
    struct subject s = {name, model, (size_t)info->classes, side * side * 3, images, max_batch, NULL};
    uint64_t state = seed;
    s.pixels = checked_malloc((size_t)images * s.crop_bytes);
    for (int i = 0; i < images; i++) {
        const float mean = 127.5f + 100 * noise(&state), contrast = 64 + 64 * noise(&state);
        for (size_t p = 0; p < s.crop_bytes; p++) {
            const float v = mean + contrast * noise(&state);
            s.pixels[(size_t)i * s.crop_bytes + p] = (uint8_t)(i == 0 ? 0 : v < 0 ? 0 : v > 255 ? 255 : v);
        }
    }
    return s;
}

static inline void subject_free(struct subject *s)
{
    effnet_model_close(s->model);
    free(s->pixels);
}

/* lite1's kinds of layers: its first block, SAME padding, odd maps, both kernels and strides, residuals, a
 * head that pools. */
static inline effnet_model *lite_model(void)
{
    struct weights *w = weights_new(seed, 52, 52);
    weights_conv(w, "stem", 32, 3, 2, WEIGHTS_SAME, "relu6");
    weights_mbconv(w, 16, 32, 3, 1, WEIGHTS_SAME, "relu6", false);
    weights_mbconv(w, 24, 96, 3, 2, WEIGHTS_SAME, "relu6", false);
    weights_mbconv(w, 24, 144, 3, 1, WEIGHTS_SAME, "relu6", true);
    weights_mbconv(w, 40, 144, 5, 2, WEIGHTS_SAME, "relu6", false);
    weights_mbconv(w, 40, 240, 5, 1, WEIGHTS_SAME, "relu6", true);
    weights_mbconv(w, 80, 240, 3, 2, WEIGHTS_SAME, "relu6", false);
    weights_head(w, 320, "relu6", 37);
    return weights_open(w);
}

/* A graph: layers take what is not the one before, a depthwise layer's output has two readers, a residual
 * comes from far. */
static inline effnet_model *graph_model(void)
{
    struct weights *w = weights_new(seed, 36, 36);
    weights_conv(w, "stem", 32, 3, 2, WEIGHTS_SAME, "relu6");
    weights_conv(w, "deeper", 48, 3, 1, WEIGHTS_SAME, "relu");
    weights_take(w, "stem");
    weights_layer(w, "side", "pointwise", 48, 1, 1, NULL, "relu6", NULL, -1);
    weights_take(w, "deeper");
    weights_layer(w, "sum", "pointwise", 48, 1, 1, NULL, "none", "side", -1);
    weights_mbconv(w, 48, 96, 5, 1, WEIGHTS_SAME, "relu6", true);
    weights_take(w, "blocks.0.depthwise");
    weights_layer(w, "again", "pointwise", 48, 1, 1, NULL, "relu6", "blocks.0.project", -1);
    weights_mbconv(w, 64, 96, 3, 2, WEIGHTS_SAME, "relu6", false);
    weights_head(w, 128, "relu6", 19);
    return weights_open(w);
}

/* EfficientNet-B's kinds of layers: SiLU, and squeeze-and-excite between depthwise and project, with few and
 * many channels and hidden sizes that no vector divides; a gate on a map that is not a depthwise layer's. */
static inline effnet_model *excited_model(void)
{
    struct weights *w = weights_new(seed, 53, 53);
    weights_conv(w, "stem", 32, 3, 2, WEIGHTS_SAME, "silu");
    weights_mbconv_excited(w, 16, 32, 3, 1, 8, false);
    weights_mbconv_excited(w, 24, 96, 3, 2, 4, false);
    weights_mbconv_excited(w, 24, 144, 3, 1, 6, true);
    weights_mbconv_excited(w, 40, 144, 5, 2, 6, false);
    weights_mbconv_excited(w, 40, 240, 5, 1, 10, true);
    weights_mbconv_excited(w, 120, 1392, 3, 2, 58, false);
    weights_squeeze_excite(w, "odd", 7, "relu");
    weights_layer(w, "mix", "pointwise", 48, 1, 1, NULL, "none", NULL, -1);
    weights_head(w, 320, "silu", 37);
    return weights_open(w);
}

/* Symmetric padding, ReLU, a map too large to be pooled where it is made, and a head of linear layers: folded
 * Linear, BatchNorm1d, GELU, ReLU; then a GELU and a SiLU layer of odd sizes. */
static inline effnet_model *heads_model(void)
{
    struct weights *w = weights_new(seed + 1, 37, 37);
    weights_conv(w, "stem", 16, 3, 2, WEIGHTS_SYMMETRIC, "relu");
    weights_mbconv(w, 24, 48, 3, 2, WEIGHTS_SYMMETRIC, "relu", false);
    weights_mbconv(w, 24, 96, 5, 1, WEIGHTS_SYMMETRIC, "relu", true);
    weights_layer(w, "head", "pointwise", 200, 1, 1, NULL, "relu", NULL, -1);
    weights_layer(w, "pool", "pool", 200, 1, 1, NULL, NULL, NULL, -1);
    weights_layer(w, "classifier.0", "linear", 136, 1, 1, NULL, "gelu_relu", NULL, -1);
    weights_layer(w, "classifier.1", "linear", 133, 1, 1, NULL, "gelu", NULL, -1);
    weights_layer(w, "classifier.2", "linear", 61, 1, 1, NULL, "silu", NULL, -1);
    weights_layer(w, "classifier.3", "linear", 11, 1, 1, NULL, "none", NULL, -1);
    weights_labels(w, 11);
    return weights_open(w);
}

/* As few channels as a network may have: 8, 16 and 24 into and out of pointwise layers, behind depthwise ones
 * with and without a residual; 8 pooled; and so many classes. */
static inline effnet_model *narrow_model(int classes)
{
    struct weights *w = weights_new(seed + 2, 33, 33);
    weights_conv(w, "stem", 8, 3, 2, WEIGHTS_SAME, "relu6");
    weights_mbconv(w, 8, 8, 3, 1, WEIGHTS_SAME, "relu6", true);
    weights_mbconv(w, 8, 24, 5, 1, WEIGHTS_SAME, "relu", true);
    weights_mbconv(w, 16, 8, 3, 2, WEIGHTS_SAME, "relu6", false);
    weights_mbconv(w, 8, 16, 3, 1, WEIGHTS_SAME, "relu6", false);
    weights_mbconv(w, 24, 40, 5, 2, WEIGHTS_SYMMETRIC, "relu", false);
    weights_head(w, 8, "relu6", classes);
    return weights_open(w);
}

/* ---------------------------------------------------------------- sessions */

/* NULL, and one failure counted, where it does not open. */
static inline effnet_session *open_session(const struct subject *s, const char *device, const char *plan,
                                           int max_batch)
{
    const struct effnet_session_options options = {.device = device, .plan = plan, .max_batch = max_batch};
    struct effnet_error error = {0};
    effnet_session *session;
    const int status = effnet_session_open(s->model, &options, &session, &error);
    expect(!status, "%s, plan %s, batch %d: %s", s->name, plan, max_batch, error.message);
    return session;
}

/* Memory for `count` floats and a guard zone behind them, all of it NaN. */
enum { GUARD_FLOATS = 64 };

static inline float *poisoned(size_t count)
{
    float *values = checked_malloc((count + GUARD_FLOATS) * sizeof *values);
    memset(values, 0xff, (count + GUARD_FLOATS) * sizeof *values);
    return values;
}

/* Whether all of it was written, by numbers, and nothing behind it. */
static inline bool filled(const float *values, size_t count)
{
    bool good = true;
    for (size_t i = 0; i < count; i++) good &= isfinite(values[i]);
    for (size_t i = 0; i < GUARD_FLOATS * sizeof *values; i++)
        good &= ((const unsigned char *)(values + count))[i] == 0xff;
    return good;
}

/* The logits of n images; the caller frees them. */
static inline float *run(effnet_session *session, const struct subject *s, const uint8_t *pixels, int n)
{
    struct effnet_error error = {0};
    float *logits = poisoned((size_t)n * s->classes);
    const int status = effnet_session_run(session, pixels, n, logits, &error);
    expect(!status, "%s: a run of %d: %s", s->name, n, error.message);
    expect(filled(logits, (size_t)n * s->classes), "%s: a run of %d: logits unwritten, or written beyond",
           s->name, n);
    return logits;
}

#endif
