/* Linear layer by mma.sync, for sm_80 and up (and where wgmma's form does not fit): linear.h.
 *
 * Grid: one block an output tile of BM x BN, eight rows of tiles at a time, down before across, so that the
 * blocks that run together share rows of x and of w in L2.
 * Block: WARPS_M x WARPS_N x WARPS_K warps, as mma_tile.cuh says; the sums of the WARPS_K warps are added in
 * order at the end. Then the stages hold the sums on their way to whole rows of y.
 *
 * How x and w come in (MODE): COPY, both fp16 and aligned, by cp.async; CONVERT, x fp32, read to registers
 * before the MMAs of a step, rounded and stored after them; GENERAL, any alignment and k, by element.
 *
 * Every configuration stays within 99 KB. Measurements, and what was rejected: docs/linear.md. */
#include "launch.cuh"
#include "linear_common.cuh"
#include "mma_tile.cuh"

namespace linear
{

namespace
{

/* A tile T, with the room that sums take on their way to y. BLOCKS: on an SM; bounds the registers. */
template <class T, int BLOCKS_> struct staged : T {
    static constexpr int BLOCKS = BLOCKS_;
    static constexpr int PITCH = 40; /* rows g and g + 1 lie 8 banks apart */
    static constexpr int SUMS_BYTES = (T::WARPS_K - 1) * T::BM * T::BN * 4,
                         SUMS_END = SUMS_BYTES + T::WARPS * T::WM * PITCH * 4;
    static constexpr int SHARED_BYTES = T::RING_BYTES > SUMS_END ? T::RING_BYTES : SUMS_END;
    static_assert(T::WN % 32 == 0, "sums are staged 32 columns at a time");
    static_assert(T::BM % T::ROW_STEP == 0 && T::BN % T::ROW_STEP == 0, "threads share the pieces evenly");
    static_assert(SHARED_BYTES <= 99 * 1024, "what sm_89 gives a block");
};

__device__ __forceinline__ void store_shared(unsigned char *shared, uint32_t offset, uint4 word)
{
    *reinterpret_cast<uint4 *>(shared + offset) = word;
}

/* mma::pipeline's loader for one tile. */
template <class T, int MODE> struct loader {
    const linear_args &args;
    mma::share<T, T::BM> x;
    mma::share<T, T::BN> w;
    int step = 0, steps; /* the next one, all */
    bool started = false;
    float4 held[MODE == CONVERT ? 2 * mma::share<T, T::BM>::COUNT : 1]; /* the step of x that was started */

    __device__ __forceinline__ loader(const linear_args &a, int64_t m0, int64_t n0)
        : args(a), steps(static_cast<int>(divide_up(a.k, T::BK)))
    {
        x.set(m0, a.m, a.ldx);
        w.set(n0, a.n, a.ldw);
    }

    __device__ __forceinline__ void start(unsigned char *stage)
    {
        const int k0 = step * T::BK;
        started = step++ < steps;
        if (!started) return;
        const uint32_t address = ptx::shared_address(stage);
        if constexpr (MODE == COPY) x.copy(static_cast<const __half *>(args.x), k0, args.k, address);
        if constexpr (MODE == CONVERT) hold_x(k0);
        if constexpr (MODE == GENERAL) {
            copy_elements(x, args.x, args.x_type, k0, stage);
            copy_elements(w, args.w, LINEAR_FP16, k0, stage + T::W_OFFSET);
        } else {
            w.copy(static_cast<const __half *>(args.w), k0, args.k, address + T::W_OFFSET);
        }
    }

    __device__ __forceinline__ void finish(unsigned char *stage) const
    {
        if constexpr (MODE == CONVERT)
            if (started)
#pragma unroll
                for (int i = 0; i < x.COUNT; i++)
                    store_shared(stage, x.stage_offset(i), round_piece(held[2 * i], held[2 * i + 1]));
    }

    __device__ __forceinline__ void hold_x(int k0)
    {
        const bool k_ok = k0 + 8 * static_cast<int>(threadIdx.x % T::PIECES) < args.k;
#pragma unroll
        for (int i = 0; i < x.COUNT; i++) {
            const float4 *from = reinterpret_cast<const float4 *>(static_cast<const float *>(args.x) +
                                                                  x.first + i * x.step + k0);
            const bool ok = k_ok && x.row_ok(i);
            held[2 * i] = ok ? __ldg(from) : make_float4(0, 0, 0, 0);
            held[2 * i + 1] = ok ? __ldg(from + 1) : make_float4(0, 0, 0, 0);
        }
    }

    template <class Share>
    __device__ __forceinline__ void copy_elements(const Share &s, const void *from, int type, int k0,
                                                  unsigned char *to) const
    {
        const int k = k0 + 8 * (threadIdx.x % T::PIECES);
#pragma unroll
        for (int i = 0; i < s.COUNT; i++)
            store_shared(to, s.stage_offset(i),
                         load_piece(from, type, s.first + i * s.step + k0, s.row_ok(i) ? args.k - k : 0));
    }
};

/* Adds the sums of the WARPS_K warps of one part of the tile, in order, into those of the first. */
template <class T>
__device__ __forceinline__ void reduce(float (&acc)[T::MT][T::NT][4], float *sums, int part, int slice)
{
    const int lane = threadIdx.x & 31;
    constexpr int COUNT = T::MT * T::NT * 4;
    float *flat = &acc[0][0][0];
    if (slice > 0)
#pragma unroll
        for (int i = 0; i < COUNT; i++)
            sums[(((slice - 1) * T::WARPS + part) * COUNT + i) * 32 + lane] = flat[i];
    __syncthreads(); /* the other slices' sums are written */
    if (slice == 0)
#pragma unroll
        for (int s = 0; s < T::WARPS_K - 1; s++)
#pragma unroll
            for (int i = 0; i < COUNT; i++) flat[i] += sums[((s * T::WARPS + part) * COUNT + i) * 32 + lane];
}

template <class T, int MODE>
__global__ void __launch_bounds__(T::THREADS, T::BLOCKS)
    linear_mma_kernel(const __grid_constant__ linear_args args, bool y_aligned)
{
    extern __shared__ __align__(128) unsigned char shared[];
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const int slice = warp / T::WARPS, part = warp % T::WARPS;
    const int warp_m = part % T::WARPS_M * T::WM, warp_n = part / T::WARPS_M * T::WN;

    /* which tile: groups of GROUP rows of tiles, down first */
    constexpr unsigned GROUP = 8;
    const unsigned tiles_m = divide_up(args.m, T::BM), tiles_n = divide_up(args.n, T::BN);
    const unsigned group = blockIdx.x / (GROUP * tiles_n), first = group * GROUP;
    const unsigned height = min(GROUP, tiles_m - first), within = blockIdx.x - first * tiles_n;
    const int64_t m0 = static_cast<int64_t>(first + within % height) * T::BM,
                  n0 = static_cast<int64_t>(within / height) * T::BN;

    loader<T, MODE> load(args, m0, n0);
    mma::pipeline<T> pipe(shared, warp_m, warp_n, slice);
    float acc[T::MT][T::NT][4] = {};
    pipe.start(load);
    pipe.multiply(acc, load.steps, load, [](auto &, int, int) { return true; });
    ptx::cp_async_wait<0>();
    __syncthreads(); /* the stages become room for sums */

    if constexpr (T::WARPS_K > 1) reduce<T>(acc, reinterpret_cast<float *>(shared), part, slice);
    if (slice > 0) return;
    float *staged = reinterpret_cast<float *>(shared + T::SUMS_BYTES) + part * T::WM * T::PITCH;
#pragma unroll
    for (int c = 0; c < T::WN / 32; c++) {
        __syncwarp(); /* the rows before are stored */
#pragma unroll
        for (int i = 0; i < 2 * T::MT; i++)
#pragma unroll
            for (int j = 0; j < 4; j++) {
                const float *v = &acc[i / 2][c * 4 + j][i % 2 * 2];
                *reinterpret_cast<float2 *>(staged + (i * 8 + lane / 4) * T::PITCH + j * 8 +
                                            lane % 4 * 2) = make_float2(v[0], v[1]);
            }
        __syncwarp(); /* the warp's rows are staged */
        const int64_t column0 = n0 + warp_n + c * 32;
        finish_rows(
            args, lane_parameters(args, static_cast<int>(column0)),
            [&](int row, int column) {
                return *reinterpret_cast<const float4 *>(staged + row * T::PITCH + column);
            },
            T::WM, m0 + warp_m, column0, y_aligned);
    }
}

template <class T, int MODE> struct launcher {
    static int64_t blocks(const linear_args &a) { return divide_up(a.m, T::BM) * divide_up(a.n, T::BN); }

    static bool fits(const linear_args &a) { return MODE == mode_of(a) && blocks(a) < INT32_MAX; }

    static int shared_bytes(const linear_args &) { return T::SHARED_BYTES; }

    static cudaError_t launch(const linear_args &a, cudaStream_t stream)
    {
        return launch_after(linear_mma_kernel<T, MODE>, static_cast<unsigned>(blocks(a)), T::THREADS,
                            T::SHARED_BYTES, stream, a, rows_aligned(a.y, a.ldy, element_bytes(a.y_type)));
    }

    /* Waves of blocks, each as long as its MMAs at 2.9 TFLOP/s an SM or its reads at 52 kB/us, whichever
     * takes longer; element-wise reads at a tenth of that. Constants as measured on an H200. */
    static double cost_us(const linear_args &a, int sms)
    {
        const double rate = MODE == GENERAL ? 5.2e3 : 5.2e4, share = T::BLOCKS;
        const double rows = a.m < T::BM ? a.m : T::BM, x_bytes = MODE == CONVERT ? 4 : 2;
        const double mmas = 2.0 * T::BM * T::BN * a.k / 2.9e6,
                     reads = (x_bytes * rows + 2.0 * T::BN) * a.k / rate;
        const double waves = divide_up(blocks(a), static_cast<int64_t>(sms) * T::BLOCKS);
        return 2.5 + waves * share * (mmas > reads ? mmas : reads);
    }
};

using t128x256 = staged<mma::tile<128, 256, 32, 4, 2, 4, 1>, 1>;
using t128x128 = staged<mma::tile<128, 128, 64, 3, 2, 4, 1>, 1>;
using t64x64 = staged<mma::tile<64, 64, 64, 3, 2, 2, 1>, 2>;
using t64x32k4 = staged<mma::tile<64, 32, 128, 4, 2, 1, 4>, 1>;
using t32x32k8 = staged<mma::tile<32, 32, 128, 4, 1, 1, 8>, 1>;

} // namespace

const kernel_config mma_configs[] = {
    make_config_with_cost<launcher<t128x256, COPY>>("mma 128x256x32"),
    make_config_with_cost<launcher<t128x128, COPY>>("mma 128x128x64"),
    make_config_with_cost<launcher<t64x64, COPY>>("mma 64x64x64"),
    make_config_with_cost<launcher<t64x32k4, COPY>>("mma 64x32x128 k4"),
    make_config_with_cost<launcher<t32x32k8, COPY>>("mma 32x32x128 k8"),
    make_config_with_cost<launcher<t128x128, CONVERT>>("mma 128x128x64 fp32"),
    make_config_with_cost<launcher<t64x64, CONVERT>>("mma 64x64x64 fp32"),
    make_config_with_cost<launcher<t64x64, GENERAL>>("mma 64x64x64 general"),
    {},
};

} // namespace linear
