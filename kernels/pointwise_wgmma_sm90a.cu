/* 1x1 convolution with Hopper's copy engine and warpgroup products: for many pixels on sm_90a.
 *
 *   y[m][n] = act(sum_k p(x[m][k]) * w[n][k] + bias[n] + residual[m][n])      (pointwise.h)
 *
 * Grid: one block a multiprocessor, walking over tiles of 128 x BN, column tiles fastest. Block: two consumer
 * warpgroups of 64 rows each, and one producer warp, whose first lane keeps a ring of STAGES steps (BK
 * channels of 128 rows of x and of BN rows of w) full, across the ends of tiles. A consumer lane loads its
 * fragment of x with ldmatrix, applies the prologue, and multiplies it from registers with w in shared
 * memory. The epilogue writes fp16 to a staging buffer that the copy engine stores; a residual comes into the
 * same buffer first, and each lane replaces what it read.
 *
 * Shared memory: the ring; BUFFERS staging buffers for each warpgroup; biases; barriers. Rows of the ring
 * have 2 BK bytes in the swizzle of that width. Staging buffers are plain rows, because plain bulk copies
 * move them: one where the tile has all columns of y, else one a row. (Tensor copies
 * of unswizzled boxes took about 2 cycles for each 16 bytes.)
 *
 * Fewest bytes: 2 * (m*k + n*k + m*n [+ m*n residual]); FLOPs 2*m*n*k. Measurements: docs/pointwise.md. */
#include "pointwise_sm90a.cuh"
#include "tensor_map.cuh"

namespace pointwise
{

/* PART columns a wgmma instruction, BLOCKS on a multiprocessor, W_PARTS 2 for weights in two parts. */
template <int BN_, int PART_, int BK_, int BLOCKS_, int W_PARTS_> struct ring {
    static constexpr int BN = BN_, PART = PART_, BK = BK_, BLOCKS = BLOCKS_, PARTS = BN / PART;
    static constexpr int ROW_BYTES = 2 * BK, PIECES = BK / 8, ROWS_A_LINE = 8 / PIECES;
    static constexpr int X_BYTES = ROWS * ROW_BYTES;                   /* a warpgroup's rows */
    static constexpr int W_PARTS = W_PARTS_, W_BYTES = BN * ROW_BYTES; /* of one part */
    static constexpr int STAGE_BYTES = CONSUMERS * X_BYTES + W_PARTS * W_BYTES;
    static constexpr int STAGING_BYTES = ROWS * BN * 2;
    static constexpr int BUFFERS = BN * BLOCKS <= 128 ? 2 : 1;
    static constexpr bool ADDS_RESIDUAL = W_PARTS == 1 &&
                                          BN <=
                                              (BLOCKS == 1 ? 192 : 80); /* wider: no registers left for it */
    /* A block alone on its multiprocessor gives the producer a whole warpgroup, whose registers then move to
     * the consumers: what it leaves of 64 Ki, in steps of 8. Several blocks have few registers a thread
     * anyway, and a single warp produces. */
    static constexpr bool MOVES_REGISTERS = BLOCKS == 1;
    static constexpr int THREADS = 128 * CONSUMERS + (MOVES_REGISTERS ? 128 : 32);
    static constexpr int REGISTERS = (65536 / 128 - PRODUCER_REGISTERS) / CONSUMERS / 8 * 8;
    static constexpr int VECTORS_BYTES = (BLOCKS == 1 ? 16 : 4) * 1024; /* bias and input_bias */
    static constexpr int FIXED_BYTES = CONSUMERS * BUFFERS * STAGING_BYTES + VECTORS_BYTES + BARRIERS_BYTES +
                                       1024;
    static constexpr int STAGES_THAT_FIT = ((SHARED_MAX + 1024) / BLOCKS - 1024 - FIXED_BYTES) / STAGE_BYTES;
    static constexpr int STAGES = STAGES_THAT_FIT < 8 ? STAGES_THAT_FIT : 8;
    static constexpr int SHARED_BYTES = FIXED_BYTES + STAGES * STAGE_BYTES;
    static_assert(STAGES >= 3 && SHARED_BYTES <= SHARED_MAX, "the ring must hide a load behind two steps");
    static_assert(BN % PART == 0 && BN <= 256, "whole instructions, and a box of w");
    static_assert(8 * (2 * STAGES + CONSUMERS * BUFFERS) <= BARRIERS_BYTES, "barriers fit");
    static_assert(STAGING_BYTES % 128 == 0, "buffers are aligned");

    __device__ static int place(int row, int piece)
    {
        return row * ROW_BYTES + 16 * (piece ^ ((row / ROWS_A_LINE) % PIECES));
    }
};

/* Shared memory from its 1024-byte aligned start: ring, staging, bias, input_bias, barriers. */
template <class R> struct plan {
    uint32_t base, staging, barriers;
    float *bias;
    uint32_t *input_bias;

    __device__ explicit plan(unsigned char *shared, int n)
    {
        unsigned char *aligned = shared + (1024 - ptx::shared_address(shared) % 1024) % 1024;
        base = ptx::shared_address(aligned);
        staging = base + R::STAGES * R::STAGE_BYTES;
        const int vectors = R::STAGES * R::STAGE_BYTES + CONSUMERS * R::BUFFERS * R::STAGING_BYTES;
        bias = reinterpret_cast<float *>(aligned + vectors);
        input_bias = reinterpret_cast<uint32_t *>(bias + n);
        barriers = base + vectors + R::VECTORS_BYTES;
    }
    __device__ uint32_t stage(int i) const { return base + i * R::STAGE_BYTES; }
    __device__ uint32_t full(int i) const { return barriers + 8 * i; }
    __device__ uint32_t empty(int i) const { return barriers + 8 * (R::STAGES + i); }
    __device__ uint32_t residual(int group, int buffer) const
    {
        return barriers + 8 * (2 * R::STAGES + group * R::BUFFERS + buffer);
    }
    __device__ uint32_t buffer(int group, int i) const
    {
        return staging + (group * R::BUFFERS + i) * R::STAGING_BYTES;
    }
};

struct maps {
    CUtensorMap x, w;
};

/* Calls copy(element of y, byte of the buffer, bytes) for each run of bytes that a staging buffer has in
 * common with y, on the thread of the warpgroup that copies it. row and n0: the buffer's place in y. */
template <class R, class Copy>
__device__ __forceinline__ void for_my_runs(const pointwise_args &args, int row, int n0, Copy copy)
{
    const int thread = threadIdx.x % 128, rows = min(ROWS, args.m - row), columns = min(R::BN, args.n - n0);
    const bool one_run = args.n == R::BN;
    if (thread >= (one_run ? min(rows, 1) : rows)) return;
    copy(static_cast<size_t>(row + thread) * args.n + n0, thread * R::BN * 2,
         2 * columns * (one_run ? rows : 1));
}

template <class R>
__device__ __forceinline__ void produce(const pointwise_args &args, const maps &m, const plan<R> &shared,
                                        int tiles, int column_tiles, int rows)
{
    const int steps = (args.k + R::BK - 1) / R::BK;
    const uint64_t once = ptx::l2_evict_first(), often = ptx::l2_evict_last();
    const uint64_t x_policy = column_tiles > 1 ? often : once;
    cursor at;
    for (int tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
        const int row = tile / column_tiles * CONSUMERS * rows, n0 = tile % column_tiles * R::BN;
        for (int step = 0; step < steps; step++) {
            const uint32_t stage = shared.stage(at.stage), full = shared.full(at.stage);
            ptx::mbarrier_wait(shared.empty(at.stage), at.parity ^ 1);
            ptx::mbarrier_arrive_expect(full, R::STAGE_BYTES);
#pragma unroll
            for (int g = 0; g < CONSUMERS; g++)
                ptx::tma_load_2d(stage + g * R::X_BYTES, &m.x, step * R::BK, row + g * rows, full, x_policy);
#pragma unroll
            for (int part = 0; part < R::W_PARTS; part++)
                ptx::tma_load_2d(stage + CONSUMERS * R::X_BYTES + part * R::W_BYTES, &m.w, step * R::BK,
                                 part * args.n + n0, full, often);
            at.advance(R::STAGES);
        }
    }
}

/* All steps of one tile; acc starts as it is. */
template <class R>
__device__ __forceinline__ void consume(float (&acc)[R::PARTS][R::PART / 2], const pointwise_args &args,
                                        const plan<R> &shared, cursor &at, int group, __half2 input_max)
{
    const int lane = threadIdx.x & 31, warp = threadIdx.x / 32 % 4;
    const int low_offset = (args.k + R::BK - 1) / R::BK * R::BK / 2;
    for (int k0 = 0; k0 < args.k; k0 += R::BK) {
        const uint32_t x = shared.stage(at.stage) + group * R::X_BYTES;
        const uint32_t w = shared.stage(at.stage) + CONSUMERS * R::X_BYTES;
        uint32_t a[R::BK / 16][4];
        ptx::mbarrier_wait(shared.full(at.stage), at.parity);
#pragma unroll
        for (int kk = 0; kk < R::BK / 16; kk++) {
            ptx::ldmatrix_x4(a[kk], x + R::place(16 * warp + lane % 16, 2 * kk + lane / 16));
            if (args.input_bias) {
                const uint32_t *bias = shared.input_bias + (k0 + 16 * kk) / 2 + lane % 4,
                               *low = bias + low_offset;
                a[kk][0] = bias_and_clamp(a[kk][0], bias[0], low[0], input_max);
                a[kk][1] = bias_and_clamp(a[kk][1], bias[0], low[0], input_max);
                a[kk][2] = bias_and_clamp(a[kk][2], bias[4], low[4], input_max);
                a[kk][3] = bias_and_clamp(a[kk][3], bias[4], low[4], input_max);
            }
        }
        ptx::wgmma_fence(); /* fragments and accumulators are as ordinary code left them */
#pragma unroll
        for (int kk = 0; kk < R::BK / 16; kk++)
#pragma unroll
            for (int part = 0; part < R::W_PARTS; part++)
#pragma unroll
                for (int p = 0; p < R::PARTS; p++)
                    ptx::wgmma_f16_add(acc[p], a[kk],
                                       ptx::wgmma_descriptor_of<R::ROW_BYTES>(
                                           w + part * R::W_BYTES + p * R::PART * R::ROW_BYTES + 32 * kk));
        ptx::wgmma_commit();
        ptx::wgmma_wait<0>();
        if (lane == 0) ptx::mbarrier_arrive(shared.empty(at.stage));
        at.advance(R::STAGES);
    }
}

/* The mean of an image's rows, which one warpgroup holds: over a lane's rows, over the lanes of a column,
 * then over the four warps through shared memory, always in the same order. */
template <class R>
__device__ __forceinline__ void store_pooled_group(const float (&acc)[R::PARTS][R::PART / 2],
                                                   const pointwise_args &args, uint32_t buffer, int group,
                                                   int image, int n0)
{
    const int lane = threadIdx.x & 31, warp = threadIdx.x / 32 % 4, row = 16 * warp + lane / 4;
#pragma unroll
    for (int j = 0; j < R::BN / 8; j++) {
        const float *d = &acc[j / (R::PART / 8)][j % (R::PART / 8) * 4];
        float sum[2];
#pragma unroll
        for (int i = 0; i < 2; i++) {
            sum[i] = row < args.pool_rows ? clamp(d[i], args.output_min, args.output_max) : 0.0f;
            sum[i] += row + 8 < args.pool_rows ? clamp(d[2 + i], args.output_min, args.output_max) : 0.0f;
#pragma unroll
            for (int mask = 4; mask < 32; mask *= 2) sum[i] += __shfl_xor_sync(0xffffffffu, sum[i], mask);
            if (lane < 4)
                ptx::store_shared(buffer + 4 * (warp * R::BN + 8 * j + 2 * lane + i),
                                  __float_as_uint(sum[i]));
        }
    }
    ptx::named_barrier_sync(1 + group, 128); /* the four warps' sums are there */
    const bool image_ok = image < args.m / args.pool_rows;
    for (int c = threadIdx.x % 128; c < R::BN; c += 128) {
        float sum = 0.0f;
#pragma unroll
        for (int w = 0; w < 4; w++) sum += __uint_as_float(ptx::load_shared(buffer + 4 * (w * R::BN + c)));
        if (image_ok && n0 + c < args.n)
            static_cast<__half *>(args.y)[static_cast<size_t>(image) * args.n + n0 + c] = __float2half_rn(
                sum / args.pool_rows);
    }
    ptx::named_barrier_sync(1 + group, 128); /* the buffer may be written again */
}

template <class R, bool RESIDUAL>
__device__ __forceinline__ void consumer(const pointwise_args &args, const maps &m, const plan<R> &shared,
                                         int tiles, int column_tiles, int rows, int group)
{
    const __half2 input_max = __float2half2_rn(args.input_max);
    const bool leader = threadIdx.x % 128 == 0;
    cursor at, residual_at;
    for (int tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
        const int image = tile / column_tiles * CONSUMERS + group, row = image * rows;
        const int n0 = tile % column_tiles * R::BN;
        const uint32_t buffer = shared.buffer(group, residual_at.stage);
        const uint32_t residual_ready = shared.residual(group, residual_at.stage);
        ptx::tma_store_wait_read<R::BUFFERS - 1>(); /* this thread's store that used the buffer last */
        if constexpr (RESIDUAL) {
            const int bytes = max(0, min(ROWS, args.m - row)) * min(R::BN, args.n - n0) * 2;
            if (leader) ptx::mbarrier_arrive_expect(residual_ready, bytes);
            for_my_runs<R>(args, row, n0, [&](size_t element, int byte, int count) {
                ptx::bulk_load(buffer + byte, static_cast<const __half *>(args.residual) + element, count,
                               residual_ready);
            });
        }
        float acc[R::PARTS][R::PART / 2];
        start_accumulators<R>(acc, shared.bias, n0, args.n);
        consume<R>(acc, args, shared, at, group, input_max);
        if (args.pool_rows) {
            store_pooled_group<R>(acc, args, buffer, group, image, n0);
            continue;
        }
        if constexpr (RESIDUAL) ptx::mbarrier_wait(residual_ready, residual_at.parity);
        ptx::named_barrier_sync(1 + group, 128); /* the buffer is free in all its rows */
        stage_output<R, RESIDUAL>(acc, args, buffer);
        ptx::fence_proxy_async();
        ptx::named_barrier_sync(1 + group, 128); /* all rows are in the buffer */
        for_my_runs<R>(args, row, n0, [&](size_t element, int byte, int count) {
            ptx::bulk_store(static_cast<__half *>(args.y) + element, buffer + byte, count);
        });
        ptx::tma_store_commit();
        residual_at.advance(R::BUFFERS);
    }
    ptx::tma_store_wait_read<0>(); /* shared memory must outlive the copies */
}

template <class R, bool RESIDUAL>
__global__ void __launch_bounds__(R::THREADS, R::BLOCKS)
    pointwise_wgmma(const __grid_constant__ pointwise_args args, const __grid_constant__ maps m)
{
    extern __shared__ unsigned char memory[];
    const plan<R> shared(memory, args.n);
    const int rows = args.pool_rows ? args.pool_rows : ROWS;
    const int column_tiles = (args.n + R::BN - 1) / R::BN;
    const int tiles = (args.m + CONSUMERS * rows - 1) / (CONSUMERS * rows) * column_tiles;
    ptx::grid_launch_next();
    if (threadIdx.x == 0) {
        ptx::tma_prefetch_map(&m.x);
        ptx::tma_prefetch_map(&m.w);
        for (int i = 0; i < R::STAGES; i++) {
            ptx::mbarrier_init(shared.full(i), 1);
            ptx::mbarrier_init(shared.empty(i), 4 * CONSUMERS); /* every consumer warp */
        }
        for (int i = 0; i < CONSUMERS * R::BUFFERS; i++) ptx::mbarrier_init(shared.residual(0, i), 1);
        ptx::mbarrier_init_fence();
    }
    for (int i = threadIdx.x; i < args.n; i += R::THREADS) shared.bias[i] = args.bias[i];
    if (args.input_bias)
        load_input_bias(shared.input_bias, args, (args.k + R::BK - 1) / R::BK * R::BK, R::THREADS);
    __syncthreads(); /* barriers and biases are set */
    ptx::grid_wait();
    const int group = threadIdx.x / 128;
    if (group == CONSUMERS) {
        if constexpr (R::MOVES_REGISTERS) ptx::registers_decrease<PRODUCER_REGISTERS>();
        if (threadIdx.x == 128 * CONSUMERS) produce<R>(args, m, shared, tiles, column_tiles, rows);
    } else {
        if constexpr (R::MOVES_REGISTERS) ptx::registers_increase<R::REGISTERS>();
        consumer<R, RESIDUAL>(args, m, shared, tiles, column_tiles, rows, group);
    }
}

template <class R> struct launcher_sm90a {
    static int shared_bytes(const pointwise_args &) { return R::SHARED_BYTES; }

    static bool fits(const pointwise_args &args)
    {
        if (!fills_tile(args.n, R::BN) || args.k <= R::BK / 2) return false; /* else mostly padding */
        if (args.m < 1024) return false; /* too few tiles to be the fastest */
        if (4 * args.n + 4 * (args.k + R::BK) > R::VECTORS_BYTES) return false;
        if (args.residual && !R::ADDS_RESIDUAL) return false;
        if (args.w_low != (R::W_PARTS == 2)) return false;
        return args.pool_rows <= ROWS && !(args.pool_rows && args.residual);
    }

    static cudaError_t make_maps(const pointwise_args &args, maps *m)
    {
        const CUtensorMapSwizzle swizzle = R::BK == 64   ? CU_TENSOR_MAP_SWIZZLE_128B
                                           : R::BK == 32 ? CU_TENSOR_MAP_SWIZZLE_64B
                                                         : CU_TENSOR_MAP_SWIZZLE_32B;
        const CUtensorMapDataType half = CU_TENSOR_MAP_DATA_TYPE_FLOAT16;
        cudaError_t status = tensor_map_2d(&m->x, half, args.x, args.m, args.k, 2 * args.k, ROWS, R::BK,
                                           swizzle);
        if (status == cudaSuccess)
            status = tensor_map_2d(&m->w, half, args.w, R::W_PARTS * args.n, args.k, 2 * args.k, R::BN, R::BK,
                                   swizzle);
        return status;
    }

    static cudaError_t launch(const pointwise_args &args, cudaStream_t stream)
    {
        const auto kernel = args.residual ? pointwise_wgmma<R, R::ADDS_RESIDUAL> : pointwise_wgmma<R, false>;
        maps m;
        int sms = 0;
        cudaError_t status = make_maps(args, &m);
        if (status == cudaSuccess) status = sm_count(&sms);
        if (status != cudaSuccess) return status;
        const int rows = CONSUMERS * (args.pool_rows ? args.pool_rows : ROWS);
        const long long tiles = static_cast<long long>((args.m + rows - 1) / rows) *
                                ((args.n + R::BN - 1) / R::BN);
        const long long resident = static_cast<long long>(R::BLOCKS) * sms;
        return launch_overlapping(kernel, static_cast<unsigned>(tiles < resident ? tiles : resident),
                                  R::THREADS, R::SHARED_BYTES, stream, args, m);
    }
};

#define WGMMA(BN, PART, BK, BLOCKS)                                                                          \
    make_config<launcher_sm90a<ring<BN, PART, BK, BLOCKS, 1>>>("wgmma 128x" #BN "x" #BK " b" #BLOCKS, 90)
#define WGMMA_LOW(BN, PART, BK, BLOCKS)                                                                      \
    make_config<launcher_sm90a<ring<BN, PART, BK, BLOCKS, 2>>>("wgmma 128x" #BN "x2x" #BK " b" #BLOCKS, 90)

const kernel_config wgmma_configs[] = {
    WGMMA(24, 24, 64, 1),
    WGMMA(24, 24, 64, 2),
    WGMMA(40, 40, 64, 1),
    WGMMA(40, 40, 64, 2),
    WGMMA(80, 80, 64, 1),
    WGMMA(80, 80, 64, 2),
    WGMMA(96, 96, 64, 1),
    WGMMA(112, 112, 64, 1),
    WGMMA(160, 80, 64, 1),
    WGMMA(192, 96, 64, 1),
    WGMMA(224, 112, 64, 1),
    WGMMA(240, 80, 64, 1),
    /* the projections without a residual */
    WGMMA_LOW(24, 24, 64, 1),
    WGMMA_LOW(24, 24, 64, 2),
    WGMMA_LOW(40, 40, 64, 1),
    WGMMA_LOW(40, 40, 64, 2),
    WGMMA_LOW(80, 80, 64, 1),
    WGMMA_LOW(112, 112, 64, 1),
    WGMMA_LOW(160, 80, 64, 1),
    WGMMA_LOW(96, 96, 64, 1),
    {},
};

} // namespace pointwise
