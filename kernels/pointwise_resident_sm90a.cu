/* 1x1 convolution with all of w resident in shared memory: for the expand layers of large maps, on sm_90a.
 *
 *   y[m][n] = act(sum_k x[m][k] * w[n][k] + bias[n])      (pointwise.h)
 *
 * With few channels in, a layer does little but write y. So nothing is loaded twice and nothing is copied in
 * small boxes: a tile of 128 rows of x is one contiguous run of bytes, and so are a warpgroup's 64 rows of y,
 * as the tile has all columns. Both move by plain bulk copies. K is a constant, because rows of x keep their
 * pitch of 2 K bytes in shared memory; K odd in units of 8 leaves half of the last fragment's channels to the
 * next row, and those are masked.
 *
 * Grid: BLOCKS blocks a multiprocessor, walking over the row tiles. Block: two consumer warpgroups and a
 * producer warp, as in pointwise_wgmma_sm90a.cu. Shared memory: w in blocks of 16 channels, rows of 32 bytes
 * in the 32-byte swizzle; a ring of x tiles; two staging buffers for each warpgroup; bias; barriers.
 *
 * Fewest bytes: 2 * (m*k + n*k + m*n); FLOPs 2*m*n*k. Measurements: docs/pointwise.md. */
#include "pointwise_sm90a.cuh"

namespace pointwise
{

template <int BN_, int PART_, int K_, int STAGES_, int BLOCKS_> struct sheet {
    static constexpr int BN = BN_, PART = PART_, K = K_, STAGES = STAGES_, BLOCKS = BLOCKS_,
                         PARTS = BN / PART;
    static constexpr int STEPS = (K + 15) / 16; /* of 16 channels */
    static constexpr bool ODD = K % 16 != 0;
    static constexpr int W_BYTES = STEPS * BN * 32;
    static constexpr int STAGE_BYTES = CONSUMERS * ROWS * K * 2;
    static constexpr int STAGING_BYTES = ROWS * BN * 2;
    static constexpr int BUFFERS = 2;
    static constexpr bool MOVES_REGISTERS = BLOCKS == 1; /* as in pointwise_wgmma_sm90a.cu */
    static constexpr int THREADS = 128 * CONSUMERS + (MOVES_REGISTERS ? 128 : 32);
    static constexpr int REGISTERS = (65536 / 128 - PRODUCER_REGISTERS) / CONSUMERS / 8 * 8;
    /* The last row's masked channels are read 16 bytes past the ring: the staging buffers are there. */
    static constexpr int STAGING = W_BYTES + STAGES * STAGE_BYTES;
    static constexpr int BIAS = STAGING + CONSUMERS * BUFFERS * STAGING_BYTES;
    static constexpr int BARRIERS = BIAS + 4 * BN;
    static constexpr int SHARED_BYTES = BARRIERS + 8 * 2 * STAGES + 256; /* and the start's alignment */
    static_assert(BN % PART == 0 && K % 8 == 0 && BN % 8 == 0, "whole fragments");
    static_assert(BLOCKS * (SHARED_BYTES + 1024) <= SHARED_MAX + 1024, "blocks fit");
    static_assert(W_BYTES % 128 == 0 && STAGE_BYTES % 128 == 0 && STAGING_BYTES % 128 == 0, "aligned parts");
};

/* w to shared memory, channels past K as zeros. */
template <class R>
__device__ __forceinline__ void load_weights(const pointwise_args &args, unsigned char *shared)
{
    for (int i = threadIdx.x; i < R::STEPS * R::BN * 2; i += R::THREADS) {
        const int piece = i % 2, row = i / 2 % R::BN, step = i / 2 / R::BN, k = 16 * step + 8 * piece;
        uint4 value = make_uint4(0, 0, 0, 0);
        if (k < R::K)
            value = *reinterpret_cast<const uint4 *>(static_cast<const __half *>(args.w) + row * R::K + k);
        const int swizzled = piece ^ (row / 4 % 2);
        *reinterpret_cast<uint4 *>(shared + step * R::BN * 32 + row * 32 + swizzled * 16) = value;
    }
}

template <class R>
__device__ __forceinline__ void multiply_rows(float (&acc)[R::PARTS][R::PART / 2], uint32_t x, uint32_t w)
{
    const int lane = threadIdx.x & 31, row = threadIdx.x / 32 % 4 * 16 + lane % 16;
    uint32_t a[R::STEPS][4];
#pragma unroll
    for (int s = 0; s < R::STEPS; s++) {
        ptx::ldmatrix_x4(a[s], x + row * R::K * 2 + s * 32 + lane / 16 * 16);
        if (R::ODD && s == R::STEPS - 1) a[s][2] = a[s][3] = 0;
    }
    ptx::wgmma_fence(); /* fragments and accumulators are as ordinary code left them */
#pragma unroll
    for (int s = 0; s < R::STEPS; s++)
#pragma unroll
        for (int p = 0; p < R::PARTS; p++)
            ptx::wgmma_f16_add(acc[p], a[s],
                               ptx::wgmma_descriptor_of<32>(w + s * R::BN * 32 + p * R::PART * 32));
    ptx::wgmma_commit();
    ptx::wgmma_wait<0>();
}

template <class R>
__device__ __forceinline__ void consume_rows(const pointwise_args &args, unsigned char *shared, int tiles,
                                             int group)
{
    const uint32_t base = ptx::shared_address(shared), barriers = base + R::BARRIERS;
    const float *bias = reinterpret_cast<const float *>(shared + R::BIAS);
    cursor at;
    int buffer_index = 0;
    for (int tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
        const int row = (tile * CONSUMERS + group) * ROWS;
        const uint32_t buffer = base + R::STAGING + (group * R::BUFFERS + buffer_index) * R::STAGING_BYTES;
        float acc[R::PARTS][R::PART / 2];
        start_accumulators<R>(acc, bias, 0, R::BN);
        ptx::mbarrier_wait(barriers + 8 * at.stage, at.parity);
        multiply_rows<R>(acc, base + R::W_BYTES + at.stage * R::STAGE_BYTES + group * ROWS * R::K * 2, base);
        if (threadIdx.x % 32 == 0) ptx::mbarrier_arrive(barriers + 8 * (R::STAGES + at.stage));
        at.advance(R::STAGES);
        ptx::tma_store_wait_read<R::BUFFERS - 1>(); /* this thread's store that used the buffer last */
        ptx::named_barrier_sync(1 + group, 128);    /* so the buffer is free */
        stage_output<R, false>(acc, args, buffer);
        ptx::fence_proxy_async();
        ptx::named_barrier_sync(1 + group, 128); /* all rows are in the buffer */
        if (threadIdx.x % 128 == 0 && row < args.m)
            ptx::bulk_store(static_cast<__half *>(args.y) + static_cast<size_t>(row) * R::BN, buffer,
                            min(ROWS, args.m - row) * R::BN * 2);
        ptx::tma_store_commit();
        buffer_index ^= 1;
    }
    ptx::tma_store_wait_read<0>(); /* shared memory must outlive the copies */
}

template <class R>
__device__ __forceinline__ void produce_rows(const pointwise_args &args, uint32_t base, int tiles)
{
    const uint32_t barriers = base + R::BARRIERS;
    cursor at;
    for (int tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
        const int row = tile * CONSUMERS * ROWS;
        const uint32_t full = barriers + 8 * at.stage, bytes = min(CONSUMERS * ROWS, args.m - row) * R::K * 2;
        ptx::mbarrier_wait(barriers + 8 * (R::STAGES + at.stage), at.parity ^ 1);
        ptx::mbarrier_arrive_expect(full, bytes);
        ptx::bulk_load(base + R::W_BYTES + at.stage * R::STAGE_BYTES,
                       static_cast<const __half *>(args.x) + static_cast<size_t>(row) * R::K, bytes, full);
        at.advance(R::STAGES);
    }
}

template <class R>
__global__ void __launch_bounds__(R::THREADS, R::BLOCKS)
    pointwise_resident(const __grid_constant__ pointwise_args args)
{
    extern __shared__ unsigned char memory[];
    unsigned char *shared = memory + (256 - ptx::shared_address(memory) % 256) % 256; /* a swizzle's repeat */
    const uint32_t base = ptx::shared_address(shared);
    const int tiles = (args.m + CONSUMERS * ROWS - 1) / (CONSUMERS * ROWS);
    ptx::grid_launch_next();
    if (threadIdx.x == 0) {
        for (int i = 0; i < R::STAGES; i++) {
            ptx::mbarrier_init(base + R::BARRIERS + 8 * i, 1);
            ptx::mbarrier_init(base + R::BARRIERS + 8 * (R::STAGES + i),
                               4 * CONSUMERS); /* every consumer warp */
        }
        ptx::mbarrier_init_fence();
    }
    for (int i = threadIdx.x; i < R::BN; i += R::THREADS)
        reinterpret_cast<float *>(shared + R::BIAS)[i] = args.bias[i];
    load_weights<R>(args, shared);
    ptx::fence_proxy_async(); /* wgmma reads w through the other proxy */
    __syncthreads();          /* barriers, bias and w are set */
    ptx::grid_wait();
    const int group = threadIdx.x / 128;
    if (group == CONSUMERS) {
        if constexpr (R::MOVES_REGISTERS) ptx::registers_decrease<PRODUCER_REGISTERS>();
        if (threadIdx.x == 128 * CONSUMERS) produce_rows<R>(args, base, tiles);
    } else {
        if constexpr (R::MOVES_REGISTERS) ptx::registers_increase<R::REGISTERS>();
        consume_rows<R>(args, shared, tiles, group);
    }
}

template <class R> struct launcher_resident {
    static int shared_bytes(const pointwise_args &) { return R::SHARED_BYTES; }

    static bool fits(const pointwise_args &args)
    {
        return args.n == R::BN && args.k == R::K && args.m >= 1024 && !args.residual && !args.input_bias &&
               !args.pool_rows && !args.w_low;
    }

    static cudaError_t launch(const pointwise_args &args, cudaStream_t stream)
    {
        const auto kernel = pointwise_resident<R>;
        int sms = 0;
        const cudaError_t status = sm_count(&sms);
        if (status != cudaSuccess) return status;
        const int tiles = (args.m - 1) / (CONSUMERS * ROWS) + 1, resident = R::BLOCKS * sms;
        const int blocks = tiles < resident ? tiles : resident;
        return launch_overlapping(kernel, static_cast<unsigned>(blocks), R::THREADS, R::SHARED_BYTES, stream,
                                  args);
    }
};

#define RESIDENT(BN, PART, K, STAGES, BLOCKS)                                                                \
    make_config<launcher_resident<sheet<BN, PART, K, STAGES, BLOCKS>>>(                                      \
        "resident " #K " to " #BN " b" #BLOCKS, 90)

/* The expand layers of the networks' first stages. */
const kernel_config resident_configs[] = {
    RESIDENT(96, 96, 16, 6, 2),
    RESIDENT(96, 96, 16, 8, 1),
    RESIDENT(144, 48, 24, 8, 1),
    RESIDENT(240, 80, 40, 5, 1),
    {},
};

} // namespace pointwise
