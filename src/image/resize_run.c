/* Leads rows through the kernels. Rows of the first pass are made when the second wants them and stay in a
 * ring that the caches hold; what lies between the passes is never there as a whole. */
#include "common/error.h"
#include "image/resize.h"

/* What a run works on: pieces of the scratch. */
struct run {
    const struct image_fit *fit;
    const struct resize_kernels *kernels;
    const uint8_t *in;
    size_t stride;
    int pixels, rows; /* of the input */
    uint8_t *strip;
    struct resize_ring ring;   /* the rows between the passes */
    uint8_t *lines;            /* columns first: strip_rows rows of the input's width, */
    struct resize_ring finals; /* and these after the pass along the rows */
};

static int groups_of(const struct resize_kernels *kernels, int rows)
{
    return (rows + kernels->group_rows - 1) / kernels->group_rows;
}

/* The groups that must be there for an output of the pass down the columns. */
static int groups_until(const struct run *run, int output)
{
    const struct resize_pass *down = &run->fit->down_pass;
    return groups_of(run->kernels, (down->first[output] + down->count[output]) * run->kernels->unit);
}

/* Places for the groups of any output, where `step` groups are made at a time. */
static int count_places(const struct run *run, int step)
{
    const struct resize_pass *down = &run->fit->down_pass;
    int most = 0;
    for (int i = 0; i < down->outputs; i++) {
        int begin = down->first[i] * run->kernels->unit / run->kernels->group_rows;
        int end = (groups_until(run, i) + step - 1) / step * step;
        if (end - begin > most) most = end - begin;
    }
    return (most + step - 1) / step * step;
}

static int at_most(int a, int b)
{
    return a < b ? a : b;
}

static size_t group_bytes(const struct resize_kernels *kernels, size_t bytes)
{
    return resize_align(bytes * (size_t)kernels->group_rows);
}

/* The next `bytes` of the scratch; a dry run, with `base` NULL, only counts. */
static uint8_t *take(uint8_t *base, size_t *used, size_t bytes)
{
    uint8_t *piece = base ? base + *used : NULL;
    *used += resize_align(bytes);
    return piece;
}

/* Returns the bytes that the pieces take. */
static size_t lay_out(struct run *run, uint8_t *base)
{
    const struct resize_kernels *kernels = run->kernels;
    const int step = kernels->strip_rows / kernels->group_rows;
    const size_t block = RESIZE_OUTPUT_BLOCK;
    size_t in_bytes = (size_t)run->pixels * 3, used = 0;
    size_t strip_pixels = ((size_t)run->pixels + block - 1) / block * block;
    size_t out_bytes = ((size_t)run->fit->across.outputs + block - 1) / block * block * 3;
    run->strip = take(base, &used, strip_pixels * 3 * (size_t)kernels->strip_bytes);
    bool columns_first = run->fit->columns_first;
    run->ring.groups = count_places(run, columns_first ? 1 : step);
    run->ring.group_bytes = group_bytes(kernels, columns_first ? in_bytes : out_bytes);
    run->ring.memory = take(base, &used, (size_t)run->ring.groups * run->ring.group_bytes);
    if (columns_first) {
        run->finals = (struct resize_ring){.groups = step, .group_bytes = group_bytes(kernels, out_bytes)};
        run->finals.memory = take(base, &used, (size_t)step * run->finals.group_bytes);
        run->lines = take(base, &used, (size_t)kernels->strip_rows * in_bytes);
    }
    return used;
}

static void run_rows_first(const struct run *run, uint8_t *crop)
{
    const struct resize_kernels *kernels = run->kernels;
    size_t crop_bytes = (size_t)run->fit->across.outputs * 3;
    int step = kernels->strip_rows / kernels->group_rows, made = 0;
    for (int y = 0; y < run->fit->down.outputs; y++) {
        for (int until = groups_until(run, y); made < until; made += step) {
            int row = made * kernels->group_rows;
            kernels->load_strip(run->in + (size_t)row * run->stride, run->stride,
                                at_most(run->rows - row, kernels->strip_rows), run->pixels, run->strip);
            kernels->across(&run->fit->across_pass, run->strip,
                            run->ring.memory + (size_t)(made % run->ring.groups) * run->ring.group_bytes,
                            run->ring.group_bytes);
        }
        kernels->down(&run->fit->down_pass, y, &run->ring, crop_bytes, crop + (size_t)y * crop_bytes);
    }
}

/* Takes the rows apart that `finals` holds: a pass down the columns with one weight of 1 an output. */
static void put_rows(const struct run *run, int rows, uint8_t *out)
{
    const struct resize_kernels *kernels = run->kernels;
    size_t row_bytes = (size_t)run->fit->across.outputs * 3;
    for (int r = 0; r < rows; r++) {
        int32_t weights[RESIZE_MOST_UNIT] = {0}, packed[RESIZE_MOST_PACKED];
        weights[r % kernels->unit] = 1 << RESIZE_WEIGHT_BITS;
        kernels->pack(weights, packed);
        const int32_t first = r / kernels->unit, count = 1;
        const struct resize_pass copy = {1, kernels->packed_values, &first, &count, packed};
        kernels->down(&copy, 0, &run->finals, row_bytes, out + (size_t)r * row_bytes);
    }
}

static void run_columns_first(const struct run *run, uint8_t *crop)
{
    const struct resize_kernels *kernels = run->kernels;
    size_t in_bytes = (size_t)run->pixels * 3, crop_bytes = (size_t)run->fit->across.outputs * 3;
    int outputs = run->fit->down.outputs, made = 0;
    for (int y = 0; y < outputs; y += kernels->strip_rows) {
        int lines = at_most(outputs - y, kernels->strip_rows);
        for (int r = 0; r < lines; r++) {
            for (int until = groups_until(run, y + r); made < until; made++) {
                int row = made * kernels->group_rows;
                kernels->interleave(run->in + (size_t)row * run->stride, run->stride,
                                    at_most(run->rows - row, kernels->group_rows), in_bytes,
                                    run->ring.memory +
                                        (size_t)(made % run->ring.groups) * run->ring.group_bytes);
            }
            kernels->down(&run->fit->down_pass, y + r, &run->ring, in_bytes,
                          run->lines + (size_t)r * in_bytes);
        }
        kernels->load_strip(run->lines, in_bytes, lines, run->pixels, run->strip);
        kernels->across(&run->fit->across_pass, run->strip, run->finals.memory, run->finals.group_bytes);
        put_rows(run, lines, crop + (size_t)y * crop_bytes);
    }
}

int image_fit_run(const struct image_fit *fit, const uint8_t *in, size_t stride,
                  struct image_scratch *scratch, uint8_t *crop)
{
    struct run run = {.fit = fit,
                      .kernels = fit->kernels,
                      .in = in,
                      .stride = stride,
                      .pixels = fit->across.end - fit->across.first,
                      .rows = fit->down.end - fit->down.first};
    uint8_t *memory = image_scratch_reserve(scratch, lay_out(&run, NULL));
    if (!memory) return EFFNET_E_NOMEM;
    lay_out(&run, memory);
    if (fit->columns_first)
        run_columns_first(&run, crop);
    else
        run_rows_first(&run, crop);
    return EFFNET_OK;
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
