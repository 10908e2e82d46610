/* For tests in Python: the pixels that the library makes of an image, as raw bytes on standard output.
 *
 *   run_fit_image [OPTION]... decode FILE...
 *       for each file "WIDTH HEIGHT\n", or "WIDTH HEIGHT blank\n" where the image is blank without alpha,
 *       then [height][width][3]; the first that fails is the last
 *   run_fit_image [OPTION]... fit SHORT_SIDE CROP bicubic|bilinear FILE
 *       [crop][crop][3]; a SHORT_SIDE of "squash" squashes the image to the crop
 *
 * Options: --ignore-exif, --max-pixels N, --background RRGGBB.
 *
 * The exit status is 0, or minus the effnet_status, with the message on standard error. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "effnet.h"

static int usage(void)
{
    fprintf(stderr,
            "usage: run_fit_image [--ignore-exif] [--max-pixels N] [--background RRGGBB] decode FILE...\n"
            "       run_fit_image [...] fit SHORT_SIDE|squash CROP bicubic|bilinear FILE\n");
    return -EFFNET_E_USAGE;
}

static int write_bytes(const uint8_t *bytes, size_t count)
{
    return fwrite(bytes, 1, count, stdout) == count && fflush(stdout) == 0 ? EFFNET_OK : EFFNET_E_OUTPUT;
}

static int put(const struct effnet_image *image)
{
    printf("%d %d%s\n", image->width, image->height, image->blank_without_alpha ? " blank" : "");
    return write_bytes(image->rgb, (size_t)image->width * (size_t)image->height * 3);
}

static int fit(const struct effnet_image *image, char **arguments, struct effnet_error *error)
{
    struct effnet_preprocess p = {.short_side = atoi(arguments[0]), .crop = atoi(arguments[1])};
    if (strcmp(arguments[0], "squash") == 0) {
        p.resize = EFFNET_RESIZE_SQUASH;
        p.short_side = p.crop;
    }
    p.interpolation = strcmp(arguments[2], "bilinear") == 0 ? EFFNET_BILINEAR : EFFNET_BICUBIC;
    size_t size = (size_t)abs(p.crop) * (size_t)abs(p.crop) * 3;
    uint8_t *crop = malloc(size ? size : 1);
    if (!crop) return EFFNET_E_NOMEM;
    int status = effnet_image_fit(image, &p, crop, error);
    if (!status) status = write_bytes(crop, size);
    free(crop);
    return status;
}

int main(int argc, char **argv)
{
    struct effnet_image_options options = {.max_pixels = EFFNET_MAX_PIXELS_DEFAULT};
    int i = 1;
    for (; i < argc && strncmp(argv[i], "--", 2) == 0; i++) {
        if (strcmp(argv[i], "--ignore-exif") == 0)
            options.ignore_exif = true;
        else if (strcmp(argv[i], "--max-pixels") == 0 && i + 1 < argc)
            options.max_pixels = atoll(argv[++i]);
        else if (strcmp(argv[i], "--background") == 0 && i + 1 < argc)
            options.has_background = sscanf(argv[++i], "%2hhx%2hhx%2hhx", &options.background[0],
                                            &options.background[1], &options.background[2]) == 3;
        else
            return usage();
    }
    bool decode = argc - i >= 2 && strcmp(argv[i], "decode") == 0;
    if (!decode && (argc - i != 5 || strcmp(argv[i], "fit") != 0)) return usage();

    struct effnet_error error = {0};
    int status = EFFNET_OK;
    for (int file = decode ? i + 1 : argc - 1; file < argc && !status; file++) {
        struct effnet_image image;
        status = effnet_image_read(argv[file], &options, &image, &error);
        if (!status) status = decode ? put(&image) : fit(&image, argv + i + 1, &error);
        effnet_image_free(&image);
    }
    if (status) fprintf(stderr, "%s\n", error.message);
    return -status;
}
