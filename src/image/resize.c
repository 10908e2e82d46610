/* Pillow's resize, bit for bit, of the part that the central crop needs.
 *
 * Pillow resizes in two passes, one along the rows and one along the columns, and rounds to 8 bits after
 * each. Output i of a pass is
 *
 *   clip((2^21 + sum_j w_ij * input_j) >> 22)
 *
 * with w_ij = round(2^22 * f((j + 1/2 - c_i) / s) / sum_j f(...)), c_i = (i + 1/2) * in / out the output's
 * centre in the input, s = max(1, in / out), f the filter, and j over the inputs whose centres lie within
 * the filter's radius times s of c_i. Weights are computed in double, sums in 32-bit integers: |w| adds up
 * to less than 1.5, so nothing overflows. A pass that does not change the size has the single weight 1 and
 * changes nothing, which is why Pillow may leave it out and we need not.
 *
 * The order of the passes shows in the last bits. The rows come first, as in every Pillow before 13, but
 * since then the columns do where the height shrinks by more than twice as many pixels as the width; that
 * happens to images more than twice as high as wide, and we follow Pillow 13.
 *
 * Sides as in torchvision's Resize and CenterCrop: the short side becomes short_side, the long one
 * int(short_side * long / short); the crop's offset is half of what is left over, halves to even. Squashed
 * is Resize((crop, crop)), and nothing is left over. */
#include "image/resize.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/error.h"
#include "image/image.h"

enum {
    WEIGHT_BITS = 22,
    ROUND_HALF = 1 << (WEIGHT_BITS - 1),
    STRIP_ROWS = 16,              /* rows that go through the pass along the rows together */
    STRIP_PIXEL = STRIP_ROWS * 3, /* bytes of one of their columns */
    BLOCK = STRIP_PIXEL,          /* bytes that are summed at a time; the sums stay in registers */
    MAX_SHORT_SIDE = 1 << 16,
};

/* The same loops for newer processors, picked when the program starts. Integer sums do not depend on the
 * vectors' length. The thread sanitizer would instrument the choice, which runs before it is ready itself. */
#if defined(__x86_64__) && defined(__gnu_linux__) && defined(__GNUC__) && !defined(__clang__) &&             \
    !defined(__SANITIZE_THREAD__)
#define FOR_EVERY_CPU __attribute__((target_clones("avx2", "default")))
#else
#define FOR_EVERY_CPU
#endif

struct filter {
    double radius;
    double (*at)(double x);
};

/* Keys, "Cubic convolution interpolation for digital image processing" (1981), with a = -1/2. The order of
 * the operations is Pillow's. */
static double bicubic(double x)
{
    const double a = -0.5;
    x = fabs(x);
    if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
    if (x < 2) return (((x - 5) * x + 8) * x - 4) * a;
    return 0;
}

static double bilinear(double x)
{
    x = fabs(x);
    return x < 1 ? 1 - x : 0;
}

/* The weights of output i of a pass from `in` to `resized` pixels: returns how many there are; *first is
 * the input of the first. */
static int compute_weights(int in, int64_t resized, int64_t i, const struct filter *filter, double *weights,
                           int *first)
{
    double scale = (double)in / (double)resized;
    double stretch = scale < 1 ? 1 : scale;
    double support = filter->radius * stretch, inverse = 1 / stretch;
    double centre = ((double)i + 0.5) * scale;
    int begin = (int)(centre - support + 0.5), end = (int)(centre + support + 0.5);
    if (begin < 0) begin = 0;
    if (end > in) end = in;

    double sum = 0;
    for (int j = begin; j < end; j++) {
        weights[j - begin] = filter->at((j - centre + 0.5) * inverse);
        sum += weights[j - begin];
    }
    if (sum != 0)
        for (int j = begin; j < end; j++) weights[j - begin] /= sum;
    *first = begin;
    return end - begin;
}

static int32_t to_fixed(double weight)
{
    double scaled = weight * (1 << WEIGHT_BITS);
    return (int32_t)(scaled < 0 ? scaled - 0.5 : scaled + 0.5);
}

/* Room for one output's weights. */
static int count_taps(int in, int64_t resized, const struct filter *filter)
{
    double scale = (double)in / (double)resized;
    return 2 * (int)ceil(filter->radius * (scale < 1 ? 1 : scale)) + 1;
}

static size_t axis_values(int outputs, int taps)
{
    return (size_t)outputs * (2 + (size_t)taps);
}

/* For the outputs offset .. offset + outputs - 1 of a pass from `in` to `resized` pixels. `tables` has room
 * for axis_values, `weights` for axis->taps. */
static void axis_fill(struct image_axis *axis, int in, int64_t resized, int64_t offset,
                      const struct filter *filter, int32_t *tables, double *weights)
{
    int32_t *start = tables, *counts = start + axis->outputs, *fixed = counts + axis->outputs;
    for (int i = 0; i < axis->outputs; i++) {
        int first, count = compute_weights(in, resized, offset + i, filter, weights, &first);
        int32_t *to = fixed + (size_t)i * (size_t)axis->taps;
        for (int j = 0; j < axis->taps; j++) to[j] = j < count ? to_fixed(weights[j]) : 0;
        if (i == 0) axis->first = first;
        start[i] = first - axis->first;
        counts[i] = count;
        if (first + count > axis->end) axis->end = first + count;
    }
    axis->start = start;
    axis->count = counts;
    axis->weights = fixed;
}

static inline uint8_t clip(int32_t sum)
{
    sum >>= WEIGHT_BITS;
    return (uint8_t)(sum < 0 ? 0 : sum > 255 ? 255 : sum);
}

/* The weighted sum of `count` rows of `width` bytes (at most BLOCK), each `stride` bytes after the one
 * before. */
static inline __attribute__((always_inline)) void
blend_block(const int32_t *weights, int count, const uint8_t *rows, size_t stride, int width, uint8_t *out)
{
    int32_t sum[BLOCK];
    for (int x = 0; x < width; x++) sum[x] = ROUND_HALF;
    for (int j = 0; j < count; j++) {
        const uint8_t *row = rows + (size_t)j * stride;
        for (int x = 0; x < width; x++) sum[x] += weights[j] * row[x];
    }
    for (int x = 0; x < width; x++) out[x] = clip(sum[x]);
}

/* One output of the pass down the columns: from rows of `columns` bytes, `stride` apart, to one of them. */
FOR_EVERY_CPU
static void blend_rows(const struct image_axis *down, int output, const uint8_t *rows, size_t stride,
                       size_t columns, uint8_t *out)
{
    const int32_t *weights = down->weights + (size_t)output * (size_t)down->taps;
    int count = down->count[output];
    const uint8_t *from = rows + (size_t)down->start[output] * stride;
    size_t x = 0;
    for (; columns - x >= BLOCK; x += BLOCK) blend_block(weights, count, from + x, stride, BLOCK, out + x);
    if (x < columns) blend_block(weights, count, from + x, stride, (int)(columns - x), out + x);
}

/* All outputs of the pass along the rows, for a strip: in [inputs][3][STRIP_ROWS] -> out
 * [outputs][3][STRIP_ROWS]. A column of a strip is what a row is to the other pass. */
FOR_EVERY_CPU
static void blend_columns(const struct image_axis *across, const uint8_t *in, uint8_t *out)
{
    for (int i = 0; i < across->outputs; i++)
        blend_block(across->weights + (size_t)i * (size_t)across->taps, across->count[i],
                    in + (size_t)across->start[i] * STRIP_PIXEL, STRIP_PIXEL, BLOCK,
                    out + (size_t)i * STRIP_PIXEL);
}

/* out[x][r] = in[r][x] for `columns` x and `rows` (at most STRIP_ROWS) r; strides in bytes. */
FOR_EVERY_CPU
static void transpose(const uint8_t *restrict in, size_t in_stride, size_t columns, int rows,
                      uint8_t *restrict out, size_t out_stride)
{
    if (rows == STRIP_ROWS) { /* the usual case, with a fixed count for the compiler's sake */
        for (size_t x = 0; x < columns; x++)
            for (int r = 0; r < STRIP_ROWS; r++)
                out[x * out_stride + (size_t)r] = in[(size_t)r * in_stride + x];
    } else {
        for (size_t x = 0; x < columns; x++)
            for (int r = 0; r < rows; r++) out[x * out_stride + (size_t)r] = in[(size_t)r * in_stride + x];
    }
}

/* The pass along the rows: in, `rows` rows that begin with pixel across->first and are `stride` bytes
 * apart -> out [rows][outputs][3]. `strips` has room for strips_bytes. */
static void resize_rows(const struct image_axis *across, const uint8_t *in, size_t stride, int rows,
                        uint8_t *strips, uint8_t *out)
{
    size_t in_bytes = (size_t)(across->end - across->first) * 3, out_bytes = (size_t)across->outputs * 3;
    uint8_t *strip = strips, *resized = strips + in_bytes * STRIP_ROWS;
    for (int y = 0; y < rows; y += STRIP_ROWS) {
        int count = rows - y < STRIP_ROWS ? rows - y : STRIP_ROWS;
        if (count < STRIP_ROWS) memset(strip, 0, in_bytes * STRIP_ROWS);
        transpose(in + (size_t)y * stride, stride, in_bytes, count, strip, STRIP_ROWS);
        blend_columns(across, strip, resized);
        uint8_t *to = out + (size_t)y * out_bytes;
        for (size_t x = 0; x < out_bytes; x += STRIP_ROWS) {
            int width = out_bytes - x < STRIP_ROWS ? (int)(out_bytes - x) : STRIP_ROWS;
            transpose(resized + x * STRIP_ROWS, STRIP_ROWS, (size_t)count, width, to + x, out_bytes);
        }
    }
}

static size_t strips_bytes(const struct image_axis *across)
{
    return ((size_t)(across->end - across->first) + (size_t)across->outputs) * STRIP_PIXEL;
}

/* At least `bytes` of scratch; NULL without memory. */
static uint8_t *scratch_reserve(struct image_scratch *scratch, size_t bytes)
{
    if (scratch->size_bytes >= bytes) return scratch->memory;
    image_scratch_free(scratch);
    scratch->memory = malloc(bytes);
    if (scratch->memory) scratch->size_bytes = bytes;
    return scratch->memory;
}

void image_scratch_free(struct image_scratch *scratch)
{
    free(scratch->memory);
    *scratch = (struct image_scratch){0};
}

int image_fit_run(const struct image_fit *fit, const uint8_t *in, size_t stride,
                  struct image_scratch *scratch, uint8_t *crop)
{
    const struct image_axis *across = &fit->across, *down = &fit->down;
    size_t in_bytes = (size_t)(across->end - across->first) * 3, crop_bytes = (size_t)across->outputs * 3;
    int rows = down->end - down->first;
    size_t middle_bytes = fit->columns_first ? (size_t)down->outputs * in_bytes : (size_t)rows * crop_bytes;
    uint8_t *middle = scratch_reserve(scratch, middle_bytes + strips_bytes(across));
    if (!middle) return EFFNET_E_NOMEM;
    uint8_t *strips = middle + middle_bytes;
    if (fit->columns_first) {
        for (int y = 0; y < down->outputs; y++)
            blend_rows(down, y, in, stride, in_bytes, middle + (size_t)y * in_bytes);
        resize_rows(across, middle, in_bytes, down->outputs, strips, crop);
    } else {
        resize_rows(across, in, stride, rows, strips, middle);
        for (int y = 0; y < down->outputs; y++)
            blend_rows(down, y, middle, crop_bytes, crop_bytes, crop + (size_t)y * crop_bytes);
    }
    return EFFNET_OK;
}

/* What the whole image is resized to, and where the crop lies in that. */
struct placing {
    int64_t width, height, left, top;
};

static struct placing place_crop(int width, int height, const struct effnet_preprocess *p)
{
    if (p->resize == EFFNET_RESIZE_SQUASH) return (struct placing){p->crop, p->crop, 0, 0};
    int shorter = width < height ? width : height, longer = width < height ? height : width;
    int64_t resized = (int64_t)((double)((int64_t)p->short_side * longer) / shorter);
    struct placing to = {.width = width <= height ? p->short_side : resized,
                         .height = width <= height ? resized : p->short_side};
    to.left = (int64_t)nearbyint((double)(to.width - p->crop) / 2); /* halves to even */
    to.top = (int64_t)nearbyint((double)(to.height - p->crop) / 2);
    return to;
}

static int check_preprocess(const struct effnet_preprocess *p, struct effnet_error *error)
{
    if (p->crop < 1 || p->short_side < p->crop || p->short_side > MAX_SHORT_SIDE)
        return effnet_fail(error, EFFNET_E_USAGE, "cannot crop %d out of a short side of %d (at most %d)",
                           p->crop, p->short_side, MAX_SHORT_SIDE);
    if (p->interpolation != EFFNET_BICUBIC && p->interpolation != EFFNET_BILINEAR)
        return effnet_fail(error, EFFNET_E_USAGE, "unknown interpolation %d", (int)p->interpolation);
    if (p->resize != EFFNET_RESIZE_SHORT_SIDE && p->resize != EFFNET_RESIZE_SQUASH)
        return effnet_fail(error, EFFNET_E_USAGE, "unknown resize %d", (int)p->resize);
    if (p->resize == EFFNET_RESIZE_SQUASH && p->short_side != p->crop)
        return effnet_fail(error, EFFNET_E_USAGE, "cannot squash to a crop of %d and a short side of %d",
                           p->crop, p->short_side);
    return effnet_check_reserved(p->reserved, sizeof p->reserved, "preprocessing", error);
}

/* Whether the tables are already those for this. Mean and deviation do not matter to them. */
static bool is_made_for(const struct image_fit *fit, int width, int height, const struct effnet_preprocess *p)
{
    return fit->width == width && fit->height == height && fit->short_side == p->short_side &&
           fit->crop == p->crop && fit->interpolation == p->interpolation && fit->resize == p->resize;
}

int image_fit_remake(struct image_fit *fit, int width, int height, const struct effnet_preprocess *p,
                     struct effnet_error *error)
{
    static const struct filter filters[] = {
        [EFFNET_BICUBIC] = {2, bicubic},
        [EFFNET_BILINEAR] = {1, bilinear},
    };
    if (width < 1 || height < 1 || width > IMAGE_MAX_SIDE || height > IMAGE_MAX_SIDE)
        return effnet_fail(error, EFFNET_E_USAGE, "an image of %d x %d cannot be resized", width, height);
    EFFNET_TRY(check_preprocess(p, error));
    if (is_made_for(fit, width, height, p)) return EFFNET_OK;
    fit->width = 0; /* no tables, until they are made */
    const struct placing to = place_crop(width, height, p);
    const struct filter *filter = &filters[p->interpolation];
    struct image_axis across = {.outputs = p->crop, .taps = count_taps(width, to.width, filter)};
    struct image_axis down = {.outputs = p->crop, .taps = count_taps(height, to.height, filter)};

    size_t across_values = axis_values(across.outputs, across.taps);
    size_t table_bytes = (across_values + axis_values(down.outputs, down.taps)) * sizeof(int32_t);
    size_t weights_at = (table_bytes + sizeof(double) - 1) / sizeof(double) * sizeof(double);
    size_t taps = (size_t)(across.taps > down.taps ? across.taps : down.taps);
    uint8_t *memory = scratch_reserve(&fit->memory, weights_at + taps * sizeof(double));
    if (!memory) return effnet_fail_nomem(error, "resizing", weights_at + taps * sizeof(double));
    fit->tables = (int32_t *)(void *)memory;
    double *weights = (double *)(void *)(memory + weights_at);
    axis_fill(&across, width, to.width, to.left, filter, fit->tables, weights);
    axis_fill(&down, height, to.height, to.top, filter, fit->tables + across_values, weights);
    fit->across = across;
    fit->down = down;
    fit->table_bytes = table_bytes;
    fit->columns_first = height > to.height && height - to.height > 2 * (width - to.width);
    fit->width = width;
    fit->height = height;
    fit->short_side = p->short_side;
    fit->crop = p->crop;
    fit->interpolation = p->interpolation;
    fit->resize = p->resize;
    return EFFNET_OK;
}

int image_fit_make(int width, int height, const struct effnet_preprocess *p, struct image_fit *fit,
                   struct effnet_error *error)
{
    *fit = (struct image_fit){0};
    return image_fit_remake(fit, width, height, p, error);
}

void image_fit_free(struct image_fit *fit)
{
    image_scratch_free(&fit->memory);
    *fit = (struct image_fit){0};
}

const uint8_t *image_fit_first_pixel(const struct image_fit *fit, const uint8_t *rgb)
{
    return rgb + ((size_t)fit->down.first * (size_t)fit->width + (size_t)fit->across.first) * 3;
}

int effnet_image_fit(const struct effnet_image *image, const struct effnet_preprocess *p, uint8_t *crop,
                     struct effnet_error *error)
{
    struct image_fit fit;
    struct image_scratch scratch = {0};
    if (!image->rgb) return effnet_fail(error, EFFNET_E_USAGE, "no pixels to resize");
    EFFNET_TRY(image_fit_make(image->width, image->height, p, &fit, error));
    const uint8_t *in = image_fit_first_pixel(&fit, image->rgb);
    int status = image_fit_run(&fit, in, (size_t)image->width * 3, &scratch, crop);
    image_scratch_free(&scratch);
    image_fit_free(&fit);
    return status ? effnet_fail(error, status, "out of memory while resizing") : EFFNET_OK;
}
