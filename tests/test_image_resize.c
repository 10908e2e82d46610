/* effnet_image_fit against a plain resize of the whole image, one pixel after the other: real photo sizes
 * first, then seeded random ones. The crop is poisoned before and guarded around. What Pillow itself gives
 * is in test_preprocess.py. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "effnet.h"
#include "random.h"

enum { GUARD = 64, GUARD_BYTE = 0xa5 };

static double cubic(double x)
{
    x = fabs(x);
    if (x >= 2) return 0;
    return x < 1 ? (1.5 * x - 2.5) * x * x + 1 : ((x - 5) * x + 8) * x * -0.5 + 2;
}

static double triangle(double x)
{
    return fabs(x) < 1 ? 1 - fabs(x) : 0;
}

/* Output `at` of `out` along one line of `in` samples, `stride` bytes apart. */
static uint8_t resample(const uint8_t *line, size_t stride, int in, int out, int at,
                        enum effnet_interpolation interpolation)
{
    double scale = (double)in / out, width = scale > 1 ? scale : 1, inverse = 1 / width;
    double radius = (interpolation == EFFNET_BICUBIC ? 2 : 1) * width, centre = (at + 0.5) * scale, total = 0;
    int first = (int)fmax(0, floor(centre - radius + 0.5)), end = (int)fmin(in, floor(centre + radius + 0.5));
    for (int pass = 0;; pass++) {
        int64_t sum = 1 << 21;
        for (int i = first; i < end; i++) {
            double x = (i - centre + 0.5) * inverse,
                   w = interpolation == EFFNET_BICUBIC ? cubic(x) : triangle(x);
            if (pass == 0)
                total += w;
            else
                sum += (int64_t)round(w / total * (1 << 22)) * line[(size_t)i * stride];
        }
        if (pass == 1) return (uint8_t)(sum < 0 ? 0 : sum >> 22 > 255 ? 255 : sum >> 22);
    }
}

static uint8_t *resize_rows(const uint8_t *rgb, int width, int height, int out,
                            enum effnet_interpolation interpolation)
{
    uint8_t *to = malloc((size_t)out * (size_t)height * 3);
    assert_non_null(to);
    for (int y = 0; y < height; y++)
        for (int x = 0; x < out; x++)
            for (int c = 0; c < 3; c++)
                to[((size_t)y * (size_t)out + (size_t)x) * 3 + (size_t)c] = resample(
                    rgb + (size_t)y * (size_t)width * 3 + c, 3, width, out, x, interpolation);
    return to;
}

static uint8_t *resize_columns(const uint8_t *rgb, int width, int height, int out,
                               enum effnet_interpolation interpolation)
{
    uint8_t *to = malloc((size_t)out * (size_t)width * 3);
    assert_non_null(to);
    size_t row = (size_t)width * 3;
    for (int y = 0; y < out; y++)
        for (size_t x = 0; x < row; x++)
            to[(size_t)y * row + x] = resample(rgb + x, row, height, out, y, interpolation);
    return to;
}

static int offset(int side, int crop)
{
    return (int)rint((side - crop) / 2.0); /* halves to even */
}

static void expected_crop(const struct effnet_image *image, const struct effnet_preprocess *p, uint8_t *crop)
{
    int w = image->width, h = image->height, out_w = p->short_side, out_h = p->short_side;
    if (w > h) out_w = (int)((double)p->short_side * w / h);
    if (h > w) out_h = (int)((double)p->short_side * h / w);
    uint8_t *middle, *whole;
    if (h > out_h && h - out_h > 2 * (w - out_w)) {
        middle = resize_columns(image->rgb, w, h, out_h, p->interpolation);
        whole = resize_rows(middle, w, out_h, out_w, p->interpolation);
    } else {
        middle = resize_rows(image->rgb, w, h, out_w, p->interpolation);
        whole = resize_columns(middle, out_w, h, out_h, p->interpolation);
    }
    size_t row = (size_t)p->crop * 3;
    for (int y = 0; y < p->crop; y++)
        memcpy(crop + (size_t)y * row,
               whole +
                   ((size_t)(offset(out_h, p->crop) + y) * (size_t)out_w + (size_t)offset(out_w, p->crop)) *
                       3,
               row);
    free(middle);
    free(whole);
}

static void check(int width, int height, const struct effnet_preprocess *p, bool extreme, uint64_t *seed)
{
    size_t size = (size_t)width * (size_t)height * 3, crop_size = (size_t)p->crop * (size_t)p->crop * 3;
    struct effnet_image image = {.width = width, .height = height, .rgb = malloc(size)};
    uint8_t *guarded = malloc(crop_size + 2 * GUARD), *expected = malloc(crop_size);
    assert_true(image.rgb && guarded && expected);
    for (size_t i = 0; i < size; i++) {
        image.rgb[i] = (uint8_t)random_next(seed);
        if (extreme) image.rgb[i] = image.rgb[i] & 1 ? 255 : 0;
    }
    memset(guarded, GUARD_BYTE, crop_size + 2 * GUARD);
    expected_crop(&image, p, expected);

    struct effnet_error error;
    uint8_t *crop = guarded + GUARD;
    assert_int_equal(effnet_image_fit(&image, p, crop, &error), EFFNET_OK);
    for (size_t i = 0; i < crop_size; i++)
        if (crop[i] != expected[i])
            fail_msg("%d x %d -> %d, %d: byte %zu is %d for %d", width, height, p->short_side, p->crop, i,
                     crop[i], expected[i]);
    for (size_t i = 0; i < GUARD; i++) {
        assert_int_equal(guarded[i], GUARD_BYTE);
        assert_int_equal(guarded[GUARD + crop_size + i], GUARD_BYTE);
    }
    free(expected);
    free(guarded);
    free(image.rgb);
}

static void usual_sizes(void **state)
{
    (void)state;
    static const int sizes[][2] = {{500, 375}, {375, 500}, {272, 272}, {273, 275}, {240, 240}, {300, 700},
                                   {700, 300}, {1, 1},     {3, 3},     {1, 50},    {50, 1},    {600, 1300}};
    uint64_t seed = random_seed("usual_sizes", 51);
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++)
        for (int extreme = 0; extreme < 2; extreme++) {
            struct effnet_preprocess p = {.short_side = 272, .crop = 240, .interpolation = EFFNET_BICUBIC};
            if (i % 3 == 2) p.interpolation = EFFNET_BILINEAR;
            check(sizes[i][0], sizes[i][1], &p, extreme, &seed);
        }
}

/* Crops around the strips of 16 rows and the blocks of 48 bytes, and needed rows and columns of every count.
 */
static void random_sizes(void **state)
{
    (void)state;
    uint64_t seed = random_seed("random_sizes", 52);
    for (int round = 0; round < 400; round++) {
        struct effnet_preprocess p = {.crop = random_int(&seed, 1, 70)};
        p.short_side = p.crop + random_int(&seed, 0, 1) * random_int(&seed, 0, 40);
        p.interpolation = random_int(&seed, 0, 1) ? EFFNET_BICUBIC : EFFNET_BILINEAR;
        int width = random_int(&seed, 1, 200), height = random_int(&seed, 1, 200);
        if (round % 4 == 0) width = random_int(&seed, 1, 20);
        if (round % 4 == 1) height = random_int(&seed, 1, 20);
        check(width, height, &p, random_int(&seed, 0, 1), &seed);
    }
}

/* 5000 pixels in a row become 1,360,000; nobody makes them all. A constant stays one. */
static void needles(void **state)
{
    (void)state;
    static uint8_t pixels[16777216 * 3], crop[240 * 240 * 3];
    static const int sizes[][2] = {{1, 5000}, {5000, 1}, {1, 1 << 24}, {1 << 24, 1}};
    memset(pixels, 123, sizeof pixels);
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        struct effnet_image image = {.width = sizes[i][0], .height = sizes[i][1], .rgb = pixels};
        struct effnet_preprocess p = {.short_side = 272, .crop = 240, .interpolation = EFFNET_BICUBIC};
        memset(crop, 0, sizeof crop);
        assert_int_equal(effnet_image_fit(&image, &p, crop, NULL), EFFNET_OK);
        for (size_t j = 0; j < sizeof crop; j++) assert_int_equal(crop[j], 123);
    }
}

static void wrong_arguments(void **state)
{
    (void)state;
    uint8_t pixels[3] = {1, 2, 3}, crop[64 * 3];
    const struct effnet_image good = {.width = 1, .height = 1, .rgb = pixels}, none = {0},
                              tall = {.width = 1, .height = (1 << 24) + 1, .rgb = pixels};
    static const struct effnet_preprocess wrong[] = {
        {.short_side = 7, .crop = 8},
        {.short_side = 0, .crop = 0},
        {.short_side = -1, .crop = -1},
        {.short_side = INT32_MAX, .crop = 8},
        {.short_side = 8, .crop = 8, .interpolation = (enum effnet_interpolation)7},
        {.short_side = 8, .crop = 8, .resize = (enum effnet_resize)2},
        {.short_side = 9, .crop = 8, .resize = EFFNET_RESIZE_SQUASH},
    };
    struct effnet_error error;
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++)
        assert_int_equal(effnet_image_fit(&good, &wrong[i], crop, &error), EFFNET_E_USAGE);
    const struct effnet_preprocess right = {.short_side = 8, .crop = 8};
    assert_int_equal(effnet_image_fit(&none, &right, crop, &error), EFFNET_E_USAGE);
    assert_int_equal(effnet_image_fit(&tall, &right, crop, &error), EFFNET_E_USAGE);
    assert_int_equal(effnet_image_fit(&good, &right, crop, &error), EFFNET_OK);
    assert_memory_equal(crop, pixels, 3);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(usual_sizes),
        cmocka_unit_test(random_sizes),
        cmocka_unit_test(needles),
        cmocka_unit_test(wrong_arguments),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
