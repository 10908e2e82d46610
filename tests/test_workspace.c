/* What a workspace keeps from image to image. That its crops are right: test_workspace.py. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "image/workspace.h"

static const struct effnet_preprocess preprocess = {
    .short_side = 8, .crop = 8, .interpolation = EFFNET_BILINEAR};

/* Decodes and fits a grey PPM of side x side, all of one value. */
static void take_square(struct image_workspace *workspace, int side, uint8_t value)
{
    char header[32];
    const size_t header_bytes = (size_t)snprintf(header, sizeof header, "P6 %d %d 255\n", side, side);
    const size_t size_bytes = header_bytes + (size_t)side * (size_t)side * 3;
    uint8_t *data = malloc(size_bytes), crop[8 * 8 * 3];
    assert_non_null(data);
    memcpy(data, header, header_bytes);
    memset(data + header_bytes, value, size_bytes - header_bytes);
    struct effnet_error error;
    assert_int_equal(image_workspace_decode(workspace, data, size_bytes, "square", NULL, &preprocess, &error),
                     EFFNET_OK);
    free(data);
    assert_int_equal(image_workspace_decoded(workspace).width, side);
    assert_int_equal(image_workspace_fit(workspace, &preprocess, crop, &error), EFFNET_OK);
    for (size_t i = 0; i < sizeof crop; i++) assert_int_equal(crop[i], value);
}

/* 0 where nobody counts: a sanitizer's malloc, or another C library's. */
static size_t bytes_in_use(void)
{
#ifdef __GLIBC__
    const struct mallinfo2 info = mallinfo2();
    return info.uordblks + info.hblkhd;
#else
    return 0;
#endif
}

static void large_images_leave_no_memory(void **state)
{
    (void)state;
    enum { ORDINARY_BYTES = 1 << 20 };
    struct image_workspace *workspace = image_workspace_open();
    assert_non_null(workspace);
    take_square(workspace, 100, 1);
    const size_t before = bytes_in_use();
    const int sides[] = {2500, 1, 5000, 100, 3000, 7};
    for (size_t i = 0; i < sizeof sides / sizeof *sides; i++) {
        take_square(workspace, sides[i], (uint8_t)(i + 2));
        if (sides[i] <= 100) assert_true(bytes_in_use() < before + ORDINARY_BYTES);
    }
    image_workspace_close(workspace);
}

static void failures_leave_no_image(void **state)
{
    (void)state;
    struct image_workspace *workspace = image_workspace_open();
    assert_non_null(workspace);
    uint8_t crop[8 * 8 * 3];
    struct effnet_error error;
    assert_int_equal(image_workspace_fit(workspace, &preprocess, crop, &error), EFFNET_E_USAGE);
    for (int round = 0; round < 3; round++) {
        take_square(workspace, 20, 9);
        const int status = round == 0
                               ? image_workspace_read(workspace, "/nonexistent/file", NULL, &error)
                               : image_workspace_decode(workspace, "P6 2 2 255\n..", round == 1 ? 13 : 0,
                                                        "short", NULL, &preprocess, &error);
        assert_int_equal(status, round == 0 ? EFFNET_E_NOINPUT : EFFNET_E_DATA);
        assert_int_equal(image_workspace_decoded(workspace).width, 0);
        assert_int_equal(image_workspace_fit(workspace, &preprocess, crop, &error), EFFNET_E_USAGE);
    }
    image_workspace_close(workspace);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(large_images_leave_no_memory),
        cmocka_unit_test(failures_leave_no_image),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
