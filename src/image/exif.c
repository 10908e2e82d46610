/* Finds the EXIF orientation. Exif data is a small TIFF file: a header with the byte order and the place
 * of the first directory, whose entries of 12 bytes are tag, type, count and value. Every offset is
 * checked against the block's end; whatever is wrong with the data means orientation 1. */
#include "image/image.h"

#include <string.h>

enum {
    TAG_ORIENTATION = 0x0112,
    TIFF_SHORT = 3,
    TIFF_LONG = 4,
};

/* JPEG markers, the second byte after 0xff (ITU-T T.81, table B.1). */
enum {
    JPEG_TEM = 0x01,
    JPEG_DHT = 0xc4,
    JPEG_RST0 = 0xd0,
    JPEG_RST7 = 0xd7,
    JPEG_SOI = 0xd8,
    JPEG_EOI = 0xd9,
    JPEG_SOS = 0xda,
    JPEG_APP1 = 0xe1,
};

static uint32_t get_uint(const uint8_t *p, int bytes, bool big_endian)
{
    uint32_t value = 0;
    for (int i = 0; i < bytes; i++) value = value << 8 | p[big_endian ? i : bytes - 1 - i];
    return value;
}

int image_exif_orientation(const uint8_t *exif, size_t size_bytes)
{
    if (size_bytes >= 6 && memcmp(exif, "Exif\0\0", 6) == 0) {
        exif += 6;
        size_bytes -= 6;
    }
    if (size_bytes < 8) return 1;
    bool big_endian = exif[0] == 'M';
    if (memcmp(exif, big_endian ? "MM\0*" : "II*\0", 4) != 0) return 1;
    size_t at = get_uint(exif + 4, 4, big_endian);
    if (at > size_bytes - 2) return 1;
    uint32_t entries = get_uint(exif + at, 2, big_endian);
    at += 2;

    int orientation = 1;
    for (; entries > 0 && size_bytes - at >= 12; entries--, at += 12) {
        const uint8_t *entry = exif + at;
        if (get_uint(entry, 2, big_endian) != TAG_ORIENTATION) continue;
        uint32_t type = get_uint(entry + 2, 2, big_endian), count = get_uint(entry + 4, 4, big_endian);
        int bytes = type == TIFF_SHORT ? 2 : type == TIFF_LONG ? 4 : 0;
        if (bytes == 0 || count != 1) continue;
        uint32_t value = get_uint(entry + 8, bytes, big_endian);
        orientation = value >= 1 && value <= 8 ? (int)value : 1;
    }
    return orientation;
}

/* Where the next marker's code is, from `at` on; the code's 0xff bytes, stuffed zeros and restart markers
 * are stepped over. size_bytes at the end. */
static size_t next_marker(const uint8_t *data, size_t size_bytes, size_t at)
{
    while (at + 1 < size_bytes) {
        const uint8_t *found = memchr(data + at, 0xff, size_bytes - 1 - at);
        if (!found) return size_bytes;
        at = (size_t)(found - data) + 1;
        uint8_t code = data[at];
        if (code != 0 && code != 0xff && !(code >= JPEG_RST0 && code <= JPEG_RST7)) return at;
    }
    return size_bytes;
}

/* Whether no table of a DHT segment has more codes than a byte has values. `segment` begins with the
 * segment's length, of which `available` bytes are there. */
static bool huffman_tables_fit(const uint8_t *segment, size_t length, size_t available)
{
    for (size_t table = 2; table < length;) {
        size_t codes = 0;
        for (size_t i = table + 1; i <= table + 16 && i < available; i++) codes += segment[i];
        if (codes > 256) return false;
        table += 17 + codes;
    }
    return true;
}

struct image_jpeg_markers image_jpeg_walk(const uint8_t *data, size_t size_bytes)
{
    struct image_jpeg_markers found = {.orientation = 1, .tables_fit = true};
    bool exif_seen = false;
    size_t at = next_marker(data, size_bytes, 0);
    while (at < size_bytes) {
        uint8_t code = data[at++];
        if (code == JPEG_EOI) break;
        if (code != JPEG_SOI && code != JPEG_TEM) { /* all others begin with their length, itself included */
            if (size_bytes - at < 2) break;
            size_t length = get_uint(data + at, 2, true);
            if (code == JPEG_DHT && !huffman_tables_fit(data + at, length, size_bytes - at))
                found.tables_fit = false;
            if (length < 2 || length > size_bytes - at) break;
            if (code == JPEG_SOS) found.scans++;
            if (code == JPEG_APP1 && !exif_seen && length >= 8 && memcmp(data + at + 2, "Exif\0\0", 6) == 0) {
                found.orientation = image_exif_orientation(data + at + 2, length - 2);
                exif_seen = true;
            }
            at += length;
        }
        at = next_marker(data, size_bytes, at);
    }
    return found;
}
