/* Integer networks: what their layers may be, and what their scales come to. */
#ifndef EFFNET_MODEL_INTEGER_H
#define EFFNET_MODEL_INTEGER_H

#include "model/safetensors.h"
#include "model/table.h"

/* Sums stay below 2^30: this many products of a byte and a weight, and a bias, come to half of it each. Those
 * of a wide input, of depthwise layers alone and so of TABLE_MAX_KERNEL^2 products, stay below 2^31. */
#define INTEGER_MAX_TERMS 16384
#define INTEGER_MAX_BIAS  (1 << 29)
#define INTEGER_MAX_STEPS                                                                                    \
    (1 << 20) /* that a residual's step or what SiLU and sigmoid give of 1 may come to */
#define INTEGER_MAX_PIXELS (1 << 22) /* of a pool */

/* table_integer.c: why a layer cannot be of integers; text[0] is 0 where it can. last: it is the network's
 * last. */
struct integer_reason {
    char text[128];
};
struct integer_reason effnet_integer_layer_reason(const struct effnet_layer *layer, bool last);
/* Whether integer layers work the activation out of floats: SiLU and sigmoid. */
bool effnet_integer_curved(enum effnet_activation activation);
/* Whether what the layer reads as inputs[input] may be wide: by depthwise layers, which add few products, and
 * as a gate. */
bool effnet_integer_takes_wide(const struct effnet_layer *layer, int input);
/* integer.c: why one that reads the image cannot. */
struct integer_reason effnet_integer_image_reason(const struct effnet_preprocess *preprocess);

/* The layers' integer parts: what effnet_layer.integer points into. */
struct integer_parts {
    struct effnet_integer *layers; /* [layer_count] */
    float *multipliers;            /* of all layers' channels, and then the second ones */
};

/* Takes every layer's tensors from the file, checks them, and sets layers[].integer of a table that
 * effnet_table_check_integer has found to be integer. *parts may be freed whether this succeeds or not. */
int effnet_integer_bind(struct safetensors *file, struct json_context *context,
                        const struct table_output *outputs, int layer_count,
                        const struct effnet_preprocess *preprocess, struct effnet_layer *layers,
                        struct integer_parts *parts);
void effnet_integer_free(struct integer_parts *parts);

#endif
