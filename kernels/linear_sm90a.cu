/* Linear layer by TMA and wgmma, for compute capability 9.0 alone: linear.h.
 *
 * Grid: as many clusters of two blocks as the chip holds, persistent over output tiles. The blocks of a
 * cluster take tiles side by side, which need the same rows of x: each fetches half of those and multicasts
 * it to both. Tiles go in groups of columns, across before down, so that the tiles in flight at one time form
 * a near-square and a group's rows of w stay in L2.
 *
 * Block: two consumer warpgroups, which halve a tile by columns, and a producer warpgroup, of which three
 * threads work: one for x, and one for each consumer's rows of w. A tile is computed transposed: w is the
 * operand that wgmma takes 64 rows of, x the one that it takes up to 256 of.
 *
 * The consumers are out of step, so that the tensor cores have work during every epilogue but the last. The
 * second one starts a tile at step `lead` of k, and makes up for the steps before at the end. For `lead`
 * steps of each tile, one consumer multiplies alone while the other one finishes its tile. What it costs is
 * that x passes twice for those steps. The order of k depends on the column alone, so that a row of y does
 * not depend on where in x it lies.
 *
 *   step of k       0 .. lead-1     lead .. steps-1     0 .. lead-1     (of the next tile)
 *   consumer 0      multiplies      multiplies          finishes        multiplies
 *   consumer 1      finishes        multiplies          multiplies      finishes
 *
 * A consumer skips the stages of x that the other one uses alone, and must not look at the ring before they
 * have gone round: a barrier's parity does not tell this round from the one before the last. So it waits at a
 * named barrier, at which the other one arrives in its last step alone (`handover`).
 *
 * Shared memory: a ring of stages for x, TILE_M rows of 64 halves, and one for each consumer's part of w, 128
 * rows; 128-byte swizzle; barriers. Results go from registers to y. FLOPs 2 m n k; fewest bytes 2 (m k + n k)
 * + m n (2 or 4). Measurements: docs/linear.md; what was rejected: docs/lab/linear_sm90a.md. */
#include "launch.cuh"
#include "linear_common.cuh"
#include "ring.cuh"
#include "tensor_map.cuh"

#include <stddef.h>

namespace linear
{

namespace
{

constexpr int BK = 64, ROW_BYTES = BK * 2; /* of a stage: one period of the swizzle */
using step_swizzle = swizzle<ROW_BYTES>;
constexpr int WGMMA_N = 64, WARP_N = 32; /* columns of y that one wgmma makes; that a warp finishes */
constexpr int CLUSTER = 2, CONSUMERS = 2, CONSUMER_N = 2 * WGMMA_N, TILE_N = CONSUMERS * CONSUMER_N;
constexpr int MMA_WARPS = 4 * CONSUMERS, MMA_THREADS = 32 * MMA_WARPS;
constexpr int THREADS = MMA_THREADS + 128;
/* The kernel starts with 168 registers a thread, which are moved from the producer to the consumers. */
constexpr int PRODUCER_REGISTERS = 40, CONSUMER_REGISTERS = 232;
static_assert(MMA_THREADS * CONSUMER_REGISTERS + 128 * PRODUCER_REGISTERS <= THREADS * 168,
              "else setmaxnreg waits for ever");
constexpr int LEAD = 16;      /* steps that take about as long as an epilogue */
constexpr int GROUP_N = 2048; /* columns, whose w is 16 MB at k = 4096 */

/* Named barriers, one for each consumer: it may go on. The other consumer arrives there without waiting. 0 is
 * __syncthreads. */
enum named_barrier { MAY_GO_ON = 1 };

template <int TILE_M_, int X_STAGES_, int W_STAGES_0, int W_STAGES_1> struct tile {
    static constexpr int TILE_M = TILE_M_, GROUPS = TILE_M / 8;
    static constexpr int X_STAGES = X_STAGES_, W_STAGES = W_STAGES_0 + W_STAGES_1;
    static constexpr int X_BYTES = TILE_M * ROW_BYTES, W_BYTES = CONSUMER_N * ROW_BYTES;
    /* of x that the first block of a cluster fetches; the other one the rest */
    static constexpr int X_FIRST = (GROUPS + 1) / 2 * 8;

    /* A consumer's stages of w. */
    static __device__ __forceinline__ int w_stages(int consumer)
    {
        return consumer == 0 ? W_STAGES_0 : W_STAGES_1;
    }
    static __device__ __forceinline__ int w_base(int consumer) { return consumer == 0 ? 0 : W_STAGES_0; }

    struct shared {
        unsigned char x[X_STAGES][X_BYTES], w[W_STAGES][W_BYTES];
        uint64_t x_barriers[2 * X_STAGES], w_barriers[2 * W_STAGES];
    };
    using x_ring = ring<X_STAGES>;
    using w_ring = ring<W_STAGES>; /* of both consumers: the second one's stages follow the first one's */
    static_assert(X_BYTES % step_swizzle::REPEAT_BYTES == 0 && W_BYTES % step_swizzle::REPEAT_BYTES == 0,
                  "the swizzle counts from a multiple of that");
    static_assert(sizeof(shared) <= 227 * 1024, "what sm_90 gives a block");
};

/* The order of tiles, and of k in one, as the launcher works it out. */
struct schedule {
    int tiles_m, tiles_n, group; /* tiles of a cluster, and columns of them in a group */
    int steps, lead;             /* of BK; lead <= steps */
    __host__ __device__ int tiles() const { return tiles_m * tiles_n; }
};

/* The first row and column of y in a block's tile. */
template <class T> struct origin {
    int row, column;
    __device__ __forceinline__ origin(const schedule &schedule, int tile, int across)
    {
        const int first = tile / (schedule.group * schedule.tiles_m) * schedule.group;
        const int width = min(schedule.group, schedule.tiles_n - first);
        const int within = tile - first * schedule.tiles_m;
        row = within / width * T::TILE_M;
        column = ((first + within % width) * CLUSTER + across) * TILE_N;
    }
};

/* The block's part of x, to both blocks; `map` has tiles of its height. */
template <class T>
__device__ __forceinline__ void produce_x(typename T::shared &shared, const CUtensorMap &map,
                                          const schedule &schedule, int cluster, int clusters, int across)
{
    const uint64_t policy = ptx::l2_evict_normal();
    const typename T::x_ring ring = {ptx::shared_address(shared.x_barriers)};
    const int first = across * T::X_FIRST;
    cursor at;
    for (int tile = cluster; tile < schedule.tiles(); tile += clusters) {
        const int row = origin<T>(schedule, tile, across).row + first;
        for (int step = 0; step < schedule.steps + schedule.lead; step++, at.advance(T::X_STAGES)) {
            const int k = step < schedule.steps ? step : step - schedule.steps;
            /* empty of all consumers that the multicast reaches */
            const uint32_t full = ring.begin_fill(at, T::X_BYTES);
            ptx::tma_load_2d_multicast(ptx::shared_address(shared.x[at.stage]) + first * ROW_BYTES, &map,
                                       k * BK, row, full, (1 << CLUSTER) - 1, policy);
        }
    }
}

/* A consumer's rows of w. They come in eights of every fourth row: 0, 4 to 28; 1, 5 to 29; 2 to 30; 3 to 31;
 * 32, 36 and so on. One wgmma takes every other eight and the next one those between, so that a thread gets
 * four neighbouring columns of y. The map's dimensions: k; fours of rows; a row of four. */
template <class T>
__device__ __forceinline__ void produce_w(typename T::shared &shared, const CUtensorMap &map,
                                          const schedule &schedule, int cluster, int clusters, int across,
                                          int consumer)
{
    const uint64_t policy = ptx::l2_evict_last();
    const int base = T::w_base(consumer);
    const typename T::w_ring ring = {ptx::shared_address(&shared.w_barriers[base])};
    cursor at;
    for (int tile = cluster; tile < schedule.tiles(); tile += clusters) {
        const int column = origin<T>(schedule, tile, across).column + consumer * CONSUMER_N;
        int k = consumer == 0 ? 0 : schedule.lead;
        for (int step = 0; step < schedule.steps; step++, k++, at.advance(T::w_stages(consumer))) {
            if (k == schedule.steps) k = 0;
            const uint32_t w = ptx::shared_address(shared.w[base + at.stage]);
            const uint32_t full = ring.begin_fill(at, T::W_BYTES);
            for (int part = 0; part < CONSUMER_N; part += WARP_N)
                ptx::tma_load_3d(w + part * ROW_BYTES, &map, k * BK, (column + part) / 4, 0, full, policy);
        }
    }
}

/* One tile's sums, as wgmma_f16 has them: the eights of columns in turn belong to acc[0] and acc[1]. Lanes
 * below CLUSTER release the stages of x, each in a block of the cluster, and the next lane those of w;
 * `empty` is where the barriers for that lie.
 *
 * While this consumer is alone, nothing hides what its warps do between two MMAs. So the waits, the releases
 * and the addresses of the next stage are spread between the MMAs of this one. `meanwhile` is called while
 * the last MMAs run; `last`: this block has no further tile. */
template <class T, class Meanwhile>
__device__ __forceinline__ void multiply_tile(float (&acc)[2][T::TILE_M / 2], typename T::shared &shared,
                                              cursor &x_at, cursor &w_at, const schedule &schedule,
                                              int consumer, int lane, uint32_t empty, bool last,
                                              const Meanwhile &meanwhile)
{
    const int w_base = T::w_base(consumer);
    /* the first step that this consumer makes alone, and the step whose arrival lets the other one go on */
    const int alone = consumer == 0 ? 0 : schedule.steps - schedule.lead;
    const int handover = consumer == 0 ? schedule.lead - 1 : last ? -1 : schedule.steps - 1;
    /* kept: else the compiler works out the address anew at each use, by slow instructions */
    const uint32_t base = ptx::kept(ptx::shared_address(&shared));
    const uint32_t x_data = base + offsetof(typename T::shared, x);
    const uint32_t w_data = base + offsetof(typename T::shared, w) + w_base * T::W_BYTES;
    const typename T::x_ring x_ring = {base +
                                       static_cast<uint32_t>(offsetof(typename T::shared, x_barriers))};
    const typename T::w_ring w_ring = {
        base + static_cast<uint32_t>(offsetof(typename T::shared, w_barriers)) + w_base * MBARRIER_BYTES};
    const auto wait = [&] {
        x_ring.wait_full(x_at);
        w_ring.wait_full(w_at);
    };
    const auto release = [&](int x_stage, int w_stage, int step) {
        /* an empty barrier of x expects both consumers, of whom one may be away */
        const bool both = lane < CLUSTER &&
                          static_cast<unsigned>(step - alone) < static_cast<unsigned>(schedule.lead);
        if (lane <= CLUSTER)
            ptx::mbarrier_arrive_cluster(
                empty + (lane < CLUSTER ? x_stage : w_base + w_stage) * MBARRIER_BYTES, both ? 2 : 1);
    };
    int x_before = 0, w_before = 0;
    wait();
    uint32_t x_low = step_swizzle::low(x_data + x_at.stage * T::X_BYTES);
    uint32_t w_low = step_swizzle::low(w_data + w_at.stage * T::W_BYTES);
#pragma unroll 1
    for (int step = 0; step < schedule.steps; step++) {
        const uint64_t x = step_swizzle::high() | x_low;
        const uint64_t w = step_swizzle::high(2 * step_swizzle::EIGHT_ROWS) | w_low;
        bool ready = false;
        ptx::wgmma_fence();
#pragma unroll
        for (int k = 0; k < BK / 16; k++) {
#pragma unroll
            for (int h = 0; h < 2; h++)
                ptx::wgmma_f16(acc[h], w + h * (step_swizzle::EIGHT_ROWS >> 4) + DESCRIPTOR_K16 * k,
                               x + DESCRIPTOR_K16 * k, true);
            if (k == 0) {
                ptx::wgmma_commit();
                ptx::wgmma_wait<1>(); /* the step before has read its stages */
                if (step > 0) release(x_before, w_before, step - 1);
                x_before = x_at.stage, w_before = w_at.stage;
                ptx::wgmma_fence();
            }
            if (k == 1) {
                if (step == handover) ptx::named_barrier_arrive(MAY_GO_ON + 1 - consumer, MMA_THREADS);
                x_at.advance(T::X_STAGES);
                w_at.advance(T::w_stages(consumer));
                x_low = ptx::kept(step_swizzle::low(x_data + x_at.stage * T::X_BYTES));
                w_low = ptx::kept(step_swizzle::low(w_data + w_at.stage * T::W_BYTES));
            }
            if (k == 2) ready = x_ring.is_full(x_at) & w_ring.is_full(w_at);
        }
        ptx::wgmma_commit();
        if (!ready && step + 1 < schedule.steps) wait();
    }
    meanwhile();
    ptx::wgmma_wait<0>();
#pragma unroll
    for (int h = 0; h < 2; h++)
#pragma unroll
        for (int j = 0; j < T::TILE_M / 2; j++) ptx::wgmma_touch(acc[h][j]);
    release(x_before, w_before, schedule.steps - 1);
}

/* Four neighbouring elements of y, to leave L2 first. */
__device__ __forceinline__ void store_four(float *y, float4 v)
{
    __stcs(reinterpret_cast<float4 *>(y), v);
}

__device__ __forceinline__ void store_four(__half *y, float4 v)
{
    __stcs(reinterpret_cast<uint2 *>(y), round_four(v));
}

/* Epilogue and store of a warp's WARP_N columns from column0 on: a thread has four neighbouring ones of them,
 * with `p` their scale and shift, of two rows in eight.
 *
 * Four values at a time, with a branch between each four and the next that keeps ptxas from mixing them:
 * the closer together instructions come, the more they slow down the other consumer's MMAs (docs/linear.md).
 */
template <class T, int ACTIVATION, class Y>
__device__ __forceinline__ void finish_tile(const float (&acc)[2][T::TILE_M / 2], int lane,
                                            const linear_args &args, int row0, int column0,
                                            const float2 (&p)[4])
{
    const int row = row0 + lane % 4 * 2, column = column0 + lane / 4 * 4;
    const int rows = column < args.n ? static_cast<int>(args.m) - row : 0; /* from `row` on */
    const uint64_t pitch = args.ldy * sizeof(Y), to_next_group = 7 * pitch;
    uint64_t at = reinterpret_cast<uint64_t>(static_cast<Y *>(args.y) + row * args.ldy + column);
#pragma unroll
    for (int j = 0; j < T::GROUPS; j++)
#pragma unroll
        for (int r = 0; r < 2; r++) {
            if (8 * j + r >= rows) return;
            float v[4];
#pragma unroll
            for (int c = 0; c < 4; c++) v[c] = fmaf(acc[c % 2][4 * j + c / 2 * 2 + r], p[c].x, p[c].y);
#pragma unroll
            for (int c = 0; c < 4; c++) v[c] = activate<ACTIVATION>(v[c]);
            store_four(reinterpret_cast<Y *>(at), make_float4(v[0], v[1], v[2], v[3]));
            at = ptx::sum(at, r == 0 ? pitch : to_next_group);
        }
}

template <class T, int ACTIVATION, class Y>
__device__ __forceinline__ void consume(typename T::shared &shared, const linear_args &args,
                                        const schedule &schedule, int cluster, int clusters, int across)
{
    /* the shuffle tells the compiler that the warp is one: descriptors then stay in uniform registers */
    const int warp = __shfl_sync(0xffffffff, threadIdx.x / 32, 0), lane = threadIdx.x % 32,
              consumer = warp / 4;
    const uint32_t empty = ptx::cluster_address(ptx::shared_address(lane < CLUSTER
                                                                        ? shared.x_barriers + T::X_STAGES
                                                                        : shared.w_barriers + T::W_STAGES),
                                                lane < CLUSTER ? lane : across);
    cursor x_at, w_at;
    const int tiles = schedule.tiles();
    for (int tile = cluster; tile < tiles; tile += clusters) {
        const origin<T> origin(schedule, tile, across);
        const int column0 = origin.column + warp * WARP_N;
        if (consumer == 1) x_at.skip<T::X_STAGES>(schedule.lead);
        if (consumer == 1 || tile != cluster) ptx::named_barrier_sync(MAY_GO_ON + consumer, MMA_THREADS);
        /* zeros to add to: with a first MMA that ignores what was there, ptxas spills */
        float acc[2][T::TILE_M / 2] = {};
        float2 p[4];
        multiply_tile<T>(acc, shared, x_at, w_at, schedule, consumer, lane, empty, tile + clusters >= tiles,
                         [&] {
#pragma unroll
                             for (int c = 0; c < 4; c++)
                                 p[c] = column_parameters(args, column0 + lane / 4 * 4 + c);
                         });
        if (consumer == 0) x_at.skip<T::X_STAGES>(schedule.lead);
        finish_tile<T, ACTIVATION, Y>(acc, lane, args, origin.row, column0, p);
    }
}

template <class T, int ACTIVATION, class Y>
__global__ void __launch_bounds__(THREADS, 1) __cluster_dims__(CLUSTER, 1, 1)
    linear_wgmma_kernel(const __grid_constant__ CUtensorMap x_map_0,
                        const __grid_constant__ CUtensorMap x_map_1,
                        const __grid_constant__ CUtensorMap w_map, const __grid_constant__ linear_args args,
                        const __grid_constant__ schedule schedule)
{
    extern __shared__ __align__(1024) unsigned char memory[];
    typename T::shared &shared = *reinterpret_cast<typename T::shared *>(memory);
    const int cluster = blockIdx.x / CLUSTER, clusters = gridDim.x / CLUSTER;
    const int across = ptx::cluster_rank();
    ptx::grid_launch_next();
    if (threadIdx.x == 0) {
        typename T::x_ring{ptx::shared_address(shared.x_barriers)}.init(CLUSTER * MMA_WARPS);
        typename T::w_ring{ptx::shared_address(shared.w_barriers)}.init(MMA_WARPS / CONSUMERS);
        ptx::mbarrier_init_fence();
    }
    ptx::cluster_sync(); /* every block's barriers are ready for the others */
    ptx::grid_wait();

    if (threadIdx.x >= MMA_THREADS) {
        ptx::registers_decrease<PRODUCER_REGISTERS>();
        const int warp = (threadIdx.x - MMA_THREADS) / 32;
        if (threadIdx.x % 32 == 0) {
            if (warp < CONSUMERS)
                produce_w<T>(shared, w_map, schedule, cluster, clusters, across, warp);
            else if (warp == CONSUMERS)
                produce_x<T>(shared, across == 0 ? x_map_0 : x_map_1, schedule, cluster, clusters, across);
        }
        __syncwarp();
    } else {
        ptx::registers_increase<CONSUMER_REGISTERS>();
        consume<T, ACTIVATION, Y>(shared, args, schedule, cluster, clusters, across);
    }
    ptx::cluster_sync(); /* no block leaves while another may still arrive at its barriers */
}

template <class T> int64_t tile_count(const linear_args &a)
{
    return divide_up(a.m, T::TILE_M) * divide_up(a.n, CLUSTER * TILE_N);
}

template <class T, int ACTIVATION, class Y> cudaError_t launch_as(const linear_args &a, cudaStream_t stream)
{
    CUtensorMap x_map[CLUSTER], w_map;
    cudaError_t status = cudaSuccess;
    for (int i = 0; i < CLUSTER && status == cudaSuccess; i++)
        status = tensor_map_2d<ROW_BYTES>(&x_map[i], a.x, a.m, a.k, a.ldx,
                                          i == 0 ? T::X_FIRST : T::TILE_M - T::X_FIRST);
    const cuuint64_t w_size[] = {static_cast<cuuint64_t>(a.k), static_cast<cuuint64_t>(a.n / 4), 4};
    const cuuint64_t w_pitch[] = {static_cast<cuuint64_t>(a.ldw * 2 * 4), static_cast<cuuint64_t>(a.ldw * 2)};
    const cuuint32_t w_tile[] = {BK, WARP_N / 4, 4};
    if (status == cudaSuccess) status = tensor_map<ROW_BYTES>(&w_map, a.w, 3, w_size, w_pitch, w_tile);
    int sms = 0;
    if (status == cudaSuccess) status = sm_count(&sms);
    if (status != cudaSuccess) return status;
    const int steps = static_cast<int>(divide_up(a.k, BK));
    const schedule schedule = {static_cast<int>(divide_up(a.m, T::TILE_M)),
                               static_cast<int>(divide_up(a.n, CLUSTER * TILE_N)),
                               GROUP_N / (CLUSTER * TILE_N), steps, LEAD < steps ? LEAD : steps};
    const int64_t tiles = tile_count<T>(a), most = sms / CLUSTER;
    const unsigned clusters = static_cast<unsigned>(tiles < most ? tiles : most);
    return launch_overlapping(linear_wgmma_kernel<T, ACTIVATION, Y>, clusters * CLUSTER, THREADS,
                              sizeof(typename T::shared), stream, x_map[0], x_map[1], w_map, a, schedule);
}

template <class T, int RATE> struct launcher {
    static bool fits(const linear_args &a)
    {
        return mode_of(a) == COPY && a.activation <= ACTIVATION_GELU_RELU && stores_together(a, 4) &&
               tile_count<T>(a) < INT32_MAX / 2;
    }

    static int shared_bytes(const linear_args &) { return sizeof(typename T::shared); }

    static cudaError_t launch(const linear_args &a, cudaStream_t stream)
    {
        const bool wide = a.y_type == LINEAR_FP32;
        return for_activation<ACTIVATION_GELU_RELU>(a.activation, [&](auto activation) {
            constexpr int ACTIVATION = decltype(activation)::value;
            return wide ? launch_as<T, ACTIVATION, float>(a, stream)
                        : launch_as<T, ACTIVATION, __half>(a, stream);
        });
    }

    /* Rounds of tiles at RATE GFLOP/s an SM, as measured on an H200. */
    static double cost_us(const linear_args &a, int sms)
    {
        const double rounds = divide_up(tile_count<T>(a), sms / CLUSTER);
        return 2.5 + rounds * 2.0 * T::TILE_M * TILE_N * a.k / (RATE * 1e3);
    }
};

} // namespace

const kernel_config wgmma_configs[] = {
    make_config_with_cost<launcher<tile<128, 6, 4, 3>, 5800>>("wgmma 128x256", 90),
    make_config_with_cost<launcher<tile<200, 4, 4, 3>, 6100>>("wgmma 200x256", 90),
    {},
};

} // namespace linear
