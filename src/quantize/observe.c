#include "common/error.h"
#include "quantize/internal.h"

#include <math.h>
#include <stdlib.h>

struct run {
    effnet_session *session;
    const effnet_model *model;
    float *image;
    float **outputs; /* [layer_count]; NULL: not computed, or nobody reads it any more */
};

static const float *value_of(const struct run *run, int layer)
{
    return layer == EFFNET_IMAGE ? run->image : run->outputs[layer];
}

static int run_layer(struct run *run, int index, struct effnet_error *error)
{
    const struct effnet_layer *layer = effnet_model_layer(run->model, index);
    const struct effnet_unit *unit = effnet_session_unit(run->session, index);
    const float *inputs[EFFNET_UNIT_INPUTS] = {NULL};
    if (!unit || unit->first != index || unit->last != index || unit->raw_output)
        return effnet_fail(error, EFFNET_E_INTERNAL, "quantize: '%s' is no unit of its own", layer->name);
    const size_t bytes = effnet_layer_out_size(layer) * sizeof(float);
    run->outputs[index] = malloc(bytes);
    if (!run->outputs[index]) return effnet_fail_nomem(error, layer->name, bytes);
    for (int i = 0; i < unit->input_count; i++) inputs[i] = value_of(run, unit->inputs[i]);
    return effnet_session_run_unit(run->session, index, 1, inputs, run->outputs[index], error);
}

static void forget(struct run *run, int next)
{
    for (int i = 0; i < next; i++) {
        if (effnet_model_layer(run->model, i)->last_reader > next) continue;
        free(run->outputs[i]);
        run->outputs[i] = NULL;
    }
}

static int run_layers(struct run *run, const uint8_t *pixels, quantize_visitor *visit, void *context,
                      struct effnet_error *error)
{
    const struct effnet_model_info *info = effnet_model_get_info(run->model);
    effnet_reference_normalise(&info->preprocess, 1, pixels, run->image);
    EFFNET_TRY(visit(context, EFFNET_IMAGE, run->image, (size_t)info->height * (size_t)info->width, error));
    for (int i = 0; i < info->layer_count; i++) {
        const struct effnet_layer *layer = effnet_model_layer(run->model, i);
        EFFNET_TRY(run_layer(run, i, error));
        const size_t pixels_out = (size_t)layer->out_height * (size_t)layer->out_width;
        EFFNET_TRY(visit(context, i, run->outputs[i], pixels_out, error));
        forget(run, i);
    }
    return EFFNET_OK;
}

int quantize_run(effnet_session *session, const effnet_model *model, const uint8_t *pixels,
                 quantize_visitor *visit, void *context, struct effnet_error *error)
{
    const struct effnet_model_info *info = effnet_model_get_info(model);
    const size_t values = (size_t)info->height * (size_t)info->width * 3;
    struct run run = {.session = session, .model = model};
    run.image = malloc(values * sizeof(float));
    run.outputs = calloc((size_t)info->layer_count, sizeof *run.outputs);
    int status = EFFNET_OK;
    if (!run.image || !run.outputs)
        status = effnet_fail_nomem(error, "an image's tensor", values * sizeof(float));
    else
        status = run_layers(&run, pixels, visit, context, error);
    for (int i = 0; run.outputs && i < info->layer_count; i++) free(run.outputs[i]);
    free(run.outputs);
    free(run.image);
    return status;
}
