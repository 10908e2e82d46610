/* Stem, depthwise and project layer of the first block in one kernel (first_block.h).
 *
 * Block: a tile of TH x TW outputs, WX x WY warps. Three steps, a barrier between them:
 *   1. The tile's pixels, to shared memory.
 *   2. The stem by mma.sync (stem_tile.cuh). s goes to shared memory in fp32, with one pixel around the tile.
 *   3. A warp takes 8 columns and two strips of R rows. Its thread (g, t) = (lane / 4, lane % 4) goes down
 *      column g of both strips and sums channels 8t..8t+7 of d in fp32. These are just the elements that
 *      mma.sync wants of that thread - rows g and g + 8 of a 16 x 32 operand - if k and the columns of W are
 *      numbered accordingly. So d goes from registers, in a high and a low part, into the project layer.
 *
 * Shared memory: pixels fp16, s fp32 [pixel][32] with the 16-byte pieces of odd pixels swapped in pairs, so
 * that the quarters of a warp meet all banks. Measurements: docs/first_block.md. */
#include "first_block.cuh"
#include "kernel_config.cuh"
#include "launch.cuh"
#include "ptx.cuh"
#include "stem_tile.cuh"

using namespace first_block;

static first_block_args for_kernel(const first_block_args &args)
{
    first_block_args a = args;
    float low;
    activation_clamp(args.stem_activation, &low, &a.stem_max);
    activation_clamp(args.depthwise_activation, &low, &a.depthwise_max);
    activation_clamp(args.activation, &a.output_min, &a.output_max);
    return a;
}

namespace
{

template <int R_, int WX, int WY, bool UNITS_> struct tile {
    static constexpr bool UNITS = UNITS_; /* s and d are in units of their activation's maximum */
    static constexpr int R = R_, WARPS_X = WX, WARPS = WX * WY, THREADS = 32 * WARPS;
    static constexpr int TH = 2 * R * WY, TW = 8 * WX; /* outputs */
    using s_tile = stem::tile<TH + 2, TW + 2, WARPS, true>;
    static constexpr int SH = s_tile::SH, SW = s_tile::SW; /* of s */
    struct shared {
        float s[SH * SW * MIDDLE];
        __half pixels[s_tile::ROWS * s_tile::PITCH];
    };
};

__device__ __forceinline__ uint32_t pack(float a, float b)
{
    const __half2 h = __floats2half2_rn(a, b);
    return *reinterpret_cast<const uint32_t *>(&h);
}

/* What rounding `value` to `high` left. */
__device__ __forceinline__ uint32_t pack_rest(uint32_t high, float a, float b)
{
    const float2 h = __half22float2(*reinterpret_cast<const __half2 *>(&high));
    return pack(a - h.x, b - h.y);
}

/* An activation. In units of its maximum it is a saturation, which costs the addition before it nothing. */
template <class P> __device__ __forceinline__ float clamp(float value, float most)
{
    return P::UNITS ? __saturatef(value) : fminf(fmaxf(value, 0.0f), most);
}

/* Bias, activation and store of one pixel's channels 8t..8t+7 of s: `half` 0 is row g of the sums, 1 is g
 * + 8. `bias` is that of pixels whose taps all lie inside the image. */
template <class P>
__device__ __forceinline__ void store_stem(typename P::shared &shared, const float (&acc)[STEM_TILES][4],
                                           int half, const float (&bias)[8], const first_block_args &args,
                                           const stem::origin &at, const stem::spot &pixel, int t)
{
    const packed_weights &w = *static_cast<const packed_weights *>(args.weights);
    const int y = at.y + pixel.row, x = at.x + pixel.column;
    const int row_case = stem::edge_case(y, args.pad_top, args.height),
              column_case = stem::edge_case(x, args.pad_left, args.width);
    float value[8];
#pragma unroll
    for (int i = 0; i < 8; i++) value[i] = clamp<P>(acc[i / 2][2 * half + i % 2] + bias[i], args.stem_max);
    if (row_case != 1 || column_case != 1) {
        float edge_bias[8];
        stem::load_floats(edge_bias, &w.stem.bias[row_case][column_case][8 * t]);
        const bool inside = y >= 0 && y < args.out_height && x >= 0 && x < args.out_width;
#pragma unroll
        for (int i = 0; i < 8; i++)
            value[i] = inside ? clamp<P>(acc[i / 2][2 * half + i % 2] + edge_bias[i], args.stem_max) : 0.0f;
    }
    float4 *to = reinterpret_cast<float4 *>(shared.s) + pixel.index * (MIDDLE / 4);
    to[2 * t ^ (pixel.index & 1)] = make_float4(value[0], value[1], value[2], value[3]);
    to[(2 * t + 1) ^ (pixel.index & 1)] = make_float4(value[4], value[5], value[6], value[7]);
}

/* Step 2. */
template <class P>
__device__ __forceinline__ void compute_stem(typename P::shared &shared, const first_block_args &args,
                                             const stem::origin &at, int warp, int g, int t)
{
    const packed_weights &w = *static_cast<const packed_weights *>(args.weights);
    float bias[8];
    stem::load_floats(bias, &w.stem.bias[1][1][8 * t]);
    stem::sum_pixels<typename P::s_tile>(
        shared.pixels, w.stem, warp, g, t,
        [&](const float(&acc)[STEM_TILES][4], int half, const stem::spot &pixel) {
            store_stem<P>(shared, acc, half, bias, args, at, pixel, t);
        });
}

/* The project layer's MMAs with four of a thread's channels, for one row of both strips. */
__device__ __forceinline__ void project(const float (&d)[2][4], const uint2 (&b)[PROJECT_TILES][PARTS],
                                        float (&out)[PROJECT_TILES][4])
{
    uint32_t high[4], low[4];
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const float *v = &d[i % 2][i / 2 * 2];
        high[i] = pack(v[0], v[1]);
        low[i] = pack_rest(high[i], v[0], v[1]);
    }
#pragma unroll
    for (int j = 0; j < PROJECT_TILES; j++) {
        ptx::mma_m16n8k16_f16(out[j], high, b[j][1].x, b[j][1].y);
        ptx::mma_m16n8k16_f16(out[j], low, b[j][0].x, b[j][0].y);
        ptx::mma_m16n8k16_f16(out[j], high, b[j][0].x, b[j][0].y);
    }
}

/* Step 3 for channels 8t + 4s .. 8t + 4s + 3: goes down both strips and adds to `out` of every row. `corner`
 * is the thread's first pixel of s. */
template <class P>
__device__ __forceinline__ void depthwise_and_project(const typename P::shared &shared,
                                                      const first_block_args &args, int corner, int s, int g,
                                                      int t, float (&out)[P::R][PROJECT_TILES][4])
{
    const packed_weights &w = *static_cast<const packed_weights *>(args.weights);
    float4 tap[TAPS];
    uint2 b[PROJECT_TILES][PARTS];
#pragma unroll
    for (int i = 0; i < TAPS; i++)
        tap[i] = __ldg(reinterpret_cast<const float4 *>(&w.depthwise[i][8 * t + 4 * s]));
    const float4 bias = __ldg(reinterpret_cast<const float4 *>(&w.depthwise_bias[8 * t + 4 * s]));
#pragma unroll
    for (int j = 0; j < PROJECT_TILES; j++)
#pragma unroll
        for (int part = 0; part < PARTS; part++) b[j][part] = __ldg(&w.project[s][j][part][4 * g + t]);
    const float4 *const first = reinterpret_cast<const float4 *>(shared.s) + corner * (MIDDLE / 4);
    const float4 *const from[2] = {first + ((2 * t + s) ^ (corner & 1)),
                                   first + ((2 * t + s) ^ (~corner & 1))};
    static_assert(P::SW % 2 == 0, "columns tell odd pixels from even ones");
    float acc[3][2][4]; /* of the three rows of outputs that a row of s belongs to */
#pragma unroll
    for (int r = 0; r < P::R + 2; r++) {
        __syncwarp(); /* keeps the loads of later rows behind: they would not fit into the registers */
#pragma unroll
        for (int strip = 0; strip < 2; strip++)
            acc[r % 3][strip][0] = bias.x, acc[r % 3][strip][1] = bias.y, acc[r % 3][strip][2] = bias.z,
                    acc[r % 3][strip][3] = bias.w;
#pragma unroll
        for (int kx = 0; kx < 3; kx++)
#pragma unroll
            for (int strip = 0; strip < 2; strip++) {
                const float4 in = from[kx % 2][((strip * P::R + r) * P::SW + kx) * (MIDDLE / 4)];
#pragma unroll
                for (int ky = 0; ky < 3; ky++) {
                    const int row = r - ky;
                    if (row < 0 || row >= P::R) continue;
                    float(&sum)[4] = acc[row % 3][strip];
                    const float4 &weight = tap[3 * ky + kx];
                    sum[0] = fmaf(in.x, weight.x, sum[0]), sum[1] = fmaf(in.y, weight.y, sum[1]);
                    sum[2] = fmaf(in.z, weight.z, sum[2]), sum[3] = fmaf(in.w, weight.w, sum[3]);
                    if (ky < 2 || kx < 2) continue;
#pragma unroll
                    for (int i = 0; i < 4; i++) sum[i] = clamp<P>(sum[i], args.depthwise_max);
                }
            }
        if (r >= 2) project(acc[(r - 2) % 3], b, out[r - 2]);
    }
}

/* Step 3. */
template <class P>
__device__ __forceinline__ void finish(const typename P::shared &shared, const first_block_args &args,
                                       const stem::origin &at, int warp, int g, int t)
{
    const packed_weights &w = *static_cast<const packed_weights *>(args.weights);
    const int column = 8 * (warp % P::WARPS_X) + g, strip0 = warp / P::WARPS_X * 2 * P::R;
    const float4 bias = __ldg(reinterpret_cast<const float4 *>(&w.project_bias[4 * t]));
    float out[P::R][PROJECT_TILES][4];
#pragma unroll
    for (int r = 0; r < P::R; r++) {
        out[r][0][0] = out[r][0][2] = bias.x, out[r][0][1] = out[r][0][3] = bias.y;
        out[r][1][0] = out[r][1][2] = bias.z, out[r][1][1] = out[r][1][3] = bias.w;
    }
#pragma unroll 1
    for (int s = 0; s < K_STEPS; s++)
        depthwise_and_project<P>(shared, args, strip0 * P::SW + column, s, g, t, out);

    const int x = at.x + 1 + column;
    if (x >= args.out_width) return;
    __half *y = static_cast<__half *>(args.y) + 4 * t +
                (static_cast<size_t>(at.image) * args.out_height * args.out_width + x) * OUT;
#pragma unroll
    for (int strip = 0; strip < 2; strip++)
#pragma unroll
        for (int r = 0; r < P::R; r++) {
            const int row = at.y + 1 + strip0 + strip * P::R + r;
            if (row >= args.out_height) break;
            float v[4];
#pragma unroll
            for (int i = 0; i < 4; i++)
                v[i] = fminf(fmaxf(out[r][i / 2][2 * strip + i % 2], args.output_min), args.output_max);
            *reinterpret_cast<uint2 *>(y + static_cast<size_t>(row) * args.out_width *
                                               OUT) = make_uint2(pack(v[0], v[1]), pack(v[2], v[3]));
        }
}

template <class P, int BLOCKS>
__global__ void __launch_bounds__(P::THREADS, BLOCKS)
    first_block_kernel(const __grid_constant__ first_block_args args)
{
    extern __shared__ __align__(16) unsigned char memory[];
    typename P::shared &shared = *reinterpret_cast<typename P::shared *>(memory);
    const int tiles_x = (args.out_width + P::TW - 1) / P::TW, tiles_y = (args.out_height + P::TH - 1) / P::TH;
    const int tile = blockIdx.x % (tiles_x * tiles_y);
    const stem::origin at = {static_cast<int>(blockIdx.x / (tiles_x * tiles_y)), tile / tiles_x * P::TH - 1,
                             tile % tiles_x * P::TW - 1}; /* of s */
    const int warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    ptx::grid_launch_next();
    ptx::grid_wait();
    stem::load_pixels<typename P::s_tile>(shared.pixels, args, at);
    __syncthreads();
    compute_stem<P>(shared, args, at, warp, g, t);
    __syncthreads();
    finish<P>(shared, args, at, warp, g, t);
}

template <int R, int WX, int WY, int BLOCKS> struct launcher {
    template <bool UNITS> using tile_of = tile<R, WX, WY, UNITS>;

    static long long blocks(const first_block_args &args)
    {
        constexpr int TH = tile_of<true>::TH, TW = tile_of<true>::TW;
        return static_cast<long long>(args.n) * ((args.out_height + TH - 1) / TH) *
               ((args.out_width + TW - 1) / TW);
    }

    static bool fits(const first_block_args &args) { return blocks(args) < 1LL << 31; }

    static int shared_bytes(const first_block_args &) { return sizeof(typename tile_of<true>::shared); }

    static cudaError_t launch(const first_block_args &args, cudaStream_t stream)
    {
        const auto kernel = in_units(args.stem_max, args.depthwise_max)
                                ? first_block_kernel<tile_of<true>, BLOCKS>
                                : first_block_kernel<tile_of<false>, BLOCKS>;
        return launch_overlapping(kernel, static_cast<unsigned>(blocks(args)), tile_of<true>::THREADS,
                                  shared_bytes(args), stream, args);
    }
};

/* For small batches, and for large ones. */
const kernel_config configs[] = {
    make_config<launcher<3, 3, 1, 5>>("6x24 pixels"),
    make_config<launcher<6, 3, 1, 4>>("12x24 pixels"),
    {},
};

bool valid(const void *arguments)
{
    const first_block_args &args = *static_cast<const first_block_args *>(arguments);
    float low, high;
    return activation_is_relu(args.stem_activation) && activation_is_relu(args.depthwise_activation) &&
           activation_clamp(args.activation, &low, &high) && args.n >= 1 && args.width % 4 == 0 &&
           args.height < 1 << 15 && args.width < 1 << 15 &&
           stem::side_fits(args.height, args.out_height, args.pad_top) &&
           stem::side_fits(args.width, args.out_width, args.pad_left);
}

} // namespace

extern const kernel_family first_block_kernels = {"first_block", valid, {configs}};
