/* backend/cuda/decode against effnet_image_decode and effnet_image_fit: nvJPEG rounds here and there
 * otherwise than libjpeg, the resize is exact. Then batches of any mix, damaged JPEGs beside good ones, and
 * memory.
 * `--small`: few and small images, for compute-sanitizer. `--bench FILE...`: times JPEG files instead. */
#include "small.h"

#ifdef EFFNET_HAVE_JPEG

#include "backend/cuda/decode.h"
#include "image/plain_jpeg.h"

#include <time.h>

#include "jpegs.h"

enum { MOST = 256, MAX_DIFFERENCE = 2 };
static const double MOST_MEAN = 0.05;
static const struct effnet_preprocess USUAL = {.short_side = 272, .crop = 240};
enum { CROP_BYTES = 240 * 240 * 3 };

static void reference_crop(const struct jpeg *jpeg, uint8_t *crop)
{
    struct effnet_image image;
    struct effnet_error error;
    if (effnet_image_decode(jpeg->data, jpeg->size, jpeg->name, NULL, &image, &error) ||
        effnet_image_fit(&image, &USUAL, crop, &error)) {
        fprintf(stderr, "%s\n", error.message);
        exit(1);
    }
    effnet_image_free(&image);
}

/* n JPEGs, all accepted -> crops on the host, with the places behind the last one untouched. */
static bool decode(struct cuda_decoder *decoder, const struct jpeg *jpegs, int n, uint8_t *crops)
{
    struct backend_jpeg accepted[MOST];
    struct effnet_error error = {0};
    struct guarded device = guarded_alloc((size_t)n * CROP_BYTES);
    for (int i = 0; i < n; i++) {
        const bool good = cuda_decoder_accepts(decoder, jpegs[i].data, jpegs[i].size, &accepted[i]);
        expect(good, "%s is not accepted", jpegs[i].name);
        if (!good) return false;
    }
    const int status = cuda_decoder_run(decoder, accepted, n, device.data, 0, &error);
    expect(status == EFFNET_OK, "%s and %d more: %s", jpegs[0].name, n - 1, error.message);
    CUDA_OK(cudaDeviceSynchronize());
    CUDA_OK(cudaMemcpy(crops, device.data, (size_t)n * CROP_BYTES, cudaMemcpyDeviceToHost));
    expect(guarded_intact(&device), "written beyond the crops of %d", n);
    guarded_free(&device);
    return status == EFFNET_OK;
}

struct difference {
    int largest;
    double sum, bytes;
};

static void compare(const struct jpeg *jpeg, const uint8_t *crop, struct difference *all)
{
    uint8_t *want = checked_malloc(CROP_BYTES);
    struct difference d = {.bytes = CROP_BYTES};
    reference_crop(jpeg, want);
    for (int i = 0; i < CROP_BYTES; i++) {
        const int difference = abs(want[i] - crop[i]);
        d.sum += difference;
        if (difference > d.largest) d.largest = difference;
    }
    expect(d.largest <= MAX_DIFFERENCE && d.sum / d.bytes <= MOST_MEAN,
           "%s: mean difference %.4f, largest %d", jpeg->name, d.sum / d.bytes, d.largest);
    if (d.largest > all->largest) all->largest = d.largest;
    all->sum += d.sum;
    all->bytes += d.bytes;
    free(want);
}

/* Every sampling in every size, in batches of all sorts. */
static void check_pixels(struct cuda_decoder *decoder, bool small, uint64_t *state)
{
    static const int sizes[][2] = {{1, 1},     {7, 9},     {16, 16},   {33, 31},   {64, 600},   {240, 240},
                                   {300, 200}, {500, 375}, {375, 500}, {499, 373}, {1200, 1601}};
    static const int samplings[][2] = {{0, 0}, {1, 1}, {2, 1}, {1, 2}, {2, 2}};
    struct jpeg jpegs[MOST];
    int n = 0;
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes - (small ? 4 : 0); i++)
        for (size_t j = 0; j < sizeof samplings / sizeof *samplings; j++)
            jpegs[n++] = make_jpeg(sizes[i][0], sizes[i][1], samplings[j][0], samplings[j][1],
                                   random_int(state, 30, 97), state);
    uint8_t *crops = checked_malloc((size_t)n * CROP_BYTES), *again = checked_malloc((size_t)n * CROP_BYTES);
    struct difference all = {0};
    if (decode(decoder, jpegs, n, crops))
        for (int i = 0; i < n; i++) compare(&jpegs[i], crops + (size_t)i * CROP_BYTES, &all);
    printf("%d JPEGs, mean difference %.5f, largest %d\n", n, all.sum / all.bytes, all.largest);
    for (int first = 0, count; first < n; first += count) { /* in other company, the same bits */
        count = random_int(state, 1, 9);
        if (count > n - first) count = n - first;
        if (!decode(decoder, jpegs + first, count, again)) continue;
        expect(!memcmp(again, crops + (size_t)first * CROP_BYTES, (size_t)count * CROP_BYTES),
               "%d from %s on: other bits than in the whole batch", count, jpegs[first].name);
    }
    for (int i = 0; i < n; i++) free(jpegs[i].data);
    free(crops), free(again);
}

/* Damaged codes draw something; the JPEGs beside them are as they are alone. */
static void check_damage(struct cuda_decoder *decoder, int rounds, uint64_t *state)
{
    struct jpeg good = make_jpeg(500, 375, 2, 2, 90, state), batch[9];
    uint8_t *alone = checked_malloc(CROP_BYTES), *crops = checked_malloc(9 * CROP_BYTES);
    int damaged = 0;
    decode(decoder, &good, 1, alone);
    for (int round = 0; round < rounds; round++) {
        struct backend_jpeg jpeg;
        int n = 0;
        batch[n++] = good;
        for (int i = 0; i < 7; i++) {
            struct jpeg bad = good;
            snprintf(bad.name, sizeof bad.name, "damaged");
            bad.data = checked_malloc(good.size);
            memcpy(bad.data, good.data, good.size);
            for (int flips = random_int(state, 1, 30); flips > 0; flips--)
                bad.data[random_int(state, (int)good.size / 8, (int)good.size - 3)] = (uint8_t)random_next(
                    state);
            if (i == 0) memset(bad.data + good.size / 2, 0, good.size / 4);
            if (cuda_decoder_accepts(decoder, bad.data, bad.size, &jpeg))
                batch[n++] = bad;
            else
                free(bad.data);
        }
        batch[n++] = good;
        damaged += n - 2;
        if (decode(decoder, batch, n, crops)) {
            expect(!memcmp(crops, alone, CROP_BYTES), "the first beside damaged ones differs");
            expect(!memcmp(crops + (size_t)(n - 1) * CROP_BYTES, alone, CROP_BYTES), "the last differs");
        }
        for (int i = 1; i < n - 1; i++) free(batch[i].data);
    }
    expect(damaged > 0, "nothing damaged was accepted");
    free(good.data), free(alone), free(crops);
}

/* More sizes than tables are kept for, and more pixels than go in one part. */
static void check_parts(struct cuda_decoder *decoder, uint64_t *state)
{
    struct jpeg jpegs[MOST];
    struct difference all = {0};
    uint8_t *crops = checked_malloc((size_t)MOST * CROP_BYTES);
    for (int i = 0; i < 200; i++) jpegs[i] = make_jpeg(40 + i, 60 + i % 7, 2, 2, 90, state);
    for (int round = 0; round < 2; round++)
        if (decode(decoder, jpegs, 200, crops))
            for (int i = 0; i < 200; i++) compare(&jpegs[i], crops + (size_t)i * CROP_BYTES, &all);
    for (int i = 0; i < 200; i++) free(jpegs[i].data);
    struct jpeg large = make_jpeg(4000, 3000, 2, 2, 80, state);
    for (int i = 0; i < 9; i++) jpegs[i] = large;
    if (decode(decoder, jpegs, 9, crops))
        for (int i = 0; i < 9; i++) compare(&large, crops + (size_t)i * CROP_BYTES, &all);
    free(large.data), free(crops);
}

static size_t free_memory(void)
{
    size_t free_bytes = 0, total = 0;
    CUDA_OK(cudaMemGetInfo(&free_bytes, &total));
    return free_bytes;
}

/* What a decoder takes it gives back. */
static void check_memory(uint64_t *state)
{
    struct jpeg jpeg = make_jpeg(800, 600, 2, 2, 90, state);
    uint8_t *crops = checked_malloc(CROP_BYTES);
    size_t first = 0;
    for (int round = 0; round < 4; round++) {
        struct cuda_decoder *decoder;
        struct effnet_error error;
        if (cuda_decoder_open(4, &USUAL, &decoder, &error)) {
            expect(false, "%s", error.message);
            break;
        }
        decode(decoder, &jpeg, 1, crops);
        cuda_decoder_close(decoder, false);
        if (round == 1) first = free_memory();
    }
    expect(free_memory() + (4 << 20) >= first, "%zu MiB of device memory are not given back",
           (first - free_memory()) >> 20);
    free(jpeg.data), free(crops);
}

static double seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Images/s over files that are in memory: acceptance by one thread, and decode + resize. */
static void bench(struct cuda_decoder *decoder, char **paths, int count)
{
    static struct backend_jpeg jpegs[4096];
    static uint8_t *data[4096];
    uint8_t *crops;
    int n = 0;
    double start = 0, spent = 0, check = 0;
    CUDA_OK(cudaMalloc((void **)&crops, (size_t)MOST * CROP_BYTES));
    for (int i = 0; i < count && n < 4096; i++) {
        FILE *file = fopen(paths[i], "rb");
        if (!file) continue;
        data[n] = checked_malloc(8 << 20);
        const size_t size = fread(data[n], 1, 8 << 20, file);
        int width, height;
        fclose(file);
        start = seconds();
        const bool good = cuda_decoder_accepts(decoder, data[n], size, &jpegs[n]);
        spent += seconds() - start;
        start = seconds();
        image_is_plain_jpeg(data[n], size, &width, &height);
        check += seconds() - start;
        n += good;
    }
    if (n < MOST) {
        for (int i = n; n && i < MOST; i++) jpegs[i] = jpegs[i % n];
        n = n ? MOST : 0;
    }
    printf("%d of %d accepted, %.1f us each, of which our own check %.1f\n", n, count, 1e6 * spent / count,
           1e6 * check / count);
    for (int batch = 8; n && batch <= MOST; batch *= 2) {
        double best = 0;
        for (int round = 0; round < 4; round++) {
            int images = 0;
            CUDA_OK(cudaDeviceSynchronize());
            start = seconds();
            while (images < 2048) {
                struct effnet_error error;
                const int first = images % n + batch <= n ? images % n : 0;
                if (cuda_decoder_run(decoder, jpegs + first, batch, crops, 0, &error)) {
                    printf("%s\n", error.message);
                    return;
                }
                images += batch;
            }
            CUDA_OK(cudaDeviceSynchronize());
            const double rate = images / (seconds() - start);
            if (rate > best) best = rate;
        }
        printf("batch %3d: decode and resize %8.0f images/s\n", batch, best);
    }
}

int main(int argc, char **argv)
{
    const bool small = argc > 1 && !strcmp(argv[1], "--small");
    struct cuda_decoder *decoder;
    struct effnet_error error;
    gpu_require();
    CUDA_OK(cudaFree(0));
    uint64_t state = random_seed("images", 20261128);
    const double start = seconds();
    const int status = cuda_decoder_open(MOST, &USUAL, &decoder, &error);
    if (status == EFFNET_E_UNAVAILABLE) {
        printf("skipped: %s\n", error.message);
        return GPU_EXIT_SKIPPED;
    }
    expect(!status, "%s", error.message);
    if (status) return finish();
    printf("opened in %.0f ms\n", 1e3 * (seconds() - start));
    if (argc > 1 && !strcmp(argv[1], "--bench")) {
        bench(decoder, argv + 2, argc - 2);
        cuda_decoder_close(decoder, false);
        return 0;
    }
    check_pixels(decoder, small, &state);
    check_damage(decoder, small ? 2 : 30, &state);
    if (!small) check_parts(decoder, &state);
    cuda_decoder_close(decoder, false);
    if (!small) check_memory(&state);
    return finish();
}

#else

int main(void)
{
    printf("skipped: a build without libjpeg-turbo\n");
    return GPU_EXIT_SKIPPED;
}

#endif
