/* Decoding: what comes out of good files, and that nothing but an error comes out of broken ones. Files are
 * made here, and every one is decoded from a block of exactly its size, so that the address sanitizer sees
 * a read behind its end. Pixels against other software: test_preprocess.py. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <png.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "image/image.h"
#include "image_jpeg.h"
#include "jpeg_writer.h"
#include "mutate.h"
#include "random.h"

enum { WIDTH = 37, HEIGHT = 23, PIXELS = WIDTH * HEIGHT };

/* The image that all files show. */
static const uint8_t *shown(void)
{
    static uint8_t rgb[PIXELS * 3];
    for (int y = 0; y < HEIGHT; y++)
        for (int x = 0; x < WIDTH; x++) {
            uint8_t *p = rgb + (y * WIDTH + x) * 3;
            p[0] = (uint8_t)(x * 6);
            p[1] = (uint8_t)(y * 10);
            p[2] = (uint8_t)((x ^ y) * 4);
        }
    return rgb;
}

/* ---------------------------------------------------------------- writers */

static void png_append(png_structp png, png_bytep data, size_t size)
{
    IMAGE_WRITTEN(&png, sizeof png);
    IMAGE_WRITTEN(&data, sizeof data);
    IMAGE_WRITTEN(&size, sizeof size);
    IMAGE_WRITTEN(data, size);
    file_append(png_get_io_ptr(png), data, size);
}
static void png_flush_nothing(png_structp png)
{
    (void)png;
}

/* Samples of the given kind, made from the image's bytes in order. */
static struct file make_png(int color_type, int depth, int interlace)
{
    struct file file = {0};
    png_structp png = png_create_write_struct(PNG_LIBPNG_VER_STRING, NULL, NULL, NULL);
    png_infop info = png_create_info_struct(png);
    assert_non_null(info);
    if (setjmp(png_jmpbuf(png))) fail();
    png_set_write_fn(png, &file, png_append, png_flush_nothing);
    png_set_IHDR(png, info, WIDTH, HEIGHT, depth, color_type, interlace, PNG_COMPRESSION_TYPE_DEFAULT,
                 PNG_FILTER_TYPE_DEFAULT);
    png_color palette[256];
    png_byte alpha[256];
    for (int i = 0; i < 256; i++) {
        palette[i] = (png_color){(png_byte)i, (png_byte)(255 - i), (png_byte)(i * 7)};
        alpha[i] = (png_byte)i;
    }
    if (color_type == PNG_COLOR_TYPE_PALETTE) {
        png_set_PLTE(png, info, palette, 1 << depth);
        png_set_tRNS(png, info, alpha, 1 << depth, NULL);
    }
    static png_byte exif[] = "MM\0*\0\0\0\x08\0\1\x01\x12\0\3\0\0\0\1\0\6\0\0\0\0\0\0";
    png_set_eXIf_1(png, info, sizeof exif - 1, exif);
    png_write_info(png, info);
    uint8_t row[WIDTH * 8];
    int passes = png_set_interlace_handling(png);
    for (int pass = 0; pass < passes; pass++)
        for (int y = 0; y < HEIGHT; y++) {
            for (size_t i = 0; i < sizeof row; i++) row[i] = shown()[((size_t)y * 91 + i) % (PIXELS * 3)];
            if (color_type == PNG_COLOR_TYPE_RGB && depth == 8)
                memcpy(row, shown() + y * WIDTH * 3, WIDTH * 3);
            png_write_row(png, row);
        }
    png_write_end(png, info);
    png_destroy_write_struct(&png, &info);
    return file;
}

static struct file make_rgb_png(void)
{
    return make_png(PNG_COLOR_TYPE_RGB, 8, PNG_INTERLACE_NONE);
}
static struct file make_rgb_png_interlaced(void)
{
    return make_png(PNG_COLOR_TYPE_RGB, 8, PNG_INTERLACE_ADAM7);
}
static struct file make_palette_png(void)
{
    return make_png(PNG_COLOR_TYPE_PALETTE, 4, PNG_INTERLACE_ADAM7);
}
static struct file make_rgba16_png(void)
{
    return make_png(PNG_COLOR_TYPE_RGB_ALPHA, 16, PNG_INTERLACE_NONE);
}
static struct file make_gray_png(void)
{
    return make_png(PNG_COLOR_TYPE_GRAY, 2, PNG_INTERLACE_NONE);
}

/* An APP1 segment with orientation 6 goes behind the start-of-image marker. */
static struct file turned_jpeg(const uint8_t *jpeg, size_t size)
{
    static const char app1[] = "\xff\xe1\0\x22"
                               "Exif\0\0"
                               "II*\0\x08\0\0\0\1\0\x12\x01\3\0\1\0\0\0\6\0\0\0\0\0\0";
    struct file file = {0};
    file_append(&file, jpeg, 2);
    file_append(&file, app1, sizeof app1);
    file_append(&file, jpeg + 2, size - 2);
    return file;
}

static struct file make_jpeg(void)
{
    return turned_jpeg(baseline_jpeg, sizeof baseline_jpeg);
}
static struct file make_progressive_jpeg(void)
{
    return turned_jpeg(progressive_jpeg, sizeof progressive_jpeg);
}

#ifdef EFFNET_HAVE_JPEG
static struct file make_written_jpeg(struct jpeg_kind kind)
{
    /* Four components take more bytes than the image has. */
    uint8_t samples[PIXELS * 4];
    for (size_t i = 0; i < sizeof samples; i++) samples[i] = shown()[i % (PIXELS * 3)];
    struct file file = {0};
    file.data = write_jpeg(samples, WIDTH, HEIGHT, kind, &file.size);
    return file;
}
static struct file make_arithmetic_jpeg(void)
{
    return make_written_jpeg((struct jpeg_kind){.components = 3, .arithmetic = true, .restart_rows = 1});
}
static struct file make_arithmetic_progressive_jpeg(void)
{
    return make_written_jpeg((struct jpeg_kind){.components = 3, .arithmetic = true, .progressive = true});
}
static struct file make_cmyk_jpeg(void)
{
    return make_written_jpeg((struct jpeg_kind){.components = 4, .progressive = true, .restart_rows = 1});
}
static struct file make_gray_jpeg(void)
{
    return make_written_jpeg((struct jpeg_kind){.components = 1});
}
#endif

static void append_bgr(struct file *file, int pixel)
{
    const uint8_t *rgb = shown() + pixel * 3;
    file_append(file, (uint8_t[]){rgb[2], rgb[1], rgb[0]}, 3);
}

static struct file make_bmp(void)
{
    struct file file = {0};
    file_append(&file, "BM\0\0\0\0\0\0\0\0\x36\0\0\0\x28\0\0\0\x25\0\0\0\x17\0\0\0\1\0\x18\0", 30);
    file_append(&file, (uint8_t[24]){0}, 24);
    for (int y = HEIGHT; y-- > 0;) {
        for (int x = 0; x < WIDTH; x++) append_bgr(&file, y * WIDTH + x);
        file_append(&file, (uint8_t[3]){0}, (size_t)(-WIDTH * 3 & 3));
    }
    return file;
}

/* Packets of a run of one pixel and of three different ones in turn. */
static struct file make_tga_rle(void)
{
    struct file file = {0};
    file_append(&file, "\0\0\x0a\0\0\0\0\0\0\0\0\0\x25\0\x17\0\x18\x20", 18);
    for (int i = 0; i < PIXELS;) {
        bool run = i % 4 == 0;
        int count = run ? 1 : PIXELS - i < 3 ? PIXELS - i : 3;
        file_append(&file, (uint8_t[]){(uint8_t)(run ? 0x80 : count - 1)}, 1);
        for (; count > 0; count--) append_bgr(&file, i++);
    }
    return file;
}

static struct file make_tga(void)
{
    struct file file = {0};
    file_append(&file, "\0\0\2\0\0\0\0\0\0\0\0\0\x25\0\x17\0\x18\x20", 18);
    for (int i = 0; i < PIXELS; i++) append_bgr(&file, i);
    return file;
}

/* 8-bit BMP with a palette of 256 greys, and the image's reds as indices. */
static struct file make_palette_bmp(void)
{
    struct file file = {0};
    file_append(&file, "BM\0\0\0\0\0\0\0\0\x36\4\0\0\x28\0\0\0\x25\0\0\0\x17\0\0\0\1\0\x08\0", 30);
    file_append(&file, (uint8_t[24]){0}, 24);
    for (int i = 0; i < 256; i++) file_append(&file, (uint8_t[]){(uint8_t)i, (uint8_t)i, (uint8_t)i, 0}, 4);
    for (int y = HEIGHT; y-- > 0;) {
        for (int x = 0; x < WIDTH; x++) file_append(&file, shown() + (y * WIDTH + x) * 3, 1);
        file_append(&file, (uint8_t[3]){0}, (size_t)(-WIDTH & 3));
    }
    return file;
}

/* Codes of constant width: a clear code every hundred pixels keeps the table from growing. */
static struct file make_gif(void)
{
    struct file file = {0}, codes = {0};
    file_append(&file, "GIF89a\x25\0\x17\0\xf7\0\0", 13);
    for (int i = 0; i < 256; i++)
        file_append(&file, (uint8_t[]){(uint8_t)i, (uint8_t)(i * 3), (uint8_t)(i * 5)}, 3);
    file_append(&file, "!\xf9\4\1\0\0\7\0,\0\0\0\0\x25\0\x17\0\0\x08", 19);
    uint32_t hold = 0;
    int held = 0;
    for (int i = 0; i <= PIXELS; i++) {
        int code = i == PIXELS ? 257 : shown()[i * 3];
        for (int clear = i % 100 == 0; clear >= 0; clear--) {
            hold |= (uint32_t)(clear ? 256 : code) << held;
            for (held += 9; held >= 8; held -= 8, hold >>= 8)
                file_append(&codes, (uint8_t[]){(uint8_t)hold}, 1);
        }
    }
    file_append(&codes, (uint8_t[]){(uint8_t)hold}, 1);
    for (size_t at = 0; at < codes.size; at += 255) {
        uint8_t length = (uint8_t)(codes.size - at < 255 ? codes.size - at : 255);
        file_append(&file, &length, 1);
        file_append(&file, codes.data + at, length);
    }
    file_append(&file, "\0;", 2);
    free(codes.data);
    return file;
}

static struct file make_ppm(void)
{
    struct file file = {0};
    file_append(&file, "P6\n37 23\n255\n", 13);
    file_append(&file, shown(), PIXELS * 3);
    return file;
}

static struct file make_plain_ppm(void)
{
    struct file file = {0};
    file_append(&file, "P3 # colours\n37 23 255\n", 23);
    for (int i = 0; i < PIXELS * 3; i++) {
        char number[8];
        file_append(&file, number, (size_t)snprintf(number, sizeof number, "%d\n", shown()[i]));
    }
    return file;
}

static struct file make_pgm16(void)
{
    struct file file = {0};
    file_append(&file, "P5 37 23 1000\n", 14);
    for (int i = 0; i < PIXELS; i++) file_append(&file, (uint8_t[]){3, shown()[i * 3]}, 2);
    return file;
}

/* libpng writes the eXIf chunk of 26 bytes behind the pixels, then IEND. */
enum { PNG_SPARE = 12 + 26 + 12 };

static const struct {
    const char *name;
    struct file (*make)(void);
    int tolerance;   /* of its pixels against the image, or -1 */
    size_t spare;    /* bytes at the end that a decoder can do without */
    int orientation; /* in its EXIF data */
} kinds[] = {
    {"rgb.png", make_rgb_png, 0, PNG_SPARE, 6},
    {"interlaced.png", make_rgb_png_interlaced, 0, PNG_SPARE, 6},
    {"palette.png", make_palette_png, -1, PNG_SPARE, 6},
    {"rgba16.png", make_rgba16_png, -1, PNG_SPARE, 6},
    {"gray.png", make_gray_png, -1, PNG_SPARE, 6},
    {"baseline.jpg", make_jpeg, 60, 0, 6},
    {"progressive.jpg", make_progressive_jpeg, 60, 0, 6},
#ifdef EFFNET_HAVE_JPEG
    {"arithmetic.jpg", make_arithmetic_jpeg, -1, 0, 1},
    {"arithmetic_progressive.jpg", make_arithmetic_progressive_jpeg, -1, 0, 1},
    {"cmyk.jpg", make_cmyk_jpeg, -1, 0, 1},
    {"gray.jpg", make_gray_jpeg, -1, 0, 1},
#endif
    {"image.bmp", make_bmp, 0, 3, 1},
    {"palette.bmp", make_palette_bmp, -1, 3, 1},
    {"rle.tga", make_tga_rle, 0, 0, 1},
    {"raw.tga", make_tga, 0, 0, 1},
    {"image.gif", make_gif, -1, 4, 1},
    {"raw.ppm", make_ppm, 0, 0, 1},
    {"plain.ppm", make_plain_ppm, 0, 4, 1},
    {"deep.pgm", make_pgm16, -1, 0, 1},
};
enum { KINDS = sizeof kinds / sizeof kinds[0] };

/* ---------------------------------------------------------------- tests */

static const struct effnet_image_options small = {.max_pixels = 1 << 16, .ignore_exif = true};

/* Decodes from a block of exactly `size` bytes and checks what holds for any outcome. */
static int decode(const uint8_t *data, size_t size, const char *name,
                  const struct effnet_image_options *options, struct effnet_image *image,
                  struct effnet_error *error)
{
    uint8_t *exact = malloc(size ? size : 1);
    assert_non_null(exact);
    memcpy(exact, data, size);
    *image = (struct effnet_image){.width = -1, .height = -1, .rgb = (uint8_t *)1};
    memset(error, 0x55, sizeof *error);
    int status = effnet_image_decode(exact, size, name, options, image, error);
    free(exact);
    if (status) {
        assert_int_equal(status, error->status);
        assert_true(strncmp(error->message, name, strlen(name)) == 0);
        assert_null(strchr(error->message, '\n'));
        assert_null(image->rgb);
        assert_int_equal(image->width, 0);
    } else {
        assert_true(image->width >= 1 && image->height >= 1);
        assert_true((int64_t)image->width * image->height <= options->max_pixels);
        size_t bytes = (size_t)image->width * (size_t)image->height * 3, white = 0;
        for (size_t i = 0; i < bytes; i++) /* the memory sanitizer wants a decision on each */
            if (image->rgb[i] == 255) white++;
        assert_true(white <= bytes);
    }
    return status;
}

static void good_files(void **state)
{
    (void)state;
    for (int k = 0; k < KINDS; k++) {
        struct file file = kinds[k].make();
        struct effnet_image image;
        struct effnet_error error;
        assert_int_equal(decode(file.data, file.size, kinds[k].name, &small, &image, &error), EFFNET_OK);
        assert_int_equal(image.width, WIDTH);
        assert_int_equal(image.height, HEIGHT);
        for (int i = 0; kinds[k].tolerance >= 0 && i < PIXELS * 3; i++)
            if (abs(image.rgb[i] - shown()[i]) > kinds[k].tolerance)
                fail_msg("%s: byte %d is %d for %d", kinds[k].name, i, image.rgb[i], shown()[i]);
        effnet_image_free(&image);
        assert_null(image.rgb);

        struct effnet_image_options turned = {.max_pixels = PIXELS};
        assert_int_equal(decode(file.data, file.size, kinds[k].name, &turned, &image, &error), EFFNET_OK);
        assert_int_equal(image.width, kinds[k].orientation == 6 ? HEIGHT : WIDTH);
        effnet_image_free(&image);

        turned.max_pixels = PIXELS - 1;
        assert_int_equal(decode(file.data, file.size, kinds[k].name, &turned, &image, &error), EFFNET_E_DATA);
        assert_non_null(strstr(error.message, "too large"));
        free(file.data);
    }
    effnet_image_free(NULL);
}

static void truncated_files(void **state)
{
    (void)state;
    for (int k = 0; k < KINDS; k++) {
        struct file file = kinds[k].make();
        for (size_t size = 0; size < file.size - kinds[k].spare; size++) {
            struct effnet_image image;
            struct effnet_error error;
            int status = decode(file.data, size, kinds[k].name, &small, &image, &error);
            if (status != EFFNET_E_DATA)
                fail_msg("%s: %zu of %zu bytes give status %d", kinds[k].name, size, file.size, status);
        }
        free(file.data);
    }
}

static void broken_files(void **state)
{
    (void)state;
    uint64_t seed = random_seed("broken_files", 41);
    for (int k = 0; k < KINDS; k++) {
        struct file file = kinds[k].make();
        int good = 0, bad = 0;
        for (int round = 0; round < 3000; round++) {
            struct file broken = {0};
            file_append(&broken, file.data, file.size);
            for (int n = random_int(&seed, 1, 4); n > 0; n--) mutate(&broken, &seed);
            if (strstr(kinds[k].name, ".png") && round % 4) repair_png(&broken);
            struct effnet_image_options options = {.max_pixels = 1 << 16, .ignore_exif = round % 2};
            struct effnet_image image;
            struct effnet_error error;
            int status = decode(broken.data, broken.size, kinds[k].name, &options, &image, &error);
            if (status != EFFNET_OK && status != EFFNET_E_DATA)
                fail_msg("%s, round %d: status %d, %s", kinds[k].name, round, status, error.message);
            *(status ? &bad : &good) += 1;
            effnet_image_free(&image);
            free(broken.data);
        }
        assert_true(bad > 0);
        print_message("%s: %d decoded, %d refused\n", kinds[k].name, good, bad);
        free(file.data);
    }
}

/* Where `marker` of the baseline JPEG is; the segment's length follows. */
static size_t find_marker(const struct file *file, uint8_t marker)
{
    size_t at = 0;
    while (at + 1 < file->size && (file->data[at] != 0xff || file->data[at + 1] != marker)) at++;
    assert_true(at + 1 < file->size);
    return at;
}

/* What stb_image 2.27 does not check itself: such files overran its tables, or gave an image of nothing. */
static void hostile_jpegs(void **state)
{
    (void)state;
    struct effnet_image image;
    struct effnet_error error;
    struct file file = make_jpeg();
    size_t table = find_marker(&file, 0xc4);
    memset(file.data + table + 5, 255, 16);
    assert_int_equal(decode(file.data, file.size, "table", &small, &image, &error), EFFNET_E_DATA);
    assert_non_null(strstr(error.message, "Huffman table"));
    /* The same where the file ends within the segment. */
    assert_int_equal(decode(file.data, table + 21, "table", &small, &image, &error), EFFNET_E_DATA);
    free(file.data);

    file = make_jpeg();
    size_t scan = find_marker(&file, 0xda);
    file.data[scan + 1] = 0xd9;
    assert_int_equal(decode(file.data, scan + 2, "no scan", &small, &image, &error), EFFNET_E_DATA);
    free(file.data);
    /* The last scan of a progressive file many times over. */
    file = make_progressive_jpeg();
    scan = file.size - 2;
    while (file.data[scan] != 0xff || file.data[scan + 1] != 0xda) scan--;
    size_t length = file.size - 2 - scan;
    struct file many = {0};
    file_append(&many, file.data, scan);
    for (int i = 0; i < 200; i++) file_append(&many, file.data + scan, length);
    file_append(&many, "\xff\xd9", 2);
    assert_int_equal(decode(many.data, many.size, "many", &small, &image, &error), EFFNET_E_DATA);
    free(many.data);
    free(file.data);
}

/* BMPs that end within their headers or right behind them: masks are not looked for any further. */
static void bmp_headers(void **state)
{
    (void)state;
    struct effnet_image image;
    struct effnet_error error;
    for (int header = 0; header <= 128; header++)
        for (int compression = 0; compression <= 6; compression += 3)
            for (int size = 30; size <= 14 + 128; size++) {
                uint8_t file[14 + 128] = {'B', 'M', [18] = 200, [22] = 200, [26] = 1, [28] = 16};
                file[14] = (uint8_t)header;
                if (header >= 20) file[30] = (uint8_t)compression;
                int status = decode(file, (size_t)size, "header", &small, &image, &error);
                assert_int_equal(status, EFFNET_E_DATA);
            }
}

/* Every orientation of a 3 x 2 image; upright it reads a b c / d e f. */
static void orientations(void **state)
{
    (void)state;
    static const struct {
        int width, height;
        const char *stored;
    } cases[9] = {
        {3, 2, "abcdef"}, {3, 2, "abcdef"}, {3, 2, "cbafed"}, {3, 2, "fedcba"}, {3, 2, "defabc"},
        {2, 3, "adbecf"}, {2, 3, "cfbead"}, {2, 3, "fcebda"}, {2, 3, "daebfc"},
    };
    for (int orientation = 0; orientation <= 8; orientation++) {
        uint8_t *stored = malloc(18);
        assert_non_null(stored);
        struct effnet_image image = {
            .width = cases[orientation].width, .height = cases[orientation].height, .rgb = stored};
        struct image_buffer turned = {0};
        for (int i = 0; i < 18; i++) stored[i] = (uint8_t)(cases[orientation].stored[i / 3] + i % 3);
        assert_int_equal(image_orient(&image, orientation, &turned, "letters", NULL), EFFNET_OK);
        assert_int_equal(image.width, 3);
        assert_int_equal(image.height, 2);
        for (int i = 0; i < 18; i++) assert_int_equal(image.rgb[i], "abcdef"[i / 3] + i % 3);
        image_buffer_free(&turned);
        free(stored);
    }
}

/* What a large image took is given back; what a usual one took stays. */
static void buffers(void **state)
{
    (void)state;
    struct image_buffer buffer = {0};
    assert_true(image_buffer_reserve(&buffer, 1000));
    assert_int_equal(buffer.capacity, 1000);
    const uint8_t *kept = buffer.data;
    assert_true(image_buffer_reserve(&buffer, 1));
    assert_ptr_equal(buffer.data, kept);
    assert_int_equal(buffer.capacity, 1000);

    assert_true(image_buffer_reserve(&buffer, 5 * IMAGE_KEPT_BYTES));
    assert_true(image_buffer_reserve(&buffer, 2 * IMAGE_KEPT_BYTES));
    assert_int_equal(buffer.capacity, 5 * IMAGE_KEPT_BYTES);
    assert_true(image_buffer_reserve(&buffer, IMAGE_KEPT_BYTES));
    assert_int_equal(buffer.capacity, IMAGE_KEPT_BYTES);

    image_buffer_free(&buffer);
    assert_null(buffer.data);
    assert_int_equal(buffer.capacity, 0);
}

/* Where a window lies when its image is turned: the pixels say the same. */
static void windows(void **state)
{
    (void)state;
    enum { COLUMNS = 5, ROWS = 3 };
    const struct image_window stored = {1, 0, 3, 2};
    for (int orientation = 0; orientation <= 8; orientation++) {
        uint8_t pixels[COLUMNS * ROWS * 3];
        for (int i = 0; i < COLUMNS * ROWS; i++) {
            int x = i % COLUMNS, y = i / COLUMNS;
            bool inside = x >= stored.left && x < stored.right && y >= stored.top && y < stored.bottom;
            memset(pixels + (size_t)i * 3, inside, 3);
        }
        struct effnet_image image = {.width = COLUMNS, .height = ROWS, .rgb = pixels};
        struct image_buffer turned = {0};
        assert_int_equal(image_orient(&image, orientation, &turned, "window", NULL), EFFNET_OK);
        struct image_window window = image_orient_window(stored, COLUMNS, ROWS, orientation);
        for (int i = 0; i < COLUMNS * ROWS; i++) {
            int x = i % image.width, y = i / image.width;
            bool inside = x >= window.left && x < window.right && y >= window.top && y < window.bottom;
            assert_int_equal(image.rgb[(size_t)i * 3], inside);
        }
        image_buffer_free(&turned);
    }
}

static void exif_blocks(void **state)
{
    (void)state;
    static const uint8_t good[] = "Exif\0\0MM\0*\0\0\0\x08\0\1\x01\x12\0\3\0\0\0\1\0\5\0\0";
    enum { SIZE = sizeof good - 1 };
    assert_int_equal(image_exif_orientation(good, SIZE), 5);
    assert_int_equal(image_exif_orientation(good + 6, SIZE - 6), 5);
    uint64_t seed = random_seed("exif_blocks", 42);
    for (int round = 0; round < 20000; round++) {
        size_t size = (size_t)random_int(&seed, 0, SIZE);
        uint8_t *block = malloc(size ? size : 1);
        assert_non_null(block);
        memcpy(block, good, size);
        for (int n = random_int(&seed, 0, 3); n > 0 && size > 0; n--)
            block[random_int(&seed, 0, (int)size - 1)] = (uint8_t)random_next(&seed);
        int orientation = image_exif_orientation(block, size);
        assert_in_range(orientation, 0, 8);
        free(block);
    }
}

static void xmp_packets(void **state)
{
    (void)state;
    static const struct {
        const char *xmp;
        int orientation;
    } cases[] = {
        {"<rdf:Description tiff:Orientation=\"6\"/>", 6},
        {"<tiff:Orientation>8</tiff:Orientation>", 8},
        {"tiff:Orientation tiff:Orientation=\"x tiff:Orientation>3", 3},
        {"tiff:Orientation=\"9\" tiff:Orientation=\"3\"", 1},
        {"tiff:Orientation=\"0\"", 1},
        {"exif:Orientation=\"6\"", 0},
        {"tiff:Orientation", 0},
        {"tiff:Orientation>", 0},
        {"tiff:Orientation=\"", 0},
        {"", 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        size_t size = strlen(cases[i].xmp);
        uint8_t *exact = malloc(size ? size : 1);
        assert_non_null(exact);
        memcpy(exact, cases[i].xmp, size);
        assert_int_equal(image_xmp_orientation(exact, size), cases[i].orientation);
        free(exact);
    }
}

static void files(void **state)
{
    (void)state;
    char folder[] = "/tmp/effnet-test-XXXXXX", path[64];
    assert_non_null(mkdtemp(folder));
    snprintf(path, sizeof path, "%s/image", folder);
    struct effnet_image image;
    struct effnet_error error;
    assert_int_equal(effnet_image_read(path, NULL, &image, &error), EFFNET_E_NOINPUT);
    assert_non_null(strstr(error.message, path));
    assert_int_equal(effnet_image_read(folder, NULL, &image, &error), EFFNET_E_NOINPUT);
    assert_int_equal(effnet_image_read(folder, NULL, &image, NULL), EFFNET_E_NOINPUT);

    struct file file = make_ppm();
    FILE *stream = fopen(path, "wb");
    assert_non_null(stream);
    assert_int_equal(fwrite(file.data, 1, file.size, stream), file.size);
    assert_int_equal(fclose(stream), 0);
    assert_int_equal(effnet_image_read(path, NULL, &image, &error), EFFNET_OK);
    assert_memory_equal(image.rgb, shown(), PIXELS * 3);
    effnet_image_free(&image);

    if (geteuid() != 0) { /* root may read anything */
        assert_int_equal(chmod(path, 0), 0);
        assert_int_equal(effnet_image_read(path, NULL, &image, &error), EFFNET_E_NOINPUT);
    }
    /* An endless file is given up on. */
    assert_int_equal(effnet_image_read("/dev/zero", NULL, &image, &error), EFFNET_E_DATA);
    struct effnet_image_options none = {.max_pixels = 0};
    assert_int_equal(effnet_image_decode(file.data, file.size, "x", &none, &image, &error), EFFNET_E_USAGE);
    free(file.data);
    unlink(path);
    rmdir(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(good_files),    cmocka_unit_test(truncated_files), cmocka_unit_test(broken_files),
        cmocka_unit_test(hostile_jpegs), cmocka_unit_test(orientations),    cmocka_unit_test(buffers),
        cmocka_unit_test(windows),       cmocka_unit_test(exif_blocks),     cmocka_unit_test(xmp_packets),
        cmocka_unit_test(bmp_headers),   cmocka_unit_test(files),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
