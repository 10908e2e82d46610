#include "common/error.h"
#include "model/integer.h"
#include "quantize/internal.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_DB = 200 }; /* no noise at all */

/* ---------------------------------------------------------------- opening */

static int check_network(const effnet_model *model, struct effnet_error *error)
{
    const struct effnet_model_info *info = effnet_model_get_info(model);
    if (info->integer)
        return effnet_fail(error, EFFNET_E_UNAVAILABLE, "network %s is of integers already", info->network);
    for (int i = 0; i < info->layer_count; i++) {
        const struct effnet_layer *layer = effnet_model_layer(model, i);
        struct integer_reason reason = effnet_integer_layer_reason(layer, i + 1 == info->layer_count);
        if (!reason.text[0] && layer->inputs[0] == EFFNET_IMAGE)
            reason = effnet_integer_image_reason(&info->preprocess);
        if (!strcmp(layer->name, TABLE_IMAGE)) /* as a layer of version 1 may be called */
            strcpy(reason.text, "the name stands for what an integer network takes");
        if (reason.text[0])
            return effnet_fail(error, EFFNET_E_UNAVAILABLE, "network %s: layer '%s': %s", info->network,
                               layer->name, reason.text);
    }
    return EFFNET_OK;
}

/* Whether the layer's output gets 15 bits. The stem's: where its filters meet a depthwise layer's, which are
 * edges for the most part, the flat part of an image is lost and rounding errors are not. A gate's: it has a
 * value a channel, and costs nothing. */
static bool is_wide(const struct effnet_model *model, int index)
{
    const struct effnet_layer *layer = effnet_model_layer(model, index);
    const bool stem = layer->op == EFFNET_OP_CONV && layer->inputs[0] == EFFNET_IMAGE;
    if (layer->last_reader == index || !(stem || layer->op == EFFNET_OP_LINEAR)) return false;
    for (int i = index + 1; i <= layer->last_reader; i++) {
        const struct effnet_layer *reader = effnet_model_layer(model, i);
        for (int k = 0; k < reader->input_count; k++)
            if (reader->inputs[k] == index && !effnet_integer_takes_wide(reader, k)) return false;
    }
    return true;
}

static int open_tensor(struct tensor *t, int channels, struct effnet_error *error)
{
    const size_t n = (size_t)channels;
    t->channels = channels;
    t->steps = EFFNET_MOST_BYTE;
    t->low = calloc(n, sizeof *t->low);
    t->high = calloc(n, sizeof *t->high);
    t->mean = calloc(n, sizeof *t->mean);
    t->square = calloc(n, sizeof *t->square);
    t->grow = calloc(n, sizeof *t->grow);
    t->histogram = calloc(QUANTIZE_BINS, sizeof *t->histogram);
    if (!t->low || !t->high || !t->mean || !t->square || !t->grow || !t->histogram)
        return effnet_fail_nomem(error, "a tensor's channels", n * sizeof *t->mean);
    for (int c = 0; c < channels; c++) {
        t->low[c] = INFINITY;
        t->high[c] = -INFINITY;
        t->grow[c] = 1;
    }
    return EFFNET_OK;
}

static int build(struct quantizer *q, struct effnet_error *error)
{
    q->tensors = calloc((size_t)q->info->layer_count + 1, sizeof *q->tensors);
    if (!q->tensors) return effnet_fail_nomem(error, "tensors", sizeof *q->tensors);
    EFFNET_TRY(open_tensor(quantize_tensor(q, EFFNET_IMAGE), 3, error));
    for (int i = 0; i < q->info->layer_count; i++)
        EFFNET_TRY(open_tensor(quantize_tensor(q, i), effnet_model_layer(q->model, i)->out_channels, error));
    for (int i = 0; i < q->info->layer_count; i++)
        if (is_wide(q->model, i)) quantize_tensor(q, i)->steps = EFFNET_MOST_WIDE;
    EFFNET_TRY(quantize_open_covariances(q, error));
    return effnet_session_open_layers(q->model, q->threads, &q->session, error);
}

int quantizer_open(const effnet_model *model, int threads, struct quantizer **out, struct effnet_error *error)
{
    *out = NULL;
    EFFNET_TRY(check_network(model, error));
    struct quantizer *q = calloc(1, sizeof *q);
    if (!q) return effnet_fail_nomem(error, "quantizer", sizeof *q);
    q->model = model;
    q->info = effnet_model_get_info(model);
    q->threads = threads;
    const int status = build(q, error);
    if (status)
        quantizer_close(q);
    else
        *out = q;
    return status;
}

void quantizer_close(struct quantizer *q)
{
    if (!q) return;
    for (int i = 0; q->tensors && i <= q->info->layer_count; i++) {
        struct tensor *t = &q->tensors[i];
        free(t->low);
        free(t->high);
        free(t->mean);
        free(t->square);
        free(t->grow);
        free(t->histogram);
    }
    free(q->tensors);
    quantize_close_covariances(q);
    effnet_session_close(q->session);
    free(q);
}

/* ---------------------------------------------------------------- calibrating */

/* Sums of finite floats are finite doubles. The image is finite by its mean and std. */
static int check_finite(const struct quantizer *q, int layer, struct effnet_error *error)
{
    const struct tensor *t = quantize_tensor(q, layer);
    bool finite = true;
    for (int c = 0; c < t->channels; c++) finite = finite && isfinite(t->mean[c]);
    if (finite || layer == EFFNET_IMAGE) return EFFNET_OK;
    return effnet_fail(error, EFFNET_E_DATA, "network %s: layer '%s' gives infinity or NaN", q->info->network,
                       effnet_model_layer(q->model, layer)->name);
}

/* The first time through the images: extremes and sums. */
static int add_moments(void *context, int layer, const float *values, size_t pixels,
                       struct effnet_error *error)
{
    const struct quantizer *q = context;
    struct tensor *t = quantize_tensor(q, layer);
    for (size_t p = 0; p < pixels; p++, values += t->channels)
        for (int c = 0; c < t->channels; c++) {
            const double x = (double)values[c];
            if (values[c] < t->low[c]) t->low[c] = values[c];
            if (values[c] > t->high[c]) t->high[c] = values[c];
            t->mean[c] += x;
            t->square[c] += x * x;
        }
    return check_finite(q, layer, error);
}

/* The image's are of its pixels less their rounded mean. */
static void end_image_moments(const struct quantizer *q)
{
    const struct effnet_preprocess *p = &q->info->preprocess;
    struct tensor *t = quantize_tensor(q, EFFNET_IMAGE);
    for (int c = 0; c < 3; c++) {
        const double std = (double)p->std[c], off = (double)p->mean[c] - rint((double)p->mean[c]);
        t->square[c] = std * std * t->square[c] + 2 * std * off * t->mean[c] + off * off;
        t->mean[c] = std * t->mean[c] + off;
    }
}

static void end_moments(struct quantizer *q, int n)
{
    for (int i = 0; i <= q->info->layer_count; i++) {
        const struct effnet_layer *layer = i ? effnet_model_layer(q->model, i - 1) : NULL;
        const double pixels = layer ? (double)layer->out_height * layer->out_width
                                    : (double)q->info->height * q->info->width;
        struct tensor *t = &q->tensors[i];
        for (int c = 0; c < t->channels; c++) {
            t->mean[c] /= pixels * n;
            t->square[c] /= pixels * n;
        }
    }
    end_image_moments(q);
}

/* The extremes of the grown values. */
static void start_histograms(struct quantizer *q)
{
    for (int i = 0; i <= q->info->layer_count; i++) {
        struct tensor *t = &q->tensors[i];
        t->least = INFINITY;
        t->most = -INFINITY;
        for (int c = 0; c < t->channels; c++) {
            t->least = fmin(t->least, (double)t->low[c] * (double)t->grow[c]);
            t->most = fmax(t->most, (double)t->high[c] * (double)t->grow[c]);
        }
    }
}

/* The second time. */
static int add_to_histogram(void *context, int layer, const float *values, size_t pixels,
                            struct effnet_error *error)
{
    (void)error;
    const struct quantizer *q = context;
    struct tensor *t = quantize_tensor(q, layer);
    quantize_add_covariances(q, layer, values);
    const float bins = t->most > t->least ? (float)(QUANTIZE_BINS / (t->most - t->least)) : 0;
    for (size_t p = 0; p < pixels; p++, values += t->channels)
        for (int c = 0; c < t->channels; c++) {
            const float at = (values[c] * t->grow[c] - (float)t->least) * bins; /* may be beyond a float */
            t->histogram[!(at > 0) ? 0 : at < QUANTIZE_BINS ? (int)at : QUANTIZE_BINS - 1]++;
        }
    return EFFNET_OK;
}

static double most_grown(const struct tensor *t)
{
    double most = 0;
    for (int c = 0; c < t->channels; c++) most = fmax(most, (double)t->grow[c]);
    return most;
}

static double largest_weight(const struct quantizer *q, const struct effnet_layer *layer)
{
    const int inputs = layer->op == EFFNET_OP_DEPTHWISE ? 1 : layer->in_channels;
    double most = 0;
    for (int o = 0; o < layer->out_channels; o++)
        for (int i = 0; i < inputs; i++)
            for (int t = 0; t < layer->kernel * layer->kernel; t++)
                most = fmax(most, fabs((double)quantize_weight(q, layer, o, i, t)));
    return most;
}

/* A step of a layer's output is no smaller than one of its sums, by the largest step that its weights may
 * have, of its mean or of its product; SiLU and sigmoid give no more than so many of 1
 * (docs/weights-format.md, m and g). */
static double least_step(const struct quantizer *q, int index)
{
    const struct effnet_layer *layer = effnet_model_layer(q->model, index);
    const int from = layer->inputs[0];
    double step = from == EFFNET_IMAGE ? 1 : (double)quantize_tensor(q, from)->scale;
    if (layer->op == EFFNET_OP_POOL)
        step /= (double)layer->in_height * layer->in_width;
    else if (layer->op == EFFNET_OP_SCALE)
        step *= (double)quantize_tensor(q, layer->inputs[1])->scale;
    else if (effnet_integer_curved(layer->activation))
        step = most_grown(quantize_tensor(q, index)) / INTEGER_MAX_STEPS;
    else
        step *= fmax(largest_weight(q, layer) / 127, QUANTIZE_LEAST_WEIGHT_SCALE);
    return fmax(1e-6, 1.001 * step);
}

/* Of all layers, before those that read them. The last one gives floats. */
static int choose_ranges(struct quantizer *q, struct effnet_error *error)
{
    for (int i = 0; i < q->info->layer_count; i++) {
        const struct effnet_layer *layer = effnet_model_layer(q->model, i);
        struct tensor *t = quantize_tensor(q, i);
        t->least_step = least_step(q, i);
        quantize_choose_range(t,
                              layer->activation != EFFNET_ACT_NONE && layer->activation != EFFNET_ACT_SILU);
        if (i + 1 < q->info->layer_count && !((double)t->scale <= TABLE_MAX_SCALE))
            return effnet_fail(error, EFFNET_E_UNAVAILABLE,
                               "network %s: layer '%s': a step of its output would be %g, integer networks "
                               "have up to %g",
                               q->info->network, layer->name, (double)t->scale, TABLE_MAX_SCALE);
    }
    return EFFNET_OK;
}

static int run_all(struct quantizer *q, const uint8_t *pixels, int n, quantize_visitor *visit,
                   void (*progress)(void *context, int done, int total), void *context, int done,
                   struct effnet_error *error)
{
    const size_t size = (size_t)q->info->height * (size_t)q->info->width * 3;
    for (int i = 0; i < n; i++) {
        EFFNET_TRY(quantize_run(q->session, q->model, pixels + (size_t)i * size, visit, q, error));
        if (progress) progress(context, done + i + 1, 2 * n);
    }
    return EFFNET_OK;
}

int quantizer_calibrate(struct quantizer *q, const uint8_t *pixels, int n,
                        void (*progress)(void *context, int done, int total), void *context,
                        struct effnet_error *error)
{
    EFFNET_TRY(run_all(q, pixels, n, add_moments, progress, context, 0, error));
    end_moments(q, n);
    EFFNET_TRY(quantize_equalise(q, error));
    start_histograms(q);
    EFFNET_TRY(run_all(q, pixels, n, add_to_histogram, progress, context, n, error));
    EFFNET_TRY(choose_ranges(q, error));
    quantize_end_covariances(q);
    return EFFNET_OK;
}

struct quantize_output quantizer_output(const struct quantizer *q, int layer)
{
    const struct tensor *t = quantize_tensor(q, layer);
    struct quantize_output output = {.scale = t->scale,
                                     .zero = t->zero,
                                     .bits = t->steps == EFFNET_MOST_WIDE ? 15 : 8,
                                     .range = t->range,
                                     .clipped_percent = 100 * t->clipped,
                                     .most_grown = (float)most_grown(t)};
    return output;
}

/* ---------------------------------------------------------------- comparing */

/* One image through both networks: the float network's outputs are kept. */
struct pair {
    struct quantizer *q;
    float **wanted;         /* [layer_count] */
    double *signal, *noise; /* [layer_count] */
    bool integer;           /* which network it is now */
};

static int visit_pair(void *context, int layer, const float *values, size_t pixels,
                      struct effnet_error *error)
{
    (void)error;
    const struct pair *pair = context;
    if (layer == EFFNET_IMAGE) return EFFNET_OK;
    const struct tensor *t = quantize_tensor(pair->q, layer);
    float *wanted = pair->wanted[layer];
    if (!pair->integer) {
        memcpy(wanted, values, pixels * (size_t)t->channels * sizeof *wanted);
        return EFFNET_OK;
    }
    for (size_t p = 0; p < pixels; p++, values += t->channels, wanted += t->channels)
        for (int c = 0; c < t->channels; c++) {
            const double want = (double)wanted[c], off = (double)values[c] / (double)t->grow[c] - want;
            pair->signal[layer] += want * want;
            pair->noise[layer] += off * off;
        }
    return EFFNET_OK;
}

static int largest(const float *values, int count)
{
    int best = 0;
    for (int i = 1; i < count; i++)
        if (values[i] > values[best]) best = i;
    return best;
}

static int compare_image(struct pair *pair, effnet_session *session, const effnet_model *integer,
                         const uint8_t *pixels, struct quantize_loss *loss, struct effnet_error *error)
{
    struct quantizer *q = pair->q;
    const int last = q->info->layer_count - 1;
    float *logits = malloc((size_t)q->info->classes * sizeof *logits);
    if (!logits) return effnet_fail_nomem(error, "logits", (size_t)q->info->classes * sizeof *logits);
    pair->integer = false;
    int status = quantize_run(q->session, q->model, pixels, visit_pair, pair, error);
    pair->integer = true;
    if (!status) status = quantize_run(session, integer, pixels, visit_pair, pair, error);
    if (!status) status = effnet_session_run(session, pixels, 1, logits, error);
    if (!status)
        loss->same += largest(logits, q->info->classes) == largest(pair->wanted[last], q->info->classes);
    free(logits);
    return status;
}

static int compare_images(struct pair *pair, const effnet_model *integer, const uint8_t *pixels, int n,
                          struct quantize_loss *loss, struct effnet_error *error)
{
    struct quantizer *q = pair->q;
    const size_t layers = (size_t)q->info->layer_count;
    const size_t size = (size_t)q->info->height * (size_t)q->info->width * 3;
    if (!pair->wanted || !pair->signal || !pair->noise)
        return effnet_fail_nomem(error, "layers", layers * sizeof *pair->signal);
    for (size_t i = 0; i < layers; i++) {
        const size_t bytes = effnet_layer_out_size(effnet_model_layer(q->model, (int)i)) * sizeof(float);
        pair->wanted[i] = malloc(bytes);
        if (!pair->wanted[i]) return effnet_fail_nomem(error, "a layer's output", bytes);
    }
    effnet_session *session;
    const struct effnet_session_options options = {.device = "cpu", .threads = q->threads};
    EFFNET_TRY(effnet_session_open(integer, &options, &session, error));
    int status = EFFNET_OK;
    loss->same = 0;
    for (int i = 0; !status && i < n; i++)
        status = compare_image(pair, session, integer, pixels + (size_t)i * size, loss, error);
    effnet_session_close(session);
    for (size_t i = 0; i < layers; i++)
        loss->layer_db[i] = fmax(-MOST_DB, fmin(MOST_DB, 10 * log10(pair->signal[i] / pair->noise[i])));
    return status;
}

int quantizer_compare(struct quantizer *q, const effnet_model *integer, const uint8_t *pixels, int n,
                      struct quantize_loss *loss, struct effnet_error *error)
{
    const size_t layers = (size_t)q->info->layer_count;
    struct pair pair = {.q = q};
    pair.wanted = calloc(layers, sizeof *pair.wanted);
    pair.signal = calloc(layers, sizeof *pair.signal);
    pair.noise = calloc(layers, sizeof *pair.noise);
    const int status = compare_images(&pair, integer, pixels, n, loss, error);
    for (size_t i = 0; pair.wanted && i < layers; i++) free(pair.wanted[i]);
    free(pair.wanted);
    free(pair.signal);
    free(pair.noise);
    return status;
}
