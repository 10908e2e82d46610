/* 1x1 convolution from global memory to registers: for few pixels, or few channels.
 *
 *   y[m][n] = act(sum_k p(x[m][k]) * w[n][k] + bias[n] + residual[m][n])      (pointwise.h)
 *
 * A sum over k may be taken in any order as long as x and w agree. So lane t of a quad takes the eight
 * neighbouring channels 32c + 8t .. 32c + 8t + 7 of chunk c, one 16-byte load for each row of x and of w, and
 * hands them to two mma instructions as if they were the channels that the fragment layout asks for. No
 * shared memory, no barrier, and all loads of a chunk are independent.
 *
 * Grid: one block a tile of 16 MT x 8 NT WN outputs, column tiles fastest. Block: WN x WK warps. WN warps
 * stand side by side over the columns; the WK warps of one column strip take every WK-th chunk each and add
 * up at the end through shared memory, in the order of the warps, so the result is the same every time.
 *
 * Fewest bytes: 2 * (m*k + n*k + m*n [+ m*n residual]); FLOPs 2*m*n*k. Measurements: docs/pointwise.md. */
#include "pointwise_common.cuh"

namespace pointwise
{

template <int MT_, int NT_, int WK_, int WN_> struct strip {
    static constexpr int MT = MT_, NT = NT_, WK = WK_, WN = WN_;
    static constexpr int THREADS = 32 * WK * WN;
    static constexpr int BM = 16 * MT, BN = 8 * NT * WN;
    static constexpr int PITCH = 8 * NT + 4; /* floats; rows land in different banks */
    static constexpr int PARTIAL = BM * PITCH;
    static constexpr int SHARED_BYTES = WK > 1 ? WK *WN *PARTIAL * 4 : 0;
    static_assert(SHARED_BYTES <= 99 * 1024, "must run on sm_89");
};

/* The gate on eight channels of a lane's rows. */
template <class S>
__device__ __forceinline__ void gate_rows(uint4 (&a)[S::MT][2], const pointwise_args &args,
                                          const gated_rows &rows, int k)
{
    const auto gate_row = [](uint4 &v, const uint4 &gate) {
        v.x = multiply(v.x, gate.x), v.y = multiply(v.y, gate.y);
        v.z = multiply(v.z, gate.z), v.w = multiply(v.w, gate.w);
    };
    if (rows.together) {
        const uint4 gate = *reinterpret_cast<const uint4 *>(gate_of(args, rows.first, k));
#pragma unroll
        for (int i = 0; i < 2 * S::MT; i++) gate_row(a[i / 2][i % 2], gate);
        return;
    }
#pragma unroll
    for (int i = 0; i < 2 * S::MT; i++) {
        const int row = rows.first + 8 * i + (threadIdx.x & 31) / 4;
        if (row < rows.end)
            gate_row(a[i / 2][i % 2], *reinterpret_cast<const uint4 *>(gate_of(args, row, k)));
    }
}

/* One warp's share of the sum: chunks first, first + WK, ... */
template <class S, int WAYS>
__device__ __forceinline__ void accumulate(float (&acc)[S::MT][S::NT][4], const pointwise_args &args, int m0,
                                           int row_end, int n0, int first)
{
    const int lane = threadIdx.x & 31, g = lane >> 2, t = lane & 3;
    const __half *x = static_cast<const __half *>(args.x), *w = static_cast<const __half *>(args.w);
    const __half2 input_max = __float2half2_rn(args.input_max);
    const uint4 zero = make_uint4(0, 0, 0, 0);
    const gated_rows rows(args, m0, S::BM, row_end);
    constexpr int PARTS = WAYS & LOW ? 2 : 1; /* of w */
#pragma unroll 2
    for (int k = 32 * first + 8 * t; k - 8 * t < args.k; k += 32 * S::WK) {
        const bool k_ok = k < args.k;
        uint4 a[S::MT][2], b[PARTS][S::NT];
#pragma unroll
        for (int i = 0; i < 2 * S::MT; i++) {
            const int row = m0 + 8 * i + g;
            a[i / 2][i % 2] = zero;
            if (k_ok && row < row_end)
                a[i / 2][i % 2] = *reinterpret_cast<const uint4 *>(x + static_cast<size_t>(row) * args.k + k);
        }
#pragma unroll
        for (int part = 0; part < PARTS; part++)
#pragma unroll
            for (int j = 0; j < S::NT; j++) {
                const int column = n0 + 8 * j + g;
                const __half *row = w + static_cast<size_t>(part * args.n + column) * args.k;
                b[part][j] = zero;
                if (k_ok && column < args.n) b[part][j] = __ldg(reinterpret_cast<const uint4 *>(row + k));
            }
        if constexpr (WAYS & GATE) {
            if (k_ok) gate_rows<S>(a, args, rows, k);
        } else if (args.input_bias && k_ok) {
            const __half *input_bias = static_cast<const __half *>(args.input_bias) + k;
            const uint4 bias = __ldg(reinterpret_cast<const uint4 *>(input_bias));
            const uint4 low = __ldg(reinterpret_cast<const uint4 *>(input_bias + args.k));
#pragma unroll
            for (int i = 0; i < 2 * S::MT; i++) {
                uint4 &v = a[i / 2][i % 2];
                v.x = bias_and_clamp(v.x, bias.x, low.x, input_max);
                v.y = bias_and_clamp(v.y, bias.y, low.y, input_max);
                v.z = bias_and_clamp(v.z, bias.z, low.z, input_max);
                v.w = bias_and_clamp(v.w, bias.w, low.w, input_max);
            }
        }
#pragma unroll
        for (int i = 0; i < S::MT; i++) {
            const uint32_t low[4] = {a[i][0].x, a[i][1].x, a[i][0].y, a[i][1].y};
            const uint32_t high[4] = {a[i][0].z, a[i][1].z, a[i][0].w, a[i][1].w};
#pragma unroll
            for (int part = 0; part < PARTS; part++)
#pragma unroll
                for (int j = 0; j < S::NT; j++) {
                    ptx::mma_m16n8k16_f16(acc[i][j], low, b[part][j].x, b[part][j].y);
                    ptx::mma_m16n8k16_f16(acc[i][j], high, b[part][j].z, b[part][j].w);
                }
        }
    }
}

/* Adds the partial sums of a strip's warps, eight columns a thread, and finishes them; with pooling the
 * results stay in shared memory for the sum over rows. */
template <class S, int WAYS>
__device__ __forceinline__ void finish_partials(float *shared, const pointwise_args &args, int m0,
                                                int row_end, int tile_n0)
{
    constexpr int VECTORS = S::BM * S::NT * S::WN;
    for (int v = threadIdx.x; v < VECTORS; v += S::THREADS) {
        const int strip = v / (S::BM * S::NT), row = v / S::NT % S::BM, vector = v % S::NT;
        const int column = tile_n0 + 8 * (strip * S::NT + vector);
        if (m0 + row >= row_end || column >= args.n) continue;
        float *partial = shared + strip * S::WK * S::PARTIAL + row * S::PITCH + 8 * vector;
        const size_t offset = static_cast<size_t>(m0 + row) * args.n + column;
        float sum[8];
#pragma unroll
        for (int i = 0; i < 8; i++) sum[i] = partial[i];
#pragma unroll
        for (int s = 1; s < S::WK; s++)
#pragma unroll
            for (int i = 0; i < 8; i++) sum[i] += partial[s * S::PARTIAL + i];
        uint32_t r[4] = {0, 0, 0, 0};
        if (args.residual)
            *reinterpret_cast<uint4 *>(r) = *reinterpret_cast<const uint4 *>(
                static_cast<const __half *>(args.residual) + offset);
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const float2 residual = __half22float2(as_half2(r[i]));
            sum[2 * i] = clamp(sum[2 * i] + residual.x, args.output_min, args.output_max);
            sum[2 * i + 1] = clamp(sum[2 * i + 1] + residual.y, args.output_min, args.output_max);
        }
        if constexpr (WAYS & (GATE | SILU)) {
            if (args.silu) {
#pragma unroll
                for (int i = 0; i < 4; i++) epilogue::silu_pair(sum[2 * i], sum[2 * i + 1]);
            }
        }
#pragma unroll
        for (int i = 0; i < 4; i++) {
            r[i] = as_bits(__floats2half2_rn(sum[2 * i], sum[2 * i + 1]));
        }
        if (args.pool_rows)
#pragma unroll
            for (int i = 0; i < 8; i++) partial[i] = sum[i];
        else
            *reinterpret_cast<uint4 *>(static_cast<__half *>(args.y) +
                                       offset) = *reinterpret_cast<uint4 *>(r);
    }
    if (!args.pool_rows) return;
    __syncthreads(); /* all rows are finished */
    for (int c = threadIdx.x; c < S::BN; c += S::THREADS) {
        const int strip = c / (8 * S::NT);
        if (tile_n0 + c >= args.n) continue;
        const float *value = shared + strip * S::WK * S::PARTIAL + c % (8 * S::NT);
        float sum = 0.0f;
#pragma unroll 16
        for (int row = 0; row < args.pool_rows; row++) sum += value[row * S::PITCH];
        static_cast<__half *>(args.y)[static_cast<size_t>(m0 / args.pool_rows) * args.n + tile_n0 + c] =
            __float2half_rn(sum / args.pool_rows);
    }
}

template <class S, int WAYS>
__global__ void __launch_bounds__(S::THREADS) pointwise_direct(const __grid_constant__ pointwise_args args)
{
    extern __shared__ __align__(16) float partials[];
    const int column_tiles = (args.n + S::BN - 1) / S::BN;
    const int rows = args.pool_rows ? args.pool_rows : S::BM;
    const int m0 = blockIdx.x / column_tiles * rows, tile_n0 = blockIdx.x % column_tiles * S::BN;
    const int row_end = min(m0 + rows, args.m);
    const int warp = threadIdx.x / 32, strip = warp / S::WK, share = warp % S::WK;
    const int n0 = tile_n0 + strip * 8 * S::NT;

    float acc[S::MT][S::NT][4] = {};
    ptx::grid_launch_next();
    if (share == 0) start_from_bias(acc, args, n0);
    ptx::grid_wait();
    accumulate<S, WAYS>(acc, args, m0, row_end, n0, share);
    if constexpr (S::WK == 1) {
        if constexpr (WAYS & (GATE | SILU)) finish_sums(acc, args, m0, n0, row_end);
        store_fragments<WAYS == RESIDUAL>(acc, args, m0, n0, row_end);
    } else {
        const int lane = threadIdx.x & 31, g = lane >> 2, t = lane & 3;
        float *partial = partials + warp * S::PARTIAL;
#pragma unroll
        for (int i = 0; i < 2 * S::MT; i++)
#pragma unroll
            for (int j = 0; j < S::NT; j++)
                *reinterpret_cast<float2 *>(partial + (8 * i + g) * S::PITCH + 8 * j + 2 * t) = make_float2(
                    acc[i / 2][j][2 * (i % 2)], acc[i / 2][j][2 * (i % 2) + 1]);
        __syncthreads(); /* every warp's partial sums are in place */
        finish_partials<S, WAYS>(partials, args, m0, row_end, tile_n0);
    }
}

template <class S> struct launcher {
    static int shared_bytes(const pointwise_args &) { return S::SHARED_BYTES; }

    static bool fits(const pointwise_args &args)
    {
        if (!fills_tile(args.n, S::BN)) return false;
        if (S::WK > 1 && args.k <= 16 * S::WK) return false; /* half the warps would have nothing to add */
        if (args.pool_rows && (S::WK == 1 || args.pool_rows > S::BM || args.residual)) return false;
        if (S::WK == 1 && args.w_low && args.residual) return false; /* no layer has both */
        return blocks(args) < (1LL << 31);
    }

    static long long blocks(const pointwise_args &args)
    {
        const int rows = args.pool_rows ? args.pool_rows : S::BM;
        return static_cast<long long>((args.m + rows - 1) / rows) * ((args.n + S::BN - 1) / S::BN);
    }

    static cudaError_t launch(const pointwise_args &args, cudaStream_t stream)
    {
        constexpr int ADDING = S::WK == 1 ? RESIDUAL : PLAIN; /* else one kernel does both */
        auto kernel = pointwise_direct<S, PLAIN>;
        if (args.gate)
            kernel = args.w_low ? pointwise_direct<S, GATE | LOW> : pointwise_direct<S, GATE>;
        else if (args.w_low)
            kernel = pointwise_direct<S, LOW>;
        else if (args.silu)
            kernel = pointwise_direct<S, SILU>;
        else if (args.residual)
            kernel = pointwise_direct<S, ADDING>;
        return launch_overlapping(kernel, static_cast<unsigned>(blocks(args)), S::THREADS, S::SHARED_BYTES,
                                  stream, args);
    }
};

#define DIRECT(MT, NT, WK, WN)                                                                               \
    make_config<launcher<strip<MT, NT, WK, WN>>>("direct " #MT "x" #NT " k" #WK " n" #WN)

const kernel_config direct_configs[] = {
    DIRECT(2, 2, 1, 1),
    DIRECT(1, 3, 1, 1),
    DIRECT(2, 5, 1, 1),
    DIRECT(1, 4, 1, 4),
    DIRECT(2, 4, 1, 4),
    DIRECT(1, 6, 1, 2),
    DIRECT(2, 6, 1, 2),
    DIRECT(1, 2, 4, 1),
    DIRECT(1, 2, 8, 1),
    DIRECT(1, 4, 4, 1),
    DIRECT(2, 2, 8, 1),
    DIRECT(2, 4, 4, 1),
    DIRECT(2, 4, 8, 1),
    DIRECT(2, 4, 2, 2),
    DIRECT(4, 2, 4, 1),
    DIRECT(4, 4, 4, 1),
    {},
};

} // namespace pointwise
