/* Host side of the bulk tensor copies: describing a matrix to the copy engine. */
#ifndef EFFNET_KERNELS_TENSOR_MAP_CUH
#define EFFNET_KERNELS_TENSOR_MAP_CUH

#include <cudaTypedefs.h>
#include <cuda_runtime_api.h>
#include <stdint.h>

/* A row-major matrix of 2- or 4-byte elements, copied in boxes of box_rows x box_columns. row_bytes is the
 * distance of rows, a multiple of 16; `data` is 16-byte aligned; boxes have at most 256 rows and columns.
 * Of a box's rows only each row_step-th is copied, and they follow each other in shared memory. Reads outside
 * the matrix give zeros and writes there are dropped. The driver's function is looked up, so that the program
 * needs no driver to start. cudaErrorNotSupported where the driver has none. */
inline cudaError_t tensor_map_2d(CUtensorMap *map, CUtensorMapDataType type, const void *data, int64_t rows,
                                 int64_t columns, int64_t row_bytes, int box_rows, int box_columns,
                                 CUtensorMapSwizzle swizzle, int row_step = 1)
{
    static PFN_cuTensorMapEncodeTiled_v12000 encode;
    if (!encode) {
        void *function = nullptr;
        cudaDriverEntryPointQueryResult found;
        const cudaError_t status = cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function,
                                                                    12000, cudaEnableDefault, &found);
        if (status != cudaSuccess || found != cudaDriverEntryPointSuccess) return cudaErrorNotSupported;
        encode = reinterpret_cast<PFN_cuTensorMapEncodeTiled_v12000>(function);
    }
    const cuuint64_t size[2] = {static_cast<cuuint64_t>(columns), static_cast<cuuint64_t>(rows)};
    const cuuint64_t pitch[1] = {static_cast<cuuint64_t>(row_bytes)};
    const cuuint32_t box[2] = {static_cast<cuuint32_t>(box_columns), static_cast<cuuint32_t>(box_rows)};
    const cuuint32_t step[2] = {1, static_cast<cuuint32_t>(row_step)};
    const CUresult result = encode(map, type, 2, const_cast<void *>(data), size, pitch, box, step,
                                   CU_TENSOR_MAP_INTERLEAVE_NONE, swizzle, CU_TENSOR_MAP_L2_PROMOTION_L2_128B,
                                   CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    return result == CUDA_SUCCESS ? cudaSuccess : cudaErrorInvalidValue;
}

#endif
