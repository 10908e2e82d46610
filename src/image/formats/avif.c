/* AVIF through libavif, whose own conversion to RGB Pillow takes: the primary image, also of an animation. As
 * in Pillow, orientation is that of the container (irot, imir); only where that and EXIF are silent does XMP
 * count. */
#include "image/formats/formats.h"

#include <stdlib.h>
#include <string.h>

#include "common/error.h"
#include "common/file_kind.h"
#include "image/formats/library.h"

#ifdef EFFNET_HAVE_AVIF
#include <avif/avif.h>

#include "image/formats/avif_cost.h"

#define AVIF_FUNCTIONS(F)                                                                                    \
    F(avifDecoderCreate)                                                                                     \
    F(avifDecoderDestroy)                                                                                    \
    F(avifDecoderNextImage)                                                                                  \
    F(avifDecoderParse)                                                                                      \
    F(avifDecoderSetIOMemory)                                                                                \
    F(avifDecoderSetSource)                                                                                  \
    F(avifImageYUVToRGB)                                                                                     \
    F(avifResultToString)                                                                                    \
    F(avifRGBImageSetDefaults)

static struct {
    AVIF_FUNCTIONS(IMAGE_LIBRARY_POINTER)
} avif;

static const char *const avif_names[] = {AVIF_FUNCTIONS(IMAGE_LIBRARY_NAME) NULL};

/* Its structs are those of the header: the library has to be of the header's line of versions. */
#if AVIF_VERSION_MAJOR >= 1
#define AVIF_LINE        "16"
#define mirror_of(image) ((image)->imir.axis)
#else
#define AVIF_LINE        "15"
#define mirror_of(image) ((image)->imir.mode)
#endif

static struct image_library library = {.kind = "an AVIF image",
                                       .name = "libavif",
                                       .file = "libavif.so." AVIF_LINE,
                                       .package = "libavif" AVIF_LINE,
                                       .functions = &avif,
                                       .names = avif_names,
                                       .lock = PTHREAD_MUTEX_INITIALIZER};

static int fail(const struct image_source *source, const avifDecoder *decoder, avifResult result)
{
    if (result == AVIF_RESULT_OUT_OF_MEMORY)
        return effnet_fail(source->error, EFFNET_E_NOMEM, "%s: no memory for libavif", source->name);
    if (result == AVIF_RESULT_TRUNCATED_DATA) return image_fail_truncated(source);
    const char *words = avif.avifResultToString(result), *details = decoder->diag.error;
    IMAGE_WRITTEN_TEXT(words);
    IMAGE_WRITTEN_TEXT(details);
    return image_fail(source, "bad AVIF: %s%s%s", words, details[0] ? ", " : "", details);
}

/* Before 1.0 libavif ends the process where it gets no memory: so there is to be enough before it begins. */
static int check_room(const struct image_source *source, uint64_t size_bytes)
{
    if (AVIF_VERSION_MAJOR >= 1) return EFFNET_OK;
    void *volatile room = malloc(size_bytes); /* volatile: or else compilers leave it out */
    if (!room) return effnet_fail_nomem(source->error, source->name, size_bytes);
    free(room);
    return EFFNET_OK;
}

/* libaom keeps 13 bytes a pixel beside the planes, for colours and again for alpha. Planes count twice, since
 * a grid's tiles are copied and film grain is laid over a copy; samples of ten and twelve bits take two
 * bytes, and one more where eight bits are made of them. */
static int check_cost(const struct image_source *source, const avifDecoder *decoder)
{
    const avifImage *image = decoder->image;
    const bool alpha = decoder->alphaPresent;
    const uint64_t pixels = (uint64_t)image->width * image->height, sample_bytes = image->depth > 8 ? 3 : 1;
    const uint64_t chroma = image->yuvFormat == AVIF_PIXEL_FORMAT_YUV444   ? 4
                            : image->yuvFormat == AVIF_PIXEL_FORMAT_YUV422 ? 2
                            : image->yuvFormat == AVIF_PIXEL_FORMAT_YUV420 ? 1
                                                                           : 0;
    const uint64_t halves = 2 + chroma + (alpha ? 2 : 0); /* of samples a pixel */
    const uint64_t bytes = source->size_bytes +
                           pixels * ((alpha ? 26 : 13) + halves * sample_bytes + (alpha ? 7 : 3));
    if (bytes <= IMAGE_DECODING_BYTES) return check_room(source, bytes);
    return image_fail(source, "too large, this AVIF of %u x %u takes %llu MB to decode; the limit is %llu",
                      image->width, image->height, (unsigned long long)bytes / 1000000,
                      (unsigned long long)IMAGE_DECODING_BYTES / 1000000);
}

/* Turned by `angle` times 90 degrees against the clock, then mirrored: 0 top and bottom, 1 left and right. */
static int container_orientation(const avifImage *image)
{
    static const int turned[4] = {1, 8, 3, 6}, mirrored[2][4] = {{4, 5, 2, 7}, {2, 7, 4, 5}};
    const int angle = image->transformFlags & AVIF_TRANSFORM_IROT ? image->irot.angle & 3 : 0;
    if (!(image->transformFlags & AVIF_TRANSFORM_IMIR)) return turned[angle];
    return mirrored[mirror_of(image) & 1][angle];
}

static int find_orientation(const avifImage *image)
{
    const int orientation = container_orientation(image);
    IMAGE_WRITTEN(image->exif.data, image->exif.size);
    IMAGE_WRITTEN(image->xmp.data, image->xmp.size);
    if (orientation != 1 || (image->exif.size && image_exif_orientation(image->exif.data, image->exif.size)))
        return orientation;
    return image->xmp.size ? image_xmp_orientation(image->xmp.data, image->xmp.size) : 0;
}

/* Where the planes of an image are. */
struct planes {
    uint8_t *data[3];
    uint32_t row_bytes[3], depth;
};

static struct planes swap_planes(avifImage *image, const struct planes *planes)
{
    struct planes old = {.depth = image->depth};
    memcpy(old.data, image->yuvPlanes, sizeof old.data);
    memcpy(old.row_bytes, image->yuvRowBytes, sizeof old.row_bytes);
    memcpy(image->yuvPlanes, planes->data, sizeof old.data);
    memcpy(image->yuvRowBytes, planes->row_bytes, sizeof old.row_bytes);
    image->depth = planes->depth;
    return old;
}

/* The upper eight bits of each sample, in `memory`: [height][width], then chroma. */
static struct planes upper_bits(const avifImage *image, uint8_t *memory)
{
    struct planes planes = {.depth = 8};
    for (int plane = 0; plane < 3; plane++) {
        const bool halve_x = plane > 0 && image->yuvFormat != AVIF_PIXEL_FORMAT_YUV444;
        const bool halve_y = plane > 0 && image->yuvFormat == AVIF_PIXEL_FORMAT_YUV420;
        const uint32_t width = (image->width + halve_x) >> halve_x,
                       height = (image->height + halve_y) >> halve_y;
        planes.data[plane] = memory;
        planes.row_bytes[plane] = width;
        for (uint32_t y = 0; y < height; y++, memory += width) {
            const uint8_t *row = image->yuvPlanes[plane] + (size_t)y * image->yuvRowBytes[plane];
            IMAGE_WRITTEN(row, 2 * (size_t)width);
            for (uint32_t x = 0; x < width; x++) {
                uint16_t sample;
                memcpy(&sample, row + 2 * (size_t)x, 2);
                memory[x] = (uint8_t)(sample >> (image->depth - 8));
            }
        }
    }
    return planes;
}

/* To RGB8, or with alpha to RGBA8. */
static avifResult convert(const avifImage *image, bool alpha, uint8_t *pixels)
{
    avifRGBImage rgb;
    avif.avifRGBImageSetDefaults(&rgb, image);
    IMAGE_WRITTEN(&rgb, sizeof rgb);
    rgb.depth = 8;
    rgb.format = alpha ? AVIF_RGB_FORMAT_RGBA : AVIF_RGB_FORMAT_RGB;
    rgb.pixels = pixels;
    rgb.rowBytes = rgb.width * (alpha ? 4 : 3);
    const avifResult result = avif.avifImageYUVToRGB(image, &rgb);
    IMAGE_WRITTEN(rgb.pixels, (size_t)rgb.rowBytes * rgb.height);
    return result;
}

/* Whether libavif 1.0 and later would convert the upper eight bits of each sample: colours of more bits,
 * without alpha, by those matrices that libyuv has. */
static bool upper_bits_count(const avifImage *image, bool alpha)
{
    if (image->depth == 8 || image->yuvFormat == AVIF_PIXEL_FORMAT_YUV400 || alpha) return false;
    switch (image->matrixCoefficients) {
    case AVIF_MATRIX_COEFFICIENTS_BT709:
    case AVIF_MATRIX_COEFFICIENTS_UNSPECIFIED:
    case AVIF_MATRIX_COEFFICIENTS_BT470BG:
    case AVIF_MATRIX_COEFFICIENTS_BT601:
    case AVIF_MATRIX_COEFFICIENTS_BT2020_NCL: return true;
    default: return false;
    }
}

/* As libavif 1.0 and later, for those before. */
static avifResult convert_upper_bits(avifImage *image, uint8_t *rgb)
{
    uint8_t *memory = malloc(3 * (size_t)image->width * image->height);
    if (!memory) return AVIF_RESULT_OUT_OF_MEMORY;
    const struct planes planes = upper_bits(image, memory), old = swap_planes(image, &planes);
    const avifResult result = convert(image, false, rgb);
    swap_planes(image, &old);
    free(memory);
    return result;
}

static int read_pixels(const struct image_source *source, avifDecoder *decoder, struct effnet_image *out,
                       struct image_facts *facts)
{
    avifImage *image = decoder->image;
    const size_t pixels = (size_t)image->width * image->height;
    const bool alpha = decoder->alphaPresent;
    EFFNET_TRY(image_alloc(source, image->width, image->height, out));
    uint8_t *rgba = alpha ? malloc(pixels * 4) : NULL;
    if (alpha && !rgba) return effnet_fail_nomem(source->error, source->name, pixels * 4);
    const avifResult result = AVIF_VERSION_MAJOR < 1 && upper_bits_count(image, alpha)
                                  ? convert_upper_bits(image, out->rgb)
                                  : convert(image, alpha, alpha ? rgba : out->rgb);
    if (alpha && result == AVIF_RESULT_OK) image_put_rgba(source, facts, rgba, pixels, out->rgb);
    free(rgba);
    return result == AVIF_RESULT_OK ? EFFNET_OK : fail(source, decoder, result);
}

static int read_image(const struct image_source *source, avifDecoder *decoder, uint64_t most_pixels,
                      struct effnet_image *out, struct image_facts *facts)
{
    avifResult result = avif.avifDecoderSetIOMemory(decoder, source->data, source->size_bytes);
    if (result == AVIF_RESULT_OK)
        result = avif.avifDecoderSetSource(decoder, AVIF_DECODER_SOURCE_PRIMARY_ITEM);
    if (result == AVIF_RESULT_OK) result = avif.avifDecoderParse(decoder);
    IMAGE_WRITTEN(decoder, sizeof *decoder);
    if (result != AVIF_RESULT_OK) return fail(source, decoder, result);
    const avifImage *image = decoder->image;
    IMAGE_WRITTEN(image, sizeof *image);
    EFFNET_TRY(image_check_size(source, image->width, image->height));
    EFFNET_TRY(check_cost(source, decoder));
    const uint32_t pixels = image->width * image->height;
    if (most_pixels > pixels) return image_fail(source, "bad AVIF: a frame that is larger than the image");
    result = avif.avifDecoderNextImage(decoder);
    IMAGE_WRITTEN(decoder, sizeof *decoder);
    if (result != AVIF_RESULT_OK) return fail(source, decoder, result);
    image = decoder->image;
    IMAGE_WRITTEN(image, sizeof *image);
    if (image->width * image->height != pixels) return image_fail(source, "bad AVIF: its size changes");
    facts->orientation = find_orientation(image);
    return read_pixels(source, decoder, out, facts);
}

static int decode(const struct image_source *source, struct effnet_image *out, struct image_facts *facts)
{
    EFFNET_TRY(image_library_load(&library, source));
    uint64_t most_pixels;
    EFFNET_TRY(avif_check_cost(source, &most_pixels));
    avifDecoder *decoder = avif.avifDecoderCreate();
    if (!decoder) return effnet_fail(source->error, EFFNET_E_NOMEM, "%s: libavif cannot start", source->name);
    IMAGE_WRITTEN(decoder, sizeof *decoder);
    decoder->maxThreads = 1;
    decoder->codecChoice = AVIF_CODEC_CHOICE_AOM; /* dav1d, four times as fast, prints to standard error */
    decoder->strictFlags = AVIF_STRICT_ENABLED &
                           ~(avifStrictFlags)(AVIF_STRICT_CLAP_VALID | AVIF_STRICT_PIXI_REQUIRED);
    const int status = read_image(source, decoder, most_pixels, out, facts);
    avif.avifDecoderDestroy(decoder);
    return status;
}

/* AV1 of more bytes is refused. */
static int extent(const struct image_source *start, uint64_t *extent_bytes)
{
    *extent_bytes = 2 * IMAGE_METADATA_BYTES;
    return image_library_load(&library, start);
}

#else

static int decode(const struct image_source *source, struct effnet_image *out, struct image_facts *facts)
{
    (void)out;
    (void)facts;
    return image_fail_left_out(source, "an AVIF image", "libavif");
}

static int extent(const struct image_source *start, uint64_t *extent_bytes)
{
    (void)extent_bytes;
    return decode(start, NULL, NULL);
}

#endif

const struct image_format image_format_avif = {"AVIF", effnet_is_avif, decode, extent};
