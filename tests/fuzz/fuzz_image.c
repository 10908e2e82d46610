/* Any bytes as an image: its crop, or a line that says why there is none. Decoded as a whole from memory, and
 * from a file only as far as the crop wants, the crop is the same. */
#include "fuzz.h"
#include "image/workspace.h"
#include "mutate.h"

#include <string.h>

enum { MOST_PIXELS = 1 << 15, CROP = 24, GUARD = 64 };

static const struct effnet_preprocess kinds[] = {
    {.short_side = 27, .crop = CROP, .interpolation = EFFNET_BICUBIC},
    {.short_side = 24, .crop = CROP, .interpolation = EFFNET_BILINEAR},
    {.short_side = 60, .crop = CROP, .interpolation = EFFNET_BICUBIC},
    {.short_side = CROP, .crop = CROP, .interpolation = EFFNET_BILINEAR, .resize = EFFNET_RESIZE_SQUASH},
};

struct crop {
    int status;
    struct effnet_error error;
    struct image_decoded decoded;
    uint8_t pixels[CROP * CROP * 3 + GUARD];
};

static void check_error(const struct crop *crop)
{
    const char *message = crop->error.message;
    CHECK(crop->status == EFFNET_E_DATA && crop->error.status == crop->status);
    CHECK(strchr(message, ':') && !strchr(message, '\n'));
}

/* data NULL: the file that the workspace has read. */
static void make_crop(struct image_workspace *workspace, const void *data, size_t size,
                      const struct effnet_image_options *options, const struct effnet_preprocess *kind,
                      const struct effnet_preprocess *wanted, struct crop *crop)
{
    memset(crop->pixels, 0xa5, sizeof crop->pixels);
    if (!crop->status)
        crop->status = image_workspace_decode(workspace, data, size, "file", options, wanted, &crop->error);
    crop->decoded = image_workspace_decoded(workspace);
    if (!crop->status) crop->status = image_workspace_fit(workspace, kind, crop->pixels, &crop->error);
    if (crop->status) check_error(crop);
    for (int i = 0; i < GUARD; i++) CHECK(crop->pixels[CROP * CROP * 3 + i] == 0xa5);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct image_workspace *kept; /* as a thread of the pipeline keeps one */
    if (!kept) kept = image_workspace_open();
    struct image_workspace *fresh = image_workspace_open();
    CHECK(kept && fresh);
    if (size == 0) data = (const uint8_t *)"";
    const uint8_t flags = size ? data[--size] : 0;
    const struct effnet_preprocess *kind = &kinds[flags & 3];
    struct effnet_image_options options = effnet_image_defaults();
    options.max_pixels = MOST_PIXELS;
    options.ignore_exif = flags & 4;
    options.has_background = flags & 8;
    struct crop whole = {0}, part = {0};
    uint8_t *exact = malloc(size ? size : 1); /* so that a byte too far is seen */
    CHECK(exact);
    memcpy(exact, data, size);
    make_crop(fresh, exact, size, &options, kind, NULL, &whole);
    part.status = image_workspace_read(kept, fuzz_file(data, size), &options, &part.error);
    make_crop(kept, NULL, 0, &options, kind, kind, &part);
    free(exact);
    image_workspace_close(fresh);
    CHECK(whole.status == part.status);
    if (whole.status) return 0;
    CHECK(whole.decoded.width == part.decoded.width && whole.decoded.height == part.decoded.height);
    CHECK((int64_t)whole.decoded.width * whole.decoded.height <= MOST_PIXELS);
    CHECK(!memcmp(whole.pixels, part.pixels, sizeof whole.pixels));
    return 0;
}

/* A PNG's checksums are made right in most inputs: libpng looks no further than a wrong one. */
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t most, unsigned seed)
{
    size = LLVMFuzzerMutate(data, size, most);
    if (size > 8 && !memcmp(data, "\x89PNG", 4) && seed % 8)
        repair_png(&(struct file){data, size - 1}); /* it changes no size */
    return size;
}
