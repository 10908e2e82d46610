/* JPEG through stb_image, for a build without libjpeg-turbo: baseline and progressive, 8 bits, Huffman;
 * grey, YCbCr, RGB, and CMYK or YCCK as Adobe writes them (inverted; the inks are multiplied with black).
 * Halved chroma is upsampled linearly, with weights 3:1 in each direction, as libjpeg's "fancy" upsampling
 * does; but sums are rounded always the same way where libjpeg alternates, and with 4:2:2 the last column
 * but one has the weights the wrong way round. Against libjpeg-turbo on synthetic photos 98 % of the bytes
 * are within 1 of 255 with 4:4:4 and 4:2:0, 95 % with 4:2:2, and, that one column aside, all within 3. */
#include "common/error.h"
#include "image/formats/jpeg.h"
#include "image/formats/stb.h"

/* A progressive JPEG goes over the whole image in every scan, and a scan can be a few bytes long, so that
 * a small file could take hours. Encoders write about ten scans. */
enum { MAX_SCANS = 128 };

/* Whether no table of a DHT segment has more codes than a byte has values; more overrun stb_image 2.27's. */
static bool huffman_tables_fit(const struct jpeg_segment *segment)
{
    for (size_t table = 0; table < segment->size_bytes;) {
        size_t codes = 0;
        for (size_t i = table + 1; i <= table + 16 && i < segment->available; i++) codes += segment->data[i];
        if (codes > 256) return false;
        table += 17 + codes;
    }
    return true;
}

int image_jpeg_decode(const struct image_source *source, bool turned, struct effnet_image *out,
                      struct effnet_error *error)
{
    (void)turned;
    int scans = 0;
    const char *defect = NULL;
    struct jpeg_segment segment;
    for (size_t at = 0; image_jpeg_next_segment(source, &at, &segment) && segment.marker != MARKER_EOI;) {
        if (segment.marker == MARKER_SOS && segment.available == segment.size_bytes) scans++;
        if (segment.marker == MARKER_DHT && !huffman_tables_fit(&segment))
            defect = "a Huffman table with more than 256 codes";
    }
    if (scans > MAX_SCANS) defect = "too many scans";
    if (defect) return effnet_fail(error, EFFNET_E_DATA, "%s: bad JPEG: %s", source->name, defect);
    int status = image_stb_decode(source, "JPEG", out, error);
    if (status || scans > 0) return status;
    effnet_image_free(out); /* stb_image makes an image of nothing, too */
    return effnet_fail(error, EFFNET_E_DATA, "%s: bad JPEG: no scan", source->name);
}
