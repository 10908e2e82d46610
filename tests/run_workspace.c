/* For tests in Python: one workspace against the functions for whole images.
 *
 *   run_workspace SEED ROUNDS FILE...
 *
 * In each round one of the files, drawn at random, is decoded by a workspace and fitted to a preprocessing
 * that is drawn, too, now from its path and now from memory. The crop, what is told of the image, the status
 * and the message must be those of effnet_image_read and effnet_image_fit. The first difference is named on
 * standard error, and the exit status is 1. Otherwise "FITTED REFUSED\n": how many there were of both. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "effnet.h"
#include "image/image.h"
#include "image/workspace.h"
#include "random.h"

enum { MOST_CROP = 300 };

static uint8_t expected[MOST_CROP * MOST_CROP * 3], crop[MOST_CROP * MOST_CROP * 3];

static struct effnet_preprocess draw_preprocess(uint64_t *seed)
{
    static const int crops[] = {1, 7, 32, 224, 240, 300};
    struct effnet_preprocess p = {.crop = crops[random_int(seed, 0, 5)]};
    p.short_side = p.crop + (random_int(seed, 0, 2) ? random_int(seed, 0, p.crop) : 0);
    p.interpolation = random_int(seed, 0, 1) ? EFFNET_BICUBIC : EFFNET_BILINEAR;
    if (random_int(seed, 0, 4) > 0) return p;
    p.resize = EFFNET_RESIZE_SQUASH;
    p.short_side = p.crop;
    return p;
}

/* The file's bytes in a block of exactly their size, which the caller frees; NULL: they cannot be read. */
static uint8_t *load(const char *path, size_t *size_bytes)
{
    FILE *file = fopen(path, "rb");
    if (!file) return NULL;
    uint8_t *data = NULL;
    if (fseek(file, 0, SEEK_END) == 0 && ftell(file) >= 0) {
        *size_bytes = (size_t)ftell(file);
        rewind(file);
        data = malloc(*size_bytes + !*size_bytes);
        if (data && fread(data, 1, *size_bytes, file) != *size_bytes) {
            free(data);
            data = NULL;
        }
    }
    fclose(file);
    return data;
}

static int run_workspace(struct image_workspace *workspace, const char *path, bool from_memory,
                         const struct effnet_image_options *options, const struct effnet_preprocess *p,
                         struct effnet_error *error)
{
    size_t size_bytes = 0;
    uint8_t *data = from_memory ? load(path, &size_bytes) : NULL;
    int status = data ? EFFNET_OK : image_workspace_read(workspace, path, options, error);
    if (!status)
        status = image_workspace_decode(workspace, data, size_bytes, data ? path : NULL, options, p, error);
    free(data);
    if (!status) status = image_workspace_fit(workspace, p, crop, error);
    return status;
}

/* One round; 0, or 1 with the difference named. *refused: the file was. */
static int compare(struct image_workspace *workspace, const char *path, uint64_t *seed, bool *refused)
{
    const struct effnet_preprocess p = draw_preprocess(seed);
    struct effnet_image_options options = effnet_image_defaults();
    options.ignore_exif = random_int(seed, 0, 3) == 0;
    options.has_background = random_int(seed, 0, 3) == 0;
    bool from_memory = random_int(seed, 0, 1);

    struct effnet_image image;
    struct effnet_error error = {0}, error2 = {0};
    int status = effnet_image_read(path, &options, &image, &error);
    if (!status) status = effnet_image_fit(&image, &p, expected, &error);
    int status2 = run_workspace(workspace, path, from_memory, &options, &p, &error2);
    struct image_decoded decoded = image_workspace_decoded(workspace);
    size_t crop_bytes = (size_t)p.crop * (size_t)p.crop * 3;
    const char *difference = NULL;
    if (status != status2 || strcmp(error.message, error2.message) != 0)
        difference = "another error";
    else if (!status && (decoded.width != image.width || decoded.height != image.height ||
                         decoded.blank_without_alpha != image.blank_without_alpha))
        difference = "another image";
    else if (!status && memcmp(crop, expected, crop_bytes) != 0)
        difference = "other pixels";
    effnet_image_free(&image);
    *refused = status != EFFNET_OK;
    if (!difference) return 0;
    fprintf(stderr, "%s: %s; short side %d, crop %d, %s, %s\n%d %s\n%d %s\n", path, difference, p.short_side,
            p.crop, p.resize == EFFNET_RESIZE_SQUASH ? "squashed" : "cut",
            p.interpolation == EFFNET_BICUBIC ? "bicubic" : "bilinear", status, error.message, status2,
            error2.message);
    return 1;
}

int main(int argc, char **argv)
{
    if (argc < 4) return 2;
    uint64_t seed = strtoull(argv[1], NULL, 10);
    long fitted = 0, all_refused = 0;
    struct image_workspace *workspace = image_workspace_open();
    int different = workspace ? 0 : 2;
    for (long round = atol(argv[2]); round > 0 && !different; round--) {
        bool refused;
        different = compare(workspace, argv[3 + random_int(&seed, 0, argc - 4)], &seed, &refused);
        refused ? all_refused++ : fitted++;
    }
    image_workspace_close(workspace);
    if (!different) printf("%ld %ld\n", fitted, all_refused);
    return different;
}
