/* effnet: the inside of a network, for who measures and verifies it: the layer table, what a session made of
 * it, and the reference. Nothing here is promised: any version may change it. What effnet.h says of errors,
 * handles and threads holds here too. */
#ifndef EFFNET_LAB_H
#define EFFNET_LAB_H

#include "effnet.h"
#include "effnet_linear.h"

#ifdef __cplusplus
extern "C" {
#endif
#ifdef __GNUC__
#pragma GCC visibility push(default)
#endif

/* ---------------------------------------------------------------- finding weights */

#define EFFNET_DEFAULT_NETWORK "lite1"

/* The file that the program's -m would open. word: a path or a network's name; NULL: $EFFNET_MODEL, else
 * EFFNET_DEFAULT_NETWORK. Where no file is called so, a name is looked for in the weights folder of the
 * source and in the installed share/effnet, from each of `folders` as the one that the program lies in.
 * path[PATH_MAX] (limits.h). EFFNET_E_NOINPUT: there is none. */
int effnet_model_find(const char *word, const char *const *folders, int count, char *path,
                      struct effnet_error *error);

/* ---------------------------------------------------------------- layers */

enum effnet_op {
    EFFNET_OP_CONV,      /* dense k x k convolution */
    EFFNET_OP_DEPTHWISE, /* k x k, one filter a channel */
    EFFNET_OP_POINTWISE, /* 1 x 1 convolution, stride 1 */
    EFFNET_OP_POOL,      /* global average: H x W x C -> 1 x 1 x C */
    EFFNET_OP_LINEAR,    /* fully connected, on 1 x 1 x C */
    EFFNET_OP_SCALE,     /* map H x W x C times gate 1 x 1 x C: y[h][w][c] = map[h][w][c] * gate[c] */
};

enum { EFFNET_IMAGE = -1 }; /* as an input: the image tensor */

/* What a layer of an integer network is made of (docs/weights-format.md). Its input and output are steps q
 * that stand for scale * (q - zero): bytes, or 15 bits where the output is wide. The last layer gives floats.
 */
enum { EFFNET_MOST_BYTE = 255, EFFNET_MOST_WIDE = 32767 };

struct effnet_integer {
    const int8_t *weight; /* in the order of the framework, as struct effnet_layer's; NULL for pool, scale */
    const int32_t *bias;  /* [out]; NULL for pool, scale */
    const float *weight_scale; /* [out]; NULL for pool, scale */
    const float *gain;         /* [out], of SiLU and sigmoid: by how much their output is grown; else NULL, as
                                  of the last layer */
    /* [out]: what turns a sum, or scale's product, into output steps, or into the last layer's floats, or
     * with SiLU and sigmoid into what they are of; */
    const float *multiplier;
    const float *out_multiplier; /* [out] and what turns theirs into output steps; NULL where gain is */
    float residual_multiplier;   /* what turns a residual's steps into output steps */
    float in_scale, out_scale;   /* out_scale 0: of the last layer */
    int in_zero[3];              /* of channel c: in_zero[c % 3]; all the same, save the image's */
    int out_zero;
    int in_most, out_most; /* the largest step: EFFNET_MOST_BYTE; of wide outputs EFFNET_MOST_WIDE */
    float second_scale;    /* of inputs[1]: a residual, or scale's gate */
    int second_zero, second_most;
    int low, high; /* what the output's steps are clipped to; of the last layer 0 and 255 */
    const struct effnet_preprocess *image; /* where the input is the image: its bytes are the pixels */
};

/* One row of the layer table: y = act(op(x) + bias [+ residual]). Layers stand in an order in which each
 * reads only the image and outputs of earlier ones. Batch norm is folded into weight and bias. Weights,
 * float32 in the order of the framework: conv [out][in][kh][kw], depthwise [c][1][kh][kw], pointwise
 * [out][in][1][1], linear [out][in]; bias [out]. */
struct effnet_layer {
    char name[64]; /* as in the weights file: tensors `name`.weight and `name`.bias */
    enum effnet_op op;
    enum effnet_activation activation;
    int in_height, in_width, in_channels; /* of inputs[0] */
    int out_height, out_width, out_channels;
    int kernel, stride;                           /* 1 and 1 where they do not apply */
    int pad_top, pad_left, pad_bottom, pad_right; /* zeros around the input */
    int inputs[2];   /* what it reads: x (of scale: the map), then scale's gate or the residual; each
                        the index of an earlier layer, or EFFNET_IMAGE */
    int input_count; /* 1 or 2 */
    int residual;    /* inputs[1] where that is added, else -1 */
    int last_reader; /* the last layer that reads its output; of the last layer, itself */
    int block;       /* MBConv block it belongs to, or -1 */
    const float *weight, *bias;           /* in the mapped file; NULL for pool, scale and integer networks */
    const struct effnet_integer *integer; /* of an integer network; else NULL */
    int64_t parameters, multiply_adds;    /* multiply_adds, by weights, for one image */
};

/* index in [0, layer_count) */
const struct effnet_layer *effnet_model_layer(const effnet_model *model, int index);
/* The layer whose output the linear layers at the network's end read: always a pool. */
int effnet_model_head_pool(const effnet_model *model);
/* Name of an input as the weights file has it: of layer `index`, or "image" for EFFNET_IMAGE. */
const char *effnet_input_name(const effnet_model *model, int index);
/* Elements of one image in what layer->inputs[input] names, and in the layer's output. */
size_t effnet_layer_in_size(const struct effnet_layer *layer, int input);
size_t effnet_layer_out_size(const struct effnet_layer *layer);
/* Op and activation names as in the weights file ("pointwise", "relu6"). */
const char *effnet_op_name(enum effnet_op op);
const char *effnet_activation_name(enum effnet_activation activation);

/* ---------------------------------------------------------------- units */

enum { EFFNET_UNIT_INPUTS = 4 };

/* What runs as one step: the layers first..last of the table. Nobody but the unit reads what these give,
 * save the last one's output. A unit may leave the bias and activation of its last layer to the next unit,
 * which then applies them to its input as it is loaded. */
struct effnet_unit {
    int first, last;
    int inputs[EFFNET_UNIT_INPUTS]; /* what it reads, each once and in the order in which its layers name
                                       them: indices of earlier layers, or EFFNET_IMAGE */
    int input_count;
    bool raw_input;     /* takes inputs[0], layer first-1, without bias and activation, and applies them */
    bool raw_output;    /* leaves the last layer's bias and activation out */
    const char *kernel; /* what runs, in words: "jit_1x1:avx2", "pointwise 64x64x32" */
    int64_t workspace_bytes;
    int64_t bytes_per_image; /* activations read and written through memory */
    int64_t weight_bytes;
};

/* As effnet_session_open on the CPU, in its own precision, one image a pass; but each layer is a unit, none
 * computed together with another one, which may be slower. threads: as in effnet_session_options. */
int effnet_session_open_layers(const effnet_model *model, int threads, effnet_session **out,
                               struct effnet_error *error);

int effnet_session_unit_count(const effnet_session *session);
const struct effnet_unit *effnet_session_unit(const effnet_session *session, int index);

/* Runs one unit alone, for verification. inputs[i] [n][height][width][channels] is what unit->inputs[i] names
 * (the image: the normalised tensor, which a unit that starts from pixels rounds back to 8 bits); output as
 * of its last layer. n <= max_batch. */
int effnet_session_run_unit(effnet_session *session, int index, int n, const float *const *inputs,
                            float *output, struct effnet_error *error);

/* One timed pass over n <= max_batch images that are in place already: the compute alone, on the device's
 * own clock. (A pass on a GPU computes max_batch images, or that halved and halved again, rounded up, as long
 * as n fit.) cold: evict the last-level cache first. */
int effnet_session_time(effnet_session *session, int n, bool cold, double *elapsed_us,
                        struct effnet_error *error);
/* The time that the pixels of n <= max_batch images take from the memory that a GPU reads to the GPU; 0 on
 * the CPU, which computes from where they are. */
int effnet_session_time_upload(effnet_session *session, int n, double *elapsed_us,
                               struct effnet_error *error);
/* A pass, unit by unit: unit_us[unit_count]. */
int effnet_session_profile(effnet_session *session, int n, bool cold, double *unit_us,
                           struct effnet_error *error);

/* ---------------------------------------------------------------- tuning */

/* What was measured of one kind of unit. */
struct effnet_tuned {
    const char *layer;   /* the first layer of the first such unit */
    const char *what;    /* "pointwise, residual", "depthwise 5x5 s2" */
    char candidate[240]; /* the fastest: a kernel's configuration, an engine of cuDNN */
    int candidates;      /* that ran */
    double elapsed_us;   /* of the fastest */
};
typedef void effnet_tuned_visitor(const struct effnet_tuned *tuned, void *context);

/* Measures, on a GPU, every way to run each part of the network with passes of options->max_batch images, and
 * keeps the fastest on disk, where sessions opened from then on find them. Calls visit, which may be NULL,
 * after each kind of unit. EFFNET_E_UNAVAILABLE where the device has nothing to choose; EFFNET_E_OUTPUT where
 * it cannot be kept. */
int effnet_tune(const effnet_model *model, const struct effnet_session_options *options,
                effnet_tuned_visitor *visit, void *context, struct effnet_error *error);

/* ---------------------------------------------------------------- reference */

/* The truth: one layer by plain loops with double accumulation, on any machine. inputs[i] is what
 * layer->inputs[i] names, output [n][out_height][out_width][out_channels]; raw leaves bias and activation
 * out.
 */
int effnet_reference_layer(const effnet_model *model, int index, int n, const float *const *inputs, bool raw,
                           float *output, struct effnet_error *error);
/* pixels [n][crop][crop][3] -> the normalised tensor [n][crop][crop][3] */
void effnet_reference_normalise(const struct effnet_preprocess *p, int n, const uint8_t *pixels,
                                float *tensor);

#ifdef __GNUC__
#pragma GCC visibility pop
#endif
#ifdef __cplusplus
}
#endif
#endif
