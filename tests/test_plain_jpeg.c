/* Which JPEGs image_is_plain_jpeg takes: what libjpeg-turbo writes by default, and not what is cut, turned,
 * of another kind, or of broken headers. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "image/plain_jpeg.h"
#include "random.h"

#ifdef EFFNET_HAVE_JPEG

#include "jpeg_writer.h"

enum { WIDTH = 61, HEIGHT = 75 };

static uint8_t *make(struct jpeg_kind kind, size_t *size)
{
    uint64_t state = 5;
    uint8_t samples[HEIGHT * WIDTH * 4];
    for (size_t i = 0; i < sizeof samples; i++) samples[i] = (uint8_t)random_next(&state);
    return write_jpeg(samples, WIDTH, HEIGHT, kind, size);
}

/* Of bytes in a block of their own size, so that a sanitizer sees a read behind them. */
static bool is_plain(const uint8_t *data, size_t size)
{
    int width = -1, height = -1;
    uint8_t *copy = malloc(size + !size);
    assert_non_null(copy);
    memcpy(copy, data, size);
    const bool plain = image_is_plain_jpeg(copy, size, &width, &height);
    free(copy);
    return plain && width > 0 && height > 0;
}

static void test_kinds(void **state)
{
    static const struct {
        struct jpeg_kind kind;
        bool plain;
    } kinds[] = {{{.components = 3}, true},
                 {{.components = 1}, true},
                 {{.components = 3, .restart_rows = 1}, true},
                 {{.components = 1, .restart_rows = 2}, true},
                 {{.components = 4}, false},
                 {{.components = 3, .progressive = true}, false},
                 {{.components = 3, .arithmetic = true}, false}};
    (void)state;
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        size_t size;
        uint8_t *jpeg = make(kinds[i].kind, &size);
        int width = 0, height = 0;
        assert_int_equal(image_is_plain_jpeg(jpeg, size, &width, &height), kinds[i].plain);
        if (kinds[i].plain) assert_true(width == WIDTH && height == HEIGHT);
        free(jpeg);
    }
}

/* Every prefix of a file lacks its end; bytes behind the end do not count. */
static void test_cut(void **state)
{
    (void)state;
    for (int restart = 0; restart <= 1; restart++) {
        size_t size;
        uint8_t *jpeg = make((struct jpeg_kind){.components = 3, .restart_rows = restart}, &size);
        for (size_t cut = 0; cut < size; cut++) assert_false(is_plain(jpeg, cut));
        uint8_t *longer = calloc(1, size + 9);
        assert_non_null(longer);
        memcpy(longer, jpeg, size);
        assert_true(is_plain(longer, size + 9));
        free(longer);
        free(jpeg);
    }
}

/* The place of a marker. */
static size_t find(const uint8_t *jpeg, size_t size, int marker)
{
    for (size_t i = 0; i + 1 < size; i++)
        if (jpeg[i] == 0xff && jpeg[i + 1] == marker) return i;
    fail_msg("no marker %x", (unsigned)marker);
    return 0;
}

static void test_restart_markers(void **state)
{
    size_t size;
    (void)state;
    uint8_t *jpeg = make((struct jpeg_kind){.components = 3, .restart_rows = 1}, &size);
    const size_t first = find(jpeg, size, 0xd0), second = find(jpeg, size, 0xd1),
                 last = find(jpeg, size, 0xd3);
    jpeg[second + 1] = 0xd2;
    assert_false(is_plain(jpeg, size)); /* out of order */
    jpeg[second + 1] = 0xd1;
    assert_true(is_plain(jpeg, size));
    jpeg[last] = jpeg[last + 1] = 0;
    assert_false(is_plain(jpeg, size)); /* one is missing at the end, */
    jpeg[last] = 0xff, jpeg[last + 1] = 0xd3;
    jpeg[first] = jpeg[first + 1] = 0;
    assert_false(is_plain(jpeg, size)); /* or at the start */
    free(jpeg);
}

/* With bytes put in behind the start marker. */
static bool is_plain_with(const uint8_t *jpeg, size_t size, const char *segment, size_t length)
{
    uint8_t *longer = malloc(size + length);
    assert_non_null(longer);
    memcpy(longer, jpeg, 2);
    memcpy(longer + 2, segment, length);
    memcpy(longer + 2 + length, jpeg + 2, size - 2);
    const bool plain = is_plain(longer, size + length);
    free(longer);
    return plain;
}

#define WITH(segment) is_plain_with(jpeg, size, segment, sizeof(segment) - 1)
#define EXIF(value)                                                                                          \
    "\xff\xe1\0\x22"                                                                                         \
    "Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0" value "\0\0\0\0\0\0"

static void test_segments(void **state)
{
    size_t size;
    (void)state;
    uint8_t *jpeg = make((struct jpeg_kind){.components = 3}, &size);
    assert_true(WITH(EXIF("\1")));
    assert_false(WITH(EXIF("\6"))); /* to be turned */
    assert_true(WITH("\xff\xfe\0\x07hello"));
    assert_false(WITH("\xff\xfe\0\1"));                                       /* a length below its own */
    assert_false(WITH("\xff\xff\xfe\0\x02"));                                 /* fill bytes */
    assert_false(WITH("abc"));                                                /* stray ones */
    assert_false(WITH("\xff\xcc\0\3\0"));                                     /* arithmetic conditioning */
    assert_false(WITH("\xff\xdb\0\x03\x10"));                                 /* a table of 16 bits */
    assert_false(WITH("\xff\xc4\0\x13\0\3\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0")); /* three codes of one bit */
    /* Colours: JFIF says YCbCr. Without it Adobe's segment does, and without that the components' names. */
    const size_t jfif = find(jpeg, size, 0xe0), frame = find(jpeg, size, 0xc0);
    jpeg[jfif + 4] = 'X';
    assert_true(is_plain(jpeg, size));
    assert_true(WITH("\xff\xee\0\x0e"
                     "Adobe\0\x64\0\0\0\0\1"));
    assert_false(WITH("\xff\xee\0\x0e"
                      "Adobe\0\x64\0\0\0\0\0"));
    const size_t scan = find(jpeg, size, 0xda);
    for (int i = 0; i < 3; i++)
        jpeg[frame + 10 + 3 * (size_t)i] = jpeg[scan + 5 + 2 * (size_t)i] = (uint8_t) "RGB"[i];
    assert_false(is_plain(jpeg, size));
    jpeg[jfif + 4] = 'J';
    assert_true(is_plain(jpeg, size));
    jpeg[frame + 11] = 0x41; /* 4:1:1 */
    assert_false(is_plain(jpeg, size));
    free(jpeg);
}

/* A byte of the headers changed: whatever it says then, nothing outside of the bytes is read. */
static void test_damaged_headers(void **state)
{
    uint64_t random = random_seed("bytes", 77);
    size_t size, taken = 0;
    (void)state;
    uint8_t *jpeg = make((struct jpeg_kind){.components = 3, .restart_rows = 1}, &size);
    const size_t headers = find(jpeg, size, 0xda) + 14;
    for (int i = 0; i < 4000; i++) {
        const size_t at = random_next(&random) % headers;
        const uint8_t was = jpeg[at];
        jpeg[at] = (uint8_t)random_next(&random);
        taken += is_plain(jpeg, size);
        jpeg[at] = was;
    }
    assert_true(taken > 0 && taken < 4000);
    assert_true(is_plain(jpeg, size));
    free(jpeg);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_kinds),           cmocka_unit_test(test_cut),
        cmocka_unit_test(test_restart_markers), cmocka_unit_test(test_segments),
        cmocka_unit_test(test_damaged_headers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

#else

#include <stdio.h>

int main(void)
{
    printf("skipped: a build without libjpeg-turbo\n");
    return 77;
}

#endif
