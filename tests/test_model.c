/* Opening weights files: what a good one gives, and files that are not weights files at all. */
#include "effnet_lab.h"
#include "random.h"
#include "weights_builder.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

/* Opening must fail with this status and a message that names the file and holds `part`. */
static void expect_failure(const char *path, int status, const char *part)
{
    effnet_model *model = (effnet_model *)&model;
    struct effnet_error error = {0};
    assert_int_equal(effnet_model_open(path, &model, &error), status);
    assert_null(model);
    assert_int_equal(error.status, status);
    if (!strstr(error.message, part) || strncmp(error.message, path, strlen(path)) != 0)
        fail_msg("message \"%s\" lacks \"%s\" or the path", error.message, part);
    assert_int_equal(effnet_model_open(path, &model, NULL), status);
}

static void test_info(void **state)
{
    (void)state;
    effnet_model *model = weights_open(weights_tiny(1));
    const struct effnet_model_info *info = effnet_model_get_info(model);
    assert_string_equal(info->path, weights_path());
    assert_string_equal(info->network, "tiny");
    assert_string_equal(info->source_file, "tiny.pth");
    assert_string_equal(info->source_sha256, "0123456789abcdef");
    assert_int_equal(info->layer_count, 12);
    assert_int_equal(info->channels, 3);
    assert_int_equal(info->height, 21);
    assert_int_equal(info->width, 21);
    assert_int_equal(info->classes, 11);
    assert_int_equal(info->preprocess.short_side, 24);
    assert_int_equal(info->preprocess.crop, 21);
    assert_int_equal(info->preprocess.interpolation, EFFNET_BICUBIC);
    assert_true(info->preprocess.mean[0] == 127 && info->preprocess.mean[1] == 116.5f);
    assert_true(info->preprocess.std[2] == 61 && info->preprocess.std[1] == 57.25f);
    assert_string_equal(effnet_model_label(model, 10).id, "n00000010");
    assert_string_equal(effnet_model_label(model, 0).name, "class 0");
    effnet_model_close(model);
}

/* Shapes and counts of the tiny network, worked out by hand. */
static void test_layers(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        enum effnet_op op;
        enum effnet_activation activation;
        int in_size, in, out_size, out, kernel, stride, before, after, residual, block;
        int64_t parameters, multiply_adds;
    } rows[] = {
        {"stem", EFFNET_OP_CONV, EFFNET_ACT_RELU6, 21, 3, 11, 9, 3, 2, 1, 1, -1, -1, 252, 29403},
        {"blocks.0.depthwise", EFFNET_OP_DEPTHWISE, EFFNET_ACT_RELU6, 11, 9, 11, 9, 3, 1, 1, 1, -1, 0, 90,
         9801},
        {"blocks.0.project", EFFNET_OP_POINTWISE, EFFNET_ACT_NONE, 11, 9, 11, 7, 1, 1, 0, 0, -1, 0, 70, 7623},
        {"blocks.1.expand", EFFNET_OP_POINTWISE, EFFNET_ACT_RELU6, 11, 7, 11, 37, 1, 1, 0, 0, -1, 1, 296,
         31339},
        {"blocks.1.depthwise", EFFNET_OP_DEPTHWISE, EFFNET_ACT_RELU6, 11, 37, 6, 37, 5, 2, 2, 2, -1, 1, 962,
         33300},
        {"blocks.1.project", EFFNET_OP_POINTWISE, EFFNET_ACT_NONE, 6, 37, 6, 13, 1, 1, 0, 0, -1, 1, 494,
         17316},
        {"blocks.2.expand", EFFNET_OP_POINTWISE, EFFNET_ACT_RELU6, 6, 13, 6, 70, 1, 1, 0, 0, -1, 2, 980,
         32760},
        {"blocks.2.depthwise", EFFNET_OP_DEPTHWISE, EFFNET_ACT_RELU6, 6, 70, 6, 70, 5, 1, 2, 2, -1, 2, 1820,
         63000},
        {"blocks.2.project", EFFNET_OP_POINTWISE, EFFNET_ACT_NONE, 6, 70, 6, 13, 1, 1, 0, 0, 5, 2, 923,
         32760},
        {"head", EFFNET_OP_POINTWISE, EFFNET_ACT_RELU6, 6, 13, 6, 65, 1, 1, 0, 0, -1, -1, 910, 30420},
        {"pool", EFFNET_OP_POOL, EFFNET_ACT_NONE, 6, 65, 1, 65, 1, 1, 0, 0, -1, -1, 0, 0},
        {"classifier", EFFNET_OP_LINEAR, EFFNET_ACT_NONE, 1, 65, 1, 11, 1, 1, 0, 0, -1, -1, 726, 715},
    };
    struct weights *w = weights_tiny(2);
    float *data = malloc(w->data_bytes);
    assert_non_null(data);
    memcpy(data, w->data, w->data_bytes);
    effnet_model *model = weights_open(w);
    int64_t parameters = 0, multiply_adds = 0;
    for (int i = 0; i < 12; i++) {
        const struct effnet_layer *layer = effnet_model_layer(model, i);
        assert_string_equal(layer->name, rows[i].name);
        assert_int_equal(layer->op, rows[i].op);
        assert_int_equal(layer->activation, rows[i].activation);
        assert_int_equal(layer->in_height, rows[i].in_size);
        assert_int_equal(layer->in_width, rows[i].in_size);
        assert_int_equal(layer->in_channels, rows[i].in);
        assert_int_equal(layer->out_height, rows[i].out_size);
        assert_int_equal(layer->out_width, rows[i].out_size);
        assert_int_equal(layer->out_channels, rows[i].out);
        assert_int_equal(layer->kernel, rows[i].kernel);
        assert_int_equal(layer->stride, rows[i].stride);
        assert_int_equal(layer->pad_top, rows[i].before);
        assert_int_equal(layer->pad_left, rows[i].before);
        assert_int_equal(layer->pad_bottom, rows[i].after);
        assert_int_equal(layer->pad_right, rows[i].after);
        assert_int_equal(layer->residual, rows[i].residual);
        assert_int_equal(layer->block, rows[i].block);
        assert_int_equal(layer->parameters, rows[i].parameters);
        assert_int_equal(layer->multiply_adds, rows[i].multiply_adds);
        if (layer->parameters) { /* the builder lays the tensors out in this order */
            assert_memory_equal(layer->weight, data + parameters,
                                (size_t)(layer->parameters - layer->out_channels) * sizeof(float));
            assert_memory_equal(layer->bias, data + parameters + layer->parameters - layer->out_channels,
                                (size_t)layer->out_channels * sizeof(float));
        }
        parameters += layer->parameters;
        multiply_adds += layer->multiply_adds;
    }
    assert_int_equal(effnet_model_get_info(model)->parameters, parameters);
    assert_int_equal(effnet_model_get_info(model)->multiply_adds, multiply_adds);
    free(data);
    effnet_model_close(model);
}

/* Asymmetric padding, every activation, a head of several linear layers with a residual between them, and
 * what may be left out of the file. */
static void test_variety(void **state)
{
    (void)state;
    struct weights *w = weights_new(3, 30, 30);
    weights_layer(w, "stem", "conv", 8, 4, 3, (int[]){0, 1, 3, 2}, "silu", NULL, -1);
    weights_layer(w, "mix", "pointwise", 6, 1, 1, NULL, "gelu", NULL, 4);
    weights_layer(w, "pool", "pool", 6, 1, 1, NULL, NULL, NULL, -1);
    weights_layer(w, "classifier.0", "linear", 6, 1, 1, NULL, "gelu_relu", "pool", -1);
    weights_layer(w, "classifier.1", "linear", 1, 1, 1, NULL, "relu", NULL, -1);
    cJSON_AddItemToArray(w->labels, cJSON_Parse("{\"name\":\"na\\u00efve \\ud83d\\ude00\",\"rank\":1}"));
    cJSON_AddStringToObject(w->metadata, "remark", "unknown keys of the metadata are nobody's business");
    cJSON_Delete(w->source);
    w->source = NULL;
    cJSON_ReplaceItemInObject(w->preprocess, "interpolation", cJSON_CreateString("bilinear"));
    effnet_model *model = weights_open(w);
    const struct effnet_layer *stem = effnet_model_layer(model, 0);
    assert_int_equal(stem->out_height, 10); /* (30 + 0 + 3 - 4) / 3 + 1 */
    assert_int_equal(stem->out_width, 10);
    assert_int_equal(stem->pad_left, 1);
    assert_int_equal(stem->pad_bottom, 3);
    assert_int_equal(stem->activation, EFFNET_ACT_SILU);
    assert_int_equal(effnet_model_layer(model, 1)->activation, EFFNET_ACT_GELU);
    assert_int_equal(effnet_model_layer(model, 1)->block, 4);
    assert_int_equal(effnet_model_layer(model, 3)->activation, EFFNET_ACT_GELU_RELU);
    assert_int_equal(effnet_model_layer(model, 3)->residual, 2);
    assert_string_equal(effnet_model_label(model, 0).id, "");
    assert_string_equal(effnet_model_label(model, 0).name, "na\xc3\xafve \xf0\x9f\x98\x80");
    assert_string_equal(effnet_model_get_info(model)->source_file, "");
    assert_int_equal(effnet_model_get_info(model)->preprocess.interpolation, EFFNET_BILINEAR);
    effnet_model_close(model);
}

/* What layers take and who reads them, in squeeze-and-excite blocks and where a layer goes back to the image.
 */
static void test_graph(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        enum effnet_op op;
        enum effnet_activation activation;
        int inputs[2], input_count, last_reader, in, out_size, out;
        int64_t parameters, multiply_adds;
    } rows[] = {
        {"stem", EFFNET_OP_CONV, EFFNET_ACT_SILU, {EFFNET_IMAGE}, 1, 4, 3, 11, 9, 252, 29403},
        {"a.pool", EFFNET_OP_POOL, EFFNET_ACT_NONE, {0}, 1, 2, 9, 1, 9, 0, 0},
        {"a.reduce", EFFNET_OP_LINEAR, EFFNET_ACT_SILU, {1}, 1, 3, 9, 1, 2, 20, 18},
        {"a.expand", EFFNET_OP_LINEAR, EFFNET_ACT_SIGMOID, {2}, 1, 4, 2, 1, 9, 27, 18},
        {"a.scale", EFFNET_OP_SCALE, EFFNET_ACT_NONE, {0, 3}, 2, 5, 9, 11, 9, 0, 0},
        {"mix", EFFNET_OP_POINTWISE, EFFNET_ACT_NONE, {4}, 1, 7, 9, 11, 9, 90, 9801},
        {"image2", EFFNET_OP_CONV, EFFNET_ACT_RELU, {EFFNET_IMAGE}, 1, 7, 3, 11, 9, 252, 29403},
        {"join", EFFNET_OP_POINTWISE, EFFNET_ACT_NONE, {6, 5}, 2, 8, 9, 11, 9, 90, 9801},
        {"again", EFFNET_OP_POINTWISE, EFFNET_ACT_NONE, {7, 7}, 2, 9, 9, 11, 9, 90, 9801},
    };
    struct weights *w = weights_new(5, 21, 21);
    weights_conv(w, "stem", 9, 3, 2, WEIGHTS_SAME, "silu");
    weights_squeeze_excite(w, "a", 2, "silu");
    weights_layer(w, "mix", "pointwise", 9, 1, 1, NULL, "none", NULL, -1);
    weights_take(w, "image");
    weights_conv(w, "image2", 9, 3, 2, WEIGHTS_SAME, "relu");
    weights_layer(w, "join", "pointwise", 9, 1, 1, NULL, "none", "mix", -1);
    weights_layer(w, "again", "pointwise", 9, 1, 1, NULL, "none", "join", -1);
    weights_head(w, 4, "silu", 11);
    cJSON *layers = cJSON_GetObjectItem(w->network, "layers");
    /* what is the default may be said, too */
    cJSON_AddItemToObject(layers->child, "inputs", cJSON_Parse("[\"image\"]"));
    cJSON_AddItemToObject(cJSON_GetArrayItem(layers, 1), "inputs", cJSON_Parse("[\"stem\"]"));
    effnet_model *model = weights_open(w);
    for (int i = 0; i < 9; i++) {
        const struct effnet_layer *layer = effnet_model_layer(model, i);
        assert_string_equal(layer->name, rows[i].name);
        assert_int_equal(layer->op, rows[i].op);
        assert_int_equal(layer->activation, rows[i].activation);
        assert_int_equal(layer->input_count, rows[i].input_count);
        for (int k = 0; k < layer->input_count; k++) assert_int_equal(layer->inputs[k], rows[i].inputs[k]);
        assert_int_equal(layer->residual, i == 7 ? 5 : i == 8 ? 7 : -1);
        assert_int_equal(layer->last_reader, rows[i].last_reader);
        assert_int_equal(layer->in_channels, rows[i].in);
        assert_int_equal(layer->out_height, rows[i].out_size);
        assert_int_equal(layer->out_channels, rows[i].out);
        assert_int_equal(layer->parameters, rows[i].parameters);
        assert_int_equal(layer->multiply_adds, rows[i].multiply_adds);
        assert_int_equal(!layer->weight, rows[i].parameters == 0);
    }
    assert_int_equal(effnet_layer_in_size(effnet_model_layer(model, 4), 0), 11 * 11 * 9);
    assert_int_equal(effnet_layer_in_size(effnet_model_layer(model, 4), 1), 9);
    assert_int_equal(effnet_layer_in_size(effnet_model_layer(model, 7), 1), 11 * 11 * 9);
    assert_int_equal(effnet_layer_out_size(effnet_model_layer(model, 3)), 9);
    assert_int_equal(effnet_model_layer(model, 11)->last_reader, 11); /* the last layer */
    assert_string_equal(effnet_input_name(model, EFFNET_IMAGE), "image");
    assert_string_equal(effnet_input_name(model, 4), "a.scale");
    effnet_model_close(model);
}

/* What version 2 says of the network's input and output; without the words it is as it was in version 1. */
static void test_version_2(void **state)
{
    (void)state;
    effnet_model *model = weights_open(weights_tiny_excited(1));
    assert_int_equal(effnet_model_get_info(model)->preprocess.resize, EFFNET_RESIZE_SHORT_SIDE);
    assert_false(effnet_model_get_info(model)->multi_label);
    effnet_model_close(model);

    struct weights *w = weights_new(7, 8, 8);
    weights_layer(w, "pool", "pool", 3, 1, 1, NULL, NULL, NULL, -1);
    weights_layer(w, "classifier.0", "linear", 5, 1, 1, NULL, "hardswish", NULL, -1);
    weights_layer(w, "classifier.1", "linear", 5, 1, 1, NULL, "tanh", NULL, -1);
    weights_layer(w, "classifier.2", "linear", 1, 1, 1, NULL, "none", NULL, -1);
    weights_labels(w, 1);
    weights_multi_label(w);
    weights_squash(w);
    model = weights_open(w);
    assert_int_equal(effnet_model_layer(model, 1)->activation, EFFNET_ACT_HARDSWISH);
    assert_int_equal(effnet_model_layer(model, 2)->activation, EFFNET_ACT_TANH);
    const struct effnet_model_info *info = effnet_model_get_info(model);
    assert_true(info->multi_label);
    assert_int_equal(info->preprocess.resize, EFFNET_RESIZE_SQUASH);
    assert_true(info->preprocess.short_side == 8 && info->preprocess.crop == 8);
    effnet_model_close(model);

    w = weights_tiny_excited(1);
    cJSON_AddFalseToObject(w->network, "multi_label");
    cJSON_AddStringToObject(w->preprocess, "resize", "short-side");
    model = weights_open(w);
    assert_int_equal(effnet_model_get_info(model)->preprocess.resize, EFFNET_RESIZE_SHORT_SIDE);
    assert_int_equal(effnet_model_get_info(model)->preprocess.short_side, 24);
    assert_false(effnet_model_get_info(model)->multi_label);
    effnet_model_close(model);
}

/* A file of version 1 may call a layer what version 2 keeps for the image. */
static void test_layer_named_image(void **state)
{
    (void)state;
    struct weights *w = weights_new(5, 8, 8);
    weights_conv(w, "image", 8, 3, 1, WEIGHTS_SAME, "relu");
    weights_layer(w, "mix", "pointwise", 8, 1, 1, NULL, "none", "image", -1);
    weights_head(w, 4, "relu", 3);
    effnet_model *model = weights_open(w);
    assert_int_equal(effnet_model_layer(model, 1)->residual, 0);
    effnet_model_close(model);
}

static void test_names(void **state)
{
    (void)state;
    assert_string_equal(effnet_op_name(EFFNET_OP_POINTWISE), "pointwise");
    assert_string_equal(effnet_op_name(EFFNET_OP_SCALE), "scale");
    assert_string_equal(effnet_activation_name(EFFNET_ACT_GELU_RELU), "gelu_relu");
    assert_string_equal(effnet_activation_name(EFFNET_ACT_SIGMOID), "sigmoid");
    assert_string_equal(effnet_activation_name(EFFNET_ACT_HARDSWISH), "hardswish");
    assert_string_equal(effnet_activation_name(EFFNET_ACT_TANH), "tanh");
    assert_string_equal(effnet_op_name((enum effnet_op)99), "unknown");
    assert_string_equal(effnet_activation_name((enum effnet_activation)99), "unknown");
}

static void test_arguments(void **state)
{
    (void)state;
    effnet_model *model = (effnet_model *)&model;
    assert_int_equal(effnet_model_open(NULL, &model, NULL), EFFNET_E_USAGE);
    assert_null(model);
    assert_int_equal(effnet_model_open("x", NULL, NULL), EFFNET_E_USAGE);
    effnet_model_close(NULL);
}

static void test_no_such_file(void **state)
{
    (void)state;
    expect_failure("/nowhere/at/all.safetensors", EFFNET_E_NOINPUT, "No such file");
    expect_failure("/tmp", EFFNET_E_NOINPUT, "not a regular file");
    expect_failure("", EFFNET_E_NOINPUT, "No such file");

    char pipe[160]; /* nobody writes to it: opening must not wait */
    snprintf(pipe, sizeof pipe, "%s.fifo", weights_path());
    assert_int_equal(mkfifo(pipe, 0600), 0);
    expect_failure(pipe, EFFNET_E_NOINPUT, "not a regular file");
    unlink(pipe);
}

/* The reason survives a path longer than the message. */
static void test_long_path(void **state)
{
    (void)state;
    char path[3000];
    memset(path, 'x', sizeof path);
    for (size_t i = 0; i < sizeof path; i += 100) path[i] = '/';
    memcpy(path + sizeof path - 9, "/end.bin", 9);
    struct effnet_error error = {0};
    effnet_model *model;
    assert_int_equal(effnet_model_open(path, &model, &error), EFFNET_E_NOINPUT);
    assert_non_null(strstr(error.message, "/end.bin: No such file"));
}

/* A header length, a header, and `data` zero bytes. */
static void write_file(uint64_t length, const char *header, size_t data)
{
    size_t text = strlen(header), size = sizeof length + text + data;
    char *bytes = calloc(1, size);
    assert_non_null(bytes);
    memcpy(bytes, &length, sizeof length);
    memcpy(bytes + sizeof length, header, text);
    weights_write_bytes(bytes, size);
    free(bytes);
}

static void expect_header_failure(uint64_t length, const char *header, size_t data, const char *part)
{
    write_file(length, header, data);
    expect_failure(weights_path(), EFFNET_E_DATA, part);
}

static void test_header_length(void **state)
{
    (void)state;
    for (size_t size = 0; size < 8; size++) {
        weights_write_bytes("\x40\0\0\0\0\0\0\0", size);
        expect_failure(weights_path(), EFFNET_E_DATA, "too few");
    }
    expect_header_failure(0, "", 0, "leaves no data");
    expect_header_failure(8, "{}      ", 0, "leaves no data");
    expect_header_failure(8, "{}      ", 4, "header: no tensors");
    expect_header_failure(100, "{}      ", 91, "leaves no data");
    expect_header_failure(100000000, "{}      ", 4, "leaves no data");
    expect_header_failure(100000001, "{}      ", 4,
                          "header of 100000001 bytes is over the limit of 100000000");
    expect_header_failure(UINT64_MAX, "{}      ", 4, "over the limit");
    expect_header_failure(UINT64_MAX - 7, "{}      ", 4, "over the limit");
    expect_header_failure(7, "{}     ", 8, "not a multiple of 4");
    expect_header_failure(8, "\x89PNG\r\n\x1a\n", 8, "header without a JSON object");
}

static void test_header_text(void **state)
{
    (void)state;
    expect_header_failure(0, "", 8, "header without a JSON object");
    expect_header_failure(8, "        ", 8, "header without a JSON object");
    expect_header_failure(8, "[1,2,3] ", 8, "header without a JSON object");
    expect_header_failure(8, "{}  {}  ", 8, "header: something follows the JSON at byte 4");
    expect_header_failure(8, "{\"a\":1, ", 8, "not valid JSON");
    expect_header_failure(8, "{\"a\":1, \"b\":2}", 8, "not valid JSON"); /* cut by its length */
    expect_header_failure(8, "{\"a\":1} ", 8, "tensor 'a': not a JSON object");
    expect_header_failure(8, "{\"abcdef", 8, "not valid JSON");
    expect_header_failure(8, "{\"\\u12\":", 8, "not valid JSON");
    expect_header_failure(20, "{\"__metadata__\":{}} ", 8, "no tensors");
}

/* "{"a":[[[[...": deep, then wide. Neither may take the stack or gigabytes. */
static void test_bombs(void **state)
{
    (void)state;
    size_t size = 8000000;
    char *text = malloc(size + 1);
    assert_non_null(text);
    memset(text, '[', size);
    text[size] = 0;
    memcpy(text, "{\"a\":", 5);
    expect_header_failure(size, text, 8, "header: more than 1000000 JSON values");
    text[400000] = 0;
    expect_header_failure(400000, text, 8, "header: not valid JSON at byte");
    text[400000] = '[';
    for (size_t i = 5; i < size; i++) text[i] = i % 2 ? '[' : ']';
    for (size_t i = 6; i < size; i += 3) text[i] = ',';
    expect_header_failure(size, text, 8, "header: more than 1000000 JSON values");
    memset(text, '9', size);
    memcpy(text, "{\"a\":", 5);
    expect_header_failure(size, text, 8, "header: not valid JSON at byte");
    memset(text, 'a', size);
    text[0] = '{';
    text[1] = '"';
    expect_header_failure(size, text, 8, "header: not valid JSON at byte");
    free(text);
}

/* Every truncation of a good file is an error. */
static void test_truncated(void **state)
{
    (void)state;
    struct weights *w = weights_tiny(4);
    const char *path = weights_save(w);
    weights_free(w);
    FILE *file = fopen(path, "rb");
    assert_non_null(file);
    static char bytes[100000];
    size_t size = fread(bytes, 1, sizeof bytes, file);
    assert_in_range(size, 1000, sizeof bytes - 1);
    fclose(file);
    for (size_t cut = 0; cut < size; cut += cut < 64 || size - cut < 64 ? 1 : 61) {
        weights_write_bytes(bytes, cut);
        expect_failure(path, EFFNET_E_DATA, ": ");
    }
    bytes[size] = 0;
    weights_write_bytes(bytes, size + 1);
    expect_failure(path, EFFNET_E_DATA, "tensor 'classifier.bias' at offset");
    weights_write_bytes(bytes, size);
    effnet_model *model;
    assert_int_equal(effnet_model_open(path, &model, NULL), EFFNET_OK);
    effnet_model_close(model);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_info),        cmocka_unit_test(test_layers),
        cmocka_unit_test(test_graph),       cmocka_unit_test(test_layer_named_image),
        cmocka_unit_test(test_variety),     cmocka_unit_test(test_names),
        cmocka_unit_test(test_arguments),   cmocka_unit_test(test_no_such_file),
        cmocka_unit_test(test_long_path),   cmocka_unit_test(test_header_length),
        cmocka_unit_test(test_header_text), cmocka_unit_test(test_bombs),
        cmocka_unit_test(test_truncated),   cmocka_unit_test(test_version_2),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
