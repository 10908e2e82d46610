/* Depthwise convolution for large batches (depthwise.h): a thread computes columns, row by row.
 *
 * A thread computes TW neighbouring columns of two neighbouring channels, all rows of a strip of the image.
 * It loads each row of input once, a row ahead, and adds it to every output row that it belongs to, whose
 * sums wait in a ring of registers; the weights stay in registers too. So what is left besides the
 * multiply-adds is (TW + K - 1) / TW loads and conversions for each output. Consecutive threads hold
 * consecutive pairs of channels, so a warp reads and writes whole lines.
 *
 * Grid: one thread per strip, TW columns and two channels; block: 128 threads; shared memory: none, or 1 KB
 * for the sums of channels, which go with SiLU. Sums take their taps in the same order as in
 * depthwise_tile.cu.
 *
 * Fewest bytes: 2 a value of x and of y. FLOPs: 2 kernel^2 a value of y on CUDA cores, and a conversion for
 * each loaded value. Measurements: docs/depthwise.md. */
#include "depthwise_common.cuh"

namespace depthwise
{

namespace
{

template <int K_, int S_, int TW_> struct column {
    static constexpr int K = K_, S = S_, TW = TW_;
    static constexpr int COLUMNS = (TW - 1) * S + K; /* of input */
    static constexpr int SLOTS = (K + S - 1) / S; /* rows of output that a row of input belongs to, at most */
    static constexpr int PERIOD = SLOTS * S;      /* rows of input after which the ring starts over */
    /* On an SM; bounds the registers. */
    static constexpr int BLOCKS = K == 5 ? (TW > 6 ? 2 : 3) : (TW > 5 ? 4 : 5);
    __device__ static constexpr int slot(int output) { return (output + 2 * SLOTS) % SLOTS; }
};

/* A row of input at `from`; 0 for columns whose bit is not set in `inside`. */
template <class P>
__device__ __forceinline__ void load_row(__half2 (&row)[P::COLUMNS], const __half *from, int channels,
                                         unsigned inside)
{
#pragma unroll
    for (int c = 0; c < P::COLUMNS; c++) {
        row[c] = __float2half2_rn(0.0f);
        if (inside >> c & 1) row[c] = *reinterpret_cast<const __half2 *>(from);
        from += channels;
    }
}

/* Adds row j of a period to the sums of the outputs it belongs to. */
template <class P>
__device__ __forceinline__ void add_row(float2 (&sum)[P::SLOTS][P::TW], const __half2 (&row)[P::COLUMNS],
                                        const float2 (&weight)[P::K * P::K], int j)
{
#pragma unroll
    for (int c = 0; c < P::COLUMNS; c++) {
        const float2 v = __half22float2(row[c]);
#pragma unroll
        for (int back = 0; back < P::SLOTS; back++) {
            const int ky = j % P::S + back * P::S;
            if (ky >= P::K) continue;
#pragma unroll
            for (int t = 0; t < P::TW; t++) {
                const int kx = c - t * P::S;
                if (kx < 0 || kx >= P::K) continue;
                float2 &s = sum[P::slot(j / P::S - back)][t];
                const float2 &w = weight[ky * P::K + kx];
                s.x = fmaf(v.x, w.x, s.x), s.y = fmaf(v.y, w.y, s.y);
            }
        }
    }
}

/* act(sum) to y, and on to `total` where the activation is SiLU. */
template <class P, bool SILU>
__device__ __forceinline__ void store_row(__half *y, const float2 (&sum)[P::TW], const depthwise_args &args,
                                          int columns, float (&total)[2])
{
    const __half2 low = __float2half2_rn(args.output_min), high = __float2half2_rn(args.output_max);
#pragma unroll
    for (int t = 0; t < P::TW; t++) {
        if constexpr (SILU) {
            const float2 v = make_float2(epilogue::silu_for_half(sum[t].x),
                                         epilogue::silu_for_half(sum[t].y));
            if (t < columns) {
                *reinterpret_cast<__half2 *>(y) = __float22half2_rn(v);
                total[0] += v.x, total[1] += v.y;
            }
        } else if (t < columns) {
            /* the bounds are exact in fp16, so clamping after rounding gives the same */
            *reinterpret_cast<__half2 *>(y) = epilogue::clamp(__float22half2_rn(sum[t]), low, high);
        }
        y += args.channels;
    }
}

/* Without SILU a thread takes its work by its number in the grid; `shape` is not looked at. With SILU a
 * vector is a pair of channels, a place TW columns of a strip. */
template <class P, bool SILU>
__global__ void __launch_bounds__(THREADS, P::BLOCKS)
    depthwise_column(const __grid_constant__ depthwise_args args, int strips, int strip_rows,
                     const __grid_constant__ block_shape shape)
{
    ptx::grid_launch_next();
    const int pairs = args.channels / 2, tiles_x = (args.out_width + P::TW - 1) / P::TW;
    int channel, ox, oy, n;
    bool active = true;
    position at = {};
    if constexpr (SILU) {
        at = locate(shape, pairs);
        channel = at.active ? 2 * at.vector : 0, n = at.n;
        ox = at.place % tiles_x * P::TW, oy = at.place / tiles_x * strip_rows;
        active = at.active && oy < args.out_height;
    } else {
        const long long index = static_cast<long long>(blockIdx.x) * THREADS + threadIdx.x;
        long long rest = index / pairs;
        channel = static_cast<int>(index % pairs) * 2;
        ox = static_cast<int>(rest % tiles_x) * P::TW;
        rest /= tiles_x;
        oy = static_cast<int>(rest % strips) * strip_rows, n = static_cast<int>(rest / strips);
        if (n >= args.n) {
            ptx::grid_wait();
            return;
        }
    }
    float total[2] = {};
    float2 weight[P::K * P::K], sum[P::SLOTS][P::TW] = {};
#pragma unroll
    for (int i = 0; i < P::K * P::K; i++)
        weight[i] = __ldg(reinterpret_cast<const float2 *>(args.w + i * args.channels + channel));
    const float2 bias = __ldg(reinterpret_cast<const float2 *>(args.bias + channel));

    const int iy = oy * P::S - args.pad_top, ix = ox * P::S - args.pad_left;
    int rows = (min(strip_rows, args.out_height - oy) - 1) * P::S + P::K; /* of input, the padding's too */
    if (!active) rows = 0;
    unsigned inside = 0;
#pragma unroll
    for (int c = 0; c < P::COLUMNS; c++) inside |= (ix + c >= 0 && ix + c < args.width) << c;
    const ptrdiff_t in_row = static_cast<ptrdiff_t>(args.width) * args.channels,
                    out_row = static_cast<ptrdiff_t>(args.out_width) * args.channels;
    const __half *x = static_cast<const __half *>(args.x) + channel +
                      (static_cast<ptrdiff_t>(n) * args.height + iy) * in_row +
                      static_cast<ptrdiff_t>(ix) * args.channels;
    __half *y = static_cast<__half *>(args.y) + channel +
                (static_cast<ptrdiff_t>(n) * args.out_height + oy) * out_row +
                static_cast<ptrdiff_t>(ox) * args.channels;
    ptx::grid_wait();
    __half2 next[P::COLUMNS];
    load_row<P>(next, x, args.channels, iy >= 0 && iy < args.height ? inside : 0);
    for (int first = 0; first < rows; first += P::PERIOD) {
#pragma unroll
        for (int j = 0; j < P::PERIOD; j++) {
            const int r = first + j;
            if (r >= rows) break;
            __half2 row[P::COLUMNS];
#pragma unroll
            for (int c = 0; c < P::COLUMNS; c++) row[c] = next[c];
            x += in_row;
            const bool more = r + 1 < rows && iy + r + 1 >= 0 && iy + r + 1 < args.height;
            load_row<P>(next, x, args.channels, more ? inside : 0);
            if (j % P::S == 0)
#pragma unroll
                for (int t = 0; t < P::TW; t++) sum[P::slot(j / P::S)][t] = bias;
            add_row<P>(sum, row, weight, j);
            if ((j + P::PERIOD - (P::K - 1)) % P::S || r < P::K - 1) continue;
            store_row<P, SILU>(y, sum[P::slot((j + P::PERIOD - (P::K - 1)) / P::S)], args,
                               args.out_width - ox, total);
            y += out_row;
        }
    }
    if constexpr (SILU) store_sums(total, args, shape);
}

template <int TW> struct launcher : window_launcher<launcher<TW>> {
    struct strips {
        int count, rows; /* of output, in each but the last */
    };

    static int tiles_x(const depthwise_args &args) { return (args.out_width + TW - 1) / TW; }

    static long long threads_a_strip(const depthwise_args &args, int images)
    {
        return static_cast<long long>(images) * (args.channels / 2) * tiles_x(args);
    }

    static int most_strips(const depthwise_args &args) { return (args.out_height + 3) / 4; }

    static bool fits(const depthwise_args &args)
    {
        const int threads = args.activation == ACTIVATION_SILU ? 1 : THREADS; /* of a block, at least */
        return threads_a_strip(args, args.n) * most_strips(args) < (1LL << 31) * threads;
    }

    /* As few as fill the chip with so many images, since each reads K - S rows of its neighbours. */
    static strips choose_strips(const depthwise_args &args, int images, int blocks, int sms)
    {
        const long long columns = threads_a_strip(args, images);
        const long long wanted = 3LL * blocks * THREADS * sms; /* threads */
        long long count = (wanted + columns - 1) / columns;
        if (count > most_strips(args)) count = most_strips(args);
        const int rows = (args.out_height + static_cast<int>(count) - 1) / static_cast<int>(count);
        return {(args.out_height + rows - 1) / rows, rows};
    }

    /* A block has 64 bytes of a pixel at least. */
    static block_shape shape(const depthwise_args &args, const strips &strips)
    {
        return choose_shape(args.channels / 2, 64 / 4, 1, tiles_x(args) * strips.count);
    }

    static int sum_parts(const depthwise_args &args)
    {
        int sms = 0;
        if (sm_count(&sms) != cudaSuccess) return 0;
        const int blocks = args.kernel == 5 ? column<5, 1, TW>::BLOCKS : column<3, 1, TW>::BLOCKS;
        return shape(args, choose_strips(args, planned_images(args), blocks, sms)).parts;
    }

    template <int K, int S> static cudaError_t launch_window(const depthwise_args &args, cudaStream_t stream)
    {
        using P = column<K, S, TW>;
        int sms = 0;
        const cudaError_t status = sm_count(&sms);
        if (status != cudaSuccess) return status;
        if (args.silu) {
            const strips s = choose_strips(args, planned_images(args), P::BLOCKS, sms);
            const block_shape blocks = shape(args, s);
            return launch_overlapping(depthwise_column<P, true>, static_cast<unsigned>(blocks.blocks(args.n)),
                                      blocks.threads(), 0, stream, args, s.count, s.rows, blocks);
        }
        const strips s = choose_strips(args, args.n, P::BLOCKS, sms);
        const long long blocks = (threads_a_strip(args, args.n) * s.count + THREADS - 1) / THREADS;
        return launch_overlapping(depthwise_column<P, false>, static_cast<unsigned>(blocks), THREADS, 0,
                                  stream, args, s.count, s.rows, block_shape());
    }
};

} // namespace

#define COLUMN(TW) make_config_with_sums<launcher<TW>>(#TW " columns, 2 channels")

const kernel_config column_configs[] = {COLUMN(5), COLUMN(6), COLUMN(8), {}};

} // namespace depthwise
