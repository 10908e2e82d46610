/* Applies an EXIF orientation to pixels and to windows. */
#include "image/image.h"

#include <string.h>

#include "common/error.h"

/* Pixels are moved tile by tile: a transpose goes down columns, and a tile of both sides fits the
 * first-level cache. */
enum { TILE = 32 };

/* Where the upright image's pixel (0, 0) is in the stored one, and how far apart there its neighbours to
 * the right and below are. In pixels. */
struct strides {
    ptrdiff_t origin, step_x, step_y;
    int width, height; /* of the upright image */
};

/* The stored image's row 0 and column 0 lie, in the upright image (Exif 2.3, 4.6.4 A, tag 274):
 * 1 top left, 2 top right, 3 bottom right, 4 bottom left, 5 left top, 6 right top, 7 right bottom,
 * 8 left bottom. */
static struct strides strides_for(int orientation, int width, int height)
{
    ptrdiff_t w = width, right = width - 1, bottom = (ptrdiff_t)(height - 1) * width;
    switch (orientation) {
    case 2: return (struct strides){right, -1, w, width, height};
    case 3: return (struct strides){bottom + right, -1, -w, width, height};
    case 4: return (struct strides){bottom, 1, -w, width, height};
    case 5: return (struct strides){0, w, 1, height, width};
    case 6: return (struct strides){bottom, -w, 1, height, width};
    case 7: return (struct strides){bottom + right, -w, -1, height, width};
    case 8: return (struct strides){right, w, -1, height, width};
    default: return (struct strides){0, 1, w, width, height};
    }
}

static void copy_tile(const uint8_t *from, uint8_t *to, const struct strides *strides, int x0, int y0)
{
    int x1 = x0 + TILE < strides->width ? x0 + TILE : strides->width;
    int y1 = y0 + TILE < strides->height ? y0 + TILE : strides->height;
    for (int y = y0; y < y1; y++) {
        uint8_t *out = to + ((ptrdiff_t)y * strides->width + x0) * 3;
        const uint8_t *in = from + (strides->origin + y * strides->step_y + x0 * strides->step_x) * 3;
        for (int x = x0; x < x1; x++, out += 3, in += strides->step_x * 3) memcpy(out, in, 3);
    }
}

struct image_window image_orient_window(struct image_window window, int width, int height, int orientation)
{
    struct image_window turned = window;
    if (orientation == 2 || orientation == 3 || orientation == 7 || orientation == 8) {
        turned.left = width - window.right;
        turned.right = width - window.left;
    }
    if (orientation == 3 || orientation == 4 || orientation == 6 || orientation == 7) {
        turned.top = height - window.bottom;
        turned.bottom = height - window.top;
    }
    if (orientation >= 5 && orientation <= 8)
        turned = (struct image_window){turned.top, turned.left, turned.bottom, turned.right};
    return turned;
}

int image_orient(struct effnet_image *image, int orientation, struct image_buffer *turned, const char *name,
                 struct effnet_error *error)
{
    if (orientation < 2 || orientation > 8) return EFFNET_OK;
    size_t size_bytes = (size_t)image->width * (size_t)image->height * 3;
    if (!image_buffer_reserve(turned, size_bytes)) return effnet_fail_nomem(error, name, size_bytes);
    struct strides strides = strides_for(orientation, image->width, image->height);
    for (int y = 0; y < strides.height; y += TILE)
        for (int x = 0; x < strides.width; x += TILE) copy_tile(image->rgb, turned->data, &strides, x, y);
    image->width = strides.width;
    image->height = strides.height;
    image->rgb = turned->data;
    return EFFNET_OK;
}
