/* fp32 weights to fp16 with rounding errors that cancel in each row.
 *
 * A layer's inputs have passed ReLU6, so they are positive and a channel's mean is far from 0: of the error
 * sum_k (q_k - w_k) x_k the largest part is mean(x) sum_k (q_k - w_k), and it is the same for every pixel.
 * Starting from the nearest values, a warp repeatedly moves the one weight to its other neighbour that brings
 * the sum of errors closest to 0, until that gains less than a tenth of the move. (Not a tenth of the sum:
 * the worst sums of a thousand weights are more than ten times the largest move, and would stay as they are.)
 * In a NumPy simulation of lite1's first block this takes the relative L2 error of the depthwise layer from
 * 9.0e-4 to 6.9e-4 and that of the project layer from 8.1e-4 to 6.5e-4.
 *
 * Grid: one warp a row, 8 a block. It runs once: 5.4 million weights, 66 launches. */
#include "convert.h"
#include "launch.cuh"

#include <cuda_fp16.h>

namespace
{

constexpr int WARPS = 8, MOST_MOVES = 64;
constexpr unsigned ALL = 0xffffffffu;

/* The fp16 value on the other side of w from its rounding q; q itself where w is exact or not finite. */
__device__ float other_neighbour(float w, float q)
{
    const __half h = __float2half_rn(w);
    unsigned short bits = __half_as_ushort(h);
    if (w == q || !isfinite(q) || (bits & 0x7fff) == 0) return q;
    bits += (w > q) == (q > 0) ? 1 : -1; /* away from 0, or towards it */
    const float moved = __half2float(__ushort_as_half(bits));
    return isfinite(moved) ? moved : q;
}

__global__ void __launch_bounds__(32 * WARPS) convert_weights(const __grid_constant__ convert_args args)
{
    const int row = blockIdx.x * WARPS + threadIdx.x / 32, lane = threadIdx.x & 31;
    if (row >= args.rows) return;
    const float *x = args.x + static_cast<size_t>(row) * args.columns;
    __half *y = static_cast<__half *>(args.y) + static_cast<size_t>(row) * args.columns;
    float error = 0.0f;
    for (int i = lane; i < args.columns; i += 32) {
        y[i] = __float2half_rn(x[i]);
        error += __half2float(y[i]) - x[i];
    }
    for (int mask = 16; mask; mask /= 2) error += __shfl_xor_sync(ALL, error, mask);
    for (int move = 0; move < MOST_MOVES; move++) {
        float best = INFINITY, best_value = 0.0f;
        int best_index = -1;
        for (int i = lane; i < args.columns; i += 32) {
            const float q = __half2float(y[i]),
                        other = other_neighbour(x[i], __half2float(__float2half_rn(x[i])));
            const float moved = error + (other - q); /* the difference is exact */
            if (other != q && fabsf(moved) < fabsf(best)) best = moved, best_value = other, best_index = i;
        }
        for (int mask = 16; mask; mask /= 2) { /* the best of the warp, ties to the lower index */
            const float e = __shfl_xor_sync(ALL, best, mask), v = __shfl_xor_sync(ALL, best_value, mask);
            const int i = __shfl_xor_sync(ALL, best_index, mask);
            if (fabsf(e) < fabsf(best) || (fabsf(e) == fabsf(best) && i < best_index))
                best = e, best_value = v, best_index = i;
        }
        if (!(fabsf(error) - fabsf(best) >= 0.1f * fabsf(best - error))) break;
        if (best_index % 32 == lane) y[best_index] = __float2half_rn(best_value);
        error = best;
    }
}

__global__ void convert_split(const float *x, __half *high, __half *low, int count)
{
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= count) return;
    high[i] = __float2half_rn(x[i]);
    low[i] = __float2half_rn(x[i] - __half2float(high[i]));
}

} // namespace

cudaError_t convert_weights_launch(const convert_args *args, cudaStream_t stream)
{
    if (args->rows < 1 || args->columns < 1) return cudaErrorInvalidValue;
    return launch_after(convert_weights, (args->rows - 1) / WARPS + 1, 32 * WARPS, 0, stream, *args);
}

cudaError_t convert_split_launch(const float *x, void *high, void *low, int count, cudaStream_t stream)
{
    constexpr int THREADS = 256;
    if (count < 1) return cudaErrorInvalidValue;
    return launch_after(convert_split, (count - 1) / THREADS + 1, THREADS, 0, stream, x,
                        static_cast<__half *>(high), static_cast<__half *>(low), count);
}
