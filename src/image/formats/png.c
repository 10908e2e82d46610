/* PNG through libpng. Any bit depth and colour type, interlaced or not, becomes RGB8 as Pillow's
 * convert("RGB") makes it: alpha and tRNS are dropped, not blended; samples of 1, 2 and 4 bits are
 * stretched to 0..255, of 16 bits the high byte is kept; gamma, ICC profile and the rest are ignored.
 * (For 16-bit grey Pillow clips at 255 instead, which turns nearly everything white; we do not follow.) */
#include "image/formats/formats.h"

#include <png.h>
#include <setjmp.h>
#include <stdio.h>
#include <string.h>

#include "common/error.h"

/* One decoding. libpng leaves through longjmp, so everything it touches is in here, and nothing that is
 * needed afterwards lives in a local variable. */
struct job {
    const struct image_source *source;
    size_t at;        /* next byte to read */
    bool ended;       /* libpng wanted more than there is */
    bool complete;    /* all rows are in place */
    char reason[160]; /* libpng's words for its error */
    int status;       /* of our own calls between libpng's */
    struct effnet_error *error;
    struct effnet_image image;
    int orientation;
};

static void on_error(png_structp png, png_const_charp message)
{
    struct job *job = png_get_error_ptr(png);
    snprintf(job->reason, sizeof job->reason, "%s", message);
    longjmp(png_jmpbuf(png), 1);
}

static void on_warning(png_structp png, png_const_charp message)
{
    (void)png;
    (void)message;
}

static void on_read(png_structp png, png_bytep to, size_t size_bytes)
{
    struct job *job = png_get_io_ptr(png);
    if (size_bytes > job->source->size_bytes - job->at) {
        job->ended = true;
        png_error(png, "the file ends early");
    }
    memcpy(to, job->source->data + job->at, size_bytes);
    job->at += size_bytes;
}

/* Chunks that do not change the pixels are skipped unread: text and profiles can be compressed, and
 * nobody looks at what would come out. */
static void skip_chunks(png_structp png)
{
    static const png_byte names[] = "tRNS\0bKGD\0hIST\0sPLT\0gAMA\0cHRM\0sRGB\0iCCP\0sBIT\0tEXt\0zTXt\0iTXt\0"
                                    "pHYs\0oFFs\0pCAL\0sCAL\0tIME";
    png_set_keep_unknown_chunks(png, PNG_HANDLE_CHUNK_NEVER, names, (int)(sizeof names / 5));
    png_set_keep_unknown_chunks(png, PNG_HANDLE_CHUNK_NEVER, NULL, 0); /* and those libpng does not know */
}

static void convert_to_rgb8(png_structp png, png_infop info)
{
    int color_type = png_get_color_type(png, info);
    if (color_type == PNG_COLOR_TYPE_PALETTE) png_set_palette_to_rgb(png);
    if (color_type == PNG_COLOR_TYPE_GRAY) png_set_expand_gray_1_2_4_to_8(png);
    if (!(color_type & PNG_COLOR_MASK_COLOR)) png_set_gray_to_rgb(png);
    if (color_type & PNG_COLOR_MASK_ALPHA) png_set_strip_alpha(png);
    png_set_strip_16(png);
}

static void read_orientation(struct job *job, png_structp png, png_infop info)
{
    png_bytep exif = NULL;
    png_uint_32 size_bytes = 0;
    if (png_get_eXIf_1(png, info, &size_bytes, &exif) && exif)
        job->orientation = image_exif_orientation(exif, size_bytes);
}

/* Runs between setjmp and its return; fills job. */
static void read_image(struct job *job, png_structp png, png_infop info)
{
    png_set_user_limits(png, IMAGE_MAX_SIDE, IMAGE_MAX_SIDE);
    png_set_read_fn(png, job, on_read);
    skip_chunks(png);
    png_read_info(png, info);

    png_uint_32 width = png_get_image_width(png, info), height = png_get_image_height(png, info);
    job->status = image_alloc(job->source, width, height, &job->image, job->error);
    if (job->status) return;

    convert_to_rgb8(png, info);
    int passes = png_set_interlace_handling(png);
    png_read_update_info(png, info);
    size_t row_bytes = png_get_rowbytes(png, info);
    if (row_bytes != (size_t)width * 3) png_error(png, "unexpected row size");

    /* An interlaced row is filled by its passes one after the other, so its bytes stay from pass to pass. */
    for (int pass = 0; pass < passes; pass++)
        for (png_uint_32 y = 0; y < height; y++) png_read_row(png, job->image.rgb + y * row_bytes, NULL);
    job->complete = true;
    png_read_end(png, info); /* EXIF may come behind the pixels */
}

static bool matches(const uint8_t *data, size_t size_bytes)
{
    return size_bytes >= 8 && memcmp(data, "\x89PNG\r\n\x1a\n", 8) == 0;
}

static int decode(const struct image_source *source, struct effnet_image *out, struct image_facts *facts,
                  struct effnet_error *error)
{
    struct job job = {.source = source, .error = error};
    png_structp png = png_create_read_struct(PNG_LIBPNG_VER_STRING, &job, on_error, on_warning);
    png_infop info = png ? png_create_info_struct(png) : NULL;
    if (!info) {
        png_destroy_read_struct(&png, NULL, NULL);
        return effnet_fail(error, EFFNET_E_NOMEM, "%s: libpng cannot start", source->name);
    }

    if (setjmp(png_jmpbuf(png)) == 0) {
        read_image(&job, png, info);
    } else if (job.complete && job.ended) {
        /* Only what follows the pixels is missing; Pillow takes such a file too. */
    } else if (job.ended) {
        job.status = image_fail_truncated(source, error);
    } else {
        job.status = effnet_fail(error, EFFNET_E_DATA, "%s: bad PNG: %s", source->name, job.reason);
    }
    if (!job.status) read_orientation(&job, png, info);
    png_destroy_read_struct(&png, &info, NULL);

    if (job.status) {
        effnet_image_free(&job.image);
        return job.status;
    }
    *out = job.image;
    facts->orientation = job.orientation;
    return EFFNET_OK;
}

const struct image_format image_format_png = {"PNG", matches, decode};
