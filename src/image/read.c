/* Reads the bytes of an image file: no more than its header admits, however long it is. */
#include "image/read.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/error.h"
#include "image/formats/formats.h"

/* Enough of a file to recognise it by, and what is read first. */
enum { FIRST_READ_BYTES = 64 << 10 };

/* Reads until there are `wanted` bytes, or to the file's end, in a buffer that doubles: no size that the file
 * tells is trusted. *source is given the bytes. */
static int read_bytes(int fd, struct image_source *source, size_t wanted, struct image_buffer *bytes,
                      bool *ended)
{
    size_t size = source->size_bytes;
    *ended = false;
    while (size < wanted && !*ended) {
        if (size == bytes->capacity) {
            size_t capacity = bytes->capacity ? bytes->capacity * 2 : FIRST_READ_BYTES;
            if (capacity > wanted) capacity = wanted;
            uint8_t *data = realloc(bytes->data, capacity);
            if (!data) return effnet_fail_nomem(source->error, source->name, capacity);
            *bytes = (struct image_buffer){data, capacity};
        }
        size_t room = (bytes->capacity < wanted ? bytes->capacity : wanted) - size;
        ssize_t got = read(fd, bytes->data + size, room);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0)
            return effnet_fail(source->error, EFFNET_E_NOINPUT, "%s: %s", source->name, strerror(errno));
        *ended = got == 0;
        size += (size_t)got;
    }
    source->data = bytes->data;
    source->size_bytes = size;
    return EFFNET_OK;
}

/* The most bytes of a file that are read, and its own decoded bytes beside them stay below 1.2 GB at the
 * default limit: a larger file is an image that nobody has compressed, or none. */
static uint64_t size_limit(int64_t max_pixels)
{
    return IMAGE_METADATA_BYTES + 3 * (uint64_t)max_pixels;
}

static int read_wanted(int fd, struct image_source *source, struct image_buffer *bytes)
{
    bool ended;
    EFFNET_TRY(read_bytes(fd, source, FIRST_READ_BYTES, bytes, &ended));
    if (ended) return EFFNET_OK;
    const struct image_format *format = image_find_format(source->data, source->size_bytes);
    if (!format) return EFFNET_OK; /* there is no need to know more of it */
    uint64_t limit = size_limit(source->max_pixels), extent = UINT64_MAX;
    if (format->extent) EFFNET_TRY(format->extent(source, &extent));
    EFFNET_TRY(read_bytes(fd, source, extent < limit ? extent : limit, bytes, &ended));
    source->more = !ended;
    return EFFNET_OK;
}

/* Gives back what an earlier, larger file took. */
static void shrink(struct image_buffer *bytes, struct image_source *source)
{
    size_t kept = source->size_bytes > FIRST_READ_BYTES ? source->size_bytes : FIRST_READ_BYTES;
    if (bytes->capacity <= IMAGE_KEPT_BYTES || kept >= bytes->capacity / 4) return;
    uint8_t *data = realloc(bytes->data, kept);
    if (!data) return;
    *bytes = (struct image_buffer){data, kept};
    source->data = data;
}

int image_read_file(const char *path, struct image_source *source, struct image_buffer *bytes)
{
    bool standard_input = strcmp(path, "-") == 0;
    int fd = standard_input ? STDIN_FILENO : open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return effnet_fail(source->error, EFFNET_E_NOINPUT, "%s: %s", source->name, strerror(errno));
    int status = read_wanted(fd, source, bytes);
    if (!standard_input) close(fd);
    shrink(bytes, source);
    return status;
}
