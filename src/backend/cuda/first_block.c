/* The network's first three layers as one unit on kernels/first_block: whether they are such layers, their
 * weights, their arguments. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "backend/cuda/cuda_internal.h"
#include "first_block.h"

enum { STEM, DEPTHWISE, PROJECT };

static struct first_block_layers host_layers(const struct backend_state *state)
{
    const struct effnet_layer *stem = effnet_model_layer(state->model, STEM),
                              *depthwise = effnet_model_layer(state->model, DEPTHWISE),
                              *project = effnet_model_layer(state->model, PROJECT);
    struct first_block_layers layers = {
        .stem_weight = stem->weight,
        .stem_bias = stem->bias,
        .depthwise_weight = depthwise->weight,
        .depthwise_bias = depthwise->bias,
        .project_weight = project->weight,
        .project_bias = project->bias,
        .stem_activation = cuda_activation(stem->activation),
        .depthwise_activation = cuda_activation(depthwise->activation),
        .pad_top = stem->pad_top,
        .pad_left = stem->pad_left,
    };
    memcpy(layers.mean, state->info->preprocess.mean, sizeof layers.mean);
    memcpy(layers.std, state->info->preprocess.std, sizeof layers.std);
    return layers;
}

void cuda_first_block_shape(const struct backend_state *state, int images, struct first_block_args *args)
{
    const struct effnet_layer *stem = effnet_model_layer(state->model, STEM),
                              *project = effnet_model_layer(state->model, PROJECT);
    *args = (struct first_block_args){
        .stem_activation = cuda_activation(stem->activation),
        .depthwise_activation = cuda_activation(effnet_model_layer(state->model, DEPTHWISE)->activation),
        .activation = cuda_activation(project->activation),
        .n = images,
        .height = stem->in_height,
        .width = stem->in_width,
        .out_height = stem->out_height,
        .out_width = stem->out_width,
        .pad_top = stem->pad_top,
        .pad_left = stem->pad_left,
    };
}

static bool layers_match(const struct backend_state *state)
{
    if (state->info->layer_count < 4) return false; /* the last layer's output is fp32 */
    const struct effnet_layer *stem = effnet_model_layer(state->model, STEM),
                              *depthwise = effnet_model_layer(state->model, DEPTHWISE),
                              *project = effnet_model_layer(state->model, PROJECT);
    float low, high;
    for (int i = STEM; i < state->info->layer_count; i++) {
        const int residual = effnet_model_layer(state->model, i)->residual;
        if (residual == STEM || residual == DEPTHWISE || (i <= PROJECT && residual >= 0)) return false;
    }
    return stem->op == EFFNET_OP_CONV && stem->in_channels == 3 && stem->out_channels == FIRST_BLOCK_MIDDLE &&
           stem->kernel == 3 && stem->stride == 2 && activation_is_relu(cuda_activation(stem->activation)) &&
           depthwise->op == EFFNET_OP_DEPTHWISE && depthwise->kernel == 3 && depthwise->stride == 1 &&
           depthwise->pad_top == 1 && depthwise->pad_left == 1 && depthwise->pad_bottom == 1 &&
           depthwise->pad_right == 1 && activation_is_relu(cuda_activation(depthwise->activation)) &&
           project->op == EFFNET_OP_POINTWISE && project->out_channels == FIRST_BLOCK_OUT &&
           activation_clamp(cuda_activation(project->activation), &low, &high);
}

bool cuda_first_block_fits(const struct backend_state *state)
{
    struct first_block_args args;
    if (!layers_match(state)) return false;
    cuda_first_block_shape(state, state->max_batch, &args);
    const struct first_block_layers layers = host_layers(state);
    return kernel_fits(&first_block_kernels, 0, &args) && first_block_weights_fit(&layers);
}

int cuda_first_block_upload(const struct backend_state *state, void *device, struct effnet_error *error)
{
    const struct first_block_layers layers = host_layers(state);
    void *packed = malloc(first_block_weight_bytes());
    if (!packed) return effnet_fail_nomem(error, "weights", first_block_weight_bytes());
    first_block_pack(&layers, packed);
    /* From pageable memory this returns once the source has been read. */
    const cudaError_t status = cudaMemcpyAsync(device, packed, first_block_weight_bytes(),
                                               cudaMemcpyHostToDevice, state->stream);
    free(packed);
    CUDA_TRY(status, "weights");
    return EFFNET_OK;
}

/* The 8-bit pixels that a normalised tensor came from. */
int cuda_first_block_set_pixels(const struct backend_state *state, int n, const float *tensor,
                                uint8_t *device, struct effnet_error *error)
{
    const struct effnet_preprocess *p = &state->info->preprocess;
    const size_t count = (size_t)n * (size_t)p->crop * (size_t)p->crop * 3;
    uint8_t *pixels = malloc(count);
    if (!pixels) return effnet_fail_nomem(error, "unit input", count);
    for (size_t i = 0; i < count; i++) {
        const float value = roundf(tensor[i] * p->std[i % 3] + p->mean[i % 3]);
        pixels[i] = value > 0 ? value < 255 ? (uint8_t)value : 255 : 0; /* a NaN becomes 0 */
    }
    const cudaError_t status = cudaMemcpyAsync(device, pixels, count, cudaMemcpyHostToDevice, state->stream);
    free(pixels);
    CUDA_TRY(status, "unit input");
    return EFFNET_OK;
}
