/* Depthwise convolution from global memory to registers (depthwise.h).
 *
 * A thread computes TH x TW neighbouring output pixels of V neighbouring channels. It takes the input rows
 * that these need from top to bottom: a row's pixels are loaded once, converted to fp32 once, and used for
 * every output and tap they belong to. Overlaps between neighbouring threads, and the weights, come from L1.
 * Consecutive threads hold consecutive channels, so a warp reads and writes whole lines.
 *
 * Grid: one thread per TH x TW x V outputs. Block: 128 threads. Shared memory: none.
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

constexpr int THREADS = 128;

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

template <int V>
__device__ __forceinline__ void store_halves(__half *p, const float (&value)[V], float low, float high)
{
    union {
        typename half_vector<V>::word word;
        __half2 pair[V / 2];
    } out;
#pragma unroll
    for (int i = 0; i < V / 2; i++)
        out.pair[i] = __floats2half2_rn(epilogue::clamp(value[2 * i], low, high),
                                        epilogue::clamp(value[2 * i + 1], low, high));
    *reinterpret_cast<typename half_vector<V>::word *>(p) = out.word;
}

template <int K, int S, int TH, int TW, int V>
__global__ void __launch_bounds__(THREADS) depthwise_kernel(const __grid_constant__ depthwise_args args)
{
    constexpr int ROWS = (TH - 1) * S + K, COLUMNS = (TW - 1) * S + K; /* of input */
    const int vectors = args.channels / V;
    const int tiles_x = (args.out_width + TW - 1) / TW, tiles_y = (args.out_height + TH - 1) / TH;
    const long long index = static_cast<long long>(blockIdx.x) * THREADS + threadIdx.x;
    long long tile = index / vectors;
    const int channel = static_cast<int>(index % vectors) * V;
    const int ox = static_cast<int>(tile % tiles_x) * TW;
    tile /= tiles_x;
    const int oy = static_cast<int>(tile % tiles_y) * TH, n = static_cast<int>(tile / tiles_y);
    ptx::grid_launch_next();
    if (n >= args.n) {
        ptx::grid_wait();
        return;
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
    ptx::grid_wait();
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
            const size_t pixel = (static_cast<size_t>(n) * args.out_height + oy + h) * args.out_width + ox +
                                 t;
            store_halves<V>(y + pixel * args.channels, acc[h][t], args.output_min, args.output_max);
        }
}

template <int TH, int TW, int V> struct launcher : window_launcher<launcher<TH, TW, V>> {
    static long long blocks(const depthwise_args &args)
    {
        const long long tiles = static_cast<long long>(args.n) * ((args.out_height + TH - 1) / TH) *
                                ((args.out_width + TW - 1) / TW);
        return (tiles * (args.channels / V) + THREADS - 1) / THREADS;
    }

    static bool fits(const depthwise_args &args) { return blocks(args) < 1LL << 31; }

    template <int K, int S> static cudaError_t launch_window(const depthwise_args &args, cudaStream_t stream)
    {
        return launch_overlapping(depthwise_kernel<K, S, TH, TW, V>, static_cast<unsigned>(blocks(args)),
                                  THREADS, 0, stream, args);
    }
};

} // namespace

#define DEPTHWISE(TH, TW, V) make_config<launcher<TH, TW, V>>(#TH "x" #TW " pixels, " #V " channels")

const kernel_config tile_configs[] = {
    DEPTHWISE(1, 1, 8), DEPTHWISE(1, 2, 4), DEPTHWISE(1, 4, 4), DEPTHWISE(2, 4, 4), DEPTHWISE(1, 8, 4), {},
};

} // namespace depthwise
