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

/* Limits that keep what is worked out of an integer network's scales an ordinary float. */
#define TABLE_MIN_SCALE 1e-9f
#define TABLE_MAX_SCALE 1e6f

#define TABLE_IMAGE "image" /* what an input is called that no layer gives */

/* What a step q of an integer layer's output stands for: scale * (q - zero). scale 0: floats. */
struct table_output {
    float scale;
    int zero;
    int most; /* q is from 0 to this: EFFNET_MOST_BYTE, or of a wide output EFFNET_MOST_WIDE */
};

struct layer_table {
    int version;               /* of the format */
    const char *network;       /* in the JSON */
    bool multi_label;          /* the classes do not exclude one another */
    struct effnet_layer image; /* what the network takes, as if some layer gave it: name and out_... alone */
    struct effnet_layer *layers;  /* [layer_count]; weight, bias and integer are NULL */
    struct table_output *outputs; /* [layer_count] */
    bool integer;                 /* all but the last layer give steps */
    int layer_count;
};

/* model.c: the text of a member of the file's __metadata__, "preprocess" ...; NULL: there is none. */
const char *effnet_model_metadata(const effnet_model *model, const char *key);

/* Reads and checks the object {"name", "input", "layers", "multi_label"} of a file of this format version, 1
 * or 2. On failure nothing is owned; else effnet_table_free releases it. */
int effnet_table_read(struct json_context *context, const cJSON *network, int version,
                      struct layer_table *table);
void effnet_table_free(struct layer_table *table);

/* table_integer.c: whether the layers are all of integers or none is, and integers of what they can; sets
 * table->integer. */
int effnet_table_check_integer(struct json_context *context, struct layer_table *table);

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
