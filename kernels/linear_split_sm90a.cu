/* Linear layer by TMA and wgmma where output tiles are few, for compute capability 9.0 alone: linear.h.
 *
 * Grid: clusters of share.m x share.n neighbouring tiles of TILE_M x TILE_N, SPLIT blocks a tile, clusters
 * down before across. Of a tile's SPLIT blocks each multiplies its part of k. The share.m blocks of a cluster
 * that have the same columns and part of k take turns, step by step, in fetching the rows of w and
 * multicasting them to each other; so do the share.n blocks that have the same rows with x. Block: CONSUMERS
 * warpgroups, 64 rows each, and PRODUCERS warps, of which one thread works: one warp for w and x, or one
 * each. All stages are asked for at once, and again as they become empty. At the end each block of a tile
 * sends its sums, by columns, to the SPLIT blocks of the tile, adds up what it has been sent, always in the
 * order of k, and finishes TILE_N / SPLIT columns.
 *
 * Shared memory: a state (what is sent, the columns' parameters, barriers), then the ring (TILE_M rows of x
 * and TILE_N rows of w a stage, 64 halves each, 128-byte swizzle). A configuration with room for a second
 * block beside it (SHARED_HALF) starts while the launch before still runs. FLOPs 2 m n k; fewest bytes 2 (m k
 * + n k) + m n (2 or 4). Measurements: docs/linear.md; what was rejected: docs/lab/linear_split_sm90a.md. */
#include "launch.cuh"
#include "linear_common.cuh"
#include "ring.cuh"
#include "tensor_map.cuh"

#include <stddef.h>

namespace linear
{

namespace
{

constexpr int BK = 64, ROW_BYTES = BK * 2, STAGES_MOST = 20;
using step_swizzle = swizzle<ROW_BYTES>;
using stage_ring = ring<STAGES_MOST>;
constexpr int SHARED_WHOLE = 227 * 1024, SHARED_HALF = 113 * 1024; /* of the only block; of one of two */

/* Named barriers; 0 is __syncthreads. */
enum named_barrier { ALL_CONSUMERS = 1 };

template <int CONSUMERS_, int TILE_N_, int SPLIT_, int PRODUCERS_> struct tile {
    static constexpr int CONSUMERS = CONSUMERS_, TILE_M = 64 * CONSUMERS, TILE_N = TILE_N_, SPLIT = SPLIT_;
    static constexpr int PRODUCERS = PRODUCERS_, MMA_WARPS = 4 * CONSUMERS;
    static constexpr int MMA_THREADS = 32 * MMA_WARPS, THREADS = MMA_THREADS + 32 * PRODUCERS;
    static constexpr int GROUPS = TILE_N / 8,
                         OWN = GROUPS / SPLIT; /* of eight columns: a tile's, a block's */
    static constexpr int X_BYTES = TILE_M * ROW_BYTES, W_BYTES = TILE_N * ROW_BYTES;
    static constexpr int STAGE_BYTES = X_BYTES + W_BYTES;
    static_assert(GROUPS % SPLIT == 0, "the blocks of a tile share its columns");

    struct state {
        float4 sent[SPLIT > 1 ? GROUPS *MMA_THREADS : 1]; /* [SPLIT][OWN][MMA_THREADS] */
        float2 parameters[TILE_N];
        uint64_t barriers[2 * STAGES_MOST], arrived;
    };
    static constexpr int STATE_BYTES = (sizeof(state) + step_swizzle::REPEAT_BYTES - 1) /
                                       step_swizzle::REPEAT_BYTES * step_swizzle::REPEAT_BYTES;
};

/* What the blocks of a cluster share. */
struct sharing {
    int m, n, stages;   /* tiles of the cluster, down and across; the ring's stages */
    int x_rows, w_rows; /* of a tile that are copied: m, n where those are less. The others hold anything. */
};

/* A block's part of the work. */
struct block_work {
    int m, n, slice;  /* which of the tiles of its cluster, which part of k */
    int peers;        /* the first rank with the same part */
    int m0, n0;       /* of its tile */
    int first, steps; /* of BK */
};

template <class T>
__device__ __forceinline__ block_work find_work(const linear_args &args, const sharing &share)
{
    const int rank = blockIdx.x, tiles = share.m * share.n;
    const int64_t all = divide_up(args.k, BK);
    block_work p;
    p.slice = rank / tiles;
    p.peers = p.slice * tiles;
    p.n = (rank - p.peers) / share.m;
    p.m = rank - p.peers - p.n * share.m;
    /* A tile that would reach past the end is moved back, and makes some elements, the same bits, once more:
     * copies of rows that do not exist are slow. */
    p.m0 = min((static_cast<int>(blockIdx.y) * share.m + p.m) * T::TILE_M,
               static_cast<int>(args.m) - share.x_rows);
    p.n0 = min((static_cast<int>(blockIdx.z) * share.n + p.n) * T::TILE_N,
               static_cast<int>(args.n) - share.w_rows);
    p.first = static_cast<int>(all * p.slice / T::SPLIT);
    p.steps = static_cast<int>(all * (p.slice + 1) / T::SPLIT) - p.first;
    return p;
}

/* The barriers, by one thread. An `empty` hears from every consumer warp of the blocks that share a row or a
 * column of tiles with this one. */
template <class T>
__device__ __forceinline__ void init_barriers(typename T::state &state, const sharing &share)
{
    stage_ring{ptx::shared_address(state.barriers)}.init((share.m + share.n - 1) * T::MMA_WARPS,
                                                         share.stages);
    ptx::mbarrier_init(ptx::shared_address(&state.arrived), 1);
    ptx::mbarrier_init_fence();
    if (T::SPLIT > 1)
        ptx::mbarrier_arrive_expect(ptx::shared_address(&state.arrived), T::GROUPS * T::MMA_THREADS * 16);
}

/* Fills stages with w, x or both, as far as it is this block's turn. The thread that does w also says how
 * many bytes a stage gets from all the blocks; a copy may arrive before that. */
template <class T>
__device__ __forceinline__ void produce(typename T::state &state, uint32_t stages, const CUtensorMap &x_map,
                                        const CUtensorMap &w_map, const sharing &share,
                                        const block_work &work, bool does_w, bool does_x)
{
    const uint32_t bytes = (share.x_rows + share.w_rows) * ROW_BYTES;
    const uint64_t x_policy = ptx::l2_evict_normal(), w_policy = ptx::l2_evict_last();
    uint32_t row = 0;
    for (int n = 0; n < share.n; n++) row |= 1u << (n * share.m);
    const uint16_t x_sharers = row << (work.peers + work.m);
    const uint16_t w_sharers = ((1u << share.m) - 1) << (work.peers + work.n * share.m);
    int x_turn = work.n, w_turn = work.m;
    const stage_ring ring = {ptx::shared_address(state.barriers)};
    cursor at;
    for (int step = 0; step < work.steps; step++, at.advance(share.stages)) {
        const uint32_t full = ring.full(at.stage);
        const uint32_t x = stages + at.stage * T::STAGE_BYTES, w = x + T::X_BYTES;
        const int column = (work.first + step) * BK;
        if (step >= share.stages) ring.wait_empty(at);
        if (does_w) ptx::mbarrier_arrive_expect(full, bytes);
        if (does_w && w_turn-- == 0) {
            w_turn = share.m - 1;
            if (share.m == 1)
                ptx::tma_load_2d(w, &w_map, column, work.n0, full, w_policy);
            else
                ptx::tma_load_2d_multicast(w, &w_map, column, work.n0, full, w_sharers, w_policy);
        }
        if (does_x && x_turn-- == 0) {
            x_turn = share.n - 1;
            if (share.n == 1)
                ptx::tma_load_2d(x, &x_map, column, work.m0, full, x_policy);
            else
                ptx::tma_load_2d_multicast(x, &x_map, column, work.m0, full, x_sharers, x_policy);
        }
    }
}

/* A warpgroup's sums over its block's part of k. */
template <class T>
__device__ __forceinline__ void multiply(float (&acc)[T::GROUPS * 4], typename T::state &state,
                                         uint32_t stages, const sharing &share, const block_work &work,
                                         int consumer, int lane)
{
    /* whom this lane tells that a stage is free: the sharers of w, the block itself among them, and of x */
    const int n = (work.n + 1 + lane - share.m) % share.n;
    const uint32_t peer = work.peers + (lane < share.m ? work.n * share.m + lane : n * share.m + work.m);
    const stage_ring ring = {ptx::shared_address(state.barriers)};
    cursor at;
    int before = 0;
#pragma unroll 1
    for (int step = 0; step < work.steps; step++) {
        const uint32_t stage = stages + at.stage * T::STAGE_BYTES;
        ring.wait_full(at);
        const uint64_t x = step_swizzle::descriptor(stage + consumer * 64 * ROW_BYTES);
        const uint64_t w = step_swizzle::descriptor(stage + T::X_BYTES);
        ptx::wgmma_fence();
#pragma unroll
        for (int k = 0; k < BK / 16; k++)
            ptx::wgmma_f16(acc, x + DESCRIPTOR_K16 * k, w + DESCRIPTOR_K16 * k, step > 0 || k > 0);
        ptx::wgmma_commit();
        ptx::wgmma_wait<1>(); /* the step before has read its stage */
        /* Only a stage that will be filled again is reported empty, to every block whose copies fill it; so a
         * block that has left is told nothing. */
        if (step > 0 && step - 1 + share.stages < work.steps && lane < share.m + share.n - 1)
            ptx::mbarrier_arrive_cluster(ptx::cluster_address(ring.empty(before), peer));
        before = at.stage;
        at.advance(share.stages);
    }
    ptx::wgmma_wait<0>();
#pragma unroll
    for (int i = 0; i < T::GROUPS * 4; i++) ptx::wgmma_touch(acc[i]);
}

/* The block's own columns of the whole tile's sums: sends each block of the tile its columns and adds up what
 * has been sent here, in the order of k. */
template <class T>
__device__ __forceinline__ void exchange(const float (&acc)[T::GROUPS * 4], float (&own)[T::OWN * 4],
                                         typename T::state &state, const sharing &share,
                                         const block_work &work)
{
    if constexpr (T::SPLIT == 1) {
#pragma unroll
        for (int i = 0; i < T::OWN * 4; i++) own[i] = acc[i];
    } else {
        const uint32_t arrived = ptx::shared_address(&state.arrived);
        const uint32_t slot = ptx::shared_address(
            &state.sent[work.slice * T::OWN * T::MMA_THREADS + threadIdx.x]);
#pragma unroll
        for (int z = 0; z < T::SPLIT; z++) {
            const uint32_t rank = (z * share.n + work.n) * share.m + work.m;
            const uint32_t to = ptx::cluster_address(slot, rank),
                           barrier = ptx::cluster_address(arrived, rank);
#pragma unroll
            for (int j = 0; j < T::OWN; j++) {
                const float *a = acc + 4 * (z * T::OWN + j);
                ptx::cluster_store_async(to + j * T::MMA_THREADS * 16, make_float4(a[0], a[1], a[2], a[3]),
                                         barrier);
            }
        }
        ptx::mbarrier_wait(arrived, 0);
#pragma unroll
        for (int j = 0; j < T::OWN; j++) {
            float4 sum = state.sent[j * T::MMA_THREADS + threadIdx.x];
#pragma unroll
            for (int z = 1; z < T::SPLIT; z++) {
                const float4 more = state.sent[(z * T::OWN + j) * T::MMA_THREADS + threadIdx.x];
                sum.x += more.x, sum.y += more.y, sum.z += more.z, sum.w += more.w;
            }
            own[4 * j] = sum.x, own[4 * j + 1] = sum.y, own[4 * j + 2] = sum.z, own[4 * j + 3] = sum.w;
        }
    }
}

__device__ __forceinline__ void store_pair(float *y, float a, float b)
{
    *reinterpret_cast<float2 *>(y) = make_float2(a, b);
}

__device__ __forceinline__ void store_pair(__half *y, float a, float b)
{
    *reinterpret_cast<__half2 *>(y) = __floats2half2_rn(a, b);
}

/* Epilogue and store of a thread's sums: two neighbouring columns of rows `row` and row + 8 for each group of
 * eight. For an even n and a y of aligned pairs. Few instructions count here: they are run once, by one warp
 * a scheduler, with nothing to hide their latency. */
template <class T, int ACTIVATION, class Y>
__device__ __forceinline__ void finish_pairs(const linear_args &args, const float (&own)[T::OWN * 4],
                                             const float2 *parameters, int row, int column)
{
    Y *high = static_cast<Y *>(args.y) + row * args.ldy + column, *low = high + 8 * args.ldy;
    const int left = static_cast<int>(args.n) - column; /* columns, of the rows that exist */
    const int left_high = row < args.m ? left : 0, left_low = row + 8 < args.m ? left : 0;
#pragma unroll
    for (int j = 0; j < T::OWN; j++) {
        const float4 p = *reinterpret_cast<const float4 *>(parameters + 8 * j);
        float v[4] = {fmaf(own[4 * j], p.x, p.y), fmaf(own[4 * j + 1], p.z, p.w),
                      fmaf(own[4 * j + 2], p.x, p.y), fmaf(own[4 * j + 3], p.z, p.w)};
#pragma unroll
        for (int i = 0; i < 4; i++) v[i] = activate<ACTIVATION>(v[i]);
        if (8 * j < left_high) store_pair(high + 8 * j, v[0], v[1]);
        if (8 * j < left_low) store_pair(low + 8 * j, v[2], v[3]);
    }
}

/* The same for any y and n, element by element, through `staged`, [OWN] places MMA_THREADS apart for
 * this thread.
 */
template <class T>
__device__ __forceinline__ void finish_single(const linear_args &args, const float (&own)[T::OWN * 4],
                                              const float2 *parameters, int row, int column, float4 *staged)
{
#pragma unroll
    for (int j = 0; j < T::OWN; j++)
        staged[j * T::MMA_THREADS] = make_float4(own[4 * j], own[4 * j + 1], own[4 * j + 2], own[4 * j + 3]);
#pragma unroll 1
    for (int e = 0; e < 4 * T::OWN; e++) {
        const float sum = reinterpret_cast<const float *>(staged + e / 4 * T::MMA_THREADS)[e % 4];
        const int j = e / 4 * 8 + e % 2, r = row + e / 2 % 2 * 8;
        const float2 p = parameters[j];
        if (r < args.m && column + j < args.n)
            store_one(args, r, column + j,
                      activate_any<ACTIVATION_GELU_RELU>(args.activation, fmaf(sum, p.x, p.y)));
    }
}

template <class T>
__global__ void __launch_bounds__(T::THREADS, 1)
    linear_split_kernel(const __grid_constant__ CUtensorMap x_map, const __grid_constant__ CUtensorMap w_map,
                        const __grid_constant__ linear_args args, const __grid_constant__ sharing share,
                        bool y_pairs)
{
    extern __shared__ __align__(1024) unsigned char memory[];
    typename T::state &state = *reinterpret_cast<typename T::state *>(memory);
    const uint32_t stages = ptx::shared_address(memory) + T::STATE_BYTES;
    /* the shuffle tells the compiler that the warp is one: descriptors then stay in uniform registers */
    const int warp = __shfl_sync(0xffffffff, threadIdx.x / 32, 0), lane = threadIdx.x % 32;
    const block_work work = find_work<T>(args, share);
    if (threadIdx.x == 0) {
        ptx::tma_prefetch_map(&x_map);
        ptx::tma_prefetch_map(&w_map);
    }
    if (threadIdx.x == T::MMA_THREADS) init_barriers<T>(state, share);
    __syncwarp();
    ptx::cluster_arrive_relaxed();
    ptx::cluster_wait(); /* every block's barriers are ready for the others */
    ptx::grid_wait();
    ptx::grid_launch_next();
    if (warp >= T::MMA_WARPS) {
        if (lane == 0)
            produce<T>(state, stages, x_map, w_map, share, work, warp == T::MMA_WARPS,
                       warp == T::THREADS / 32 - 1);
        return;
    }
    for (int j = threadIdx.x; j < T::TILE_N; j += T::MMA_THREADS) /* they arrive before the first stage */
        state.parameters[j] = column_parameters(args, work.n0 + j);
    float acc[T::GROUPS * 4], own[T::OWN * 4];
    multiply<T>(acc, state, stages, share, work, warp / 4, lane);
    exchange<T>(acc, own, state, share, work);
    ptx::named_barrier_sync(ALL_CONSUMERS,
                            T::MMA_THREADS); /* the parameters are there, and the stages read */
    const int first = work.slice * T::OWN * 8 + lane % 4 * 2;
    const float2 *parameters = state.parameters + first;
    const int row = work.m0 + warp * 16 + lane / 4, column = work.n0 + first;
    if (!y_pairs)
        return finish_single<T>(args, own, parameters, row, column,
                                reinterpret_cast<float4 *>(memory + T::STATE_BYTES) + threadIdx.x);
    for_activation<ACTIVATION_GELU_RELU>(args.activation, [&](auto activation) {
        constexpr int ACTIVATION = decltype(activation)::value;
        if (args.y_type == LINEAR_FP32)
            finish_pairs<T, ACTIVATION, float>(args, own, parameters, row, column);
        else
            finish_pairs<T, ACTIVATION, __half>(args, own, parameters, row, column);
    });
}

/* T's kernel in clusters of SHARE_M x SHARE_N tiles, with at most BYTES of shared memory. */
template <class T, int SHARE_M, int SHARE_N, int BYTES> struct launcher {
    static constexpr int BLOCKS = SHARE_M * SHARE_N * T::SPLIT; /* of a cluster */
    static constexpr int FIT = (BYTES - T::STATE_BYTES) / T::STAGE_BYTES;
    static constexpr int STAGES = FIT < STAGES_MOST ? FIT : STAGES_MOST;
    static_assert(BLOCKS <= 8, "the portable size of a cluster");
    static_assert(STAGES >= 2, "one is filled while another is read");
    static constexpr int STAGED = T::OWN * T::MMA_THREADS * 16; /* finish_single's room in the stages */
    static_assert(STAGES * T::STAGE_BYTES >= STAGED, "it has that room");

    static int64_t down(const linear_args &a) { return divide_up(a.m, T::TILE_M * SHARE_M); }

    static int64_t across(const linear_args &a) { return divide_up(a.n, T::TILE_N * SHARE_N); }

    /* Rows of x and of w that a tile copies, and steps of a block. */
    static int x_rows(const linear_args &a) { return static_cast<int>(a.m < T::TILE_M ? a.m : T::TILE_M); }

    static int w_rows(const linear_args &a) { return static_cast<int>(a.n < T::TILE_N ? a.n : T::TILE_N); }

    static int64_t steps(const linear_args &a) { return divide_up(divide_up(a.k, BK), T::SPLIT); }

    static bool fits(const linear_args &a)
    {
        return mode_of(a) == COPY && a.activation <= ACTIVATION_GELU_RELU && divide_up(a.k, BK) >= T::SPLIT &&
               down(a) <= 65535 && across(a) <= 65535;
    }

    static int stages(const linear_args &a)
    {
        return static_cast<int>(steps(a) < STAGES ? steps(a) : STAGES);
    }

    static int shared_bytes(const linear_args &a)
    {
        const int ring = stages(a) * T::STAGE_BYTES;
        return T::STATE_BYTES + (ring > STAGED ? ring : STAGED);
    }

    static cudaError_t launch(const linear_args &a, cudaStream_t stream)
    {
        const shared_memory shared(shared_bytes(a), SHARED_WHOLE);
        CUtensorMap x_map, w_map;
        cudaError_t status = tensor_map_2d<ROW_BYTES>(&x_map, a.x, a.m, a.k, a.ldx, x_rows(a));
        if (status == cudaSuccess) status = tensor_map_2d<ROW_BYTES>(&w_map, a.w, a.n, a.k, a.ldw, w_rows(a));
        if (status != cudaSuccess) return status;
        const dim3 grid(BLOCKS, static_cast<unsigned>(down(a)), static_cast<unsigned>(across(a)));
        return launch_kernel(linear_split_kernel<T>, {grid, dim3(T::THREADS), shared, BLOCKS, true}, stream,
                             x_map, w_map, a, sharing{SHARE_M, SHARE_N, stages(a), x_rows(a), w_rows(a)},
                             stores_together(a, 2));
    }

    /* A step of BK, us, where so many clusters run: its barriers, its reads from L2 at `read` MB/us, what the
     * SMs receive at 15 TB/s, or its MMAs at 5.1 TFLOP/s an SM, whichever takes
     * longest. */
    static double step_us(const linear_args &a, int64_t clusters, double read)
    {
        const double x = x_rows(a), w = w_rows(a);
        const double row = static_cast<double>(clusters) * BLOCKS * ROW_BYTES / 1e6; /* MB, of all blocks */
        double step = 0.05;
        for (const double us : {(x / SHARE_N + w / SHARE_M) * row / read, (x + w) * row / 15,
                                2.0 * T::TILE_M * T::TILE_N * BK / 5.1e6})
            if (us > step) step = us;
        return step;
    }

    /* Waves of clusters, the last one with what is left, each a start (all together one, where blocks start
     * beside each other), an exchange and its steps; 0.15 us for an element that is stored alone. L2 gives 12
     * TB/s, but 8 to the first wave of a w of more than half of its 50 MB, which is not there any more.
     * Fitted to times on an H200, which holds 66 clusters of two at once, but of four and eight blocks only
     * as many as ten in eleven of its SMs allow. */
    static double cost_us(const linear_args &a, int sms)
    {
        const int64_t clusters = down(a) * across(a);
        const int usable = BLOCKS > 2 ? sms * 10 / 11 : sms;
        const int64_t most = usable >= BLOCKS ? usable / BLOCKS : 1,
                      first = clusters < most ? clusters : most;
        const int64_t more = (clusters - first) / most, rest = clusters - first - more * most;
        const double waves = static_cast<double>(1 + more + (rest > 0)),
                     starts = BYTES == SHARED_WHOLE ? waves : 1;
        const bool w_stays = static_cast<double>(a.n) * static_cast<double>(a.k) * 2 <= 25e6;
        const double step = step_us(a, first, w_stays ? 12 : 8) +
                            static_cast<double>(more) * step_us(a, most, 12) +
                            step_us(a, rest, 12) * (rest > 0);
        return 1.3 * starts + (T::SPLIT > 1 ? (0.7 + 1e-4 * T::TILE_M * T::TILE_N) * waves : 0.0) +
               static_cast<double>(steps(a)) * step + (stores_together(a, 2) ? 0.0 : 0.6 * T::OWN);
    }
};

} // namespace

/* Clusters of eight leave up to a twelfth of the chip without work, so tiles are as wide as makes the most of
 * 120 blocks for 1000 or 4096 columns. The pairs of large tiles are for the numbers of rows between those
 * that fill the chip with the others. */
const kernel_config split_configs[] = {
    make_config_with_cost<launcher<tile<1, 64, 4, 2>, 1, 2, SHARED_HALF>>("split 64x64 s4 c1x2", 90),
    make_config_with_cost<launcher<tile<1, 64, 2, 2>, 2, 2, SHARED_HALF>>("split 64x64 s2 c2x2", 90),
    make_config_with_cost<launcher<tile<1, 64, 2, 2>, 1, 1, SHARED_HALF>>("split 64x64 s2", 90),
    make_config_with_cost<launcher<tile<1, 72, 1, 2>, 4, 2, SHARED_WHOLE>>("split 64x72 c4x2", 90),
    make_config_with_cost<launcher<tile<1, 80, 2, 1>, 1, 4, SHARED_WHOLE>>("split 64x80 s2 c1x4", 90),
    make_config_with_cost<launcher<tile<1, 128, 1, 1>, 1, 2, SHARED_WHOLE>>("split 64x128 c1x2", 90),
    make_config_with_cost<launcher<tile<2, 72, 1, 1>, 2, 4, SHARED_WHOLE>>("split 128x72 c2x4", 90),
    make_config_with_cost<launcher<tile<2, 80, 2, 1>, 1, 4, SHARED_WHOLE>>("split 128x80 s2 c1x4", 90),
    make_config_with_cost<launcher<tile<2, 80, 1, 1>, 1, 2, SHARED_WHOLE>>("split 128x80 c1x2", 90),
    make_config_with_cost<launcher<tile<2, 96, 1, 1>, 1, 2, SHARED_WHOLE>>("split 128x96 c1x2", 90),
    make_config_with_cost<launcher<tile<2, 128, 1, 1>, 1, 2, SHARED_WHOLE>>("split 128x128 c1x2", 90),
    make_config_with_cost<launcher<tile<3, 96, 1, 1>, 1, 2, SHARED_WHOLE>>("split 192x96 c1x2", 90),
    make_config_with_cost<launcher<tile<3, 128, 1, 1>, 1, 2, SHARED_WHOLE>>("split 192x128 c1x2", 90),
    {},
};

} // namespace linear
