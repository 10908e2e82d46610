#include "cli/evaluate/plot.h"

#include "cli/evaluate/svg.h"
#include "cli/file.h"
#include "cli/output.h"
#include "common/error.h"
#include "common/utf8.h"

#include <inttypes.h>
#include <string.h>

/* The drawing, in pixels: left a square of confidence and accuracy with a histogram below it, right a square
 * matrix with its labels to the left and above. */
enum {
    WIDTH = 1160,
    HEIGHT = 664,
    CURVE_LEFT = 80,
    CURVE_TOP = 132,
    CURVE_SIDE = 380,
    COUNTS_TOP = 527,
    COUNTS_HEIGHT = 70,
    TABLE_LEFT = 710,
    TABLE_TOP = 244,
    CELL = 34,
    ROWS_MAX = 10,  /* classes */
    WRONG_MAX = 10, /* columns for wrong answers, of which one more has the rest */
};

static double percent(int64_t hits, int64_t count)
{
    return count ? 100 * (double)hits / (double)count : 0;
}

/* ---------------------------------------------------------------- accuracy by confidence */

/* Where a share in [0, 1] lies across and up. */
static double across(double share)
{
    return CURVE_LEFT + CURVE_SIDE * share;
}
static double up(double share)
{
    return CURVE_TOP + CURVE_SIDE * (1 - share);
}

static void draw_grid(FILE *out)
{
    for (int i = 0; i <= 5; i++) {
        const double share = i / 5.0;
        svg_line(out, across(0), up(share), across(1), up(share), i ? "grid" : "axis");
        svg_text(out, CURVE_LEFT - 8, up(share) + 4, "faint", "end", 0, "%d %%", 20 * i);
        svg_text(out, across(share), COUNTS_TOP + COUNTS_HEIGHT + 18, "faint", "middle", 0, "%d %%", 20 * i);
    }
    svg_text(out, CURVE_LEFT - 52, CURVE_TOP + CURVE_SIDE / 2.0, "faint", "middle", -90, "accuracy");
    svg_text(out, across(0.5), COUNTS_TOP + COUNTS_HEIGHT + 38, "faint", "middle", 0, "confidence");
}

static void draw_bin(FILE *out, const struct metrics *m, int i, int64_t most)
{
    const struct calibration_bin *bin = &m->bins[i];
    const double low = (double)i / CALIBRATION_BINS, high = (double)(i + 1) / CALIBRATION_BINS;
    if (!bin->images) return;
    const double accuracy = (double)bin->hits / (double)bin->images;
    const double tall = COUNTS_HEIGHT * (double)bin->images / (double)most;
    const struct interval interval = wilson_interval(bin->hits, bin->images);
    const double middle = across((low + high) / 2);
    svg_rect(out, across(low) + 1, up(accuracy), across(high) - across(low) - 2, up(0) - up(accuracy), "bar",
             1, "confidence %.1f to %.1f %%, mean %.2f %%: %" PRId64 " images, %" PRId64 " right, %.2f %%",
             100 * low, 100 * high, 100 * bin->confidence, bin->images, bin->hits, 100 * accuracy);
    svg_line(out, middle, up(interval.low), middle, up(interval.high), "whisker");
    svg_rect(out, across(low) + 1, COUNTS_TOP + COUNTS_HEIGHT - tall, across(high) - across(low) - 2, tall,
             "count", 1, "confidence %.1f to %.1f %%: %" PRId64 " images", 100 * low, 100 * high,
             bin->images);
}

static void draw_calibration(FILE *out, const struct metrics *m)
{
    int64_t most = 1;
    for (int i = 0; i < CALIBRATION_BINS; i++)
        if (m->bins[i].images > most) most = m->bins[i].images;
    svg_text(out, CURVE_LEFT, 78, "heading", "start", 0, "Accuracy by confidence");
    svg_text(out, CURVE_LEFT, 97, "faint", "start", 0,
             "expected calibration error %.2f %%, mean confidence %.2f %%", 100 * m->calibration_error,
             100 * m->mean_confidence);
    svg_text(out, CURVE_LEFT, 114, "faint", "start", 0,
             "bars: right answers, with 95 %% intervals; dashed: perfect calibration");
    draw_grid(out);
    for (int i = 0; i < CALIBRATION_BINS; i++) draw_bin(out, m, i, most);
    svg_line(out, across(0), up(0), across(1), up(1), "dashed");
    svg_line(out, across(0), COUNTS_TOP + COUNTS_HEIGHT, across(1), COUNTS_TOP + COUNTS_HEIGHT, "axis");
    svg_text(out, CURVE_LEFT - 8, COUNTS_TOP + 10, "faint", "end", 0, "%" PRId64, most);
    svg_text(out, CURVE_LEFT - 8, COUNTS_TOP + COUNTS_HEIGHT, "faint", "end", 0, "0");
    svg_text(out, CURVE_LEFT - 52, COUNTS_TOP + COUNTS_HEIGHT / 2.0, "faint", "middle", -90, "images");
}

/* ---------------------------------------------------------------- confusions */

/* Which classes are shown. */
struct shown {
    int rows[ROWS_MAX], row_count;     /* the least accurate ones */
    int wrong[WRONG_MAX], wrong_count; /* what images of these are most often taken for */
};

static int place_of(const int *classes, int count, int class_index)
{
    for (int i = 0; i < count; i++)
        if (classes[i] == class_index) return i;
    return -1;
}

static void choose_classes(const struct metrics *m, struct shown *shown)
{
    *shown = (struct shown){0};
    for (int i = 0; i < m->classes_seen && shown->row_count < ROWS_MAX; i++) {
        const struct class_figures *class = &m->by_class[m->worst[i]];
        if (class->top1 < class->images) shown->rows[shown->row_count++] = m->worst[i];
    }
    for (int64_t i = 0; i < m->confusion_count && shown->wrong_count < WRONG_MAX; i++) {
        const struct confusion *c = &m->confusions[i];
        if (place_of(shown->rows, shown->row_count, c->label) >= 0 &&
            place_of(shown->wrong, shown->wrong_count, c->predicted) < 0)
            shown->wrong[shown->wrong_count++] = c->predicted;
    }
}

/* How many images of a class were taken for each of the columns: the right one, the wrong ones, others. */
static void count_row(const struct metrics *m, const struct shown *shown, int class_index,
                      int64_t images[WRONG_MAX + 2])
{
    int64_t *others = &images[shown->wrong_count + 1];
    memset(images, 0, (WRONG_MAX + 2) * sizeof *images);
    images[0] = m->by_class[class_index].top1;
    for (int64_t i = 0; i < m->confusion_count; i++) {
        const struct confusion *c = &m->confusions[i];
        if (c->label != class_index) continue;
        const int column = place_of(shown->wrong, shown->wrong_count, c->predicted);
        *(column < 0 ? others : &images[column + 1]) += c->images;
    }
}

enum { LABEL_CHARACTERS = 22, LABEL_SIZE = 4 * LABEL_CHARACTERS + 4 };

/* A label that is short enough for its place. Returns text. */
static const char *short_label(const effnet_model *model, int class_index, char text[LABEL_SIZE])
{
    const char *name = effnet_model_label(model, class_index).name;
    size_t taken = 0, shorter = 0; /* bytes of as many characters as fit, and of one fewer */
    int characters = 0;
    for (; name[taken] && characters < LABEL_CHARACTERS; characters++) {
        const int length = effnet_utf8_length(name + taken, NULL);
        shorter = taken;
        taken += length ? (size_t)length : 1;
    }
    if (name[taken])
        snprintf(text, LABEL_SIZE, "%.*s\xe2\x80\xa6", (int)shorter, name);
    else
        snprintf(text, LABEL_SIZE, "%s", name);
    return text;
}

/* What a column is called: "right", a class, "others". Returns text. */
static const char *column_label(const effnet_model *model, const struct shown *shown, int column,
                                char text[LABEL_SIZE])
{
    if (column == 0) return strcpy(text, "right");
    if (column > shown->wrong_count) return strcpy(text, "others");
    return short_label(model, shown->wrong[column - 1], text);
}

static void draw_row(FILE *out, const effnet_model *model, const struct metrics *m, const struct shown *shown,
                     int row)
{
    char label[LABEL_SIZE], answer[LABEL_SIZE];
    int64_t images[WRONG_MAX + 2];
    const int64_t of = m->by_class[shown->rows[row]].images;
    const double y = TABLE_TOP + CELL * row;
    count_row(m, shown, shown->rows[row], images);
    short_label(model, shown->rows[row], label);
    svg_text(out, TABLE_LEFT - 10, y + CELL / 2.0 + 4, "", "end", 0, "%s (%" PRId64 ")", label, of);
    for (int i = 0; i < shown->wrong_count + 2; i++) {
        const double x = TABLE_LEFT + CELL * i, share = (double)images[i] / (double)of;
        column_label(model, shown, i, answer);
        svg_rect(out, x, y, CELL, CELL, "empty", 1, NULL);
        if (!images[i]) continue;
        svg_rect(out, x + 1, y + 1, CELL - 2, CELL - 2, i == 0 ? "right" : "wrong", 0.12 + 0.88 * share,
                 "%s: %" PRId64 " of %" PRId64 " %s, %.1f %%", label, images[i], of, answer, 100 * share);
        svg_text(out, x + CELL / 2.0, y + CELL / 2.0 + 4, share > 0.6 ? "small light" : "small", "middle", 0,
                 "%" PRId64, images[i]);
    }
}

static void draw_confusions(FILE *out, const effnet_model *model, const struct metrics *m)
{
    const int left = TABLE_LEFT - 160;
    struct shown shown;
    choose_classes(m, &shown);
    svg_text(out, left, 78, "heading", "start", 0, "The least accurate classes");
    if (!shown.row_count) {
        svg_text(out, left, 97, "faint", "start", 0, "none: every answer is right");
        return;
    }
    svg_text(out, left, 97, "faint", "start", 0,
             "rows: what images show, and how many do; columns: what they were taken for");
    for (int i = 0; i < shown.wrong_count + 2; i++) {
        char label[LABEL_SIZE];
        column_label(model, &shown, i, label);
        svg_text(out, TABLE_LEFT + CELL * (i + 0.5) + 3, TABLE_TOP - 8,
                 i == 0 || i > shown.wrong_count ? "faint" : "", "start", -50, "%s", label);
    }
    for (int i = 0; i < shown.row_count; i++) draw_row(out, model, m, &shown, i);
}

int plot_check_place(const char *path)
{
    static const char svg[] = "<svg ";
    char bytes[sizeof svg - 1];
    const char *reason;
    EFFNET_TRY(output_check_place(path));
    const bool replaces_svg = file_read_start(path, bytes, sizeof bytes, &reason) == (ssize_t)sizeof bytes &&
                              !memcmp(bytes, svg, sizeof bytes);
    return replaces_svg ? EFFNET_OK : output_check_no_image(path);
}

int plot_write(const char *path, const effnet_model *model, const struct metrics *m)
{
    struct output output;
    char title[256];
    EFFNET_TRY(output_begin(&output, path));
    snprintf(title, sizeof title, "%.100s: top-1 %.2f %%, top-5 %.2f %% of %" PRId64 " images",
             effnet_model_get_info(model)->network, percent(m->top1, m->images), percent(m->top5, m->images),
             m->images);
    svg_begin(output.file, WIDTH, HEIGHT, title);
    svg_text(output.file, CURVE_LEFT - 56, 40, "title", "start", 0, "%s", title);
    draw_calibration(output.file, m);
    draw_confusions(output.file, model, m);
    svg_end(output.file);
    return output_end(&output, EFFNET_OK);
}
