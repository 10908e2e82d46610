/* Makes weights files for tests: a valid tiny network layer by layer, which a test may then spoil through its
 * JSON trees and its data before it is saved.
 *
 *   struct weights *w = weights_new(seed, 19, 19);
 *   weights_conv(w, "stem", 8, 3, 2, WEIGHTS_SAME, "relu6");
 *   weights_mbconv(w, 8, 24, 5, 2, WEIGHTS_SAME, "relu6", false);
 *   weights_head(w, 20, "relu6", 7);
 *   effnet_model *model = weights_open(w);
 *
 * Any failure inside ends the program with exit status 1. */
#ifndef EFFNET_TESTS_WEIGHTS_BUILDER_H
#define EFFNET_TESTS_WEIGHTS_BUILDER_H

#include "effnet.h"

#include <cjson/cJSON.h>

struct weights {
    /* To be spoilt at will. */
    cJSON *tensors;  /* name -> {"dtype", "shape", "data_offsets"} */
    cJSON *metadata; /* "format" and "format_version"; the next four are added as text where not NULL */
    cJSON *network, *preprocess, *labels, *source;
    float *data; /* malloc'd */
    size_t data_bytes;
    const char *header_tail; /* put before the header's last brace: members that a cJSON tree cannot have */
    /* The builder's own. */
    uint64_t random;
    int height, width, channels; /* of what the next layer takes */
    int blocks;
    char last[64];    /* name of the last layer */
    char take[2][64]; /* what the next layer takes, where that is said */
    cJSON *sizes;     /* name -> [height, width, channels], of every layer's output and of the image */
};

/* Has the next layer take the output of the earlier layer `name`, or the "image". As the two functions below
 * and the activations sigmoid, hardswish and tanh, this makes the file one of format version 2. */
void weights_take(struct weights *w, const char *name);
/* Classes that do not exclude one another; images that are squashed to the crop. Both want version 2, too. */
void weights_multi_label(struct weights *w);
void weights_squash(struct weights *w);
/* Appends the product of an earlier layer's output and a gate. */
void weights_scale(struct weights *w, const char *name, const char *map, const char *gate);
/* Squeeze-and-excite of the last layer's output: NAME.pool, .reduce, .expand (with sigmoid) and .scale. */
void weights_squeeze_excite(struct weights *w, const char *name, int reduced, const char *activation);

/* Padding beside explicit ones: TensorFlow's SAME, or (kernel - 1) / 2 on every side. */
enum weights_padding { WEIGHTS_SAME, WEIGHTS_SYMMETRIC };

/* An empty network for images of height x width; preprocessing with a mean and a std of its own a channel. */
struct weights *weights_new(uint64_t seed, int height, int width);
void weights_free(struct weights *w);

/* Appends a layer with seeded random weights, scaled so that activations keep their size. `pad` is top, left,
 * bottom, right; kernel, stride and pad matter to conv and depthwise only; add: an earlier layer or NULL;
 * block: or -1. */
void weights_layer(struct weights *w, const char *name, const char *op, int out, int kernel, int stride,
                   const int pad[4], const char *activation, const char *add, int block);

void weights_conv(struct weights *w, const char *name, int out, int kernel, int stride,
                  enum weights_padding padding, const char *activation);
/* blocks.N.expand (where hidden is not the input's channels), .depthwise, .project; `residual` adds the
 * block's input to its output. */
void weights_mbconv(struct weights *w, int out, int hidden, int kernel, int stride,
                    enum weights_padding padding, const char *activation, bool residual);
/* The same with SiLU and with squeeze-and-excite, blocks.N.excite, between depthwise and project. */
void weights_mbconv_excited(struct weights *w, int out, int hidden, int kernel, int stride, int reduced,
                            bool residual);
/* head (pointwise), pool, classifier (linear), and as many labels. */
void weights_head(struct weights *w, int hidden, const char *activation, int classes);
void weights_labels(struct weights *w, int classes);

/* Three MBConv blocks with awkward sizes: odd maps, channels that no vector width divides, both kernels, a
 * residual, stride 2 with asymmetric padding. 21 x 21 images, 11 classes. */
struct weights *weights_tiny(uint64_t seed);

/* The same in format version 2, with squeeze-and-excite in every block and SiLU for ReLU6. */
struct weights *weights_tiny_excited(uint64_t seed);
/* A random graph of format version 2 on 7 x 7 images: layers take any earlier ones or the image, several the
 * same, add and scale them, at any distance; 11 classes. */
struct weights *weights_graph(uint64_t seed);

/* Writes the file; the path's text is static until the next call. */
const char *weights_save(const struct weights *w);
/* Saves, opens, removes the file and frees w. */
effnet_model *weights_open(struct weights *w);

/* Path of the one file that this process's tests write; removed when the process ends. */
const char *weights_path(void);
void weights_write_bytes(const void *bytes, size_t size_bytes);

#endif
