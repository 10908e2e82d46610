/* Leads an image through its steps. The public functions take the same way through a workspace of their own.
 */
#include "image/workspace.h"

#include <stdlib.h>
#include <string.h>

#include "common/error.h"
#include "common/file_kind.h"
#include "common/utf8.h"
#include "image/formats/formats.h"
#include "image/image.h"
#include "image/read.h"
#include "image/resize.h"

/* No more pixels than these are kept while the next file is read. */
#define MOST_KEPT_BYTES ((size_t)64 << 20)

struct image_workspace {
    struct image_buffer bytes, pixels, turned;

    /* The file that was read last. */
    char name[EFFNET_PATH_TEXT_SIZE];
    size_t size_bytes;
    bool more;

    /* Decoded last: a window, in `pixels` or `turned`, of the whole, of which `decoded` tells. rgb NULL:
     * none. */
    struct effnet_image image;
    struct image_window window;
    struct image_decoded decoded;

    struct image_fit fit;
    struct image_scratch scratch;
    const struct image_gate *gate;
};

static const struct effnet_image_options default_options = {.max_pixels = EFFNET_MAX_PIXELS_DEFAULT};

struct effnet_image_options effnet_image_defaults(void)
{
    return default_options;
}

struct image_workspace *image_workspace_open(void)
{
    return calloc(1, sizeof(struct image_workspace));
}

void image_workspace_set_gate(struct image_workspace *workspace, const struct image_gate *gate)
{
    workspace->gate = gate;
}

static void free_buffers(struct image_workspace *workspace)
{
    image_buffer_free(&workspace->bytes);
    image_buffer_free(&workspace->pixels);
    image_buffer_free(&workspace->turned);
    image_fit_free(&workspace->fit);
    image_scratch_free(&workspace->scratch);
}

void image_workspace_close(struct image_workspace *workspace)
{
    if (workspace) free_buffers(workspace);
    free(workspace);
}

static int check_options(const struct effnet_image_options *options, const char *name,
                         struct effnet_error *error)
{
    if (options->max_pixels >= 1)
        return effnet_check_reserved(options->reserved, sizeof options->reserved, name, error);
    return effnet_fail(error, EFFNET_E_USAGE, "%s: the pixel limit is %lld, but must be at least 1", name,
                       (long long)options->max_pixels);
}

static struct image_source make_source(struct image_workspace *workspace, const char *name,
                                       const struct effnet_image_options *options, struct effnet_error *error)
{
    const int64_t most_pixels = (int64_t)IMAGE_MAX_SIDE * IMAGE_MAX_SIDE; /* what both sides allow */
    return (struct image_source){.name = name,
                                 .error = error,
                                 .max_pixels = options->max_pixels < most_pixels ? options->max_pixels
                                                                                 : most_pixels,
                                 .background = options->has_background ? options->background : NULL,
                                 .pixels = &workspace->pixels,
                                 .fit = &workspace->fit,
                                 .ignore_exif = options->ignore_exif};
}

/* Before the next image: what was decoded is gone. The largest images leave no memory, which the next may
 * want for its bytes. */
static void forget_image(struct image_workspace *workspace)
{
    workspace->image = (struct effnet_image){0};
    workspace->decoded = (struct image_decoded){0};
    if (workspace->pixels.capacity > MOST_KEPT_BYTES) image_buffer_free(&workspace->pixels);
    if (workspace->turned.capacity > MOST_KEPT_BYTES) image_buffer_free(&workspace->turned);
}

int image_workspace_read(struct image_workspace *workspace, const char *path,
                         const struct effnet_image_options *options, struct effnet_error *error)
{
    if (!options) options = &default_options;
    forget_image(workspace);
    workspace->size_bytes = 0;
    workspace->more = false;
    /* A path may be as long as the whole message; the reason must fit behind it. */
    effnet_keep_end(workspace->name, sizeof workspace->name,
                    strcmp(path, "-") == 0 ? "standard input" : path);
    struct image_source source = make_source(workspace, workspace->name, options, error);
    EFFNET_TRY(check_options(options, workspace->name, error));
    EFFNET_TRY(image_read_file(path, &source, &workspace->bytes));
    workspace->size_bytes = source.size_bytes;
    workspace->more = source.more;
    return EFFNET_OK;
}

bool image_workspace_bytes(const struct image_workspace *workspace, const void **data, size_t *size_bytes)
{
    *data = workspace->bytes.data;
    *size_bytes = workspace->size_bytes;
    return !workspace->more;
}

void image_workspace_forget_file(struct image_workspace *workspace)
{
    if (workspace->bytes.capacity <= IMAGE_KEPT_BYTES) return;
    image_buffer_free(&workspace->bytes);
    workspace->size_bytes = 0;
}

void image_workspace_hand_over(struct image_workspace *from, struct image_workspace *to)
{
    const struct image_buffer bytes = to->bytes;
    memcpy(to->name, from->name, sizeof to->name);
    to->size_bytes = from->size_bytes;
    to->more = from->more;
    to->bytes = from->bytes;
    from->bytes = bytes;
    from->size_bytes = 0;
}

static bool is_blank(const struct effnet_image *image)
{
    size_t size_bytes = (size_t)image->width * (size_t)image->height * 3;
    return memcmp(image->rgb, image->rgb + 3, size_bytes - 3) == 0;
}

/* From bytes to pixels as they are stored. */
static int decode(const struct image_source *source, struct effnet_image *out, struct image_facts *facts)
{
    if (source->size_bytes == 0) return image_fail(source, "empty file");
    const struct image_format *format = image_find_format(source->data, source->size_bytes);
    if (format) {
        EFFNET_TRY(format->decode(source, out, facts));
        out->blank_without_alpha = !source->background && facts->alpha_varies && is_blank(out);
        return EFFNET_OK;
    }
    const struct file_kind kind = effnet_file_kind(source->data, source->size_bytes);
    if (kind.what && kind.group != FILE_IMAGE_READ)
        return image_fail(source, "%s, which is not read", kind.what);
    return image_fail(source, "not a PNG, JPEG, BMP, GIF, TGA, PNM, WebP, TIFF or AVIF image");
}

/* Turns the pixels, and what is said of them. Large ones want the memory that the file's bytes took. */
static int turn(struct image_workspace *workspace, struct effnet_image *image, struct image_facts *facts,
                const struct image_source *source)
{
    if (source->ignore_exif || facts->orientation < 2 || facts->orientation > 8) {
        if (workspace->turned.capacity > IMAGE_KEPT_BYTES) image_buffer_free(&workspace->turned);
        return EFFNET_OK;
    }
    image_workspace_forget_file(workspace);
    EFFNET_TRY(image_orient(image, facts->orientation, &workspace->turned, source->name, source->error));
    facts->window = image_orient_window(facts->window, facts->width, facts->height, facts->orientation);
    if (facts->orientation < 5) return EFFNET_OK;
    int width = facts->width;
    facts->width = facts->height;
    facts->height = width;
    return EFFNET_OK;
}

static int decode_and_turn(struct image_workspace *workspace, const void *data, size_t size_bytes,
                           const char *name, const struct effnet_image_options *options,
                           const struct effnet_preprocess *preprocess, struct effnet_error *error)
{
    char short_name[EFFNET_PATH_TEXT_SIZE];
    effnet_keep_end(short_name, sizeof short_name, data ? name : workspace->name);
    struct image_source source = make_source(workspace, short_name, options, error);
    EFFNET_TRY(check_options(options, short_name, error));
    source.data = data ? data : workspace->bytes.data;
    source.size_bytes = data ? size_bytes : workspace->size_bytes;
    source.more = !data && workspace->more;
    source.preprocess = preprocess;
    source.gate = workspace->gate;

    struct effnet_image image = {0};
    struct image_facts facts = {0};
    EFFNET_TRY(decode(&source, &image, &facts));
    if (facts.width == 0) {
        facts.width = image.width;
        facts.height = image.height;
        facts.window = (struct image_window){0, 0, image.width, image.height};
    }
    EFFNET_TRY(turn(workspace, &image, &facts, &source));
    workspace->image = image;
    workspace->window = facts.window;
    workspace->decoded = (struct image_decoded){facts.width, facts.height, image.blank_without_alpha};
    return EFFNET_OK;
}

int image_workspace_decode(struct image_workspace *workspace, const void *data, size_t size_bytes,
                           const char *name, const struct effnet_image_options *options,
                           const struct effnet_preprocess *preprocess, struct effnet_error *error)
{
    forget_image(workspace);
    const int status = decode_and_turn(workspace, data, size_bytes, name,
                                       options ? options : &default_options, preprocess, error);
    image_workspace_forget_file(workspace);
    return status;
}

int image_workspace_fit(struct image_workspace *workspace, const struct effnet_preprocess *preprocess,
                        uint8_t *crop, struct effnet_error *error)
{
    const struct effnet_image *image = &workspace->image;
    const struct image_window *window = &workspace->window;
    const struct image_decoded *whole = &workspace->decoded;
    struct image_fit *fit = &workspace->fit;
    if (!image->rgb) return effnet_fail(error, EFFNET_E_USAGE, "no pixels to resize");
    EFFNET_TRY(image_fit_remake(fit, whole->width, whole->height, preprocess, error));
    int column = fit->across.first - window->left, row = fit->down.first - window->top;
    if (column < 0 || row < 0 || fit->across.end > window->right || fit->down.end > window->bottom)
        return effnet_fail(error, EFFNET_E_USAGE, "the image was decoded for another crop");
    size_t stride = (size_t)image->width * 3;
    const uint8_t *in = image->rgb + (size_t)row * stride + (size_t)column * 3;
    int status = image_fit_run(fit, in, stride, &workspace->scratch, crop);
    if (workspace->scratch.size_bytes > IMAGE_KEPT_BYTES) image_scratch_free(&workspace->scratch);
    if (fit->memory.size_bytes > IMAGE_KEPT_BYTES) image_fit_free(fit);
    return status ? effnet_fail(error, status, "out of memory while resizing") : EFFNET_OK;
}

struct image_decoded image_workspace_decoded(const struct image_workspace *workspace)
{
    return workspace->decoded;
}

/* ---------------------------------------------------------------- whole images */

/* Hands the pixels to the caller of a public function. */
static int give_image(struct image_workspace *workspace, int status, struct effnet_image *out)
{
    *out = workspace->image;
    bool turned = out->rgb && out->rgb == workspace->turned.data;
    if (out->rgb) *(turned ? &workspace->turned : &workspace->pixels) = (struct image_buffer){0};
    free_buffers(workspace);
    return status;
}

int effnet_image_decode(const void *data, size_t size_bytes, const char *name,
                        const struct effnet_image_options *options, struct effnet_image *out,
                        struct effnet_error *error)
{
    struct image_workspace workspace = {0};
    /* Without a file read before, no data is an empty file as well. */
    int status = image_workspace_decode(&workspace, data ? data : "", data ? size_bytes : 0, name, options,
                                        NULL, error);
    return give_image(&workspace, status, out);
}

int effnet_image_read(const char *path, const struct effnet_image_options *options, struct effnet_image *out,
                      struct effnet_error *error)
{
    struct image_workspace workspace = {0};
    int status = image_workspace_read(&workspace, path, options, error);
    if (!status) status = image_workspace_decode(&workspace, NULL, 0, NULL, options, NULL, error);
    return give_image(&workspace, status, out);
}
