/* Activations as oneDNN has them: post-operations of whatever computes what they are applied to. */
#ifndef EFFNET_BACKEND_ONEDNN_ACTIVATION_H
#define EFFNET_BACKEND_ONEDNN_ACTIVATION_H

#include "backend/onednn/api.h"
#include "effnet_linear.h"

dnnl_status_t effnet_onednn_append_activation(dnnl_post_ops_t post_ops, enum effnet_activation activation);

#endif
