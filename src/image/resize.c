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

#include "common/error.h"
#include "image/image.h"
#include "image/resize_kernels.h"

enum { MAX_SHORT_SIDE = 1 << 16 };

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
    double scaled = weight * (1 << RESIZE_WEIGHT_BITS);
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

/* ---------------------------------------------------------------- for the kernels */

/* Units that an output may touch, wherever its first input lies in the first of them. */
static int most_units(const struct image_axis *axis, int unit)
{
    return (axis->taps + 2 * unit - 2) / unit;
}

/* int32_t values of a pass. */
static size_t pass_values(const struct image_axis *axis, const struct resize_kernels *kernels)
{
    size_t units = (size_t)most_units(axis, kernels->unit);
    return (size_t)axis->outputs * (2 + units * (size_t)kernels->packed_values);
}

/* The axis in units; `tables` has room for pass_values. */
static struct resize_pass pass_make(const struct image_axis *axis, const struct resize_kernels *kernels,
                                    int32_t *tables)
{
    const int unit = kernels->unit, values = kernels->packed_values;
    int32_t *first = tables, *count = first + axis->outputs, *packed = count + axis->outputs;
    const struct resize_pass pass = {axis->outputs, most_units(axis, unit) * values, first, count, packed};
    for (int i = 0; i < axis->outputs; i++) {
        const int32_t *weights = axis->weights + (size_t)i * (size_t)axis->taps;
        int32_t *to = packed + (size_t)i * (size_t)pass.stride;
        int begin = axis->start[i] / unit, end = (axis->start[i] + axis->count[i] + unit - 1) / unit;
        for (int j = 0; j < end - begin; j++) {
            int32_t one[RESIZE_MOST_UNIT] = {0};
            for (int k = 0; k < unit; k++) {
                int at = (begin + j) * unit + k - axis->start[i];
                if (at >= 0 && at < axis->count[i]) one[k] = weights[at];
            }
            kernels->pack(one, to + (size_t)j * (size_t)values);
        }
        first[i] = begin;
        count[i] = end - begin;
    }
    return pass;
}

/* At least `bytes`, aligned for the kernels; NULL without memory. */
void *image_scratch_reserve(struct image_scratch *scratch, size_t bytes)
{
    if (scratch->size_bytes >= bytes) return scratch->memory;
    image_scratch_free(scratch);
    bytes = resize_align(bytes);
    scratch->memory = aligned_alloc(RESIZE_ALIGN, bytes);
    if (scratch->memory) scratch->size_bytes = bytes;
    return scratch->memory;
}

void image_scratch_free(struct image_scratch *scratch)
{
    free(scratch->memory);
    *scratch = (struct image_scratch){0};
}

/* ---------------------------------------------------------------- the whole */
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

    if (!fit->kernels) fit->kernels = resize_best_kernels();
    size_t across_values = axis_values(across.outputs, across.taps);
    size_t table_values = across_values + axis_values(down.outputs, down.taps);
    size_t across_packed = pass_values(&across, fit->kernels);
    size_t all_values = table_values + across_packed + pass_values(&down, fit->kernels);
    size_t weights_at = resize_align(all_values * sizeof(int32_t));
    size_t taps = (size_t)(across.taps > down.taps ? across.taps : down.taps);
    uint8_t *memory = image_scratch_reserve(&fit->memory, weights_at + taps * sizeof(double));
    if (!memory) return effnet_fail_nomem(error, "resizing", weights_at + taps * sizeof(double));
    fit->tables = (int32_t *)(void *)memory;
    double *weights = (double *)(void *)(memory + weights_at);
    axis_fill(&across, width, to.width, to.left, filter, fit->tables, weights);
    axis_fill(&down, height, to.height, to.top, filter, fit->tables + across_values, weights);
    fit->across = across;
    fit->down = down;
    fit->table_bytes = table_values * sizeof(int32_t);
    fit->across_pass = pass_make(&across, fit->kernels, fit->tables + table_values);
    fit->down_pass = pass_make(&down, fit->kernels, fit->tables + table_values + across_packed);
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
