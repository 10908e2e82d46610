/* kernels/convert against what its header promises, on the layers' shapes and on seeded awkward ones.
 * `--small`: few and small shapes, for compute-sanitizer. */
#include "convert.h"
#include "small.h"

static float rounded(float w)
{
    return half_to_float(half_from_float(w));
}

/* The fp16 neighbours of w: below <= w <= above, equal where w is exact. */
static void neighbours(float w, float *below, float *above)
{
    half other = half_from_float(w);
    const float nearest = half_to_float(other);
    *below = *above = nearest;
    if (nearest == w || !isfinite(nearest)) return;
    if (nearest == 0) /* from 0 the next value on w's side is the smallest */
        other.bits = w > 0 ? 0x0001 : 0x8001;
    else
        other.bits = (uint16_t)(other.bits + (fabsf(w) > fabsf(nearest) ? 1 : -1));
    *(nearest > w ? below : above) = half_to_float(other);
}

struct row_report {
    int outside;                 /* values that are neither neighbour */
    int moved;                   /* values that are not the nearest */
    double error, nearest_error; /* sums of rounding errors: as they are, and of the nearest values */
    double left, step;           /* |error| if the best of the other weights moved as well, and that move */
    double size;                 /* sum of |w|, for the error of fp32 sums */
};

static struct row_report report_row(const float *w, const half *q, int columns)
{
    struct row_report r = {0};
    for (int i = 0; i < columns; i++) {
        const float value = half_to_float(q[i]);
        float below, above;
        neighbours(w[i], &below, &above);
        r.outside += value != below && value != above;
        r.moved += value != rounded(w[i]);
        r.error += (double)value - (double)w[i];
        r.nearest_error += (double)rounded(w[i]) - (double)w[i];
        r.size += fabs((double)w[i]);
    }
    r.left = INFINITY;
    for (int i = 0; i < columns; i++) {
        const float value = half_to_float(q[i]);
        float below, above;
        neighbours(w[i], &below, &above);
        if (value != rounded(w[i]) || below == above || value == 0) continue; /* moved already, or stays */
        const float other = value == below ? above : below;
        const double step = (double)other - (double)value, left = fabs(r.error + step);
        if (isfinite(other) && left < r.left) r.left = left, r.step = fabs(step);
    }
    return r;
}

/* Every row: one of the two neighbours each; no row is worse than the nearest values; the best move that is
 * left gains less than a tenth of itself, unless there were 64; sums of errors a tenth of what they were. */
static void check_rows(const float *w, const half *q, int rows, int columns)
{
    int outside = 0, worse = 0, unfinished = 0;
    double before = 0, after = 0;
    for (int r = 0; r < rows; r++) {
        const size_t at = (size_t)r * (size_t)columns;
        const struct row_report row = report_row(w + at, q + at, columns);
        const double slack = 0x1p-20 * fabs(row.nearest_error) + 0x1p-34 * row.size;
        outside += row.outside;
        worse += fabs(row.error) > fabs(row.nearest_error) + slack;
        unfinished += row.moved < 64 && fabs(row.error) - row.left > 0.11 * row.step + slack;
        before += row.nearest_error * row.nearest_error, after += row.error * row.error;
    }
    expect(!outside, "%d x %d: %d values are no neighbours of theirs", rows, columns, outside);
    expect(!worse, "%d x %d: %d rows are worse than the nearest values", rows, columns, worse);
    expect(!unfinished, "%d x %d: %d rows are unfinished", rows, columns, unfinished);
    if (columns >= 64 && rows >= 16)
        expect(after < 1e-2 * before, "%d x %d: sums of errors went from %.2e to %.2e (rms)", rows, columns,
               sqrt(before / rows), sqrt(after / rows));
}

static void check(int rows, int columns, float scale, uint64_t *state)
{
    const size_t count = (size_t)rows * (size_t)columns;
    float *w = checked_malloc(count * sizeof *w);
    half *q = checked_malloc(count * sizeof *q), *again = checked_malloc(count * sizeof *again);
    for (size_t i = 0; i < count; i++) w[i] = scale * noise(state) * noise(state);
    struct guarded out = guarded_alloc(count * sizeof(half));
    const struct convert_args args = {
        .x = device_copy(w, count * sizeof *w), .y = out.data, .rows = rows, .columns = columns};
    CUDA_OK(convert_weights_launch(&args, 0));
    CUDA_OK(cudaMemcpy(q, out.data, count * sizeof *q, cudaMemcpyDeviceToHost));
    expect(guarded_intact(&out), "%d x %d: written beyond the output", rows, columns);
    check_rows(w, q, rows, columns);
    guarded_poison(&out);
    CUDA_OK(convert_weights_launch(&args, 0));
    CUDA_OK(cudaMemcpy(again, out.data, count * sizeof *again, cudaMemcpyDeviceToHost));
    expect(!memcmp(q, again, count * sizeof *q), "%d x %d: other bits at the second run", rows, columns);
    CUDA_OK(cudaFree((void *)args.x));
    guarded_free(&out);
    free(w), free(q), free(again);
}

/* Exact values, zeros, subnormals and the largest stay as they are; NaN and what overflows stay in their
 * rows. */
static void check_special_values(void)
{
    enum { ROWS = 5, COLUMNS = 40 };
    float w[ROWS][COLUMNS];
    half q[ROWS][COLUMNS];
    for (int i = 0; i < ROWS * COLUMNS; i++) w[i / COLUMNS][i % COLUMNS] = 0.25f * (float)(i % COLUMNS);
    w[0][0] = 65504, w[0][1] = -65504, w[0][2] = 0x1p-24f, w[0][3] = -0x1p-24f;
    w[1][7] = NAN;
    w[2][39] = 1e6f, w[3][0] = -INFINITY;
    for (int i = 0; i < COLUMNS; i++) w[4][i] = 0x1p-30f; /* all of it rounds to 0 */
    struct guarded out = guarded_alloc(sizeof q);
    const struct convert_args args = {
        .x = device_copy(w, sizeof w), .y = out.data, .rows = ROWS, .columns = COLUMNS};
    CUDA_OK(convert_weights_launch(&args, 0));
    CUDA_OK(cudaMemcpy(q, out.data, sizeof q, cudaMemcpyDeviceToHost));
    half want[ROWS][COLUMNS];
    for (int i = 0; i < ROWS * COLUMNS; i++)
        want[i / COLUMNS][i % COLUMNS] = half_from_float(w[i / COLUMNS][i % COLUMNS]);
    const size_t at = first_difference(&q[0][0], &want[0][0], ROWS * COLUMNS);
    expect(at == ROWS * COLUMNS, "special values: row %zu, column %zu", at / COLUMNS, at % COLUMNS);
    expect(guarded_intact(&out), "special values: written beyond the output");
    CUDA_OK(cudaFree((void *)args.x));
    guarded_free(&out);
}

static void check_split(int count, float scale, uint64_t *state)
{
    const size_t bytes = (size_t)count * sizeof(half);
    float *x = checked_malloc((size_t)count * sizeof *x);
    half *high = checked_malloc(bytes), *low = checked_malloc(bytes);
    for (int i = 0; i < count; i++) x[i] = scale * noise(state);
    struct guarded out_high = guarded_alloc(bytes), out_low = guarded_alloc(bytes);
    float *device = device_copy(x, (size_t)count * sizeof *x);
    CUDA_OK(convert_split_launch(device, out_high.data, out_low.data, count, 0));
    CUDA_OK(cudaMemcpy(high, out_high.data, bytes, cudaMemcpyDeviceToHost));
    CUDA_OK(cudaMemcpy(low, out_low.data, bytes, cudaMemcpyDeviceToHost));
    int wrong = 0, coarse = 0;
    for (int i = 0; i < count; i++) {
        const float h = half_to_float(high[i]), l = half_to_float(low[i]);
        wrong += h != rounded(x[i]) || l != rounded(x[i] - h);
        const double error = fabs((double)h + (double)l - (double)x[i]);
        coarse += error > 0x1p-22 * fabs((double)x[i]) && error > 0x1p-25; /* half the smallest fp16 */
    }
    expect(!wrong && !coarse, "split of %d: %d wrong, %d too coarse", count, wrong, coarse);
    expect(guarded_intact(&out_high) && guarded_intact(&out_low), "split of %d: written beyond", count);
    CUDA_OK(cudaFree(device));
    guarded_free(&out_high), guarded_free(&out_low);
    free(x), free(high), free(low);
}

int main(int argc, char **argv)
{
    static const int layers[][2] = {{32, 27},    {96, 16},    {144, 24},    {24, 144}, {1152, 192},
                                    {320, 1152}, {1280, 320}, {1000, 1280}, {1152, 25}};
    static const int edges[][2] = {{1, 1}, {7, 2}, {9, 31}, {8, 32}, {17, 33}, {3, 65}, {2, 4099}};
    const bool small = argc > 1 && !strcmp(argv[1], "--small");
    gpu_require();
    uint64_t state = random_seed("shapes and data", 20260105);
    const struct convert_args wrong[] = {{.rows = 0, .columns = 1}, {.rows = 1, .columns = 0}, {.rows = -1}};
    for (int i = 0; i < 3; i++)
        expect(convert_weights_launch(&wrong[i], 0) == cudaErrorInvalidValue, "refusal %d", i);
    expect(convert_split_launch(NULL, NULL, NULL, 0, 0) == cudaErrorInvalidValue,
           "refusal of an empty split");
    check_special_values();
    for (size_t i = 0; !small && i < sizeof layers / sizeof *layers; i++)
        check(layers[i][0], layers[i][1], 2.0f / sqrtf((float)layers[i][1]), &state);
    for (size_t i = 0; i < sizeof edges / sizeof *edges; i++) check(edges[i][0], edges[i][1], 1, &state);
    for (int i = 0; i < (small ? 3 : 40); i++)
        check(random_int(&state, 1, 40), random_int(&state, 1, small ? 100 : 700), exp2f(12 * noise(&state)),
              &state);
    for (int i = 0; i < (small ? 3 : 40); i++)
        check_split(random_int(&state, 1, 3000), exp2f(12 * noise(&state)), &state);
    return finish();
}
