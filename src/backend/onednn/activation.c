#include "backend/onednn/activation.h"

dnnl_status_t effnet_onednn_append_activation(dnnl_post_ops_t post_ops, enum effnet_activation activation)
{
    dnnl_status_t status = dnnl_success;
    switch (activation) {
    case EFFNET_ACT_NONE: break;
    case EFFNET_ACT_RELU: return onednn_append_eltwise(post_ops, dnnl_eltwise_relu, 0, 0);
    case EFFNET_ACT_RELU6: return onednn_append_eltwise(post_ops, dnnl_eltwise_clip, 0, 6);
    case EFFNET_ACT_SILU: return onednn_append_eltwise(post_ops, dnnl_eltwise_swish, 1, 0);
    case EFFNET_ACT_GELU: return onednn_append_eltwise(post_ops, dnnl_eltwise_gelu_erf, 0, 0);
    case EFFNET_ACT_GELU_RELU:
        status = onednn_append_eltwise(post_ops, dnnl_eltwise_gelu_erf, 0, 0);
        return status ? status : onednn_append_eltwise(post_ops, dnnl_eltwise_relu, 0, 0);
    case EFFNET_ACT_SIGMOID: return onednn_append_eltwise(post_ops, dnnl_eltwise_logistic, 0, 0);
    }
    return status;
}
