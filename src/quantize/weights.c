/* Weights of 8 bits, a scale an output channel, and biases that make up for the means of what rounding them
 * takes. */
#include "common/error.h"
#include "model/integer.h"
#include "quantize/internal.h"

#include <math.h>
#include <stdlib.h>

enum { MOST = 127, GRID = 40, SWEEPS = 20 };
#define GRID_STEP       0.01 /* of the largest weight */
#define MOST_BIAS       (1 << 28)
#define MOST_MULTIPLIER 0.9995 /* 1, less what rounding it may take */
#define RIDGE           0.01   /* of the mean variance */

/* Index of an input channel's weights, of output channel `o`. */
static int inputs_of(const struct effnet_layer *layer)
{
    return layer->op == EFFNET_OP_DEPTHWISE ? 1 : layer->in_channels;
}

static int channel_of(const struct effnet_layer *layer, int o, int i)
{
    return layer->op == EFFNET_OP_DEPTHWISE ? o : i;
}

/* How many times as large output channel `o` of the layer's sums is: what SiLU and sigmoid are of stays as it
 * is, and their output grows. */
static double sum_grown(const struct quantizer *q, const struct effnet_layer *layer, int o)
{
    const int index = (int)(layer - effnet_model_layer(q->model, 0));
    return effnet_integer_curved(layer->activation) ? 1 : (double)quantize_tensor(q, index)->grow[o];
}

float quantize_weight(const struct quantizer *q, const struct effnet_layer *layer, int o, int i, int tap)
{
    const int taps = layer->kernel * layer->kernel, c = channel_of(layer, o, i);
    const struct tensor *in = quantize_tensor(q, layer->inputs[0]);
    const float w =
        layer->weight[((size_t)o * (size_t)inputs_of(layer) + (size_t)i) * (size_t)taps + (size_t)tap];
    const double std = layer->inputs[0] == EFFNET_IMAGE ? (double)q->info->preprocess.std[c] : 1;
    return (float)((double)w * sum_grown(q, layer, o) / ((double)in->grow[c] * std));
}

/* What the bias is in the integer network: pixels are taken less their rounded mean. */
static double bias_of(const struct quantizer *q, const struct effnet_layer *layer, int o)
{
    const struct effnet_preprocess *p = &q->info->preprocess;
    const int taps = layer->kernel * layer->kernel;
    double bias = (double)layer->bias[o] * sum_grown(q, layer, o);
    if (layer->inputs[0] != EFFNET_IMAGE) return bias;
    for (int i = 0; i < inputs_of(layer); i++) {
        const double mean = (double)p->mean[channel_of(layer, o, i)];
        for (int t = 0; t < taps; t++)
            bias += (double)quantize_weight(q, layer, o, i, t) * (rint(mean) - mean);
    }
    return bias;
}

static int round_weight(double w, double scale)
{
    return (int)fmin(MOST, fmax(-MOST, rint(w / scale)));
}

/* One output channel's weights w[inputs][taps] with this scale: how much the sum is off, as a square, where
 * inputs are independent of each other. square: [inputs], E[x^2]. */
static double loss_of(const float *w, const double *square, int inputs, int taps, double scale)
{
    double loss = 0;
    for (int i = 0; i < inputs; i++)
        for (int t = 0; t < taps; t++) {
            const double x = (double)w[i * taps + t], error = round_weight(x, scale) * scale - x;
            loss += square[i] * error * error;
        }
    return loss;
}

/* The scale that loses least. */
static double choose_scale(const float *w, const double *square, int inputs, int taps)
{
    double most = 0, best = 0, least = INFINITY;
    for (int k = 0; k < inputs * taps; k++) most = fmax(most, fabs((double)w[k]));
    for (int g = 0; g < GRID && most > 0; g++) {
        const double scale = (double)(float)(most * (1 - g * GRID_STEP) / MOST);
        const double loss = loss_of(w, square, inputs, taps, scale);
        if (loss >= least) continue;
        least = loss;
        best = scale;
    }
    return best;
}

/* The bytes of one output channel: w[size] rounded, then moved a step up or down, weight by weight, wherever
 * that makes the variance of what the sum is off smaller, until nowhere does. That variance is d^T C d, with
 * d what each weight is off and C the covariance of the inputs. off[size] and slope[size] are workspace. */
static void round_together(const float *w, const double *c, int size, double scale, int *bytes, double *off,
                           double *slope)
{
    for (int i = 0; i < size; i++) {
        bytes[i] = round_weight((double)w[i], scale);
        off[i] = bytes[i] * scale - (double)w[i];
        slope[i] = 0;
    }
    for (int i = 0; i < size; i++)
        for (int k = 0; k < size; k++) slope[k] += off[i] * c[(size_t)i * (size_t)size + (size_t)k];
    bool moved = true;
    for (int sweep = 0; moved && sweep < SWEEPS; sweep++) {
        moved = false;
        for (int i = 0; i < size; i++) {
            const double *row = c + (size_t)i * (size_t)size;
            if (row[i] <= 0) continue;
            int steps = (int)rint(fmax(-MOST, fmin(MOST, -slope[i] / (row[i] * scale))));
            if (bytes[i] + steps > MOST) steps = MOST - bytes[i];
            if (bytes[i] + steps < -MOST) steps = -MOST - bytes[i];
            if (steps == 0) continue;
            moved = true;
            bytes[i] += steps;
            off[i] += steps * scale;
            for (int k = 0; k < size; k++) slope[k] += steps * scale * row[k];
        }
    }
}

/* Covariances and means of a layer's inputs, of output channel o, as large as they are in the integer
 * network; with a little more variance, as if of noise, since a sample does not tell all. */
static void load_inputs(const struct quantizer *q, const struct effnet_layer *layer, int index, int o,
                        double *c, double *mean)
{
    const struct covariance *from = &q->covariances[index];
    const struct tensor *in = quantize_tensor(q, layer->inputs[0]);
    const size_t n = (size_t)from->size, taps = (size_t)layer->kernel * (size_t)layer->kernel;
    const size_t matrix = layer->op == EFFNET_OP_DEPTHWISE ? (size_t)o : 0;
    double trace = 0;
    for (size_t i = 0; i < n; i++) {
        const double grow = (double)in->grow[channel_of(layer, o, (int)(i / taps))];
        mean[i] = from->mean[matrix * n + i] * grow;
        for (size_t k = 0; k < n; k++)
            c[i * n + k] = from->product[matrix * n * n + i * n + k] * grow *
                           (double)in->grow[channel_of(layer, o, (int)(k / taps))];
        trace += c[i * n + i];
    }
    for (size_t i = 0; i < n; i++) c[i * n + i] += RIDGE * trace / (double)n;
}

/* Room for one output channel's numbers. */
struct room {
    float *w;
    double *square, *c, *mean, *off, *slope;
    int *bytes;
};

static void round_channel(const struct quantizer *q, const struct effnet_layer *layer, int o, struct room *r,
                          int8_t *weight, int32_t *bias, float *scale)
{
    const struct tensor *in = quantize_tensor(q, layer->inputs[0]);
    const int inputs = inputs_of(layer), taps = layer->kernel * layer->kernel, size = inputs * taps;
    const int index = (int)(layer - effnet_model_layer(q->model, 0));
    const double step = layer->inputs[0] == EFFNET_IMAGE ? 1 : (double)in->scale;
    for (int i = 0; i < inputs; i++) {
        const int c = channel_of(layer, o, i);
        r->square[i] = in->square[c] * (double)in->grow[c] * (double)in->grow[c];
        for (int t = 0; t < taps; t++) r->w[i * taps + t] = quantize_weight(q, layer, o, i, t);
    }
    const double wanted = bias_of(q, layer, o);
    double s = choose_scale(r->w, r->square, inputs, taps);
    s = fmax(s, fmax(QUANTIZE_LEAST_WEIGHT_SCALE, fabs(wanted) / step / MOST_BIAS));
    /* A bias beyond MOST_BIAS steps of the output clips all that is seen, and stays one that does. */
    if (index + 1 < q->info->layer_count && !effnet_integer_curved(layer->activation))
        s = fmin(s, MOST_MULTIPLIER * (double)quantize_tensor(q, index)->scale / step);
    *scale = (float)s;
    round_together(r->w, r->c, size, (double)*scale, r->bytes, r->off, r->slope);
    double off = 0; /* the mean of what rounding the weights adds */
    for (int i = 0; i < size; i++) {
        weight[i] = (int8_t)r->bytes[i];
        off += r->off[i] * r->mean[i];
    }
    *bias = (int32_t)fmax(-MOST_BIAS, fmin(MOST_BIAS, rint((wanted - off) / (step * (double)*scale))));
}

int quantize_layer(const struct quantizer *q, int index, int8_t *weight, int32_t *bias, float *scale,
                   struct effnet_error *error)
{
    const struct effnet_layer *layer = effnet_model_layer(q->model, index);
    const size_t size = (size_t)q->covariances[index].size;
    const size_t bytes = size * (sizeof(float) + sizeof(int) + (size + 4) * sizeof(double));
    char *memory = malloc(bytes);
    if (!memory) return effnet_fail_nomem(error, layer->name, bytes);
    double *numbers = (double *)memory;
    struct room room = {.c = numbers,
                        .square = numbers + size * size,
                        .mean = numbers + size * (size + 1),
                        .off = numbers + size * (size + 2),
                        .slope = numbers + size * (size + 3)};
    room.w = (float *)(numbers + size * (size + 4));
    room.bytes = (int *)(room.w + size);
    int status = EFFNET_OK;
    for (int o = 0; !status && o < layer->out_channels; o++) {
        if (o == 0 || layer->op == EFFNET_OP_DEPTHWISE) load_inputs(q, layer, index, o, room.c, room.mean);
        round_channel(q, layer, o, &room, weight + (size_t)o * size, &bias[o], &scale[o]);
        if (!((double)scale[o] <= TABLE_MAX_SCALE))
            status = effnet_fail(error, EFFNET_E_UNAVAILABLE,
                                 "network %s: layer '%s', output channel %d: a step of its weights would be "
                                 "%g, integer networks have up to %g",
                                 q->info->network, layer->name, o, (double)scale[o], TABLE_MAX_SCALE);
    }
    free(memory);
    return status;
}
