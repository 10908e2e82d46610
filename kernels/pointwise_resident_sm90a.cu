/* 1x1 convolution with all of w resident in shared memory: for the expand layers of large maps, on sm_90a.
 *
 *   y[m][n] = act(sum_k x[m][k] * w[n][k] + bias[n])      (pointwise.h)
 *
 * With few channels in, a layer does little but write y. So nothing is loaded twice, and everything moves by
 * plain bulk copies: a tile of 128 rows of x is one contiguous run of bytes, and so are a warpgroup's 64 rows
 * of y, as the tile has all columns. That is why the kernel is apart from pointwise_wgmma_sm90a.cu, whose TMA
 * copies of narrow rows are slow. K is a constant, because rows of x keep their pitch of 2 K bytes in shared
 * memory. Where K is an odd multiple of 8, half of the last fragment's channels belong to the next row; they
 * are masked.
 *
 * Grid: BLOCKS blocks an SM, persistent, over the row tiles. Block: two consumer warpgroups and a producer,
 * as in pointwise_wgmma_sm90a.cu. Shared memory: w in slices of 16 channels, rows of 32 bytes in the 32-byte
 * swizzle; a ring of x tiles; two staging buffers for each warpgroup; bias; barriers.
 *
 * Fewest bytes: 2 * (m*k + n*k + m*n); FLOPs 2*m*n*k. Measurements: docs/pointwise.md. */
#include "pointwise_sm90a.cuh"

namespace pointwise
{

template <int BN, int PART, int K_, int STAGES_, int BLOCKS>
struct resident_tile : block_tile<BN, PART, BLOCKS> {
    using base = block_tile<BN, PART, BLOCKS>;
    using w_swizzle = swizzle<K16_BYTES>; /* of a slice's rows */
    static constexpr int K = K_, STAGES = STAGES_, SLICES = (K + 15) / 16, SLICE_BYTES = BN * K16_BYTES;
    static constexpr bool ODD = K % 16 != 0;
    static constexpr int W_RESIDENT_BYTES = SLICES * SLICE_BYTES, X_BYTES = ROWS * K * 2; /* of a warpgroup */
    static constexpr int STAGE_BYTES = CONSUMERS * X_BYTES;
    static constexpr int BUFFERS = 2, VECTORS_BYTES = 4 * BN, ALIGNMENT = w_swizzle::REPEAT_BYTES;
    /* The last row's masked channels are read 16 bytes past the ring: the staging buffers are there. */
    static constexpr int SHARED_BYTES = W_RESIDENT_BYTES + STAGES * STAGE_BYTES +
                                        CONSUMERS * BUFFERS * base::STAGING_BYTES + VECTORS_BYTES +
                                        ring<STAGES>::BYTES + ALIGNMENT;
    static_assert(K % 8 == 0 && BN % 8 == 0, "whole fragments");
    static_assert(BLOCKS * (SHARED_BYTES + SHARED_RESERVED) <= SHARED_MAX + SHARED_RESERVED, "blocks fit");
    static_assert(W_RESIDENT_BYTES % 128 == 0 && STAGE_BYTES % 128 == 0, "aligned parts");
};

/* w to shared memory, channels past K as zeros. */
template <class T>
__device__ __forceinline__ void load_weights(const pointwise_args &args, unsigned char *shared)
{
    for (int i = threadIdx.x; i < T::SLICES * T::BN * 2; i += T::THREADS) {
        const int piece = i % 2, row = i / 2 % T::BN, slice = i / 2 / T::BN, k = 16 * slice + 8 * piece;
        uint4 value = make_uint4(0, 0, 0, 0);
        if (k < T::K)
            value = *reinterpret_cast<const uint4 *>(static_cast<const __half *>(args.w) + row * T::K + k);
        *reinterpret_cast<uint4 *>(shared + slice * T::SLICE_BYTES +
                                   T::w_swizzle::offset(row, piece)) = value;
    }
}

template <class T>
__device__ __forceinline__ void multiply_rows(typename T::accumulators &acc, uint32_t x, uint32_t w)
{
    const int lane = threadIdx.x & 31, row = threadIdx.x / 32 % 4 * 16 + lane % 16;
    uint32_t a[T::SLICES][4];
#pragma unroll
    for (int s = 0; s < T::SLICES; s++) {
        ptx::ldmatrix_x4(a[s], x + row * T::K * 2 + s * K16_BYTES + lane / 16 * 16);
        if (T::ODD && s == T::SLICES - 1) a[s][2] = a[s][3] = 0;
    }
    ptx::wgmma_fence(); /* fragments and accumulators are as ordinary code left them */
#pragma unroll
    for (int s = 0; s < T::SLICES; s++)
#pragma unroll
        for (int p = 0; p < T::PARTS; p++)
            ptx::wgmma_f16_add(acc[p], a[s],
                               T::w_swizzle::descriptor(w + s * T::SLICE_BYTES + p * T::PART * K16_BYTES));
    ptx::wgmma_commit();
    ptx::wgmma_wait<0>();
}

template <class T, int WAYS>
__device__ __forceinline__ void consume_rows(const pointwise_args &args, const shared_layout<T> &shared,
                                             int tiles, int group)
{
    const ring<T::STAGES> stages = shared.stages();
    cursor at;
    int buffer_index = 0;
    for (int tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
        const int row = (tile * CONSUMERS + group) * ROWS;
        const uint32_t buffer = shared.buffer(group, buffer_index);
        typename T::accumulators acc;
        start_accumulators<T>(acc, shared.bias, 0, T::BN);
        stages.wait_full(at);
        multiply_rows<T>(acc, shared.stage(at) + group * T::X_BYTES, shared.base);
        if (threadIdx.x % 32 == 0) stages.release(at);
        at.advance(T::STAGES);
        ptx::tma_store_wait_read<T::BUFFERS - 1>(); /* this thread's store that used the buffer last */
        if constexpr (WAYS == SILU) apply_silu<T>(acc);
        stage_tile<T>(acc, args, false, buffer, group);
        if (threadIdx.x % WARPGROUP == 0 && row < args.m)
            ptx::bulk_store(static_cast<__half *>(args.y) + static_cast<size_t>(row) * T::BN, buffer,
                            min(ROWS, args.m - row) * T::BN * 2);
        ptx::tma_store_commit();
        buffer_index ^= 1;
    }
    ptx::tma_store_wait_read<0>(); /* shared memory must outlive the copies */
}

template <class T>
__device__ __forceinline__ void produce_rows(const pointwise_args &args, const shared_layout<T> &shared,
                                             int tiles)
{
    const ring<T::STAGES> stages = shared.stages();
    cursor at;
    for (int tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
        const int row = tile * CONSUMERS * ROWS;
        const uint32_t bytes = min(CONSUMERS * ROWS, args.m - row) * T::K * 2;
        const uint32_t full = stages.begin_fill(at, bytes);
        ptx::bulk_load(shared.stage(at),
                       static_cast<const __half *>(args.x) + static_cast<size_t>(row) * T::K, bytes, full);
        at.advance(T::STAGES);
    }
}

template <class T, int WAYS>
__global__ void __launch_bounds__(T::THREADS, T::BLOCKS)
    pointwise_resident(const __grid_constant__ pointwise_args args)
{
    extern __shared__ unsigned char memory[];
    const shared_layout<T> shared(memory);
    const int tiles = (args.m + CONSUMERS * ROWS - 1) / (CONSUMERS * ROWS);
    ptx::grid_launch_next();
    if (threadIdx.x == 0) {
        shared.stages().init(CONSUMER_WARPS);
        ptx::mbarrier_init_fence();
    }
    for (int i = threadIdx.x; i < T::BN; i += T::THREADS) shared.bias[i] = args.bias[i];
    load_weights<T>(args, shared.start);
    ptx::fence_proxy_async(); /* wgmma reads w through the other proxy */
    __syncthreads();          /* barriers, bias and w are set */
    ptx::grid_wait();
    split_roles<T>([&] { produce_rows<T>(args, shared, tiles); },
                   [&](int group) { consume_rows<T, WAYS>(args, shared, tiles, group); });
}

template <class T> struct resident_launcher {
    static int shared_bytes(const pointwise_args &) { return T::SHARED_BYTES; }

    static bool fits(const pointwise_args &args)
    {
        return args.n == T::BN && args.k == T::K && args.m >= 1024 && !args.residual && !args.input_bias &&
               !args.gate && !args.pool_rows && !args.w_low;
    }

    static cudaError_t launch(const pointwise_args &args, cudaStream_t stream)
    {
        unsigned blocks = 0;
        const cudaError_t status = persistent_grid((args.m - 1) / (CONSUMERS * ROWS) + 1, T::BLOCKS, &blocks);
        if (status != cudaSuccess) return status;
        const auto kernel = args.silu ? pointwise_resident<T, SILU> : pointwise_resident<T, PLAIN>;
        return launch_overlapping(kernel, blocks, T::THREADS, T::SHARED_BYTES, stream, args);
    }
};

#define RESIDENT(BN, PART, K, STAGES, BLOCKS)                                                                \
    make_config<resident_launcher<resident_tile<BN, PART, K, STAGES, BLOCKS>>>(                              \
        "resident " #K " to " #BN " b" #BLOCKS, 90)

/* The expand layers of the networks' first stages. */
const kernel_config resident_configs[] = {RESIDENT(96, 96, 16, 6, 2),
                                          RESIDENT(96, 96, 16, 8, 1),
                                          RESIDENT(144, 48, 24, 8, 1),
                                          RESIDENT(240, 80, 40, 5, 1),
                                          {}};

} // namespace pointwise
