/* stb_image, for JPEG in a build without libjpeg-turbo.
 *
 * stb_image reads zeros after a file's end and often succeeds with them, so it is fed through callbacks
 * that see whether it wanted more than there is: such a file is truncated, whatever came out. */
#include "image/formats/stb.h"

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

static int fail(const struct reader *reader, const char *format, struct effnet_error *error)
{
    const char *name = reader->source->name, *reason = stbi_failure_reason();
    if (reader->overrun) return image_fail_truncated(reader->source, error);
    if (!reason) reason = "no reason given";
    if (strcmp(reason, "outofmem") == 0)
        return effnet_fail(error, EFFNET_E_NOMEM, "%s: out of memory while decoding", name);
    /* Said of a header that no decoder takes, after all have been tried. */
    if (strcmp(reason, "unknown image type") == 0)
        return effnet_fail(error, EFFNET_E_DATA, "%s: not a kind of %s that is supported", name, format);
    return effnet_fail(error, EFFNET_E_DATA, "%s: bad %s: %s", name, format, reason);
}

int image_stb_decode(const struct image_source *source, const char *format, struct effnet_image *out,
                     struct effnet_error *error)
{
    int width, height, channels;
    struct reader reader = {.source = source};
    if (!stbi_info_from_callbacks(&callbacks, &reader, &width, &height, &channels))
        return fail(&reader, format, error);
    int status = image_check_size(source, width, height, error);
    if (status) return status;

    reader = (struct reader){.source = source};
    uint8_t *rgb = stbi_load_from_callbacks(&callbacks, &reader, &width, &height, &channels, 3);
    if (!rgb) return fail(&reader, format, error);
    *out = (struct effnet_image){.width = width, .height = height, .rgb = rgb};
    if (!reader.overrun) return EFFNET_OK;
    effnet_image_free(out);
    return image_fail_truncated(source, error);
}
