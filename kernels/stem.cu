/* The stem alone (stem.h): pixels in, fp16 out.
 *
 * A block makes a tile of H x W outputs of all channels: its pixels to shared memory, then 16 outputs a warp
 * at a time by mma.sync (stem_tile.cuh), whose sums go through bias and activation and from registers to y;
 * four threads write an output's channels side by side.
 *
 * Fewest bytes: 3 a pixel, 2 a value of y; at batch 256, 240 x 240 and 32 channels 280 MB. Measurements:
 * docs/first_block.md. */
#include "epilogue.cuh"
#include "kernel_config.cuh"
#include "launch.cuh"
#include "ptx.cuh"
#include "stem_tile.cuh"

static stem_args for_kernel(const stem_args &args)
{
    stem_args a = args;
    a.silu = args.activation == ACTIVATION_SILU;
    activation_clamp(args.activation, &a.output_min, &a.output_max);
    return a;
}

namespace
{

enum { TILES_LEAST = 4, TILES_MOST = 6 }; /* of 8 channels */

/* Stores 2 * TILES neighbouring values. */
template <int TILES> __device__ __forceinline__ void store_halves(__half *to, const float (&value)[2 * TILES])
{
    constexpr int WORDS = TILES % 4 == 0 ? 4 : TILES % 2 == 0 ? 2 : 1; /* of 4 bytes, at a time */
    struct alignas(4 * WORDS) vector {
        __half2 pair[WORDS];
    };
#pragma unroll
    for (int i = 0; i < TILES; i += WORDS) {
        vector v;
#pragma unroll
        for (int k = 0; k < WORDS; k++)
            v.pair[k] = __floats2half2_rn(value[2 * (i + k)], value[2 * (i + k) + 1]);
        reinterpret_cast<vector *>(to)[i / WORDS] = v;
    }
}

template <class P, int TILES, bool SILU>
__global__ void __launch_bounds__(P::THREADS) stem_kernel(const __grid_constant__ stem_args args)
{
    constexpr int VALUES = 2 * TILES; /* of an output, a thread's */
    __shared__ __align__(16) __half pixels[P::ROWS * P::PITCH];
    const stem::weights<TILES> &w = *static_cast<const stem::weights<TILES> *>(args.weights);
    const int tiles_x = (args.out_width + P::SW - 1) / P::SW, tiles_y = (args.out_height + P::SH - 1) / P::SH;
    const int tile = blockIdx.x % (tiles_x * tiles_y);
    const stem::origin at = {static_cast<int>(blockIdx.x / (tiles_x * tiles_y)), tile / tiles_x * P::SH,
                             tile % tiles_x * P::SW};
    const int warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    ptx::grid_launch_next();
    float bias[VALUES]; /* of outputs whose taps all lie inside the image */
#pragma unroll
    for (int i = 0; i < VALUES; i++) bias[i] = __ldg(&w.bias[1][1][VALUES * t + i]);
    ptx::grid_wait();
    stem::load_pixels<P>(pixels, args, at);
    __syncthreads();
    __half *const y = static_cast<__half *>(args.y) +
                      static_cast<size_t>(at.image) * args.out_height * args.out_width * (8 * TILES) +
                      VALUES * t;
    stem::sum_pixels<P>(
        pixels, w, warp, g, t, [&](const float(&acc)[TILES][4], int half, const stem::spot &out) {
            const int row = at.y + out.row, column = at.x + out.column;
            if (row >= args.out_height || column >= args.out_width) return;
            const int row_case = stem::edge_case(row, args.pad_top, args.height),
                      column_case = stem::edge_case(column, args.pad_left, args.width);
            const bool edge = row_case != 1 || column_case != 1;
            float value[VALUES];
#pragma unroll
            for (int i = 0; i < VALUES; i++) {
                const float b = edge ? __ldg(&w.bias[row_case][column_case][VALUES * t + i]) : bias[i];
                const float v = acc[i / 2][2 * half + i % 2] + b;
                value[i] = SILU ? activation_silu(v) : epilogue::clamp(v, args.output_min, args.output_max);
            }
            store_halves<TILES>(y + (static_cast<size_t>(row) * args.out_width + column) * (8 * TILES),
                                value);
        });
}

template <int H, int W, int WARPS> struct launcher {
    using P = stem::tile<H, W, WARPS, false>;

    static long long blocks(const stem_args &args)
    {
        return static_cast<long long>(args.n) * ((args.out_height + H - 1) / H) *
               ((args.out_width + W - 1) / W);
    }

    static bool fits(const stem_args &args) { return blocks(args) < 1LL << 31; }

    static int shared_bytes(const stem_args &) { return 0; }

    template <int TILES> static cudaError_t launch_tiles(const stem_args &args, cudaStream_t stream)
    {
        const auto kernel = args.silu ? stem_kernel<P, TILES, true> : stem_kernel<P, TILES, false>;
        return launch_overlapping(kernel, static_cast<unsigned>(blocks(args)), P::THREADS, 0, stream, args);
    }

    static cudaError_t launch(const stem_args &args, cudaStream_t stream)
    {
        switch (args.channels / 8) {
        case 4: return launch_tiles<4>(args, stream);
        case 5: return launch_tiles<5>(args, stream);
        default: return launch_tiles<6>(args, stream);
        }
    }
};

/* For small batches, and for large ones. */
const kernel_config configs[] = {
    make_config<launcher<4, 32, 4>>("4x32 pixels"),
    make_config<launcher<16, 32, 4>>("16x32 pixels"),
    {},
};

bool channels_fit(int channels)
{
    return channels % 8 == 0 && channels / 8 >= TILES_LEAST && channels / 8 <= TILES_MOST;
}

bool valid(const void *arguments)
{
    const stem_args &args = *static_cast<const stem_args *>(arguments);
    float low, high;
    return (activation_clamp(args.activation, &low, &high) || args.activation == ACTIVATION_SILU) &&
           channels_fit(args.channels) && args.n >= 1 && args.width % 4 == 0 && args.height < 1 << 15 &&
           args.width < 1 << 15 && stem::side_fits(args.height, args.out_height, args.pad_top) &&
           stem::side_fits(args.width, args.out_width, args.pad_left);
}

/* f(weights) of the form for so many channels. */
template <class F> auto for_channels(int channels, void *packed, const F &f)
{
    switch (channels / 8) {
    case 4: return f(static_cast<stem::weights<4> *>(packed));
    case 5: return f(static_cast<stem::weights<5> *>(packed));
    default: return f(static_cast<stem::weights<6> *>(packed));
    }
}

} // namespace

size_t stem_weight_bytes(int channels)
{
    return channels_fit(channels) ? for_channels(channels, nullptr, [](auto *w) { return sizeof *w; }) : 0;
}

bool stem_weights_fit(const stem_layer *layer)
{
    return stem::weights_fit(*layer, 1);
}

void stem_pack(const stem_layer *layer, void *packed)
{
    for_channels(layer->channels, packed, [&](auto *w) { stem::pack(*layer, 1, *w); });
}

extern const kernel_family stem_kernels = {"stem", valid, {configs}};
