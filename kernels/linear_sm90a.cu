/* Linear layer by wgmma and the tensor copy engine, for compute capability 9.0 alone: linear.h.
 *
 * Grid: as many clusters of two blocks as the chip holds, each walking over output tiles (persistent). The
 * blocks of a cluster take tiles side by side, which need the same rows of x: each fetches half of those and
 * multicasts it to both. Tiles go in groups of columns, across before down, so that the tiles in flight at
 * one time form a near-square and a group's rows of w stay in L2.
 *
 * Block: two consumer warpgroups, which halve a tile by columns, and a producer warpgroup, of which three
 * threads work, one for x and one for each consumer's rows of w. A tile is computed transposed: w is the
 * operand that wgmma takes 64 rows of, x the one that it takes up to 256 of.
 *
 * The second consumer follows `lead` steps of k behind the first: it starts a tile at that step of k, beside
 * the first one, and makes up for the steps before at the end. So, for `lead` steps of each tile, one of them
 * multiplies alone while the other finishes its tile, and the tensor cores have work during every epilogue
 * but the last. What it costs is that x passes twice for those steps. The order of k depends on the column
 * alone, so that a row of y does not depend on where in x it lies.
 *
 *   step of k       0 .. lead-1     lead .. steps-1     0 .. lead-1     (of the next tile)
 *   consumer 0      multiplies      multiplies          finishes        multiplies
 *   consumer 1      finishes        multiplies          multiplies      finishes
 *
 * Whoever multiplies alone also says when the other one may go on (`handover`), as the parity of a barrier
 * tells only the last round from the one before.
 *
 * Shared memory: a ring of stages for x, TILE_M rows of 64 halves, and one for each consumer's part of w,
 * 128 rows; 128-byte swizzle; barriers. Results go from registers to y.
 * FLOPs 2 m n k; fewest bytes 2 (m k + n k) + m n (2 or 4). Measurements, and what was rejected:
 * docs/linear.md. */
#include "cursor.cuh"
#include "launch.cuh"
#include "linear_common.cuh"
#include "tensor_map.cuh"

#include <stddef.h>

namespace linear
{

namespace
{

constexpr int BK = 64, ROW_BYTES = BK * 2; /* of a stage: one period of the swizzle */
constexpr int EIGHT_BYTES = 8 * ROW_BYTES; /* the swizzle's other period */
constexpr int BLOCK_N = 64;                /* columns of y that one wgmma makes */
constexpr int WARP_N = 32;                 /* columns that a warp finishes */
constexpr int CLUSTER = 2, CONSUMERS = 2, OWN_N = 2 * BLOCK_N, TILE_N = CONSUMERS * OWN_N;
constexpr int WARPS = 4 * CONSUMERS, OWNERS = 32 * WARPS; /* consumers' */
constexpr int THREADS = OWNERS + 128;
/* The kernel starts with 168 registers a thread, which are moved from the producer to the consumers. */
constexpr int PRODUCER_REGISTERS = 40, CONSUMER_REGISTERS = 232;
static_assert(OWNERS * CONSUMER_REGISTERS + 128 * PRODUCER_REGISTERS <= THREADS * 168,
              "else setmaxnreg waits for ever");
constexpr int LEAD = 16;      /* steps that take about as long as an epilogue */
constexpr int GROUP_N = 2048; /* columns, whose w is 16 MB at k = 4096 */

template <int TILE_M_, int X_STAGES_, int W_STAGES_0, int W_STAGES_1> struct plan {
    static constexpr int TILE_M = TILE_M_, GROUPS = TILE_M / 8;
    static constexpr int X_STAGES = X_STAGES_, W_STAGES = W_STAGES_0 + W_STAGES_1;
    static constexpr int X_BYTES = TILE_M * ROW_BYTES, W_BYTES = OWN_N * ROW_BYTES;
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
        uint64_t x_full[X_STAGES], w_full[W_STAGES], x_empty[X_STAGES], w_empty[W_STAGES];
    };
    static_assert(X_BYTES % 1024 == 0 && W_BYTES % 1024 == 0,
                  "the swizzle counts from a multiple of 1024 bytes");
    static_assert(sizeof(shared) <= 227 * 1024, "what sm_90 gives a block");
};

/* What the launcher works out. */
struct walk {
    int tiles_m, tiles_n, group; /* tiles of a cluster, and columns of them in a group */
    int steps, lead;             /* of BK; lead <= steps */
};

/* A block's tile. */
template <class P> struct place {
    int row, column; /* of y, the tile's first */
    __device__ __forceinline__ place(const walk &walk, int tile, int across)
    {
        const int first = tile / (walk.group * walk.tiles_m) * walk.group;
        const int width = min(walk.group, walk.tiles_n - first), within = tile - first * walk.tiles_m;
        row = within / width * P::TILE_M;
        column = ((first + within % width) * CLUSTER + across) * TILE_N;
    }
};

/* The block's part of x, to both blocks; `map` has boxes of its height. */
template <class P>
__device__ __forceinline__ void produce_x(typename P::shared &shared, const CUtensorMap &map,
                                          const walk &walk, int cluster, int clusters, int across)
{
    const uint64_t policy = ptx::l2_evict_normal();
    const int first = across * P::X_FIRST;
    cursor at;
    for (int tile = cluster; tile < walk.tiles_m * walk.tiles_n; tile += clusters) {
        const int row = place<P>(walk, tile, across).row + first;
        for (int step = 0; step < walk.steps + walk.lead; step++, at.advance(P::X_STAGES)) {
            const uint32_t full = ptx::shared_address(&shared.x_full[at.stage]);
            const int k = step < walk.steps ? step : step - walk.steps;
            /* all consumers that the multicast reaches */
            ptx::mbarrier_wait(ptx::shared_address(&shared.x_empty[at.stage]), at.parity ^ 1);
            ptx::mbarrier_arrive_expect(full, P::X_BYTES);
            ptx::tma_load_2d_multicast(ptx::shared_address(shared.x[at.stage]) + first * ROW_BYTES, &map,
                                       k * BK, row, full, (1 << CLUSTER) - 1, policy);
        }
    }
}

/* A consumer's rows of w. They come in eights of every fourth row: 0, 4 to 28; 1, 5 to 29; 2 to 30; 3 to 31;
 * 32, 36 and so on. One wgmma takes every other eight and the next one those between, so that a thread gets
 * four neighbouring columns of y. The map's dimensions: k; fours of rows; a row of four. */
template <class P>
__device__ __forceinline__ void produce_w(typename P::shared &shared, const CUtensorMap &map,
                                          const walk &walk, int cluster, int clusters, int across,
                                          int consumer)
{
    const uint64_t policy = ptx::l2_evict_last();
    const int base = P::w_base(consumer);
    cursor at;
    for (int tile = cluster; tile < walk.tiles_m * walk.tiles_n; tile += clusters) {
        const int column = place<P>(walk, tile, across).column + consumer * OWN_N;
        int k = consumer == 0 ? 0 : walk.lead;
        for (int step = 0; step < walk.steps; step++, k++, at.advance(P::w_stages(consumer))) {
            if (k == walk.steps) k = 0;
            const uint32_t full = ptx::shared_address(&shared.w_full[base + at.stage]);
            const uint32_t w = ptx::shared_address(shared.w[base + at.stage]);
            ptx::mbarrier_wait(ptx::shared_address(&shared.w_empty[base + at.stage]), at.parity ^ 1);
            ptx::mbarrier_arrive_expect(full, P::W_BYTES);
            for (int part = 0; part < OWN_N; part += WARP_N)
                ptx::tma_load_3d(w + part * ROW_BYTES, &map, k * BK, (column + part) / 4, 0, full, policy);
        }
    }
}

/* One tile's sums, as wgmma_f16 has them: the eights of columns in turn belong to acc[0] and acc[1]. `empty`
 * is where the empty barriers lie of whom this lane reports to: lanes below CLUSTER to each block's ring of
 * x, the next lane to this block's rings of w.
 *
 * In the alone steps nothing hides what the warps do between two products, so that the waits, the reports and
 * the addresses of the next stage are spread between the products of this one. `meanwhile` is called while
 * the last products run; `last`: this block has no further tile. */
template <class P, class Meanwhile>
__device__ __forceinline__ void multiply_tile(float (&acc)[2][P::TILE_M / 2], typename P::shared &shared,
                                              cursor &x_at, cursor &w_at, const walk &walk, int consumer,
                                              int lane, uint32_t empty, bool last, const Meanwhile &meanwhile)
{
    const int w_base = P::w_base(consumer);
    /* steps that this consumer makes alone, and the step whose arrival lets the other one go on */
    const int alone = consumer == 0 ? 0 : walk.steps - walk.lead;
    const int handover = consumer == 0 ? walk.lead - 1 : last ? -1 : walk.steps - 1;
    /* kept: else the compiler works out the address anew at each use, by slow instructions */
    const uint32_t base = ptx::kept(ptx::shared_address(&shared));
    const uint32_t x_data = base + offsetof(typename P::shared, x);
    const uint32_t w_data = base + offsetof(typename P::shared, w) + w_base * P::W_BYTES;
    const uint32_t x_full = base + offsetof(typename P::shared, x_full);
    const uint32_t w_full = base + offsetof(typename P::shared, w_full) + w_base * 8;
    const auto wait = [&] {
        ptx::mbarrier_wait(x_full + x_at.stage * 8, x_at.parity);
        ptx::mbarrier_wait(w_full + w_at.stage * 8, w_at.parity);
    };
    const auto release = [&](int x_stage, int w_stage, int step) {
        /* an empty barrier of x expects both consumers, of whom one may be away */
        const bool both = lane < CLUSTER &&
                          static_cast<unsigned>(step - alone) < static_cast<unsigned>(walk.lead);
        if (lane <= CLUSTER)
            ptx::mbarrier_arrive_cluster(empty + (lane < CLUSTER ? x_stage : w_base + w_stage) * 8,
                                         both ? 2 : 1);
    };
    int x_before = 0, w_before = 0;
    wait();
    uint32_t x_low = ptx::wgmma_descriptor_low(x_data + x_at.stage * P::X_BYTES);
    uint32_t w_low = ptx::wgmma_descriptor_low(w_data + w_at.stage * P::W_BYTES);
#pragma unroll 1
    for (int step = 0; step < walk.steps; step++) {
        const uint64_t x = ptx::wgmma_descriptor_high() | x_low;
        const uint64_t w = ptx::wgmma_descriptor_high(2 * EIGHT_BYTES) | w_low;
        bool ready = false;
        ptx::wgmma_fence();
#pragma unroll
        for (int k = 0; k < BK / 16; k++) {
#pragma unroll
            for (int h = 0; h < 2; h++)
                ptx::wgmma_f16(acc[h], w + h * (EIGHT_BYTES >> 4) + 2 * k, x + 2 * k, true);
            if (k == 0) {
                ptx::wgmma_commit();
                ptx::wgmma_wait<1>(); /* the step before has read its stages */
                if (step > 0) release(x_before, w_before, step - 1);
                x_before = x_at.stage, w_before = w_at.stage;
                ptx::wgmma_fence();
            }
            if (k == 1) {
                if (step == handover) ptx::named_barrier_arrive(2 - consumer, OWNERS);
                x_at.advance(P::X_STAGES);
                w_at.advance(P::w_stages(consumer));
                x_low = ptx::kept(ptx::wgmma_descriptor_low(x_data + x_at.stage * P::X_BYTES));
                w_low = ptx::kept(ptx::wgmma_descriptor_low(w_data + w_at.stage * P::W_BYTES));
            }
            if (k == 2)
                ready = ptx::mbarrier_test(x_full + x_at.stage * 8, x_at.parity) &
                        ptx::mbarrier_test(w_full + w_at.stage * 8, w_at.parity);
        }
        ptx::wgmma_commit();
        if (!ready && step + 1 < walk.steps) wait();
    }
    meanwhile();
    ptx::wgmma_wait<0>();
#pragma unroll
    for (int h = 0; h < 2; h++)
#pragma unroll
        for (int j = 0; j < P::TILE_M / 2; j++) ptx::wgmma_touch(acc[h][j]);
    release(x_before, w_before, walk.steps - 1);
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
 * beside the other consumer's products instructions cost the more the closer together they come
 * (docs/linear.md). */
template <class P, int ACTIVATION, class Y>
__device__ __forceinline__ void finish_tile(const float (&acc)[2][P::TILE_M / 2], int lane,
                                            const linear_args &args, int row0, int column0,
                                            const float2 (&p)[4])
{
    const int row = row0 + lane % 4 * 2, column = column0 + lane / 4 * 4;
    const int rows = column < args.n ? static_cast<int>(args.m) - row : 0; /* from `row` on */
    const uint64_t pitch = args.ldy * sizeof(Y), to_next_group = 7 * pitch;
    uint64_t at = reinterpret_cast<uint64_t>(static_cast<Y *>(args.y) + row * args.ldy + column);
#pragma unroll
    for (int j = 0; j < P::GROUPS; j++)
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

template <class P, int ACTIVATION, class Y>
__device__ __forceinline__ void consume(typename P::shared &shared, const linear_args &args, const walk &walk,
                                        int cluster, int clusters, int across)
{
    /* the shuffle tells the compiler that the warp is one: descriptors then stay in uniform registers */
    const int warp = __shfl_sync(0xffffffff, threadIdx.x / 32, 0), lane = threadIdx.x % 32,
              consumer = warp / 4;
    const uint32_t empty = lane < CLUSTER ? ptx::cluster_address(ptx::shared_address(shared.x_empty), lane)
                                          : ptx::cluster_address(ptx::shared_address(shared.w_empty), across);
    cursor x_at, w_at;
    const int tiles = walk.tiles_m * walk.tiles_n;
    for (int tile = cluster; tile < tiles; tile += clusters) {
        const place<P> place(walk, tile, across);
        const int column0 = place.column + warp * WARP_N;
        if (consumer == 1) x_at.skip<P::X_STAGES>(walk.lead);
        if (consumer == 1 || tile != cluster) ptx::named_barrier_sync(1 + consumer, OWNERS);
        /* zeros to add to: with a first product that ignores what was there, ptxas spills */
        float acc[2][P::TILE_M / 2] = {};
        float2 p[4];
        multiply_tile<P>(acc, shared, x_at, w_at, walk, consumer, lane, empty, tile + clusters >= tiles, [&] {
#pragma unroll
            for (int c = 0; c < 4; c++) p[c] = column_parameters(args, column0 + lane / 4 * 4 + c);
        });
        if (consumer == 0) x_at.skip<P::X_STAGES>(walk.lead);
        finish_tile<P, ACTIVATION, Y>(acc, lane, args, place.row, column0, p);
    }
}

template <class P, int ACTIVATION, class Y>
__global__ void __launch_bounds__(THREADS, 1) __cluster_dims__(CLUSTER, 1, 1)
    linear_wgmma_kernel(const __grid_constant__ CUtensorMap x_map_0,
                        const __grid_constant__ CUtensorMap x_map_1,
                        const __grid_constant__ CUtensorMap w_map, const __grid_constant__ linear_args args,
                        const __grid_constant__ walk walk)
{
    extern __shared__ __align__(1024) unsigned char memory[];
    typename P::shared &shared = *reinterpret_cast<typename P::shared *>(memory);
    const int cluster = blockIdx.x / CLUSTER, clusters = gridDim.x / CLUSTER;
    const int across = ptx::cluster_rank();
    ptx::grid_launch_next();
    if (threadIdx.x == 0) {
        for (int i = 0; i < P::X_STAGES; i++) {
            ptx::mbarrier_init(ptx::shared_address(&shared.x_full[i]), 1);
            ptx::mbarrier_init(ptx::shared_address(&shared.x_empty[i]), CLUSTER * WARPS);
        }
        for (int i = 0; i < P::W_STAGES; i++) {
            ptx::mbarrier_init(ptx::shared_address(&shared.w_full[i]), 1);
            ptx::mbarrier_init(ptx::shared_address(&shared.w_empty[i]), WARPS / CONSUMERS);
        }
        ptx::mbarrier_init_fence();
    }
    ptx::cluster_sync(); /* every block's barriers are ready for the others */
    ptx::grid_wait();

    if (threadIdx.x >= OWNERS) {
        ptx::registers_decrease<PRODUCER_REGISTERS>();
        const int warp = (threadIdx.x - OWNERS) / 32;
        if (threadIdx.x % 32 == 0) {
            if (warp < CONSUMERS)
                produce_w<P>(shared, w_map, walk, cluster, clusters, across, warp);
            else if (warp == CONSUMERS)
                produce_x<P>(shared, across == 0 ? x_map_0 : x_map_1, walk, cluster, clusters, across);
        }
        __syncwarp();
    } else {
        ptx::registers_increase<CONSUMER_REGISTERS>();
        consume<P, ACTIVATION, Y>(shared, args, walk, cluster, clusters, across);
    }
    ptx::cluster_sync(); /* no block leaves while another may still arrive at its barriers */
}

template <class P> int64_t tile_count(const linear_args &a)
{
    return divide_up(a.m, P::TILE_M) * divide_up(a.n, CLUSTER * TILE_N);
}

template <class P, int ACTIVATION, class Y> cudaError_t launch_as(const linear_args &a, cudaStream_t stream)
{
    constexpr CUtensorMapDataType fp16 = CU_TENSOR_MAP_DATA_TYPE_FLOAT16;
    constexpr CUtensorMapSwizzle swizzle = CU_TENSOR_MAP_SWIZZLE_128B;
    int sms = 0;
    cudaError_t status = sm_count(&sms);
    CUtensorMap x_map[CLUSTER], w_map;
    for (int i = 0; i < CLUSTER && status == cudaSuccess; i++)
        status = tensor_map_2d(&x_map[i], fp16, a.x, a.m, a.k, a.ldx * 2,
                               i == 0 ? P::X_FIRST : P::TILE_M - P::X_FIRST, BK, swizzle);
    const cuuint64_t w_size[] = {static_cast<cuuint64_t>(a.k), static_cast<cuuint64_t>(a.n / 4), 4};
    const cuuint64_t w_pitch[] = {static_cast<cuuint64_t>(a.ldw * 2 * 4), static_cast<cuuint64_t>(a.ldw * 2)};
    const cuuint32_t w_box[] = {BK, WARP_N / 4, 4};
    if (status == cudaSuccess) status = tensor_map(&w_map, fp16, a.w, 3, w_size, w_pitch, w_box, swizzle);
    if (status != cudaSuccess) return status;
    const int steps = static_cast<int>(divide_up(a.k, BK));
    const walk walk = {static_cast<int>(divide_up(a.m, P::TILE_M)),
                       static_cast<int>(divide_up(a.n, CLUSTER * TILE_N)), GROUP_N / (CLUSTER * TILE_N),
                       steps, LEAD < steps ? LEAD : steps};
    const int64_t tiles = tile_count<P>(a), most = sms / CLUSTER;
    const unsigned clusters = static_cast<unsigned>(tiles < most ? tiles : most);
    return launch_overlapping(linear_wgmma_kernel<P, ACTIVATION, Y>, clusters * CLUSTER, THREADS,
                              sizeof(typename P::shared), stream, x_map[0], x_map[1], w_map, a, walk);
}

template <class P, int RATE> struct launcher {
    static bool fits(const linear_args &a)
    {
        return mode_of(a) == COPY && a.activation != ACTIVATION_SIGMOID && stores_together(a, 4) &&
               tile_count<P>(a) < INT32_MAX / 2;
    }

    static int shared_bytes(const linear_args &) { return sizeof(typename P::shared); }

    static cudaError_t launch(const linear_args &a, cudaStream_t stream)
    {
        const bool wide = a.y_type == LINEAR_FP32;
        return for_activation<ACTIVATION_GELU_RELU>(a.activation, [&](auto activation) {
            constexpr int ACTIVATION = decltype(activation)::value;
            return wide ? launch_as<P, ACTIVATION, float>(a, stream)
                        : launch_as<P, ACTIVATION, __half>(a, stream);
        });
    }

    /* Rounds of tiles at RATE GFLOP/s an SM, as measured on an H200. */
    static double cost_us(const linear_args &a, int sms)
    {
        const double rounds = divide_up(tile_count<P>(a), sms / CLUSTER);
        return 2.5 + rounds * 2.0 * P::TILE_M * TILE_N * a.k / (RATE * 1e3);
    }
};

} // namespace

const kernel_config wgmma_configs[] = {
    make_config_with_cost<launcher<plan<128, 6, 4, 3>, 5800>>("wgmma 128x256", 90),
    make_config_with_cost<launcher<plan<200, 4, 4, 3>, 6100>>("wgmma 200x256", 90),
    {},
};

} // namespace linear
