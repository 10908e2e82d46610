/* What the quantizer's files share. Tensor 0 is the image, in pixels less its zeros; tensor i + 1 the output
 * of layer i. */
#ifndef EFFNET_QUANTIZE_INTERNAL_H
#define EFFNET_QUANTIZE_INTERNAL_H

#include "quantize/quantize.h"

enum { QUANTIZE_BINS = 4096 };
#define QUANTIZE_LEAST_WEIGHT_SCALE 1e-8 /* also where all weights are 0 */

struct tensor {
    int channels;
    float *low, *high;     /* [channels]: the least and the largest value seen */
    double *mean, *square; /* [channels]: means of the values and of their squares */
    float *grow;           /* [channels]: in the integer network, the channel is so many times as large */
    double *histogram;     /* [QUANTIZE_BINS] of the grown values, from least to most */
    double least, most;
    int steps;         /* the largest step: EFFNET_MOST_BYTE, or EFFNET_MOST_WIDE */
    double least_step; /* how small `scale` may be */
    float scale;
    int zero;
    enum quantize_range range;
    double clipped;
};

/* How what a layer's weights are multiplied with varies together; of a depthwise layer, a matrix a channel.
 * In the float network's sizes, the image in pixels less its zeros. */
struct covariance {
    int size;               /* weights of an output channel */
    float *sample;          /* [size], of the place in hand */
    double *mean, *product; /* [matrices][size], [matrices][size][size]: sums, then means and covariances */
    double samples;
    int images;
};

struct quantizer {
    const effnet_model *model;
    const struct effnet_model_info *info;
    int threads;                    /* of sessions; 0: as many as the process may use */
    effnet_session *session;        /* fp32, a unit a layer */
    struct tensor *tensors;         /* [layer_count + 1] */
    struct covariance *covariances; /* [layer_count] */
};

static inline struct tensor *quantize_tensor(const struct quantizer *q, int layer)
{
    return &q->tensors[layer + 1]; /* EFFNET_IMAGE is -1 */
}

/* observe.c: one image's outputs, layer by layer. visit is told of each, [height * width][channels], and of
 * the image, as layer EFFNET_IMAGE; its failure ends the run. */
typedef int quantize_visitor(void *context, int layer, const float *values, size_t pixels,
                             struct effnet_error *error);
int quantize_run(effnet_session *session, const effnet_model *model, const uint8_t *pixels,
                 quantize_visitor *visit, void *context, struct effnet_error *error);

/* covariance.c: of all layers with weights; of those that read the output of `layer`; when all images are
 * through. */
int quantize_open_covariances(struct quantizer *q, struct effnet_error *error);
void quantize_add_covariances(const struct quantizer *q, int layer, const float *values);
void quantize_end_covariances(struct quantizer *q);
void quantize_close_covariances(struct quantizer *q);

/* equalise.c: sets every tensor's grow. */
int quantize_equalise(struct quantizer *q, struct effnet_error *error);

/* range.c: sets a tensor's scale, zero, range and clipped from its histogram. clip: values below 0 do not
 * exist. */
void quantize_choose_range(struct tensor *t, bool positive);

/* weights.c: the integer weights, biases and weight scales of a layer. */
int quantize_layer(const struct quantizer *q, int layer, int8_t *weight, int32_t *bias, float *scale,
                   struct effnet_error *error);
/* The weight in the integer network before it is rounded. */
float quantize_weight(const struct quantizer *q, const struct effnet_layer *layer, int o, int i, int tap);

#endif
