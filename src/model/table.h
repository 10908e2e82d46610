/* The layer table: from the weights file's JSON to rows with shapes and counts. */
#ifndef EFFNET_MODEL_TABLE_H
#define EFFNET_MODEL_TABLE_H

#include "effnet_lab.h"
#include "model/json.h"

/* Limits that keep every product of sizes inside an int64_t, and an image's tensor inside an int. */
#define TABLE_MAX_LAYERS   1024
#define TABLE_MAX_CHANNELS 65536
#define TABLE_MAX_SPATIAL  4096
#define TABLE_MAX_ELEMENTS (1 << 28) /* height * width * channels */
#define TABLE_MAX_KERNEL   15
#define TABLE_MAX_STRIDE   8

#define TABLE_IMAGE "image" /* what an input is called that no layer gives */

struct layer_table {
    int version;               /* of the format */
    const char *network;       /* in the JSON */
    bool multi_label;          /* the classes do not exclude one another */
    struct effnet_layer image; /* what the network takes, as if some layer gave it: name and out_... alone */
    struct effnet_layer *layers; /* weight and bias are NULL; release with free */
    int layer_count;
};

/* Reads and checks the object {"name", "input", "layers", "multi_label"} of a file of this format version, 1
 * or 2. On failure nothing is owned. */
int effnet_table_read(struct json_context *context, const cJSON *network, int version,
                      struct layer_table *table);

/* Enums from the file's words; -1 where there is no such word. */
int effnet_op_from_name(const char *name);            /* enum effnet_op */
int effnet_activation_from_name(const char *name);    /* enum effnet_activation */
int effnet_interpolation_from_name(const char *name); /* enum effnet_interpolation */
int effnet_resize_from_name(const char *name);        /* enum effnet_resize */

/* Refuses a word that a file of version 1 cannot have: readers of its time would not know it. */
int effnet_table_check_version(const struct json_context *context, int version, const char *what,
                               const char *word);

/* Shape of a layer's weight tensor; returns its rank (0 for pool and scale). */
int effnet_table_weight_shape(const struct effnet_layer *layer, int64_t shape[4]);

#endif
