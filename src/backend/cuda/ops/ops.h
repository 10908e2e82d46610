/* The kinds of units, one file each. */
#ifndef EFFNET_BACKEND_CUDA_OPS_OPS_H
#define EFFNET_BACKEND_CUDA_OPS_OPS_H

#include "backend/cuda/unit.h"

extern const struct cuda_op cuda_conv_op;             /* conv.c: a convolution through cuDNN */
extern const struct cuda_op cuda_depthwise_op;        /* depthwise.c: bias and activation with it */
extern const struct cuda_op cuda_expand_depthwise_op; /* expand_depthwise.c: two layers, nothing between */
extern const struct cuda_op cuda_first_block_op; /* first_block.c: stem, depthwise, project from pixels on */
extern const struct cuda_op cuda_linear_op;      /* linear.c */
extern const struct cuda_op cuda_mbconv_op;      /* mbconv.c: expand, depthwise, project, residual */
extern const struct cuda_op cuda_pointwise_op;   /* pointwise.c: perhaps with the pooling layer behind it */
extern const struct cuda_op cuda_pool_op;        /* pool.c */
extern const struct cuda_op cuda_stem_op;        /* stem.c: from pixels on */
extern const struct cuda_op cuda_squeeze_excite_op; /* squeeze_excite.c: from channels' sums to their gates */

/* Whether squeeze-and-excite of layer `map` follows right behind it, so that its unit may leave sums. */
bool cuda_squeezed(const struct cuda_network *network, int map);

#endif
