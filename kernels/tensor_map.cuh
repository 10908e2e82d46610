/* Host side of TMA: describing a tensor to it. */
#ifndef EFFNET_KERNELS_TENSOR_MAP_CUH
#define EFFNET_KERNELS_TENSOR_MAP_CUH

#include "last_error.h"
#include "swizzle.cuh"

#include <atomic>
#include <cudaTypedefs.h>
#include <cuda_runtime_api.h>
#include <stdint.h>

/* A tensor of fp16 with `rank` dimensions, the innermost first, copied in tiles of tile[i] elements, at most
 * 256, along dimension i. Elements of dimension 0 are neighbours, and a tile has ROW_BYTES of them, in the
 * swizzle of that width. Those of dimension i > 0 are pitch[i - 1] bytes apart, a multiple of 16; `data` is
 * 16-byte aligned. Reads outside the tensor give zeros, slowly (docs/linear.md), and writes there are
 * dropped. The driver's function is looked up, so that the program needs no driver to start.
 * cudaErrorNotSupported where the driver has none. */
template <int ROW_BYTES>
cudaError_t tensor_map(CUtensorMap *map, const void *data, int rank, const cuuint64_t *size,
                       const cuuint64_t *pitch, const cuuint32_t *tile)
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
    const CUresult result = encode(map, CU_TENSOR_MAP_DATA_TYPE_FLOAT16, static_cast<cuuint32_t>(rank),
                                   const_cast<void *>(data), size, pitch, tile, every,
                                   CU_TENSOR_MAP_INTERLEAVE_NONE, swizzle<ROW_BYTES>::TMA,
                                   CU_TENSOR_MAP_L2_PROMOTION_L2_128B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    return result == CUDA_SUCCESS ? cudaSuccess : cudaErrorInvalidValue;
}

/* A matrix whose rows are `pitch` elements apart, in tiles of tile_rows. */
template <int ROW_BYTES>
cudaError_t tensor_map_2d(CUtensorMap *map, const void *data, int64_t rows, int64_t columns, int64_t pitch,
                          int tile_rows)
{
    const cuuint64_t size[] = {static_cast<cuuint64_t>(columns), static_cast<cuuint64_t>(rows)};
    const cuuint64_t pitch_bytes[] = {static_cast<cuuint64_t>(2 * pitch)};
    const cuuint32_t tile[] = {ROW_BYTES / 2, static_cast<cuuint32_t>(tile_rows)};
    return tensor_map<ROW_BYTES>(map, data, 2, size, pitch_bytes, tile);
}

#endif
