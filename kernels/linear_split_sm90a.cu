/* Linear layer by wgmma where output tiles are few, for compute capability 9.0 alone: linear.h.
 *
 * Grid: one cluster of SHARE x SPLIT blocks for SHARE neighbouring tiles of TILE_M x TILE_N, tiles down
 * before across. Of a tile's SPLIT blocks each multiplies its part of k. The SHARE blocks with the same part
 * of k need the same rows of x: each fetches some of them and multicasts them to the others. Block: CONSUMERS
 * warpgroups, 64 rows each, and a producer warp, of which one thread works. All stages are asked for at once,
 * and again as they become free. At the end each block sends its sums, by rows, to the SPLIT blocks of its
 * tile, adds up what it has been sent, always in the order of k, and finishes TILE_M / SPLIT rows.
 *
 * Shared memory: STAGES x (TILE_M rows of x, TILE_N rows of w, 64 halves each, 128-byte swizzle), then
 * [SPLIT][TILE_M / SPLIT][TILE_N] sums. Measurements: docs/linear.md. */
#include "linear_common.cuh"
#include "tensor_map.cuh"

namespace linear
{

namespace
{

constexpr int BK = 64, ROW_BYTES = BK * 2, SHARED_LIMIT = 227 * 1024;

template <int CONSUMERS_, int TILE_N_> struct tile {
    static constexpr int CONSUMERS = CONSUMERS_, TILE_M = 64 * CONSUMERS, TILE_N = TILE_N_;
    static constexpr int WARPS = 4 * CONSUMERS, THREADS = 32 * (WARPS + 1); /* consumers'; all */
    static constexpr int ACC = TILE_N / 2;
    static constexpr int X_BYTES = TILE_M * ROW_BYTES, W_BYTES = TILE_N * ROW_BYTES;
    static constexpr int PITCH = TILE_N + 8; /* of sums: rows g and g + 1 lie 8 banks apart */
    static constexpr int SUMS_BYTES = TILE_M * TILE_N * 4;
    static constexpr int FIT = (SHARED_LIMIT - TILE_M * PITCH * 4 - 512) / (X_BYTES + W_BYTES);
    static constexpr int STAGES = FIT < 16 ? FIT : 16;
    static constexpr int CHUNKS = TILE_N / 32; /* that warps finish side by side */
    static_assert(WARPS % CHUNKS == 0, "every warp finishes one chunk of columns");

    struct shared {
        struct {
            unsigned char x[X_BYTES], w[W_BYTES];
        } stage[STAGES];
        float sums[TILE_M * PITCH];
        uint64_t full[STAGES], empty[STAGES], summed;
    };
    static_assert(sizeof(shared) <= SHARED_LIMIT, "what sm_90 gives a block");
};

/* How the launcher cuts the work. */
struct cut {
    int share, split; /* blocks of a cluster: share * split */
    int tiles_m;
};

/* What a block does. */
struct place {
    int share, slice; /* which of the tiles side by side, which part of k */
    int64_t m0, n0;   /* of its tile */
    int first, steps; /* of BK */

    __device__ place(const cut &cut, int64_t k, int tile_m, int tile_n)
    {
        const int blocks = cut.share * cut.split, rank = blockIdx.x % blocks, cluster = blockIdx.x / blocks;
        const int64_t all = divide_up(k, BK);
        share = rank % cut.share;
        slice = rank / cut.share;
        m0 = static_cast<int64_t>(cluster % cut.tiles_m) * tile_m;
        n0 = (static_cast<int64_t>(cluster / cut.tiles_m) * cut.share + share) * tile_n;
        first = static_cast<int>(all * slice / cut.split);
        steps = static_cast<int>(all * (slice + 1) / cut.split) - first;
    }
};

template <class T>
__device__ __forceinline__ void produce(typename T::shared &shared, const CUtensorMap &x_map,
                                        const CUtensorMap &w_map, const cut &cut, const place &place)
{
    const uint64_t x_policy = ptx::l2_evict_normal(), w_policy = ptx::l2_evict_last();
    const int part_rows = T::TILE_M / cut.share;
    const uint16_t sharers = ((1 << cut.share) - 1) << (place.slice * cut.share);
    const auto load_w = [&](int step) {
        auto &stage = shared.stage[step % T::STAGES];
        const uint32_t full = ptx::shared_address(&shared.full[step % T::STAGES]);
        ptx::mbarrier_arrive_expect(full, T::X_BYTES + T::W_BYTES);
        ptx::tma_load_2d(ptx::shared_address(stage.w), &w_map, (place.first + step) * BK,
                         static_cast<int>(place.n0), full, w_policy);
    };
    const auto load_x = [&](int step) {
        auto &stage = shared.stage[step % T::STAGES];
        const uint32_t full = ptx::shared_address(&shared.full[step % T::STAGES]);
        const uint32_t to = ptx::shared_address(stage.x) + place.share * part_rows * ROW_BYTES;
        const int column = (place.first + step) * BK,
                  row = static_cast<int>(place.m0) + place.share * part_rows;
        if (cut.share == 1)
            ptx::tma_load_2d(to, &x_map, column, row, full, x_policy);
        else
            ptx::tma_load_2d_multicast(to, &x_map, column, row, full, sharers, x_policy);
    };
    const int ahead = place.steps < T::STAGES ? place.steps : T::STAGES;
    for (int step = 0; step < ahead; step++) load_w(step);
    ptx::cluster_wait(); /* every block's barriers are ready for the others' copies */
    for (int step = 0; step < ahead; step++) load_x(step);
    for (int step = ahead; step < place.steps; step++) {
        ptx::mbarrier_wait(ptx::shared_address(&shared.empty[step % T::STAGES]), (step / T::STAGES & 1) ^ 1);
        load_w(step);
        load_x(step);
    }
}

/* A warpgroup's sums over its block's part of k. */
template <class T>
__device__ __forceinline__ void multiply(float (&acc)[T::ACC], typename T::shared &shared, const cut &cut,
                                         const place &place, int consumer, int lane)
{
    /* Only a stage that will be filled again is reported empty, to every block whose copies fill it; so a
     * block that has left is told nothing. */
    const auto release = [&](int step) {
        if (step + T::STAGES < place.steps && lane < cut.share)
            ptx::mbarrier_arrive_cluster(ptx::cluster_address(
                ptx::shared_address(&shared.empty[step % T::STAGES]), place.slice * cut.share + lane));
    };
#pragma unroll 1
    for (int step = 0; step < place.steps; step++) {
        auto &stage = shared.stage[step % T::STAGES];
        ptx::mbarrier_wait(ptx::shared_address(&shared.full[step % T::STAGES]), step / T::STAGES & 1);
        const uint64_t x = ptx::wgmma_descriptor(ptx::shared_address(stage.x) + consumer * 64 * ROW_BYTES);
        const uint64_t w = ptx::wgmma_descriptor(ptx::shared_address(stage.w));
        ptx::wgmma_fence();
#pragma unroll
        for (int k = 0; k < BK / 16; k++) ptx::wgmma_f16(acc, x + 2 * k, w + 2 * k, step > 0 || k > 0);
        ptx::wgmma_commit();
        ptx::wgmma_wait<1>(); /* the step before has read its stage */
        if (step > 0) release(step - 1);
    }
    ptx::wgmma_wait<0>();
#pragma unroll
    for (int j = 0; j < T::ACC; j++) ptx::wgmma_touch(acc[j]);
}

/* Sends a warp's sums to the blocks that finish their rows. */
template <class T>
__device__ __forceinline__ void send(const float (&acc)[T::ACC], typename T::shared &shared, const cut &cut,
                                     const place &place, int warp, int lane)
{
    const int own_rows = T::TILE_M / cut.split;
#pragma unroll
    for (int h = 0; h < 2; h++) {
        const int row = warp * 16 + h * 8; /* eight rows, all of one owner */
        const uint32_t owner = row / own_rows * cut.share + place.share;
        const float *to = shared.sums + (place.slice * own_rows + row % own_rows + lane / 4) * T::PITCH +
                          lane % 4 * 2;
        const uint32_t address = ptx::cluster_address(ptx::shared_address(to), owner);
        const uint32_t summed = ptx::cluster_address(ptx::shared_address(&shared.summed), owner);
#pragma unroll
        for (int j = 0; j < T::TILE_N / 8; j++)
            ptx::cluster_store_async(address + 32 * j, acc[4 * j + 2 * h], acc[4 * j + 2 * h + 1], summed);
    }
}

template <class T>
__global__ void __launch_bounds__(T::THREADS, 1)
    linear_split_kernel(const __grid_constant__ CUtensorMap x_map, const __grid_constant__ CUtensorMap w_map,
                        const __grid_constant__ linear_args args, const __grid_constant__ cut cut,
                        bool y_aligned)
{
    extern __shared__ __align__(1024) unsigned char memory[];
    typename T::shared &shared = *reinterpret_cast<typename T::shared *>(memory);
    /* the shuffle tells the compiler that the warp is one: descriptors then stay in uniform registers */
    const int warp = __shfl_sync(0xffffffff, threadIdx.x / 32, 0), lane = threadIdx.x % 32;
    const place place(cut, args.k, T::TILE_M, T::TILE_N);
    if (threadIdx.x == 0) {
        ptx::tma_prefetch_map(&x_map);
        ptx::tma_prefetch_map(&w_map);
        for (int i = 0; i < T::STAGES; i++) {
            ptx::mbarrier_init(ptx::shared_address(&shared.full[i]), 1);
            ptx::mbarrier_init(ptx::shared_address(&shared.empty[i]), cut.share * T::WARPS);
        }
        ptx::mbarrier_init(ptx::shared_address(&shared.summed), 1);
        ptx::mbarrier_init_fence();
        ptx::mbarrier_arrive_expect(ptx::shared_address(&shared.summed), T::SUMS_BYTES);
    }
    __syncthreads(); /* the barriers are ready for this block */
    ptx::cluster_arrive_relaxed();
    ptx::grid_wait();
    ptx::grid_launch_next();
    if (warp == T::WARPS) {
        if (lane == 0)
            produce<T>(shared, x_map, w_map, cut, place);
        else
            ptx::cluster_wait();
        return;
    }
    const int own_rows = T::TILE_M / cut.split, rows = own_rows / (T::WARPS / T::CHUNKS);
    const int first_row = warp / T::CHUNKS * rows, chunk = warp % T::CHUNKS * 32;
    /* these arrive during the products */
    const lane_parameters parameters(args, static_cast<int>(place.n0) + chunk);
    float acc[T::ACC];
    multiply<T>(acc, shared, cut, place, warp / 4, lane);
    ptx::cluster_wait(); /* every block's `summed` is ready */
    send<T>(acc, shared, cut, place, warp, lane);
    ptx::mbarrier_wait(ptx::shared_address(&shared.summed), 0);
    const float *sums = shared.sums + first_row * T::PITCH + chunk;
    finish_rows(
        args, parameters,
        [&](int row, int column) {
            float4 v = *reinterpret_cast<const float4 *>(sums + row * T::PITCH + column);
            for (int z = 1; z < cut.split; z++) {
                const float4 more = *reinterpret_cast<const float4 *>(sums + (z * own_rows + row) * T::PITCH +
                                                                      column);
                v.x += more.x, v.y += more.y, v.z += more.z, v.w += more.w;
            }
            return v;
        },
        rows, place.m0 + place.slice * own_rows + first_row, place.n0 + chunk, y_aligned);
}

template <class T, int SHARE, int SPLIT> int64_t cluster_count(const linear_args &a)
{
    return divide_up(a.m, T::TILE_M) * divide_up(a.n, SHARE * T::TILE_N);
}

template <class T, int SHARE, int SPLIT> bool fits(const linear_args &a)
{
    return compute_capability() == 90 && mode_of(a) == COPY && divide_up(a.k, BK) >= SPLIT &&
           cluster_count<T, SHARE, SPLIT>(a) * SHARE * SPLIT < INT32_MAX;
}

template <class T, int SHARE, int SPLIT> cudaError_t launch(const linear_args &a, cudaStream_t stream)
{
    const auto kernel = linear_split_kernel<T>;
    constexpr int shared_bytes = sizeof(typename T::shared);
    CUtensorMap x_map, w_map;
    cudaError_t status = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                              shared_bytes);
    if (status == cudaSuccess)
        status = tensor_map_2d(&x_map, CU_TENSOR_MAP_DATA_TYPE_FLOAT16, a.x, a.m, a.k, a.ldx * 2,
                               T::TILE_M / SHARE, BK, CU_TENSOR_MAP_SWIZZLE_128B);
    if (status == cudaSuccess)
        status = tensor_map_2d(&w_map, CU_TENSOR_MAP_DATA_TYPE_FLOAT16, a.w, a.n, a.k, a.ldw * 2, T::TILE_N,
                               BK, CU_TENSOR_MAP_SWIZZLE_128B);
    if (status != cudaSuccess) return status;
    const cut cut = {SHARE, SPLIT, static_cast<int>(divide_up(a.m, T::TILE_M))};
    const bool y_aligned = rows_aligned(a.y, a.ldy, a.y_type == LINEAR_FP16 ? 2 : 4);
    cudaLaunchAttribute attributes[2] = {};
    attributes[0].id = cudaLaunchAttributeClusterDimension;
    attributes[0].val.clusterDim.x = SHARE * SPLIT;
    attributes[0].val.clusterDim.y = attributes[0].val.clusterDim.z = 1;
    attributes[1].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attributes[1].val.programmaticStreamSerializationAllowed = 1;
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3(static_cast<unsigned>(cluster_count<T, SHARE, SPLIT>(a) * SHARE * SPLIT));
    config.blockDim = dim3(T::THREADS);
    config.dynamicSmemBytes = shared_bytes;
    config.stream = stream;
    config.attrs = attributes;
    config.numAttrs = 2;
    return cudaLaunchKernelEx(&config, kernel, x_map, w_map, a, cut, y_aligned);
}

/* Waves of blocks, each a start and its reads at 50 kB/us, 63 where blocks share them: as measured on an
 * H200. */
template <class T, int SHARE, int SPLIT> double cost(const linear_args &a, int multiprocessors)
{
    const double waves = divide_up(cluster_count<T, SHARE, SPLIT>(a), multiprocessors / (SHARE * SPLIT));
    const double reads = 2.0 * (T::TILE_M + T::TILE_N) * a.k / SPLIT;
    return 1.5 + waves * (3.0 + reads / (SHARE > 1 ? 6.3e4 : 5e4));
}

template <class T, int SHARE, int SPLIT> constexpr entry make_entry(const char *name)
{
    static_assert(SHARE * SPLIT <= 8, "the portable size of a cluster");
    static_assert(T::TILE_M / SPLIT >= 8, "eight rows are of one owner");
    return {{name, true, T::TILE_M, T::TILE_N, T::THREADS, sizeof(typename T::shared)},
            fits<T, SHARE, SPLIT>,
            launch<T, SHARE, SPLIT>,
            cost<T, SHARE, SPLIT>};
}

} // namespace

/* Clusters of two: of larger ones a chip does not always hold as many as its multiprocessors allow. */
const entry split_entries[] = {
    make_entry<tile<1, 64>, 1, 2>("split 64x64 s2"),
    make_entry<tile<1, 128>, 1, 2>("split 64x128 s2"),
    make_entry<tile<2, 128>, 1, 2>("split 128x128 s2"),
    make_entry<tile<2, 128>, 2, 1>("split 128x128 c2"),
};
const int split_entry_count = sizeof split_entries / sizeof *split_entries;

} // namespace linear
