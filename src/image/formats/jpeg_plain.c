/* The check of image/plain_jpeg.h: one pass over the segments before the scan, and one over the markers in
 * it. */
#include "image/plain_jpeg.h"

#include <string.h>

#include "image/formats/jpeg.h"

enum { MAX_COMPONENTS = 3, TABLES = 4, BASELINE_HUFFMAN_TABLES = 2, CODE_BITS = 16 };

struct component {
    int id, h, v, quantisation;
};

struct header {
    int width, height, components; /* components 0: no frame header yet */
    struct component component[MAX_COMPONENTS];
    bool quantisation[TABLES], huffman[2][BASELINE_HUFFMAN_TABLES]; /* defined; Huffman: DC, AC */
    int restart_interval;                                           /* MCUs; 0: none */
    bool jfif, adobe;
    int transform; /* of Adobe's segment */
};

/* Tables of 8 bits. */
static bool read_quantisation(const uint8_t *data, size_t size, struct header *header)
{
    while (size > 0) {
        if (data[0] >= TABLES || size < 1 + 64) return false; /* the high four bits: 1 is 16 bits */
        header->quantisation[data[0]] = true;
        data += 1 + 64;
        size -= 1 + 64;
    }
    return true;
}

/* Tables whose codes fit in their lengths, with at most 12 DC or 162 AC symbols (T.81, table F.1 and F.2; a
 * few more for AC do no harm: 256). */
static bool read_huffman(const uint8_t *data, size_t size, struct header *header)
{
    while (size > 0) {
        const int class = data[0] >> 4, table = data[0] & 15;
        int symbols = 0, codes = 0;
        if (class > 1 || table >= BASELINE_HUFFMAN_TABLES || size < 1 + CODE_BITS) return false;
        for (int bits = 1; bits <= CODE_BITS; bits++) {
            symbols += data[bits];
            codes = 2 * codes + data[bits];
            if (codes > 1 << bits) return false;
        }
        if (symbols < 1 || symbols > 256 || size < 1 + CODE_BITS + (size_t)symbols) return false;
        for (int i = 0; class == 0 && i < symbols; i++)
            if (data[1 + CODE_BITS + i] > 11) return false;
        header->huffman[class][table] = true;
        data += 1 + CODE_BITS + symbols;
        size -= 1 + CODE_BITS + (size_t)symbols;
    }
    return true;
}

static bool read_frame(const uint8_t *data, size_t size, struct header *header)
{
    if (header->components || size < 6 || data[0] != 8) return false;
    const int count = data[5];
    header->height = data[1] << 8 | data[2];
    header->width = data[3] << 8 | data[4];
    if (header->width < 1 || header->height < 1) return false;
    if ((count != 1 && count != 3) || size != 6 + 3 * (size_t)count) return false;
    for (int i = 0; i < count; i++) {
        const uint8_t *from = data + 6 + 3 * i;
        header->component[i] = (struct component){from[0], from[1] >> 4, from[1] & 15, from[2]};
        const int most = i == 0 && count == 3 ? 2 : 1;
        if (from[1] >> 4 < 1 || from[1] >> 4 > most || (from[1] & 15) < 1 || (from[1] & 15) > most)
            return false;
        if (from[2] >= TABLES) return false;
    }
    header->components = count;
    return true;
}

/* Whether three components are YCbCr beyond doubt, by libjpeg's rules. */
static bool is_ycbcr(const struct header *header)
{
    const struct component *c = header->component;
    if (header->jfif) return true;
    if (header->adobe) return header->transform == 1;
    return c[0].id == 1 && c[1].id == 2 && c[2].id == 3;
}

/* The scan's own header: all components in the frame's order, whole, with tables that are there. */
static bool check_scan(const uint8_t *data, size_t size, const struct header *header)
{
    const int count = header->components;
    if (count == 0 || size != 4 + 2 * (size_t)count || data[0] != count) return false;
    for (int i = 0; i < count; i++) {
        const int dc = data[2 + 2 * i] >> 4, ac = data[2 + 2 * i] & 15;
        if (data[1 + 2 * i] != header->component[i].id) return false;
        if (dc >= BASELINE_HUFFMAN_TABLES || ac >= BASELINE_HUFFMAN_TABLES) return false;
        if (!header->huffman[0][dc] || !header->huffman[1][ac]) return false;
        if (!header->quantisation[header->component[i].quantisation]) return false;
    }
    const uint8_t *spectral = data + 1 + 2 * count;
    return spectral[0] == 0 && spectral[1] == 63 && spectral[2] == 0 && (count == 1 || is_ycbcr(header));
}

static bool read_segment(const struct jpeg_segment *segment, struct header *header)
{
    const uint8_t *data = segment->data;
    const size_t size = segment->size_bytes;
    if (segment->available < size) return false;
    switch (segment->marker) {
    case MARKER_DQT: return read_quantisation(data, size, header);
    case MARKER_DHT: return read_huffman(data, size, header);
    case MARKER_SOF0: return read_frame(data, size, header);
    case MARKER_DRI:
        if (size != 2) return false;
        header->restart_interval = data[0] << 8 | data[1];
        return true;
    case MARKER_APP0: header->jfif |= size >= 5 && memcmp(data, "JFIF", 5) == 0; return true;
    case MARKER_APP14:
        if (size >= 12 && memcmp(data, "Adobe", 5) == 0) {
            header->adobe = true;
            header->transform = data[11];
        }
        return true;
    case MARKER_COM: return true;
    default: return segment->marker > MARKER_APP0 && segment->marker <= MARKER_APP15;
    }
}

/* From behind the scan's header to its end marker. */
static bool check_markers(const uint8_t *at, const uint8_t *end, const struct header *header)
{
    const int mcu_width = 8 * header->component[0].h, mcu_height = 8 * header->component[0].v;
    const int64_t mcus = (int64_t)((header->width + mcu_width - 1) / mcu_width) *
                         ((header->height + mcu_height - 1) / mcu_height);
    int64_t left = header->restart_interval ? (mcus - 1) / header->restart_interval : 0;
    for (int next = MARKER_RST0; (at = memchr(at, 0xff, (size_t)(end - at))) && end - at >= 2; at += 2) {
        if (at[1] == 0) continue;
        if (at[1] == MARKER_EOI) return left == 0;
        if (at[1] != next || left == 0) return false;
        next = next == MARKER_RST7 ? MARKER_RST0 : next + 1;
        left--;
    }
    return false;
}

bool image_is_plain_jpeg(const uint8_t *data, size_t size_bytes, int *width, int *height)
{
    const struct image_source source = {.data = data, .size_bytes = size_bytes};
    struct header header = {0};
    struct jpeg_segment segment;
    size_t at = 2;
    int orientation;
    if (size_bytes < 4 || data[0] != 0xff || data[1] != MARKER_SOI) return false;
    for (;;) {
        const size_t marker = at + 1;
        if (!image_jpeg_next_segment(&source, &at, &segment)) return false;
        if (data[marker - 1] != 0xff || data[marker] != segment.marker) return false; /* bytes were skipped */
        if (segment.marker == MARKER_SOS) break;
        if (!segment.data || !read_segment(&segment, &header)) return false;
    }
    if (segment.available < segment.size_bytes || !check_scan(segment.data, segment.size_bytes, &header))
        return false;
    if (!check_markers(data + at, data + size_bytes, &header)) return false;
    if (image_jpeg_orientation(&source, &orientation) || orientation > 1) return false;
    *width = header.width;
    *height = header.height;
    return true;
}
