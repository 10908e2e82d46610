/* Which part of an image the crop needs, so that decoders need not make the rest. */
#include "common/error.h"
#include "image/image.h"
#include "image/resize.h"

int image_find_window(const struct image_source *source, int width, int height, int orientation,
                      struct image_window *window)
{
    *window = (struct image_window){0, 0, width, height};
    if (!source->preprocess) return EFFNET_OK;
    if (source->ignore_exif) orientation = 1;
    bool lying = orientation >= 5 && orientation <= 8;
    int upright_width = lying ? height : width, upright_height = lying ? width : height;
    struct image_fit *fit = source->fit;
    EFFNET_TRY(image_fit_remake(fit, upright_width, upright_height, source->preprocess, source->error));
    struct image_window upright = {fit->across.first, fit->down.first, fit->across.end, fit->down.end};
    /* The way back: a quarter turn the other way, and all else undoes itself. */
    int back = orientation == 6 ? 8 : orientation == 8 ? 6 : orientation;
    *window = image_orient_window(upright, upright_width, upright_height, back);
    return EFFNET_OK;
}
