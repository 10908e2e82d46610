/* The reference's pieces; effnet_lab.h has the public ones. */
#ifndef EFFNET_BACKEND_REFERENCE_REFERENCE_H
#define EFFNET_BACKEND_REFERENCE_REFERENCE_H

#include "effnet_lab.h"

/* act(x) in double; NaN gives NaN. */
double effnet_reference_activation(enum effnet_activation activation, double x);

/* What effnet_reference_compute needs in `workspace`: the weights and one pixel's sums, in double; for a
 * layer of an integer network, its input in steps. */
size_t effnet_reference_workspace_bytes(const struct effnet_layer *layer);

/* As effnet_reference_layer, arguments checked already, with memory from the caller. */
void effnet_reference_compute(const struct effnet_layer *layer, int n, const float *const *inputs, bool raw,
                              double *workspace, float *output);

/* integer.c: the same of one image by a layer of an integer network. second: the residual, or
 * scale's gate. map: room for its input's steps. */
void effnet_reference_integer(const struct effnet_layer *layer, const float *input, const float *second,
                              uint16_t *map, float *output);

#endif
