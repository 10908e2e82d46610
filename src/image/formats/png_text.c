/* Looks through a PNG's chunks for the orientation. libpng would read, check and inflate every text on the
 * way; here no more than two are inflated, and no further than MOST_TEXT_BYTES. */
#include "image/formats/png_text.h"

#include <stdlib.h>
#include <string.h>
#include <zlib.h>

enum { MOST_TEXT_BYTES = 1 << 20 };

/* Bytes of the file, or of what was inflated. */
struct span {
    const uint8_t *data;
    size_t size_bytes;
    bool deflated;
};

static uint32_t get32(const uint8_t *p)
{
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

/* Steps over `count` zeros and what is before them. False where there are not as many. */
static bool skip_strings(struct span *span, int count)
{
    for (; count > 0; count--) {
        const uint8_t *zero = memchr(span->data, 0, span->size_bytes);
        if (!zero) return false;
        span->size_bytes -= (size_t)(zero + 1 - span->data);
        span->data = zero + 1;
    }
    return true;
}

/* Whether the text chunk `span` of type `type` is called `keyword`; then *span becomes its text. */
static bool find_text(const char *type, struct span *span, const char *keyword)
{
    size_t length = strlen(keyword) + 1;
    if (span->size_bytes < length || memcmp(span->data, keyword, length) != 0) return false;
    struct span text = {span->data + length, span->size_bytes - length, type[0] == 'z'};
    if (type[0] != 't') { /* compression: iTXt, whether and how; zTXt, how */
        size_t fields = type[0] == 'i' ? 2 : 1;
        if (text.size_bytes < fields) return false;
        if (fields == 2) text.deflated = text.data[0] != 0;
        if (text.deflated && text.data[fields - 1] != 0) return false;
        text.data += fields;
        text.size_bytes -= fields;
        if (fields == 2 && !skip_strings(&text, 2)) return false; /* language, translated keyword */
    }
    *span = text;
    return true;
}

/* Replaces a deflated text by a block of what it contains; to be freed, NULL if nothing was allocated. */
static uint8_t *inflate_text(struct span *span)
{
    if (!span->deflated || !span->data) return NULL;
    uint8_t *text = malloc(MOST_TEXT_BYTES);
    uLongf size_bytes = MOST_TEXT_BYTES;
    if (!text || uncompress(text, &size_bytes, span->data, span->size_bytes) != Z_OK) size_bytes = 0;
    IMAGE_WRITTEN(text, size_bytes);
    *span = (struct span){text ? text : span->data, size_bytes, false};
    return text;
}

static int hex_digit(uint8_t c)
{
    if (c >= '0' && c <= '9') return c - '0';
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* "\nexif\n    1234\n" and the data in hexadecimal, in lines. */
static int raw_profile_orientation(struct span text)
{
    uint8_t *exif = malloc(text.size_bytes / 2 + 1);
    size_t size_bytes = 0, digits = 0;
    int lines = 0, high = 0;
    for (size_t i = 0; exif && i < text.size_bytes; i++) {
        int digit = hex_digit(text.data[i]);
        if (text.data[i] == '\n') lines++;
        if (lines < 3 || digit < 0) continue;
        if (digits++ % 2)
            exif[size_bytes++] = (uint8_t)(high << 4 | digit);
        else
            high = digit;
    }
    int orientation = exif ? image_exif_orientation(exif, size_bytes) : 0;
    free(exif);
    return orientation;
}

/* What counts of each kind is the last of the file. */
struct found {
    struct span exif, profile, xmp;
};

static void look_at(struct found *found, const char *type, struct span chunk)
{
    bool text = strcmp(type, "tEXt") == 0 || strcmp(type, "zTXt") == 0 || strcmp(type, "iTXt") == 0;
    if (strcmp(type, "eXIf") == 0 || (strcmp(type, "tEXt") == 0 && find_text(type, &chunk, "exif")))
        found->exif = chunk;
    else if (text && find_text(type, &chunk, "Raw profile type exif"))
        found->profile = chunk;
    else if (text && find_text(type, &chunk, "XML:com.adobe.xmp"))
        found->xmp = chunk;
}

int png_text_orientation(const uint8_t *data, size_t size_bytes)
{
    struct found found = {0};
    for (size_t at = 8; size_bytes - at >= 12;) {
        uint32_t length = get32(data + at);
        if (length > size_bytes - at - 12) break;
        char type[5] = {0};
        memcpy(type, data + at + 4, 4);
        if (strcmp(type, "IEND") == 0) break;
        struct span chunk = {data + at + 8, length, false};
        /* Only chunks that may be wanted are checked: the pixels' were, by libpng. */
        if ((type[0] & 0x20) && crc32(0, data + at + 4, length + 4) == get32(chunk.data + length))
            look_at(&found, type, chunk);
        at += (size_t)length + 12;
    }
    int orientation = 0;
    if (found.exif.data) {
        orientation = image_exif_orientation(found.exif.data, found.exif.size_bytes);
    } else if (found.profile.data) {
        uint8_t *text = inflate_text(&found.profile);
        orientation = raw_profile_orientation(found.profile);
        free(text);
    }
    if (orientation == 0 && found.xmp.data) {
        uint8_t *text = inflate_text(&found.xmp);
        orientation = image_xmp_orientation(found.xmp.data, found.xmp.size_bytes);
        free(text);
    }
    return orientation;
}
