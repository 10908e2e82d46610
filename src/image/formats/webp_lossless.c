/* Goes through a lossless bitstream up to the small image that says which tile's pixels are coded by which
 * group. Before it come the transforms, of which three bring small images, too. All of these are coded as the
 * large one is, but by one group. The format: RFC 9649, section 3. */
#include "image/formats/webp_lossless.h"

#include <string.h>

enum {
    MAX_BITS = 15, /* of a code */
    LITERALS = 256,
    LENGTHS = 24,
    DISTANCES = 40,
    MAX_CACHE_BITS = 11,
    MAX_SYMBOLS = LITERALS + LENGTHS + (1 << MAX_CACHE_BITS),
};

struct bits {
    const uint8_t *data;
    size_t size_bytes, at; /* `at` counts bits, also those beyond the end, which are zeros */
};

/* As in RFC 1951: how many codes there are of each length, and the symbols in the order of their codes. A
 * code's only symbol takes no bits. */
struct code {
    uint16_t count[MAX_BITS + 1], symbols[MAX_SYMBOLS];
    bool single;
};

static int read_bits(struct bits *bits, int count)
{
    int value = 0;
    for (int i = 0; i < count; i++, bits->at++)
        if (bits->at / 8 < bits->size_bytes) value |= (bits->data[bits->at / 8] >> bits->at % 8 & 1) << i;
    return value;
}

static bool has_ended(const struct bits *bits)
{
    return bits->at > 8 * bits->size_bytes;
}

/* False unless the lengths are those of a complete code, or there is one symbol. */
static bool make_code(struct code *code, const uint8_t *lengths, int symbols)
{
    uint16_t next[MAX_BITS + 2] = {0};
    int left = 1;
    memset(code->count, 0, sizeof code->count);
    for (int i = 0; i < symbols; i++) code->count[lengths[i]]++;
    code->single = code->count[0] == symbols - 1;
    code->count[0] = 0;
    for (int length = 1; length <= MAX_BITS; length++) {
        left = 2 * left - code->count[length];
        if (left < 0) return false;
        next[length + 1] = next[length] + code->count[length];
    }
    for (int i = 0; i < symbols; i++)
        if (lengths[i]) code->symbols[next[lengths[i]]++] = (uint16_t)i;
    return left == 0 || code->single;
}

static int read_symbol(struct bits *bits, const struct code *code)
{
    int at = 0, first = 0, value = 0;
    if (code->single) return code->symbols[0];
    for (int length = 1; length <= MAX_BITS; length++) {
        value |= read_bits(bits, 1);
        if (value - first < code->count[length]) return code->symbols[at + value - first];
        at += code->count[length];
        first = (first + code->count[length]) * 2;
        value *= 2;
    }
    return 0; /* a complete code has a symbol for any bits */
}

/* Lengths that are coded themselves. */
static bool read_lengths(struct bits *bits, uint8_t *lengths, int symbols)
{
    enum { KINDS = 19, REPEAT = 16 };
    static const uint8_t order[KINDS] = {17, 18, 0, 1, 2, 3, 4, 5, 16, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    static const uint8_t extra[] = {2, 3, 7}, least[] = {3, 3, 11};
    struct code code;
    uint8_t kinds[KINDS] = {0}, last = 8;
    const int count = 4 + read_bits(bits, 4);
    if (count > KINDS) return false;
    for (int i = 0; i < count; i++) kinds[order[i]] = (uint8_t)read_bits(bits, 3);
    if (!make_code(&code, kinds, KINDS)) return false;
    int coded = symbols;
    if (read_bits(bits, 1)) {
        const int size = 2 + 2 * read_bits(bits, 3);
        coded = 2 + read_bits(bits, size);
        if (coded > symbols) return false;
    }
    for (int at = 0; at < symbols && coded > 0; coded--) {
        const int kind = read_symbol(bits, &code);
        if (kind < REPEAT) {
            lengths[at++] = (uint8_t)kind;
            if (kind) last = (uint8_t)kind;
            continue;
        }
        const int repeat = least[kind - REPEAT] + read_bits(bits, extra[kind - REPEAT]);
        if (repeat > symbols - at) return false;
        memset(lengths + at, kind == REPEAT ? last : 0, (size_t)repeat);
        at += repeat;
    }
    return true;
}

static bool read_code(struct bits *bits, struct code *code, int symbols)
{
    uint8_t lengths[MAX_SYMBOLS] = {0};
    if (read_bits(bits, 1)) {
        const int more = read_bits(bits, 1);
        lengths[read_bits(bits, read_bits(bits, 1) ? 8 : 1)] = 1;
        if (more) lengths[read_bits(bits, 8)] = 1;
    } else if (!read_lengths(bits, lengths, symbols)) {
        return false;
    }
    return make_code(code, lengths, symbols) && !has_ended(bits);
}

/* How many colours the cache has; below 0: that is damaged. */
static int read_cache_size(struct bits *bits)
{
    if (!read_bits(bits, 1)) return 0;
    const int size = read_bits(bits, 4);
    return size >= 1 && size <= MAX_CACHE_BITS ? 1 << size : -1;
}

/* Lengths and distances: the symbol, then bits for what is between two of them. */
static int64_t read_length(struct bits *bits, int symbol)
{
    if (symbol < 4) return symbol + 1;
    const int extra = (symbol - 2) / 2;
    return ((2 + (int64_t)(symbol & 1)) << extra) + read_bits(bits, extra) + 1;
}

/* An image of one group of codes. *largest: the largest number that red and green together are. */
static bool read_image(struct bits *bits, int64_t pixels, int *largest)
{
    struct code green, red, blue, alpha, distance;
    const int cache = read_cache_size(bits);
    *largest = 0;
    if (cache < 0 || !read_code(bits, &green, LITERALS + LENGTHS + cache) ||
        !read_code(bits, &red, LITERALS) || !read_code(bits, &blue, LITERALS) ||
        !read_code(bits, &alpha, LITERALS) || !read_code(bits, &distance, DISTANCES))
        return false;
    while (pixels > 0 && !has_ended(bits)) {
        const int symbol = read_symbol(bits, &green);
        if (symbol < LITERALS) {
            const int number = read_symbol(bits, &red) << 8 | symbol;
            if (number > *largest) *largest = number;
            read_symbol(bits, &blue);
            read_symbol(bits, &alpha);
            pixels--;
        } else if (symbol < LITERALS + LENGTHS) {
            pixels -= read_length(bits, symbol - LITERALS);
            read_length(bits, read_symbol(bits, &distance));
        } else {
            pixels--;
        }
    }
    return pixels == 0 && !has_ended(bits);
}

static int64_t count_tiles(int pixels, int tile_bits)
{
    return (pixels + (INT64_C(1) << tile_bits) - 1) >> tile_bits;
}

static int read_tile_bits(struct bits *bits)
{
    return 2 + read_bits(bits, 3);
}

/* A palette of few colours puts several pixels into one: *width is then that of what is coded. */
static bool skip_transform(struct bits *bits, int *width, int height, unsigned *seen,
                           struct webp_lossless_cost *cost)
{
    enum { PREDICTOR, COLOUR, SUBTRACT_GREEN, PALETTE };
    const int kind = read_bits(bits, 2);
    int64_t pixels;
    int largest;
    if (*seen >> kind & 1) return false;
    *seen |= 1u << kind;
    if (kind == SUBTRACT_GREEN) return true;
    if (kind == PALETTE) {
        const int colours = 1 + read_bits(bits, 8);
        *width = (int)count_tiles(*width, colours <= 2 ? 3 : colours <= 4 ? 2 : colours <= 16 ? 1 : 0);
        pixels = colours;
    } else {
        const int tile_bits = read_tile_bits(bits);
        pixels = count_tiles(*width, tile_bits) * count_tiles(height, tile_bits);
    }
    cost->small_pixels += pixels;
    return read_image(bits, pixels, &largest);
}

bool webp_lossless_cost(const uint8_t *data, size_t size_bytes, int width, int height,
                        struct webp_lossless_cost *cost)
{
    struct bits bits = {data, size_bytes, 0};
    unsigned seen = 0;
    *cost = (struct webp_lossless_cost){.groups = 1};
    while (read_bits(&bits, 1))
        if (!skip_transform(&bits, &width, height, &seen, cost)) return false;
    if (read_cache_size(&bits) < 0) return false;
    if (read_bits(&bits, 1)) {
        const int tile_bits = read_tile_bits(&bits);
        const int64_t columns = count_tiles(width, tile_bits),
                      tiles = columns * count_tiles(height, tile_bits);
        int largest;
        if (!read_image(&bits, tiles, &largest)) return false;
        cost->small_pixels += tiles;
        cost->groups = largest + 1;
        cost->changes = columns * height;
    }
    return !has_ended(&bits);
}
