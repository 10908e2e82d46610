/* The runtime remembers a thread's last failure until somebody asks cudaGetLastError(). A failure that its
 * status has already told of, or that was expected, shall not be found there by whoever asks next; one that
 * was there before, and is none of ours, shall stay. */
#ifndef EFFNET_KERNELS_LAST_ERROR_H
#define EFFNET_KERNELS_LAST_ERROR_H

#include <cuda_runtime_api.h>

/* Takes back the failure that a call of the runtime has just returned; does nothing for a success. */
static inline void cuda_forget_error(cudaError_t status)
{
    if (status != cudaSuccess && cudaPeekAtLastError() == status) (void)cudaGetLastError();
}

#endif
