/* For tests: decodes files and many damaged copies of them, and says what became of them.
 *
 *   run_mutate_images ROUNDS SEED FILE...
 *       "FILE: N decoded, M refused" for each, and the slowest copy's time in milliseconds
 *
 * Every pixel of what decodes is looked at, so that the memory sanitizer sees the ones that nobody wrote. The
 * exit status is 0 unless a copy gives anything but an image or a line that says why there is none. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "effnet.h"
#include "mutate.h"
#include "random.h"

enum { MAX_PIXELS = 1 << 20 };

static double now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec * 1e3 + (double)now.tv_nsec * 1e-6;
}

static struct file read_whole(const char *path)
{
    struct file file = {0};
    uint8_t block[4096];
    FILE *stream = fopen(path, "rb");
    for (size_t got; stream && (got = fread(block, 1, sizeof block, stream)) > 0;)
        file_append(&file, block, got);
    if (stream) fclose(stream);
    return file;
}

/* From a block of exactly the file's size. 1 decoded, 0 refused, -1 neither. */
static int decode(const struct file *file, const struct effnet_image_options *options)
{
    struct effnet_image image;
    struct effnet_error error = {0};
    uint8_t *exact = malloc(file->size ? file->size : 1);
    if (!exact) return -1;
    memcpy(exact, file->data, file->size);
    int status = effnet_image_decode(exact, file->size, "file", options, &image, &error);
    free(exact);
    if (status == EFFNET_E_DATA && strncmp(error.message, "file: ", 6) == 0 && !strchr(error.message, '\n'))
        return 0;
    if (status) {
        printf("status %d, %s\n", status, error.message);
        return -1;
    }
    size_t size = (size_t)image.width * (size_t)image.height * 3, white = 0;
    for (size_t i = 0; i < size; i++)
        if (image.rgb[i] == 255) white++;
    effnet_image_free(&image);
    return white <= size ? 1 : -1;
}

static int run(const char *path, int rounds, uint64_t *seed)
{
    struct file file = read_whole(path);
    if (file.size == 0) {
        printf("%s: nothing to read\n", path);
        free(file.data);
        return -1;
    }
    int counts[2] = {0}, worst = 0;
    double slowest_ms = 0;
    for (int round = 0; round <= rounds && worst >= 0; round++) {
        struct file broken = {0};
        file_append(&broken, file.data, file.size);
        for (int n = round ? random_int(seed, 1, 4) : 0; n > 0 && broken.size > 0; n--) mutate(&broken, seed);
        if (broken.size > 8 && memcmp(broken.data, "\x89PNG", 4) == 0 && round % 4) repair_png(&broken);
        struct effnet_image_options options = {.max_pixels = MAX_PIXELS, .has_background = round % 2 == 0};
        double start_ms = now_ms();
        worst = decode(&broken, &options);
        double took_ms = now_ms() - start_ms;
        if (took_ms > slowest_ms) slowest_ms = took_ms;
        if (worst >= 0) counts[worst]++;
        if (round == 0 && worst == 0) { /* there would be nothing to damage */
            printf("%s: the file itself is refused\n", path);
            worst = -1;
        }
        free(broken.data);
    }
    printf("%s: %d decoded, %d refused, %.1f ms at most\n", path, counts[1], counts[0], slowest_ms);
    free(file.data);
    return worst < 0 ? -1 : 0;
}

int main(int argc, char **argv)
{
    if (argc < 4) {
        fprintf(stderr, "usage: run_mutate_images ROUNDS SEED FILE...\n");
        return 64;
    }
    uint64_t seed = strtoull(argv[2], NULL, 0);
    int failed = 0;
    for (int i = 3; i < argc; i++)
        if (run(argv[i], atoi(argv[1]), &seed)) failed = 1;
    return failed;
}
