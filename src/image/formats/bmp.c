/* BMP through stb_image: 1, 4, 8, 16, 24 and 32 bits, without run lengths. */
#include "image/formats/formats.h"
#include "image/formats/stb.h"

static bool matches(const uint8_t *data, size_t size_bytes)
{
    return size_bytes >= 2 && data[0] == 'B' && data[1] == 'M';
}

static int decode(const struct image_source *source, struct effnet_image *out, struct image_facts *facts,
                  struct effnet_error *error)
{
    (void)facts;
    return image_stb_decode(source, "BMP", out, error);
}

const struct image_format image_format_bmp = {"BMP", matches, decode};
