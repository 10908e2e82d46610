/* JPEG: the entry in the table of formats, the segments of a file, and the orientation in its metadata. */
#include "image/formats/jpeg.h"

#include <stdlib.h>
#include <string.h>

#include "common/error.h"
#include "image/formats/formats.h"

bool image_jpeg_next_segment(const struct image_source *source, size_t *at, struct jpeg_segment *segment)
{
    const uint8_t *data = source->data;
    size_t size_bytes = source->size_bytes, i = *at;
    *at = size_bytes;
    for (;; i++) {
        const uint8_t *found = i < size_bytes ? memchr(data + i, 0xff, size_bytes - i) : NULL;
        if (!found || (i = (size_t)(found - data) + 1) == size_bytes) return false;
        if (data[i] == 0xff)
            i--; /* any number of them may stand before a marker */
        else if (data[i] != 0 && (data[i] < MARKER_RST0 || data[i] > MARKER_RST7))
            break;
    }
    *segment = (struct jpeg_segment){.marker = data[i++]};
    if (segment->marker == MARKER_SOI || segment->marker == MARKER_EOI || segment->marker == MARKER_TEM) {
        *at = i;
        return true;
    }
    if (size_bytes - i < 2) return false;
    size_t length = (size_t)data[i] << 8 | data[i + 1]; /* the field counts itself, too */
    if (length < 2) return false;
    segment->data = data + i + 2;
    segment->size_bytes = length - 2;
    segment->available = size_bytes - i < length ? size_bytes - i - 2 : length - 2;
    *at = i + 2 + segment->available;
    return true;
}

static bool starts_with(const struct jpeg_segment *segment, const char *name, size_t length)
{
    return segment->available >= length && memcmp(segment->data, name, length) == 0;
}

/* EXIF may go on in further segments; a directory behind this many bytes is not looked for. */
enum { EXIF_MOST_BYTES = 1 << 20 };

struct exif_data {
    uint8_t *bytes; /* with the name before the first segment's data */
    size_t size_bytes;
};

static int append_exif(struct exif_data *exif, const struct jpeg_segment *segment, size_t name_bytes,
                       const struct image_source *source)
{
    size_t skip = exif->bytes ? name_bytes : 0, more = segment->available - skip;
    if (more == 0 || exif->size_bytes + more > EXIF_MOST_BYTES) return EFFNET_OK;
    uint8_t *bytes = realloc(exif->bytes, exif->size_bytes + more);
    if (!bytes) return effnet_fail_nomem(source->error, source->name, exif->size_bytes + more);
    memcpy(bytes + exif->size_bytes, segment->data + skip, more);
    exif->bytes = bytes;
    exif->size_bytes += more;
    return EFFNET_OK;
}

/* As Pillow does it: of the segments before the first scan, all of EXIF, joined, and the last of XMP count.
 */
int image_jpeg_orientation(const struct image_source *source, int *orientation)
{
    static const char exif_name[] = "Exif\0", xmp_name[] = "http://ns.adobe.com/xap/1.0/";
    int xmp = 0, status = EFFNET_OK;
    struct exif_data exif = {0};
    struct jpeg_segment segment;
    for (size_t at = 0; !status && image_jpeg_next_segment(source, &at, &segment);) {
        if (segment.marker == MARKER_SOS || segment.marker == MARKER_EOI) break;
        if (segment.marker != MARKER_APP1) continue;
        if (starts_with(&segment, exif_name, sizeof exif_name))
            status = append_exif(&exif, &segment, sizeof exif_name, source);
        else if (starts_with(&segment, xmp_name, sizeof xmp_name))
            xmp = image_xmp_orientation(segment.data, segment.available);
    }
    *orientation = exif.bytes ? image_exif_orientation(exif.bytes, exif.size_bytes) : 0;
    if (!*orientation) *orientation = xmp;
    free(exif.bytes);
    return status;
}

static bool matches(const uint8_t *data, size_t size_bytes)
{
    return size_bytes >= 3 && memcmp(data, "\xff\xd8\xff", 3) == 0;
}

static int decode(const struct image_source *source, struct effnet_image *out, struct image_facts *facts)
{
    EFFNET_TRY(image_jpeg_orientation(source, &facts->orientation));
    return image_jpeg_decode(source, out, facts);
}

const struct image_format image_format_jpeg = {.name = "JPEG", .matches = matches, .decode = decode};
