/* Class activation maps. */
#include "common/error.h"
#include "effnet_lab.h"

static double weight_of(const struct effnet_layer *layer, size_t index)
{
    const struct effnet_integer *integer = layer->integer;
    if (!integer) return (double)layer->weight[index];
    return (double)integer->weight[index] * (double)integer->weight_scale[index / (size_t)layer->in_channels];
}

/* Where a logit is a weighted sum of the features and a bias, it is the mean over the map of such sums. */
int effnet_class_activation(const effnet_model *model, int class_index, const float *map, float *activation,
                            struct effnet_error *error)
{
    if (!model || !map != !activation)
        return effnet_fail(error, EFFNET_E_USAGE,
                           "class activation: a model, a map and a place for the result are needed");
    const struct effnet_model_info *info = effnet_model_get_info(model);
    const struct effnet_layer *last = effnet_model_layer(model, info->layer_count - 1);
    if (class_index < 0 || class_index >= info->classes)
        return effnet_fail(error, EFFNET_E_USAGE, "class activation: there is no class %d, only 0 to %d",
                           class_index, info->classes - 1);
    if (last->inputs[0] != effnet_model_head_pool(model) || last->residual >= 0 ||
        last->activation != EFFNET_ACT_NONE)
        return effnet_fail(error, EFFNET_E_UNAVAILABLE,
                           "network %s has no class activation maps: its head is not one linear layer behind "
                           "the pooling",
                           info->network);
    const size_t channels = (size_t)info->feature_channels;
    const size_t pixels = map ? (size_t)info->feature_height * (size_t)info->feature_width : 0;
    const size_t first = (size_t)class_index * channels;
    for (size_t p = 0; p < pixels; p++) {
        double sum = 0;
        for (size_t c = 0; c < channels; c++)
            sum += weight_of(last, first + c) * (double)map[p * channels + c];
        activation[p] = (float)sum;
    }
    return EFFNET_OK;
}
