/* Damaged weights files: opening one gives a model that runs, or an error; under sanitizers, nothing else. */
#include "random.h"
#include "weights_builder.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#define ROOM 65536

/* A file in two parts; the header's length is written as it is. */
struct file {
    uint64_t length;
    size_t header_size, data_size;
    char header[ROOM], data[ROOM];
};

static void load(struct file *file, const struct weights *w)
{
    FILE *from = fopen(weights_save(w), "rb");
    assert_non_null(from);
    assert_int_equal(fread(&file->length, 8, 1, from), 1);
    assert_in_range(file->length, 100, ROOM - 1000);
    file->header_size = file->length;
    assert_int_equal(fread(file->header, 1, file->header_size, from), file->header_size);
    file->data_size = fread(file->data, 1, ROOM, from);
    assert_int_equal(file->data_size, w->data_bytes);
    fclose(from);
}

static void save(const struct file *file)
{
    static char bytes[8 + 2 * ROOM];
    memcpy(bytes, &file->length, 8);
    memcpy(bytes + 8, file->header, file->header_size);
    memcpy(bytes + 8 + file->header_size, file->data, file->data_size);
    weights_write_bytes(bytes, 8 + file->header_size + file->data_size);
}

/* Replaces header[at, at + old_size) by `text`, which fits, and pads the header to a multiple of eight. */
static void splice(struct file *file, size_t at, size_t old_size, const char *text, size_t size)
{
    if (file->header_size - old_size + size + 8 > ROOM) return;
    memmove(file->header + at + size, file->header + at + old_size, file->header_size - at - old_size);
    memcpy(file->header + at, text, size);
    file->header_size += size - old_size;
    while (file->header_size % 8) file->header[file->header_size++] = ' ';
    file->length = file->header_size;
}

static void flip_bits(char *bytes, size_t size, uint64_t *random)
{
    for (int i = random_int(random, 1, 4); i > 0; i--)
        bytes[random_next(random) % size] ^= (char)(1 << random_next(random) % 8);
}

/* A number of the header becomes another one. */
static void replace_number(struct file *file, uint64_t *random)
{
    static const char *const numbers[] = {"0",
                                          "1",
                                          "2",
                                          "3",
                                          "7",
                                          "16",
                                          "21",
                                          "-1",
                                          "0.5",
                                          "1e999",
                                          "-1e999",
                                          "1e-400",
                                          "255",
                                          "65535",
                                          "65536",
                                          "65537",
                                          "2147483647",
                                          "2147483648",
                                          "4294967295",
                                          "4294967296",
                                          "9007199254740992",
                                          "9007199254740993",
                                          "18446744073709551615",
                                          "null",
                                          "[]",
                                          "\"1\""};
    size_t at = random_next(random) % file->header_size, end;
    while (at < file->header_size && !strchr("0123456789", file->header[at])) at++;
    for (end = at; end < file->header_size && strchr("0123456789", file->header[end]);) end++;
    const char *number = numbers[random_next(random) % (sizeof numbers / sizeof numbers[0])];
    if (at < file->header_size) splice(file, at, end - at, number, strlen(number));
}

/* Copies a piece of the header to another place in it, or cuts it out. */
static void move_piece(struct file *file, uint64_t *random)
{
    char piece[300];
    size_t size = (size_t)random_int(random, 1, sizeof piece),
           from = random_next(random) % (file->header_size - size);
    memcpy(piece, file->header + from, size);
    if (random_next(random) % 2)
        splice(file, random_next(random) % file->header_size, 0, piece, size);
    else
        splice(file, from, size, "", 0);
}

/* One of the names within quotes becomes another of them: keys, ops, layers and what they take. */
static void swap_name(struct file *file, uint64_t *random)
{
    char name[100];
    size_t at[2], size[2];
    for (int i = 0; i < 2; i++) {
        at[i] = random_next(random) % file->header_size;
        while (at[i] > 0 && file->header[at[i] - 1] != '"') at[i]--;
        const char *end = memchr(file->header + at[i], '"', file->header_size - at[i]);
        size[i] = end ? (size_t)(end - file->header) - at[i] : 0;
    }
    if (size[1] > sizeof name) return;
    memcpy(name, file->header + at[1], size[1]);
    splice(file, at[0], size[0], name, size[1]);
}

static void damage(struct file *file, uint64_t *random)
{
    static const char symbols[] = "{}[]\",:\\u0n \t9-e.";
    switch (random_int(random, 0, 8)) {
    case 0: flip_bits(file->header, file->header_size, random); break;
    case 1: flip_bits(file->data, file->data_size, random); break;
    case 2: flip_bits((char *)&file->length, sizeof file->length, random); break;
    case 3: file->data_size = random_next(random) % file->data_size; break;
    case 4: file->header_size = random_next(random) % file->header_size, file->data_size = 0; break;
    case 5: replace_number(file, random); break;
    case 6: move_piece(file, random); break;
    case 7: swap_name(file, random); break;
    case 8:
        file->header[random_next(random) % file->header_size] =
            symbols[random_next(random) % (sizeof symbols - 1)];
        break;
    }
}

/* Everything that the model gives must be readable, and the network must run. */
static void use(const effnet_model *model)
{
    const struct effnet_model_info *info = effnet_model_get_info(model);
    size_t text = strlen(info->path) + strlen(info->network) + strlen(info->source_file) +
                  strlen(info->source_sha256);
    for (int i = 0; i < info->classes; i++)
        text += strlen(effnet_model_label(model, i).id) + strlen(effnet_model_label(model, i).name);
    assert_true(text > 0);
    if (info->multiply_adds > 5000000) return;
    effnet_session *session;
    struct effnet_session_options options = {.device = "reference"};
    assert_int_equal(effnet_session_open(model, &options, &session, NULL), EFFNET_OK);
    uint8_t *pixels = calloc((size_t)info->height * (size_t)info->width, 3);
    float *logits = malloc((size_t)info->classes * sizeof *logits);
    assert_non_null(pixels);
    assert_non_null(logits);
    assert_int_equal(effnet_session_run(session, pixels, 1, logits, NULL), EFFNET_OK);
    free(pixels);
    free(logits);
    effnet_session_close(session);
}

static void test_damaged(void **state)
{
    (void)state;
    static struct file good[3], bad;
    uint64_t random = random_seed("damaged weights", 20240611);
    struct weights *w[] = {weights_tiny(1), weights_tiny_excited(1), weights_graph(1)};
    for (int i = 0; i < 3; i++) {
        load(&good[i], w[i]);
        weights_free(w[i]);
    }
    int opened = 0, cases = 6000;
    for (int i = 0; i < cases; i++) {
        bad = good[i % 3];
        for (int damages = random_int(&random, 1, 3);
             damages > 0 && bad.header_size > 400 && bad.data_size > 0; damages--)
            damage(&bad, &random);
        save(&bad);
        effnet_model *model;
        struct effnet_error error = {0};
        int status = effnet_model_open(weights_path(), &model, &error);
        if (status == EFFNET_OK) {
            use(model);
            opened++;
        } else if (status != EFFNET_E_DATA || !error.message[0] || model) {
            fail_msg("case %d: status %d, \"%s\"", i, status, error.message);
        }
        effnet_model_close(model);
    }
    printf("%d of %d damaged files opened\n", opened, cases);
    assert_in_range(opened, cases / 50, cases / 2); /* flipped bits of weights, letters of labels */
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_damaged)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
