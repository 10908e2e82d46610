/* The image formats that are read: one file a format, each with one entry of the table in formats.c. */
#ifndef EFFNET_IMAGE_FORMATS_FORMATS_H
#define EFFNET_IMAGE_FORMATS_FORMATS_H

#include "image/image.h"

struct image_format {
    const char *name; /* "PNG" */

    /* Whether a file that begins with these bytes is of this format. Takes any number of bytes. */
    bool (*matches)(const uint8_t *data, size_t size_bytes);

    /* Makes RGB8 of a file that matches, in source->pixels. *out and *facts are zeroed before. */
    int (*decode)(const struct image_source *source, struct effnet_image *out, struct image_facts *facts);

    /* How many bytes of the file decode() may want, told by its first ones: those in `start`, which match
     * and are at least the first 64 KB where the file has as many. Fails where decode() would for what the
     * header says. NULL: the header does not tell. */
    int (*extent)(const struct image_source *start, uint64_t *extent_bytes);
};

/* The format of a file that begins with these bytes; NULL if it is none of ours. */
const struct image_format *image_find_format(const uint8_t *data, size_t size_bytes);

extern const struct image_format image_format_png, image_format_jpeg, image_format_bmp, image_format_gif,
    image_format_pnm, image_format_webp, image_format_tiff, image_format_avif, image_format_tga;

#endif
