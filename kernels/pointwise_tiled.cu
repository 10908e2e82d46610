/* 1x1 convolution through shared memory: for many pixels.
 *
 *   y[m][n] = act(sum_k p(x[m][k]) * w[n][k] + bias[n] + residual[m][n])      (pointwise.h)
 *
 * Grid: as many blocks as fit on the chip at once. Each makes every gridDim.x-th tile, column tiles fastest,
 * so that the blocks that share rows of x run side by side and read them from L2. The steps of all its tiles
 * are one stream through the ring of mma_tile.cuh, so the epilogue of one tile overlaps the loads of the
 * next. The results are transposed over quads of lanes and stored from registers, 16 bytes a lane.
 *
 * Shared memory: the ring, and input_bias.
 *
 * Fewest bytes: 2 * (m*k + n*k + m*n [+ m*n residual]); FLOPs 2*m*n*k. Measurements: docs/pointwise.md. */
#include "mma_tile.cuh"
#include "pointwise_common.cuh"

#include <math.h>

namespace pointwise
{

/* mma::pipeline's loader for all tiles of a block, as one stream. Weights in two parts: all steps of a tile
 * with the high one, then all with the low one. */
template <class T> struct loader {
    const pointwise_args &args;
    const tiles &work;
    int tile, part = 0, k0 = 0; /* of the next step */
    mma::share<T, T::BM> x;
    mma::share<T, T::BN> w;

    __device__ __forceinline__ loader(const pointwise_args &a, const tiles &all)
        : args(a), work(all), tile(blockIdx.x)
    {
        start_tile();
    }

    __device__ __forceinline__ void start_tile()
    {
        const int m0 = tile / work.across * work.rows, n0 = tile % work.across * T::BN;
        x.set(m0, min(m0 + work.rows, args.m), args.k);
        w.set(n0, args.n, args.k);
    }

    __device__ __forceinline__ void start(unsigned char *stage)
    {
        if (tile >= work.count) return;
        const uint32_t address = ptx::shared_address(stage);
        const __half *weights = static_cast<const __half *>(args.w) +
                                static_cast<size_t>(part) * args.n * args.k;
        x.copy(static_cast<const __half *>(args.x), k0, args.k, address);
        w.copy(weights, k0, args.k, address + T::W_OFFSET);
        k0 += T::BK;
        if (k0 < args.k) return;
        k0 = 0;
        if (args.w_low && part == 0) {
            part = 1;
        } else {
            part = 0, tile += gridDim.x;
            start_tile();
        }
    }

    __device__ __forceinline__ void finish(unsigned char *) const {}
};

/* The prologue on fragments of x. bias: input_bias of their channels; its low parts lie low_offset words on.
 */
template <int MT>
__device__ __forceinline__ void bias_fragments(uint32_t (&a)[MT][4], const uint32_t *bias, int low_offset,
                                               __half2 input_max)
{
    const uint32_t *here = bias + threadIdx.x % 4;
    const uint32_t first = here[0], second = here[4]; /* channels of words 0 and 1, and of 2 and 3 */
    const uint32_t first_low = here[low_offset], second_low = here[low_offset + 4];
#pragma unroll
    for (int i = 0; i < MT; i++) {
        a[i][0] = bias_and_clamp(a[i][0], first, first_low, input_max);
        a[i][1] = bias_and_clamp(a[i][1], first, first_low, input_max);
        a[i][2] = bias_and_clamp(a[i][2], second, second_low, input_max);
        a[i][3] = bias_and_clamp(a[i][3], second, second_low, input_max);
    }
}

/* The epilogue with pooling: one warp holds all rows of an image (WARPS_M is 1), so their sum is a sum over
 * fragments, then over the eight lanes that hold the same columns, in a fixed order. */
template <class T>
__device__ __forceinline__ void store_pooled(const float (&acc)[T::MT][T::NT][4], const pointwise_args &args,
                                             int image, int n0)
{
    const int lane = threadIdx.x & 31, g = lane >> 2, t = lane & 3;
    __half *y = static_cast<__half *>(args.y) + static_cast<size_t>(image) * args.n;
#pragma unroll
    for (int j = 0; j < T::NT; j++) {
        const int column = n0 + 8 * j + 2 * t;
        float2 sum = make_float2(0.0f, 0.0f);
#pragma unroll
        for (int i = 0; i < 2 * T::MT; i++)
            if (8 * i + g < args.pool_rows) {
                sum.x += clamp(acc[i / 2][j][2 * (i % 2)], args.output_min, args.output_max);
                sum.y += clamp(acc[i / 2][j][2 * (i % 2) + 1], args.output_min, args.output_max);
            }
#pragma unroll
        for (int mask = 4; mask < 32; mask *= 2) {
            sum.x += __shfl_xor_sync(0xffffffffu, sum.x, mask);
            sum.y += __shfl_xor_sync(0xffffffffu, sum.y, mask);
        }
        if (g == 0 && column < args.n)
            *reinterpret_cast<__half2 *>(y + column) = __floats2half2_rn(sum.x / args.pool_rows,
                                                                         sum.y / args.pool_rows);
    }
}

template <class T, int WAYS, int BLOCKS_A_SM>
__global__ void __launch_bounds__(T::THREADS, BLOCKS_A_SM)
    pointwise_tiled(const __grid_constant__ pointwise_args args)
{
    extern __shared__ __align__(128) unsigned char shared[];
    uint32_t *input_bias = reinterpret_cast<uint32_t *>(shared + T::RING_BYTES);
    const tiles work(args, T::BM, T::BN);
    const int steps = T::steps(args.k), parts = args.w_low ? 2 : 1; /* of w */
    const int warp = threadIdx.x / 32, warp_m = warp % T::WARPS_M * T::WM, warp_n = warp / T::WARPS_M * T::WN;
    const __half2 input_max = __float2half2_rn(args.input_max);

    ptx::grid_launch_next();
    if (args.input_bias) load_input_bias(input_bias, args, steps * T::BK, T::THREADS);
    loader<T> load(args, work);
    mma::pipeline<T> pipe(shared, warp_m, warp_n, 0);
    ptx::grid_wait();
    pipe.start(load);

    for (int tile = blockIdx.x; tile < work.count; tile += gridDim.x) {
        const int row_tile = tile / work.across, m0 = row_tile * work.rows;
        const int n0 = tile % work.across * T::BN + warp_n;
        const gated_rows gated(args, m0 + warp_m, T::WM, min(m0 + work.rows, args.m));
        const auto prologue = [&](uint32_t(&a)[T::MT][4], int step, int i) {
            const int k = (step < steps ? step : step - steps) * T::BK + 16 * i;
            if (k >= args.k) return false;
            if constexpr (WAYS & GATE)
                gate_fragments(a, args, gated, k);
            else if (args.input_bias)
                bias_fragments(a, input_bias + k / 2, steps * T::BK / 2, input_max);
            return true;
        };
        float acc[T::MT][T::NT][4];
        start_from_bias(acc, args, n0);
        pipe.multiply(acc, steps * parts, load, prologue);
        if constexpr (WAYS & (GATE | SILU))
            finish_sums(acc, args, m0 + warp_m, n0, min(m0 + work.rows, args.m));
        if constexpr (T::WARPS_M == 1) {
            if (args.pool_rows) {
                store_pooled<T>(acc, args, row_tile, n0);
                continue;
            }
        }
        store_fragments<WAYS == RESIDUAL>(acc, args, m0 + warp_m, n0, min(m0 + work.rows, args.m));
    }
}

template <class T, int BLOCKS_A_SM> struct launcher {
    static constexpr int SHARED_MOST = 99 * 1024; /* that sm_89 gives a block */

    static int shared_bytes(const pointwise_args &args)
    {
        return T::RING_BYTES + (args.input_bias ? T::steps(args.k) * T::BK * 4 : 0);
    }

    static bool fits(const pointwise_args &args)
    {
        if (!fills_tile(args.n, T::BN)) return false;
        if (args.pool_rows && (T::WARPS_M != 1 || args.pool_rows > T::BM || args.residual)) return false;
        return shared_bytes(args) <= SHARED_MOST;
    }

    static cudaError_t launch(const pointwise_args &args, cudaStream_t stream)
    {
        /* More blocks do not leave the registers that a gate takes. */
        constexpr int GATED_BLOCKS = BLOCKS_A_SM > 2 ? BLOCKS_A_SM - 1 : BLOCKS_A_SM;
        const auto kernel = args.gate       ? pointwise_tiled<T, GATE, GATED_BLOCKS>
                            : args.silu     ? pointwise_tiled<T, SILU, BLOCKS_A_SM>
                            : args.residual ? pointwise_tiled<T, RESIDUAL, BLOCKS_A_SM>
                                            : pointwise_tiled<T, PLAIN, BLOCKS_A_SM>;
        const int bytes = shared_bytes(args);
        int blocks = 0;
        unsigned grid = 0;
        cudaFuncAttributes unused;
        cudaError_t status = prepare_kernel(kernel, SHARED_MOST, &unused); /* or none would be resident */
        if (status == cudaSuccess)
            status = cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, kernel, T::THREADS, bytes);
        cuda_forget_error(status);
        if (status == cudaSuccess) status = persistent_grid(tiles(args, T::BM, T::BN).count, blocks, &grid);
        if (status != cudaSuccess) return status;
        return launch_overlapping(kernel, grid, T::THREADS, {bytes, SHARED_MOST}, stream, args);
    }
};

#define TILED(BM, BN, BK, STAGES, WARPS_M, WARPS_N, BLOCKS_A_SM)                                             \
    make_config<launcher<mma::tile<BM, BN, BK, STAGES, WARPS_M, WARPS_N>, BLOCKS_A_SM>>("tiled " #BM "x" #BN \
                                                                                        "x" #BK "x" #STAGES)

/* Column counts are those of the networks' layers or divide them; blocks on an SM bound registers. */
const kernel_config tiled_configs[] = {
    TILED(128, 16, 32, 4, 4, 1, 5),  TILED(128, 24, 32, 4, 4, 1, 5),
    TILED(128, 40, 32, 4, 4, 1, 4),  TILED(128, 80, 32, 4, 4, 1, 3),
    TILED(128, 96, 32, 4, 4, 1, 2),  TILED(128, 112, 64, 3, 4, 1, 2),
    TILED(128, 128, 64, 3, 2, 2, 2), TILED(64, 128, 32, 4, 1, 4, 3),
    TILED(64, 96, 64, 3, 2, 2, 3),   {},
};

} // namespace pointwise
