#include "reference_logits.h"

#include <stdio.h>
#include <stdlib.h>

static void *checked(void *memory)
{
    if (memory) return memory;
    fputs("reference_logits: out of memory\n", stderr);
    exit(1);
}

float *reference_logits(const effnet_model *model, const uint8_t *pixels, int n)
{
    return reference_layer_output(model, pixels, n, effnet_model_get_info(model)->layer_count - 1);
}

float *reference_layer_output(const effnet_model *model, const uint8_t *pixels, int n, int kept)
{
    const struct effnet_model_info *info = effnet_model_get_info(model);
    float **outputs = checked(calloc((size_t)info->layer_count, sizeof *outputs));
    float *image = checked(
        malloc((size_t)n * (size_t)info->height * (size_t)info->width * 3 * sizeof *image));
    effnet_reference_normalise(&info->preprocess, n, pixels, image);
    for (int i = 0; i < info->layer_count; i++) {
        const struct effnet_layer *layer = effnet_model_layer(model, i);
        const float *inputs[2] = {NULL};
        struct effnet_error error = {0};
        for (int k = 0; k < layer->input_count; k++)
            inputs[k] = layer->inputs[k] == EFFNET_IMAGE ? image : outputs[layer->inputs[k]];
        outputs[i] = checked(malloc((size_t)n * effnet_layer_out_size(layer) * sizeof(float)));
        if (effnet_reference_layer(model, i, n, inputs, false, outputs[i], &error)) {
            fprintf(stderr, "reference_logits: %s\n", error.message);
            exit(1);
        }
    }
    float *output = outputs[kept];
    for (int i = 0; i < info->layer_count; i++)
        if (i != kept) free(outputs[i]);
    free(outputs);
    free(image);
    return output;
}
