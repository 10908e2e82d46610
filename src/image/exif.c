/* Finds the orientation in an image's metadata.
 *
 * EXIF data is a small TIFF file: a header with the byte order and the offset of the first directory, whose
 * entries of 12 bytes are tag, type, count and value. Every offset is checked against the block's end.
 * XMP is XML, and the orientation an attribute or an element of it: tiff:Orientation="6" or
 * <tiff:Orientation>6. Like Pillow we search for that and do not parse. */
#include "image/image.h"

#include <string.h>

enum { TAG_ORIENTATION = 0x0112 };

/* Bytes of a whole number of each TIFF type, 0 for other types. What is negative as a signed number is no
 * orientation as an unsigned one either. */
enum { SHORT = 3, LONG = 4, SIGNED_BYTE = 6, SIGNED_SHORT = 8, SIGNED_LONG = 9, DIRECTORY = 13, TYPES };
static const uint8_t integer_bytes[TYPES] = {
    [SIGNED_BYTE] = 1, [SHORT] = 2, [SIGNED_SHORT] = 2, [LONG] = 4, [SIGNED_LONG] = 4, [DIRECTORY] = 4};

int image_exif_orientation(const uint8_t *exif, size_t size_bytes)
{
    for (int i = 0; i < 2 && size_bytes >= 6 && memcmp(exif, "Exif\0\0", 6) == 0; i++) {
        exif += 6; /* some writers put it there twice */
        size_bytes -= 6;
    }
    if (size_bytes == 0) return 0;
    if (size_bytes < 8) return 1;
    bool big_endian = exif[0] == 'M';
    /* Some writers put the number 42 the wrong way round. */
    bool is_42 = image_get_uint(exif + 2, 2, false) == 42 || image_get_uint(exif + 2, 2, true) == 42;
    if (memcmp(exif, big_endian ? "MM" : "II", 2) != 0 || !is_42) return 1;
    size_t at = image_get_uint(exif + 4, 4, big_endian);
    if (at > size_bytes - 2) return 0;
    uint64_t entries = image_get_uint(exif + at, 2, big_endian);
    at += 2;

    int orientation = 0;
    for (; entries > 0 && size_bytes - at >= 12; entries--, at += 12) {
        const uint8_t *entry = exif + at;
        if (image_get_uint(entry, 2, big_endian) != TAG_ORIENTATION) continue;
        uint64_t type = image_get_uint(entry + 2, 2, big_endian);
        uint64_t count = image_get_uint(entry + 4, 4, big_endian);
        uint64_t bytes = type < TYPES ? integer_bytes[type] : 0, all_bytes = bytes * count;
        /* The first of the values counts. They are in the entry, or where it says if they take more room. */
        size_t offset = all_bytes <= 4 ? at + 8 : image_get_uint(entry + 8, 4, big_endian);
        if (count == 0 || offset > size_bytes || size_bytes - offset < all_bytes) continue;
        uint64_t value = image_get_uint(exif + offset, bytes, big_endian);
        orientation = value >= 1 && value <= 8 ? (int)value : 1;
    }
    return orientation;
}

int image_xmp_orientation(const uint8_t *xmp, size_t size_bytes)
{
    static const char property[] = "tiff:Orientation";
    const size_t length = sizeof property - 1;
    const uint8_t *end = xmp + size_bytes;
    for (const uint8_t *p = xmp; (p = memmem(p, (size_t)(end - p), property, length));) {
        p += length;
        size_t left = (size_t)(end - p);
        size_t opening = left >= 3 && memcmp(p, "=\"", 2) == 0 ? 2 : left >= 2 && p[0] == '>' ? 1 : 0;
        if (opening == 0 || p[opening] < '0' || p[opening] > '9') continue;
        int value = p[opening] - '0';
        return value >= 1 && value <= 8 ? value : 1;
    }
    return 0;
}
