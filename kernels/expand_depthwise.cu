/* Expand and depthwise in one kernel, both on tensor cores (expand_depthwise.h).
 *
 * A block makes C channels of a band of output rows of one image, from the rows of x that the band reads. No
 * two blocks share a sum, so none waits for another.
 *
 * 1. Before the launch ahead is done: the weights to shared memory, zeros to all of h.
 * 2. Expand: h = w x + bias by MMA, channels (M) x 8 neighbouring pixels of a row (N). A sum over k may be
 *    taken in any order as long as x and w agree, so a lane takes 8 neighbouring channels of its pixel by one
 *    16-byte load, straight into the registers of two MMAs. h goes to shared memory as
 * h[channel][row][column] with its zero border.
 * 3. Depthwise: a window is 8 neighbouring outputs of a row. For one channel and one row ky of the kernel,
 *
 *        out[window][ox] += h[row of the window + ky][16 columns from its first on] * T[column][ox],
 *        T[column][ox] = w[ky][column - stride ox - ...]
 *
 *    is an MMA, 16 windows (M) x 16 columns (K) x 8 outputs (N); stride 2 takes 32 columns. T is a band of
 *    w[ky] in two fp16 parts, which a lane reads from a row of weights with zeros around (tap_row).
 *    Results go to shared memory as out[channel][window][8].
 * 4. ldmatrix with a transposition gives each lane neighbouring channels of a pixel, for stores that fill
 *    sectors.
 *
 * So planes of h and out are in an order of their own (channel_of), such that 4. finds neighbours.
 *
 * Grid: images x bands x groups of C channels, groups fastest. Block: 8 warps. Shared memory: as the
 * shape wants, within 99 KB.
 *
 * Fewest bytes: 2 a value of x and y, and the weights; h takes none. FLOPs: 2 in_channels a value of h, on
 * tensor cores; of the depthwise layer 2 * 2 * 16 kernel stride a value of y, for 2 kernel^2 that count.
 * Instructions and measurements: docs/expand_depthwise.md. */
#include "expand_depthwise_stages.cuh"
#include "kernel_config.cuh"
#include "launch.cuh"

namespace expand_depthwise
{

namespace
{

/* ---------------------------------------------------------------- the kernel */

template <class T>
__global__ void __launch_bounds__(THREADS, T::BLOCKS)
    expand_depthwise(const __grid_constant__ expand_depthwise_args args, const __grid_constant__ layout l,
                     bounds act, bounds depthwise_act)
{
    extern __shared__ __align__(16) unsigned char shared[];
    ptx::grid_launch_next();
    const int warp = threadIdx.x / 32;
    const place b = locate(args, l);
    fetch_taps<T>(shared, args, b.group * T::C);
    load_weights<T>(shared, args, b.group * T::C);
    float bias[T::MT][2];
#pragma unroll
    for (int i = 0; i < 2 * T::MT; i++) {
        const int channel = b.group * T::C + channel_of<T>(8 * i + threadIdx.x % 32 / 4);
        bias[i / 2][i % 2] = channel < args.channels ? __ldg(args.bias + channel) : 0.0f;
    }
#pragma unroll 1
    for (int at = 16 * threadIdx.x; at < T::C * l.plane; at += 16 * THREADS)
        *reinterpret_cast<uint4 *>(shared + l.h_at + at) = make_uint4(0, 0, 0, 0);
    sources<T> from(args, l, b, warp);
    ptx::grid_wait();
    bool ready = false;
    for (int first = warp;;) {
        uint4 x[T::NT][T::CHUNKS];
        load_pixels(x, from, args);
        if (!ready) {
            ptx::cp_async_wait<0>();
            __syncthreads(); /* the weights are there, and the zeros */
            ready = true;
        }
#pragma unroll
        for (int j = 0; j < T::NT; j++)
            if (first + j * WARPS < b.tiles)
                expand_tile<T>(shared, x[j], bias, act, args, l, b, first + j * WARPS);
        first += T::NT * WARPS;
        if (first >= b.tiles) break;
        from = sources<T>(args, l, b, first);
    }
    __syncthreads(); /* h is there */
    if (args.kernel == 3)
        depthwise<T, 3>(shared, depthwise_act, args, l, b);
    else
        depthwise<T, 5>(shared, depthwise_act, args, l, b);
    __syncthreads(); /* the results are there */
    store<T>(shared, args, l, b);
}

/* ---------------------------------------------------------------- host */

constexpr int SHARED_MOST = 99 * 1024;

int odd_sixteens(int bytes)
{
    const int sixteens = (bytes + 15) / 16;
    return 16 * (sixteens | 1);
}

/* Rows of h that a column has room for: what so many of output read, and perhaps some more, so that all
 * windows in their order, that of 8 values of a column after the other, lie in different banks. */
int column_rows(const expand_depthwise_args &args, int rows)
{
    const int least = (rows - 1) * args.stride + args.kernel;
    if (args.out_width <= WINDOW) return least;
    for (int more = 0; more < 8; more++)
        if ((args.stride * (least + more) - rows) % 8 == 0) return least + more;
    return least;
}

/* For bands of at most so many rows. */
template <class T> layout layout_of(const expand_depthwise_args &args, int most_rows)
{
    layout l = {};
    l.bands = (args.out_height + most_rows - 1) / most_rows;
    l.rows = (args.out_height + l.bands - 1) / l.bands;
    l.bands = (args.out_height + l.rows - 1) / l.rows; /* none without rows */
    l.groups = (args.channels + T::C - 1) / T::C;
    l.tiles_x = (args.width + 7) / 8, l.windows_x = (args.out_width + WINDOW - 1) / WINDOW;
    l.tile_inverse = (65536 + l.tiles_x - 1) / l.tiles_x;
    l.row_inverse = (65536 + l.rows - 1) / l.rows;
    l.windows = l.windows_x * l.rows;
    const int stored = l.tiles_x + 1, read = args.stride * (l.windows_x + 1); /* columns */
    const int rows = column_rows(args, l.rows), half = (rows + 1) / 2;
    l.next_row = args.stride == 1 ? 32 : 16, l.odd_row = args.stride == 1 ? 16 : 16 * half;
    l.column = 16 * (args.stride == 1 ? rows : 2 * half);
    l.plane = odd_sixteens((stored > read ? stored : read) * l.column);
    l.out_plane = odd_sixteens((l.windows + 15) / 16 * 16 * 2 * WINDOW);
    l.h_at = T::TAPS_AT + T::C * args.kernel * static_cast<int>(sizeof(tap_row));
    l.out_at = l.h_at + T::C * l.plane;
    l.bytes = l.out_at + T::C * l.out_plane;
    return l;
}

/* The code for so many channels of x. f: takes a tile as a value. */
template <int C, bool SILU, class F> auto for_chunks(const expand_depthwise_args &args, const F &f)
{
    if (args.in_channels <= 64) return f(tile<C, 2, SILU>());
    if (args.in_channels <= 128) return f(tile<C, 4, SILU>());
    if (args.in_channels <= 192) return f(tile<C, 6, SILU>());
    return f(tile<C, 10, SILU>());
}

constexpr int IN_CHANNELS_MOST = 320, SIDE_MOST = 512;

/* C channels and at most ROWS rows of output a block. FEWER: the configuration with the next smaller bands;
 * where it has the same bands, this one is none. */
template <int C, int ROWS, int FEWER> struct launcher {
    static layout layout_for(const expand_depthwise_args &args)
    {
        return for_chunks<C, false>(args, [&](auto t) { return layout_of<decltype(t)>(args, ROWS); });
    }

    static int bands(const expand_depthwise_args &args, int most_rows)
    {
        return layout_of<tile<C, 2, false>>(args, most_rows).bands;
    }

    static bool fits(const expand_depthwise_args &args)
    {
        if (args.in_channels > IN_CHANNELS_MOST || args.width > SIDE_MOST || args.out_width > SIDE_MOST)
            return false;
        if (FEWER && bands(args, ROWS) == bands(args, FEWER)) return false;
        const layout l = layout_for(args);
        return l.bytes <= SHARED_MOST && static_cast<long long>(args.n) * l.bands * l.groups < 1LL << 31;
    }

    static int shared_bytes(const expand_depthwise_args &args) { return layout_for(args).bytes; }

    static int sum_parts(const expand_depthwise_args &args)
    {
        return fits(args) ? layout_for(args).bands : 0;
    }

    static cudaError_t launch(const expand_depthwise_args &args, cudaStream_t stream)
    {
        const layout l = layout_for(args);
        const unsigned blocks = static_cast<unsigned>(args.n) * l.bands * l.groups;
        bounds act = {}, depthwise_act = {};
        activation_clamp(args.activation, &act.low, &act.high);
        activation_clamp(args.depthwise_activation, &depthwise_act.low, &depthwise_act.high);
        const auto go = [&](auto t) {
            return launch_overlapping(expand_depthwise<decltype(t)>, blocks, THREADS, {l.bytes, SHARED_MOST},
                                      stream, args, l, act, depthwise_act);
        };
        return args.activation == ACTIVATION_SILU ? for_chunks<C, true>(args, go)
                                                  : for_chunks<C, false>(args, go);
    }
};

#define ROWS(C, R, FEWER) make_config_with_sums<launcher<C, R, FEWER>>(#C " channels, " #R " rows")
#define CHANNELS(C)       ROWS(C, 2, 0), ROWS(C, 3, 2), ROWS(C, 5, 3), ROWS(C, 8, 5)

const kernel_config configs[] = {CHANNELS(16),    ROWS(16, 15, 8), CHANNELS(32),
                                 ROWS(32, 15, 8), CHANNELS(64),    {}};

bool valid(const void *arguments)
{
    const expand_depthwise_args &args = *static_cast<const expand_depthwise_args *>(arguments);
    float low, high;
    const bool silu = args.activation == ACTIVATION_SILU && args.depthwise_activation == ACTIVATION_SILU;
    const bool clamps = activation_clamp(args.activation, &low, &high) &&
                        activation_clamp(args.depthwise_activation, &low, &high) && !args.sums;
    return (silu || clamps) && args.n >= 1 && args.in_channels >= 8 && args.in_channels % 8 == 0 &&
           args.channels >= 8 && args.channels % 8 == 0 && args.height >= 1 && args.width >= 1 &&
           args.out_height >= 1 && args.out_width >= 1 && (args.kernel == 3 || args.kernel == 5) &&
           (args.stride == 1 || args.stride == 2) && args.pad_top >= 0 && args.pad_top < args.kernel &&
           args.pad_left >= 0 && args.pad_left < args.kernel;
}

} // namespace

} // namespace expand_depthwise

extern const kernel_family expand_depthwise_kernels = {
    "expand_depthwise",
    expand_depthwise::valid,
    {expand_depthwise::configs},
};

int expand_depthwise_sum_parts(int config, const expand_depthwise_args *args)
{
    const kernel_config *c = kernel_get(&expand_depthwise_kernels, config);
    return c && expand_depthwise::valid(args) && args->activation == ACTIVATION_SILU ? c->sum_parts(args) : 0;
}
