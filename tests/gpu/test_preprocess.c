/* kernels/preprocess against the definition, (pixel - mean) / std in fp32 rounded to fp16, bit for bit.
 * `--small`: few and small shapes, for compute-sanitizer. `--bench [BATCH...]`: times instead. */
#include "preprocess.h"
#include "small.h"

struct problem {
    struct normalise_args args; /* device pointers */
    uint8_t *pixels;
    struct guarded out;
};

static struct problem problem_new(int64_t pixel_count, const float *mean, const float *std, uint64_t *state)
{
    const size_t values = 3 * (size_t)pixel_count;
    struct problem p = {.pixels = checked_malloc(values)};
    for (size_t i = 0; i < values; i++) p.pixels[i] = (uint8_t)random_next(state);
    p.out = guarded_alloc(values * sizeof(half));
    p.args.pixels = device_copy(p.pixels, values);
    p.args.y = p.out.data;
    p.args.pixel_count = pixel_count;
    memcpy(p.args.mean, mean, sizeof p.args.mean);
    memcpy(p.args.std, std, sizeof p.args.std);
    return p;
}

static void problem_free(struct problem *p)
{
    CUDA_OK(cudaFree((void *)p->args.pixels));
    guarded_free(&p->out);
    free(p->pixels);
}

static void check(int64_t pixel_count, const float *mean, const float *std, uint64_t *state)
{
    struct problem p = problem_new(pixel_count, mean, std, state);
    const size_t values = 3 * (size_t)pixel_count;
    half *want = checked_malloc(values * sizeof *want), *got = checked_malloc(values * sizeof *got);
    for (size_t i = 0; i < values; i++)
        want[i] = half_from_float(((float)p.pixels[i] - mean[i % 3]) / std[i % 3]);
    CUDA_OK(normalise_launch(&p.args, 0));
    CUDA_OK(cudaDeviceSynchronize());
    CUDA_OK(cudaMemcpy(got, p.out.data, values * sizeof *got, cudaMemcpyDeviceToHost));
    const size_t at = first_difference(got, want, values);
    expect(at == values, "%lld pixels: value %zu (pixel value %d, mean %g, std %g) is %g, not %g",
           (long long)pixel_count, at, p.pixels[at % values], (double)mean[at % 3], (double)std[at % 3],
           (double)half_to_float(got[at % values]), (double)half_to_float(want[at % values]));
    expect(guarded_intact(&p.out), "%lld pixels: written beyond the output", (long long)pixel_count);
    problem_free(&p);
    free(want), free(got);
}

static void check_refusals(void)
{
    const struct normalise_args good = {.pixel_count = 1, .std = {1, 1, 1}};
    struct normalise_args wrong[7];
    for (int i = 0; i < 7; i++) wrong[i] = good;
    wrong[0].pixel_count = 0;
    wrong[1].pixel_count = -1;
    wrong[2].pixel_count = INT64_MAX;
    wrong[3].std[1] = 0;
    wrong[4].std[2] = -1;
    wrong[5].std[0] = NAN;
    wrong[6].std[0] = INFINITY;
    for (int i = 0; i < 7; i++)
        expect(normalise_launch(&wrong[i], 0) == cudaErrorInvalidValue, "refusal %d", i);
}

static cudaError_t launch(void *context, cudaStream_t stream)
{
    return normalise_launch(context, stream);
}

static const float LITE1[2][3] = {{127, 127, 127}, {128, 128, 128}};
static const float IMAGENET[2][3] = {{123.675f, 116.28f, 103.53f}, {58.395f, 57.12f, 57.375f}};

static void bench(int batch, uint64_t *state)
{
    char name[64];
    struct problem p = problem_new((int64_t)batch * 240 * 240, IMAGENET[0], IMAGENET[1], state);
    snprintf(name, sizeof name, "normalise %d x 240 x 240 x 3", batch);
    bench_line(name, launch, &p.args, 9.0 * (double)p.args.pixel_count);
    problem_free(&p);
}

int main(int argc, char **argv)
{
    const bool small = argc > 1 && !strcmp(argv[1], "--small");
    gpu_require();
    uint64_t state = random_seed("shapes and data", 20260103);
    if (argc > 1 && !strcmp(argv[1], "--bench")) {
        for (int i = 2; i < argc; i++) bench(atoi(argv[i]), &state);
        return 0;
    }
    check_refusals();
    for (int batch = 1; !small && batch <= 10; batch += 9) {
        check(batch * 240 * 240, LITE1[0], LITE1[1], &state);
        check(batch * 240 * 240, IMAGENET[0], IMAGENET[1], &state);
    }
    for (int pixels = 1; pixels <= 24; pixels++) check(pixels, IMAGENET[0], IMAGENET[1], &state);
    for (int pixels = 680; pixels <= 686; pixels++) /* 2048 values a block */
        check(pixels, IMAGENET[0], IMAGENET[1], &state);
    for (int i = 0; i < (small ? 5 : 100); i++) {
        float mean[3], std[3];
        for (int c = 0; c < 3; c++)
            mean[c] = 127.5f + 127.5f * noise(&state), std[c] = exp2f(8 * noise(&state));
        check(random_int(&state, 1, small ? 3000 : 20000), mean, std, &state);
    }
    return finish();
}
