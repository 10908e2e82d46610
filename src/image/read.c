/* From a path or a block of memory to RGB8: reads, asks the formats' table for the decoder and calls it. */
#include "image/image.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/error.h"
#include "common/file_kind.h"
#include "common/utf8.h"
#include "image/formats/formats.h"

/* Enough of a file to recognise it by, and what is read first. */
enum { FIRST_READ_BYTES = 64 << 10 };

static const struct effnet_image_options default_options = {.max_pixels = EFFNET_MAX_PIXELS_DEFAULT};

struct effnet_image_options effnet_image_defaults(void)
{
    return default_options;
}

/* NULL if it is none of ours. TGA has no signature: it takes only what nothing else claims. */
static const struct image_format *find_format(const struct image_source *source)
{
    static const struct image_format *const formats[] = {
        &image_format_png, &image_format_jpeg, &image_format_bmp,
        &image_format_gif, &image_format_pnm,  &image_format_tga,
    };
    for (size_t i = 0; i < sizeof formats / sizeof formats[0]; i++)
        if (formats[i]->matches(source->data, source->size_bytes)) return formats[i];
    return NULL;
}

static bool is_blank(const struct effnet_image *image)
{
    size_t size_bytes = (size_t)image->width * (size_t)image->height * 3;
    return memcmp(image->rgb, image->rgb + 3, size_bytes - 3) == 0;
}

static int check_options(const struct effnet_image_options *options, const char *name,
                         struct effnet_error *error)
{
    if (options->max_pixels >= 1)
        return effnet_check_reserved(options->reserved, sizeof options->reserved, name, error);
    return effnet_fail(error, EFFNET_E_USAGE, "%s: the pixel limit is %lld, but must be at least 1", name,
                       (long long)options->max_pixels);
}

/* From bytes to pixels as they are stored. */
static int decode(const struct image_source *source, struct effnet_image *out, struct image_facts *facts)
{
    if (source->size_bytes == 0) return image_fail(source, "empty file");
    const struct image_format *format = find_format(source);
    if (format) {
        EFFNET_TRY(format->decode(source, out, facts));
        out->blank_without_alpha = !source->background && facts->alpha_varies && is_blank(out);
        return EFFNET_OK;
    }
    const struct file_kind kind = effnet_file_kind(source->data, source->size_bytes);
    if (kind.what && kind.group != FILE_IMAGE_READ)
        return image_fail(source, "%s, which is not read", kind.what);
    return image_fail(source, "not a PNG, JPEG, BMP, GIF, TGA or PNM image");
}

/* What follows decode, with the status of that: from pixels as they are stored to the image, or to none. */
static int finish(int status, const struct effnet_image_options *options, const struct image_source *source,
                  const struct image_facts *facts, struct effnet_image *out)
{
    if (!status && !options->ignore_exif)
        status = image_orient(out, facts->orientation, source->name, source->error);
    if (status) effnet_image_free(out);
    return status;
}

static struct image_source make_source(const struct effnet_image_options *options, const char *name,
                                       struct effnet_error *error)
{
    const int64_t most_pixels = (int64_t)IMAGE_MAX_SIDE * IMAGE_MAX_SIDE; /* what both sides allow */
    return (struct image_source){.name = name,
                                 .error = error,
                                 .max_pixels = options->max_pixels < most_pixels ? options->max_pixels
                                                                                 : most_pixels,
                                 .background = options->has_background ? options->background : NULL};
}

int effnet_image_decode(const void *data, size_t size_bytes, const char *name,
                        const struct effnet_image_options *options, struct effnet_image *out,
                        struct effnet_error *error)
{
    *out = (struct effnet_image){0};
    if (!options) options = &default_options;
    /* A path may be as long as the whole message; the reason must fit behind it. */
    char short_name[EFFNET_PATH_TEXT_SIZE];
    effnet_keep_end(short_name, sizeof short_name, name);
    EFFNET_TRY(check_options(options, short_name, error));
    struct image_source source = make_source(options, short_name, error);
    source.data = data;
    source.size_bytes = size_bytes;
    struct image_facts facts = {0};
    return finish(decode(&source, out, &facts), options, &source, &facts, out);
}

struct bytes {
    uint8_t *data;
    size_t size, capacity;
};

/* Reads until there are `wanted` bytes, or to the file's end, in a buffer that doubles: no size that the file
 * tells is trusted. *source is given the bytes. */
static int read_bytes(int fd, struct image_source *source, size_t wanted, struct bytes *bytes, bool *ended)
{
    while (bytes->size < wanted) {
        if (bytes->size == bytes->capacity) {
            size_t capacity = bytes->capacity ? bytes->capacity * 2 : FIRST_READ_BYTES;
            if (capacity > wanted) capacity = wanted;
            uint8_t *data = realloc(bytes->data, capacity);
            if (!data) return effnet_fail_nomem(source->error, source->name, capacity);
            bytes->data = data;
            bytes->capacity = capacity;
        }
        ssize_t got = read(fd, bytes->data + bytes->size, bytes->capacity - bytes->size);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0)
            return effnet_fail(source->error, EFFNET_E_NOINPUT, "%s: %s", source->name, strerror(errno));
        *ended = got == 0;
        if (*ended) break;
        bytes->size += (size_t)got;
    }
    source->data = bytes->data;
    source->size_bytes = bytes->size;
    return EFFNET_OK;
}

/* The most bytes of a file that are read, and its own decoded bytes beside them stay below 1.2 GB at the
 * default limit: a larger file is an image that nobody has compressed, or none. */
static uint64_t size_limit(int64_t max_pixels)
{
    return IMAGE_METADATA_BYTES + 3 * (uint64_t)max_pixels;
}

/* Reads as much of a file as its decoder may want, which its first bytes tell. */
static int read_file(int fd, struct image_source *source, struct bytes *bytes)
{
    bool ended = false;
    EFFNET_TRY(read_bytes(fd, source, FIRST_READ_BYTES, bytes, &ended));
    if (ended) return EFFNET_OK;
    const struct image_format *format = find_format(source);
    if (!format) return EFFNET_OK; /* there is no need to know more of it */
    uint64_t limit = size_limit(source->max_pixels), extent = UINT64_MAX;
    if (format->extent) EFFNET_TRY(format->extent(source, &extent));
    EFFNET_TRY(read_bytes(fd, source, extent < limit ? extent : limit, bytes, &ended));
    source->more = !ended;
    return EFFNET_OK;
}

int effnet_image_read(const char *path, const struct effnet_image_options *options, struct effnet_image *out,
                      struct effnet_error *error)
{
    *out = (struct effnet_image){0};
    if (!options) options = &default_options;
    bool standard_input = strcmp(path, "-") == 0;
    char name[EFFNET_PATH_TEXT_SIZE];
    effnet_keep_end(name, sizeof name, standard_input ? "standard input" : path);

    int fd = standard_input ? STDIN_FILENO : open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return effnet_fail(error, EFFNET_E_NOINPUT, "%s: %s", name, strerror(errno));

    struct bytes bytes = {0};
    struct image_source source = make_source(options, name, error);
    struct image_facts facts = {0};
    int status = check_options(options, name, error);
    if (!status) status = read_file(fd, &source, &bytes);
    if (!standard_input) close(fd);
    if (!status) status = decode(&source, out, &facts);
    free(bytes.data); /* before orientation wants memory */
    return finish(status, options, &source, &facts, out);
}
