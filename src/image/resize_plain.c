/* The plain version, and the reference for the others. Loops over bytes that lie side by side, which
 * compilers turn into vectors. strip [pixel][3][16 rows], a group is a row, a unit one pixel or row. */
#include <string.h>

#include "image/resize_kernels.h"

enum {
    ROWS = 16,
    PIXEL = ROWS * 3, /* bytes of one column of a strip */
    BLOCK = PIXEL,    /* bytes that are summed at a time; the sums stay in registers */
};

static bool always(void)
{
    return true;
}

static void pack(const int32_t *weights, int32_t *packed)
{
    *packed = *weights;
}

static inline uint8_t clip(int32_t sum)
{
    sum >>= RESIZE_WEIGHT_BITS;
    return (uint8_t)(sum < 0 ? 0 : sum > 255 ? 255 : sum);
}

static inline void add(int32_t weight, const uint8_t *row, int width, int32_t *sum)
{
    for (int x = 0; x < width; x++) sum[x] += weight * row[x];
}

/* out[x][r] = in[r][x] for `columns` x and `rows` (at most ROWS) r; strides in bytes. */
static void transpose(const uint8_t *restrict in, size_t in_stride, size_t columns, int rows,
                      uint8_t *restrict out, size_t out_stride)
{
    if (rows == ROWS) { /* the usual case, with a fixed count for the compiler's sake */
        for (size_t x = 0; x < columns; x++)
            for (int r = 0; r < ROWS; r++) out[x * out_stride + (size_t)r] = in[(size_t)r * in_stride + x];
    } else {
        for (size_t x = 0; x < columns; x++)
            for (int r = 0; r < rows; r++) out[x * out_stride + (size_t)r] = in[(size_t)r * in_stride + x];
    }
}

static void load_strip(const uint8_t *in, size_t stride, int rows, int pixels, uint8_t *strip)
{
    if (rows < ROWS) memset(strip, 0, (size_t)pixels * PIXEL);
    transpose(in, stride, (size_t)pixels * 3, rows, strip, ROWS);
}

static void across(const struct resize_pass *pass, const uint8_t *strip, uint8_t *groups, size_t group_bytes)
{
    for (int i = 0; i < pass->outputs; i++) {
        const int32_t *weights = pass->packed + (size_t)i * (size_t)pass->stride;
        const uint8_t *column = strip + (size_t)pass->first[i] * PIXEL;
        int32_t sum[PIXEL];
        uint8_t out[PIXEL];
        for (int x = 0; x < PIXEL; x++) sum[x] = RESIZE_ROUND_HALF;
        for (int j = 0; j < pass->count[i]; j++) add(weights[j], column + (size_t)j * PIXEL, PIXEL, sum);
        for (int x = 0; x < PIXEL; x++) out[x] = clip(sum[x]);
        transpose(out, ROWS, ROWS, 3, groups + (size_t)i * 3, group_bytes);
    }
}

static void interleave(const uint8_t *in, size_t stride, int rows, size_t bytes, uint8_t *group)
{
    (void)stride;
    (void)rows;
    memcpy(group, in, bytes);
}

static inline __attribute__((always_inline)) void blend(const int32_t *weights, int count, int group,
                                                        const struct resize_ring *ring, size_t x, int width,
                                                        uint8_t *out)
{
    int32_t sum[BLOCK];
    for (int i = 0; i < width; i++) sum[i] = RESIZE_ROUND_HALF;
    for (int j = 0; j < count; j++) {
        add(weights[j], ring->memory + (size_t)group * ring->group_bytes + x, width, sum);
        if (++group == ring->groups) group = 0;
    }
    for (int i = 0; i < width; i++) out[i] = clip(sum[i]);
}

static void down(const struct resize_pass *pass, int output, const struct resize_ring *ring, size_t bytes,
                 uint8_t *out)
{
    const int32_t *weights = pass->packed + (size_t)output * (size_t)pass->stride;
    int count = pass->count[output], group = pass->first[output] % ring->groups;
    size_t x = 0;
    for (; bytes - x >= BLOCK; x += BLOCK) blend(weights, count, group, ring, x, BLOCK, out + x);
    if (x < bytes) blend(weights, count, group, ring, x, (int)(bytes - x), out + x);
}

const struct resize_kernels resize_plain = {
    .name = "plain",
    .supported = always,
    .strip_rows = ROWS,
    .group_rows = 1,
    .unit = 1,
    .packed_values = 1,
    .strip_bytes = ROWS,
    .pack = pack,
    .load_strip = load_strip,
    .across = across,
    .interleave = interleave,
    .down = down,
};
