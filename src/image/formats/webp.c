/* WebP through libwebp, whose own conversion to RGB, with fancy upsampling, is what Pillow takes. The
 * container is read here: of an animation the first frame counts, on a canvas that is transparent black
 * elsewhere, as in Pillow. A file that is shorter than its RIFF header says is refused as truncated. */
#include "image/formats/formats.h"

#include <stdlib.h>
#include <string.h>

#include "common/error.h"
#include "image/formats/library.h"
#include "image/formats/webp_lossless.h"

static bool matches(const uint8_t *data, size_t size_bytes)
{
    return size_bytes >= 12 && memcmp(data, "RIFF", 4) == 0 && memcmp(data + 8, "WEBP", 4) == 0;
}

#ifdef EFFNET_HAVE_WEBP
#include <webp/decode.h>

#define WEBP_FUNCTIONS(F) F(WebPGetFeaturesInternal) F(WebPDecodeRGBInto) F(WebPDecodeRGBAInto)

static struct {
    WEBP_FUNCTIONS(IMAGE_LIBRARY_POINTER)
} webp;

static const char *const webp_names[] = {WEBP_FUNCTIONS(IMAGE_LIBRARY_NAME) NULL};

static struct image_library library = {.kind = "a WebP image",
                                       .name = "libwebp",
                                       .file = "libwebp.so.7",
                                       .package = "libwebp7",
                                       .functions = &webp,
                                       .names = webp_names,
                                       .lock = PTHREAD_MUTEX_INITIALIZER};

/* libwebp's tables of a group of prefix codes. So many groups fit a processor's caches; where there are more,
 * each change to another one costs about a microsecond. */
enum { GROUP_BYTES = 20600, GROUPS_IN_CACHE = 64, MAX_CHANGES = 3000000 };

enum { RIFF_HEADER_BYTES = 12, CHUNK_HEADER_BYTES = 8, VP8X_BYTES = 10, FRAME_HEADER_BYTES = 16 };

/* Of VP8X's first byte. */
enum { FLAG_ANIMATION = 0x02, FLAG_XMP = 0x04, FLAG_EXIF = 0x08, FLAG_ALPHA = 0x10 };

struct part {
    const uint8_t *data; /* NULL: the file has none */
    size_t size_bytes;
};

struct container {
    struct part pixels; /* what libwebp decodes: a still image's whole file, or the first frame's chunks */
    struct part exif, xmp;
    int64_t width, height; /* of the canvas */
    int64_t left, top;     /* of the frame on it */
    bool alpha, animated;
};

static uint32_t get24(const uint8_t *p)
{
    return p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16;
}

static uint32_t get32(const uint8_t *p)
{
    return get24(p) | (uint32_t)p[3] << 24;
}

/* What the RIFF header says the file's size is. */
static uint64_t riff_bytes(const struct image_source *source)
{
    return (uint64_t)get32(source->data + 4) + CHUNK_HEADER_BYTES;
}

/* Gives the chunk at *at and moves *at behind it; false where no whole one is left. */
static bool next_chunk(const struct part *file, size_t *at, const uint8_t **name, struct part *chunk)
{
    if (file->size_bytes - *at < CHUNK_HEADER_BYTES) return false;
    *name = file->data + *at;
    uint32_t size_bytes = get32(*name + 4);
    *at += CHUNK_HEADER_BYTES;
    if (size_bytes > file->size_bytes - *at) return false;
    *chunk = (struct part){file->data + *at, size_bytes};
    *at += size_bytes;
    if (size_bytes % 2 && *at < file->size_bytes) ++*at;
    return true;
}

static bool is_extended(const struct image_source *source)
{
    return source->size_bytes >= RIFF_HEADER_BYTES + CHUNK_HEADER_BYTES + VP8X_BYTES &&
           memcmp(source->data + RIFF_HEADER_BYTES, "VP8X", 4) == 0;
}

/* Size and alpha, told by the file's first bytes. */
static int read_header(const struct image_source *source, struct container *container)
{
    if (is_extended(source)) {
        const uint8_t *header = source->data + RIFF_HEADER_BYTES + CHUNK_HEADER_BYTES;
        container->animated = header[0] & FLAG_ANIMATION;
        container->alpha = header[0] & FLAG_ALPHA;
        container->width = (int64_t)get24(header + 4) + 1;
        container->height = (int64_t)get24(header + 7) + 1;
    } else {
        WebPBitstreamFeatures features;
        VP8StatusCode status = webp.WebPGetFeaturesInternal(source->data, source->size_bytes, &features,
                                                            WEBP_DECODER_ABI_VERSION);
        if (status != VP8_STATUS_OK) return image_fail(source, "bad WebP: its header means nothing");
        IMAGE_WRITTEN(&features, sizeof features);
        container->alpha = features.has_alpha;
        container->width = features.width;
        container->height = features.height;
    }
    return image_check_size(source, container->width, container->height);
}

/* The first frame of an animation. */
static void take_frame(struct container *container, const struct part *chunk)
{
    if (container->pixels.data || chunk->size_bytes < FRAME_HEADER_BYTES) return;
    container->left = 2 * (int64_t)get24(chunk->data);
    container->top = 2 * (int64_t)get24(chunk->data + 3);
    container->pixels = (struct part){chunk->data + FRAME_HEADER_BYTES,
                                      chunk->size_bytes - FRAME_HEADER_BYTES};
}

/* Finds pixels and metadata. As in Pillow, metadata counts only where VP8X announces it, and the first of
 * each. */
static int read_container(const struct image_source *source, struct container *container)
{
    struct part file = {source->data, source->size_bytes}, chunk;
    if (source->size_bytes < riff_bytes(source)) return image_fail_truncated(source);
    file.size_bytes = (size_t)riff_bytes(source);
    if (file.size_bytes < RIFF_HEADER_BYTES) return image_fail(source, "bad WebP: its header means nothing");
    EFFNET_TRY(read_header(source, container));
    if (!container->animated) container->pixels = file;
    if (!is_extended(source)) return EFFNET_OK;
    const uint8_t *name;
    int flags = source->data[RIFF_HEADER_BYTES + CHUNK_HEADER_BYTES];
    for (size_t at = RIFF_HEADER_BYTES; next_chunk(&file, &at, &name, &chunk);) {
        if (container->animated && memcmp(name, "ANMF", 4) == 0)
            take_frame(container, &chunk);
        else if (flags & FLAG_EXIF && !container->exif.data && memcmp(name, "EXIF", 4) == 0)
            container->exif = chunk;
        else if (flags & FLAG_XMP && !container->xmp.data && memcmp(name, "XMP ", 4) == 0)
            container->xmp = chunk;
    }
    return container->pixels.data ? EFFNET_OK : image_fail(source, "bad WebP: no image in it");
}

static int read_features(const struct image_source *source, const struct container *container,
                         WebPBitstreamFeatures *features)
{
    VP8StatusCode status = webp.WebPGetFeaturesInternal(container->pixels.data, container->pixels.size_bytes,
                                                        features, WEBP_DECODER_ABI_VERSION);
    IMAGE_WRITTEN(features, sizeof *features);
    bool fits = status == VP8_STATUS_OK && features->width >= 1 && features->height >= 1 &&
                container->left + features->width <= container->width &&
                container->top + features->height <= container->height;
    if (container->animated)
        return fits ? EFFNET_OK : image_fail(source, "bad WebP: its first frame is damaged");
    return fits && features->width == container->width && features->height == container->height
               ? EFFNET_OK
               : image_fail(source, "bad WebP: its header means nothing");
}

/* The lossless bitstreams of the frame: its pixels, or the alpha beside lossy ones. */
static int read_lossless(const struct image_source *source, const struct container *container,
                         const WebPBitstreamFeatures *features, struct webp_lossless_cost *cost)
{
    enum { SIGNATURE_BYTES = 5, ALPHA_LOSSLESS = 1 };
    const uint8_t *name;
    struct part chunk, stream = {0};
    bool found = false;
    *cost = (struct webp_lossless_cost){0};
    for (size_t at = container->animated ? 0 : RIFF_HEADER_BYTES;
         !found && next_chunk(&container->pixels, &at, &name, &chunk);) {
        const bool pixels = !memcmp(name, "VP8L", 4);
        const size_t start = pixels ? SIGNATURE_BYTES : 1;
        found = pixels || !memcmp(name, "VP8 ", 4);
        if (!pixels && memcmp(name, "ALPH", 4) != 0) continue;
        const bool lossless = chunk.size_bytes > start && (pixels || (*chunk.data & 3) == ALPHA_LOSSLESS);
        stream = lossless ? (struct part){chunk.data + start, chunk.size_bytes - start} : (struct part){0};
    }
    if (!found) return image_fail(source, "bad WebP: its header means nothing");
    if (!stream.data ||
        webp_lossless_cost(stream.data, stream.size_bytes, features->width, features->height, cost))
        return EFFNET_OK;
    return image_fail(source, "bad WebP: its pixels are damaged or do not all come");
}

/* Lossless pixels and lossless alpha take four bytes each within libwebp, alpha one more; the frame comes out
 * with three or four. */
static int check_cost(const struct image_source *source, const struct container *container,
                      const WebPBitstreamFeatures *features)
{
    enum { LOSSLESS = 2 };
    struct webp_lossless_cost cost;
    EFFNET_TRY(read_lossless(source, container, features, &cost));
    int64_t pixels = (int64_t)features->width * features->height,
            canvas = container->width * container->height;
    bool whole = pixels == canvas;
    int64_t inside = features->format == LOSSLESS ? 4 : cost.groups ? 5 : container->alpha ? 2 : 0;
    int64_t frame = whole && !container->alpha ? 0 : pixels * (container->alpha ? 4 : 3);
    int64_t bytes = (int64_t)source->size_bytes + pixels * inside + cost.groups * GROUP_BYTES +
                    4 * cost.small_pixels + frame + 3 * canvas;
    if (bytes > IMAGE_DECODING_BYTES)
        return image_fail(source,
                          "too large, this WebP of %lld x %lld takes %lld MB to decode; the limit is %lld",
                          (long long)container->width, (long long)container->height,
                          (long long)bytes / 1000000, (long long)IMAGE_DECODING_BYTES / 1000000);
    if (cost.groups <= GROUPS_IN_CACHE || cost.changes <= MAX_CHANGES) return EFFNET_OK;
    return image_fail(source,
                      "too complex, this WebP of %lld groups of codes changes %lld times from one to "
                      "another; the limit is %d",
                      (long long)cost.groups, (long long)cost.changes, MAX_CHANGES);
}

/* The frame, [height][width][4] with alpha, else [height][width][3]. */
static int decode_frame(const struct image_source *source, const struct container *container,
                        const WebPBitstreamFeatures *features, uint8_t *frame)
{
    const size_t channels = container->alpha ? 4 : 3, width = (size_t)features->width;
    const size_t size_bytes = width * (size_t)features->height * channels;
    const struct part *pixels = &container->pixels;
    const int stride = (int)(width * channels);
    uint8_t *done = container->alpha
                        ? webp.WebPDecodeRGBAInto(pixels->data, pixels->size_bytes, frame, size_bytes, stride)
                        : webp.WebPDecodeRGBInto(pixels->data, pixels->size_bytes, frame, size_bytes, stride);
    if (!done) return image_fail(source, "bad WebP: its pixels are damaged or do not all come");
    IMAGE_WRITTEN(frame, size_bytes);
    return EFFNET_OK;
}

/* Puts the frame, in RGB8, on its canvas, which shows the background, or black, around it. */
static void place_frame(const struct image_source *source, const struct container *container,
                        const struct effnet_image *frame, struct effnet_image *canvas,
                        struct image_facts *facts)
{
    const bool shows = container->alpha && source->background;
    const bool whole = frame->width == canvas->width && frame->height == canvas->height;
    for (size_t i = 0; !whole && i < (size_t)canvas->width * (size_t)canvas->height; i++)
        memcpy(canvas->rgb + 3 * i, shows ? source->background : (const uint8_t[3]){0}, 3);
    for (int64_t y = 0; y < frame->height; y++)
        memcpy(canvas->rgb + ((container->top + y) * container->width + container->left) * 3,
               frame->rgb + y * frame->width * 3, (size_t)frame->width * 3);
    if (container->alpha && !whole) image_note_alpha(facts, 0);
}

/* Into the canvas. A frame that is all of it and has no alpha needs no memory of its own. */
static int decode_canvas(const struct image_source *source, const struct container *container,
                         const WebPBitstreamFeatures *features, struct effnet_image *canvas,
                         struct image_facts *facts)
{
    const size_t pixels = (size_t)features->width * (size_t)features->height;
    const size_t size_bytes = pixels * (container->alpha ? 4 : 3);
    EFFNET_TRY(image_alloc(source, container->width, container->height, canvas));
    if (!container->alpha && features->width == canvas->width && features->height == canvas->height)
        return decode_frame(source, container, features, canvas->rgb);
    struct effnet_image frame = {features->width, features->height, malloc(size_bytes), false};
    if (!frame.rgb) return effnet_fail_nomem(source->error, source->name, size_bytes);
    const int status = decode_frame(source, container, features, frame.rgb);
    if (!status) {
        if (container->alpha) image_put_rgba(source, facts, frame.rgb, pixels, frame.rgb);
        place_frame(source, container, &frame, canvas, facts);
    }
    free(frame.rgb);
    return status;
}

static int decode(const struct image_source *source, struct effnet_image *out, struct image_facts *facts)
{
    struct container container = {0};
    WebPBitstreamFeatures features;
    EFFNET_TRY(image_library_load(&library, source));
    EFFNET_TRY(read_container(source, &container));
    EFFNET_TRY(read_features(source, &container, &features));
    EFFNET_TRY(check_cost(source, &container, &features));
    if (container.exif.data)
        facts->orientation = image_exif_orientation(container.exif.data, container.exif.size_bytes);
    if (!facts->orientation && container.xmp.data)
        facts->orientation = image_xmp_orientation(container.xmp.data, container.xmp.size_bytes);
    return decode_canvas(source, &container, &features, out, facts);
}

static int extent(const struct image_source *start, uint64_t *extent_bytes)
{
    struct container container = {0};
    EFFNET_TRY(image_library_load(&library, start));
    *extent_bytes = riff_bytes(start);
    return read_header(start, &container);
}

const struct image_format image_format_webp = {"WebP", matches, decode, extent};

#else

static int decode(const struct image_source *source, struct effnet_image *out, struct image_facts *facts)
{
    (void)out;
    (void)facts;
    return image_fail_left_out(source, "a WebP image", "libwebp");
}

static int extent(const struct image_source *start, uint64_t *extent_bytes)
{
    (void)extent_bytes;
    return decode(start, NULL, NULL);
}

const struct image_format image_format_webp = {"WebP", matches, decode, extent};

#endif
