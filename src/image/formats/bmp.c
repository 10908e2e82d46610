/* BMP, by hand: stb_image reads palettes and pixels that are not there, and refuses valid files.
 *
 * The result is Pillow's where Pillow reads the file, and the format's where it does not:
 *  - headers of OS/2 1 (12 bytes), OS/2 2 (16 to 64) and Windows (40, 52, 56, 108, 124);
 *  - 1, 2, 4 and 8 bits with a palette; what the palette lacks is black, as are the pixels' colours there;
 *  - 16, 24 and 32 bits, with masks or without; a channel of n bits becomes v * 255 / (2^n - 1), rounded
 *    down if n is 5 or 6, as in Pillow, else to the nearest; alpha counts only where a mask names it;
 *  - run lengths of 4, 8 and 24 bits; what they skip has index 0.
 * JPEG, PNG and Huffman codes within a BMP, which only printers know, are refused. */
#include "image/formats/formats.h"

#include <stdlib.h>
#include <string.h>

#include "common/error.h"

enum { FILE_HEADER_BYTES = 14 };

enum { RED, GREEN, BLUE, ALPHA };

enum compression { RAW = 0, RLE8 = 1, RLE4 = 2, MASKS = 3, RLE24 = 4, JPEG = 4, PNG = 5, ALPHA_MASKS = 6 };

/* A colour's place in a pixel. */
struct channel {
    uint32_t mask;
    int shift;
    uint32_t maximum; /* mask >> shift; 0: no such channel */
};

struct bmp {
    const struct image_source *source;
    int64_t width, height;
    bool from_the_top;
    int bits; /* a pixel */
    uint32_t compression;
    bool os2;
    uint32_t palette_entries;
    int entry_bytes;                /* of the palette: 3 or 4 */
    uint64_t palette_at, pixels_at; /* in the file */
    struct channel channels[4];     /* bits above 8 */
    uint8_t palette[256][3];        /* RGB */
};

static uint32_t get16(const uint8_t *p)
{
    return p[0] | (uint32_t)p[1] << 8;
}

static uint32_t get32(const uint8_t *p)
{
    return get16(p) | get16(p + 2) << 16;
}

/* A mask has to be one run of bits. */
static bool set_channel(struct channel *channel, uint32_t mask)
{
    *channel = (struct channel){.mask = mask};
    if (!mask) return true;
    channel->shift = __builtin_ctz(mask);
    channel->maximum = mask >> channel->shift;
    return (channel->maximum & (channel->maximum + 1)) == 0;
}

/* `masks`: where the file has them, or NULL. */
static int set_channels(struct bmp *bmp, const uint8_t *masks, int count)
{
    uint32_t values[4] = {0xff0000, 0xff00, 0xff, 0};
    if (bmp->bits == 16) memcpy(values, (uint32_t[4]){0x7c00, 0x3e0, 0x1f, 0}, sizeof values);
    for (int c = 0; masks && c < 4; c++) values[c] = c < count ? get32(masks + 4 * c) : 0;
    /* Masks of nothing but zeros are met in files with alpha. */
    if (bmp->bits == 32 && !(values[RED] | values[GREEN] | values[BLUE] | values[ALPHA]))
        memcpy(values, (uint32_t[4]){0xff0000, 0xff00, 0xff, 0xff000000}, sizeof values);
    uint32_t taken = 0, all = bmp->bits == 32 ? UINT32_MAX : (UINT32_C(1) << bmp->bits) - 1;
    for (int c = 0; c < 4; c++) {
        bool alone = set_channel(&bmp->channels[c], values[c]) && !(taken & values[c]) && !(values[c] & ~all);
        if (!alone)
            return image_fail(bmp->source,
                              "bad BMP: a mask with gaps, too wide or over another one, of channel %d", c);
        taken |= values[c];
    }
    return taken & ~values[ALPHA]
               ? EFFNET_OK
               : image_fail(bmp->source, "bad BMP: no mask of a colour, bits a pixel: %d", bmp->bits);
}

/* Fills in what the header behind the file header says. */
static void read_header(struct bmp *bmp, const uint8_t *header, uint32_t header_bytes)
{
    if (header_bytes == 12) {
        bmp->width = get16(header + 4);
        bmp->height = get16(header + 6);
        bmp->bits = (int)get16(header + 10);
        bmp->entry_bytes = 3;
        bmp->os2 = true;
        return;
    }
    bmp->width = (int32_t)get32(header + 4);
    bmp->height = (int32_t)get32(header + 8);
    bmp->from_the_top = bmp->height < 0;
    if (bmp->from_the_top) bmp->height = -bmp->height;
    bmp->bits = (int)get16(header + 14);
    bmp->entry_bytes = 4;
    /* A short header of OS/2 2 means zeros. */
    bmp->compression = header_bytes >= 20 ? get32(header + 16) : RAW;
    bmp->palette_entries = header_bytes >= 36 ? get32(header + 32) : 0;
    bmp->os2 = header_bytes <= 64 && header_bytes != 40 && header_bytes != 52 && header_bytes != 56;
}

static bool is_run_lengths(const struct bmp *bmp)
{
    return bmp->compression == RLE8 || bmp->compression == RLE4 || bmp->compression == RLE24;
}

static int check_kind(const struct bmp *bmp)
{
    uint32_t compression = bmp->compression;
    if (!bmp->os2 && (compression == JPEG || compression == PNG))
        return image_fail(bmp->source, "a %s within a BMP, which is not read",
                          compression == JPEG ? "JPEG" : "PNG");
    if (bmp->os2 && compression == 3 && bmp->bits == 1)
        return image_fail(bmp->source, "a BMP in Huffman codes, which is not read");
    bool palette = bmp->bits == 1 || bmp->bits == 2 || bmp->bits == 4 || bmp->bits == 8;
    if (!palette && bmp->bits != 16 && bmp->bits != 24 && bmp->bits != 32)
        return image_fail(bmp->source, "bad BMP: bits a pixel: %d", bmp->bits);
    bool known = compression == RAW || ((compression == RLE8 || compression == RLE4) && palette) ||
                 ((compression == MASKS || compression == ALPHA_MASKS) && !palette) ||
                 (compression == RLE24 && bmp->os2 && bmp->bits == 24);
    if (!known)
        return image_fail(bmp->source, "bad BMP: compression %u of %d bits a pixel", compression, bmp->bits);
    if (palette && bmp->palette_entries > 65536)
        return image_fail(bmp->source, "bad BMP: colours in the palette: %u", bmp->palette_entries);
    return EFFNET_OK;
}

/* Everything before palette and pixels. */
static int read_headers(struct bmp *bmp)
{
    const struct image_source *source = bmp->source;
    const uint8_t *header = source->data + FILE_HEADER_BYTES;
    if (source->size_bytes < FILE_HEADER_BYTES + 4) return image_fail_truncated(source);
    uint32_t header_bytes = get32(header), masks_bytes = 0;
    bool known = header_bytes == 12 || (header_bytes >= 16 && header_bytes <= 64) || header_bytes == 108 ||
                 header_bytes == 124;
    if (!known) return image_fail(source, "bad BMP: bytes of header: %u", header_bytes);
    if (source->size_bytes < FILE_HEADER_BYTES + header_bytes) return image_fail_truncated(source);
    read_header(bmp, header, header_bytes);
    EFFNET_TRY(check_kind(bmp));
    EFFNET_TRY(image_check_size(source, bmp->width, bmp->height));

    if (bmp->bits > 8) {
        bool masked = bmp->compression == MASKS || bmp->compression == ALPHA_MASKS;
        bool behind = header_bytes < 52; /* the header has no room for them */
        int count = (behind ? bmp->compression == ALPHA_MASKS : header_bytes >= 56) ? 4 : 3;
        if (masked && behind) masks_bytes = 4 * (uint32_t)count;
        if (source->size_bytes < FILE_HEADER_BYTES + header_bytes + masks_bytes)
            return image_fail_truncated(source);
        EFFNET_TRY(set_channels(bmp, masked ? header + (behind ? header_bytes : 40) : NULL, count));
    } else if (bmp->palette_entries == 0) {
        bmp->palette_entries = 1u << bmp->bits;
    }
    uint64_t palette_bytes = bmp->bits > 8 ? 0 : (uint64_t)bmp->palette_entries * (unsigned)bmp->entry_bytes;
    bmp->palette_at = FILE_HEADER_BYTES + header_bytes + masks_bytes;
    bmp->pixels_at = get32(source->data + 10);
    /* Some writers leave the palette out when they count, or do not count at all. */
    if (bmp->pixels_at == FILE_HEADER_BYTES + header_bytes) bmp->pixels_at += palette_bytes;
    if (bmp->pixels_at == 0) bmp->pixels_at = bmp->palette_at + palette_bytes;
    return EFFNET_OK;
}

/* A palette that says index i is grey i is not looked at by Pillow, so that it lacks nothing. */
static void read_palette(struct bmp *bmp)
{
    const struct image_source *source = bmp->source;
    bool grey = true;
    memset(bmp->palette, 0, sizeof bmp->palette);
    for (uint32_t i = 0; i < bmp->palette_entries && i < 256; i++) {
        uint64_t at = bmp->palette_at + (uint64_t)i * (unsigned)bmp->entry_bytes;
        if (at + 3 > source->size_bytes) {
            grey = false;
            break;
        }
        const uint8_t *bgr = source->data + at;
        memcpy(bmp->palette[i], (uint8_t[3]){bgr[2], bgr[1], bgr[0]}, 3);
        if (bgr[0] != i || bgr[1] != i || bgr[2] != i) grey = false;
    }
    if (grey && bmp->bits == 8 && bmp->palette_entries > 2)
        for (int i = 0; i < 256; i++) memset(bmp->palette[i], i, 3);
    if (grey && bmp->bits == 1 && bmp->palette_entries == 1) memset(bmp->palette[1], 255, 3);
}

static uint8_t *row_of(const struct bmp *bmp, const struct effnet_image *image, int64_t row)
{
    int64_t y = bmp->from_the_top ? row : bmp->height - 1 - row;
    return image->rgb + (size_t)y * (size_t)bmp->width * 3;
}

/* ---------------------------------------------------------------- rows */

static uint64_t row_bytes(const struct bmp *bmp)
{
    return ((uint64_t)bmp->width * (unsigned)bmp->bits + 31) / 32 * 4;
}

/* What the pixels take at least: the last row's padding may be missing. */
static uint64_t pixel_bytes(const struct bmp *bmp)
{
    uint64_t last = ((uint64_t)bmp->width * (unsigned)bmp->bits + 7) / 8;
    return row_bytes(bmp) * (uint64_t)(bmp->height - 1) + last;
}

static void put_indices(const struct bmp *bmp, const uint8_t *in, uint8_t *rgb)
{
    int per_byte = 8 / bmp->bits, mask = (1 << bmp->bits) - 1;
    for (int64_t x = 0; x < bmp->width; x++, rgb += 3) {
        int shift = (per_byte - 1 - (int)(x % per_byte)) * bmp->bits;
        memcpy(rgb, bmp->palette[in[x / per_byte] >> shift & mask], 3);
    }
}

static uint8_t sample(const struct channel *channel, uint32_t pixel)
{
    uint32_t value = (pixel & channel->mask) >> channel->shift, maximum = channel->maximum;
    if (maximum == 255) return (uint8_t)value;
    if (maximum == 0) return 0;
    uint32_t half = maximum == 31 || maximum == 63 ? 0 : maximum / 2;
    return (uint8_t)(((uint64_t)value * 255 + half) / maximum);
}

static void put_colours(const struct bmp *bmp, struct image_facts *facts, const uint8_t *in, uint8_t *rgb)
{
    const struct channel *channels = bmp->channels;
    int bytes = bmp->bits / 8;
    for (int64_t x = 0; x < bmp->width; x++, rgb += 3, in += bytes) {
        uint32_t pixel = bytes == 2 ? get16(in) : bytes == 3 ? get16(in) | (uint32_t)in[2] << 16 : get32(in);
        uint8_t rgba[4];
        for (int c = 0; c < 3; c++) rgba[c] = sample(&channels[c], pixel);
        if (channels[ALPHA].maximum) {
            rgba[ALPHA] = sample(&channels[ALPHA], pixel);
            image_put_rgba(bmp->source, facts, rgba, 1, rgb);
        } else {
            memcpy(rgb, rgba, 3);
        }
    }
}

static int read_rows(const struct bmp *bmp, const struct effnet_image *image, struct image_facts *facts)
{
    const uint8_t *in = bmp->source->data + bmp->pixels_at;
    for (int64_t row = 0; row < bmp->height; row++, in += row_bytes(bmp)) {
        uint8_t *rgb = row_of(bmp, image, row);
        if (bmp->bits <= 8)
            put_indices(bmp, in, rgb);
        else
            put_colours(bmp, facts, in, rgb);
    }
    return EFFNET_OK;
}

/* ---------------------------------------------------------------- run lengths */

/* Pixels are counted in the order of the rows as stored. */
struct runs {
    const struct bmp *bmp;
    const struct effnet_image *image;
    const uint8_t *data;
    size_t at, size_bytes;
    int64_t pixel, pixels; /* where the next one goes, and how many there are */
    int64_t column;        /* may lie behind the row's end, until the next row begins */
    bool untouched;        /* nothing has been said of this row: its end skips all of it */
};

/* Sample `i` of those at `from`: an index of 4 or 8 bits, or three bytes. */
static void put_sample(struct runs *runs, const uint8_t *from, int i)
{
    const struct bmp *bmp = runs->bmp;
    uint8_t *rgb = row_of(bmp, runs->image, runs->pixel / bmp->width) + runs->pixel % bmp->width * 3;
    runs->pixel++;
    if (bmp->compression == RLE24) {
        const uint8_t *bgr = from + 3 * i;
        memcpy(rgb, (uint8_t[3]){bgr[2], bgr[1], bgr[0]}, 3);
        return;
    }
    int index = bmp->compression == RLE8 ? from[i] : i % 2 ? from[i / 2] & 15 : from[i / 2] >> 4;
    memcpy(rgb, bmp->palette[index], 3);
}

/* One value, `count` times (4 bits: two values in turn); what sticks out of the row is dropped. */
static void put_run(struct runs *runs, int count)
{
    const uint8_t *value = runs->data + runs->at;
    int64_t room = runs->bmp->width - runs->column;
    if (count > room) count = room > 0 ? (int)room : 0;
    for (int i = 0; i < count && runs->pixel < runs->pixels; i++)
        put_sample(runs, value, runs->bmp->compression == RLE4 ? i % 2 : 0);
    runs->column += count;
    runs->untouched = false;
    runs->at += runs->bmp->compression == RLE24 ? 3 : 1;
}

/* `count` values, as many bytes as make pairs. */
static void put_values(struct runs *runs, int count, size_t bytes)
{
    for (int i = 0; i < count && runs->pixel < runs->pixels; i++) put_sample(runs, runs->data + runs->at, i);
    runs->column += count;
    runs->untouched = false;
    runs->at += bytes + bytes % 2;
}

static void skip_pixels(struct runs *runs, int64_t count)
{
    int64_t left = runs->pixels - runs->pixel;
    runs->pixel += count < left ? count : left;
    runs->column = runs->pixel % runs->bmp->width;
}

static void end_row(struct runs *runs)
{
    int64_t width = runs->bmp->width, used = runs->pixel % width;
    if (used > 0 || runs->untouched) skip_pixels(runs, width - used);
    runs->column = 0;
    runs->untouched = true;
}

/* What follows a zero: the end of a row or of all, a step, or values. False at the end of all. */
static bool put_escape(struct runs *runs, int code, size_t bytes)
{
    const uint8_t *step = runs->data + runs->at;
    switch (code) {
    case 0: end_row(runs); return true;
    case 1: return false;
    case 2:
        skip_pixels(runs, step[0] + step[1] * runs->bmp->width);
        runs->untouched = runs->untouched && step[0] == 0;
        runs->at += 2;
        return true;
    default: put_values(runs, code, bytes); return true;
    }
}

/* How many bytes follow the two of a code; a run's value is among them. */
static size_t operand_bytes(const struct bmp *bmp, int count, int code)
{
    size_t value_bytes = bmp->compression == RLE24 ? 3 : 1;
    if (count) return value_bytes - 1;
    if (code < 3) return code == 2 ? 2 : 0;
    return bmp->compression == RLE4 ? ((size_t)code + 1) / 2 : (size_t)code * value_bytes;
}

/* Reads codes until all pixels are there or the end is told. */
static int read_runs(const struct bmp *bmp, const struct effnet_image *image)
{
    const struct image_source *source = bmp->source;
    struct runs runs = {.bmp = bmp,
                        .image = image,
                        .data = source->data + bmp->pixels_at,
                        .size_bytes = source->size_bytes - (size_t)bmp->pixels_at,
                        .pixels = bmp->width * bmp->height,
                        .untouched = true};
    for (size_t i = 0; i < (size_t)runs.pixels; i++) memcpy(image->rgb + 3 * i, bmp->palette[0], 3);
    while (runs.pixel < runs.pixels) {
        if (runs.at > runs.size_bytes || runs.size_bytes - runs.at < 2) return image_fail_truncated(source);
        int count = runs.data[runs.at], code = runs.data[runs.at + 1];
        size_t bytes = operand_bytes(bmp, count, code);
        if (runs.size_bytes - runs.at - 2 < bytes) return image_fail_truncated(source);
        runs.at += count ? 1 : 2;
        if (count)
            put_run(&runs, count);
        else if (!put_escape(&runs, code, bytes))
            break;
    }
    return EFFNET_OK;
}

/* ---------------------------------------------------------------- the format */

static bool matches(const uint8_t *data, size_t size_bytes)
{
    return size_bytes >= 2 && data[0] == 'B' && data[1] == 'M';
}

static int decode(const struct image_source *source, struct effnet_image *out, struct image_facts *facts)
{
    struct bmp bmp = {.source = source};
    EFFNET_TRY(read_headers(&bmp));
    uint64_t needed = bmp.pixels_at + (is_run_lengths(&bmp) ? 2 : pixel_bytes(&bmp));
    if (source->size_bytes < needed) return image_fail_truncated(source);
    if (bmp.bits <= 8) read_palette(&bmp);
    EFFNET_TRY(image_alloc(source, bmp.width, bmp.height, out));
    return is_run_lengths(&bmp) ? read_runs(&bmp, out) : read_rows(&bmp, out, facts);
}

static int extent(const struct image_source *start, uint64_t *extent_bytes)
{
    struct bmp bmp = {.source = start};
    EFFNET_TRY(read_headers(&bmp));
    uint64_t pixels = row_bytes(&bmp) * (uint64_t)bmp.height;
    /* No run is shorter than a pixel and its count, nor a row's end than two bytes. */
    if (is_run_lengths(&bmp)) pixels = 4 * (uint64_t)(bmp.width * bmp.height) + 2 * (uint64_t)bmp.height + 2;
    uint64_t palette_end = bmp.palette_at + 4 * 256; /* a palette may lie over the pixels, and behind them */
    *extent_bytes = bmp.pixels_at + pixels > palette_end ? bmp.pixels_at + pixels : palette_end;
    return EFFNET_OK;
}

const struct image_format image_format_bmp = {"BMP", matches, decode, extent};
