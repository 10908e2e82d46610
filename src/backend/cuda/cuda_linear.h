/* One linear layer outside a network, on the current device's memory. */
#ifndef EFFNET_BACKEND_CUDA_CUDA_LINEAR_H
#define EFFNET_BACKEND_CUDA_CUDA_LINEAR_H

#include "backend/linear_backend.h"

/* As effnet_linear, arguments checked already. */
int cuda_linear_run(const struct effnet_linear_args *args, void *stream, struct effnet_error *error);
/* The name of the configuration that cuda_linear_run takes, or NULL where none fits. */
const char *cuda_linear_kernel(const struct effnet_linear_args *args);

#endif
