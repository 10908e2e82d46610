/* A weights file that is wrong in one place: each way of being wrong is refused, by name. */
#include "weights_builder.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "rejects.h"

/* stem.weight is at 0..972, stem.bias at 972..1008, blocks.0.depthwise.weight at 1008..1332. */
static void test_tensors(void **state)
{
    (void)state;
    static const struct edit edits[] = {
        {TENSORS, "stem.bias", "7", "tensor 'stem.bias': not a JSON object"},
        {TENSORS, "stem.bias", NULL,
         "tensor 'blocks.0.depthwise.weight' at offset 1008: there is a hole before it"},
        {TENSORS, "stem.bias/dtype", NULL, "tensor 'stem.bias': key \"dtype\" is missing"},
        {TENSORS, "stem.bias/shape", NULL, "tensor 'stem.bias': key \"shape\" is missing"},
        {TENSORS, "stem.bias/data_offsets", NULL, "tensor 'stem.bias': key \"data_offsets\" is missing"},
        {TENSORS, "stem.bias/+dtype", "\"F32\"", "tensor 'stem.bias': key \"dtype\" appears twice"},
        {TENSORS, "stem.bias/+strides", "[1]", "tensor 'stem.bias': unknown key \"strides\""},
        {TENSORS, "stem.bias/dtype", "\"F16\"",
         "tensor 'stem.bias' at offset 972: type F16 is not supported"},
        {TENSORS, "stem.bias/dtype", "\"I64\"", "type I64 is not supported"},
        {TENSORS, "stem.bias/dtype", "\"f32\"", "tensor 'stem.bias' at offset 972: unknown type \"f32\""},
        {TENSORS, "stem.bias/dtype", "32", "tensor 'stem.bias' at offset 972: dtype is not a string"},
        {TENSORS, "stem.bias/shape", "9", "tensor 'stem.bias' at offset 972: shape is not an array"},
        {TENSORS, "stem.bias/shape", "[10]", "tensor 'stem.bias' at offset 972: shape [10] takes 40 bytes"},
        {TENSORS, "stem.bias/shape", "[8]", "shape [8] takes 32 bytes, but its offsets span 36"},
        {TENSORS, "stem.bias/shape", "[]", "shape [] takes 4 bytes"},
        {TENSORS, "stem.bias/shape", "[-9]", "shape is -9, not a whole number"},
        {TENSORS, "stem.bias/shape", "[9.5]", "shape is 9.5, not a whole number"},
        {TENSORS, "stem.bias/shape", "[1e300]", "not a whole number"},
        {TENSORS, "stem.bias/shape", "[1e999]", "shape is inf, not a whole number"},
        {TENSORS, "stem.bias/shape", "[9007199254740994]", "not a whole number"},
        {TENSORS, "stem.bias/shape", "[\"9\"]", "shape is not a number"},
        {TENSORS, "stem.bias/shape", "[null]", "shape is not a number"},
        {TENSORS, "stem.bias/shape", "[4294967296,4294967296]", "shape [4294967296,4294967296] overflows"},
        {TENSORS, "stem.bias/shape", "[2305843009213693952,9]", "not a whole number"},
        {TENSORS, "stem.bias/shape", "[4503599627370496,4503599627370496,0]", "overflows"},
        {TENSORS, "stem.bias/shape", "[1,1,1,1,1,1,1,1,9]", "more than 8 dimensions"},
        {TENSORS, "stem.bias/shape", "[1,9]",
         "tensor 'stem.bias' at offset 972: shape [1,9], but the layer table makes it [9]"},
        {TENSORS, "stem.weight/shape", "[3,9,3,3]",
         "tensor 'stem.weight' at offset 0: shape [3,9,3,3], but the layer table makes it [9,3,3,3]"},
        {TENSORS, "classifier.weight/shape", "[11,65,1,1]",
         "shape [11,65,1,1], but the layer table makes it [11,65]"},
        {TENSORS, "stem.bias/data_offsets", "972", "tensor 'stem.bias': data_offsets is not an array of 2"},
        {TENSORS, "stem.bias/data_offsets", "[972]", "data_offsets is not an array of 2"},
        {TENSORS, "stem.bias/data_offsets", "[972,1008,1]", "data_offsets is not an array of 2"},
        {TENSORS, "stem.bias/data_offsets", "[\"a\",1008]",
         "tensor 'stem.bias': data_offsets is not a number"},
        {TENSORS, "stem.bias/data_offsets", "[-4,32]", "tensor 'stem.bias': data_offsets is -4"},
        {TENSORS, "stem.bias/data_offsets", "[972,1e18]",
         "tensor 'stem.bias' at offset 972: data_offsets is 1e+18"},
        {TENSORS, "stem.bias/data_offsets", "[972.5,1008]", "data_offsets is 972.5"},
        {TENSORS, "stem.bias/data_offsets", "[1008,972]",
         "tensor 'stem.bias' at offset 1008: ends before it begins, at 972"},
        {TENSORS, "stem.bias/data_offsets", "[972,10000000]",
         "tensor 'stem.bias' at offset 972: ends at 10000000, but there are"},
        {TENSORS, "stem.bias/data_offsets", "[968,1004]",
         "tensor 'stem.bias' at offset 968: overlaps tensor 'stem.weight', which ends at 972"},
        {TENSORS, "stem.bias/data_offsets", "[0,36]", "overlaps tensor 'stem.bias'"},
        {TENSORS, "stem.bias/data_offsets", "[976,1012]",
         "tensor 'stem.bias' at offset 976: there is a hole before it: the bytes from 972"},
        {TENSORS, "+stem.bias", "{\"dtype\":\"F32\",\"shape\":[9],\"data_offsets\":[972,1008]}",
         "tensor 'stem.bias' at offset 972: there is another of this name at offset 972"},
        {TENSORS, "+", "{\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[0,0]}",
         "tensor '' at offset 0: belongs to no layer"},
        {TENSORS, "+extra", "{\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[972,972]}",
         "tensor 'extra' at offset 972: belongs to no layer of the table"},
    };
    RUN(edits);
}

/* Appends a tensor of `count` floats to the data. */
static void add_tensor(struct weights *w, const char *name, int count)
{
    char json[160];
    size_t end = w->data_bytes + (size_t)count * sizeof(float);
    snprintf(json, sizeof json, "{\"dtype\":\"F32\",\"shape\":[%d],\"data_offsets\":[%zu,%zu]}", count,
             w->data_bytes, end);
    cJSON_AddItemToObject(w->tensors, name, raw(json));
    w->data = realloc(w->data, end);
    assert_non_null(w->data);
    memset((char *)w->data + w->data_bytes, 0, end - w->data_bytes);
    w->data_bytes = end;
}

static void test_extra_and_missing(void **state)
{
    (void)state;
    struct weights *w = weights_tiny(1);
    char message[128];
    snprintf(message, sizeof message, "tensor 'head.scale' at offset %zu: belongs to no layer",
             w->data_bytes);
    add_tensor(w, "head.scale", 65);
    expect_rejected(w, "an extra tensor", message);

    w = weights_tiny(2); /* same bytes under another name */
    cJSON *tensor = cJSON_DetachItemFromObject(w->tensors, "head.bias");
    cJSON_AddItemToObject(w->tensors, "head.beta", tensor);
    expect_rejected(w, "a missing tensor", "tensor 'head.bias': is missing");

    w = weights_tiny(3);
    w->data_bytes -= 4;
    expect_rejected(w, "data cut short", "tensor 'classifier.bias' at offset");

    w = weights_tiny(4);
    w->data = realloc(w->data, w->data_bytes + 4);
    assert_non_null(w->data);
    memset((char *)w->data + w->data_bytes, 0, 4);
    w->data_bytes += 4;
    expect_rejected(w, "data too long", "tensor 'classifier.bias' at offset");

    w = weights_tiny(5); /* the first byte is nobody's */
    cJSON_ReplaceItemInObject(w->tensors, "stem.weight",
                              raw("{\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[972,972]}"));
    expect_rejected(w, "a hole at the start", "at offset 972: there is a hole before it: the bytes from 0");
}

static void test_duplicate_metadata(void **state)
{
    (void)state;
    struct weights *w = weights_tiny(1);
    w->header_tail = ",\"__metadata__\":{\"format\":\"effnet\"}";
    expect_rejected(w, "__metadata__ twice", "header: __metadata__ appears twice");
    w = weights_tiny(1);
    cJSON_AddStringToObject(w->metadata, "network", "{}");
    expect_rejected(w, "network twice", "__metadata__: key \"network\" appears twice");
}

/* Each kind of value that is not finite, at both ends and in the middle of tensors of every size. */
static void test_not_finite(void **state)
{
    (void)state;
    static const struct {
        uint32_t bits;
        const char *text;
    } values[] = {{0x7f800000, "inf"},
                  {0xff800000, "-inf"},
                  {0x7fc00000, "nan"},
                  {0x7f800001, "nan"},
                  {0xffffffff, "nan"}};
    struct weights *reference = weights_tiny(6);
    cJSON *tensor;
    cJSON_ArrayForEach(tensor, reference->tensors)
    {
        cJSON *offsets = cJSON_GetObjectItem(tensor, "data_offsets");
        int begin = cJSON_GetArrayItem(offsets, 0)->valueint / 4,
            end = cJSON_GetArrayItem(offsets, 1)->valueint / 4;
        int places[] = {0, (end - begin) / 2, end - begin - 1};
        for (int i = 0; i < 15; i++) {
            char message[160];
            int place = places[i % 3];
            snprintf(message, sizeof message, "tensor '%s' at offset %d: value %d is %s", tensor->string,
                     begin * 4, place, values[i / 3].text);
            if (values[i / 3].bits << 1 > 0xff000000u) *strstr(message, "nan") = 0; /* "nan" or "-nan" */
            struct weights *w = weights_tiny(6);
            memcpy(&w->data[begin + place], &values[i / 3].bits, 4);
            expect_rejected(w, "a value", message);
        }
    }
    weights_free(reference);

    struct weights *w = weights_tiny(6); /* the largest numbers and subnormals are fine */
    w->data[0] = 3.4028234663852886e38f;
    w->data[1] = -3.4028234663852886e38f;
    w->data[2] = 1e-45f;
    w->data[3] = -0.0f;
    effnet_model_close(weights_open(w));
}

static void test_metadata(void **state)
{
    (void)state;
    static const struct edit edits[] = {
        {METADATA, "", NULL, "__metadata__: is missing"},
        {METADATA, "format", NULL, "__metadata__: key \"format\" is missing"},
        {METADATA, "format", "\"pt\"", "__metadata__: format \"pt\" is not \"effnet\""},
        {METADATA, "format", "1", "__metadata__: \"format\" is not a string"},
        {METADATA, "format_version", NULL, "__metadata__: key \"format_version\" is missing"},
        {METADATA, "format_version", "\"3\"",
         "__metadata__: format version \"3\" is not supported, only \"1\" and \"2\" are"},
        {METADATA, "format_version", "\"0\"", "format version \"0\" is not supported"},
        {METADATA, "format_version", "\"\"", "format version \"\" is not supported"},
        {METADATA, "format_version", "\"1.0\"", "format version \"1.0\" is not supported"},
        {METADATA, "format_version", "1", "__metadata__: \"format_version\" is not a string"},
        {METADATA, "+format", "\"effnet\"", "__metadata__: key \"format\" appears twice"},
        {METADATA, "+source", "\"{}\"", "__metadata__: key \"source\" appears twice"},
        {NETWORK, "", NULL, "__metadata__: key \"network\" is missing"},
        {PREPROCESS, "", NULL, "__metadata__: key \"preprocess\" is missing"},
        {LABELS, "", NULL, "__metadata__: key \"labels\" is missing"},
        {NETWORK, "", "[]", "network: not a JSON object"},
        {PREPROCESS, "", "3", "preprocess: not a JSON object"},
        {SOURCE, "", "[]", "source: not a JSON object"},
        {SOURCE, "file", "7", "source: file is not a string"},
        {SOURCE, "sha256", "null", "source: sha256 is not a string"},
        {SOURCE, "file", "\"a\\nb\"", "source: file holds a control character"},
        {LABELS, "", "{}", "labels: not an array"},
        {LABELS, "10", NULL, "labels: 10 labels for 11 classes"},
        {LABELS, "3", "\"tench\"", "labels: class 3: not a JSON object"},
        {LABELS, "3/name", NULL, "labels: class 3: key \"name\" is missing"},
        {LABELS, "3/name", "4", "labels: class 3: name is not a string"},
        {LABELS, "3/id", "4", "labels: class 3: id is not a string"},
        {LABELS, "3/+name", "\"x\"", "labels: class 3: key \"name\" appears twice"},
        {LABELS, "3/name", "\"\\u001b[31m\"", "labels: class 3: name holds a control character"},
        {LABELS, "3/name", "\"\xc0\xaf\"", "labels: class 3: name is not valid UTF-8"},
        {LABELS, "3/name", "\"\xed\xa0\x80\"", "name is not valid UTF-8"},
        {LABELS, "3/name", "\"\xf4\x90\x80\x80\"", "name is not valid UTF-8"},
        {LABELS, "3/name", "\"\xe2\x82\"", "name is not valid UTF-8"},
        {LABELS, "3/name", "\"\xff\"", "name is not valid UTF-8"},
        {LABELS, "3/name", "\"\x80\"", "name is not valid UTF-8"},
    };
    RUN(edits);
}

/* Metadata that is text, but no JSON. */
static void test_metadata_text(void **state)
{
    (void)state;
    static const char *const keys[] = {"network", "preprocess", "labels", "source"};
    for (int i = 0; i < 4; i++) {
        char message[64];
        struct weights *w = weights_tiny(1);
        apply(w, &(struct edit){NETWORK + i, "", NULL, NULL});
        cJSON_AddStringToObject(w->metadata, keys[i], "{\"name\":");
        snprintf(message, sizeof message, ": %s: not valid JSON at byte 7", keys[i]);
        expect_rejected(w, keys[i], i == 0 ? message : strstr(message, keys[i]));
        w = weights_tiny(1);
        apply(w, &(struct edit){NETWORK + i, "", NULL, NULL});
        cJSON_AddStringToObject(w->metadata, keys[i], "{} x");
        snprintf(message, sizeof message, "%s: something follows the JSON at byte 3", keys[i]);
        expect_rejected(w, keys[i], message);
    }
}

static void test_preprocess(void **state)
{
    (void)state;
    static const struct edit edits[] = {
        {PREPROCESS, "crop", "20", "preprocess: crop 20 is not the network's input, 21x21"},
        {PREPROCESS, "crop", "0", "preprocess: crop is 0, not a whole number from 1"},
        {PREPROCESS, "crop", "21.5", "preprocess: crop is 21.5"},
        {PREPROCESS, "crop", "1e10", "preprocess: crop is 10000000000"},
        {PREPROCESS, "crop", NULL, "preprocess: key \"crop\" is missing"},
        {PREPROCESS, "+crop", "21", "preprocess: key \"crop\" appears twice"},
        {PREPROCESS, "+padding", "1", "preprocess: unknown key \"padding\""},
        {PREPROCESS, "short_side", "20", "preprocess: short_side 20 is smaller than crop 21"},
        {PREPROCESS, "short_side", "1e9", "preprocess: short_side is 1000000000"},
        {PREPROCESS, "short_side", "true", "preprocess: short_side is not a number"},
        {PREPROCESS, "interpolation", "\"nearest\"", "preprocess: unknown interpolation \"nearest\""},
        {PREPROCESS, "interpolation", "3", "preprocess: interpolation is not a string"},
        {PREPROCESS, "mean", "[1,2]", "preprocess: mean is not an array of 3"},
        {PREPROCESS, "mean", "[1,2,3,4]", "preprocess: mean is not an array of 3"},
        {PREPROCESS, "mean", "127", "preprocess: mean is not an array of 3"},
        {PREPROCESS, "mean", "[1,2,\"3\"]", "preprocess: mean holds no number"},
        {PREPROCESS, "mean", "[1,1e999,3]", "preprocess: mean holds inf"},
        {PREPROCESS, "mean", "[1,1e39,3]", "preprocess: mean holds 1e+39"},
        {PREPROCESS, "std", "[1,0,1]", "preprocess: std 0 is not at least"},
        {PREPROCESS, "std", "[1,1e-60,1]", "preprocess: std 0 is not at least"},
        {PREPROCESS, "std", "[1,1,-128]", "preprocess: std -128 is not at least"},
        {PREPROCESS, "std", "[null,1,1]", "preprocess: std holds no number"},
        {NETWORK, "input", "[3,21,22]", "preprocess: crop 21 is not the network's input, 21x22"},
    };
    RUN(edits);
}

/* Layers of the tiny network: 0 stem, 1 and 2 block 0, 3 to 5 block 1, 6 to 8 block 2, 9 head, 10 pool,
 * 11 classifier. */
static void test_table(void **state)
{
    (void)state;
    static const struct edit edits[] = {
        {NETWORK, "name", NULL, "network: key \"name\" is missing"},
        {NETWORK, "name", "\"\"", "network: the name is empty"},
        {NETWORK, "name", "5", "network: name is not a string"},
        {NETWORK, "+epsilon", "1", "network: unknown key \"epsilon\""},
        {NETWORK, "+layers", "[]", "network: key \"layers\" appears twice"},
        {NETWORK, "input", "[3,21]", "network: input is not an array of 3"},
        {NETWORK, "input", "[1,21,21]", "network: input has 1 channels, not 3"},
        {NETWORK, "input", "[3,0,21]", "network: input is 0"},
        {NETWORK, "input", "[3,21,100000]", "network: input is 100000"},
        {NETWORK, "layers", "{}", "network: \"layers\" is not an array"},
        {NETWORK, "layers", "[]", "network: \"layers\" is not an array of 1 to 1024 layers"},
        {NETWORK, "layers/11", NULL, "the last layer is pool, not linear"},
        {NETWORK, "layers/3", "[]", "network: layer 3: not a JSON object"},
        {NETWORK, "layers/3/name", NULL, "network: layer 3: key \"name\" is missing"},
        {NETWORK, "layers/3/name", "\"\"", "network: layer 3: name \"\" does not have 1 to 63 characters"},
        {NETWORK, "layers/3/name", "\"0123456789012345678901234567890123456789012345678901234567890123\"",
         "does not have 1 to 63"},
        {NETWORK, "layers/3/name", "\"a\\tb\"", "network: layer 3: name holds a control character"},
        {NETWORK, "layers/3/name", "\"stem\"", "network: layer 3 'stem': layer 0 has the same name"},
        {NETWORK, "layers/3/+dilation", "2", "network: layer 3: unknown key \"dilation\""},
        {NETWORK, "layers/3/+op", "\"conv\"", "network: layer 3: key \"op\" appears twice"},
        {NETWORK, "layers/3/op", "\"attention\"",
         "network: layer 3 'blocks.1.expand': unknown op \"attention\""},
        {NETWORK, "layers/3/op", "1", "network: layer 3 'blocks.1.expand': op is not a string"},
        {NETWORK, "layers/3/op", "\"conv\"",
         "network: layer 3 'blocks.1.expand': conv needs the key \"kernel\""},
        {NETWORK, "layers/3/op", "\"linear\"",
         "linear takes what pool or linear gives, not a map of 11x11x7"},
        {NETWORK, "layers/3/activation", "\"mish\"",
         "network: layer 3 'blocks.1.expand': unknown activation \"mish\""},
        {NETWORK, "layers/3/activation", NULL,
         "network: layer 3 'blocks.1.expand': key \"activation\" is missing"},
        {NETWORK, "layers/3/in", "8",
         "network: layer 3 'blocks.1.expand': takes 8 channels, but its input has 7"},
        {NETWORK, "layers/0/in", "4", "network: layer 0 'stem': takes 4 channels, but its input has 3"},
        {NETWORK, "layers/3/in", "7.5", "network: layer 3 'blocks.1.expand': in is 7.5"},
        {NETWORK, "layers/3/out", "0", "network: layer 3 'blocks.1.expand': out is 0"},
        {NETWORK, "layers/3/out", "65537", "network: layer 3 'blocks.1.expand': out is 65537"},
        {NETWORK, "layers/3/out", "1e999", "network: layer 3 'blocks.1.expand': out is inf"},
        {NETWORK, "layers/3/out", "38",
         "network: layer 4 'blocks.1.depthwise': takes 37 channels, but its input has 38"},
        {NETWORK, "layers/3/+kernel", "1",
         "network: layer 3 'blocks.1.expand': pointwise takes no key \"kernel\""},
        {NETWORK, "layers/3/+stride", "2", "pointwise takes no key \"stride\""},
        {NETWORK, "layers/11/+pad", "[0,0,0,0]", "linear takes no key \"pad\""},
        {NETWORK, "layers/4/out", "38", "depthwise from 37 to 38 channels"},
        {NETWORK, "layers/4/kernel", NULL,
         "network: layer 4 'blocks.1.depthwise': depthwise needs the key \"kernel\""},
        {NETWORK, "layers/4/stride", NULL, "depthwise needs the key \"stride\""},
        {NETWORK, "layers/4/pad", NULL, "depthwise needs the key \"pad\""},
        {NETWORK, "layers/4/kernel", "0", "kernel is 0, not a whole number from 1 to 15"},
        {NETWORK, "layers/4/kernel", "16", "kernel is 16"},
        {NETWORK, "layers/4/kernel", "\"5\"", "kernel is not a number"},
        {NETWORK, "layers/4/stride", "0", "stride is 0, not a whole number from 1 to 8"},
        {NETWORK, "layers/4/stride", "9", "stride is 9"},
        {NETWORK, "layers/4/pad", "[2,2,2]", "pad is not an array of 4"},
        {NETWORK, "layers/4/pad", "[2,2,2,5]", "pad is 5, not a whole number from 0 to 4"},
        {NETWORK, "layers/4/pad", "[-1,2,2,2]", "pad is -1"},
        {NETWORK, "layers/7/pad", "[0,0,0,0]", "gives 2x2x13 and adds 'blocks.1.project'"},
        {NETWORK, "layers/7/kernel", "11", "kernel 11 is larger than its padded input, 10x10"},
        {NETWORK, "layers/8/add", "\"nobody\"",
         "network: layer 8 'blocks.2.project': adds \"nobody\", which is no earlier layer"},
        {NETWORK, "layers/8/add", "\"blocks.2.project\"", "which is no earlier layer"},
        {NETWORK, "layers/8/add", "\"head\"", "which is no earlier layer"},
        {NETWORK, "layers/8/add", "5", "network: layer 8 'blocks.2.project': add is not a string"},
        {NETWORK, "layers/8/add", "\"blocks.2.expand\"",
         "gives 6x6x13 and adds 'blocks.2.expand', which gives 6x6x70"},
        {NETWORK, "layers/8/add", "\"blocks.0.project\"",
         "gives 6x6x13 and adds 'blocks.0.project', which gives 11x11x7"},
        {NETWORK, "layers/8/block", "-1", "network: layer 8 'blocks.2.project': block is -1"},
        {NETWORK, "layers/8/block", "1e9", "block is 1000000000"},
        {NETWORK, "layers/10/out", "64", "network: layer 10 'pool': pool from 65 to 64 channels"},
        {NETWORK, "layers/10/+activation", "\"relu\"", "network: layer 10 'pool': pool takes no activation"},
        {NETWORK, "layers/10/+add", "\"pool\"", "network: layer 10 'pool': pool takes no key \"add\""},
        {NETWORK, "layers/9", "{\"name\":\"p\",\"op\":\"pool\",\"in\":13,\"out\":13}",
         "network: layer 10 'pool': takes 65 channels"},
        {NETWORK, "layers/10", NULL,
         "network: layer 10 'classifier': linear takes what pool or linear gives, not a map of 6x6x65"},
        {NETWORK, "layers/11/in", "66", "takes 66 channels, but its input has 65"},
        {NETWORK, "layers/11/out", "12", "labels: 11 labels for 12 classes"},
    };
    RUN(edits);
}

/* What came with format version 2, in a file that says 1. */
static void test_version_1(void **state)
{
    (void)state;
    static const struct edit edits[] = {
        {NETWORK, "layers/3/+inputs", "[\"blocks.0.project\"]",
         "network: layer 3 'blocks.1.expand': key \"inputs\" came with format version 2, but the file says "
         "1"},
        {NETWORK, "layers/0/+inputs", "[\"image\"]", "key \"inputs\" came with format version 2"},
        {NETWORK, "layers/3/op", "\"scale\"",
         "network: layer 3 'blocks.1.expand': op \"scale\" came with format version 2"},
        {NETWORK, "layers/3/activation", "\"sigmoid\"",
         "network: layer 3 'blocks.1.expand': activation \"sigmoid\" came with format version 2"},
        {NETWORK, "layers/3/activation", "\"hardswish\"",
         "activation \"hardswish\" came with format version 2"},
        {NETWORK, "layers/3/activation", "\"tanh\"", "activation \"tanh\" came with format version 2"},
        {NETWORK, "+multi_label", "false",
         "network: key \"multi_label\" came with format version 2, but the file says 1"},
        {PREPROCESS, "+resize", "\"short-side\"",
         "preprocess: key \"resize\" came with format version 2, but the file says 1"},
    };
    RUN(edits);
}

/* Layers of the excited network: 0 stem; block 0: 1 depthwise, 2 to 4 pool, reduce, expand, 5 scale, 6
 * project; block 1 from 7, block 2 from 14 on, each with an expand before that; 21 head, 22 pool, 23
 * classifier. */
static void test_graph(void **state)
{
    (void)state;
#define MAP  "\"blocks.0.depthwise\""
#define GATE "\"blocks.0.excite.expand\""
    static const struct edit edits[] = {
        {NETWORK, "layers/5/inputs", "[\"nobody\"," GATE "]",
         "network: layer 5 'blocks.0.excite.scale': takes \"nobody\", which is no earlier layer"},
        {NETWORK, "layers/5/inputs", "[" MAP ",\"nobody\"]", "takes \"nobody\", which is no earlier layer"},
        {NETWORK, "layers/5/inputs", "[" MAP ",\"blocks.0.project\"]",
         "takes \"blocks.0.project\", which is no earlier layer"},
        {NETWORK, "layers/5/inputs", "[\"blocks.0.excite.scale\"," GATE "]",
         "takes \"blocks.0.excite.scale\", which is no earlier layer"},
        {NETWORK, "layers/3/+inputs", "[" GATE "]", /* which takes this one */
         "layer 3 'blocks.0.excite.reduce': takes \"blocks.0.excite.expand\", which is no earlier layer"},
        {NETWORK, "layers/5/inputs", "[" MAP "," MAP "]",
         "network: layer 5 'blocks.0.excite.scale': takes 'blocks.0.depthwise' twice"},
        {NETWORK, "layers/5/inputs", "[\"image\",\"image\"]", "takes 'image' twice"},
        {NETWORK, "layers/5/inputs", "[" MAP "]", "inputs is not an array of 2 names, as scale takes"},
        {NETWORK, "layers/5/inputs", "[" MAP "," GATE "," GATE "]", "inputs is not an array of 2 names"},
        {NETWORK, "layers/5/inputs", "[]", "inputs is not an array of 2 names"},
        {NETWORK, "layers/5/inputs", MAP, "inputs is not an array of 2 names"},
        {NETWORK, "layers/5/inputs", "[" MAP ",4]", "an input is not a string"},
        {NETWORK, "layers/5/inputs", "[null," GATE "]", "an input is not a string"},
        {NETWORK, "layers/5/inputs", NULL, "layer 5 'blocks.0.excite.scale': scale needs the key \"inputs\""},
        {NETWORK, "layers/5/+inputs", "[" MAP "," GATE "]", "key \"inputs\" appears twice"},
        {NETWORK, "layers/6/+inputs", "[" MAP "," GATE "]",
         "inputs is not an array of 1 name, as pointwise takes"},
        {NETWORK, "layers/6/+inputs", "[]", "inputs is not an array of 1 name, as pointwise takes"},
        {NETWORK, "layers/5/inputs", "[" MAP ",\"stem\"]", "its gate 'stem' gives 11x11x9, not 1x1x9"},
        {NETWORK, "layers/5/inputs", "[" MAP ",\"image\"]", "its gate 'image' gives 21x21x3, not 1x1x9"},
        {NETWORK, "layers/5/inputs", "[" MAP ",\"blocks.0.excite.reduce\"]",
         "its gate 'blocks.0.excite.reduce' gives 1x1x3, not 1x1x9"},
        {NETWORK, "layers/5/inputs", "[\"blocks.0.excite.pool\"," GATE "]",
         "scale after pool: only linear may follow"},
        {NETWORK, "layers/5/inputs", "[\"image\"," GATE "]", "takes 9 channels, but its input has 3"},
        {NETWORK, "layers/5/in", "8", "takes 8 channels, but its input has 9"},
        {NETWORK, "layers/5/out", "8", "scale from 9 to 8 channels; both must be the same"},
        {NETWORK, "layers/5/+activation", "\"silu\"", "scale takes no activation"},
        {NETWORK, "layers/5/+add", "\"stem\"", "scale takes no key \"add\""},
        {NETWORK, "layers/5/+kernel", "1", "scale takes no key \"kernel\""},
        {NETWORK, "layers/5/op", "\"gate\"", "unknown op \"gate\""},
        {NETWORK, "layers/3/+inputs", "[\"stem\"]",
         "linear takes what pool or linear gives, not a map of 11x11x9"},
        {NETWORK, "layers/13/+inputs", "[\"blocks.0.project\"]", "takes 37 channels, but its input has 7"},
        {NETWORK, "layers/0/+inputs", "[\"stem\"]", "layer 0 'stem': takes \"stem\", which is no earlier"},
        {NETWORK, "layers/20/add", "\"blocks.0.project\"",
         "gives 6x6x13 and adds 'blocks.0.project', which gives 11x11x7"},
        {NETWORK, "layers/20/add", "\"blocks.2.excite.expand\"",
         "gives 6x6x13 and adds 'blocks.2.excite.expand', which gives 1x1x70"},
        {NETWORK, "layers/20/add", "\"image\"", "adds \"image\", which is no earlier layer"},
        {NETWORK, "layers/3/name", "\"image\"",
         "network: layer 3 'image': the name stands for what the network takes"},
        {NETWORK, "layers/6/+inputs", "[" MAP "]",
         "network: layer 5 'blocks.0.excite.scale': no layer takes its output"},
        {NETWORK, "layers/7/+inputs", "[\"image\"]", "takes 7 channels, but its input has 3"},
        {NETWORK, "layers/23", NULL, "the last layer is pool, not linear"},
    };
    RUN_ON(weights_tiny_excited, edits);
}

/* What version 2 says of the network's input and output. */
static void test_version_2(void **state)
{
    (void)state;
    static const struct edit edits[] = {
        {PREPROCESS, "+resize", "\"squash\"",
         "preprocess: resize \"squash\" with short_side 24 and crop 21; both must be the same"},
        {PREPROCESS, "+resize", "\"stretch\"",
         "preprocess: unknown resize \"stretch\", only \"short-side\" and \"squash\" are known"},
        {PREPROCESS, "+resize", "0", "preprocess: resize is not a string"},
        {PREPROCESS, "+resize", "null", "preprocess: resize is not a string"},
        {NETWORK, "+multi_label", "1", "network: multi_label is neither true nor false"},
        {NETWORK, "+multi_label", "\"true\"", "network: multi_label is neither true nor false"},
        {NETWORK, "+multi_label", "null", "network: multi_label is neither true nor false"},
        {NETWORK, "layers/3/activation", "\"Tanh\"", "unknown activation \"Tanh\""},
    };
    RUN_ON(weights_tiny_excited, edits);
}

static void test_chain(void **state)
{
    (void)state;
    struct weights *w = weights_new(1, 8, 8);
    weights_conv(w, "stem", 4, 3, 1, WEIGHTS_SAME, "relu");
    weights_layer(w, "pool", "pool", 4, 1, 1, NULL, NULL, NULL, -1);
    weights_layer(w, "again", "pool", 4, 1, 1, NULL, NULL, NULL, -1);
    expect_rejected(w, "pool twice", "network: layer 2 'again': pool after pool: only linear may follow");

    w = weights_new(1, 8, 8);
    weights_layer(w, "pool", "pool", 3, 1, 1, NULL, NULL, NULL, -1);
    weights_layer(w, "mix", "pointwise", 4, 1, 1, NULL, "relu", NULL, -1);
    expect_rejected(w, "pointwise after pool",
                    "network: layer 1 'mix': pointwise after pool: only linear may follow");

    w = weights_new(1, 8, 8);
    weights_layer(w, "pool", "pool", 3, 1, 1, NULL, NULL, NULL, -1);
    weights_layer(w, "fc", "linear", 3, 1, 1, NULL, "relu", NULL, -1);
    weights_layer(w, "again", "pool", 3, 1, 1, NULL, NULL, NULL, -1);
    expect_rejected(w, "pool after linear",
                    "network: layer 2 'again': pool after linear: only linear may follow");

    w = weights_new(1, 1, 1);
    weights_layer(w, "fc", "linear", 4, 1, 1, NULL, "none", NULL, -1);
    expect_rejected(w, "linear first", "network: layer 0 'fc': linear takes what pool or linear gives");
}

/* Sizes that are fine one by one and too much together, in a file that has no such weights. */
static void test_limits(void **state)
{
    (void)state;
    struct weights *w = weights_new(1, 4, 4);
    weights_conv(w, "stem", 4, 3, 1, WEIGHTS_SAME, "relu");
    cJSON_ReplaceItemInObject(w->network, "input", raw("[3,4096,4096]"));
    apply(w, &(struct edit){NETWORK, "layers/0/out", "65536", NULL});
    expect_rejected(w, "a large map",
                    "network: layer 0 'stem': output 4096x4096x65536 has more than 268435456 elements");

    w = weights_new(1, 4, 4);
    weights_conv(w, "stem", 4, 3, 1, WEIGHTS_SAME, "relu");
    cJSON *layers = cJSON_GetObjectItem(w->network, "layers");
    while (cJSON_GetArraySize(layers) < 1025) cJSON_AddItemToArray(layers, cJSON_Duplicate(layers->child, 1));
    expect_rejected(w, "many layers", "network: \"layers\" is not an array of 1 to 1024 layers");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_tensors),
        cmocka_unit_test(test_extra_and_missing),
        cmocka_unit_test(test_duplicate_metadata),
        cmocka_unit_test(test_not_finite),
        cmocka_unit_test(test_metadata),
        cmocka_unit_test(test_metadata_text),
        cmocka_unit_test(test_preprocess),
        cmocka_unit_test(test_table),
        cmocka_unit_test(test_version_1),
        cmocka_unit_test(test_version_2),
        cmocka_unit_test(test_graph),
        cmocka_unit_test(test_chain),
        cmocka_unit_test(test_limits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
