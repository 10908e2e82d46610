/* What pointwise_tiled.cu and linear_mma.cu share: sums of a tile by mma.sync, fed by cp.async; sm_80 and up.
 *
 * A block makes tiles of BM x BN sums. A stage of shared memory holds BK of k: BM rows of x, then BN rows of
 * w. A row's 16-byte pieces are XOR-swizzled by the row, so that the eight rows that ldmatrix reads at one
 * piece touch every bank once. STAGES stages are a ring: STAGES - 1 are being loaded while one is used. There
 * are WARPS_M x WARPS_N x WARPS_K warps; warp (., ., z) takes every WARPS_K-th 16 of k in a stage. Fragments
 * are loaded from shared memory one k of 16 ahead of the MMAs that need them.
 *
 * A kernel brings a loader and a prologue. loader.start(stage) starts copying the next BK of k;
 * loader.finish(stage) follows the MMAs that come between, and the next barrier; neither does anything when
 * there is no more k. prologue(a, step, i) may change the fragments of x for the i-th 16 of k in a step;
 * false: there is no k left. */
#ifndef EFFNET_KERNELS_MMA_TILE_CUH
#define EFFNET_KERNELS_MMA_TILE_CUH

#include "ptx.cuh"

namespace mma
{

template <int BM_, int BN_, int BK_, int STAGES_, int WARPS_M_, int WARPS_N_, int WARPS_K_ = 1> struct tile {
    static constexpr int BM = BM_, BN = BN_, BK = BK_, STAGES = STAGES_, WARPS_M = WARPS_M_,
                         WARPS_N = WARPS_N_, WARPS_K = WARPS_K_;
    static constexpr int WARPS = WARPS_M * WARPS_N, THREADS = 32 * WARPS * WARPS_K;
    static constexpr int WM = BM / WARPS_M, WN = BN / WARPS_N;    /* a warp's share */
    static constexpr int MT = WM / 16, NT = WN / 8;               /* in fragments */
    static constexpr int PIECES = BK / 8;                         /* of 16 bytes, in a row */
    static constexpr int LINE_ROWS = PIECES < 8 ? 8 / PIECES : 1; /* rows in 128 bytes, all banks once */
    static constexpr int STEPS = BK / 16 / WARPS_K;               /* of a warp, in a stage */
    static constexpr int ROW_STEP = THREADS / PIECES;             /* rows from a thread's piece to its next */
    static_assert(ROW_STEP % (8 * LINE_ROWS) == 0, "the swizzle repeats every eight lines");
    static constexpr int ROW_BYTES = BK * 2, W_OFFSET = BM * ROW_BYTES, STAGE_BYTES = (BM + BN) * ROW_BYTES,
                         RING_BYTES = STAGES * STAGE_BYTES;
    static_assert(BM % (16 * WARPS_M) == 0 && BN % (8 * WARPS_N) == 0, "warps tile the block's tile");
    static_assert(BK % (16 * WARPS_K) == 0, "every warp has a step in every stage");
    static_assert(STAGES >= 3, "a loader finishes a stage one step before the barrier that publishes it");

    __host__ __device__ static int steps(int k) { return (k + BK - 1) / BK; }

    /* Byte offset of a 16-byte piece in a stage's x or w part. */
    __device__ static uint32_t offset(int row, int piece)
    {
        return 16 * (row * PIECES + (piece ^ (row / LINE_ROWS % (PIECES < 8 ? PIECES : 8))));
    }
};

/* A thread's pieces of one operand's ROWS in a stage: one every ROW_STEP rows, in the same column of pieces
 * and with the same swizzle. */
template <class T, int ROWS> struct share {
    static constexpr int ROW_STEP = T::ROW_STEP, COUNT = (ROWS + ROW_STEP - 1) / ROW_STEP;
    int64_t first, step;  /* element of the first piece at k = 0; elements from one piece to the next */
    uint32_t stage_first; /* byte of the first piece in a stage */
    uint32_t rows;        /* bit i: the row of piece i exists */

    /* For the rows from row0 on, of row_count, that lie ld elements apart. */
    __device__ __forceinline__ void set(int64_t row0, int64_t row_count, int64_t ld)
    {
        const int row = threadIdx.x / T::PIECES, piece = threadIdx.x % T::PIECES;
        first = (row0 + row) * ld + 8 * piece;
        step = ROW_STEP * ld;
        stage_first = T::offset(row, piece);
        rows = 0;
#pragma unroll
        for (int i = 0; i < COUNT; i++) rows |= (row0 + row + i * ROW_STEP < row_count) << i;
    }
    __device__ __forceinline__ bool row_ok(int i) const
    {
        return rows >> i & 1;
    }
    __device__ __forceinline__ uint32_t stage_offset(int i) const
    {
        return stage_first + i * ROW_STEP * T::ROW_BYTES;
    }
    /* Whether there is a piece i: the last ones need not come out even. */
    __device__ __forceinline__ static bool has(int i)
    {
        return (i + 1) * ROW_STEP <= ROWS || static_cast<int>(threadIdx.x / T::PIECES) + i * ROW_STEP < ROWS;
    }

    /* Starts copying step k0.. of k to this operand's part of a stage. A piece of a row that does not exist,
     * or past k, becomes zeros and is not read. */
    __device__ __forceinline__ void copy(const __half *base, int k0, int64_t k, uint32_t stage) const
    {
        const bool k_ok = k0 + 8 * static_cast<int>(threadIdx.x % T::PIECES) < k;
#pragma unroll
        for (int i = 0; i < COUNT; i++)
            if (has(i))
                ptx::cp_async_16(stage + stage_offset(i), base + first + i * step + k0, k_ok && row_ok(i));
    }
};

/* A warp's operands for one k of 16. */
template <class T> struct fragments {
    uint32_t a[T::MT][4], b[(T::NT + 1) / 2][4];
};

/* A thread's part in all this. */
template <class T> struct pipeline {
    unsigned char *stages;
    uint32_t base;
    int slice; /* which of the WARPS_K */
    /* Where this lane finds its rows for ldmatrix in a stage, in bytes: row, half of 16 in k, swizzle. */
    uint32_t a_row, a_half, a_swizzle, b_row, b_half, b_swizzle;
    int read = 0, write = T::STAGES - 1; /* stages */
    fragments<T> f[2];                   /* in use, and the next */

    /* warp_m and warp_n: the first row and column of the warp's share. */
    __device__ __forceinline__ pipeline(unsigned char *shared, int warp_m, int warp_n, int slice_)
        : stages(shared), base(ptx::shared_address(shared)), slice(slice_)
    {
        const int lane = threadIdx.x & 31, a = warp_m + lane % 16, b = warp_n + lane % 8 + lane / 16 * 8;
        a_row = a * T::ROW_BYTES, a_half = lane / 16 * 16, a_swizzle = T::offset(a, 0) - a_row;
        b_row = b * T::ROW_BYTES, b_half = lane / 8 % 2 * 16, b_swizzle = T::offset(b, 0) - b_row;
    }

    __device__ __forceinline__ void load_fragments(fragments<T> &to, int stage, int step) const
    {
        const uint32_t at = base + stage * T::STAGE_BYTES;
        const uint32_t a = at + a_row + ((32 * step + a_half) ^ a_swizzle);
        const uint32_t b = at + T::W_OFFSET + b_row + ((32 * step + b_half) ^ b_swizzle);
#pragma unroll
        for (int i = 0; i < T::MT; i++) ptx::ldmatrix_x4(to.a[i], a + i * 16 * T::ROW_BYTES);
#pragma unroll
        for (int j = 0; j < T::NT / 2; j++) ptx::ldmatrix_x4(to.b[j], b + j * 16 * T::ROW_BYTES);
        if constexpr (T::NT % 2) /* the last one twice: the rows behind it are not the tile's */
            ptx::ldmatrix_x4(to.b[T::NT / 2],
                             b + (T::NT / 2 * 16 - (threadIdx.x & 31) / 16 * 8) * T::ROW_BYTES);
    }

    /* Fills the ring, waits for the first stage. */
    template <class Loader> __device__ __forceinline__ void start(Loader &loader)
    {
#pragma unroll
        for (int s = 0; s < T::STAGES - 1; s++) {
            loader.start(stages + s * T::STAGE_BYTES);
            loader.finish(stages + s * T::STAGE_BYTES);
            ptx::cp_async_commit();
        }
        ptx::cp_async_wait<T::STAGES - 2>();
        __syncthreads(); /* stage 0 is in place */
        load_fragments(f[0], 0, slice);
    }

    /* Adds the next so many steps to acc. */
    template <class Loader, class Prologue>
    __device__ __forceinline__ void multiply(float (&acc)[T::MT][T::NT][4], int steps, Loader &loader,
                                             const Prologue &prologue)
    {
        for (int t = 0; t < steps; t++) {
            /* The stage that step t - 1 used is free: its last fragments were read before the barrier below.
             */
            loader.start(stages + write * T::STAGE_BYTES);
            ptx::cp_async_commit(); /* an empty group keeps the count of groups in step */
            const int next = read + 1 == T::STAGES ? 0 : read + 1;
#pragma unroll
            for (int s = 0; s < T::STEPS; s++) {
                if (s + 1 < T::STEPS) {
                    load_fragments(f[(s + 1) % 2], read, (s + 1) * T::WARPS_K + slice);
                } else {
                    ptx::cp_async_wait<T::STAGES - 2>();
                    __syncthreads(); /* step t + 1 is in place, and nobody reads this stage again */
                    load_fragments(f[(s + 1) % 2], next, slice);
                }
                if (prologue(f[s % 2].a, t, s * T::WARPS_K + slice)) add(acc, f[s % 2]);
            }
            if constexpr (T::STEPS % 2 == 1) f[0] = f[1];
            loader.finish(stages + write * T::STAGE_BYTES);
            write = read;
            read = next;
        }
    }

    __device__ __forceinline__ static void add(float (&acc)[T::MT][T::NT][4], const fragments<T> &f)
    {
#pragma unroll
        for (int i = 0; i < T::MT; i++)
#pragma unroll
            for (int j = 0; j < T::NT; j++) {
                const int n = i % 2 ? T::NT - 1 - j : j; /* there and back: neighbours share an operand */
                ptx::mma_m16n8k16_f16(acc[i][n], f.a[i], f.b[n / 2][n % 2 * 2], f.b[n / 2][n % 2 * 2 + 1]);
            }
    }
};

} // namespace mma

#endif
