#include "image/formats/tiff_library.h"

#include <stdio.h>
#include <string.h>

#include "common/error.h"

struct tiff_functions tiff;

static const char *const tiff_names[] = {TIFF_FUNCTIONS(IMAGE_LIBRARY_NAME) NULL};

static struct image_library library = {.kind = "a TIFF image",
                                       .name = "libtiff",
                                       .file = "libtiff.so.6",
                                       .package = "libtiff6",
                                       .functions = &tiff,
                                       .names = tiff_names,
                                       .lock = PTHREAD_MUTEX_INITIALIZER};

int tiff_load(const struct image_source *source)
{
    return image_library_load(&library, source);
}

static tmsize_t on_read(thandle_t handle, void *to, tmsize_t wanted_bytes)
{
    IMAGE_WRITTEN(&handle, sizeof handle);
    IMAGE_WRITTEN(&to, sizeof to);
    IMAGE_WRITTEN(&wanted_bytes, sizeof wanted_bytes);
    struct tiff_stream *stream = handle;
    const uint64_t size_bytes = stream->source->size_bytes,
                   left = stream->at < size_bytes ? size_bytes - stream->at : 0;
    const uint64_t count = (uint64_t)wanted_bytes < left ? (uint64_t)wanted_bytes : left;
    memcpy(to, stream->source->data + (left ? stream->at : 0), count);
    stream->at += count;
    return (tmsize_t)count;
}

static tmsize_t on_write(thandle_t handle, void *from, tmsize_t size_bytes)
{
    (void)handle;
    (void)from;
    (void)size_bytes;
    return 0;
}

static toff_t on_seek(thandle_t handle, toff_t offset, int from)
{
    IMAGE_WRITTEN(&handle, sizeof handle);
    IMAGE_WRITTEN(&offset, sizeof offset);
    IMAGE_WRITTEN(&from, sizeof from);
    struct tiff_stream *stream = handle;
    stream->at = offset + (from == SEEK_CUR ? stream->at : from == SEEK_END ? stream->source->size_bytes : 0);
    return stream->at;
}

static int on_close(thandle_t handle)
{
    (void)handle;
    return 0;
}

static toff_t on_size(thandle_t handle)
{
    IMAGE_WRITTEN(&handle, sizeof handle);
    return ((const struct tiff_stream *)handle)->source->size_bytes;
}

/* The file is in memory. libtiff, which opens it for reading, does not write there. */
static int on_map(thandle_t handle, void **base, toff_t *size_bytes)
{
    IMAGE_WRITTEN(&handle, sizeof handle);
    IMAGE_WRITTEN(&base, sizeof base);
    IMAGE_WRITTEN(&size_bytes, sizeof size_bytes);
    const struct tiff_stream *stream = handle;
    memcpy(base, &stream->source->data, sizeof *base);
    *size_bytes = stream->source->size_bytes;
    return 1;
}

static void on_unmap(thandle_t handle, void *base, toff_t size_bytes)
{
    (void)handle;
    (void)base;
    (void)size_bytes;
}

/* 1: nobody else is to hear of it. */
static int on_error(TIFF *file, void *data, const char *module, const char *format, va_list arguments)
{
    (void)file;
    (void)module;
    IMAGE_WRITTEN(&data, sizeof data);
    IMAGE_WRITTEN(&format, sizeof format);
    IMAGE_WRITTEN_TEXT(format);
    struct tiff_stream *stream = data;
    if (!stream->reason[0]) vsnprintf(stream->reason, sizeof stream->reason, format, arguments);
    return 1;
}

static int on_warning(TIFF *file, void *data, const char *module, const char *format, va_list arguments)
{
    (void)file;
    (void)data;
    (void)module;
    (void)format;
    (void)arguments;
    return 1;
}

int tiff_open(struct tiff_stream *stream, uint64_t most_bytes, TIFF **file)
{
    TIFFOpenOptions *options = tiff.TIFFOpenOptionsAlloc();
    if (!options)
        return effnet_fail(stream->source->error, EFFNET_E_NOMEM, "%s: libtiff cannot start",
                           stream->source->name);
    tiff.TIFFOpenOptionsSetErrorHandlerExtR(options, on_error, stream);
    tiff.TIFFOpenOptionsSetWarningHandlerExtR(options, on_warning, NULL);
    tiff.TIFFOpenOptionsSetMaxSingleMemAlloc(options, (tmsize_t)most_bytes);
    /* The name is for messages; "c": strips stay as they are. */
    *file = tiff.TIFFClientOpenExt("its directory", "rc", stream, on_read, on_write, on_seek, on_close,
                                   on_size, on_map, on_unmap, options);
    tiff.TIFFOpenOptionsFree(options);
    return EFFNET_OK;
}
