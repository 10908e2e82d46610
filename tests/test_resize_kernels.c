/* Every set of resize kernels that this processor runs against the plain one, byte for byte. The input is the
 * needed pixels alone, so that the address sanitizer sees what is read beyond them; crops are guarded. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "image/resize.h"
#include "random.h"

enum { GUARD = 64, GUARD_BYTE = 0xa5 };

static bool is_whole(const uint8_t *guarded, size_t bytes)
{
    for (size_t i = 0; i < GUARD; i++)
        if (guarded[i] != GUARD_BYTE || guarded[GUARD + bytes + i] != GUARD_BYTE) return false;
    return true;
}

/* The needed pixels alone, without a gap, and nothing behind them. */
static uint8_t *noise(const struct image_fit *fit, bool extreme, uint64_t *seed)
{
    size_t size = (size_t)(fit->down.end - fit->down.first) * (size_t)(fit->across.end - fit->across.first) *
                  3;
    uint8_t *pixels = malloc(size);
    assert_non_null(pixels);
    for (size_t i = 0; i < size; i++) {
        const uint8_t value = (uint8_t)random_next(seed);
        pixels[i] = extreme ? (value & 1) * 255 : value;
    }
    return pixels;
}

static void fit_with(const struct resize_kernels *kernels, int width, int height,
                     const struct effnet_preprocess *p, const uint8_t *pixels, struct image_scratch *scratch,
                     uint8_t *guarded)
{
    struct image_fit fit = {.kernels = kernels};
    size_t crop_bytes = (size_t)p->crop * (size_t)p->crop * 3;
    assert_int_equal(image_fit_remake(&fit, width, height, p, NULL), EFFNET_OK);
    memset(guarded, GUARD_BYTE, crop_bytes + 2 * GUARD);
    size_t stride = (size_t)(fit.across.end - fit.across.first) * 3;
    assert_int_equal(image_fit_run(&fit, pixels, stride, scratch, guarded + GUARD), EFFNET_OK);
    if (!is_whole(guarded, crop_bytes))
        fail_msg("%s, %d x %d -> %d: bytes around the crop were written", kernels->name, width, height,
                 p->crop);
    image_fit_free(&fit);
}

static void check(int width, int height, const struct effnet_preprocess *p, uint64_t *seed)
{
    size_t crop_bytes = (size_t)p->crop * (size_t)p->crop * 3;
    uint8_t *want = malloc(crop_bytes + 2 * GUARD), *got = malloc(crop_bytes + 2 * GUARD);
    struct image_fit fit = {.kernels = &resize_plain};
    struct image_scratch scratch = {0};
    assert_true(want && got);
    assert_int_equal(image_fit_remake(&fit, width, height, p, NULL), EFFNET_OK);
    uint8_t *pixels = noise(&fit, random_int(seed, 0, 1), seed);
    image_fit_free(&fit);
    fit_with(&resize_plain, width, height, p, pixels, &scratch, want);
    for (int k = 0; resize_all_kernels[k]; k++) {
        const struct resize_kernels *kernels = resize_all_kernels[k];
        if (!kernels->supported()) continue;
        fit_with(kernels, width, height, p, pixels, &scratch, got);
        for (size_t i = GUARD; i < GUARD + crop_bytes; i++)
            if (got[i] != want[i])
                fail_msg("%s, %d x %d -> %d, %d: byte %zu is %d for %d", kernels->name, width, height,
                         p->short_side, p->crop, i - GUARD, got[i], want[i]);
    }
    image_scratch_free(&scratch);
    free(pixels);
    free(want);
    free(got);
}

/* Needed rows and columns of every count, both orders of the passes, both filters. */
static void random_shapes(void **state)
{
    (void)state;
    uint64_t seed = random_seed("random_shapes", 71);
    for (int round = 0; round < 600; round++) {
        struct effnet_preprocess p = {.crop = random_int(&seed, 1, 40)};
        p.short_side = p.crop + random_int(&seed, 0, 1) * random_int(&seed, 0, 20);
        p.interpolation = random_int(&seed, 0, 1) ? EFFNET_BICUBIC : EFFNET_BILINEAR;
        if (p.short_side == p.crop && random_int(&seed, 0, 1)) p.resize = EFFNET_RESIZE_SQUASH;
        int width = random_int(&seed, 1, round % 4 == 0 ? 8 : 150);
        int height = random_int(&seed, 1, round % 4 == 1 ? 8 : 150);
        if (round % 5 == 0) height += 2 * width; /* down the columns first */
        check(width, height, &p, &seed);
    }
}

static void usual_shapes(void **state)
{
    (void)state;
    static const int sizes[][2] = {{500, 375}, {375, 500}, {64, 64}, {400, 1000},
                                   {1, 1},     {2, 1},     {1, 2},   {241, 239}};
    uint64_t seed = random_seed("usual_shapes", 72);
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        const struct effnet_preprocess p = {.short_side = 272, .crop = 240, .interpolation = EFFNET_BICUBIC};
        check(sizes[i][0], sizes[i][1], &p, &seed);
    }
}

/* Up to 40,000 weights an output. */
static void many_taps(void **state)
{
    (void)state;
    static const int sizes[][2] = {{20000, 3}, {3, 20001}, {9999, 2}, {1, 10007}, {5003, 31}, {31, 5003}};
    uint64_t seed = random_seed("many_taps", 73);
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++)
        for (int crop = 1; crop <= 9; crop += 4) {
            const struct effnet_preprocess p = {.short_side = crop,
                                                .crop = crop,
                                                .interpolation = EFFNET_BICUBIC,
                                                .resize = EFFNET_RESIZE_SQUASH};
            check(sizes[i][0], sizes[i][1], &p, &seed);
        }
}

static uint8_t clip(int64_t sum)
{
    return (uint8_t)(sum < 0 ? 0 : sum > 255 ? 255 : sum);
}

/* One unit of rows with weights up to 1.5 in size, as far as a filter's may go, and every bit of them. */
static void large_weights(void **state)
{
    (void)state;
    enum { BYTES = 40 };
    uint64_t seed = random_seed("large_weights", 74);
    for (int k = 0; resize_all_kernels[k]; k++) {
        const struct resize_kernels *kernels = resize_all_kernels[k];
        if (!kernels->supported()) continue;
        struct resize_ring ring = {.groups = 1};
        ring.group_bytes = resize_align((size_t)BYTES * (size_t)kernels->group_rows);
        ring.memory = aligned_alloc(RESIZE_ALIGN, ring.group_bytes);
        assert_non_null(ring.memory);
        for (int round = 0; round < 2000; round++) {
            uint8_t rows[RESIZE_MOST_UNIT][BYTES], out[BYTES];
            int32_t weights[RESIZE_MOST_UNIT] = {0}, packed[RESIZE_MOST_PACKED];
            const int most = 3 << (RESIZE_WEIGHT_BITS - 1);
            weights[0] = random_int(&seed, -most, most);
            if (kernels->unit > 1) weights[1] = random_int(&seed, 0, most - abs(weights[0]));
            if (kernels->unit > 1 && round % 2) weights[1] = -weights[1];
            for (size_t i = 0; i < sizeof rows; i++) (&rows[0][0])[i] = (uint8_t)random_next(&seed);
            kernels->interleave(&rows[0][0], BYTES, kernels->unit, BYTES, ring.memory);
            kernels->pack(weights, packed);
            const int32_t first = 0, count = 1;
            const struct resize_pass pass = {1, kernels->packed_values, &first, &count, packed};
            kernels->down(&pass, 0, &ring, BYTES, out);
            for (int x = 0; x < BYTES; x++) {
                int64_t sum = RESIZE_ROUND_HALF;
                for (int r = 0; r < kernels->unit; r++) sum += (int64_t)weights[r] * rows[r][x];
                if (out[x] != clip(sum >> RESIZE_WEIGHT_BITS))
                    fail_msg("%s: %d, not %d, with weights %d and %d", kernels->name, out[x],
                             clip(sum >> RESIZE_WEIGHT_BITS), weights[0], weights[1]);
            }
        }
        free(ring.memory);
    }
}

/* One fit and one scratch from image to image, as a workspace keeps them: the bytes of fresh ones, and memory
 * that only grows. */
static void remade(void **state)
{
    (void)state;
    uint64_t seed = random_seed("remade", 75);
    static uint8_t want[40 * 40 * 3], got[40 * 40 * 3];
    struct image_fit fit = {0};
    struct image_scratch scratch = {0};
    for (int round = 0; round < 300; round++) {
        struct effnet_preprocess p = {.crop = random_int(&seed, 1, 40), .interpolation = EFFNET_BICUBIC};
        p.short_side = p.crop + random_int(&seed, 0, 9);
        struct effnet_image image = {.width = random_int(&seed, 1, 120), .height = random_int(&seed, 1, 120)};
        size_t size = (size_t)image.width * (size_t)image.height * 3;
        assert_non_null(image.rgb = malloc(size));
        for (size_t i = 0; i < size; i++) image.rgb[i] = (uint8_t)random_next(&seed);
        assert_int_equal(effnet_image_fit(&image, &p, want, NULL), EFFNET_OK);
        size_t held = fit.memory.size_bytes + scratch.size_bytes;
        for (int time = 0; time < 2; time++) {
            const void *tables = fit.tables, *memory = scratch.memory;
            assert_int_equal(image_fit_remake(&fit, image.width, image.height, &p, NULL), EFFNET_OK);
            const uint8_t *first = image_fit_first_pixel(&fit, image.rgb);
            assert_int_equal(image_fit_run(&fit, first, (size_t)image.width * 3, &scratch, got), EFFNET_OK);
            assert_memory_equal(got, want, (size_t)p.crop * (size_t)p.crop * 3);
            if (time == 1) assert_true(fit.tables == tables && scratch.memory == memory);
        }
        assert_true(fit.memory.size_bytes + scratch.size_bytes >= held);
        free(image.rgb);
    }
    image_fit_free(&fit);
    image_scratch_free(&scratch);
}

int main(void)
{
    printf("fastest here: %s\n", resize_best_kernels()->name);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_shapes), cmocka_unit_test(usual_shapes), cmocka_unit_test(many_taps),
        cmocka_unit_test(large_weights), cmocka_unit_test(remade),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
