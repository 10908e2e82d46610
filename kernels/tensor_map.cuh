/* Host side of the bulk tensor copies: describing a matrix to the copy engine. */
#ifndef EFFNET_KERNELS_TENSOR_MAP_CUH
#define EFFNET_KERNELS_TENSOR_MAP_CUH

#include "last_error.h"

#include <atomic>
#include <cudaTypedefs.h>
#include <cuda_runtime_api.h>
#include <stdint.h>

/* A tensor of 2- or 4-byte elements with `rank` dimensions, the innermost first, copied in boxes; elements of
 * dimension 0 are neighbours, those of dimension i > 0 are pitch[i - 1] bytes apart, a multiple of 16; `data`
 * is 16-byte aligned; boxes have at most 256 elements along each dimension. Reads outside the tensor give
 * zeros, slowly (docs/linear.md), and writes there are dropped. The driver's function is looked up, so that
 * the program needs no driver to start. cudaErrorNotSupported where the driver has none. */
inline cudaError_t tensor_map(CUtensorMap *map, CUtensorMapDataType type, const void *data, int rank,
                              const cuuint64_t *size, const cuuint64_t *pitch, const cuuint32_t *box,
                              CUtensorMapSwizzle swizzle)
{
    /* Several threads may look it up at once; they all find the same. */
    static std::atomic<PFN_cuTensorMapEncodeTiled_v12000> known{nullptr};
    PFN_cuTensorMapEncodeTiled_v12000 encode = known.load(std::memory_order_relaxed);
    if (!encode) {
        void *function = nullptr;
        cudaDriverEntryPointQueryResult found;
        const cudaError_t status = cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function,
                                                                    12000, cudaEnableDefault, &found);
        cuda_forget_error(status);
        if (status != cudaSuccess || found != cudaDriverEntryPointSuccess) return cudaErrorNotSupported;
        encode = reinterpret_cast<PFN_cuTensorMapEncodeTiled_v12000>(function);
        known.store(encode, std::memory_order_relaxed);
    }
    const cuuint32_t every[] = {1, 1, 1, 1, 1};
    const CUresult result = encode(map, type, static_cast<cuuint32_t>(rank), const_cast<void *>(data), size,
                                   pitch, box, every, CU_TENSOR_MAP_INTERLEAVE_NONE, swizzle,
                                   CU_TENSOR_MAP_L2_PROMOTION_L2_128B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    return result == CUDA_SUCCESS ? cudaSuccess : cudaErrorInvalidValue;
}

/* The same for a row-major matrix whose rows are row_bytes apart. */
inline cudaError_t tensor_map_2d(CUtensorMap *map, CUtensorMapDataType type, const void *data, int64_t rows,
                                 int64_t columns, int64_t row_bytes, int box_rows, int box_columns,
                                 CUtensorMapSwizzle swizzle)
{
    const cuuint64_t size[] = {static_cast<cuuint64_t>(columns), static_cast<cuuint64_t>(rows)};
    const cuuint64_t pitch[] = {static_cast<cuuint64_t>(row_bytes)};
    const cuuint32_t box[] = {static_cast<cuuint32_t>(box_columns), static_cast<cuuint32_t>(box_rows)};
    return tensor_map(map, type, data, 2, size, pitch, box, swizzle);
}

#endif
