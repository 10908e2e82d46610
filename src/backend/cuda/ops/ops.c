#include "backend/cuda/ops/ops.h"

const struct cuda_op *const cuda_ops[] = {
    &cuda_first_block_op, &cuda_stem_op,      &cuda_mbconv_op,         &cuda_expand_depthwise_op,
    &cuda_depthwise_op,   &cuda_pointwise_op, &cuda_squeeze_excite_op, &cuda_pool_op,
    &cuda_linear_op,      &cuda_conv_op,
};
const int cuda_op_count = sizeof cuda_ops / sizeof *cuda_ops;
