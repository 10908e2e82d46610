/* Linear layer for few rows: a matrix-vector product, or nearly, that streams w once (linear.h).
 *
 * Grid: (n / 8, m / (16 MT)). A block computes 8 columns for 16 MT rows; its 8 warps share k, warp z taking
 * every eighth chunk of 32, and their sums are added in order in shared memory.
 *
 * A sum over k may take its terms in any order, as long as x and w take the same one: lane (g, t) of a warp
 * fetches the eight elements 8 t .. 8 t + 7 of a chunk of row g, 16 bytes, and hands elements 0..3 to the
 * first mma.sync and 4..7 to the second, where the instruction thinks of k = 2t, 2t + 1, 2t + 8, 2t + 9. So a
 * quad reads 64 bytes of a row, and a thread uses exactly what it fetched: no exchange, no barrier.
 *
 * The fetches go by cp.async into a queue of the thread's own in shared memory, DEPTH chunks long, with the
 * threads' pieces side by side. (Fetching to registers, as pointwise_direct.cu does with the same order of k,
 * left three in flight: to save registers the assembler moved the loads between the MMAs. Apart from that
 * order the two have little in common: that one has no queue, whose way through shared memory would delay the
 * first MMA of its short sums.)
 *
 * Fewest bytes: 2 n k for w. x is read from L2 by every block, so many rows want another form. 256 threads,
 * at most 96 KB of shared memory. Measurements: docs/linear.md. */
#include "launch.cuh"
#include "linear_common.cuh"

namespace linear
{

namespace
{

constexpr int WARPS = 8, THREADS = 32 * WARPS, COLUMNS = 8, CHUNK = 32;

template <int MT_, mode MODE_> struct shape {
    static constexpr int MT = MT_;
    static constexpr mode MODE = MODE_;
    static constexpr int ROWS = 16 * MT, GROUPS = 2 * MT;    /* of 8 rows */
    static constexpr int X_PIECES = MODE == CONVERT ? 2 : 1; /* of 16 bytes, for eight elements of x */
    static constexpr int PIECES = 1 + GROUPS * X_PIECES;
    static constexpr int SLOT_BYTES = PIECES * 16 * THREADS, DEPTH = 96 * 1024 / SLOT_BYTES;
    static_assert(DEPTH >= 2, "something is in flight while a chunk is used");
};

/* What a thread reads, and its queue. */
template <class S> struct reader {
    const linear_args &args;
    unsigned char *queue; /* slot s, piece p at queue + (s * PIECES + p) * 16 * THREADS */
    int64_t w_offset, x_offset[S::GROUPS];
    bool w_ok, x_ok[S::GROUPS]; /* the column exists, and the rows: else zeros, and nothing is read */

    /* Starts fetching elements k .. k + 7 of the thread's rows, zeros past the end, to a slot. */
    __device__ __forceinline__ void fetch(int slot, int64_t k) const
    {
        unsigned char *at = queue + slot * S::SLOT_BYTES;
        const bool k_ok = k < args.k;
        piece(at, args.w, LINEAR_FP16, w_offset, k, k_ok && w_ok);
#pragma unroll
        for (int i = 0; i < S::GROUPS; i++) {
            const bool ok = k_ok && x_ok[i];
            at += 16 * THREADS;
            piece(at, args.x, args.x_type, x_offset[i], k, ok);
            if constexpr (S::MODE == CONVERT) {
                at += 16 * THREADS;
                piece(at, args.x, args.x_type, x_offset[i] + 4, k, ok);
            }
        }
    }

    __device__ __forceinline__ void piece(unsigned char *at, const void *base, int type, int64_t offset,
                                          int64_t k, bool ok) const
    {
        if constexpr (S::MODE == GENERAL)
            *reinterpret_cast<uint4 *>(at) = load_piece(base, type, offset + k, ok ? args.k - k : 0);
        else
            ptx::cp_async_16(ptx::shared_address(at),
                             static_cast<const char *>(base) + (offset + k) * element_bytes(type), ok);
    }

    __device__ __forceinline__ uint4 w(int slot) const
    {
        return word(slot, 0);
    }
    __device__ __forceinline__ uint4 x(int slot, int group) const
    {
        if constexpr (S::MODE == CONVERT)
            return round_piece(as_float4(word(slot, 1 + 2 * group)), as_float4(word(slot, 2 + 2 * group)));
        else
            return word(slot, 1 + group);
    }
    __device__ __forceinline__ uint4 word(int slot, int p) const
    {
        return *reinterpret_cast<const uint4 *>(queue + (slot * S::PIECES + p) * 16 * THREADS);
    }
    __device__ __forceinline__ static float4 as_float4(uint4 v)
    {
        return *reinterpret_cast<float4 *>(&v);
    }
};

template <class S>
__global__ void __launch_bounds__(THREADS)
    linear_small_kernel(const __grid_constant__ linear_args args, int depth)
{
    extern __shared__ __align__(16) unsigned char shared[];
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    const int64_t column0 = static_cast<int64_t>(blockIdx.x) * COLUMNS;
    const int64_t row0 = static_cast<int64_t>(blockIdx.y) * S::ROWS;
    reader<S> in = {args, shared + 16 * threadIdx.x, (column0 + g) * args.ldw, {}, column0 + g < args.n, {}};
#pragma unroll
    for (int i = 0; i < S::GROUPS; i++) {
        const int64_t row = row0 + 8 * i + g;
        in.x_offset[i] = row * args.ldx;
        in.x_ok[i] = row < args.m;
    }
    const int chunks = divide_up(args.k, CHUNK);
    float acc[S::MT][4] = {};

    int next = warp; /* chunk to fetch */
    for (int s = 0; s < S::DEPTH; s++, next += WARPS) {
        if (s < depth) in.fetch(s, static_cast<int64_t>(next) * CHUNK + 8 * t);
        ptx::cp_async_commit();
    }
    int slot = 0;
    for (int c = warp; c < chunks; c += WARPS, next += WARPS) {
        ptx::cp_async_wait<S::DEPTH - 1>(); /* this thread's oldest chunk is in place */
        const uint4 w = in.w(slot);
#pragma unroll
        for (int i = 0; i < S::MT; i++) {
            const uint4 low = in.x(slot, 2 * i), high = in.x(slot, 2 * i + 1);
            const uint32_t first[4] = {low.x, high.x, low.y, high.y};
            const uint32_t second[4] = {low.z, high.z, low.w, high.w};
            ptx::mma_m16n8k16_f16(acc[i], first, w.x, w.y);
            ptx::mma_m16n8k16_f16(acc[i], second, w.z, w.w);
        }
        if (next < chunks) in.fetch(slot, static_cast<int64_t>(next) * CHUNK + 8 * t);
        ptx::cp_async_commit();
        slot = slot + 1 == S::DEPTH ? 0 : slot + 1;
    }
    ptx::cp_async_wait<0>();
    __syncthreads(); /* the queues become room for sums */
    float(*sums)[S::ROWS][COLUMNS] = reinterpret_cast<float(*)[S::ROWS][COLUMNS]>(shared);
#pragma unroll
    for (int i = 0; i < S::GROUPS; i++)
        *reinterpret_cast<float2 *>(&sums[warp][8 * i + g][2 * t]) = make_float2(acc[i / 2][i % 2 * 2],
                                                                                 acc[i / 2][i % 2 * 2 + 1]);
    __syncthreads(); /* every warp's sums are written */
    for (int i = threadIdx.x; i < S::ROWS * COLUMNS; i += THREADS) {
        const int64_t row = row0 + i / COLUMNS, column = column0 + i % COLUMNS;
        float v = sums[0][i / COLUMNS][i % COLUMNS];
#pragma unroll
        for (int z = 1; z < WARPS; z++) v += sums[z][i / COLUMNS][i % COLUMNS];
        const float2 p = column_parameters(args, static_cast<int>(column));
        if (row < args.m && column < args.n)
            store_one(args, row, column, activate_any<ACTIVATION_TANH>(args.activation, fmaf(v, p.x, p.y)));
    }
}

template <class S> struct launcher {
    static int64_t blocks_down(const linear_args &a) { return divide_up(a.m, S::ROWS); }

    static bool fits(const linear_args &a) { return S::MODE == mode_of(a) && blocks_down(a) <= 65535; }

    /* Slots of a thread's queue. */
    static int depth(const linear_args &a)
    {
        const int64_t rounds = divide_up(divide_up(a.k, CHUNK), WARPS);
        return static_cast<int>(rounds < S::DEPTH ? rounds : S::DEPTH);
    }

    static int shared_bytes(const linear_args &a)
    {
        const int queues = depth(a) * S::SLOT_BYTES, sums = WARPS * S::ROWS * COLUMNS * 4;
        return queues > sums ? queues : sums;
    }

    static cudaError_t launch(const linear_args &a, cudaStream_t stream)
    {
        const dim3 grid(static_cast<unsigned>(divide_up(a.n, COLUMNS)),
                        static_cast<unsigned>(blocks_down(a)));
        return launch_after(linear_small_kernel<S>, grid, THREADS,
                            {shared_bytes(a), S::DEPTH * S::SLOT_BYTES}, stream, a, depth(a));
    }

    /* Waves of blocks, each a start and its reads at 55 kB/us, a fifth of that where x is rounded as it is
     * used, a tenth element-wise. Constants as measured on an H200. */
    static double cost_us(const linear_args &a, int sms)
    {
        const double blocks = static_cast<double>(divide_up(a.n, COLUMNS)) * blocks_down(a);
        const double rows = a.m < S::ROWS ? a.m : S::ROWS, waves = blocks < sms ? 1 : blocks / sms;
        const double rate = S::MODE == GENERAL ? 5.5e3 : S::MODE == CONVERT ? 1.1e4 : 5.5e4;
        const double x_bytes = S::MODE == CONVERT ? 4 : 2;
        return 1.0 + waves * (1.1 + (x_bytes * rows + 2 * COLUMNS) * a.k / rate);
    }
};

} // namespace

const kernel_config small_configs[] = {
    make_config_with_cost<launcher<shape<1, COPY>>>("small 16x8"),
    make_config_with_cost<launcher<shape<2, COPY>>>("small 32x8"),
    make_config_with_cost<launcher<shape<4, COPY>>>("small 64x8"),
    make_config_with_cost<launcher<shape<1, CONVERT>>>("small 16x8 fp32"),
    make_config_with_cost<launcher<shape<2, CONVERT>>>("small 32x8 fp32"),
    make_config_with_cost<launcher<shape<1, GENERAL>>>("small 16x8 general"),
    {},
};

} // namespace linear
