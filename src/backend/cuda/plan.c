/* The layer table as units on device tensors.
 *
 * Ops are rivals for the layers: every one says which it computes as one unit, and of all ways to cover the
 * network with units that one is taken whose times sum to the least. Times are those that were measured, or
 * an estimate from the nearest that was: nothing is measured here. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/cuda/cuda_internal.h"

/* ---------------------------------------------------------------- whether a GPU can */

static int check_layer(const struct effnet_layer *layer, struct effnet_error *error)
{
    /* cuDNN takes the image's channels as they are. */
    const bool any_input = layer->op == EFFNET_OP_LINEAR ||
                           (layer->op == EFFNET_OP_CONV && layer->inputs[0] == EFFNET_IMAGE);
    if (layer->op != EFFNET_OP_LINEAR && !cuda_convolution_activates(layer))
        return effnet_fail(error, EFFNET_E_UNAVAILABLE, "layer %s: activation %s is not supported on a GPU",
                           layer->name, effnet_activation_name(layer->activation));
    if ((!any_input && layer->in_channels % 8) || (layer->op != EFFNET_OP_LINEAR && layer->out_channels % 8))
        return effnet_fail(error, EFFNET_E_UNAVAILABLE,
                           "layer %s: %d to %d channels: only multiples of 8 are supported on a GPU",
                           layer->name, layer->in_channels, layer->out_channels);
    if (layer->residual >= 0 && layer->op != EFFNET_OP_POINTWISE)
        return effnet_fail(error, EFFNET_E_UNAVAILABLE,
                           "layer %s: a residual on a %s layer is not supported on a GPU", layer->name,
                           effnet_op_name(layer->op));
    return EFFNET_OK;
}

/* The kernels of pointwise layers count a batch's pixels in an int, and those that convert weights their
 * weights. */
static int check_size(const struct effnet_layer *layer, int max_batch, struct effnet_error *error)
{
    const int64_t most = 1 << 30, pixels = (int64_t)layer->out_height * layer->out_width;
    if (layer->op == EFFNET_OP_POINTWISE && max_batch * pixels > most)
        return effnet_fail(error, EFFNET_E_UNAVAILABLE,
                           "layer %s: a batch of %d with %" PRId64
                           " pixels each is too large for a GPU; %" PRId64 " fit",
                           layer->name, max_batch, pixels, most / pixels);
    if (layer->parameters > most)
        return effnet_fail(error, EFFNET_E_UNAVAILABLE,
                           "layer %s: %" PRId64 " weights are too many for a GPU", layer->name,
                           layer->parameters);
    return EFFNET_OK;
}

int cuda_network_check(const effnet_model *model, int max_batch, struct effnet_error *error)
{
    for (int i = 0; i < effnet_model_get_info(model)->layer_count; i++) {
        EFFNET_TRY(check_layer(effnet_model_layer(model, i), error));
        EFFNET_TRY(check_size(effnet_model_layer(model, i), max_batch, error));
    }
    return EFFNET_OK;
}

/* ---------------------------------------------------------------- least time */

/* A unit that ends a cover of the first layers. */
struct step {
    double us; /* of it and of all before it; INFINITY: there is no such cover */
    const struct cuda_op *op;
    int first, units; /* units: how many they are */
    enum cuda_form input_form;
    const char *candidate; /* in the tuning table; NULL: nothing is known */
};

/* The best covers of the layers before each layer, by the form in which the last unit leaves its output. */
typedef struct step cover[CUDA_FORMS];

/* Whether nobody behind `last` reads what the layers first..last-1 compute, nor is it handed out. */
static bool inside_only(const struct cuda_network *network, int first, int last)
{
    for (int i = first; i < last; i++)
        if (effnet_model_layer(network->model, i)->last_reader > last || i == network->features_layer)
            return false;
    return true;
}

static bool usable(const char *candidate, void *unit)
{
    return cuda_unit_usable(unit, candidate);
}

/* What the unit would take, by its nearest measurement. INFINITY: it cannot run, or it is of a kind that
 * wants to be measured and was not. */
static double expected_us(struct cuda_unit *u, const struct tuning *tuning, const char **candidate)
{
    /* A launch, and bytes at a terabyte a second: for a unit of a kind that nobody measured. */
    const double launch_us = 2, bytes_per_us = 1e6;
    struct tuning_key key;
    double us;
    cuda_unit_key(u, &key);
    const struct tuning_entry *known = tuning_find(tuning, &key, usable, u, &us);
    *candidate = known ? known->candidate : NULL;
    if (known) return us;
    if (u->op->when_measured || !cuda_unit_usable(u, NULL)) return INFINITY;
    return launch_us + key.bytes / bytes_per_us;
}

/* Tries the op on first..last behind the best covers of what lies before, from one form to another. */
static void try_forms(struct backend_state *state, const struct tuning *tuning, const struct cuda_op *op,
                      int first, int last, enum cuda_form from, enum cuda_form to, cover *covers)
{
    struct cuda_unit unit;
    const struct step *before = &covers[first][from];
    struct step step = {.op = op, .first = first, .input_form = from, .units = before->units + 1};
    struct step *best = &covers[last + 1][to];
    if (before->us == INFINITY) return;
    cuda_unit_make(&unit, &state->network, op, first, last, from, to);
    step.us = before->us + expected_us(&unit, tuning, &step.candidate);
    if (step.us < best->us) *best = step;
}

static void try_op(struct backend_state *state, const struct tuning *tuning, const struct cuda_op *op,
                   int first, int last, cover *covers)
{
    const unsigned takes = cuda_op_takes(op), leaves = cuda_op_leaves(op, &state->network, first);
    for (enum cuda_form from = 0; from < CUDA_FORMS; from++)
        for (enum cuda_form to = 0; to < CUDA_FORMS; to++)
            if (takes & CUDA_FORM(from) && leaves & CUDA_FORM(to))
                try_forms(state, tuning, op, first, last, from, to, covers);
}

static void find_covers(struct backend_state *state, const struct tuning *tuning, cover *covers)
{
    const int layers = state->network.info->layer_count;
    for (int i = 0; i <= layers; i++)
        for (int form = 0; form < CUDA_FORMS; form++)
            covers[i][form].us = i == 0 && form == CUDA_COMPLETE ? 0 : INFINITY;
    for (int first = 0; first < layers; first++)
        for (int o = 0; o < cuda_op_count; o++) {
            const struct cuda_op *op = cuda_ops[o];
            if (state->cudnn_only && !op->in_plan_cudnn) continue;
            const unsigned lengths = op->covers(&state->network, first);
            for (int count = 1; count <= CUDA_COVERS_MOST; count++)
                if (lengths & CUDA_COVERS(count) && inside_only(&state->network, first, first + count - 1))
                    try_op(state, tuning, op, first, first + count - 1, covers);
        }
}

/* ---------------------------------------------------------------- units and tensors */

static int add_tensor(struct backend_state *state, size_t image_bytes, int unit)
{
    struct lifetime *t = &state->tensors[state->tensor_count];
    *t = (struct lifetime){
        .bytes = cuda_aligned((size_t)state->network.max_batch * image_bytes), .first = unit, .last = unit};
    return state->tensor_count++;
}

/* The tensor that a unit reads: the pixels, the normalised image, or what a layer before it gives. */
static int input_tensor(struct backend_state *state, const struct cuda_unit *u, int input)
{
    const struct cuda_unit *from = state->units;
    if (u->unit.inputs[input] != EFFNET_IMAGE) {
        while (from->unit.last != u->unit.inputs[input]) from++;
        return from->output;
    }
    if (u->op->from_pixels) return CUDA_PIXELS;
    if (state->image_tensor < 0) state->image_tensor = add_tensor(state, 2 * cuda_input_size(u, input), 0);
    return state->image_tensor;
}

/* Gives the units their tensors. */
static void connect(struct backend_state *state)
{
    state->image_tensor = state->features_tensor = -1;
    for (int i = 0; i < state->unit_count; i++) {
        struct cuda_unit *u = &state->units[i];
        for (int k = 0; k < u->unit.input_count; k++) {
            u->inputs[k] = input_tensor(state, u, k);
            if (u->inputs[k] >= 0) state->tensors[u->inputs[k]].last = i;
        }
        u->output = u->ends ? CUDA_LOGITS : add_tensor(state, 2 * effnet_layer_out_size(u->last), i);
        if (u->output_form == CUDA_SUMMED)
            u->sums = add_tensor(state, sizeof(float) * (size_t)u->parts * (size_t)u->last->out_channels, i);
        if (u->input_form == CUDA_SUMMED) {
            u->sums = u[-1].sums, u->parts = u[-1].parts;
            state->tensors[u->sums].last = i;
        }
        if (u->unit.last == state->network.features_layer) state->features_tensor = u->output;
    }
    if (state->features_tensor >= 0) /* until it is copied to the host */
        state->tensors[state->features_tensor].last = state->unit_count - 1;
}

/* The units of the best cover, last first, and what each one runs. */
static int make_units(struct backend_state *state, const cover *covers, struct effnet_error *error)
{
    int end = state->network.info->layer_count;
    enum cuda_form form = CUDA_COMPLETE;
    state->unit_count = covers[end][form].units;
    for (const struct step *step; end > 0; end = step->first, form = step->input_form) {
        step = &covers[end][form];
        struct cuda_unit *u = &state->units[step->units - 1];
        cuda_unit_make(u, &state->network, step->op, step->first, end - 1, step->input_form, form);
        int status = cuda_unit_choose(u, step->candidate, error);
        /* An engine of another version of cuDNN, or of another shape. */
        if (status == EFFNET_E_UNAVAILABLE && step->candidate) status = cuda_unit_choose(u, NULL, error);
        EFFNET_TRY(status);
    }
    return EFFNET_OK;
}

/* Names the layer that no unit computes, if there is one: it ends the longest cover. */
static int check_covers(const struct backend_state *state, const cover *covers, struct effnet_error *error)
{
    const int layers = state->network.info->layer_count;
    int covered = 0;
    if (covers[layers][CUDA_COMPLETE].us < INFINITY) return EFFNET_OK;
    for (int i = 0; i < layers; i++)
        for (int form = 0; form < CUDA_FORMS; form++)
            if (covers[i][form].us < INFINITY) covered = i;
    const struct effnet_layer *layer = effnet_model_layer(state->network.model, covered);
    return effnet_fail(error, EFFNET_E_UNAVAILABLE, "layer %s: no kernel computes op %s there on this GPU",
                       layer->name, effnet_op_name(layer->op));
}

static int plan_once(struct backend_state *state, const struct tuning *tuning, struct effnet_error *error)
{
    const int layers = state->network.info->layer_count;
    cover *covers = calloc((size_t)layers + 1, sizeof *covers);
    state->units = calloc((size_t)layers, sizeof *state->units);
    state->tensors = calloc(2 * (size_t)layers + 1,
                            sizeof *state->tensors); /* at most: outputs, sums, image */
    int status = EFFNET_OK;
    if (covers && state->units && state->tensors)
        find_covers(state, tuning, covers);
    else
        status = effnet_fail_nomem(error, "units", (size_t)layers * sizeof *state->units);
    if (!status) status = check_covers(state, covers, error);
    if (!status) status = make_units(state, covers, error);
    if (!status) connect(state);
    free(covers);
    return status;
}

int cuda_plan(struct backend_state *state, const struct tuning *tuning, struct effnet_error *error)
{
    int status = plan_once(state, tuning, error);
    if (status != EFFNET_E_UNAVAILABLE || state->cudnn_only || state->network.cudnn) return status;
    /* There is no cuDNN here. Perhaps it goes without. */
    cuda_plan_free(state, false);
    state->network.without_cudnn = true;
    return plan_once(state, tuning, NULL) == EFFNET_OK ? EFFNET_OK : status;
}

void cuda_plan_free(struct backend_state *state, bool abandoned)
{
    for (int i = 0; i < state->unit_count; i++) cuda_unit_release(&state->units[i], abandoned);
    free(state->units);
    free(state->tensors);
    state->units = NULL;
    state->tensors = NULL;
    state->unit_count = state->tensor_count = 0;
}
