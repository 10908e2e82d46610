/* 1x1 convolution by TMA and wgmma: for many pixels on sm_90a.
 *
 *   y[m][n] = act(sum_k p(x[m][k]) * w[n][k] + bias[n] + residual[m][n])      (pointwise.h)
 *
 * Grid: BLOCKS blocks an SM, persistent, over tiles of 128 x BN, column tiles fastest. Block: two consumer
 * warpgroups of 64 rows each, and one producer thread, which keeps a ring of STAGES steps (BK channels of 128
 * rows of x and of BN rows of w) full, across the ends of tiles. A consumer lane loads its fragment of x with
 * ldmatrix, applies the prologue, and multiplies it from registers with w in shared memory. The epilogue
 * writes fp16 to a staging buffer, from which bulk copies go to y; a residual comes into the same buffer
 * first, and each lane replaces what it read.
 *
 * Shared memory: shared_layout. Rows of the ring have 2 BK bytes in the swizzle of that width. Staging
 * buffers are plain rows, because plain bulk copies move them: one where the tile has all columns of y, else
 * one a row. (TMA copies of unswizzled tiles took about 2 cycles for each 16 bytes.)
 *
 * Fewest bytes: 2 * (m*k + n*k + m*n [+ m*n residual]); FLOPs 2*m*n*k. Measurements: docs/pointwise.md. */
#include "pointwise_sm90a.cuh"
#include "tensor_map.cuh"

namespace pointwise
{

/* BK channels a step, W_PARTS 2 for weights in two parts. */
template <int BN, int PART, int BK_, int BLOCKS, int W_PARTS_>
struct wgmma_tile : block_tile<BN, PART, BLOCKS> {
    using base = block_tile<BN, PART, BLOCKS>;
    using step_swizzle = swizzle<2 * BK_>;
    static constexpr int BK = BK_, ROW_BYTES = 2 * BK;
    static constexpr int X_BYTES = ROWS * ROW_BYTES;                   /* a warpgroup's rows */
    static constexpr int W_PARTS = W_PARTS_, W_BYTES = BN * ROW_BYTES; /* of one part */
    static constexpr int W_OFFSET = CONSUMERS * X_BYTES, STAGE_BYTES = W_OFFSET + W_PARTS * W_BYTES;
    static constexpr int W_RESIDENT_BYTES = 0, BUFFERS = BN * BLOCKS <= 128 ? 2 : 1;
    static constexpr int VECTORS_BYTES = (BLOCKS == 1 ? 16 : 4) * 1024; /* bias and input_bias */
    static constexpr int ALIGNMENT = 1024;                              /* the widest swizzle's */
    /* A wider tile leaves no registers for a residual. */
    static constexpr bool ADDS_RESIDUAL = W_PARTS == 1 && BN <= (BLOCKS == 1 ? 192 : 80);
    static constexpr bool TAKES_GATE = BN <= 192;
    static constexpr int BARRIERS_BYTES = 256; /* room for them */
    static constexpr int FIXED_BYTES = CONSUMERS * BUFFERS * base::STAGING_BYTES + VECTORS_BYTES +
                                       BARRIERS_BYTES + ALIGNMENT;
    static constexpr int ROOM = (SHARED_MAX + SHARED_RESERVED) / BLOCKS - SHARED_RESERVED - FIXED_BYTES;
    static constexpr int STAGES = ROOM / STAGE_BYTES < 8 ? ROOM / STAGE_BYTES : 8;
    static constexpr int SHARED_BYTES = FIXED_BYTES + STAGES * STAGE_BYTES;
    static_assert(STAGES >= 3 && SHARED_BYTES <= SHARED_MAX, "the ring must hide a load behind two steps");
    static_assert(ring<STAGES>::BYTES + MBARRIER_BYTES * CONSUMERS * BUFFERS <= BARRIERS_BYTES,
                  "barriers fit");

    /* Channels with the last step's padding. */
    __host__ __device__ static int padded(int k) { return (k + BK - 1) / BK * BK; }
};

struct maps {
    CUtensorMap x, w;
};

/* Calls copy(element of y, byte of the buffer, bytes) for each run of bytes that a staging buffer has in
 * common with y, on the thread of the warpgroup that copies it. row and n0: the buffer's place in y. */
template <class T, class Copy>
__device__ __forceinline__ void for_my_runs(const pointwise_args &args, int row, int n0, Copy copy)
{
    const int thread = threadIdx.x % WARPGROUP, rows = min(ROWS, args.m - row);
    const int columns = min(T::BN, args.n - n0);
    const bool one_run = args.n == T::BN;
    if (thread >= (one_run ? min(rows, 1) : rows)) return;
    copy(static_cast<size_t>(row + thread) * args.n + n0, thread * T::BN * 2,
         2 * columns * (one_run ? rows : 1));
}

template <class T>
__device__ __forceinline__ void produce(const pointwise_args &args, const maps &m,
                                        const shared_layout<T> &shared, const tiles &grid)
{
    const int steps = (args.k + T::BK - 1) / T::BK;
    const uint64_t once = ptx::l2_evict_first(), often = ptx::l2_evict_last();
    const uint64_t x_policy = grid.across > 1 ? often : once;
    cursor at;
    for (int tile = blockIdx.x; tile < grid.count; tile += gridDim.x) {
        const int row = tile / grid.across * CONSUMERS * grid.rows, n0 = tile % grid.across * T::BN;
        for (int step = 0; step < steps; step++, at.advance(T::STAGES)) {
            const uint32_t stage = shared.stage(at), full = shared.stages().begin_fill(at, T::STAGE_BYTES);
#pragma unroll
            for (int g = 0; g < CONSUMERS; g++)
                ptx::tma_load_2d(stage + g * T::X_BYTES, &m.x, step * T::BK, row + g * grid.rows, full,
                                 x_policy);
#pragma unroll
            for (int part = 0; part < T::W_PARTS; part++)
                ptx::tma_load_2d(stage + T::W_OFFSET + part * T::W_BYTES, &m.w, step * T::BK,
                                 part * args.n + n0, full, often);
        }
    }
}

/* The gate of a lane's fragments for a step from k0 on, from the places of its two rows in the gate. */
template <class T>
__device__ __forceinline__ void load_gate(uint32_t (&gate)[T::BK / 16][4], const __half *const (&rows)[2],
                                          int k0, int k_end)
{
#pragma unroll
    for (int kk = 0; kk < T::BK / 16; kk++)
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const int k = k0 + 16 * kk + 8 * (i / 2);
            const uint32_t *pair = reinterpret_cast<const uint32_t *>(rows[i % 2] + k + threadIdx.x % 4 * 2);
            gate[kk][i] = k < k_end ? *pair : 0; /* x has zeros there */
        }
}

/* All steps of one tile; acc starts as it is. row: the first of the warpgroup's. */
template <class T, bool GATED>
__device__ __forceinline__ void consume(typename T::accumulators &acc, const pointwise_args &args,
                                        const shared_layout<T> &shared, cursor &at, int group, int row,
                                        __half2 input_max, const uint32_t *input_bias)
{
    const int lane = threadIdx.x & 31, warp = threadIdx.x / 32 % 4;
    const int low_offset = T::padded(args.k) / 2;
    const int my_row = row + 16 * warp + lane / 4; /* what is past the last row is as good as that one */
    const __half *const gate_rows[2] = {gate_of(args, min(my_row, args.m - 1), 0),
                                        gate_of(args, min(my_row + 8, args.m - 1), 0)};
    for (int k0 = 0; k0 < args.k; k0 += T::BK) {
        const uint32_t stage = shared.stage(at), x = stage + group * T::X_BYTES;
        uint32_t a[T::BK / 16][4], gate[T::BK / 16][4];
        if constexpr (GATED) load_gate<T>(gate, gate_rows, k0, args.k);
        shared.stages().wait_full(at);
#pragma unroll
        for (int kk = 0; kk < T::BK / 16; kk++) {
            ptx::ldmatrix_x4(a[kk], x + T::step_swizzle::offset(16 * warp + lane % 16, 2 * kk + lane / 16));
            if constexpr (GATED) {
#pragma unroll
                for (int i = 0; i < 4; i++) a[kk][i] = multiply(a[kk][i], gate[kk][i]);
            } else if (args.input_bias) {
                const uint32_t *bias = input_bias + (k0 + 16 * kk) / 2 + lane % 4, *low = bias + low_offset;
                a[kk][0] = bias_and_clamp(a[kk][0], bias[0], low[0], input_max);
                a[kk][1] = bias_and_clamp(a[kk][1], bias[0], low[0], input_max);
                a[kk][2] = bias_and_clamp(a[kk][2], bias[4], low[4], input_max);
                a[kk][3] = bias_and_clamp(a[kk][3], bias[4], low[4], input_max);
            }
        }
        ptx::wgmma_fence(); /* fragments and accumulators are as ordinary code left them */
#pragma unroll
        for (int kk = 0; kk < T::BK / 16; kk++)
#pragma unroll
            for (int part = 0; part < T::W_PARTS; part++)
#pragma unroll
                for (int p = 0; p < T::PARTS; p++)
                    ptx::wgmma_f16_add(
                        acc[p], a[kk],
                        T::step_swizzle::descriptor(stage + CONSUMERS * T::X_BYTES + part * T::W_BYTES +
                                                    p * T::PART * T::ROW_BYTES + K16_BYTES * kk));
        ptx::wgmma_commit();
        ptx::wgmma_wait<0>();
        if (lane == 0) shared.stages().release(at);
        at.advance(T::STAGES);
    }
}

/* The mean of an image's rows, which one warpgroup holds: over a lane's rows, over the lanes of a column,
 * then over the four warps through shared memory, always in the same order. */
template <class T>
__device__ __forceinline__ void store_pooled_group(const typename T::accumulators &acc,
                                                   const pointwise_args &args, uint32_t buffer, int group,
                                                   int image, int n0)
{
    const int lane = threadIdx.x & 31, warp = threadIdx.x / 32 % 4, row = 16 * warp + lane / 4;
#pragma unroll
    for (int j = 0; j < T::BN / 8; j++) {
        const float *d = &acc[j / (T::PART / 8)][j % (T::PART / 8) * 4];
        float sum[2];
#pragma unroll
        for (int i = 0; i < 2; i++) {
            sum[i] = row < args.pool_rows ? clamp(d[i], args.output_min, args.output_max) : 0.0f;
            sum[i] += row + 8 < args.pool_rows ? clamp(d[2 + i], args.output_min, args.output_max) : 0.0f;
#pragma unroll
            for (int mask = 4; mask < 32; mask *= 2) sum[i] += __shfl_xor_sync(0xffffffffu, sum[i], mask);
            if (lane < 4)
                ptx::store_shared(buffer + 4 * (warp * T::BN + 8 * j + 2 * lane + i),
                                  __float_as_uint(sum[i]));
        }
    }
    sync_consumer(group); /* the four warps' sums are there */
    const bool image_ok = image < args.m / args.pool_rows;
    for (int c = threadIdx.x % 128; c < T::BN; c += 128) {
        float sum = 0.0f;
#pragma unroll
        for (int w = 0; w < 4; w++) sum += __uint_as_float(ptx::load_shared(buffer + 4 * (w * T::BN + c)));
        if (image_ok && n0 + c < args.n)
            static_cast<__half *>(args.y)[static_cast<size_t>(image) * args.n + n0 + c] = __float2half_rn(
                sum / args.pool_rows);
    }
    sync_consumer(group); /* the buffer may be written again */
}

template <class T, int WAYS>
__device__ __forceinline__ void consume_tiles(const pointwise_args &args, const shared_layout<T> &shared,
                                              const tiles &grid, int group, const uint32_t *input_bias)
{
    const __half2 input_max = __float2half2_rn(args.input_max);
    const bool leader = threadIdx.x % WARPGROUP == 0;
    const bool residual = WAYS == RESIDUAL || (WAYS == GATE && T::ADDS_RESIDUAL && args.residual);
    cursor at, buffer_at;
    for (int tile = blockIdx.x; tile < grid.count; tile += gridDim.x) {
        const int image = tile / grid.across * CONSUMERS + group, row = image * grid.rows;
        const int n0 = tile % grid.across * T::BN;
        const uint32_t buffer = shared.buffer(group, buffer_at.stage);
        const uint32_t residual_ready = shared.residual(group, buffer_at.stage);
        ptx::tma_store_wait_read<T::BUFFERS - 1>(); /* this thread's store that used the buffer last */
        if (residual) {
            const int bytes = max(0, min(ROWS, args.m - row)) * min(T::BN, args.n - n0) * 2;
            if (leader) ptx::mbarrier_arrive_expect(residual_ready, bytes);
            for_my_runs<T>(args, row, n0, [&](size_t element, int byte, int count) {
                ptx::bulk_load(buffer + byte, static_cast<const __half *>(args.residual) + element, count,
                               residual_ready);
            });
        }
        typename T::accumulators acc;
        start_accumulators<T>(acc, shared.bias, n0, args.n);
        consume<T, WAYS == GATE>(acc, args, shared, at, group, row, input_max, input_bias);
        if constexpr (WAYS == SILU) apply_silu<T>(acc);
        if (args.pool_rows) {
            store_pooled_group<T>(acc, args, buffer, group, image, n0);
            continue;
        }
        if (residual) ptx::mbarrier_wait(residual_ready, buffer_at.parity);
        stage_tile<T>(acc, args, residual, buffer, group);
        for_my_runs<T>(args, row, n0, [&](size_t element, int byte, int count) {
            ptx::bulk_store(static_cast<__half *>(args.y) + element, buffer + byte, count);
        });
        ptx::tma_store_commit();
        buffer_at.advance(T::BUFFERS);
    }
    ptx::tma_store_wait_read<0>(); /* shared memory must outlive the copies */
}

template <class T, int WAYS>
__global__ void __launch_bounds__(T::THREADS, T::BLOCKS)
    pointwise_wgmma(const __grid_constant__ pointwise_args args, const __grid_constant__ maps m)
{
    extern __shared__ unsigned char memory[];
    const shared_layout<T> shared(memory);
    const tiles grid(args, ROWS, T::BN, CONSUMERS);
    uint32_t *input_bias = reinterpret_cast<uint32_t *>(shared.bias + args.n);
    ptx::grid_launch_next();
    if (threadIdx.x == 0) {
        ptx::tma_prefetch_map(&m.x);
        ptx::tma_prefetch_map(&m.w);
        shared.stages().init(CONSUMER_WARPS);
        for (int i = 0; i < CONSUMERS * T::BUFFERS; i++) ptx::mbarrier_init(shared.residual(0, i), 1);
        ptx::mbarrier_init_fence();
    }
    for (int i = threadIdx.x; i < args.n; i += T::THREADS) shared.bias[i] = args.bias[i];
    if (args.input_bias)
        load_input_bias(reinterpret_cast<uint32_t *>(shared.bias + args.n), args, T::padded(args.k),
                        T::THREADS);
    __syncthreads(); /* barriers and biases are set */
    ptx::grid_wait();
    split_roles<T>([&] { produce<T>(args, m, shared, grid); },
                   [&](int group) { consume_tiles<T, WAYS>(args, shared, grid, group, input_bias); });
}

template <class T> struct wgmma_launcher {
    static int shared_bytes(const pointwise_args &) { return T::SHARED_BYTES; }

    static bool fits(const pointwise_args &args)
    {
        if (!fills_tile(args.n, T::BN) || args.k <= T::BK / 2) return false; /* else mostly padding */
        if (args.m < 1024) return false; /* too few tiles to be the fastest */
        if (4 * args.n + 4 * (args.k + T::BK) > T::VECTORS_BYTES) return false;
        if (args.residual && !T::ADDS_RESIDUAL) return false;
        if (args.w_low != (T::W_PARTS == 2)) return false;
        /* SiLU is only for what has nothing else; no layer has. */
        if (args.activation == ACTIVATION_SILU && (args.gate || args.residual)) return false;
        if (args.gate && !T::TAKES_GATE) return false;
        return args.pool_rows <= ROWS && !(args.pool_rows && args.residual);
    }

    static cudaError_t launch(const pointwise_args &args, cudaStream_t stream)
    {
        constexpr int ADDING = T::ADDS_RESIDUAL ? RESIDUAL : PLAIN, GATED = T::TAKES_GATE ? GATE : PLAIN,
                      WITH_SILU = T::W_PARTS == 1 ? SILU : PLAIN; /* PLAIN: it does not fit */
        const auto kernel = args.gate       ? pointwise_wgmma<T, GATED>
                            : args.silu     ? pointwise_wgmma<T, WITH_SILU>
                            : args.residual ? pointwise_wgmma<T, ADDING>
                                            : pointwise_wgmma<T, PLAIN>;
        maps m;
        unsigned blocks = 0;
        cudaError_t status = tensor_map_2d<T::ROW_BYTES>(&m.x, args.x, args.m, args.k, args.k, ROWS);
        if (status == cudaSuccess)
            status = tensor_map_2d<T::ROW_BYTES>(&m.w, args.w, T::W_PARTS * args.n, args.k, args.k, T::BN);
        if (status == cudaSuccess)
            status = persistent_grid(tiles(args, ROWS, T::BN, CONSUMERS).count, T::BLOCKS, &blocks);
        if (status != cudaSuccess) return status;
        return launch_overlapping(kernel, blocks, T::THREADS, T::SHARED_BYTES, stream, args, m);
    }
};

#define WGMMA(BN, PART, BK, BLOCKS)                                                                          \
    make_config<wgmma_launcher<wgmma_tile<BN, PART, BK, BLOCKS, 1>>>("wgmma 128x" #BN "x" #BK " b" #BLOCKS,  \
                                                                     90)
#define WGMMA_LOW(BN, PART, BK, BLOCKS)                                                                      \
    make_config<wgmma_launcher<wgmma_tile<BN, PART, BK, BLOCKS, 2>>>(                                        \
        "wgmma 128x" #BN "x2x" #BK " b" #BLOCKS, 90)

/* Those with weights in two parts are for the projections without a residual. */
const kernel_config wgmma_configs[] = {
    WGMMA(24, 24, 64, 1),      WGMMA(24, 24, 64, 2),     WGMMA(40, 40, 64, 1),
    WGMMA(40, 40, 64, 2),      WGMMA(80, 80, 64, 1),     WGMMA(80, 80, 64, 2),
    WGMMA(96, 96, 64, 1),      WGMMA(112, 112, 64, 1),   WGMMA(160, 80, 64, 1),
    WGMMA(192, 96, 64, 1),     WGMMA(224, 112, 64, 1),   WGMMA(240, 80, 64, 1),
    WGMMA_LOW(24, 24, 64, 1),  WGMMA_LOW(24, 24, 64, 2), WGMMA_LOW(40, 40, 64, 1),
    WGMMA_LOW(40, 40, 64, 2),  WGMMA_LOW(80, 80, 64, 1), WGMMA_LOW(112, 112, 64, 1),
    WGMMA_LOW(160, 80, 64, 1), WGMMA_LOW(96, 96, 64, 1), {}};

} // namespace pointwise
