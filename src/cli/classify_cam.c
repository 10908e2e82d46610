/* What --cam draws: for each image a PNG of its crop, with the map of its most probable class.
 *
 * A file of this kind is known by its first text, "Software", which also holds a hash of the image's name. So
 * a later run, or one that goes on, replaces the map of the same image, and nothing else. */
#include "cli/classify.h"
#include "cli/file.h"
#include "cli/heatmap.h"
#include "common/hash.h"

#include <errno.h>
#include <inttypes.h>
#include <png.h>
#include <search.h>
#include <setjmp.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>

#define SOFTWARE "effnet class activation map "
#define SUFFIX   ".png"

/* Of the names NAME-2.png, NAME-3.png, ... the one that an image's map has, so that a thousand images of one
 * name do not each ask the disk about all before. */
struct number {
    uint64_t key;
    int number;
};

struct cam {
    const effnet_model *model;
    const char *path; /* of the one file, or of the folder */
    bool folder;
    void *numbers;     /* tsearch's tree of struct number: what find_path knows of names that clash */
    float *activation; /* of one image */
    uint8_t *pixels;
};

/* ---------------------------------------------------------------- whose file it is */

/* A PNG's start: signature and IHDR, of which the last 17 bytes differ from file to file, then the text. */
static const char file_start[] = "\x89PNG\r\n\x1a\n\0\0\0\rIHDR",
                  file_text[] = "\0\0\0\x35tEXtSoftware\0" SOFTWARE;
enum {
    START_BYTES = sizeof file_start - 1,
    TEXT_AT = START_BYTES + 17,
    HASH_AT = TEXT_AT + sizeof file_text - 1,
    HASH_DIGITS = 16,
    KNOWN_BYTES = HASH_AT + HASH_DIGITS,
};

enum owner { NOBODY, OURS, OTHERS };

/* Whether the file's first bytes, as far as they go, are the expected ones at that place. */
static bool begins_with(const char *bytes, size_t size, size_t at, const char *expected, size_t length)
{
    return size <= at || !memcmp(bytes + at, expected, size - at < length ? size - at : length);
}

/* *image becomes the hash of the image's name, or 0 where the file is torn before that. */
static enum owner find_owner(const char *path, uint64_t *image)
{
    char bytes[KNOWN_BYTES + 1] = "";
    const char *reason;
    *image = 0;
    const ssize_t got = file_read_start(path, bytes, KNOWN_BYTES, &reason);
    if (got < 0 && errno == ENOENT) return NOBODY;
    if (got < 0 || !begins_with(bytes, (size_t)got, 0, file_start, START_BYTES) ||
        !begins_with(bytes, (size_t)got, TEXT_AT, file_text, sizeof file_text - 1))
        return OTHERS;
    if (got == KNOWN_BYTES) *image = strtoull(bytes + HASH_AT, NULL, 16);
    return OURS;
}

static uint64_t hash_name(const char *name)
{
    const uint64_t hash = hash_add(HASH_START, name, strlen(name));
    return hash ? hash : 1;
}

/* ---------------------------------------------------------------- opening */

static bool is_directory(const char *path)
{
    struct stat status;
    return !stat(path, &status) && S_ISDIR(status.st_mode);
}

static int make_folder(const char *path)
{
    const int reason = mkdir(path, 0777) ? errno : 0;
    if (!reason || (reason == EEXIST && is_directory(path))) return EFFNET_OK;
    return cli_fail(EFFNET_E_OUTPUT, "%s: %s", path,
                    reason == EEXIST ? "is no folder, and no .png by its name" : strerror(reason));
}

int cam_open(struct cam **out, const struct classify_options *options, const effnet_model *model)
{
    const struct effnet_model_info *info = effnet_model_get_info(model);
    struct effnet_error error;
    uint64_t image;
    *out = NULL;
    if (effnet_class_activation(model, 0, NULL, NULL, &error)) return cli_fail_library(&error);
    struct cam *cam = calloc(1, sizeof *cam);
    if (cam) {
        *cam = (struct cam){.model = model, .path = options->cam, .folder = cam_is_folder(options->cam)};
        cam->activation = malloc((size_t)info->feature_height * (size_t)info->feature_width *
                                 sizeof *cam->activation);
        cam->pixels = malloc((size_t)info->height * (size_t)info->width * 3);
    }
    int status = EFFNET_OK;
    if (!cam || !cam->activation || !cam->pixels)
        status = cli_fail_nomem("a class activation map");
    else if (!cam->folder && find_owner(cam->path, &image) == OTHERS)
        status = cli_fail(EFFNET_E_OUTPUT, "%s: is no map that effnet drew, and not overwritten", cam->path);
    else
        status = cam->folder ? make_folder(cam->path) : output_check_place(cam->path);
    if (status)
        cam_close(cam);
    else
        *out = cam;
    return status;
}

static int compare_keys(const void *a, const void *b)
{
    const uint64_t first = ((const struct number *)a)->key, second = ((const struct number *)b)->key;
    return (first > second) - (first < second);
}

/* tdestroy is not in every C library. */
static void forget_numbers(struct cam *cam)
{
    while (cam->numbers) {
        struct number *number = *(struct number **)cam->numbers;
        tdelete(number, &cam->numbers, compare_keys);
        free(number);
    }
}

void cam_close(struct cam *cam)
{
    if (!cam) return;
    forget_numbers(cam);
    free(cam->activation);
    free(cam->pixels);
    free(cam);
}

bool cam_is_folder(const char *path)
{
    const size_t length = strlen(path), suffix = strlen(SUFFIX);
    return is_directory(path) || length <= suffix || strcasecmp(path + length - suffix, SUFFIX) != 0;
}

/* ---------------------------------------------------------------- names */

enum { NAME_MOST = 200 }; /* bytes that leave room for a number and endings */

/* How much of an image's name its map has: no folder, no ending. */
static int base_length(const char *base)
{
    const char *dot = strrchr(base, '.');
    size_t length = dot && dot > base ? (size_t)(dot - base) : strlen(base);
    if (length > NAME_MOST)
        for (length = NAME_MOST; length && ((unsigned char)base[length] & 0xc0) == 0x80;)
            length--; /* UTF-8 */
    return (int)length;
}

/* Of the image with this hash, or with 0: the last number whose owner is known. 0: none yet. */
static int *number_of(struct cam *cam, uint64_t base, uint64_t image)
{
    struct number *added = calloc(1, sizeof *added), **found;
    if (!added) return NULL;
    added->key = hash_add(base, &image, sizeof image);
    found = tsearch(added, &cam->numbers, compare_keys);
    if (!found || *found != added) free(added);
    return found ? &(*found)->number : NULL;
}

/* Keeps whose map it is that has the number. Returns false without memory. */
static bool keep_number(struct cam *cam, uint64_t base, uint64_t image, int number)
{
    int *last = number_of(cam, base, 0), *its = image ? number_of(cam, base, image) : last;
    if (!last || !its) return false;
    if (number > *last) *last = number;
    *its = number;
    return true;
}

/* The map's path, which the caller frees: the first of NAME.png, NAME-2.png, ... that is nobody's, or that is
 * this image's of an earlier run. NULL without memory. */
static char *find_path(struct cam *cam, const char *image)
{
    if (!cam->folder) return strdup(cam->path);
    const char *slash = strrchr(image, '/');
    const char *base = !strcmp(image, "-") ? "stdin" : slash ? slash + 1 : image;
    const uint64_t hash = hash_name(image), base_hash = hash_add(HASH_START, base, (size_t)base_length(base));
    for (int number = 1;;) {
        char *path, digits[16] = "";
        uint64_t known;
        if (number > 1) snprintf(digits, sizeof digits, "-%d", number);
        if (asprintf(&path, "%s/%.*s%s" SUFFIX, cam->path, base_length(base), base, digits) < 0) return NULL;
        const enum owner owner = find_owner(path, &known);
        const bool its = owner == NOBODY || (owner == OURS && known == hash);
        if (number == 1 && its) return path; /* as nearly always: then nothing is kept */
        const bool kept = keep_number(cam, base_hash, its ? hash : known, number);
        if (its && kept) return path;
        free(path);
        const int *mine = kept ? number_of(cam, base_hash, hash) : NULL;
        const int *last = mine ? number_of(cam, base_hash, 0) : NULL;
        if (!last) return NULL;
        number = *mine > number ? *mine : *last + 1;
    }
}

/* ---------------------------------------------------------------- files */

static void ignore_message(png_structp png, png_const_charp message)
{
    (void)png, (void)message;
}

static void leave(png_structp png, png_const_charp message)
{
    (void)message;
    longjmp(png_jmpbuf(png), 1);
}

/* Between the two structs' creation and their end; libpng leaves through longjmp. */
static bool write_chunks(png_structp png, png_infop info, FILE *file, const uint8_t *rgb, int side,
                         png_text *software)
{
    if (setjmp(png_jmpbuf(png))) return false;
    png_init_io(png, file);
    png_set_IHDR(png, info, (png_uint_32)side, (png_uint_32)side, 8, PNG_COLOR_TYPE_RGB, PNG_INTERLACE_NONE,
                 PNG_COMPRESSION_TYPE_DEFAULT, PNG_FILTER_TYPE_DEFAULT);
    png_set_compression_level(png, 3); /* a tenth larger than by default, in two thirds of the time */
    png_set_text(png, info, software, 1);
    png_write_info(png, info);
    for (int y = 0; y < side; y++) png_write_row(png, rgb + (size_t)y * (size_t)side * 3);
    png_write_end(png, NULL);
    return true;
}

static int write_png(struct output *output, const uint8_t *rgb, int side, uint64_t image)
{
    char key[] = "Software", value[sizeof SOFTWARE + HASH_DIGITS];
    png_text software = {.compression = PNG_TEXT_COMPRESSION_NONE, .key = key, .text = value};
    snprintf(value, sizeof value, SOFTWARE "%016" PRIx64, image);
    png_structp png = png_create_write_struct(PNG_LIBPNG_VER_STRING, NULL, leave, ignore_message);
    png_infop info = png ? png_create_info_struct(png) : NULL;
    const bool written = info && write_chunks(png, info, output->file, rgb, side, &software);
    int status = output_check(output);
    if (!status && !written) status = cli_fail_nomem("a class activation map");
    png_destroy_write_struct(&png, &info);
    return status;
}

/* Its partial file has a name that no other output's has. */
static int write_file(const char *path, const uint8_t *rgb, int side, uint64_t image)
{
    struct output output;
    uint64_t known;
    EFFNET_TRY(output_name(&output, path));
    free(output.partial);
    output.hasty = true;
    int status = EFFNET_OK;
    if (!output.final || asprintf(&output.partial, "%s.cam.partial", output.final) < 0) {
        output.partial = NULL;
        status = cli_fail_nomem("an output's name");
    }
    if (!status) status = output_open(&output, find_owner(output.partial, &known) == OURS, 0);
    if (!status) status = write_png(&output, rgb, side, image);
    return output_end(&output, status);
}

int cam_draw(struct cam *cam, const struct effnet_result *result, int class_index)
{
    const struct effnet_model_info *info = effnet_model_get_info(cam->model);
    struct effnet_error error;
    if (effnet_class_activation(cam->model, class_index, result->features, cam->activation, &error))
        return cli_fail_library(&error);
    memcpy(cam->pixels, result->crop, (size_t)info->height * (size_t)info->width * 3);
    heatmap_draw(cam->activation, info->feature_height, info->feature_width, cam->pixels, info->width);
    char *path = find_path(cam, result->name);
    const int status = path ? write_file(path, cam->pixels, info->width, hash_name(result->name))
                            : cli_fail_nomem("a class activation map's name");
    free(path);
    return status;
}
