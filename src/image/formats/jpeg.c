/* JPEG through stb_image: baseline and progressive, 8 bits, Huffman; grey, YCbCr, RGB, and CMYK or YCCK as
 * Adobe writes them (inverted; the inks are multiplied with black, no profile is used). Halved chroma is
 * upsampled linearly, with weights 3:1 in each direction, as in libjpeg's "fancy" upsampling; but sums are
 * rounded always the same way where libjpeg alternates, and with 4:2:2 the last column but one has the
 * weights the wrong way round. Measured against libjpeg-turbo on synthetic photos: 98 % of the bytes within 1
 * of 255 with 4:4:4 and 4:2:0, 95 % with 4:2:2, and, that one column aside, all within 3. */
#include "image/formats/formats.h"
#include "image/formats/stb.h"

#include <string.h>

#include "common/error.h"

/* A progressive JPEG goes over the whole image in every scan, and a scan can be a few bytes long, so that
 * a small file could take hours. Encoders write about ten scans. */
enum { MAX_SCANS = 128 };

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

/* What a walk over a JPEG's markers tells without decoding, up to the end of the first image. It sees every
 * segment that stb_image will see. */
struct markers {
    int orientation; /* in the EXIF data, 1 to 8 */
    int scans;
    bool tables_fit; /* no Huffman table has more than 256 codes */
};

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

static struct markers walk_markers(const uint8_t *data, size_t size_bytes)
{
    struct markers found = {.tables_fit = true};
    bool exif_seen = false;
    size_t at = next_marker(data, size_bytes, 0);
    while (at < size_bytes) {
        uint8_t code = data[at++];
        if (code == JPEG_EOI) break;
        if (code != JPEG_SOI && code != JPEG_TEM) { /* all others begin with their length, itself included */
            if (size_bytes - at < 2) break;
            size_t length = (size_t)data[at] << 8 | data[at + 1];
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

static bool matches(const uint8_t *data, size_t size_bytes)
{
    return size_bytes >= 3 && memcmp(data, "\xff\xd8\xff", 3) == 0;
}

static int decode(const struct image_source *source, struct effnet_image *out, struct image_facts *facts,
                  struct effnet_error *error)
{
    struct markers markers = walk_markers(source->data, source->size_bytes);
    const char *defect = NULL;
    if (!markers.tables_fit)
        defect = "a Huffman table with more than 256 codes"; /* overruns stb_image 2.27's */
    if (markers.scans > MAX_SCANS) defect = "too many scans";
    if (defect) return effnet_fail(error, EFFNET_E_DATA, "%s: bad JPEG: %s", source->name, defect);
    facts->orientation = markers.orientation;
    int status = image_stb_decode(source, "JPEG", out, error);
    if (status || markers.scans > 0) return status;
    effnet_image_free(out); /* stb_image makes an image of nothing, too */
    return effnet_fail(error, EFFNET_E_DATA, "%s: bad JPEG: no scan", source->name);
}

const struct image_format image_format_jpeg = {"JPEG", matches, decode};
