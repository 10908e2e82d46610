/* JPEG through stb_image, for a build without libjpeg-turbo: baseline and progressive, 8 bits, Huffman;
 * grey, YCbCr, RGB, and CMYK or YCCK as Adobe writes them (inverted; the inks are multiplied with black).
 * Halved chroma is upsampled linearly, with weights 3:1 in each direction, as libjpeg's "fancy" upsampling
 * does; but sums are rounded always the same way where libjpeg alternates, and with 4:2:2 the last column
 * but one has the weights the wrong way round. Against libjpeg-turbo on synthetic photos 98 % of the bytes
 * are within 1 of 255 with 4:4:4 and 4:2:0, 95 % with 4:2:2, and, that one column aside, all within 3.
 *
 * stb_image reads zeros after a file's end and often succeeds with them, so it is fed through callbacks
 * that see whether it wanted more than there is: such a file is truncated, whatever came out. */
#include "image/formats/jpeg.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "common/error.h"

/* Memory begins as zeros: on broken files stb_image uses tables that were never filled. Its assertions
 * would end the program over such files, and check nothing that keeps it from harm. */
#define STBI_MALLOC(size)         calloc(1, size)
#define STBI_REALLOC(block, size) realloc(block, size)
#define STBI_FREE(block)          free(block)
#define STBI_ASSERT(condition)    ((void)0)

#define STB_IMAGE_IMPLEMENTATION
#define STB_IMAGE_STATIC
#define STBI_ONLY_JPEG
#define STBI_NO_STDIO
#define STBI_NO_LINEAR
#define STBI_MAX_DIMENSIONS IMAGE_MAX_SIDE
#include <stb/stb_image.h>
/* The header declares what the decoders left out would define; gcc says so at the end of the file only. */
#pragma GCC diagnostic ignored "-Wunused-function"

struct reader {
    const struct image_source *source;
    size_t at;
    const char *refill; /* stb_image's own small buffer, which it fills ahead of need */
    bool overrun;       /* a byte behind the end was needed */
};

static int reader_read(void *user, char *to, int size_bytes)
{
    struct reader *reader = user;
    size_t left = reader->source->size_bytes - reader->at;
    size_t count = (size_t)size_bytes < left ? (size_t)size_bytes : left;
    memcpy(to, reader->source->data + reader->at, count);
    reader->at += count;
    /* The first call fills the small buffer, and so do all others with that address: they come when it is
     * empty, and any byte will do. A call with another address wants all its bytes. */
    if (!reader->refill) reader->refill = to;
    if (to == reader->refill ? count == 0 : count < (size_t)size_bytes) reader->overrun = true;
    return (int)count;
}

static void reader_skip(void *user, int count)
{
    struct reader *reader = user;
    size_t left = reader->source->size_bytes - reader->at;
    if (count > 0) reader->at += (size_t)count < left ? (size_t)count : left;
}

static int reader_eof(void *user)
{
    const struct reader *reader = user;
    return reader->at == reader->source->size_bytes;
}

static const stbi_io_callbacks callbacks = {reader_read, reader_skip, reader_eof};

static int fail(const struct reader *reader)
{
    const struct image_source *source = reader->source;
    const char *reason = stbi_failure_reason();
    if (reader->overrun) return image_fail_truncated(source);
    if (!reason) reason = "no reason given";
    if (strcmp(reason, "outofmem") == 0)
        return effnet_fail(source->error, EFFNET_E_NOMEM, "%s: out of memory while decoding", source->name);
    /* Said of a header that it does not take. */
    if (strcmp(reason, "unknown image type") == 0)
        return image_fail(source, "not a kind of JPEG that is supported");
    return image_fail(source, "bad JPEG: %s", reason);
}

static int decode(const struct image_source *source, struct effnet_image *out)
{
    int width, height, channels;
    struct reader reader = {.source = source};
    if (!stbi_info_from_callbacks(&callbacks, &reader, &width, &height, &channels)) return fail(&reader);
    EFFNET_TRY(image_check_size(source, width, height));

    reader = (struct reader){.source = source};
    uint8_t *rgb = stbi_load_from_callbacks(&callbacks, &reader, &width, &height, &channels, 3);
    if (!rgb) return fail(&reader);
    image_buffer_free(source->pixels);
    *source->pixels = (struct image_buffer){rgb, (size_t)width * (size_t)height * 3};
    *out = (struct effnet_image){.width = width, .height = height, .rgb = rgb};
    return reader.overrun ? image_fail_truncated(source) : EFFNET_OK;
}

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

int image_jpeg_decode(const struct image_source *source, struct effnet_image *out, struct image_facts *facts)
{
    (void)facts;
    int scans = 0;
    const char *defect = NULL;
    struct jpeg_segment segment;
    for (size_t at = 0; image_jpeg_next_segment(source, &at, &segment) && segment.marker != MARKER_EOI;) {
        if (segment.marker == MARKER_SOS && segment.available == segment.size_bytes) scans++;
        if (segment.marker == MARKER_DHT && !huffman_tables_fit(&segment))
            defect = "a Huffman table with more than 256 codes";
    }
    if (scans > MAX_SCANS) defect = "too many scans";
    if (defect) return image_fail(source, "bad JPEG: %s", defect);
    EFFNET_TRY(decode(source, out));
    /* stb_image makes an image of nothing, too */
    return scans > 0 ? EFFNET_OK : image_fail(source, "bad JPEG: no scan");
}
