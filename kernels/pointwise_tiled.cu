/* 1x1 convolution through shared memory: for many pixels.
 *
 *   y[m][n] = act(sum_k p(x[m][k]) * w[n][k] + bias[n] + residual[m][n])      (pointwise.h)
 *
 * Grid: as many blocks as fit on the chip at once. Each walks over output tiles of BM x BN, column tiles
 * fastest, so that the blocks that share rows of x run side by side and read them from L2. The k loops of
 * all its tiles form one stream of steps, BK channels each; cp.async keeps STAGES - 1 steps in flight, also
 * across the end of a tile, so the epilogue of one tile overlaps the loads of the next.
 *
 * Shared memory: STAGES x (BM + BN) rows of BK halves, and input_bias. A row's 16-byte pieces are
 * XOR-swizzled by the row, so that ldmatrix, which reads eight rows at one piece, touches all banks once.
 * Warps: WARPS_M x WARPS_N, each BM/WARPS_M x BN/WARPS_N, accumulators in registers; the results are
 * transposed over quads of lanes and stored from registers, 16 bytes a lane.
 *
 * Fewest bytes: 2 * (m*k + n*k + m*n [+ m*n residual]); FLOPs 2*m*n*k. Measurements: docs/pointwise.md. */
#include "pointwise_common.cuh"

#include <math.h>

namespace pointwise
{

template <int BM_, int BN_, int BK_, int STAGES_, int WARPS_M_, int WARPS_N_> struct tile {
    static constexpr int BM = BM_, BN = BN_, BK = BK_, STAGES = STAGES_, WARPS_M = WARPS_M_,
                         WARPS_N = WARPS_N_;
    static constexpr int THREADS = 32 * WARPS_M * WARPS_N;
    static constexpr int MT = BM / WARPS_M / 16, NT = BN / WARPS_N / 8; /* fragments of a warp */
    static constexpr int PIECES = BK / 8;                               /* of 16 bytes, in a row */
    static constexpr int ROWS_A_LINE = 8 / PIECES; /* rows in 128 bytes, all banks once */
    static constexpr int STAGE_PIECES = (BM + BN) * PIECES;
    static constexpr int STAGES_BYTES = STAGES * STAGE_PIECES * 16;
    static_assert(BM % (16 * WARPS_M) == 0 && BN % (8 * WARPS_N) == 0, "warps tile the block's tile");
    static_assert(BK == 16 || BK == 32 || BK == 64, "the swizzle needs a power of two of pieces, at most 8");

    __host__ __device__ static int steps(int k) { return (k + BK - 1) / BK; }
    __host__ __device__ static int bias_bytes(int k) { return steps(k) * BK * 4; }
    /* Place of a 16-byte piece in a stage's A or B part. */
    __device__ static int place(int row, int piece)
    {
        return row * PIECES + (piece ^ ((row / ROWS_A_LINE) % PIECES));
    }
};

/* Starts the copy of one step: rows m0.. (below row_end) of x and n0.. of a part of w, channels k0... */
template <class T>
__device__ __forceinline__ void load_step(const pointwise_args &args, uint32_t stage, int m0, int row_end,
                                          int n0, int k0, int part)
{
    const __half *x = static_cast<const __half *>(args.x),
                 *w = static_cast<const __half *>(args.w) + static_cast<size_t>(part) * args.n * args.k;
#pragma unroll
    for (int i = threadIdx.x; i < T::BM * T::PIECES; i += T::THREADS) {
        const int row = i / T::PIECES, piece = i % T::PIECES, k = k0 + 8 * piece;
        const bool ok = m0 + row < row_end && k < args.k;
        const size_t offset = ok ? static_cast<size_t>(m0 + row) * args.k + k : 0;
        ptx::cp_async_16(stage + 16 * T::place(row, piece), x + offset, ok);
    }
#pragma unroll
    for (int i = threadIdx.x; i < T::BN * T::PIECES; i += T::THREADS) {
        const int row = i / T::PIECES, piece = i % T::PIECES, k = k0 + 8 * piece;
        const bool ok = n0 + row < args.n && k < args.k;
        const size_t offset = ok ? static_cast<size_t>(n0 + row) * args.k + k : 0;
        ptx::cp_async_16(stage + 16 * (T::BM * T::PIECES + T::place(row, piece)), w + offset, ok);
    }
}

/* Multiplies one step that lies in shared memory. bias: input_bias of this step's channels, or NULL; its low
 * parts are low_offset words further. */
template <class T>
__device__ __forceinline__ void multiply_step(float (&acc)[T::MT][T::NT][4], uint32_t stage,
                                              const uint32_t *bias, int low_offset, __half2 input_max,
                                              int k_left)
{
    const int lane = threadIdx.x & 31, warp = threadIdx.x / 32;
    const int row0 = warp / T::WARPS_N * 16 * T::MT, column0 = warp % T::WARPS_N * 8 * T::NT;
    const uint32_t stage_b = stage + 16 * T::BM * T::PIECES;
#pragma unroll
    for (int kk = 0; kk < T::BK; kk += 16) {
        if (kk >= k_left) break;
        uint32_t a[T::MT][4];
#pragma unroll
        for (int i = 0; i < T::MT; i++)
            ptx::ldmatrix_x4(a[i], stage + 16 * T::place(row0 + 16 * i + lane % 16, kk / 8 + lane / 16));
        if (bias) {
            const uint32_t *here = bias + kk / 2 + lane % 4;
            const uint32_t first = here[0], second = here[4]; /* channels of words 0 and 1, and of 2 and 3 */
            const uint32_t first_low = here[low_offset], second_low = here[low_offset + 4];
#pragma unroll
            for (int i = 0; i < T::MT; i++) {
                a[i][0] = bias_and_clamp(a[i][0], first, first_low, input_max);
                a[i][1] = bias_and_clamp(a[i][1], first, first_low, input_max);
                a[i][2] = bias_and_clamp(a[i][2], second, second_low, input_max);
                a[i][3] = bias_and_clamp(a[i][3], second, second_low, input_max);
            }
        }
#pragma unroll
        for (int j = 0; j < T::NT; j += 2) {
            /* Two column fragments a load; an odd last one is loaded twice. */
            const int second = j + 1 < T::NT ? lane / 16 * 8 : 0;
            uint32_t b[4];
            ptx::ldmatrix_x4(
                b, stage_b + 16 * T::place(column0 + 8 * j + second + lane % 8, kk / 8 + lane / 8 % 2));
#pragma unroll
            for (int i = 0; i < T::MT; i++) {
                ptx::mma_m16n8k16_f16(acc[i][j], a[i], b[0], b[1]);
                if (j + 1 < T::NT) ptx::mma_m16n8k16_f16(acc[i][j + 1], a[i], b[2], b[3]);
            }
        }
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

template <class T, int BLOCKS_A_SM, bool RESIDUAL>
__global__ void __launch_bounds__(T::THREADS, BLOCKS_A_SM)
    pointwise_tiled(const __grid_constant__ pointwise_args args)
{
    extern __shared__ __align__(128) unsigned char shared[];
    uint32_t *input_bias = reinterpret_cast<uint32_t *>(shared + T::STAGES_BYTES);
    const uint32_t stages = ptx::shared_address(shared);
    const int rows = args.pool_rows ? args.pool_rows : T::BM; /* of a tile */
    const int column_tiles = (args.n + T::BN - 1) / T::BN, row_tiles = (args.m + rows - 1) / rows;
    const int tiles = column_tiles * row_tiles, steps = T::steps(args.k);
    const int parts = args.w_low ? 2 : 1; /* of w: all steps with the high one, then all with the low one */
    const __half2 input_max = __float2half2_rn(args.input_max);

    ptx::grid_launch_next();
    if (args.input_bias) load_input_bias(input_bias, args, steps * T::BK, T::THREADS);

    /* The loader's place in the stream of steps. */
    int load_tile = blockIdx.x, load_part = 0, load_step_index = 0, load_stage = 0;
    auto load_next = [&] {
        if (load_tile < tiles) {
            const int m0 = load_tile / column_tiles * rows, n0 = load_tile % column_tiles * T::BN;
            load_step<T>(args, stages + load_stage * T::STAGE_PIECES * 16, m0, min(m0 + rows, args.m), n0,
                         load_step_index * T::BK, load_part);
            load_stage = load_stage + 1 == T::STAGES ? 0 : load_stage + 1;
            if (++load_step_index == steps) {
                load_step_index = 0;
                if (++load_part == parts) load_part = 0, load_tile += gridDim.x;
            }
        }
        ptx::cp_async_commit(); /* an empty group keeps the count of groups in step */
    };
    ptx::grid_wait();
#pragma unroll
    for (int i = 0; i < T::STAGES - 1; i++) load_next();

    const int warp = threadIdx.x / 32;
    int stage = 0;
    for (int tile_index = blockIdx.x; tile_index < tiles; tile_index += gridDim.x) {
        const int row_tile = tile_index / column_tiles, m0 = row_tile * rows;
        const int n0 = tile_index % column_tiles * T::BN + warp % T::WARPS_N * 8 * T::NT;
        float acc[T::MT][T::NT][4];
        start_from_bias(acc, args, n0);
        /* one loop over both, since with two ptxas spills */
        for (int step = 0, part = 0; part < parts; step + 1 < steps ? step++ : (step = 0, part++)) {
            ptx::cp_async_wait<T::STAGES - 2>();
            /* Everyone's part of this stage has come, and nobody still reads the one loaded next. */
            __syncthreads();
            load_next();
            multiply_step<T>(acc, stages + stage * T::STAGE_PIECES * 16,
                             args.input_bias ? input_bias + step * T::BK / 2 : nullptr, steps * T::BK / 2,
                             input_max, args.k - step * T::BK);
            stage = stage + 1 == T::STAGES ? 0 : stage + 1;
        }
        if constexpr (T::WARPS_M == 1) {
            if (args.pool_rows) {
                store_pooled<T>(acc, args, row_tile, n0);
                continue;
            }
        }
        store_fragments<RESIDUAL>(acc, args, m0 + warp / T::WARPS_N * 16 * T::MT, n0, min(m0 + rows, args.m));
    }
}

template <class T, int BLOCKS_A_SM> struct launcher {
    static constexpr int SHARED_MOST = 99 * 1024; /* that sm_89 gives a block */

    static int shared_bytes(const pointwise_args &args)
    {
        return T::STAGES_BYTES + (args.input_bias ? T::bias_bytes(args.k) : 0);
    }

    static bool fits(const pointwise_args &args)
    {
        if (!fills_tile(args.n, T::BN)) return false;
        if (args.pool_rows && (T::WARPS_M != 1 || args.pool_rows > T::BM || args.residual)) return false;
        return shared_bytes(args) <= SHARED_MOST;
    }

    static cudaError_t launch(const pointwise_args &args, cudaStream_t stream)
    {
        const auto kernel = args.residual ? pointwise_tiled<T, BLOCKS_A_SM, true>
                                          : pointwise_tiled<T, BLOCKS_A_SM, false>;
        const int bytes = shared_bytes(args);
        int sms = 0, blocks = 0;
        cudaFuncAttributes unused;
        cudaError_t status = prepare_kernel(kernel, SHARED_MOST, &unused); /* or none would be resident */
        if (status == cudaSuccess) status = sm_count(&sms);
        if (status == cudaSuccess)
            status = cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, kernel, T::THREADS, bytes);
        cuda_forget_error(status);
        if (status != cudaSuccess) return status;
        const int rows = args.pool_rows ? args.pool_rows : T::BM;
        const long long tiles = static_cast<long long>((args.m + rows - 1) / rows) *
                                ((args.n + T::BN - 1) / T::BN);
        const long long resident = static_cast<long long>(sms) * blocks;
        return launch_overlapping(kernel, static_cast<unsigned>(tiles < resident ? tiles : resident),
                                  T::THREADS, {bytes, SHARED_MOST}, stream, args);
    }
};

#define TILED(BM, BN, BK, STAGES, WARPS_M, WARPS_N, BLOCKS_A_SM)                                             \
    make_config<launcher<tile<BM, BN, BK, STAGES, WARPS_M, WARPS_N>, BLOCKS_A_SM>>("tiled " #BM "x" #BN      \
                                                                                   "x" #BK "x" #STAGES)

/* Column counts are those of the networks' layers or divide them; blocks a multiprocessor bound registers. */
const kernel_config tiled_configs[] = {
    TILED(128, 16, 32, 4, 4, 1, 5),  TILED(128, 24, 32, 4, 4, 1, 5),
    TILED(128, 40, 32, 4, 4, 1, 4),  TILED(128, 80, 32, 4, 4, 1, 3),
    TILED(128, 96, 32, 4, 4, 1, 2),  TILED(128, 112, 64, 3, 4, 1, 2),
    TILED(128, 128, 64, 3, 2, 2, 2), TILED(64, 128, 32, 4, 1, 4, 3),
    TILED(64, 96, 64, 3, 2, 2, 3),   {},
};

} // namespace pointwise
