/* The reference's way through the network, layer by layer, on a few images. Outputs live as long as a later
 * layer reads them. Images are shared out over the processors. */
#ifndef EFFNET_CLI_CHAIN_H
#define EFFNET_CLI_CHAIN_H

#include "effnet_lab.h"

struct chain {
    const effnet_model *model;
    int n, workers;
    float *tensor;   /* [n][height][width][channels], normalised pixels */
    float **outputs; /* of each layer, NULL while not computed or forgotten */
};

/* pixels [n][crop][crop][3]. On failure, reported, the chain is closed already. */
int chain_open(const effnet_model *model, const uint8_t *pixels, int n, struct chain *chain);
/* Computes layer `index` from the ones before it. */
int chain_run(struct chain *chain, int index);
/* The output of layer `index`, or with EFFNET_IMAGE the tensor. */
const float *chain_output(const struct chain *chain, int index);
/* Layer `index` again, without bias and activation. The caller frees *output. */
int chain_run_raw(const struct chain *chain, int index, float **output);
/* Frees the outputs that no layer from `next` on reads. */
void chain_forget(struct chain *chain, int next);
void chain_close(struct chain *chain);

/* The reference's logits [n][classes] for pixels [n][crop][crop][3]. */
int chain_logits(const effnet_model *model, const uint8_t *pixels, int n, float *logits);

#endif
