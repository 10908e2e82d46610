#include "cli/chain.h"

#include "cli/cli.h"
#include "common/cpu.h"
#include "common/thread.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

int chain_open(const effnet_model *model, const uint8_t *pixels, int n, struct chain *chain)
{
    const struct effnet_model_info *info = effnet_model_get_info(model);
    int processors = effnet_cpu_threads();
    *chain = (struct chain){.model = model, .n = n, .workers = n < processors ? n : processors};
    size_t tensor_size = (size_t)info->height * (size_t)info->width * (size_t)info->channels;
    chain->tensor = malloc((size_t)n * tensor_size * sizeof *chain->tensor);
    chain->outputs = calloc((size_t)info->layer_count, sizeof *chain->outputs);
    if (!chain->tensor || !chain->outputs) {
        chain_close(chain);
        return cli_fail_nomem("the reference");
    }
    effnet_reference_normalise(&info->preprocess, n, pixels, chain->tensor);
    return EFFNET_OK;
}

const float *chain_output(const struct chain *chain, int index)
{
    return index == EFFNET_IMAGE ? chain->tensor : chain->outputs[index];
}

/* The images first..first+n-1 of one layer. */
struct share {
    const struct chain *chain;
    int index, first, n;
    bool raw;
    float *output; /* of all images */
    int status;
    struct effnet_error error;
};

static void *run_share(void *argument)
{
    struct share *share = argument;
    const struct chain *chain = share->chain;
    const struct effnet_layer *layer = effnet_model_layer(chain->model, share->index);
    const size_t first = (size_t)share->first;
    const float *inputs[2] = {NULL};
    for (int i = 0; i < layer->input_count; i++)
        inputs[i] = chain_output(chain, layer->inputs[i]) + effnet_layer_in_size(layer, i) * first;
    share->status = effnet_reference_layer(chain->model, share->index, share->n, inputs, share->raw,
                                           share->output + effnet_layer_out_size(layer) * first,
                                           &share->error);
    return NULL;
}

static int run_layer(const struct chain *chain, int index, bool raw, float **output)
{
    size_t out_size = effnet_layer_out_size(effnet_model_layer(chain->model, index));
    struct share *shares = calloc((size_t)chain->workers, sizeof *shares);
    pthread_t *threads = calloc((size_t)chain->workers, sizeof *threads);
    bool *started = calloc((size_t)chain->workers, sizeof *started);
    float *result = malloc((size_t)chain->n * out_size * sizeof *result);
    int status = shares && threads && started && result ? EFFNET_OK : cli_fail_nomem("the reference");
    for (int i = 0, first = 0; !status && i < chain->workers; i++) {
        int end = (int)((int64_t)chain->n * (i + 1) / chain->workers);
        shares[i] = (struct share){chain, index, first, end - first, raw, result, 0, {0}};
        first = end;
        bool last = i + 1 == chain->workers; /* this thread's own part */
        started[i] = !last && !effnet_thread_start(&threads[i], run_share, &shares[i]);
        if (!started[i]) run_share(&shares[i]);
    }
    for (int i = 0; shares && threads && started && i < chain->workers; i++) {
        if (started[i]) pthread_join(threads[i], NULL);
        if (!status && shares[i].status) status = cli_fail_library(&shares[i].error);
    }
    free(shares);
    free(threads);
    free(started);
    if (status) {
        free(result);
        result = NULL;
    }
    *output = result;
    return status;
}

int chain_run(struct chain *chain, int index)
{
    return run_layer(chain, index, false, &chain->outputs[index]);
}

int chain_run_raw(const struct chain *chain, int index, float **output)
{
    return run_layer(chain, index, true, output);
}

void chain_forget(struct chain *chain, int next)
{
    for (int i = 0; i < next - 1; i++) {
        if (effnet_model_layer(chain->model, i)->last_reader >= next) continue;
        free(chain->outputs[i]);
        chain->outputs[i] = NULL;
    }
}

void chain_close(struct chain *chain)
{
    int layers = effnet_model_get_info(chain->model)->layer_count;
    for (int i = 0; chain->outputs && i < layers; i++) free(chain->outputs[i]);
    free(chain->outputs);
    free(chain->tensor);
    chain->outputs = NULL;
    chain->tensor = NULL;
}

int chain_logits(const effnet_model *model, const uint8_t *pixels, int n, float *logits)
{
    const struct effnet_model_info *info = effnet_model_get_info(model);
    struct chain chain;
    int last = info->layer_count - 1;
    int status = chain_open(model, pixels, n, &chain);
    if (status) return status;
    for (int i = 0; !status && i <= last; i++) {
        status = chain_run(&chain, i);
        chain_forget(&chain, i + 1);
    }
    if (!status) memcpy(logits, chain.outputs[last], (size_t)n * (size_t)info->classes * sizeof *logits);
    chain_close(&chain);
    return status;
}
