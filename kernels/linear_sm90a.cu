/* Linear layer by wgmma and the tensor copy engine, for compute capability 9.0 alone: linear.h.
 *
 * Grid: as many clusters of two blocks as the chip holds, each walking over output tiles (persistent). The
 * blocks of a cluster take tiles side by side, which need the same rows of x, or one below the other, which
 * need the same rows of w: each fetches half of those and multicasts it to both. Tiles go in groups of
 * columns, across before down, so that the tiles in flight at one time form a near-square and a group's rows
 * of w stay in L2.
 *
 * Block: two consumer warpgroups and a producer warpgroup, of which one thread works.
 * - Producer: for every 64 of k, waits until a stage is empty and starts its copies; runs up to STAGES ahead,
 *   across tiles.
 * - Consumers: halve a tile by rows. Each waits until a stage is full, multiplies it from shared memory into
 *   registers, tells the producers of the cluster that it is empty again. After the last stage of a tile:
 *   epilogue in registers, a warp at a time through 2 KB boxes of shared memory, from where the copy engine
 *   stores them.
 *
 * Shared memory: STAGES x (TILE_M rows of x, TILE_N rows of w, 64 halves each, 128-byte swizzle); two boxes
 * and 32 columns' scale and shift for each consumer warp; barriers.
 * FLOPs 2 m n k; fewest bytes 2 (m k + n k) + m n (2 or 4). Measurements, and what was rejected:
 * docs/linear.md. */
#include "linear_common.cuh"
#include "tensor_map.cuh"

#include <type_traits>

namespace linear
{

namespace
{

constexpr int BK = 64, ROW_BYTES = BK * 2;               /* of a stage: one period of the swizzle */
constexpr int BOX_ROWS = 16, BOX_BYTES = BOX_ROWS * 128; /* of y, a warp's */
constexpr int CHUNK = 32;                                /* columns that go through the epilogue together */

/* A consumer's part of a tile is 64 ROWS_64 x TILE_N; ACROSS blocks of a cluster share rows of x, DOWN blocks
 * rows of w. */
template <int ROWS_64, int TILE_N_, int DOWN_, int ACROSS_, int STAGES_> struct plan {
    static constexpr int MT = ROWS_64, TILE_N = TILE_N_, DOWN = DOWN_, ACROSS = ACROSS_, STAGES = STAGES_;
    static constexpr int CLUSTER = DOWN * ACROSS, CONSUMERS = 2, OWN_M = 64 * MT, TILE_M = CONSUMERS * OWN_M;
    static constexpr int THREADS = 128 * (CONSUMERS + 1), CONSUMER_WARPS = 4 * CONSUMERS;
    /* 65536 registers among 384 threads: 168 each at entry, then moved from the producer to the consumers. */
    static constexpr int PRODUCER_REGISTERS = 40, CONSUMER_REGISTERS = 232;
    static constexpr int X_BYTES = TILE_M * ROW_BYTES, W_BYTES = TILE_N * ROW_BYTES;
    /* that a block fetches */
    static constexpr int X_PART_ROWS = TILE_M / ACROSS, W_PART_ROWS = TILE_N / DOWN;
    /* Columns of a tile at the right edge, where no more than that are left for each block. */
    static constexpr int NARROW = TILE_N == 192 ? 128 : TILE_N;
    /* Blocks whose copies reach this one, itself among them. */
    static constexpr int PEERS = DOWN + ACROSS - 1;
    static_assert(MT * TILE_N / 2 <= 192, "accumulators fit in the registers");

    struct shared {
        struct {
            unsigned char x[X_BYTES], w[W_BYTES];
        } stage[STAGES];
        unsigned char box[CONSUMER_WARPS][2][BOX_BYTES];
        float2 parameters[CONSUMER_WARPS][CHUNK];
        uint64_t full[STAGES], empty[STAGES];
    };
    static_assert(X_PART_ROWS % 8 == 0 && W_PART_ROWS % 8 == 0 && W_BYTES % 1024 == 0,
                  "the swizzle counts from a multiple of 1024 bytes");
    static_assert(sizeof(shared) <= 227 * 1024, "what sm_90 gives a block");
};

/* What the launcher works out. */
struct walk {
    int tiles_m, tiles_n, group; /* tiles of a cluster, and columns of them in a group */
    int steps;                   /* of BK */
};

/* This block's tile. */
template <class P> struct place {
    int row, column; /* of y, the tile's first */
    bool narrow;
    __device__ __forceinline__ place(const walk &walk, int tile, int n, int down, int across)
    {
        const int first = tile / (walk.group * walk.tiles_m) * walk.group;
        const int width = min(walk.group, walk.tiles_n - first), within = tile - first * walk.tiles_m;
        const int column0 = (first + within % width) * P::ACROSS * P::TILE_N;
        narrow = P::NARROW < P::TILE_N && n - column0 <= P::ACROSS * P::NARROW;
        row = (within / width * P::DOWN + down) * P::TILE_M;
        column = column0 + across * (narrow ? P::NARROW : P::TILE_N);
    }
};

/* A position in the ring of stages; parity flips each time around. */
template <class P> struct ring {
    int stage = 0;
    uint32_t parity = 0;
    __device__ __forceinline__ void advance()
    {
        if (++stage == P::STAGES) stage = 0, parity ^= 1;
    }
};

template <class P> __device__ __forceinline__ int rank_of(int down, int across)
{
    return down + P::DOWN * across;
}

template <class P>
__device__ __forceinline__ void produce(typename P::shared &shared, const CUtensorMap &x_map,
                                        const CUtensorMap &w_map, const walk &walk, int n, int cluster,
                                        int clusters, int down, int across)
{
    ptx::tma_prefetch_map(&x_map);
    ptx::tma_prefetch_map(&w_map);
    const uint64_t x_policy = ptx::l2_evict_normal(), w_policy = ptx::l2_evict_last();
    uint16_t x_readers = 0, w_readers = 0;
    for (int i = 0; i < P::ACROSS; i++) x_readers |= 1 << rank_of<P>(down, i);
    for (int i = 0; i < P::DOWN; i++) w_readers |= 1 << rank_of<P>(i, across);
    ring<P> at;
    for (int tile = cluster; tile < walk.tiles_m * walk.tiles_n; tile += clusters) {
        const place<P> place(walk, tile, n, down, across);
        const int x_row = place.row + across * P::X_PART_ROWS, w_row = place.column + down * P::W_PART_ROWS;
        for (int step = 0; step < walk.steps; step++, at.advance()) {
            auto &stage = shared.stage[at.stage];
            const uint32_t full = ptx::shared_address(&shared.full[at.stage]);
            const uint32_t x = ptx::shared_address(stage.x) + across * P::X_PART_ROWS * ROW_BYTES;
            const uint32_t w = ptx::shared_address(stage.w) + down * P::W_PART_ROWS * ROW_BYTES;
            /* all consumers that the multicast reaches */
            ptx::mbarrier_wait(ptx::shared_address(&shared.empty[at.stage]), at.parity ^ 1);
            ptx::mbarrier_arrive_expect(full, P::X_BYTES + P::W_BYTES);
            if constexpr (P::ACROSS == 1)
                ptx::tma_load_2d(x, &x_map, step * BK, x_row, full, x_policy);
            else
                ptx::tma_load_2d_multicast(x, &x_map, step * BK, x_row, full, x_readers, x_policy);
            if constexpr (P::DOWN == 1)
                ptx::tma_load_2d(w, &w_map, step * BK, w_row, full, w_policy);
            else
                ptx::tma_load_2d_multicast(w, &w_map, step * BK, w_row, full, w_readers, w_policy);
        }
    }
}

/* One tile's sums, COLUMNS of them. `peer_empty` is where the first `empty` barrier lies in the block that
 * this lane, one of the first PEERS, reports to. */
template <class P, int COLUMNS>
__device__ __forceinline__ void multiply_tile(float (&acc)[P::MT][COLUMNS / 2], typename P::shared &shared,
                                              ring<P> &at, int steps, int consumer, int lane,
                                              uint32_t peer_empty)
{
    const uint32_t x_offset = consumer * P::OWN_M * ROW_BYTES;
    const auto release = [&](int stage) {
        if (lane < P::PEERS) /* to every producer whose copies come here */
            ptx::mbarrier_arrive_cluster(peer_empty + stage * static_cast<int>(sizeof(uint64_t)));
    };
    int before = 0;
#pragma unroll 1
    for (int step = 0; step < steps; step++) {
        ptx::mbarrier_wait(ptx::shared_address(&shared.full[at.stage]), at.parity);
        const uint64_t x = ptx::wgmma_descriptor(ptx::shared_address(shared.stage[at.stage].x) + x_offset);
        const uint64_t w = ptx::wgmma_descriptor(ptx::shared_address(shared.stage[at.stage].w));
        ptx::wgmma_fence();
#pragma unroll
        for (int k = 0; k < BK / 16; k++)
#pragma unroll
            for (int i = 0; i < P::MT; i++)
                ptx::wgmma_f16(acc[i], x + i * (64 * ROW_BYTES >> 4) + 2 * k, w + 2 * k, true);
        ptx::wgmma_commit();
        ptx::wgmma_wait<1>(); /* the step before has read its stage */
        if (step > 0) release(before);
        before = at.stage;
        at.advance();
    }
    ptx::wgmma_wait<0>();
#pragma unroll
    for (int i = 0; i < P::MT; i++)
#pragma unroll
        for (int j = 0; j < COLUMNS / 2; j++) ptx::wgmma_touch(acc[i][j]);
    release(before);
}

/* Two neighbouring results to their place in a box, which is 128 bytes wide in 128-byte swizzle. `row` is
 * below 16; `pair` counts pairs of columns from the box's left edge. */
template <class Y>
__device__ __forceinline__ void store_pair(unsigned char *box, int row, int pair, float a, float b)
{
    constexpr int PAIR_BYTES = 2 * sizeof(Y), PIECE_PAIRS = 16 / PAIR_BYTES;
    unsigned char *at = box + row * 128 + ((pair / PIECE_PAIRS ^ row % 8) << 4) +
                        pair % PIECE_PAIRS * PAIR_BYTES;
    if constexpr (sizeof(Y) == 4)
        *reinterpret_cast<float2 *>(at) = make_float2(a, b);
    else
        *reinterpret_cast<__half2 *>(at) = __floats2half2_rn(a, b);
}

/* A thread's results of CHUNK columns and 16 rows from its sums, into a box from `column` of that on. */
template <int ACTIVATION, class Y>
__device__ __forceinline__ void finish_chunk(const float *sums, const float2 *parameters, int lane,
                                             unsigned char *box, int column)
{
#pragma unroll
    for (int j = 0; j < CHUNK / 8; j += 2) { /* eight independent results at a time */
        const int pair = column / 2 + 4 * j + lane % 4;
        float v[2][4];
#pragma unroll
        for (int b = 0; b < 2; b++) {
            const float4 p = *reinterpret_cast<const float4 *>(&parameters[8 * (j + b) + lane % 4 * 2]);
            const float *sum = sums + 4 * (j + b);
            v[b][0] = fmaf(sum[0], p.x, p.y), v[b][1] = fmaf(sum[1], p.z, p.w);
            v[b][2] = fmaf(sum[2], p.x, p.y), v[b][3] = fmaf(sum[3], p.z, p.w);
        }
#pragma unroll
        for (int e = 0; e < 8; e++) v[e / 4][e % 4] = activate<ACTIVATION>(v[e / 4][e % 4]);
#pragma unroll
        for (int b = 0; b < 2; b++) {
            store_pair<Y>(box, lane / 4, pair + 4 * b, v[b][0], v[b][1]);
            store_pair<Y>(box, lane / 4 + 8, pair + 4 * b, v[b][2], v[b][3]);
        }
    }
}

/* Epilogue and store of a consumer warp's rows, through its two boxes in turn; `turn` counts the boxes so
 * far. `row0` is the first of its 16 in the first of MT blocks of 64 rows, column0 the tile's first, and
 * `mine` are the parameters of column column0 + lane. */
template <class P, int ACTIVATION, class Y, int COLUMNS>
__device__ __forceinline__ void finish_tile(const float (&acc)[P::MT][COLUMNS / 2],
                                            typename P::shared &shared, int warp, int lane,
                                            const linear_args &args, const CUtensorMap &y_map, int row0,
                                            int column0, float2 mine, uint64_t policy, unsigned &turn)
{
    constexpr int BOX_COLUMNS = 128 / sizeof(Y), BOX_CHUNKS = BOX_COLUMNS / CHUNK;
    float2 *parameters = shared.parameters[warp];
#pragma unroll
    for (int c = 0; c < COLUMNS / CHUNK; c += BOX_CHUNKS) {
        if (column0 + c * CHUNK >= static_cast<int>(args.n)) break;
#pragma unroll
        for (int i = 0; i < P::MT; i++) {
            unsigned char *box = shared.box[warp][turn++ % 2];
            if (lane == 0) ptx::tma_store_wait_read<1>(); /* the copy before last has left this box */
#pragma unroll
            for (int h = 0; h < BOX_CHUNKS; h++) {
                if (i == 0 || BOX_CHUNKS > 1) {
                    __syncwarp(); /* everybody is done with the columns before */
                    parameters[lane] = mine;
                    const bool last = h + 1 == BOX_CHUNKS && i + 1 < P::MT && BOX_CHUNKS > 1;
                    mine = column_parameters(args, column0 + (last ? c : c + h + 1) * CHUNK + lane);
                }
                __syncwarp(); /* the columns' parameters are there, and the box is free */
                finish_chunk<ACTIVATION, Y>(&acc[i][(c + h) * (CHUNK / 2)], parameters, lane, box, h * CHUNK);
            }
            ptx::fence_proxy_async(); /* the copy engine reads what this thread wrote */
            __syncwarp();             /* the box is complete */
            if (lane == 0) {
                ptx::tma_store_2d(&y_map, ptx::shared_address(box), column0 + c * CHUNK, row0 + i * 64,
                                  policy);
                ptx::tma_store_commit();
            }
        }
    }
}

template <class P, int ACTIVATION, class Y>
__device__ __forceinline__ void consume(typename P::shared &shared, const linear_args &args,
                                        const CUtensorMap &y_map, const walk &walk, int cluster, int clusters,
                                        int down, int across)
{
    /* the shuffle tells the compiler that the warp is one: descriptors then stay in uniform registers */
    const int warp = __shfl_sync(0xffffffff, threadIdx.x / 32, 0), lane = threadIdx.x % 32,
              consumer = warp / 4;
    const uint64_t policy = ptx::l2_evict_first();
    uint32_t peer_empty = 0;
    if (lane < P::PEERS) { /* the blocks beside this one, itself among them, then those above and below */
        const int other = lane - P::ACROSS;
        const int rank = lane < P::ACROSS ? rank_of<P>(down, lane)
                                          : rank_of<P>(other + (other >= down), across);
        peer_empty = ptx::cluster_address(ptx::shared_address(&shared.empty[0]), rank);
    }
    unsigned turn = 0;
    ring<P> at;
    for (int tile = cluster; tile < walk.tiles_m * walk.tiles_n; tile += clusters) {
        const place<P> place(walk, tile, static_cast<int>(args.n), down, across);
        const int row0 = place.row + consumer * P::OWN_M + warp % 4 * 16, column0 = place.column;
        const float2 mine = column_parameters(args, column0 + lane); /* arrives during the products */
        const auto work = [&](auto columns) {
            constexpr int COLUMNS = decltype(columns)::value;
            /* zeros to add to: with a first product that ignores what was there, ptxas spills */
            float acc[P::MT][COLUMNS / 2] = {};
            multiply_tile<P, COLUMNS>(acc, shared, at, walk.steps, consumer, lane, peer_empty);
            finish_tile<P, ACTIVATION, Y, COLUMNS>(acc, shared, warp, lane, args, y_map, row0, column0, mine,
                                                   policy, turn);
        };
        if (place.narrow)
            work(std::integral_constant<int, P::NARROW>());
        else
            work(std::integral_constant<int, P::TILE_N>());
    }
    if (lane == 0) ptx::tma_store_wait_read<0>(); /* shared memory outlives the last copies */
    __syncwarp();
}

template <class P, int ACTIVATION, class Y>
__global__ void __launch_bounds__(P::THREADS, 1) __cluster_dims__(P::CLUSTER, 1, 1)
    linear_wgmma_kernel(const __grid_constant__ CUtensorMap x_map, const __grid_constant__ CUtensorMap w_map,
                        const __grid_constant__ CUtensorMap y_map, const __grid_constant__ linear_args args,
                        const __grid_constant__ walk walk)
{
    extern __shared__ __align__(1024) unsigned char memory[];
    typename P::shared &shared = *reinterpret_cast<typename P::shared *>(memory);
    const int cluster = blockIdx.x / P::CLUSTER, clusters = gridDim.x / P::CLUSTER;
    const int rank = ptx::cluster_rank(), down = rank % P::DOWN, across = rank / P::DOWN;
    if (threadIdx.x == 0) {
        for (int i = 0; i < P::STAGES; i++) {
            ptx::mbarrier_init(ptx::shared_address(&shared.full[i]), 1);
            ptx::mbarrier_init(ptx::shared_address(&shared.empty[i]), P::PEERS * P::CONSUMER_WARPS);
        }
        ptx::mbarrier_init_fence();
    }
    ptx::cluster_sync(); /* every block's barriers are ready for the others */

    if (threadIdx.x / 128 == P::CONSUMERS) {
        ptx::registers_decrease<P::PRODUCER_REGISTERS>();
        if (threadIdx.x == 128 * P::CONSUMERS)
            produce<P>(shared, x_map, w_map, walk, static_cast<int>(args.n), cluster, clusters, down, across);
        __syncwarp();
    } else {
        ptx::registers_increase<P::CONSUMER_REGISTERS>();
        consume<P, ACTIVATION, Y>(shared, args, y_map, walk, cluster, clusters, down, across);
    }
    ptx::cluster_sync(); /* no block leaves while another may still arrive at its barriers */
}

template <class P> int64_t tile_count(const linear_args &a)
{
    return divide_up(a.m, P::DOWN * P::TILE_M) * divide_up(a.n, P::ACROSS * P::TILE_N);
}

template <class P, int GROUP, int ACTIVATION, class Y>
cudaError_t launch_as(const linear_args &a, cudaStream_t stream)
{
    const auto kernel = linear_wgmma_kernel<P, ACTIVATION, Y>;
    constexpr int shared_bytes = sizeof(typename P::shared);
    cudaError_t status = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                              shared_bytes);
    int multiprocessors = 0;
    if (status == cudaSuccess) status = multiprocessor_count(&multiprocessors);
    CUtensorMap x_map, w_map, y_map;
    constexpr CUtensorMapDataType fp16 = CU_TENSOR_MAP_DATA_TYPE_FLOAT16;
    constexpr CUtensorMapSwizzle swizzle = CU_TENSOR_MAP_SWIZZLE_128B;
    if (status == cudaSuccess)
        status = tensor_map_2d(&x_map, fp16, a.x, a.m, a.k, a.ldx * 2, P::X_PART_ROWS, BK, swizzle);
    if (status == cudaSuccess)
        status = tensor_map_2d(&w_map, fp16, a.w, a.n, a.k, a.ldw * 2, P::W_PART_ROWS, BK, swizzle);
    if (status == cudaSuccess)
        status = tensor_map_2d(&y_map, sizeof(Y) == 2 ? fp16 : CU_TENSOR_MAP_DATA_TYPE_FLOAT32, a.y, a.m, a.n,
                               a.ldy * sizeof(Y), BOX_ROWS, 128 / sizeof(Y), CU_TENSOR_MAP_SWIZZLE_128B);
    if (status != cudaSuccess) return status;
    const walk walk = {static_cast<int>(divide_up(a.m, P::DOWN * P::TILE_M)),
                       static_cast<int>(divide_up(a.n, P::ACROSS * P::TILE_N)), GROUP,
                       static_cast<int>(divide_up(a.k, BK))};
    const int64_t tiles = tile_count<P>(a), most = multiprocessors / P::CLUSTER;
    const unsigned clusters = static_cast<unsigned>(tiles < most ? tiles : most);
    kernel<<<clusters * P::CLUSTER, P::THREADS, shared_bytes, stream>>>(x_map, w_map, y_map, a, walk);
    return cudaGetLastError();
}

template <class P, int GROUP> cudaError_t launch(const linear_args &a, cudaStream_t stream)
{
    const bool wide = a.y_type == LINEAR_FP32;
#define LINEAR_CASE(ACTIVATION)                                                                              \
    case ACTIVATION:                                                                                         \
        return wide ? launch_as<P, GROUP, ACTIVATION, float>(a, stream)                                      \
                    : launch_as<P, GROUP, ACTIVATION, __half>(a, stream)
    switch (a.activation) {
        LINEAR_CASE(LINEAR_NONE);
        LINEAR_CASE(LINEAR_RELU);
        LINEAR_CASE(LINEAR_RELU6);
        LINEAR_CASE(LINEAR_SILU);
        LINEAR_CASE(LINEAR_GELU);
        LINEAR_CASE(LINEAR_GELU_RELU);
    default: return cudaErrorInvalidValue;
    }
#undef LINEAR_CASE
}

/* The copy engine writes rows of y in pieces of 16 bytes, the last one whole, so that y's rows have to end
 * with one. */
template <class P> bool fits(const linear_args &a)
{
    const int y_bytes = a.y_type == LINEAR_FP16 ? 2 : 4;
    return compute_capability() == 90 && mode_of(a) == COPY && rows_aligned(a.y, a.ldy, y_bytes) &&
           a.n * y_bytes % 16 == 0 && tile_count<P>(a) < INT32_MAX / 2;
}

/* Rounds of tiles at RATE GFLOP/s a multiprocessor, as measured on an H200. */
template <class P, int RATE> double cost(const linear_args &a, int multiprocessors)
{
    const double rounds = divide_up(tile_count<P>(a), multiprocessors / P::CLUSTER);
    return 2.5 + rounds * 2.0 * P::TILE_M * P::TILE_N * a.k / (RATE * 1e3);
}

template <class P, int GROUP, int RATE> constexpr entry make_entry(const char *name)
{
    return {{name, true, P::TILE_M, P::TILE_N, P::THREADS, sizeof(typename P::shared)},
            fits<P>,
            launch<P, GROUP>,
            cost<P, RATE>};
}

} // namespace

const entry wgmma_entries[] = {
    make_entry<plan<1, 256, 2, 1, 4>, 8, 5800>("wgmma 128x256 c2"),
    make_entry<plan<2, 192, 1, 2, 3>, 6, 6100>("wgmma 256x192 c2"),
};
const int wgmma_entry_count = sizeof wgmma_entries / sizeof *wgmma_entries;

} // namespace linear
