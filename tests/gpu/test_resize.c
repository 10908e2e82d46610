/* kernels/resize against effnet_image_fit, byte for byte, and so against Pillow, which that one is held
 * against. `--small`: few and small images, for compute-sanitizer. `--bench`: times instead. */
#include "backend/cuda/resize_axis.h"
#include "small.h"

struct problem {
    struct resize_args args; /* device pointers */
    struct effnet_image image;
    void *device_image, *tables;
    struct guarded scratch, crop;
};

/* Noise; `extreme`: of 0 and 255 alone, which bicubic weights drive out of the range at both ends. */
static struct problem problem_new(int width, int height, const struct effnet_preprocess *p, bool extreme,
                                  uint64_t *state)
{
    struct problem problem = {.image = {width, height, NULL}};
    struct image_fit fit;
    struct effnet_error error;
    if (image_fit_make(width, height, p, &fit, &error)) {
        fprintf(stderr, "%d x %d: %s\n", width, height, error.message);
        exit(1);
    }
    const size_t bytes = (size_t)width * (size_t)height * 3;
    problem.image.rgb = checked_malloc(bytes);
    for (size_t i = 0; i < bytes; i++) {
        const uint8_t v = (uint8_t)random_next(state);
        problem.image.rgb[i] = extreme ? (v & 1) * 255 : v;
    }
    problem.device_image = device_copy(problem.image.rgb, bytes);
    problem.tables = device_copy(fit.tables, fit.table_bytes);
    struct resize_args *args = &problem.args;
    *args = (struct resize_args){.image = problem.device_image,
                                 .width = width,
                                 .height = height,
                                 .across = axis_on_device(&fit.across, fit.tables, problem.tables),
                                 .down = axis_on_device(&fit.down, fit.tables, problem.tables),
                                 .columns_first = fit.columns_first};
    image_fit_free(&fit);
    problem.scratch = guarded_alloc(resize_scratch_bytes(args));
    problem.crop = guarded_alloc((size_t)p->crop * (size_t)p->crop * 3);
    args->scratch = problem.scratch.data;
    args->crop = problem.crop.data;
    return problem;
}

static void problem_free(struct problem *p)
{
    CUDA_OK(cudaFree(p->device_image));
    CUDA_OK(cudaFree(p->tables));
    guarded_free(&p->scratch);
    guarded_free(&p->crop);
    free(p->image.rgb);
}

static void check_problem(struct problem *problem, const struct effnet_preprocess *p)
{
    const size_t bytes = problem->crop.bytes;
    uint8_t *want = checked_malloc(bytes), *got = checked_malloc(bytes);
    const int width = problem->image.width, height = problem->image.height;
    size_t at = 0;
    struct effnet_error error;
    if (effnet_image_fit(&problem->image, p, want, &error)) {
        fprintf(stderr, "%d x %d: %s\n", width, height, error.message);
        exit(1);
    }
    CUDA_OK(resize_launch(&problem->args, 0));
    CUDA_OK(cudaDeviceSynchronize());
    CUDA_OK(cudaMemcpy(got, problem->crop.data, bytes, cudaMemcpyDeviceToHost));
    while (at < bytes && got[at] == want[at]) at++;
    expect(at == bytes, "%d x %d to %d, %d, filter %d: row %zu, byte %zu is %d, not %d", width, height,
           p->short_side, p->crop, (int)p->interpolation, at / ((size_t)p->crop * 3),
           at % ((size_t)p->crop * 3), got[at % bytes], want[at % bytes]);
    expect(guarded_intact(&problem->crop) && guarded_intact(&problem->scratch),
           "%d x %d to %d, %d: written beyond the output or the scratch", width, height, p->short_side,
           p->crop);
    free(want), free(got);
}

static void check(int width, int height, const struct effnet_preprocess *p, bool extreme, uint64_t *state)
{
    struct problem problem = problem_new(width, height, p, extreme, state);
    check_problem(&problem, p);
    problem_free(&problem);
}

/* Crops and images of any proportion, up to reductions that take several chunks of 128 pixels. */
static void check_random(int count, int largest, uint64_t *state)
{
    for (int i = 0; i < count; i++) {
        struct effnet_preprocess p = {.crop = random_int(state, 1, i % 3 ? 70 : 6)};
        p.short_side = p.crop + random_int(state, 0, 1) * random_int(state, 0, 40);
        p.interpolation = random_int(state, 0, 1) ? EFFNET_BICUBIC : EFFNET_BILINEAR;
        if (p.short_side == p.crop) p.resize = (enum effnet_resize)random_int(state, 0, 1);
        int width = random_int(state, 1, largest), height = random_int(state, 1, largest);
        if (i % 4 == 0) width = random_int(state, 1, 20);
        if (i % 4 == 1) height = random_int(state, 1, 20);
        check(width, height, &p, random_int(state, 0, 1), state);
    }
}

static void check_refusals(uint64_t *state)
{
    const struct effnet_preprocess p = {.short_side = 9, .crop = 7};
    struct problem problem = problem_new(20, 30, &p, false, state);
    struct resize_args wrong[8];
    for (int i = 0; i < 8; i++) wrong[i] = problem.args;
    wrong[0].image = NULL;
    wrong[1].scratch = NULL;
    wrong[2].down.weights = NULL;
    wrong[3].width = 0;
    wrong[4].height = wrong[4].down.end - 1;
    wrong[5].across.outputs = 0;
    wrong[6].across.first = wrong[6].across.end;
    wrong[7].width = INT32_MAX;
    for (int i = 0; i < 8; i++) expect(resize_launch(&wrong[i], 0) == cudaErrorInvalidValue, "refusal %d", i);
    struct resize_args odd = problem.args;
    odd.image++;
    expect(resize_launch(&odd, 0) == cudaErrorMisalignedAddress, "refusal of an odd address");
    check_problem(&problem, &p);
    problem_free(&problem);
}

static cudaError_t launch(void *context, cudaStream_t stream)
{
    return resize_launch(context, stream);
}

static const struct effnet_preprocess USUAL = {.short_side = 272, .crop = 240};

/* Fewest bytes: the pixels that the crop needs, and the crop. */
static void bench(uint64_t *state)
{
    static const int sizes[][2] = {{240, 240},   {500, 375},   {375, 500},   {1000, 4000},
                                   {1920, 1080}, {4000, 3000}, {3000, 8000}, {12000, 9000}};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        char name[64];
        struct problem p = problem_new(sizes[i][0], sizes[i][1], &USUAL, false, state);
        const struct resize_axis *x = &p.args.across, *y = &p.args.down;
        const double bytes = 3.0 * (x->end - x->first) * (y->end - y->first) + (double)p.crop.bytes;
        snprintf(name, sizeof name, "resize %d x %d to 272, 240", sizes[i][0], sizes[i][1]);
        bench_line(name, launch, &p.args, bytes);
        problem_free(&p);
    }
}

int main(int argc, char **argv)
{
    static const int sizes[][2] = {{500, 375},   {375, 500},  {272, 272},   {273, 275}, {240, 240},
                                   {300, 700},   {700, 300},  {1, 1},       {3, 3},     {1, 5000},
                                   {5000, 1},    {600, 1300}, {4000, 3000}, {3, 8000},  {1, 1 << 24},
                                   {1 << 24, 1}, {2000, 5001}};
    const bool small = argc > 1 && !strcmp(argv[1], "--small");
    gpu_require();
    uint64_t state = random_seed("shapes and data", 20260106);
    if (argc > 1 && !strcmp(argv[1], "--bench")) {
        bench(&state);
        return 0;
    }
    check_refusals(&state);
    for (size_t i = 0; !small && i < sizeof sizes / sizeof *sizes; i++)
        for (int extreme = 0; extreme <= 1; extreme++) {
            struct effnet_preprocess p = USUAL;
            if (i % 3 == 2) p.interpolation = EFFNET_BILINEAR;
            check(sizes[i][0], sizes[i][1], &p, extreme, &state);
        }
    const struct effnet_preprocess tiny = {.short_side = 5, .crop = 4}; /* three chunks of 128 pixels */
    check(600, 150, &tiny, false, &state);
    check(150, 600, &tiny, true, &state);
    check_random(small ? 12 : 400, small ? 150 : 900, &state);
    return finish();
}
