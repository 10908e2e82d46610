/* How a layer's inputs vary together, from a sample of the places that it is applied at: neighbouring pixels
 * are nearly the same, and channels are not independent either. Rounding errors of weights can be chosen so
 * that they cancel over what varies together. */
#include "common/error.h"
#include "quantize/internal.h"

#include <math.h>
#include <stdlib.h>

enum { PLACES = 96 }; /* of an image, for each layer */

static size_t size_of(const struct effnet_layer *layer)
{
    const size_t taps = (size_t)layer->kernel * (size_t)layer->kernel;
    return layer->op == EFFNET_OP_DEPTHWISE ? taps : taps * (size_t)layer->in_channels;
}

static size_t matrices_of(const struct effnet_layer *layer)
{
    return layer->op == EFFNET_OP_DEPTHWISE ? (size_t)layer->in_channels : 1;
}

int quantize_open_covariances(struct quantizer *q, struct effnet_error *error)
{
    q->covariances = calloc((size_t)q->info->layer_count, sizeof *q->covariances);
    if (!q->covariances) return effnet_fail_nomem(error, "covariances", sizeof *q->covariances);
    for (int i = 0; i < q->info->layer_count; i++) {
        const struct effnet_layer *layer = effnet_model_layer(q->model, i);
        struct covariance *to = &q->covariances[i];
        if (!layer->weight) continue;
        const size_t n = size_of(layer), count = matrices_of(layer);
        to->size = (int)n;
        to->sample = malloc(n * sizeof *to->sample);
        to->mean = calloc(count * n, sizeof *to->mean);
        to->product = calloc(count * n * n, sizeof *to->product);
        if (!to->sample || !to->mean || !to->product)
            return effnet_fail_nomem(error, layer->name, count * n * n * sizeof *to->product);
    }
    return EFFNET_OK;
}

void quantize_close_covariances(struct quantizer *q)
{
    for (int i = 0; q->covariances && i < q->info->layer_count; i++) {
        free(q->covariances[i].sample);
        free(q->covariances[i].mean);
        free(q->covariances[i].product);
    }
    free(q->covariances);
}

/* What lies under the window of output (y, x), in the order of the layer's weights: [inputs][taps]. Of a
 * depthwise layer, channel c's alone. */
static void gather(const struct quantizer *q, const struct effnet_layer *layer, const float *map, int y,
                   int x, int c, float *sample)
{
    const int first = c < 0 ? 0 : c, end = c < 0 ? layer->in_channels : c + 1;
    const struct effnet_preprocess *p = &q->info->preprocess;
    for (int i = first; i < end; i++)
        for (int ky = 0; ky < layer->kernel; ky++)
            for (int kx = 0; kx < layer->kernel; kx++) {
                const int iy = y * layer->stride + ky - layer->pad_top;
                const int ix = x * layer->stride + kx - layer->pad_left;
                const bool inside = iy >= 0 && iy < layer->in_height && ix >= 0 && ix < layer->in_width;
                float value = inside ? map[((size_t)iy * (size_t)layer->in_width + (size_t)ix) *
                                               (size_t)layer->in_channels +
                                           (size_t)i]
                                     : 0;
                if (inside && layer->inputs[0] == EFFNET_IMAGE)
                    value = (float)rint((double)value * (double)p->std[i] + (double)p->mean[i]) -
                            (float)rint((double)p->mean[i]);
                *sample++ = value;
            }
}

static void add_sample(struct covariance *to, size_t matrix)
{
    const size_t n = (size_t)to->size;
    double *mean = to->mean + matrix * n, *product = to->product + matrix * n * n;
    for (size_t i = 0; i < n; i++) {
        const double x = (double)to->sample[i];
        mean[i] += x;
        if (x == 0) continue;
        for (size_t k = 0; k < n; k++) product[i * n + k] += x * (double)to->sample[k];
    }
}

/* Adds an image's places of a layer that reads `map`. */
static void add_places(const struct quantizer *q, int index, const float *map)
{
    const struct effnet_layer *layer = effnet_model_layer(q->model, index);
    struct covariance *to = &q->covariances[index];
    const int pixels = layer->out_height * layer->out_width;
    const int places = pixels < PLACES ? pixels : PLACES;
    for (int i = 0; i < places; i++) {
        const int at = (int)(((int64_t)i * pixels + to->images * 17 % pixels) / places);
        const int y = at / layer->out_width, x = at % layer->out_width;
        if (layer->op != EFFNET_OP_DEPTHWISE) {
            gather(q, layer, map, y, x, -1, to->sample);
            add_sample(to, 0);
            continue;
        }
        for (int c = 0; c < layer->in_channels; c++) {
            gather(q, layer, map, y, x, c, to->sample);
            add_sample(to, (size_t)c);
        }
    }
    to->samples += places;
    to->images++;
}

void quantize_add_covariances(const struct quantizer *q, int layer, const float *values)
{
    for (int i = layer + 1; i < q->info->layer_count; i++) {
        const struct effnet_layer *reader = effnet_model_layer(q->model, i);
        if (reader->weight && reader->inputs[0] == layer) add_places(q, i, values);
    }
}

void quantize_end_covariances(struct quantizer *q)
{
    for (int l = 0; l < q->info->layer_count; l++) {
        const struct effnet_layer *layer = effnet_model_layer(q->model, l);
        struct covariance *c = &q->covariances[l];
        const size_t n = (size_t)c->size;
        for (size_t m = 0; layer->weight && m < matrices_of(layer); m++) {
            double *mean = c->mean + m * n, *product = c->product + m * n * n;
            for (size_t i = 0; i < n; i++) mean[i] /= c->samples;
            for (size_t i = 0; i < n; i++)
                for (size_t k = 0; k < n; k++)
                    product[i * n + k] = product[i * n + k] / c->samples - mean[i] * mean[k];
        }
    }
}
