#include "cli/reference.h"

#include "cli/cli.h"
#include "common/cpu.h"
#include "common/thread.h"

#include <math.h>
#include <pthread.h>
#include <stdlib.h>

enum { FEW_OUTPUTS = 16 }; /* fewer may well all be near 0 */

int reference_open(const effnet_model *model, const uint8_t *pixels, int n, struct reference *reference)
{
    const struct effnet_model_info *info = effnet_model_get_info(model);
    int processors = effnet_cpu_threads();
    *reference = (struct reference){.model = model, .n = n, .workers = n < processors ? n : processors};
    size_t tensor_size = (size_t)info->height * (size_t)info->width * (size_t)info->channels;
    reference->tensor = malloc((size_t)n * tensor_size * sizeof *reference->tensor);
    reference->outputs = calloc((size_t)info->layer_count, sizeof *reference->outputs);
    if (!reference->tensor || !reference->outputs) {
        reference_close(reference);
        return cli_fail_nomem("the reference");
    }
    effnet_reference_normalise(&info->preprocess, n, pixels, reference->tensor);
    return EFFNET_OK;
}

const float *reference_output(const struct reference *reference, int index)
{
    return index == EFFNET_IMAGE ? reference->tensor : reference->outputs[index];
}

/* The images first..first+n-1 of one layer. */
struct share {
    const struct reference *reference;
    int index, first, n;
    bool raw;
    float *output; /* of all images */
    bool started;
    pthread_t thread;
    int status;
    struct effnet_error error;
};

static void *run_share(void *argument)
{
    struct share *share = argument;
    const struct reference *reference = share->reference;
    const struct effnet_layer *layer = effnet_model_layer(reference->model, share->index);
    const size_t first = (size_t)share->first;
    const float *inputs[2] = {NULL};
    for (int i = 0; i < layer->input_count; i++)
        inputs[i] = reference_output(reference, layer->inputs[i]) + effnet_layer_in_size(layer, i) * first;
    share->status = effnet_reference_layer(reference->model, share->index, share->n, inputs, share->raw,
                                           share->output + effnet_layer_out_size(layer) * first,
                                           &share->error);
    return NULL;
}

int reference_run(const struct reference *reference, int index, bool raw, float **output)
{
    size_t out_size = effnet_layer_out_size(effnet_model_layer(reference->model, index));
    struct share *shares = calloc((size_t)reference->workers, sizeof *shares);
    float *result = malloc((size_t)reference->n * out_size * sizeof *result);
    int status = shares && result ? EFFNET_OK : cli_fail_nomem("the reference");
    for (int i = 0, first = 0; !status && i < reference->workers; i++) {
        int end = (int)((int64_t)reference->n * (i + 1) / reference->workers);
        shares[i] = (struct share){.reference = reference,
                                   .index = index,
                                   .first = first,
                                   .n = end - first,
                                   .raw = raw,
                                   .output = result};
        first = end;
        bool last = i + 1 == reference->workers; /* this thread's own part */
        shares[i].started = !last && !effnet_thread_start(&shares[i].thread, run_share, &shares[i]);
        if (!shares[i].started) run_share(&shares[i]);
    }
    for (int i = 0; shares && i < reference->workers; i++) {
        if (shares[i].started) pthread_join(shares[i].thread, NULL);
        if (!status && shares[i].status) status = cli_fail_library(&shares[i].error);
    }
    free(shares);
    if (status) {
        free(result);
        result = NULL;
    }
    *output = result;
    return status;
}

int reference_run_all(struct reference *reference)
{
    int status = EFFNET_OK, layers = effnet_model_get_info(reference->model)->layer_count;
    for (int i = 0; !status && i < layers; i++) {
        reference_forget(reference, i);
        status = reference_run(reference, i, false, &reference->outputs[i]);
    }
    return status;
}

/* Terms of unlike signs add up as their squares do. */
void reference_term_rms(const struct reference *reference, int index, double *rms)
{
    const struct effnet_layer *layer = effnet_model_layer(reference->model, index);
    const int in = layer->in_channels, out = layer->out_channels;
    for (int n = 0; n < reference->n; n++) {
        rms[n] = 0;
        if (layer->op != EFFNET_OP_LINEAR || out >= FEW_OUTPUTS || layer->integer) continue;
        const float *x = reference_output(reference, layer->inputs[0]) + (size_t)n * (size_t)in;
        double sum = 0;
        for (int o = 0; o < out; o++) {
            const float *w = layer->weight + (size_t)o * (size_t)in;
            sum += (double)layer->bias[o] * (double)layer->bias[o];
            for (int i = 0; i < in; i++) sum += pow((double)w[i] * (double)x[i], 2);
        }
        rms[n] = sqrt(sum / out);
    }
}

void reference_forget(struct reference *reference, int next)
{
    for (int i = 0; i < next - 1; i++) {
        if (effnet_model_layer(reference->model, i)->last_reader >= next) continue;
        free(reference->outputs[i]);
        reference->outputs[i] = NULL;
    }
}

void reference_close(struct reference *reference)
{
    int layers = effnet_model_get_info(reference->model)->layer_count;
    for (int i = 0; reference->outputs && i < layers; i++) free(reference->outputs[i]);
    free(reference->outputs);
    free(reference->tensor);
    reference->outputs = NULL;
    reference->tensor = NULL;
}
