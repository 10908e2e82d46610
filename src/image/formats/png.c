/* PNG through libpng. Any bit depth and colour type, interlaced or not, becomes RGB8 as Pillow's
 * convert("RGB") makes it: alpha and tRNS are dropped unless there is a background; samples of 1, 2 and 4
 * bits are stretched to 0..255, of 16 bits the high byte is kept; gamma, ICC profile and the rest are
 * ignored. (For 16-bit grey Pillow clips at 255 instead, which turns nearly everything white; we do not
 * follow.) */
#include "image/formats/formats.h"

#include <png.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

#include "common/error.h"

/* One decoding. libpng leaves through longjmp, so everything it touches is in here, and nothing that is
 * needed afterwards lives in a local variable. */
struct job {
    const struct image_source *source;
    size_t at;        /* next byte to read */
    bool ended;       /* libpng wanted more than there is */
    bool complete;    /* all rows are in place */
    bool no_memory;   /* libpng asked for some in vain */
    char reason[160]; /* libpng's words for its error */
    struct effnet_image *image;
    struct image_facts *facts;
    uint8_t *row; /* [width][4] */
};

static void on_error(png_structp png, png_const_charp message)
{
    IMAGE_WRITTEN(&png, sizeof png);
    IMAGE_WRITTEN(&message, sizeof message);
    IMAGE_WRITTEN_TEXT(message);
    struct job *job = png_get_error_ptr(png);
    snprintf(job->reason, sizeof job->reason, "%s", message);
    longjmp(png_jmpbuf(png), 1);
}

static void on_warning(png_structp png, png_const_charp message)
{
    (void)png;
    (void)message;
}

static png_voidp on_malloc(png_structp png, png_alloc_size_t size_bytes)
{
    IMAGE_WRITTEN(&png, sizeof png);
    IMAGE_WRITTEN(&size_bytes, sizeof size_bytes);
    struct job *job = png_get_mem_ptr(png);
    void *memory = malloc(size_bytes);
    if (!memory) job->no_memory = true;
    return memory;
}

static void on_free(png_structp png, png_voidp memory)
{
    (void)png;
    IMAGE_WRITTEN(&memory, sizeof memory);
    free(memory);
}

static void on_read(png_structp png, png_bytep to, size_t size_bytes)
{
    IMAGE_WRITTEN(&png, sizeof png);
    IMAGE_WRITTEN(&to, sizeof to);
    IMAGE_WRITTEN(&size_bytes, sizeof size_bytes);
    struct job *job = png_get_io_ptr(png);
    if (size_bytes > job->source->size_bytes - job->at) {
        job->ended = true;
        png_error(png, "the file ends early");
    }
    memcpy(to, job->source->data + job->at, size_bytes);
    job->at += size_bytes;
}

/* Chunks that do not change the pixels are skipped unread: text and profiles can be compressed, and what
 * would come out can be large. find_orientation looks through them. */
static void skip_chunks(png_structp png)
{
    static const png_byte names[] = "bKGD\0hIST\0sPLT\0gAMA\0cHRM\0sRGB\0iCCP\0sBIT\0tEXt\0zTXt\0iTXt\0eXIf\0"
                                    "pHYs\0oFFs\0pCAL\0sCAL\0tIME";
    png_set_keep_unknown_chunks(png, PNG_HANDLE_CHUNK_NEVER, names, (int)(sizeof names / 5));
    png_set_keep_unknown_chunks(png, PNG_HANDLE_CHUNK_NEVER, NULL, 0); /* and those libpng does not know */
}

/* To RGB8, or to RGBA8 where there is alpha of any kind. */
static void convert_to_8_bits(png_structp png, png_infop info)
{
    int color_type = png_get_color_type(png, info);
    if (color_type == PNG_COLOR_TYPE_PALETTE) png_set_palette_to_rgb(png);
    if (color_type == PNG_COLOR_TYPE_GRAY) png_set_expand_gray_1_2_4_to_8(png);
    if (png_get_valid(png, info, PNG_INFO_tRNS)) png_set_tRNS_to_alpha(png);
    if (!(color_type & PNG_COLOR_MASK_COLOR)) png_set_gray_to_rgb(png);
    png_set_strip_16(png);
}

/* One pass over the image, or over all of it: `width` x `height` pixels, of which the first goes to x0, y0
 * and the others `dx` and `dy` further each. */
static void read_pass(struct job *job, png_structp png, int channels, const int size[2], const int first[2],
                      const int step[2])
{
    const struct effnet_image *image = job->image;
    for (int i = 0; i < size[1]; i++) {
        uint8_t *rgb = image->rgb +
                       ((size_t)(first[1] + i * step[1]) * (size_t)image->width + (size_t)first[0]) * 3;
        bool straight = channels == 3 && step[0] == 1;
        uint8_t *row = straight ? rgb : job->row;
        png_read_row(png, row, NULL);
        IMAGE_WRITTEN(row, (size_t)size[0] * (size_t)channels);
        if (straight) continue;
        if (channels == 4) image_put_rgba(job->source, job->facts, row, (size_t)size[0], row);
        for (int x = 0; x < size[0]; x++)
            memcpy(rgb + (size_t)x * (size_t)step[0] * 3, row + (size_t)x * 3, 3);
    }
}

/* Interlaced pixels are put where they belong by us: libpng would want the whole image with alpha in it. */
static void read_passes(struct job *job, png_structp png, png_infop info, int channels)
{
    int width = job->image->width, height = job->image->height;
    if (png_get_interlace_type(png, info) == PNG_INTERLACE_NONE) {
        read_pass(job, png, channels, (int[2]){width, height}, (int[2]){0, 0}, (int[2]){1, 1});
        return;
    }
    for (int pass = 0; pass < PNG_INTERLACE_ADAM7_PASSES; pass++) {
        int size[2] = {(int)PNG_PASS_COLS((png_uint_32)width, pass),
                       (int)PNG_PASS_ROWS((png_uint_32)height, pass)};
        int first[2] = {PNG_PASS_START_COL(pass), PNG_PASS_START_ROW(pass)};
        int step[2] = {PNG_PASS_COL_OFFSET(pass), PNG_PASS_ROW_OFFSET(pass)};
        if (size[0] > 0) read_pass(job, png, channels, size, first, step);
    }
}

/* What the rows come to once inflated, with the number of the filter before each. */
static uint64_t inflated_bytes(uint64_t width, uint64_t height, unsigned pixel_bits, bool interlaced)
{
    if (!interlaced) return height * ((width * pixel_bits + 7) / 8 + 1);
    uint64_t total = 0;
    for (int pass = 0; pass < PNG_INTERLACE_ADAM7_PASSES; pass++) {
        uint64_t columns = PNG_PASS_COLS(width, pass), rows = PNG_PASS_ROWS(height, pass);
        if (columns > 0) total += rows * ((columns * pixel_bits + 7) / 8 + 1);
    }
    return total;
}

/* What libpng leaves by longjmp ends in run. */
static int read_image(struct job *job, png_structp png, png_infop info)
{
    png_set_user_limits(png, IMAGE_MAX_SIDE, IMAGE_MAX_SIDE);
    png_set_read_fn(png, job, on_read);
    skip_chunks(png);
    png_read_info(png, info);

    png_uint_32 width = png_get_image_width(png, info), height = png_get_image_height(png, info);
    unsigned pixel_bits = (unsigned)png_get_bit_depth(png, info) * png_get_channels(png, info);
    bool interlaced = png_get_interlace_type(png, info) != PNG_INTERLACE_NONE;
    EFFNET_TRY(image_check_size(job->source, width, height));
    EFFNET_TRY(image_check_unpacked(job->source, inflated_bytes(width, height, pixel_bits, interlaced)));
    EFFNET_TRY(image_alloc(job->source, width, height, job->image));

    convert_to_8_bits(png, info);
    png_read_update_info(png, info);
    int channels = png_get_channels(png, info);
    if (png_get_bit_depth(png, info) != 8 || (channels != 3 && channels != 4))
        png_error(png, "unexpected kind of row");
    job->row = malloc((size_t)width * 4);
    if (!job->row) return effnet_fail_nomem(job->source->error, job->source->name, (size_t)width * 4);
    read_passes(job, png, info, channels);
    job->complete = true;
    png_read_end(png, info);
    return EFFNET_OK;
}

static int run(struct job *job, png_structp png, png_infop info)
{
    if (setjmp(png_jmpbuf(png)) == 0) return read_image(job, png, info);
    if (job->no_memory)
        return effnet_fail(job->source->error, EFFNET_E_NOMEM, "%s: out of memory while decoding",
                           job->source->name);
    if (!job->ended) return image_fail(job->source, "bad PNG: %s", job->reason);
    /* where only what follows the pixels is missing, Pillow takes that too */
    return job->complete ? EFFNET_OK : image_fail_truncated(job->source);
}

/* ---------------------------------------------------------------- the orientation
 *
 * libpng would read, check and inflate every text on the way to it; here no more than two are inflated, and
 * no further than MOST_TEXT_BYTES. */

enum { MOST_TEXT_BYTES = 1 << 20 };

/* Bytes of the file, or of what was inflated. */
struct span {
    const uint8_t *data;
    size_t size_bytes;
    bool deflated;
};

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

/* The orientation that a PNG's metadata tells, before or behind the pixels: 1 to 8, 0 for none. As in Pillow:
 * the EXIF chunk, else the text "Raw profile type exif" that ImageMagick and ExifTool write, and where EXIF
 * does not speak of it, XMP. What is broken tells nothing. */
static int find_orientation(const uint8_t *data, size_t size_bytes)
{
    struct found found = {0};
    for (size_t at = 8; size_bytes - at >= 12;) {
        uint32_t length = png_get_uint_32(data + at);
        if (length > size_bytes - at - 12) break;
        char type[5] = {0};
        memcpy(type, data + at + 4, 4);
        if (strcmp(type, "IEND") == 0) break;
        struct span chunk = {data + at + 8, length, false};
        /* Only chunks that may be wanted are checked: the pixels' were, by libpng. */
        if ((type[0] & 0x20) && crc32(0, data + at + 4, length + 4) == png_get_uint_32(chunk.data + length))
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

/* ---------------------------------------------------------------- the format */

static bool matches(const uint8_t *data, size_t size_bytes)
{
    return size_bytes >= 8 && memcmp(data, "\x89PNG\r\n\x1a\n", 8) == 0;
}

static int decode(const struct image_source *source, struct effnet_image *out, struct image_facts *facts)
{
    struct job job = {.source = source, .image = out, .facts = facts};
    png_structp png = png_create_read_struct_2(PNG_LIBPNG_VER_STRING, &job, on_error, on_warning, &job,
                                               on_malloc, on_free);
    png_infop info = png ? png_create_info_struct(png) : NULL;
    if (!info) {
        png_destroy_read_struct(&png, NULL, NULL);
        return effnet_fail(source->error, EFFNET_E_NOMEM, "%s: libpng cannot start", source->name);
    }

    int status = run(&job, png, info);
    png_destroy_read_struct(&png, &info, NULL);
    free(job.row);
    if (!status) facts->orientation = find_orientation(source->data, source->size_bytes);
    return status;
}

/* The header comes first. Of what is behind the pixels, orientation counts. */
static int extent(const struct image_source *start, uint64_t *extent_bytes)
{
    static const int channels[8] = {1, 1, 3, 1, 2, 1, 4, 1}; /* by colour type */
    const uint8_t *header = start->data + 16;
    *extent_bytes = UINT64_MAX;
    if (start->size_bytes < 29 || memcmp(start->data + 12, "IHDR", 4) != 0) return EFFNET_OK;
    uint64_t width = png_get_uint_32(header), height = png_get_uint_32(header + 4);
    EFFNET_TRY(image_check_size(start, (int64_t)width, (int64_t)height));
    unsigned pixel_bits = (unsigned)channels[header[9] & 7] * header[8];
    uint64_t inflated = inflated_bytes(width, height, pixel_bits, header[12] != 0);
    *extent_bytes = 2 * inflated + IMAGE_METADATA_BYTES; /* deflated badly, it grows */
    return image_check_unpacked(start, inflated);
}

const struct image_format image_format_png = {"PNG", matches, decode, extent};
