/* The two passes of a resize in integers. Each takes a plane, rows of bytes without padding between them, of
 * which the pass reads a rectangle and computes nothing that the crop does not need.
 *
 * Along the rows: a block makes 16 outputs of 32 rows, a warp two of them. A lane has a row of its own, so
 * that weights and addresses are the same for the whole warp. The inputs come through shared memory, 128
 * pixels of the 32 rows at a time, so any reduction takes the same 12.4 KB. Rows there are an odd number of
 * words apart: 32 lanes read 32 banks. A word of four bytes lies at the same place in every row, for which
 * the bytes are shifted as they are loaded: rows of an image begin at any byte.
 *   Grid: (rows / 32, outputs / 16). Block: 256 threads.
 *
 * Down the columns: a thread makes four adjacent bytes of one output row, so a warp reads 128 bytes a tap.
 *   Grid: (bytes of a row / 256, outputs / 4). Block: 64 x 4 threads.
 *
 * Fewest bytes: those of the rectangle once, and the crop. A reduction by s reads each input four times over
 * (the filter's support), from shared memory across and from the caches down, with 3 * 4 * s multiply-adds an
 * output pixel and pass. */
#include "launch.cuh"
#include "resize.h"

namespace
{

constexpr int WEIGHT_BITS = 22, ROUND_HALF = 1 << (WEIGHT_BITS - 1);

/* across */
constexpr int THREADS = 256, WARPS = THREADS / 32;
constexpr int TILE_ROWS = 32, TILE_OUTPUTS = 16, OUTPUTS_A_WARP = TILE_OUTPUTS / WARPS;
constexpr int CHUNK = 128;                             /* pixels */
constexpr int GROUP = 4, GROUP_WORDS = 3;              /* pixels and words that begin and end together */
constexpr int PITCH = CHUNK / GROUP * GROUP_WORDS + 1; /* words from row to row */
constexpr int TILE_BYTES = TILE_OUTPUTS * 3, TILE_PITCH = TILE_BYTES + 4;
static_assert(TILE_ROWS == 32, "a lane is a row");
static_assert(TILE_OUTPUTS % WARPS == 0 && CHUNK % GROUP == 0, "tiles divide evenly");
static_assert(PITCH % 2 == 1 && TILE_PITCH / 4 % 2 == 1, "lanes would share banks");

/* down */
constexpr int COLUMN_THREADS = 64, OUTPUT_THREADS = 4;

/* What a pass reads: `rows` rows of `row_bytes`, `stride` bytes apart, from `offset` on. Nothing outside the
 * first `size` bytes of data is touched. */
struct plane {
    const uint8_t *data; /* 4-byte aligned */
    size_t size, offset, stride;
    int rows, row_bytes;
};

__device__ __forceinline__ uint8_t clip(int sum)
{
    return static_cast<uint8_t>(min(max(sum >> WEIGHT_BITS, 0), 255));
}

__device__ __forceinline__ int byte_of(uint32_t word, int i)
{
    return static_cast<int>((word >> (8 * i)) & 0xff);
}

/* The aligned word with that index; bytes past the end are 0. */
__device__ __forceinline__ uint32_t load_aligned(const plane &in, size_t index)
{
    if (4 * index + 4 <= in.size) return reinterpret_cast<const uint32_t *>(in.data)[index];
    uint32_t word = 0;
    for (int i = 0; i < 4; i++)
        if (4 * index + i < in.size) word |= static_cast<uint32_t>(in.data[4 * index + i]) << (8 * i);
    return word;
}

/* The four bytes from any offset on; bytes past the end are 0. */
__device__ __forceinline__ uint32_t load_word(const plane &in, size_t offset)
{
    const uint32_t low = load_aligned(in, offset / 4);
    const int shift = 8 * static_cast<int>(offset % 4);
    return shift ? __funnelshift_r(low, load_aligned(in, offset / 4 + 1), shift) : low;
}

/* 128 pixels of 32 rows to shared memory, from pixel `first` on; only up to pixel `end`, to whole groups. */
__device__ __forceinline__ void stage(const plane &in, int first_row, int first, int end,
                                      uint32_t (&rows)[TILE_ROWS][PITCH])
{
    const int words = (min(end - first, CHUNK) + GROUP - 1) / GROUP * GROUP_WORDS;
    for (int row = threadIdx.x / 32; row < TILE_ROWS && first_row + row < in.rows; row += WARPS) {
        const size_t from = in.offset + static_cast<size_t>(first_row + row) * in.stride +
                            3 * static_cast<size_t>(first);
#pragma unroll
        for (int i = 0; i < (PITCH + 31) / 32; i++) {
            const int word = 32 * i + static_cast<int>(threadIdx.x % 32);
            if (word < words) rows[row][word] = load_word(in, from + 4 * word);
        }
    }
}

/* Adds what the staged pixels, the first of them `first`, give to one output. The pixels before and after its
 * own in their groups get no weight. */
__device__ __forceinline__ void blend(const uint32_t (&row)[PITCH], int first, int start, int count,
                                      const int32_t *weights, int (&sum)[3])
{
    const int begin = max(start - first, 0) & ~(GROUP - 1), end = min(start + count - first, CHUNK);
    for (int pixel = begin; pixel < end; pixel += GROUP) {
        int w[GROUP];
        uint32_t word[GROUP_WORDS];
#pragma unroll
        for (int i = 0; i < GROUP; i++) {
            const int tap = first + pixel + i - start;
            w[i] = tap >= 0 && tap < count ? __ldg(weights + tap) : 0;
        }
#pragma unroll
        for (int i = 0; i < GROUP_WORDS; i++) word[i] = row[pixel / GROUP * GROUP_WORDS + i];
#pragma unroll
        for (int i = 0; i < GROUP * 3; i++) sum[i % 3] += w[i / 3] * byte_of(word[i / 4], i % 4);
    }
}

__global__ void __launch_bounds__(THREADS)
    resize_across(const __grid_constant__ plane in, const __grid_constant__ resize_axis axis, uint8_t *out)
{
    __shared__ uint32_t rows[TILE_ROWS][PITCH];
    __shared__ uint8_t tile[TILE_ROWS][TILE_PITCH];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int first_row = blockIdx.x * TILE_ROWS, first_output = blockIdx.y * TILE_OUTPUTS;
    const int last_output = min(first_output + TILE_OUTPUTS, axis.outputs) - 1;
    const int end = axis.start[last_output] + axis.count[last_output];
    int start[OUTPUTS_A_WARP], count[OUTPUTS_A_WARP], sum[OUTPUTS_A_WARP][3];
#pragma unroll
    for (int i = 0; i < OUTPUTS_A_WARP; i++) {
        const int output = first_output + warp * OUTPUTS_A_WARP + i;
        start[i] = output <= last_output ? axis.start[output] : 0;
        count[i] = output <= last_output ? axis.count[output] : 0; /* none: nothing is added */
        sum[i][0] = sum[i][1] = sum[i][2] = ROUND_HALF;
    }
    for (int first = axis.start[first_output]; first < end; first += CHUNK) {
        stage(in, first_row, first, end, rows);
        __syncthreads(); /* the chunk is complete */
#pragma unroll
        for (int i = 0; i < OUTPUTS_A_WARP; i++) {
            const int output = min(first_output + warp * OUTPUTS_A_WARP + i, last_output);
            blend(rows[lane], first, start[i], count[i],
                  axis.weights + static_cast<size_t>(output) * axis.taps, sum[i]);
        }
        __syncthreads(); /* and used: the next may overwrite it */
    }
#pragma unroll
    for (int i = 0; i < OUTPUTS_A_WARP; i++)
#pragma unroll
        for (int c = 0; c < 3; c++) tile[lane][(warp * OUTPUTS_A_WARP + i) * 3 + c] = clip(sum[i][c]);
    __syncthreads(); /* the tile is complete */
    const size_t row_bytes = 3 * static_cast<size_t>(axis.outputs);
    for (int i = threadIdx.x; i < TILE_ROWS * TILE_BYTES; i += THREADS) {
        const int row = first_row + i / TILE_BYTES;
        const size_t column = static_cast<size_t>(first_output) * 3 + i % TILE_BYTES;
        if (row < in.rows && column < row_bytes)
            out[static_cast<size_t>(row) * row_bytes + column] = tile[i / TILE_BYTES][i % TILE_BYTES];
    }
}

__global__ void __launch_bounds__(COLUMN_THREADS *OUTPUT_THREADS)
    resize_down(const __grid_constant__ plane in, const __grid_constant__ resize_axis axis, uint8_t *out)
{
    const int column = 4 * (blockIdx.x * COLUMN_THREADS + threadIdx.x);
    const int output = blockIdx.y * OUTPUT_THREADS + threadIdx.y;
    if (column >= in.row_bytes || output >= axis.outputs) return;
    const int count = axis.count[output];
    const int32_t *weights = axis.weights + static_cast<size_t>(output) * axis.taps;
    size_t from = in.offset + static_cast<size_t>(axis.start[output]) * in.stride + column;
    int sum[4] = {ROUND_HALF, ROUND_HALF, ROUND_HALF, ROUND_HALF};
#pragma unroll 8
    for (int tap = 0; tap < count; tap++, from += in.stride) {
        const int w = __ldg(weights + tap);
        const uint32_t word = load_word(in, from);
#pragma unroll
        for (int i = 0; i < 4; i++) sum[i] += w * byte_of(word, i);
    }
    uint8_t *to = out + static_cast<size_t>(output) * in.row_bytes + column;
#pragma unroll
    for (int i = 0; i < 4; i++)
        if (column + i < in.row_bytes) to[i] = clip(sum[i]);
}

cudaError_t launch_across(const plane &in, const resize_axis &axis, uint8_t *out, cudaStream_t stream)
{
    const dim3 grid((in.rows - 1) / TILE_ROWS + 1, (axis.outputs - 1) / TILE_OUTPUTS + 1);
    return launch_after(resize_across, grid, THREADS, 0, stream, in, axis, out);
}

cudaError_t launch_down(const plane &in, const resize_axis &axis, uint8_t *out, cudaStream_t stream)
{
    const dim3 grid((in.row_bytes - 1) / (4 * COLUMN_THREADS) + 1, (axis.outputs - 1) / OUTPUT_THREADS + 1);
    return launch_after(resize_down, grid, dim3(COLUMN_THREADS, OUTPUT_THREADS), 0, stream, in, axis, out);
}

/* A grid has at most 65535 blocks in y. */
bool axis_valid(const resize_axis &axis, int size)
{
    return axis.outputs >= 1 && axis.outputs <= 65535 * OUTPUT_THREADS && axis.first >= 0 &&
           axis.first < axis.end && axis.end <= size && axis.taps >= 1;
}

bool misaligned(const void *pointer)
{
    return reinterpret_cast<uintptr_t>(pointer) % 4 != 0;
}

} // namespace

size_t resize_scratch_bytes(const resize_args *args)
{
    const resize_axis &across = args->across, &down = args->down;
    return args->columns_first ? 3 * static_cast<size_t>(down.outputs) * (across.end - across.first)
                               : 3 * static_cast<size_t>(across.outputs) * (down.end - down.first);
}

cudaError_t resize_launch(const resize_args *args, cudaStream_t stream)
{
    const resize_axis &across = args->across, &down = args->down;
    const void *const pointers[] = {args->image,    args->scratch, args->crop, across.start, across.count,
                                    across.weights, down.start,    down.count, down.weights};
    for (const void *pointer : pointers)
        if (!pointer) return cudaErrorInvalidValue;
    /* Bytes of a row, rounded up to a block's, fit an int. */
    if (args->width > INT32_MAX / 4 || !axis_valid(across, args->width) || !axis_valid(down, args->height))
        return cudaErrorInvalidValue;
    if (misaligned(args->image) || misaligned(args->scratch)) return cudaErrorMisalignedAddress;
    const size_t stride = 3 * static_cast<size_t>(args->width);
    const plane image = {
        args->image, stride * args->height, down.first * stride + 3 * static_cast<size_t>(across.first),
        stride,      down.end - down.first, 3 * (across.end - across.first)};
    uint8_t *scratch = static_cast<uint8_t *>(args->scratch);
    plane middle = {scratch, resize_scratch_bytes(args), 0, 0, 0, 0};
    middle.rows = args->columns_first ? down.outputs : image.rows;
    middle.row_bytes = args->columns_first ? image.row_bytes : 3 * across.outputs;
    middle.stride = middle.row_bytes;
    const cudaError_t status = args->columns_first ? launch_down(image, down, scratch, stream)
                                                   : launch_across(image, across, scratch, stream);
    if (status != cudaSuccess) return status;
    return args->columns_first ? launch_across(middle, across, args->crop, stream)
                               : launch_down(middle, down, args->crop, stream);
}
