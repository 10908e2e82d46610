/* TGA, by hand: stb_image reads palettes that are not there. The result is Pillow's where Pillow reads the
 * file: 5 bits become v * 255 / 31, rounded down; what the palette lacks is black; of 16 bits the highest, if
 * set, means transparent. Also read: 15 bits, indices of 16 bits, runs that go on in the next row, and
 * palettes in files that do not use them. Alpha counts where the header says that there is some. */
#include "image/formats/formats.h"

#include <stdlib.h>
#include <string.h>

#include "common/error.h"
#include "common/file_kind.h"

enum { HEADER_BYTES = 18 };

enum type { PALETTE = 1, COLOUR = 2, GREY = 3, RUN_LENGTHS = 8 };

struct tga {
    const struct image_source *source;
    int type; /* without RUN_LENGTHS */
    bool run_lengths, from_the_right, from_the_top;
    int width, height, bits;
    bool alpha;                           /* its bits mean something */
    int map_first, map_entries, map_bits; /* 0 entries: no palette */
    size_t map_at, pixels_at;
};

static int get16(const uint8_t *p)
{
    return p[0] | p[1] << 8;
}

static bool is_colour_bits(int bits)
{
    return bits == 15 || bits == 16 || bits == 24 || bits == 32;
}

/* TGA has no signature, so every field that can be wrong is looked at; only what the decoder takes
 * passes, and nothing that has another format's signature. */
static bool matches(const uint8_t *data, size_t size_bytes)
{
    if (size_bytes < HEADER_BYTES || effnet_file_kind(data, size_bytes).what) return false;
    int map_type = data[1], type = data[2], bits = data[16];
    bool sides = get16(data + 12) && get16(data + 14), interleaved = data[17] & 0xc0;
    if (!sides || interleaved || map_type > 1 || (map_type == 1 && !is_colour_bits(data[7]))) return false;
    switch (type) {
    case PALETTE:
    case PALETTE + RUN_LENGTHS: return map_type == 1 && (bits == 8 || bits == 16);
    case COLOUR:
    case COLOUR + RUN_LENGTHS: return is_colour_bits(bits);
    case GREY: return bits == 1 || bits == 8 || bits == 16;
    case GREY + RUN_LENGTHS: return bits == 8 || bits == 16;
    default: return false;
    }
}

static void read_header(struct tga *tga)
{
    const uint8_t *header = tga->source->data;
    tga->type = header[2] & ~RUN_LENGTHS;
    tga->run_lengths = header[2] & RUN_LENGTHS;
    tga->width = get16(header + 12);
    tga->height = get16(header + 14);
    tga->bits = header[16];
    tga->alpha = (header[17] & 15) != 0;
    tga->from_the_right = header[17] & 0x10;
    tga->from_the_top = header[17] & 0x20;
    if (header[1]) {
        tga->map_first = get16(header + 3);
        tga->map_entries = get16(header + 5);
        tga->map_bits = header[7];
    }
    tga->map_at = HEADER_BYTES + header[0]; /* behind a text */
    tga->pixels_at = tga->map_at + (size_t)tga->map_entries * (size_t)((tga->map_bits + 7) / 8);
}

/* A colour of 15 to 32 bits. */
static void get_colour(const uint8_t *in, int bits, uint8_t rgba[4])
{
    if (bits >= 24) {
        memcpy(rgba, (uint8_t[4]){in[2], in[1], in[0], bits == 32 ? in[3] : 255}, 4);
        return;
    }
    int pixel = get16(in);
    for (int c = 0; c < 3; c++) rgba[c] = (uint8_t)((pixel >> (10 - 5 * c) & 31) * 255 / 31);
    rgba[3] = bits == 16 && pixel >> 15 ? 0 : 255;
}

static void get_pixel(const struct tga *tga, const uint8_t *in, uint8_t rgba[4])
{
    if (tga->type == COLOUR) {
        get_colour(in, tga->bits, rgba);
    } else if (tga->type == GREY) {
        memset(rgba, in[0], 3);
        rgba[3] = tga->bits == 16 ? in[1] : 255;
    } else {
        int entry = (tga->bits == 16 ? get16(in) : in[0]) - tga->map_first;
        memset(rgba, 0, 4);
        if (entry >= 0 && entry < tga->map_entries)
            get_colour(tga->source->data + tga->map_at + (size_t)entry * (size_t)((tga->map_bits + 7) / 8),
                       tga->map_bits, rgba);
    }
}

/* Where pixels go: rows from the bottom unless told otherwise. */
struct cursor {
    const struct tga *tga;
    const struct effnet_image *image;
    struct image_facts *facts;
    int x, y;     /* in the file's order: where the next one goes */
    int64_t left; /* pixels to come */
};

static void put(struct cursor *cursor, const uint8_t rgba[4])
{
    const struct tga *tga = cursor->tga;
    int x = tga->from_the_right ? tga->width - 1 - cursor->x : cursor->x;
    int y = tga->from_the_top ? cursor->y : tga->height - 1 - cursor->y;
    uint8_t *rgb = cursor->image->rgb + ((size_t)y * (size_t)tga->width + (size_t)x) * 3;
    cursor->left--;
    if (++cursor->x == tga->width) {
        cursor->x = 0;
        cursor->y++;
    }
    if (tga->alpha)
        image_put_rgba(tga->source, cursor->facts, rgba, 1, rgb);
    else
        memcpy(rgb, rgba, 3);
}

/* A bit a pixel, the first in the high bit; each row begins a byte. */
static void read_bits(struct cursor *cursor, const uint8_t *in)
{
    int width = cursor->tga->width;
    for (; cursor->left > 0; in += (width + 7) / 8)
        for (int x = 0; x < width; x++) {
            uint8_t rgba[4];
            memset(rgba, in[x / 8] >> (7 - x % 8) & 1 ? 255 : 0, 4);
            put(cursor, rgba);
        }
}

static int read_pixels(struct cursor *cursor)
{
    const struct tga *tga = cursor->tga;
    const struct image_source *source = tga->source;
    size_t at = tga->pixels_at, bytes = (size_t)(tga->bits + 7) / 8;
    while (cursor->left > 0) {
        bool run = false;
        int64_t count = cursor->left;
        if (tga->run_lengths) {
            if (at >= source->size_bytes) return image_fail_truncated(source);
            run = source->data[at] & 0x80;
            count = (source->data[at++] & 0x7f) + 1;
            if (count > cursor->left) count = cursor->left;
        }
        size_t needed = run ? bytes : (size_t)count * bytes;
        if (at > source->size_bytes || source->size_bytes - at < needed) return image_fail_truncated(source);
        for (int64_t i = 0; i < count; i++) {
            uint8_t rgba[4];
            get_pixel(tga, source->data + at + (run ? 0 : (size_t)i * bytes), rgba);
            put(cursor, rgba);
        }
        at += needed;
    }
    return EFFNET_OK;
}

/* Fewest bytes that the pixels take. */
static size_t size_needed(const struct tga *tga)
{
    size_t pixels = (size_t)tga->width * (size_t)tga->height, bytes = (size_t)(tga->bits + 7) / 8;
    if (tga->run_lengths) return (pixels + 127) / 128 * (1 + bytes);
    return tga->bits == 1 ? (size_t)(tga->width + 7) / 8 * (size_t)tga->height : pixels * bytes;
}

static int decode(const struct image_source *source, struct effnet_image *out, struct image_facts *facts)
{
    struct tga tga = {.source = source};
    read_header(&tga);
    EFFNET_TRY(image_check_size(source, tga.width, tga.height));
    if (source->size_bytes < tga.pixels_at || source->size_bytes - tga.pixels_at < size_needed(&tga))
        return image_fail_truncated(source);
    EFFNET_TRY(image_alloc(source, tga.width, tga.height, out));
    struct cursor cursor = {
        .tga = &tga, .image = out, .facts = facts, .left = (int64_t)tga.width * tga.height};
    if (tga.bits != 1) return read_pixels(&cursor);
    read_bits(&cursor, source->data + tga.pixels_at);
    return EFFNET_OK;
}

static int extent(const struct image_source *start, uint64_t *extent_bytes)
{
    struct tga tga = {.source = start};
    read_header(&tga);
    uint64_t pixels = (uint64_t)tga.width * (uint64_t)tga.height;
    uint64_t bytes = (uint64_t)(tga.bits + 7) / 8 + (tga.run_lengths ? 1 : 0); /* a run of one pixel each */
    *extent_bytes = tga.pixels_at + pixels * bytes;
    return image_check_size(start, tga.width, tga.height);
}

const struct image_format image_format_tga = {"TGA", matches, decode, extent};
