/* What `effnet evaluate` works out: by hand, by numpy, and by plain loops. */
#include "cli/evaluate/metrics.h"
#include "random.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

static void expect_near(double got, double want, double allowed)
{
    if (!(fabs(got - want) <= allowed)) fail_msg("%.17g, and not %.17g", got, want);
}

static void test_one_answer(void **state)
{
    (void)state;
    const float logits[] = {0, logf(2), 0}; /* probabilities 1/4, 1/2, 1/4 */
    struct answer a = answer_of(logits, 3, 2);
    assert_true(a.label == 2 && a.predicted == 1 && a.rank == 2 && a.finite);
    expect_near(a.confidence, 0.5, 1e-7);
    expect_near(a.log_loss, log(4), 1e-7);
    assert_int_equal(answer_of(logits, 3, 0).rank, 1); /* of two alike the first comes first */
    assert_int_equal(answer_of(logits, 3, 1).rank, 0);

    const float large[] = {88000, 88001, -88000};
    a = answer_of(large, 3, 0);
    expect_near(a.confidence, 1 / (1 + exp(-1)), 1e-15);
    expect_near(a.log_loss, 1 + log(1 + exp(-1)), 1e-15);
    expect_near(answer_of(large, 3, 2).log_loss, 176001 + log(1 + exp(-1)), 1e-9);
    const float sure[] = {40, 0}; /* the small part is not lost: ln(1 + e^-40) */
    expect_near(answer_of(sure, 2, 1).log_loss, 40, 1e-12);
}

static void test_not_finite(void **state)
{
    (void)state;
    const float logits[] = {NAN, 1, -INFINITY, NAN};
    struct answer a = answer_of(logits, 4, 0);
    assert_true(a.predicted == 1 && a.rank == 2 && !a.finite && isnan(a.confidence) && isnan(a.log_loss));
    assert_int_equal(answer_of(logits, 4, 3).rank, 3);
    assert_int_equal(answer_of(logits, 4, 2).rank, 1);
    const float infinite[] = {0, INFINITY};
    assert_false(answer_of(infinite, 2, 1).finite);

    /* accuracy counts it, calibration does not */
    const float half[] = {0, 0};
    const struct answer answers[] = {a, answer_of(half, 2, 0)};
    struct metrics m;
    assert_true(metrics_open(answers, 2, 4, &m));
    assert_true(m.images == 2 && m.top1 == 1 && m.finite == 1);
    expect_near(m.mean_confidence, 0.5, 0);
    expect_near(m.calibration_error, 0.5, 0);
    metrics_close(&m);
    assert_true(metrics_open(answers, 1, 4, &m));
    assert_true(m.finite == 0 && isnan(m.mean_confidence) && isnan(m.calibration_error) && isnan(m.log_loss));
    metrics_close(&m);
}

/* Wanted: the roots of (p - q)^2 = z^2 q (1 - q) / n, found by bisection in Python. */
static void test_wilson(void **state)
{
    (void)state;
    static const struct {
        int hits, count;
        double low, high;
    } cases[] = {
        {90, 100, 0.8256343384950866, 0.944770862939325},
        {1, 10, 0.017876213095072903, 0.4041500267952385},
        {9, 10, 0.5958499732047615, 0.9821237869049271},
        {238, 400, 0.5462106166004184, 0.6419820474760654},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const struct interval w = wilson_interval(cases[i].hits, cases[i].count);
        expect_near(w.low, cases[i].low, 1e-14);
        expect_near(w.high, cases[i].high, 1e-14);
    }
    const double z2 = 1.959963984540054 * 1.959963984540054;
    const struct interval none = wilson_interval(0, 10), all = wilson_interval(10, 10);
    assert_true(none.low == 0 && all.high == 1);
    expect_near(none.high, z2 / (10 + z2), 1e-15);
    expect_near(all.low, 10 / (10 + z2), 1e-15);
    assert_true(wilson_interval(0, 0).low == 0 && wilson_interval(0, 0).high == 1);
}

/* A bin holds its upper edge and not its lower one. */
static void test_bins(void **state)
{
    (void)state;
    const struct answer answers[] = {
        {.label = 0, .predicted = 0, .rank = 0, .finite = true, .confidence = 0.2},
        {.label = 0, .predicted = 1, .rank = 1, .finite = true, .confidence = 0.2 + 1e-12},
        {.label = 1, .predicted = 1, .rank = 0, .finite = true, .confidence = 1},
        {.label = 1, .predicted = 0, .rank = 1, .finite = true, .confidence = 0.95},
        {.label = 1, .predicted = -1},
    };
    struct metrics m;
    assert_true(metrics_open(answers, 5, 2, &m));
    for (int i = 0; i < CALIBRATION_BINS; i++)
        assert_int_equal(m.bins[i].images, i == 2 || i == 3 ? 1 : i == 14 ? 2 : 0);
    assert_true(m.bins[14].hits == 1 && m.images == 4 && m.finite == 4);
    expect_near(m.bins[14].confidence, 0.975, 1e-15);
    expect_near(m.calibration_error, (0.8 + 0.2 + 2 * 0.475) / 4, 1e-12);
    metrics_close(&m);
}

/* The same numbers in numpy. */
static void test_against_numpy(void **state)
{
    (void)state;
    enum { IMAGES = 60, CLASSES = 5 };
    struct answer answers[IMAGES];
    for (int i = 0; i < IMAGES; i++) {
        float logits[CLASSES];
        for (int j = 0; j < CLASSES; j++) logits[j] = (float)((i * 7 + j * 13 + i * j) % 17 - 8) * 0.4375f;
        answers[i] = answer_of(logits, CLASSES, (i * i + i / 3) % CLASSES);
    }
    struct metrics m;
    assert_true(metrics_open(answers, IMAGES, CLASSES, &m));
    assert_true(m.images == IMAGES && m.top1 == 7 && m.top5 == IMAGES && m.classes_seen == CLASSES);
    expect_near(m.log_loss, 3.008769088201173, 1e-13);
    expect_near(m.mean_confidence, 0.6296817396117135, 1e-14);
    expect_near(m.calibration_error, 0.5130150729450469, 1e-14);
    expect_near(m.class_accuracy, 0.1125, 1e-15);
    static const int bins[CALIBRATION_BINS] = {0, 0, 4, 0, 0, 8, 0, 3, 14, 3, 3, 10, 11, 4, 0};
    for (int i = 0; i < CALIBRATION_BINS; i++) assert_int_equal(m.bins[i].images, bins[i]);
    /* rows: labels 0 to 4; off the diagonal of the confusion matrix
     *   . 3 4 3 0 / 6 . 2 5 3 / 2 2 . 0 0 / 5 2 4 . 4 / 4 3 0 1 . */
    static const int order[][3] = {{1, 0, 6}, {1, 3, 5}, {3, 0, 5}, {0, 2, 4},
                                   {3, 2, 4}, {3, 4, 4}, {4, 0, 4}};
    assert_int_equal(m.confusion_count, 16);
    for (size_t i = 0; i < sizeof order / sizeof *order; i++) {
        const struct confusion *c = &m.confusions[i];
        assert_true(c->label == order[i][0] && c->predicted == order[i][1] && c->images == order[i][2]);
    }
    /* right: 2 of 12, 0 of 16, 0 of 4, 1 of 16, 4 of 12 */
    static const int worst[CLASSES] = {1, 2, 3, 0, 4};
    for (int i = 0; i < CLASSES; i++) assert_int_equal(m.worst[i], worst[i]);
    assert_true(m.by_class[3].most_mistaken_for == 0 && m.by_class[3].mistaken == 5);
    assert_int_equal(m.by_class[2].predicted, 4 + 2 + 0 + 4 + 0);
    metrics_close(&m);
}

/* All counts by a matrix, in whatever order the images come. */
static void test_random(void **state)
{
    (void)state;
    enum { CLASSES_MAX = 12, IMAGES_MAX = 300 };
    static struct answer answers[IMAGES_MAX];
    uint64_t random = random_seed("metrics", 5);
    for (int round = 0; round < 200; round++) {
        const int classes = random_int(&random, 1, CLASSES_MAX), count = random_int(&random, 1, IMAGES_MAX);
        int64_t matrix[CLASSES_MAX][CLASSES_MAX] = {0}, top5 = 0, images = 0, right = 0;
        for (int i = 0; i < count; i++) {
            float logits[CLASSES_MAX];
            const int label = random_int(&random, 0, classes - 1);
            for (int j = 0; j < classes; j++) logits[j] = (float)random_int(&random, -6, 6);
            answers[i] = answer_of(logits, classes, label);
            if (i && random_int(&random, 0, 9) == 0) answers[i].predicted = -1;
            if (answers[i].predicted < 0) continue;
            int before = 0;
            for (int j = 0; j < classes; j++)
                before += logits[j] > logits[label] || (logits[j] == logits[label] && j < label);
            assert_int_equal(answers[i].rank, before);
            images++;
            top5 += before < 5;
            matrix[label][answers[i].predicted]++;
        }
        struct metrics m;
        assert_true(metrics_open(answers, count, classes, &m));
        int64_t confused = 0;
        for (int64_t i = 0; i < m.confusion_count; i++) {
            const struct confusion *c = &m.confusions[i];
            assert_true(c->label != c->predicted && c->images == matrix[c->label][c->predicted]);
            assert_true(i == 0 || c[-1].images >= c->images);
            confused += c->images;
        }
        for (int i = 0; i < classes; i++) {
            int64_t row = 0, column = 0, most = 0;
            for (int j = 0; j < classes; j++) {
                row += matrix[i][j];
                column += matrix[j][i];
                if (j != i && matrix[i][j] > most) most = matrix[i][j];
            }
            right += matrix[i][i];
            assert_true(m.by_class[i].images == row && m.by_class[i].predicted == column);
            assert_true(m.by_class[i].top1 == matrix[i][i] && m.by_class[i].mistaken == most);
        }
        assert_true(m.images == images && m.top1 == right && m.top5 == top5 && confused == images - right);
        metrics_close(&m);
    }
}

static void test_agreement(void **state)
{
    (void)state;
    struct agreement a = {0};
    agreement_add(&a, 4, (float[]){1, 2, 3}, (float[]){1, 2, 3}, 3);
    assert_true(a.images == 1 && a.same == 1 && a.largest == 0);
    agreement_add(&a, 7, (float[]){1, 2, 3}, (float[]){1, 3.5f, 3}, 3);
    assert_true(a.images == 2 && a.same == 1 && a.largest == 1.5 && a.image == 7 && a.class_index == 1);
    agreement_add(&a, 8, (float[]){INFINITY, NAN, 0}, (float[]){INFINITY, NAN, 0.5f}, 3);
    assert_true(a.same == 2 && a.largest == 1.5 && a.image == 7);
    agreement_add(&a, 9, (float[]){1, NAN}, (float[]){1, 0}, 2);
    assert_true(a.images == 4 && a.same == 3 && isinf(a.largest) && a.image == 9 && a.class_index == 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_one_answer),    cmocka_unit_test(test_not_finite),
        cmocka_unit_test(test_wilson),        cmocka_unit_test(test_bins),
        cmocka_unit_test(test_random),        cmocka_unit_test(test_agreement),
        cmocka_unit_test(test_against_numpy),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
