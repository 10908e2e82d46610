/* TGA through stb_image: grey, true colour and palette, with and without run lengths. */
#include "image/formats/formats.h"
#include "image/formats/stb.h"

/* TGA has no signature, so every field that can be wrong is looked at; only what the decoder takes
 * passes. */
static bool matches(const uint8_t *data, size_t size_bytes)
{
    if (size_bytes < 18) return false;
    int map_type = data[1], type = data[2], map_bits = data[7], bits = data[16];
    bool sides = (data[12] | data[13]) && (data[14] | data[15]);
    bool interleaved = data[17] & 0xc0;
    if (!sides || interleaved) return false;
    if (map_type == 1)
        return (type == 1 || type == 9) && (bits == 8 || bits == 16) &&
               (map_bits == 15 || map_bits == 16 || map_bits == 24 || map_bits == 32);
    if (map_type != 0) return false;
    if (type == 2 || type == 10) return bits == 15 || bits == 16 || bits == 24 || bits == 32;
    return (type == 3 || type == 11) && (bits == 8 || bits == 16);
}

static int decode(const struct image_source *source, struct effnet_image *out, struct image_facts *facts,
                  struct effnet_error *error)
{
    (void)facts;
    int status = image_stb_decode(source, "TGA", out, error);
    if (status) return status;
    /* stb_image heeds the flag for rows from the bottom, but not the one for pixels from the right. */
    bool from_the_right = source->data[17] & 0x10;
    status = image_orient(out, from_the_right ? 2 : 1, source->name, error);
    if (status) effnet_image_free(out);
    return status;
}

const struct image_format image_format_tga = {"TGA", matches, decode};
