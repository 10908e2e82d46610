/* Grows channels that use little of their tensor's range, and shrinks the weights that read them: with ReLU6,
 * a channel that never passes 0.5 would have 21 of 255 steps.
 *
 * y = act(w x + b) with a channel g times as large, and what reads it divided by g, is the same network where
 * act(g v) = g act(v): for a linear output and ReLU always, for ReLU6 as long as g v stays below 6. So a
 * channel of ReLU6 grows until what was seen of it, three and a half times, is 6. With a fifth as room, what
 * other images have beyond cost more than the finer steps gained.
 *
 * Growing is no gain without end: weights that read the channel shrink, beside others which do not, and their
 * rounding errors are multiplied with larger values. With sums over the outputs o that read channel c,
 *
 *     noise(g) = A / g^2 + B g^2      A = sum w[o][c]^2 s^2 / 12         rounded activations, steps of s
 *                                     B = sum E[x_c^2] s_w[o]^2 / 12     rounded weights, steps of s_w
 *
 * is least at g = (A / B)^(1/4). A depthwise layer's weights have a scale a channel and lose nothing: B = 0.
 *
 * SiLU's and sigmoid's output is grown after them, by the file's gain: until what was seen of it, twice, is
 * the most that was seen of any channel.
 *
 * Tensors that a residual adds have the same factors, and so have a pool's input and output, and scale's map
 * and output: a group. A wide output has steps enough, and a gate stays what it is. */
#include "common/error.h"
#include "model/integer.h"
#include "quantize/internal.h"

#include <math.h>
#include <stdlib.h>

#define MARGIN    3.5 /* 6 to what was seen, under ReLU6 */
#define ROOM      2.0 /* a tensor's range to what was seen of a channel, behind SiLU and sigmoid */
#define MOST_GROW 64.0

/* One group's channels. */
struct group {
    double *cap;   /* the most that a channel may grow */
    double *a, *b; /* as above */
};

static int root_of(const int *parents, int i)
{
    while (parents[i] != i) i = parents[i];
    return i;
}

static void join(int *parents, int a, int b)
{
    a = root_of(parents, a);
    b = root_of(parents, b);
    parents[a > b ? a : b] = a > b ? b : a;
}

/* parents[tensor]: of tensors that have one factor a channel. */
static void find_groups(const struct quantizer *q, int *parents)
{
    for (int i = 0; i <= q->info->layer_count; i++) parents[i] = i;
    for (int i = 0; i < q->info->layer_count; i++) {
        const struct effnet_layer *layer = effnet_model_layer(q->model, i);
        if (layer->residual >= 0) join(parents, i + 1, layer->residual + 1);
        if (!layer->weight) join(parents, i + 1, layer->inputs[0] + 1);
    }
}

static double reach(const struct tensor *t, int c)
{
    return fmax(fabs((double)t->low[c]), fabs((double)t->high[c]));
}

static double largest_reach(const struct tensor *t)
{
    double most = 0;
    for (int c = 0; c < t->channels; c++) most = fmax(most, reach(t, c));
    return most;
}

/* About what a step of the tensor will be. */
static double step_of(const struct tensor *t)
{
    double low = 0, high = 0;
    for (int c = 0; c < t->channels; c++) {
        low = fmin(low, (double)t->low[c]);
        high = fmax(high, (double)t->high[c]);
    }
    return (high - low) / t->steps;
}

/* How much a layer's output channel may grow with its weights, before one step of its input, by the smallest
 * step that a weight then has, is as large as a few steps of its output. */
static double weight_cap(const struct quantizer *q, const struct effnet_layer *layer, int o,
                         double output_step)
{
    const size_t count = (size_t)(layer->op == EFFNET_OP_DEPTHWISE ? 1 : layer->in_channels) *
                         (size_t)layer->kernel * (size_t)layer->kernel;
    double most = 0;
    if (!layer->weight || effnet_integer_curved(layer->activation)) return MOST_GROW;
    for (size_t k = 0; k < count; k++) most = fmax(most, fabs((double)layer->weight[(size_t)o * count + k]));
    const double input_step = step_of(quantize_tensor(q, layer->inputs[0]));
    return most > 0 ? 127 * output_step / (4 * most * input_step) : 1;
}

static bool is_gate(const struct quantizer *q, int index)
{
    for (int i = index; i < q->info->layer_count; i++) {
        const struct effnet_layer *reader = effnet_model_layer(q->model, i);
        if (reader->op == EFFNET_OP_SCALE && reader->inputs[1] + 1 == index) return true;
    }
    return false;
}

/* What keeps a member's channels from growing. */
static void cap_member(const struct quantizer *q, int index, struct group *group)
{
    const struct tensor *t = &q->tensors[index];
    const struct effnet_layer *layer = index > 0 ? effnet_model_layer(q->model, index - 1) : NULL;
    const double most = largest_reach(t);
    const int pool = effnet_model_head_pool(q->model); /* what it gives are the features */
    const bool fixed = !layer || index == q->info->layer_count || index - 1 == pool ||
                       t->steps == EFFNET_MOST_WIDE || is_gate(q, index);
    for (int c = 0; c < t->channels; c++) {
        double cap = most / fmax(reach(t, c), most / MOST_GROW);
        if (layer && effnet_integer_curved(layer->activation)) cap /= ROOM;
        if (layer && layer->activation == EFFNET_ACT_RELU6) cap = fmin(cap, 6 / (MARGIN * reach(t, c)));
        if (layer) cap = fmin(cap, weight_cap(q, layer, c, most / t->steps));
        if (fixed || reach(t, c) == 0) cap = 1;
        group->cap[c] = fmin(group->cap[c], fmax(cap, 1));
    }
}

/* Adds what a layer that reads tensor t first does to the noise. Its weights are about what they will be: no
 * channel has grown. */
static void add_reader(const struct effnet_layer *layer, const struct tensor *t, struct group *group)
{
    const int taps = layer->kernel * layer->kernel, in = layer->in_channels;
    const double step = step_of(t);
    if (!layer->weight) return;
    for (int o = 0; o < layer->out_channels; o++) {
        if (layer->op == EFFNET_OP_DEPTHWISE) {
            for (int k = 0; k < taps; k++) group->a[o] += pow((double)layer->weight[o * taps + k] * step, 2);
            continue;
        }
        const float *w = layer->weight + (size_t)o * (size_t)in * (size_t)taps;
        double most = 0;
        for (int k = 0; k < in * taps; k++) most = fmax(most, fabs((double)w[k]));
        for (int c = 0; c < in; c++) {
            for (int k = 0; k < taps; k++) group->a[c] += pow((double)w[c * taps + k] * step, 2);
            group->b[c] += t->square[c] * taps * pow(most / 127, 2);
        }
    }
}

static void grow_group(const struct quantizer *q, const int *parents, int root, struct group *group)
{
    const int tensors = q->info->layer_count + 1, channels = q->tensors[root].channels;
    for (int c = 0; c < channels; c++) {
        group->cap[c] = MOST_GROW;
        group->a[c] = group->b[c] = 0;
    }
    for (int i = 0; i < tensors; i++)
        if (root_of(parents, i) == root) cap_member(q, i, group);
    for (int i = 0; i < q->info->layer_count; i++) {
        const struct effnet_layer *layer = effnet_model_layer(q->model, i);
        if (root_of(parents, layer->inputs[0] + 1) == root)
            add_reader(layer, quantize_tensor(q, layer->inputs[0]), group);
    }
    for (int i = 0; i < tensors; i++) {
        if (root_of(parents, i) != root) continue;
        for (int c = 0; c < channels; c++) {
            const double best = group->b[c] > 0 ? pow(group->a[c] / group->b[c], 0.25) : group->cap[c];
            q->tensors[i].grow[c] = (float)fmax(1, fmin(best, group->cap[c]));
        }
    }
}

int quantize_equalise(struct quantizer *q, struct effnet_error *error)
{
    const int tensors = q->info->layer_count + 1;
    size_t most = 3;
    for (int i = 0; i < tensors; i++)
        if ((size_t)q->tensors[i].channels > most) most = (size_t)q->tensors[i].channels;
    int *parents = malloc((size_t)tensors * sizeof *parents);
    double *memory = malloc(3 * most * sizeof *memory);
    int status = EFFNET_OK;
    if (parents && memory) {
        struct group group = {memory, memory + most, memory + 2 * most};
        find_groups(q, parents);
        for (int i = 0; i < tensors; i++)
            if (root_of(parents, i) == i) grow_group(q, parents, i, &group);
    } else {
        status = effnet_fail_nomem(error, "channels", 3 * most * sizeof *memory);
    }
    free(parents);
    free(memory);
    return status;
}
