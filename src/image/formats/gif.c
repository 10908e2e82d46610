/* The first frame of a GIF, by hand: stb_image paints transparent pixels black, mixes up the background's
 * colours and gives up on streams that go on after the code table is full, which are common. The result
 * is Pillow's: transparency is dropped, so that a transparent pixel shows its palette colour; what the
 * frame leaves bare of the canvas shows the transparent colour, or colour 0 without one. */
#include "image/formats/formats.h"

#include <string.h>

#include "common/error.h"

enum { MAX_CODES = 4096, NO_CODE = -1 };

struct gif {
    const struct image_source *source;
    size_t at;
    bool overrun;            /* a byte behind the end was needed */
    uint8_t palette[256][3]; /* global, then local if there is one */
    int transparent;         /* index, or -1 */
    int screen_width, screen_height;
    int left, top, width, height; /* of the frame */
    bool interlaced;
    struct image_facts *facts;
};

/* Bytes behind the end are zeros; whoever reads looks at overrun before it matters. */
static int get8(struct gif *gif)
{
    if (gif->at < gif->source->size_bytes) return gif->source->data[gif->at++];
    gif->overrun = true;
    return 0;
}

static int get16(struct gif *gif)
{
    int low = get8(gif);
    return low | get8(gif) << 8;
}

static void skip_blocks(struct gif *gif)
{
    for (int length = get8(gif); length > 0; length = get8(gif)) {
        size_t left = gif->source->size_bytes - gif->at;
        gif->at += (size_t)length < left ? (size_t)length : left;
    }
}

static void set_grey_palette(struct gif *gif)
{
    for (int i = 0; i < 256; i++) memset(gif->palette[i], i, 3);
}

/* `flags` has the table's presence in bit 7 and its size in bits 0 to 2. Without a table, index i is grey
 * i, as in Pillow, and so it is throughout where a table says nothing else; entries behind any other
 * table's end are black. */
static void read_palette(struct gif *gif, int flags)
{
    if (!(flags & 0x80)) return;
    memset(gif->palette, 0, sizeof gif->palette);
    int entries = 2 << (flags & 7);
    bool grey = true;
    for (int i = 0; i < entries; i++)
        for (int c = 0; c < 3; c++) {
            gif->palette[i][c] = (uint8_t)get8(gif);
            if (gif->palette[i][c] != i) grey = false;
        }
    if (grey) set_grey_palette(gif);
}

static void read_graphic_control(struct gif *gif)
{
    int length = get8(gif);
    if (length >= 4) {
        int flags = get8(gif);
        get16(gif); /* delay */
        int index = get8(gif);
        if (flags & 1) gif->transparent = index;
        for (int i = 4; i < length; i++) get8(gif);
    }
    if (length > 0) skip_blocks(gif);
}

/* Reads everything before the frame's codes. */
static int read_headers(struct gif *gif)
{
    gif->at = 6; /* behind the signature */
    gif->screen_width = get16(gif);
    gif->screen_height = get16(gif);
    int flags = get8(gif);
    get16(gif); /* background index and aspect ratio */
    set_grey_palette(gif);
    read_palette(gif, flags);
    for (;;) {
        int tag = get8(gif);
        if (gif->overrun) return image_fail_truncated(gif->source);
        if (tag == ',') break;
        if (tag == ';') return image_fail(gif->source, "bad GIF: no image in it");
        if (tag != '!') continue; /* stray bytes between blocks are common enough */
        if (get8(gif) == 0xf9)
            read_graphic_control(gif);
        else
            skip_blocks(gif);
    }
    gif->left = get16(gif);
    gif->top = get16(gif);
    gif->width = get16(gif);
    gif->height = get16(gif);
    flags = get8(gif);
    gif->interlaced = flags & 0x40;
    read_palette(gif, flags);
    if (gif->overrun) return image_fail_truncated(gif->source);
    if (gif->width < 1 || gif->height < 1)
        return image_fail(gif->source, "bad GIF: a frame of %d x %d", gif->width, gif->height);
    /* A frame that sticks out makes the canvas larger. */
    int right = gif->left + gif->width, bottom = gif->top + gif->height;
    if (right > gif->screen_width) gif->screen_width = right;
    if (bottom > gif->screen_height) gif->screen_height = bottom;
    return EFFNET_OK;
}

/* Where the frame's pixels go: left to right, and rows in the order of the four passes if interlaced. */
struct cursor {
    const struct gif *gif;
    const struct effnet_image *image;
    int x, y, pass;
    bool full;
};

static void put(struct cursor *cursor, int index)
{
    static const int first[4] = {0, 4, 2, 1}, step[4] = {8, 8, 4, 2};
    const struct gif *gif = cursor->gif;
    size_t at = (size_t)(gif->top + cursor->y) * (size_t)cursor->image->width +
                (size_t)(gif->left + cursor->x);
    memcpy(cursor->image->rgb + at * 3, gif->palette[index], 3);
    image_note_alpha(gif->facts, index == gif->transparent ? 0 : 255);
    if (++cursor->x < gif->width) return;
    cursor->x = 0;
    if (!gif->interlaced) {
        cursor->full = ++cursor->y == gif->height;
        return;
    }
    cursor->y += step[cursor->pass];
    while (cursor->y >= gif->height && ++cursor->pass < 4) cursor->y = first[cursor->pass];
    cursor->full = cursor->pass == 4;
}

/* Variable-length codes, low bit first, in blocks of up to 255 bytes. */
struct bits {
    struct gif *gif;
    uint32_t hold;
    int count, block_left;
};

/* NO_CODE at the end of the blocks. */
static int next_code(struct bits *bits, int size)
{
    while (bits->count < size) {
        if (bits->block_left == 0) bits->block_left = get8(bits->gif);
        if (bits->block_left == 0) return NO_CODE;
        bits->block_left--;
        bits->hold |= (uint32_t)get8(bits->gif) << bits->count;
        bits->count += 8;
    }
    int code = (int)(bits->hold & ((1u << size) - 1));
    bits->hold >>= size;
    bits->count -= size;
    return code;
}

/* The code table: a string is its prefix's string and one more index. */
struct table {
    int16_t prefix[MAX_CODES];
    uint8_t suffix[MAX_CODES];
    uint8_t stack[MAX_CODES]; /* a string, last index first */
};

/* Puts the string of `code` and returns its first index. An index of more than 8 bits loses those above. */
static int put_string(struct table *table, int code, int clear, struct cursor *cursor)
{
    int length = 0;
    for (; code >= clear; code = table->prefix[code]) table->stack[length++] = table->suffix[code];
    int first = code & 255;
    put(cursor, first);
    while (length > 0 && !cursor->full) put(cursor, table->stack[--length]);
    return first;
}

/* LZW. Fails unless every pixel of the frame comes. */
static int read_frame(struct gif *gif, const struct effnet_image *image)
{
    int bits_per_index = get8(gif);
    if (gif->overrun) return image_fail_truncated(gif->source);
    if (bits_per_index > 12) /* more than 8 are never needed, and sometimes told */
        return image_fail(gif->source, "bad GIF: %d bits a pixel", bits_per_index);

    struct table table;
    struct bits bits = {.gif = gif};
    struct cursor cursor = {.gif = gif, .image = image};
    int clear = 1 << bits_per_index, end = clear + 1;
    int next = end + 1, size = bits_per_index + 1, previous = NO_CODE, first = 0;
    while (!cursor.full) {
        int code = next_code(&bits, size);
        if (gif->overrun) return image_fail_truncated(gif->source);
        if (code == NO_CODE || code == end) return image_fail(gif->source, "bad GIF: pixels are missing");
        if (code == clear) {
            next = end + 1;
            size = bits_per_index + 1;
            previous = NO_CODE;
            continue;
        }
        bool known = code < clear || (code > end && code < next);
        if (!known && (code != next || previous == NO_CODE || next >= MAX_CODES))
            return image_fail(gif->source, "bad GIF: bad code");
        /* The new string is the previous one and the first index of this one, which, if this is the very
         * string that is new, is the first of the previous one. A full table stays as it is. */
        bool grows = previous != NO_CODE && next < MAX_CODES;
        if (grows) {
            table.prefix[next] = (int16_t)previous;
            table.suffix[next] = (uint8_t)first;
        }
        first = put_string(&table, code, clear, &cursor);
        if (grows) {
            table.suffix[next++] = (uint8_t)first;
            if (next == 1 << size && size < 12) size++;
        }
        previous = code;
    }
    return EFFNET_OK;
}

static bool matches(const uint8_t *data, size_t size_bytes)
{
    return size_bytes >= 6 && (memcmp(data, "GIF87a", 6) == 0 || memcmp(data, "GIF89a", 6) == 0);
}

static int decode(const struct image_source *source, struct effnet_image *out, struct image_facts *facts)
{
    struct gif gif = {.source = source, .transparent = -1, .facts = facts};
    EFFNET_TRY(read_headers(&gif));
    if (source->background && gif.transparent >= 0)
        memcpy(gif.palette[gif.transparent], source->background, 3);
    int width = gif.screen_width, height = gif.screen_height;
    EFFNET_TRY(image_alloc(source, width, height, out));
    if (gif.width < width || gif.height < height) {
        const uint8_t *bare = gif.palette[gif.transparent >= 0 ? gif.transparent : 0];
        size_t pixels = (size_t)width * (size_t)height;
        for (size_t i = 0; i < pixels; i++) memcpy(out->rgb + i * 3, bare, 3);
        image_note_alpha(facts, gif.transparent >= 0 ? 0 : 255);
    }
    return read_frame(&gif, out);
}

static int extent(const struct image_source *start, uint64_t *extent_bytes)
{
    struct gif gif = {.source = start};
    int status = read_headers(&gif);
    *extent_bytes = UINT64_MAX; /* where extensions fill the start */
    if (gif.overrun) return EFFNET_OK;
    if (status) return status;
    /* Two codes of 13 bits a pixel, the first to clear the table, would be much already. */
    uint64_t codes = 4 * (uint64_t)gif.width * (uint64_t)gif.height;
    *extent_bytes = gif.at + codes + IMAGE_METADATA_BYTES;
    return image_check_size(start, gif.screen_width, gif.screen_height);
}

const struct image_format image_format_gif = {"GIF", matches, decode, extent};
