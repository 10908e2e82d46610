/* The table of image formats. */
#include "image/formats/formats.h"

#include <stddef.h>

const struct image_format *image_find_format(const uint8_t *data, size_t size_bytes)
{
    /* TGA has no signature: it takes only what nothing else claims. */
    static const struct image_format *const formats[] = {
        &image_format_png,  &image_format_jpeg, &image_format_bmp,  &image_format_gif, &image_format_pnm,
        &image_format_webp, &image_format_tiff, &image_format_avif, &image_format_tga,
    };
    for (size_t i = 0; i < sizeof formats / sizeof formats[0]; i++)
        if (formats[i]->matches(data, size_bytes)) return formats[i];
    return NULL;
}
