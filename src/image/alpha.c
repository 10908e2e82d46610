/* What becomes of alpha: dropped, as Pillow's convert("RGB") does, or laid over a background. */
#include "image/image.h"

void image_note_alpha(struct image_facts *facts, uint8_t alpha)
{
    if (!facts->alpha_seen) facts->first_alpha = alpha;
    facts->alpha_seen = true;
    if (alpha != facts->first_alpha) facts->alpha_varies = true;
}

/* (colour * alpha + below * (255 - alpha)) / 255, rounded to the nearest: the same number as Pillow's
 * alpha_composite over an opaque image, and as its paste with a mask. */
static uint8_t blend(uint8_t colour, uint8_t below, uint8_t alpha)
{
    return (uint8_t)((colour * alpha + below * (255 - alpha) + 127) / 255);
}

void image_put_rgba(const struct image_source *source, struct image_facts *facts, const uint8_t *rgba,
                    size_t pixels, uint8_t *rgb)
{
    const uint8_t *background = source->background;
    for (size_t i = 0; i < pixels; i++, rgba += 4, rgb += 3) {
        uint8_t alpha = rgba[3];
        image_note_alpha(facts, alpha);
        for (int c = 0; c < 3; c++) rgb[c] = background ? blend(rgba[c], background[c], alpha) : rgba[c];
    }
}
