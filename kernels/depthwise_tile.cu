/* Depthwise convolution from global memory to registers (depthwise.h).
 *
 * A thread computes TH x TW neighbouring output pixels of V neighbouring channels. It takes the input rows
 * that these need from top to bottom: a row's pixels are loaded once, converted to fp32 once, and used for
 * every output and tap they belong to. Overlaps between neighbouring threads, and the weights, come from L1.
 * Consecutive threads hold consecutive channels, so a warp reads and writes whole lines.
 *
 * Grid: one thread per TH x TW x V outputs. Block: 128 threads. Shared memory: none, or 4 KB at most for the
 * sums of channels, which go with SiLU; a thread may then make several tiles, one after the other.
 * Every output sums its taps in the same order, rows first, whatever the configuration.
 *
 * Fewest bytes: 2 a value of x and of y. FLOPs: 2 kernel^2 a value of y, on CUDA cores, plus a conversion for
 * each loaded value: 60 TFLOP/s of fp32 make that the bottleneck of the 5x5 layers. Measurements:
 * docs/depthwise.md. */
#include "depthwise_common.cuh"

namespace depthwise
{

namespace
{

template <int V> struct half_vector;
template <> struct half_vector<4> {
    using word = uint2;
};
template <> struct half_vector<8> {
    using word = uint4;
};

/* V neighbouring values at `p` as fp32. */
template <int V> __device__ __forceinline__ void load_halves(float (&value)[V], const __half *p)
{
    union {
        typename half_vector<V>::word word;
        __half2 pair[V / 2];
    } in;
    in.word = *reinterpret_cast<const typename half_vector<V>::word *>(p);
#pragma unroll
    for (int i = 0; i < V / 2; i++) {
        const float2 f = __half22float2(in.pair[i]);
        value[2 * i] = f.x, value[2 * i + 1] = f.y;
    }
}

template <int V> __device__ __forceinline__ void load_floats(float (&value)[V], const float *p)
{
#pragma unroll
    for (int i = 0; i < V; i += 4) {
        const float4 f = __ldg(reinterpret_cast<const float4 *>(p + i));
        value[i] = f.x, value[i + 1] = f.y, value[i + 2] = f.z, value[i + 3] = f.w;
    }
}

/* act(value) to y, and on to `total` where the activation is SiLU. */
template <int V, bool SILU>
__device__ __forceinline__ void store_pixel(__half *y, const float (&value)[V], const depthwise_args &args,
                                            float (&total)[V])
{
    union {
        typename half_vector<V>::word word;
        __half2 pair[V / 2];
    } out;
#pragma unroll
    for (int i = 0; i < V / 2; i++) {
        float a = value[2 * i], b = value[2 * i + 1];
        if constexpr (SILU) {
            a = epilogue::silu_for_half(a), b = epilogue::silu_for_half(b);
            total[2 * i] += a, total[2 * i + 1] += b;
        } else {
            a = epilogue::clamp(a, args.output_min, args.output_max);
            b = epilogue::clamp(b, args.output_min, args.output_max);
        }
        out.pair[i] = __floats2half2_rn(a, b);
    }
    *reinterpret_cast<typename half_vector<V>::word *>(y) = out.word;
}

/* Without SILU a thread takes its work by its number in the grid; `shape` is not looked at. With SILU a place
 * is a tile. */
template <int K, int S, int TH, int TW, int V, bool SILU>
__global__ void __launch_bounds__(THREADS)
    depthwise_tile(const __grid_constant__ depthwise_args args, const __grid_constant__ block_shape shape)
{
    constexpr int ROWS = (TH - 1) * S + K, COLUMNS = (TW - 1) * S + K; /* of input */
    const int vectors = args.channels / V;
    const int tiles_x = (args.out_width + TW - 1) / TW, tiles_y = (args.out_height + TH - 1) / TH;
    ptx::grid_launch_next();
    int channel, ox, oy, n;
    position at = {};
    if constexpr (SILU) {
        at = locate(shape, vectors);
        channel = at.vector * V, n = at.n;
        ptx::grid_wait();
    } else {
        const long long index = static_cast<long long>(blockIdx.x) * THREADS + threadIdx.x;
        long long tile = index / vectors;
        channel = static_cast<int>(index % vectors) * V;
        ox = static_cast<int>(tile % tiles_x) * TW;
        tile /= tiles_x;
        oy = static_cast<int>(tile % tiles_y) * TH, n = static_cast<int>(tile / tiles_y);
        if (n >= args.n) {
            ptx::grid_wait();
            return;
        }
    }
    float total[V] = {};
    int round = 0;
    do {
        if constexpr (SILU) {
            const int place = at.place + round * shape.places;
            ox = place % tiles_x * TW, oy = place / tiles_x * TH;
            if (!at.active || oy >= args.out_height) break;
        }
        const int iy = oy * S - args.pad_top, ix = ox * S - args.pad_left;
        const __half *x = static_cast<const __half *>(args.x) +
                          static_cast<size_t>(n) * args.height * args.width * args.channels + channel;
        const float *w = args.w + channel;
        float acc[TH][TW][V];
#pragma unroll
        for (int h = 0; h < TH; h++)
#pragma unroll
            for (int t = 0; t < TW; t++) load_floats<V>(acc[h][t], args.bias + channel);
        if constexpr (!SILU) ptx::grid_wait();
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
            float in[COLUMNS][V];
            const bool row_ok = iy + r >= 0 && iy + r < args.height;
            const __half *row = x + static_cast<size_t>(row_ok ? iy + r : 0) * args.width * args.channels;
#pragma unroll
            for (int c = 0; c < COLUMNS; c++) {
#pragma unroll
                for (int i = 0; i < V; i++) in[c][i] = 0.0f;
                if (row_ok && ix + c >= 0 && ix + c < args.width)
                    load_halves<V>(in[c], row + static_cast<size_t>(ix + c) * args.channels);
            }
#pragma unroll
            for (int h = 0; h < TH; h++) {
                const int ky = r - h * S;
                if (ky < 0 || ky >= K) continue;
#pragma unroll
                for (int kx = 0; kx < K; kx++) {
                    float weight[V];
                    load_floats<V>(weight, w + (ky * K + kx) * args.channels);
#pragma unroll
                    for (int t = 0; t < TW; t++)
#pragma unroll
                        for (int i = 0; i < V; i++)
                            acc[h][t][i] = fmaf(in[t * S + kx][i], weight[i], acc[h][t][i]);
                }
            }
        }
        __half *y = static_cast<__half *>(args.y) + channel;
#pragma unroll
        for (int h = 0; h < TH; h++)
#pragma unroll
            for (int t = 0; t < TW; t++) {
                if (oy + h >= args.out_height || ox + t >= args.out_width) continue;
                const size_t pixel = (static_cast<size_t>(n) * args.out_height + oy + h) * args.out_width +
                                     ox + t;
                store_pixel<V, SILU>(y + pixel * args.channels, acc[h][t], args, total);
            }
    } while (SILU && ++round < shape.rounds);
    if constexpr (SILU) store_sums(total, args, shape);
}

template <int TH, int TW, int V> struct launcher : window_launcher<launcher<TH, TW, V>> {
    static long long tiles(const depthwise_args &args)
    {
        return static_cast<long long>((args.out_height + TH - 1) / TH) * ((args.out_width + TW - 1) / TW);
    }

    static long long blocks(const depthwise_args &args)
    {
        return (args.n * tiles(args) * (args.channels / V) + THREADS - 1) / THREADS;
    }

    static bool fits(const depthwise_args &args)
    {
        if (args.activation == ACTIVATION_SILU)
            return tiles(args) < 1LL << 30 && shape(args).blocks(args.n) < 1LL << 31;
        return blocks(args) < 1LL << 31;
    }

    /* A block has 64 bytes of a pixel at least, and whole sectors of 32. A single image has as many parts as
     * it has work for threads, up to a bound. Sums of more are to be few beside y. */
    static block_shape shape(const depthwise_args &args)
    {
        constexpr int BYTES = 2 * V, MOST = 128; /* of a vector; parts */
        block_shape s = choose_shape(args.channels / V, 64 / BYTES, 32 / BYTES,
                                     static_cast<int>(tiles(args)));
        const long long pixels = static_cast<long long>(args.out_height) * args.out_width;
        int most = MOST;
        if (planned_images(args) > 1 && pixels / 64 < MOST)
            most = pixels < 256 ? 4 : static_cast<int>(pixels / 64);
        if (s.parts > most) {
            s.rounds = (s.parts + most - 1) / most;
            s.parts = (s.parts + s.rounds - 1) / s.rounds;
        }
        return s;
    }

    static int sum_parts(const depthwise_args &args) { return shape(args).parts; }

    template <int K, int S> static cudaError_t launch_window(const depthwise_args &args, cudaStream_t stream)
    {
        if (args.silu) {
            const block_shape s = shape(args);
            return launch_overlapping(depthwise_tile<K, S, TH, TW, V, true>,
                                      static_cast<unsigned>(s.blocks(args.n)), s.threads(), 0, stream, args,
                                      s);
        }
        return launch_overlapping(depthwise_tile<K, S, TH, TW, V, false>, static_cast<unsigned>(blocks(args)),
                                  THREADS, 0, stream, args, block_shape());
    }
};

} // namespace

#define DEPTHWISE(TH, TW, V)                                                                                 \
    make_config_with_sums<launcher<TH, TW, V>>(#TH "x" #TW " pixels, " #V " channels")

const kernel_config tile_configs[] = {
    DEPTHWISE(1, 1, 8), DEPTHWISE(1, 2, 4), DEPTHWISE(1, 4, 4), DEPTHWISE(2, 4, 4), DEPTHWISE(1, 8, 4), {},
};

} // namespace depthwise
