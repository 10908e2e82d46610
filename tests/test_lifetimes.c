/* The plan of memory that activations share (src/backend/lifetimes.c). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "backend/lifetimes.h"
#include "random.h"

enum { CELL = 256, TENSORS_MAX = 300 };

static size_t sum_of_bytes(const struct lifetime *tensors, int count)
{
    size_t sum = 0;
    for (int i = 0; i < count; i++) sum += tensors[i].bytes;
    return sum;
}

/* The most that is alive at once: no plan takes less. */
static size_t lower_bound(const struct lifetime *tensors, int count)
{
    size_t most = 0;
    for (int i = 0; i < count; i++) { /* the maximum is reached where a tensor begins */
        size_t alive = 0;
        for (int j = 0; j < count; j++)
            if (tensors[j].first <= tensors[i].first && tensors[i].first <= tensors[j].last)
                alive += tensors[j].bytes;
        if (alive > most) most = alive;
    }
    return most;
}

/* Runs through the units: each writes its tensors' names into the cells of the arena, and what a unit may
 * read must still be there whole. Sizes are multiples of CELL. */
static void check_contents(const struct lifetime *tensors, int count, size_t total)
{
    const size_t cells = total / CELL;
    int last = 0, *owner = malloc((cells + 1) * sizeof *owner);
    assert_non_null(owner);
    memset(owner, 0xff, (cells + 1) * sizeof *owner);
    for (int i = 0; i < count; i++)
        if (tensors[i].last > last) last = tensors[i].last;
    for (int unit = 0; unit <= last; unit++) {
        for (int i = 0; i < count; i++)
            for (size_t c = 0; tensors[i].first == unit && c < tensors[i].bytes / CELL; c++)
                owner[tensors[i].offset / CELL + c] = i;
        for (int i = 0; i < count; i++)
            for (size_t c = 0;
                 tensors[i].first <= unit && unit <= tensors[i].last && c < tensors[i].bytes / CELL; c++)
                if (owner[tensors[i].offset / CELL + c] != i)
                    fail_msg("unit %d: tensor %d's cell %zu holds tensor %d", unit, i, c,
                             owner[tensors[i].offset / CELL + c]);
    }
    free(owner);
}

/* Places the tensors, checks the plan, returns bytes needed / lower bound. */
static double check_plan(struct lifetime *tensors, int count)
{
    struct lifetime before[TENSORS_MAX];
    assert_in_range(count, 1, TENSORS_MAX);
    for (int i = 0; i < count; i++) tensors[i].offset = SIZE_MAX / 2; /* must not be looked at */
    memcpy(before, tensors, (size_t)count * sizeof *tensors);
    const size_t total = effnet_place(tensors, count);
    size_t end = 0;
    for (int i = 0; i < count; i++) {
        assert_int_equal(tensors[i].bytes, before[i].bytes);
        assert_int_equal(tensors[i].first, before[i].first);
        assert_int_equal(tensors[i].last, before[i].last);
        assert_int_equal(tensors[i].offset % CELL, 0);
        if (tensors[i].offset + tensors[i].bytes > end) end = tensors[i].offset + tensors[i].bytes;
    }
    assert_int_equal(total, end);
    assert_true(total <= sum_of_bytes(tensors, count));
    assert_true(total >= lower_bound(tensors, count));
    check_contents(tensors, count, total);
    return (double)total / (double)lower_bound(tensors, count);
}

static int add(struct lifetime *tensors, int count, int side, int channels, int batch, int unit)
{
    const size_t bytes = (size_t)batch * (size_t)(side * side) * (size_t)channels * 2;
    tensors[count] = (struct lifetime){
        .bytes = (bytes + CELL - 1) / CELL * CELL, .first = unit, .last = unit + 1};
    return count + 1;
}

/* EfficientNet-Lite1 and the seven-block network, a unit a layer: tensor i is written by unit i - 1 and read
 * by unit i (tensor 0, the image, is read by unit 0), a block's input also by its project layer. */
static void networks(void **state)
{
    (void)state;
    static const struct {
        int repeats, stride, expand, out;
    } lite1[] = {{1, 1, 1, 16},  {3, 2, 6, 24},  {3, 2, 6, 40}, {4, 2, 6, 80},
                 {4, 1, 6, 112}, {5, 2, 6, 192}, {1, 1, 6, 320}};
    for (int network = 0; network < 2; network++)
        for (int batch = 1; batch <= 64; batch *= 4) {
            struct lifetime tensors[TENSORS_MAX];
            int side = 120, channels = 32, count = add(tensors, 0, 240, 3, batch, -1);
            tensors[0].first = 0;
            count = add(tensors, count, side, channels, batch, count - 1);
            for (size_t s = 0; s < sizeof lite1 / sizeof *lite1; s++)
                for (int r = 0; r < (network ? 1 : lite1[s].repeats); r++) {
                    const int stride = r ? 1 : lite1[s].stride, hidden = channels * lite1[s].expand,
                              input = count - 1;
                    if (hidden != channels) count = add(tensors, count, side, hidden, batch, count - 1);
                    side = (side + stride - 1) / stride;
                    count = add(tensors, count, side, hidden, batch, count - 1);
                    count = add(tensors, count, side, lite1[s].out, batch, count - 1);
                    if (!network && stride == 1 && channels == lite1[s].out)
                        tensors[input].last = count - 2; /* the unit that wrote the last tensor */
                    channels = lite1[s].out;
                }
            count = add(tensors, count, 1, 1280, batch, count - 1);
            const double ratio = check_plan(tensors, count);
            if (ratio > 1.0)
                fail_msg("network %d, batch %d: %g times the lower bound", network, batch, ratio);
        }
}

/* Lifetimes of every kind: all at once, one after the other, nested, a few units long. */
static void random_lifetimes(void **state)
{
    (void)state;
    uint64_t seed = random_seed("random_lifetimes", 71);
    double sum = 0, worst = 0;
    enum { ROUNDS = 600 };
    for (int round = 0; round < ROUNDS; round++) {
        struct lifetime tensors[TENSORS_MAX];
        const int count = random_int(&seed, 1, round % 10 ? 60 : TENSORS_MAX);
        const int units = random_int(&seed, 1, 80), longest = random_int(&seed, 0, units - 1);
        for (int i = 0; i < count; i++) {
            tensors[i].bytes = (size_t)CELL * (size_t)random_int(&seed, 1, round % 3 ? 400 : 3);
            tensors[i].first = random_int(&seed, 0, units - 1);
            tensors[i].last = tensors[i].first + random_int(&seed, 0, longest);
        }
        const double ratio = check_plan(tensors, count);
        sum += ratio;
        if (ratio > worst) worst = ratio;
    }
    printf("on average %.3f times the lower bound, at worst %.3f\n", sum / ROUNDS, worst);
    assert_true(sum / ROUNDS < 1.06);
    assert_true(worst < 2);
}

/* Where all live together nothing can be shared, and where none do, everything. */
static void extremes(void **state)
{
    (void)state;
    struct lifetime together[40], apart[40];
    for (int i = 0; i < 40; i++) {
        together[i] = (struct lifetime){.bytes = (size_t)CELL * (size_t)(i + 1), .first = 0, .last = 40};
        apart[i] = (struct lifetime){.bytes = (size_t)CELL * (size_t)(i + 1), .first = i, .last = i};
    }
    check_plan(together, 40);
    assert_int_equal(effnet_place(together, 40), sum_of_bytes(together, 40));
    check_plan(apart, 40);
    assert_int_equal(effnet_place(apart, 40), (size_t)CELL * 40);
    assert_int_equal(effnet_place(apart, 1), CELL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(networks),
        cmocka_unit_test(random_lifetimes),
        cmocka_unit_test(extremes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
