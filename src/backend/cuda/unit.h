/* Units and ops. A unit is what runs as one step: some layers of the network, from tensors to a tensor. An op
 * is a kind of unit; each has a file in ops/ and an entry in cuda_ops, and nobody else asks which kind a unit
 * is. */
#ifndef EFFNET_BACKEND_CUDA_UNIT_H
#define EFFNET_BACKEND_CUDA_UNIT_H

#include "activation.h"
#include "backend/backend.h"
#include "backend/cuda/device.h"
#include "backend/cuda/tuning.h"
#include "effnet_lab.h"
#include "kernel_config.h"

struct cudnn_context;
struct cudnn_conv;

/* What units have in common. */
struct cuda_network {
    const effnet_model *model;
    const struct effnet_model_info *info;
    int max_batch;
    int features_layer;          /* its output is handed out; -1: none is */
    int sms;                     /* of the device */
    char chip[TUNING_TEXT];      /* the device, as the tuning table has it */
    bool without_cudnn;          /* no unit may use it */
    struct cudnn_context *cudnn; /* NULL until a unit needs it */
};

#define CUDA_COVERS(layers) (1u << (layers))
enum { CUDA_COVERS_MOST = 3 }; /* layers */

enum { CUDA_PIXELS = -1, CUDA_LOGITS = -2 };

/* How a unit hands its output over to the unit behind it. */
enum cuda_form {
    CUDA_COMPLETE,
    CUDA_RAW,    /* without the last layer's bias and activation, which the next unit applies */
    CUDA_SUMMED, /* complete, and each channel's sum over the pixels beside it, for squeeze-and-excite */
    CUDA_FORMS
};
#define CUDA_FORM(form) (1u << (form))

struct cuda_unit {
    struct effnet_unit unit; /* unit.kernel points at `kernel` */
    char kernel[224];
    const struct cuda_op *op;
    struct cuda_network *network;
    const struct effnet_layer *layer, *last; /* the first layer that has weights, if any has; unit.last */
    enum cuda_form input_form, output_form;

    int inputs[EFFNET_UNIT_INPUTS], output; /* tensors, or CUDA_PIXELS and CUDA_LOGITS */
    bool ends;                              /* it computes the network's logits, in fp32 */
    int sums;  /* the tensor of the sums that it leaves or takes, float [max_batch][parts][channels] */
    int parts; /* sums come in so many parts, each over some of the pixels */

    /* On the device; which of them an op has is its own affair. */
    void *weight;
    float *bias;
    void *input_bias; /* half [2][channels]: the bias that the unit before has left to this one */

    int config;              /* of the op's family of kernels */
    struct cudnn_conv *conv; /* the unit's own */
};

/* Where a unit reads and writes, on the device. */
struct cuda_io {
    const void *inputs[EFFNET_UNIT_INPUTS]; /* in the order of unit.inputs */
    void *output, *workspace;
    float *sums;
    int images;
};

/* For uploading weights. Copies from pageable memory return once the source has been read. */
struct cuda_upload {
    cudaStream_t stream;
    float *staging; /* device memory for the weights of the largest layer in fp32 */
};

/* Is told of a candidate; another status than EFFNET_OK ends the listing. */
typedef int cuda_candidate_visitor(const char *candidate, void *context, struct effnet_error *error);

struct cuda_op {
    const char *name;
    bool in_plan_cudnn;
    bool from_pixels;   /* it reads the image as pixels, not as the normalised tensor */
    bool when_measured; /* the planner takes it where such a unit was measured, not by a guess of bytes */
    unsigned takes;     /* forms in which it takes the output of the unit before, as CUDA_FORM; 0: complete */

    /* How many layers from `first` on it computes as one unit: every number that it can, as CUDA_COVERS; 0:
     * none. That nobody outside reads what lies between them, the planner sees to. */
    unsigned (*covers)(const struct cuda_network *network, int first);
    /* Forms in which it can leave the output of the unit that begins with `first`; NULL: complete. */
    unsigned (*leaves)(const struct cuda_network *network, int first);
    /* Corrects unit.bytes_per_image, which is what its tensors take in fp16; NULL: they do. */
    void (*count_bytes)(struct cuda_unit *unit);
    /* The key's `what` and sizes. */
    void (*key)(const struct cuda_unit *unit, struct tuning_key *key);

    size_t weight_bytes; /* of each weight on the device; 0: it has none, or a layout of its own */
    /* Lays the weights out from `base` on, which may be NULL; returns the bytes. NULL: weights, then bias. */
    size_t (*lay_out)(struct cuda_unit *unit, unsigned char *base);
    /* All but the bias. NULL: it has none. */
    int (*upload)(const struct cuda_unit *unit, const struct cuda_upload *upload, struct effnet_error *error);

    /* An op whose unit is one launch of a family's kernel has these two. `args` is the family's struct. */
    const struct kernel_family *family;
    void (*arguments)(const struct cuda_unit *unit, const struct cuda_io *io, void *args);

    /* Another op has these; without the first three its only candidate has the op's name. Candidates are the
     * ways to run a unit, by name; NULL is whichever it likes best. `usable` may say yes to one that `choose`
     * then refuses with EFFNET_E_UNAVAILABLE. */
    int (*candidates)(struct cuda_unit *unit, cuda_candidate_visitor *visit, void *context,
                      struct effnet_error *error);
    bool (*usable)(const struct cuda_unit *unit, const char *candidate);
    int (*choose)(struct cuda_unit *unit, const char *candidate, struct effnet_error *error);
    /* Any number of images up to max_batch; computes them, and perhaps more that are there. */
    int (*enqueue)(const struct cuda_unit *unit, const struct cuda_io *io, cudaStream_t stream,
                   struct effnet_error *error);
    /* Frees what `choose` made; with `abandoned`, without a call to CUDA or cuDNN. NULL: nothing. */
    void (*release)(struct cuda_unit *unit, bool abandoned);
    const char *(*code)(const struct cuda_unit *unit); /* for the tuning key */

    /* Names in unit.kernel what runs, after a choice. NULL: it is the op's name, and the configuration's. */
    void (*describe)(struct cuda_unit *unit);
};

extern const struct cuda_op *const cuda_ops[];
extern const int cuda_op_count;

/* ---------------------------------------------------------------- unit.c: an op's functions for any op */

unsigned cuda_op_takes(const struct cuda_op *op);
unsigned cuda_op_leaves(const struct cuda_op *op, const struct cuda_network *network, int first);

/* Fills in all but the tensors. */
void cuda_unit_make(struct cuda_unit *unit, struct cuda_network *network, const struct cuda_op *op, int first,
                    int last, enum cuda_form input_form, enum cuda_form output_form);
void cuda_unit_key(const struct cuda_unit *unit, struct tuning_key *key);
size_t cuda_unit_lay_out(struct cuda_unit *unit, unsigned char *base);
int cuda_unit_upload(const struct cuda_unit *unit, const struct cuda_upload *upload,
                     struct effnet_error *error);
int cuda_unit_candidates(struct cuda_unit *unit, cuda_candidate_visitor *visit, void *context,
                         struct effnet_error *error);
/* NULL: whether any is. */
bool cuda_unit_usable(const struct cuda_unit *unit, const char *candidate);
/* Makes the unit run that candidate; NULL: one that should do. EFFNET_E_UNAVAILABLE where it cannot. */
int cuda_unit_choose(struct cuda_unit *unit, const char *candidate, struct effnet_error *error);
int cuda_unit_enqueue(const struct cuda_unit *unit, const struct cuda_io *io, cudaStream_t stream,
                      struct effnet_error *error);
void cuda_unit_release(struct cuda_unit *unit, bool abandoned);

/* ---------------------------------------------------------------- what ops share */

enum { CUDA_ALIGNMENT = 256 };
#define CUDA_WORKSPACE_MOST ((size_t)64 << 20) /* bytes that a unit may ask for */

static inline size_t cuda_aligned(size_t bytes)
{
    return (bytes + CUDA_ALIGNMENT - 1) / CUDA_ALIGNMENT * CUDA_ALIGNMENT;
}

/* The kernels count as the library does. */
static inline enum activation cuda_activation(enum effnet_activation activation)
{
    _Static_assert(
        (int)EFFNET_ACT_NONE == ACTIVATION_NONE && (int)EFFNET_ACT_RELU == ACTIVATION_RELU &&
            (int)EFFNET_ACT_RELU6 == ACTIVATION_RELU6 && (int)EFFNET_ACT_SILU == ACTIVATION_SILU &&
            (int)EFFNET_ACT_GELU == ACTIVATION_GELU && (int)EFFNET_ACT_GELU_RELU == ACTIVATION_GELU_RELU &&
            (int)EFFNET_ACT_SIGMOID == ACTIVATION_SIGMOID &&
            (int)EFFNET_ACT_HARDSWISH == ACTIVATION_HARDSWISH && (int)EFFNET_ACT_TANH == ACTIVATION_TANH &&
            (int)EFFNET_ACT_TANH + 1 == ACTIVATION_COUNT,
        "in the same order");
    return (enum activation)activation;
}

/* Whether the layer's activation is ReLU or ReLU6; whether it is one of these or none; whether it is any that
 * the kernels of convolutions compute. */
static inline bool cuda_clamps_from_0(const struct effnet_layer *layer)
{
    return activation_is_relu(cuda_activation(layer->activation));
}

static inline bool cuda_clamps(const struct effnet_layer *layer)
{
    return layer->activation == EFFNET_ACT_NONE || cuda_clamps_from_0(layer);
}

static inline bool cuda_convolution_activates(const struct effnet_layer *layer)
{
    return cuda_clamps(layer) || layer->activation == EFFNET_ACT_SILU;
}

/* Elements of one image in unit.inputs[input]. */
size_t cuda_input_size(const struct cuda_unit *unit, int input);
/* Without the bias. */
size_t cuda_weight_count(const struct effnet_layer *layer);
/* Lays out weights of `weight_bytes` each, then the bias. */
size_t cuda_lay_out_weights(struct cuda_unit *unit, unsigned char *base, size_t weight_bytes);
/* As they are. `from` may be freed when it returns. */
int cuda_upload_bytes(const char *layer, const void *from, size_t bytes, void *device,
                      const struct cuda_upload *upload, struct effnet_error *error);
/* Weights in the kernel's order, rounded to fp16 (convert.h). */
int cuda_upload_fp16(const struct effnet_layer *layer, const float *weights, void *device,
                     const struct cuda_upload *upload, struct effnet_error *error);
/* A layer's weights with its output channels innermost, [in][kernel][kernel][out]; malloc'd, NULL without
 * memory. */
float *cuda_transposed_weights(const struct effnet_layer *layer, struct effnet_error *error);
/* `count` floats as two fp16 parts, the high ones first. */
int cuda_upload_split(const char *layer, const float *values, size_t count, void *device,
                      const struct cuda_upload *upload, struct effnet_error *error);

#endif
