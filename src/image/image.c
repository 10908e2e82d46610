/* From a path or a block of memory to RGB8: reads, asks the formats' table for the decoder and calls it.
 * And what the decoders share: limits, allocation, messages. */
#include "image/image.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/error.h"
#include "image/formats/formats.h"

/* Enough of a file to recognise it by, and what is read first. */
enum { FIRST_READ_BYTES = 64 << 10 };

/* No image within the pixel limit needs more bytes than 8 a pixel (uncompressed 16-bit RGBA) and this
 * much for metadata. It is what stops an endless stream. */
enum { METADATA_BYTES = 64 << 20 };

static const struct effnet_image_options default_options = {.max_pixels = EFFNET_MAX_PIXELS_DEFAULT};

int image_check_size(const struct image_source *source, int64_t width, int64_t height,
                     struct effnet_error *error)
{
    if (width < 1 || height < 1)
        return effnet_fail(error, EFFNET_E_DATA, "%s: bad size, %lld x %lld", source->name, (long long)width,
                           (long long)height);
    if (width > IMAGE_MAX_SIDE || height > IMAGE_MAX_SIDE)
        return effnet_fail(error, EFFNET_E_DATA, "%s: too large, %lld x %lld; the longest side allowed is %d",
                           source->name, (long long)width, (long long)height, IMAGE_MAX_SIDE);
    if (width * height > source->max_pixels)
        return effnet_fail(error, EFFNET_E_DATA,
                           "%s: too large, %lld x %lld is more than the limit of %lld pixels", source->name,
                           (long long)width, (long long)height, (long long)source->max_pixels);
    return EFFNET_OK;
}

int image_alloc(const struct image_source *source, int64_t width, int64_t height, struct effnet_image *out,
                struct effnet_error *error)
{
    int status = image_check_size(source, width, height, error);
    if (status) return status;
    size_t size_bytes = (size_t)width * (size_t)height * 3;
    uint8_t *rgb = malloc(size_bytes);
    if (!rgb) return effnet_fail_nomem(error, source->name, size_bytes);
    *out = (struct effnet_image){.width = (int)width, .height = (int)height, .rgb = rgb};
    return EFFNET_OK;
}

int image_fail_truncated(const struct image_source *source, struct effnet_error *error)
{
    return effnet_fail(error, EFFNET_E_DATA, "%s: truncated, the file ends before the image does",
                       source->name);
}

void effnet_image_free(struct effnet_image *image)
{
    if (!image) return;
    free(image->rgb);
    *image = (struct effnet_image){0};
}

int effnet_image_decode(const void *data, size_t size_bytes, const char *name,
                        const struct effnet_image_options *options, struct effnet_image *out,
                        struct effnet_error *error)
{
    *out = (struct effnet_image){0};
    if (!options) options = &default_options;
    /* A path may be as long as the whole message; the reason must fit behind it. */
    char short_name[300];
    snprintf(short_name, sizeof short_name, "%s", name);
    if (options->max_pixels < 1)
        return effnet_fail(error, EFFNET_E_USAGE, "%s: the pixel limit is %lld, but must be at least 1",
                           short_name, (long long)options->max_pixels);
    if (size_bytes == 0) return effnet_fail(error, EFFNET_E_DATA, "%s: empty file", short_name);

    const struct image_format *format = image_format_find(data, size_bytes);
    if (!format)
        return effnet_fail(error, EFFNET_E_DATA, "%s: not a PNG, JPEG, BMP, GIF, TGA or PNM image",
                           short_name);
    struct image_source source = {data, size_bytes, short_name, options->max_pixels};
    struct image_facts facts = {0};
    int status = format->decode(&source, out, &facts, error);
    if (!status && !options->ignore_exif) status = image_orient(out, facts.orientation, short_name, error);
    if (status) effnet_image_free(out);
    return status;
}

struct bytes {
    uint8_t *data;
    size_t size, capacity;
};

/* Reads to the end in a buffer that doubles, so that no size told by anybody is trusted. A file whose
 * start is no image is not read further. */
static int read_all(int fd, const char *name, size_t limit_bytes, struct bytes *bytes,
                    struct effnet_error *error)
{
    bool recognised = false;
    for (;;) {
        if (bytes->size == bytes->capacity) {
            size_t capacity = bytes->capacity ? bytes->capacity * 2 : FIRST_READ_BYTES;
            uint8_t *data = realloc(bytes->data, capacity);
            if (!data) return effnet_fail_nomem(error, name, capacity);
            bytes->data = data;
            bytes->capacity = capacity;
        }
        ssize_t got = read(fd, bytes->data + bytes->size, bytes->capacity - bytes->size);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) return effnet_fail(error, EFFNET_E_NOINPUT, "%s: %s", name, strerror(errno));
        if (got == 0) return EFFNET_OK;
        bytes->size += (size_t)got;
        if (!recognised && bytes->size == bytes->capacity) {
            recognised = image_format_find(bytes->data, bytes->size) != NULL;
            if (!recognised) return EFFNET_OK;
        }
        if (bytes->size > limit_bytes)
            return effnet_fail(error, EFFNET_E_DATA, "%s: more than %zu bytes, too large for an image", name,
                               limit_bytes);
    }
}

int effnet_image_read(const char *path, const struct effnet_image_options *options, struct effnet_image *out,
                      struct effnet_error *error)
{
    *out = (struct effnet_image){0};
    bool standard_input = strcmp(path, "-") == 0;
    char name[300];
    snprintf(name, sizeof name, "%s", standard_input ? "standard input" : path);

    int fd = standard_input ? STDIN_FILENO : open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return effnet_fail(error, EFFNET_E_NOINPUT, "%s: %s", name, strerror(errno));

    const int64_t most_pixels = (int64_t)IMAGE_MAX_SIDE * IMAGE_MAX_SIDE;
    int64_t max_pixels = options ? options->max_pixels : default_options.max_pixels;
    if (max_pixels > most_pixels) max_pixels = most_pixels;
    size_t limit_bytes = METADATA_BYTES + (max_pixels > 0 ? (size_t)max_pixels * 8 : 0);
    struct bytes bytes = {0};
    int status = read_all(fd, name, limit_bytes, &bytes, error);
    if (!standard_input) close(fd);
    if (!status) status = effnet_image_decode(bytes.data, bytes.size, name, options, out, error);
    free(bytes.data);
    return status;
}
