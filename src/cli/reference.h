/* The reference's pass over a few images, layer by layer. Outputs live as long as a later
 * layer reads them. Images are shared out over the processors. */
#ifndef EFFNET_CLI_REFERENCE_H
#define EFFNET_CLI_REFERENCE_H

#include "effnet_lab.h"

struct reference {
    const effnet_model *model;
    int n, workers;
    float *tensor;   /* [n][height][width][channels], normalised pixels */
    float **outputs; /* of each layer, NULL while not computed or forgotten */
};

/* pixels [n][crop][crop][3]. On failure, reported, the reference is closed already. */
int reference_open(const effnet_model *model, const uint8_t *pixels, int n, struct reference *reference);
/* Computes layer `index` from the ones before it, where `raw` without bias and activation. The caller frees
 * *output unless it is one of reference->outputs. */
int reference_run(const struct reference *reference, int index, bool raw, float **output);
/* The output of layer `index`, or with EFFNET_IMAGE the tensor. */
const float *reference_output(const struct reference *reference, int index);
/* Computes all layers. Of the outputs, the last layer's and its inputs stay. */
int reference_run_all(struct reference *reference);
/* rms[n]: of a linear layer with few outputs, how large each image's outputs would be if the terms of their
 * sums did not cancel, as a root mean square; 0 of any other layer. Its inputs are computed. */
void reference_term_rms(const struct reference *reference, int index, double *rms);
/* Frees the outputs that no layer from `next` on reads. */
void reference_forget(struct reference *reference, int next);
void reference_close(struct reference *reference);

#endif
