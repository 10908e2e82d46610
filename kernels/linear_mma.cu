/* Linear layer by mma.sync, for sm_80 and up (and where wgmma's form does not fit): linear.h.
 *
 * Grid: one block an output tile of BM x BN, eight rows of tiles at a time, down before across, so that the
 * blocks that run together share rows of x and of w in L2.
 * Block: WARPS_M x WARPS_N x WARPS_K warps. A stage holds BK of k for the whole tile; warp (., ., z) takes
 * every WARPS_K-th step of 16 in it, and the sums of the WARPS_K warps are added in order at the end. STAGES
 * stages of cp.async run ahead; fragments are loaded one step ahead of the product that needs them.
 *
 * Shared memory of a stage: BM rows of x, then BN rows of w, BK halves each; a row's 16-byte pieces are
 * XOR-swizzled by the row, so that the eight rows that ldmatrix reads at one piece touch every bank once.
 * After the product the same memory holds the sums on their way to whole rows of y.
 *
 * How x and w come in (MODE): COPY, both fp16 and aligned, by cp.async; CONVERT, x fp32, read to registers
 * before the products of a step, rounded and stored after them; GENERAL, any alignment and k, by element.
 *
 * Every configuration stays within 99 KB. Measurements, and what was rejected: docs/linear.md. */
#include "launch.cuh"
#include "linear_common.cuh"

namespace linear
{

namespace
{

template <int BM_, int BN_, int BK_, int STAGES_, int WARPS_M_, int WARPS_N_, int WARPS_K_, int BLOCKS_>
struct tile {
    static constexpr int BM = BM_, BN = BN_, BK = BK_, STAGES = STAGES_, WARPS_M = WARPS_M_,
                         WARPS_N = WARPS_N_, WARPS_K = WARPS_K_, BLOCKS = BLOCKS_;
    static constexpr int WARPS = WARPS_M * WARPS_N, THREADS = 32 * WARPS * WARPS_K;
    static constexpr int WM = BM / WARPS_M, WN = BN / WARPS_N;    /* a warp's share */
    static constexpr int MT = WM / 16, NT = WN / 8;               /* in fragments */
    static constexpr int PIECES = BK / 8;                         /* of 16 bytes, in a row */
    static constexpr int LINE_ROWS = PIECES < 8 ? 8 / PIECES : 1; /* rows in 128 bytes, all banks once */
    static constexpr int STEPS = BK / 16 / WARPS_K;               /* of a warp, in a stage */
    static constexpr int STAGE_BYTES = (BM + BN) * BK * 2;
    static constexpr int PITCH = 40; /* of staged sums: rows g and g + 1 lie 8 banks apart */
    static constexpr int SUMS_BYTES = (WARPS_K - 1) * BM * BN * 4, STAGED_BYTES = WARPS * WM * PITCH * 4;
    static constexpr int SHARED_BYTES = STAGES * STAGE_BYTES > SUMS_BYTES + STAGED_BYTES
                                            ? STAGES *STAGE_BYTES
                                            : SUMS_BYTES + STAGED_BYTES;
    static_assert(BM % (16 * WARPS_M) == 0 && BN % (32 * WARPS_N) == 0, "warps tile the block's tile");
    static_assert(BK % (16 * WARPS_K) == 0, "every warp has a step in every stage");
    static_assert(BM * PIECES % THREADS == 0 && BN * PIECES % THREADS == 0, "threads share the pieces");
    static_assert(STAGES >= 3, "CONVERT stores a stage one step before the barrier that publishes it");
    static_assert(SHARED_BYTES <= 99 * 1024, "what sm_89 gives a block");

    /* Byte offset of a 16-byte piece in a stage's x or w part. */
    __device__ static uint32_t place(int row, int piece)
    {
        return 16 * (row * PIECES + (piece ^ (row / LINE_ROWS % (PIECES < 8 ? PIECES : 8))));
    }
};

__device__ __forceinline__ void store_shared(unsigned char *shared, uint32_t offset, uint4 word)
{
    *reinterpret_cast<uint4 *>(shared + offset) = word;
}

/* A thread's pieces of one operand: pieces THREADS apart lie ROW_STEP rows apart, in the same column of
 * pieces and with the same swizzle. */
template <class T, int ROWS> struct share {
    static constexpr int COUNT = ROWS * T::PIECES / T::THREADS, ROW_STEP = T::THREADS / T::PIECES;
    static_assert(ROW_STEP % (8 * T::LINE_ROWS) == 0, "the swizzle repeats every eight lines");
    int64_t offset, step; /* of the first piece at k = 0, in elements from the base; and from row to row */
    uint32_t place;       /* of the first piece in a stage */
    uint32_t rows;        /* bit i: piece i's row exists */

    __device__ share(int64_t row0, int64_t row_count, int64_t ld)
    {
        const int row = threadIdx.x / T::PIECES, piece = threadIdx.x % T::PIECES;
        offset = (row0 + row) * ld + 8 * piece;
        step = ROW_STEP * ld;
        place = T::place(row, piece);
        rows = 0;
#pragma unroll
        for (int i = 0; i < COUNT; i++) rows |= (row0 + row + i * ROW_STEP < row_count) << i;
    }
    __device__ bool row_ok(int i) const
    {
        return rows >> i & 1;
    }
    __device__ static uint32_t stage_step(int i)
    {
        return i * ROW_STEP * T::BK * 2;
    }
};

template <class T> struct operands {
    share<T, T::BM> x;
    share<T, T::BN> w;
    float4 held[2 * share<T, T::BM>::COUNT]; /* mode CONVERT: the next step of x */
};

/* Starts the copies of step k0.. to `stage`. CONVERT leaves x in registers. A piece of a row that does not
 * exist, or past k, becomes zeros and is not read. */
template <class T, int MODE>
__device__ __forceinline__ void load_step(const linear_args &args, unsigned char *stage, operands<T> &o,
                                          int k0)
{
    constexpr uint32_t W_OFFSET = T::BM * T::BK * 2;
    const uint32_t address = ptx::shared_address(stage);
    const int k = k0 + 8 * (threadIdx.x % T::PIECES);
    const bool k_ok = k < args.k;
#pragma unroll
    for (int i = 0; i < o.x.COUNT; i++) {
        const int64_t offset = o.x.offset + i * o.x.step + k0;
        if constexpr (MODE == COPY) {
            ptx::cp_async_16(address + o.x.place + o.x.stage_step(i),
                             static_cast<const __half *>(args.x) + offset, k_ok && o.x.row_ok(i));
        } else if constexpr (MODE == CONVERT) {
            const float4 *x = reinterpret_cast<const float4 *>(static_cast<const float *>(args.x) + offset);
            const bool ok = k_ok && o.x.row_ok(i);
            o.held[2 * i] = ok ? __ldg(x) : make_float4(0, 0, 0, 0);
            o.held[2 * i + 1] = ok ? __ldg(x + 1) : make_float4(0, 0, 0, 0);
        } else {
            store_shared(stage, o.x.place + o.x.stage_step(i),
                         load_piece(args.x, args.x_type, offset, o.x.row_ok(i) ? args.k - k : 0));
        }
    }
#pragma unroll
    for (int i = 0; i < o.w.COUNT; i++) {
        const int64_t offset = o.w.offset + i * o.w.step + k0;
        if constexpr (MODE == GENERAL)
            store_shared(stage, W_OFFSET + o.w.place + o.w.stage_step(i),
                         load_piece(args.w, LINEAR_FP16, offset, o.w.row_ok(i) ? args.k - k : 0));
        else
            ptx::cp_async_16(address + W_OFFSET + o.w.place + o.w.stage_step(i),
                             static_cast<const __half *>(args.w) + offset, k_ok && o.w.row_ok(i));
    }
}

/* The rest of load_step in mode CONVERT. */
template <class T> __device__ __forceinline__ void store_held(unsigned char *stage, const operands<T> &o)
{
#pragma unroll
    for (int i = 0; i < o.x.COUNT; i++) {
        store_shared(stage, o.x.place + o.x.stage_step(i), round_piece(o.held[2 * i], o.held[2 * i + 1]));
    }
}

/* One step of 16 in k of a warp's operands, and where a lane finds them in a stage. */
template <class T> struct fragments {
    uint32_t a[T::MT][4], b[T::NT / 2][4];
};

/* Where a lane finds its rows for ldmatrix in a stage. */
struct lane_rows {
    uint32_t a_row, a_half, a_swizzle, b_row, b_half,
        b_swizzle; /* bytes; halves of 16 and pieces, in bytes */
};

template <class T> __device__ __forceinline__ lane_rows find_rows(int warp_m, int warp_n)
{
    const int lane = threadIdx.x & 31;
    const int a = warp_m + lane % 16, b = warp_n + lane % 8 + lane / 16 * 8;
    return {static_cast<uint32_t>(a * T::BK * 2), lane / 16 * 16u,    T::place(a, 0) - a * T::BK * 2,
            static_cast<uint32_t>(b * T::BK * 2), lane / 8 % 2 * 16u, T::place(b, 0) - b * T::BK * 2};
}

template <class T>
__device__ __forceinline__ void load_fragments(fragments<T> &f, uint32_t stage, int step,
                                               const lane_rows &lane)
{
    const uint32_t a = stage + lane.a_row + ((32 * step + lane.a_half) ^ lane.a_swizzle);
    const uint32_t b = stage + T::BM * T::BK * 2 + lane.b_row + ((32 * step + lane.b_half) ^ lane.b_swizzle);
#pragma unroll
    for (int i = 0; i < T::MT; i++) ptx::ldmatrix_x4(f.a[i], a + i * 16 * T::BK * 2);
#pragma unroll
    for (int j = 0; j < T::NT / 2; j++) ptx::ldmatrix_x4(f.b[j], b + j * 16 * T::BK * 2);
}

template <class T>
__device__ __forceinline__ void multiply(float (&acc)[T::MT][T::NT][4], const fragments<T> &f)
{
#pragma unroll
    for (int i = 0; i < T::MT; i++)
#pragma unroll
        for (int j = 0; j < T::NT; j++) {
            const int n = i % 2 ? T::NT - 1 - j : j; /* there and back: neighbours share an operand */
            ptx::mma_m16n8k16_f16(acc[i][n], f.a[i], f.b[n / 2][n % 2 * 2], f.b[n / 2][n % 2 * 2 + 1]);
        }
}

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

    const lane_rows rows = find_rows<T>(warp_m, warp_n);
    const int steps = divide_up(args.k, T::BK);
    operands<T> o = {share<T, T::BM>(m0, args.m, args.ldx), share<T, T::BN>(n0, args.n, args.ldw), {}};
    float acc[T::MT][T::NT][4] = {};

#pragma unroll
    for (int s = 0; s < T::STAGES - 1; s++) {
        unsigned char *stage = shared + s * T::STAGE_BYTES;
        if (s < steps) {
            load_step<T, MODE>(args, stage, o, s * T::BK);
            if constexpr (MODE == CONVERT) store_held<T>(stage, o);
        }
        ptx::cp_async_commit();
    }
    ptx::cp_async_wait<T::STAGES - 2>();
    __syncthreads(); /* stage 0 is in place */

    const uint32_t base = ptx::shared_address(shared);
    fragments<T> f[2];
    load_fragments<T>(f[0], base, slice, rows);
    int read = 0, write = T::STAGES - 1; /* stages */
    for (int t = 0; t < steps; t++) {
        /* The stage that step t - 1 used is free: its last fragments were read before the barrier below. */
        const bool more = t + T::STAGES - 1 < steps;
        if (more) load_step<T, MODE>(args, shared + write * T::STAGE_BYTES, o, (t + T::STAGES - 1) * T::BK);
        ptx::cp_async_commit();
        const int next = read + 1 == T::STAGES ? 0 : read + 1;
#pragma unroll
        for (int s = 0; s < T::STEPS; s++) {
            if (s + 1 < T::STEPS) {
                load_fragments<T>(f[(s + 1) % 2], base + read * T::STAGE_BYTES, (s + 1) * T::WARPS_K + slice,
                                  rows);
            } else {
                ptx::cp_async_wait<T::STAGES - 2>();
                __syncthreads(); /* step t + 1 is in place, and nobody reads this stage again */
                load_fragments<T>(f[(s + 1) % 2], base + next * T::STAGE_BYTES, slice, rows);
            }
            multiply<T>(acc, f[s % 2]);
        }
        if constexpr (T::STEPS % 2 == 1) f[0] = f[1];
        if constexpr (MODE == CONVERT)
            if (more) store_held<T>(shared + write * T::STAGE_BYTES, o);
        write = read;
        read = next;
    }
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

    /* Waves of blocks, each as long as its products at 2.9 TFLOP/s an SM or its reads at 52 kB/us, whichever
     * takes longer; element-wise reads at a tenth of that. Constants as measured on an H200. */
    static double cost_us(const linear_args &a, int sms)
    {
        const double rate = MODE == GENERAL ? 5.2e3 : 5.2e4, share = T::BLOCKS;
        const double rows = a.m < T::BM ? a.m : T::BM, x_bytes = MODE == CONVERT ? 4 : 2;
        const double products = 2.0 * T::BM * T::BN * a.k / 2.9e6,
                     reads = (x_bytes * rows + 2.0 * T::BN) * a.k / rate;
        const double waves = divide_up(blocks(a), static_cast<int64_t>(sms) * T::BLOCKS);
        return 2.5 + waves * share * (products > reads ? products : reads);
    }
};

template <class T, int MODE> constexpr kernel_config make(const char *name)
{
    return make_config_with_cost<launcher<T, MODE>>(name);
}

using t128x256 = tile<128, 256, 32, 4, 2, 4, 1, 1>;
using t128x128 = tile<128, 128, 64, 3, 2, 4, 1, 1>;
using t64x64 = tile<64, 64, 64, 3, 2, 2, 1, 2>;
using t64x32k4 = tile<64, 32, 128, 4, 2, 1, 4, 1>;
using t32x32k8 = tile<32, 32, 128, 4, 1, 1, 8, 1>;

} // namespace

const kernel_config mma_configs[] = {
    make<t128x256, COPY>("mma 128x256x32"),
    make<t128x128, COPY>("mma 128x128x64"),
    make<t64x64, COPY>("mma 64x64x64"),
    make<t64x32k4, COPY>("mma 64x32x128 k4"),
    make<t32x32k8, COPY>("mma 32x32x128 k8"),
    make<t128x128, CONVERT>("mma 128x128x64 fp32"),
    make<t64x64, CONVERT>("mma 64x64x64 fp32"),
    make<t64x64, GENERAL>("mma 64x64x64 general"),
    {},
};

} // namespace linear
