/* An integer network's file that is wrong in one place: each way of being wrong is refused, by name. */
#include "weights_integer.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "rejects.h"

/* stem.bias is at 0..36, stem.scale at 36..72; the stem's output is wide. */
static void test_integer(void **state)
{
    (void)state;
    static const struct edit edits[] = {
        {METADATA, "format_version", "\"1\"",
         "network: layer 0 'stem': key \"output_scale\" came with format version 2, but the file says 1"},
        {NETWORK, "layers/0/output_scale", NULL,
         "layer 0 'stem': output_scale and output_zero come together"},
        {NETWORK, "layers/0/output_zero", NULL, "layer 0 'stem': output_scale and output_zero come together"},
        {NETWORK, "layers/0/output_scale", "\"1\"", "output_scale is not a number"},
        {NETWORK, "layers/0/output_scale", "1e39", "output_scale is 1e+39, not a finite number"},
        {NETWORK, "layers/0/output_scale", "0", "output_scale 0 is not from 1e-09 to 1e+06"},
        {NETWORK, "layers/0/output_scale", "-1", "output_scale -1 is not from 1e-09 to 1e+06"},
        {NETWORK, "layers/0/output_scale", "1e7", "output_scale 1e+07 is not from 1e-09 to 1e+06"},
        {NETWORK, "layers/2/output_zero", "256", "output_zero is 256, not a whole number from 0 to 255"},
        {NETWORK, "layers/2/output_zero", "-1", "output_zero is -1, not a whole number from 0 to 255"},
        {NETWORK, "layers/0/output_zero", "32768",
         "output_zero is 32768, not a whole number from 0 to 32767"},
        {NETWORK, "layers/2/+output_bits", "9", "layer 2 'blocks.0.project': output_bits is 9, not 8 or 15"},
        {NETWORK, "layers/2/+output_bits", "16", "output_bits is 16, not a whole number from 8 to 15"},
        {NETWORK, "layers/2/+output_bits", "15",
         "layer 3 'blocks.1.expand': takes 'blocks.0.project', whose output_bits is 15: depthwise layers"},
        {NETWORK, "layers/14/+output_bits", "8", "output_bits comes with output_scale and output_zero"},
        {NETWORK, "layers/0/output_zero", "0.5", "output_zero is 0.5, not a whole number"},
        {NETWORK, "layers/0/activation", "\"hardswish\"",
         "layer 0 'stem': activation hardswish is not defined for integers: none, relu, relu6, silu and "
         "sigmoid"},
        {NETWORK, "layers/0/activation", "\"silu\"", "tensor 'stem.gain': is missing"},
        {NETWORK, "layers/10/activation", "\"sigmoid\"",
         "layer 10 'same': adds before sigmoid, which is not defined for integers"},
        {NETWORK, "layers/14/+output_scale", "1", "output_scale and output_zero come together"},
        {NETWORK, "layers/0/output_scale", "1e-8", "layer 0 'stem': channel 0: a step of its sum is"},
        {NETWORK, "layers/10/output_scale", "1e-8",
         "layer 10 'same': a step of what it adds is 2.3259e+06 of its output's, more than 1048576"},
        {TENSORS, "stem.bias/dtype", "\"F32\"",
         "tensor 'stem.bias' at offset 0: type F32, but the layer table makes it I32"},
        {TENSORS, "stem.scale/dtype", "\"I32\"", "type I32, but the layer table makes it F32"},
        {TENSORS, "stem.bias/dtype", "\"I8\"", "shape [9] takes 9 bytes, but its offsets span 36"},
        {TENSORS, "stem.bias/shape", "[3,3]", "shape [3,3], but the layer table makes it [9]"},
        {TENSORS, "stem.scale", NULL, "there is a hole before it: the bytes from 36 are nobody's"},
        {PREPROCESS, "mean/0", "256", "network: layer 0 'stem': takes the image, whose mean 256 is no byte"},
        {PREPROCESS, "mean/2", "-1", "takes the image, whose mean -1 is no byte"},
    };
    RUN_ON(weights_tiny_integer, edits);

    struct weights *w = weights_tiny_integer(1);
    for (int i = 0; i < 2; i++)
        cJSON_DeleteItemFromObject(cJSON_GetArrayItem(cJSON_GetObjectItem(w->network, "layers"), 3),
                                   i ? "output_zero" : "output_scale");
    expect_rejected(w, "one layer without",
                    "layer 3 'blocks.1.expand': has no output_scale, which other layers");
    w = weights_tiny_integer(1);
    cJSON *layers = cJSON_GetObjectItem(w->network, "layers");
    cJSON *last = cJSON_GetArrayItem(layers, cJSON_GetArraySize(layers) - 1);
    cJSON_AddNumberToObject(last, "output_scale", 1);
    cJSON_AddNumberToObject(last, "output_zero", 0);
    expect_rejected(w, "the last layer's bytes", "the last layer takes no output_scale: it gives floats");

    static const struct {
        int at, bits;
        const char *message;
    } values[] = {
        {0, (1 << 29) + 1, "tensor 'stem.bias' at offset 0: value 0 is 536870913, beyond 536870912"},
        {3, INT32_MIN, "tensor 'stem.bias' at offset 0: value 3 is -2147483648, beyond 536870912"},
        {9, 0, "tensor 'stem.scale' at offset 36: value 0 is 0, not from 1e-09 to 1e+06"},
        {10, 0x7fc00000, "tensor 'stem.scale' at offset 36: value 1 is nan, not finite"},
        {10, (int)0xbf800000, "tensor 'stem.scale' at offset 36: value 1 is -1, not from 1e-09"},
    };
    for (size_t i = 0; i < sizeof values / sizeof values[0]; i++) {
        w = weights_tiny_integer(1);
        memcpy(w->data + values[i].at, &values[i].bits, sizeof(int));
        expect_rejected(w, "a value", values[i].message);
    }
}

/* What integers cannot do, in networks made for it. */
static void test_integer_layers(void **state)
{
    (void)state;
    struct weights *w = weights_new(1, 4, 4);
    weights_layer(w, "pool", "pool", 3, 1, 1, NULL, NULL, NULL, -1);
    weights_layer(w, "classifier", "linear", 2, 1, 1, NULL, "none", NULL, -1);
    weights_labels(w, 2);
    weights_make_integer(w);
    expect_rejected(w, "pool of the image", "layer 0 'pool': pool of the image is not defined for integers");

    w = weights_new(1, 1, 1);
    weights_conv(w, "stem", 3, 1, 1, WEIGHTS_SAME, "relu");
    weights_scale(w, "scale", "image", "stem");
    weights_head(w, 2, "relu", 2);
    weights_make_integer(w);
    expect_rejected(w, "scale of the image",
                    "layer 1 'scale': scale of the image is not defined for integers");

    w = weights_new(1, 1, 1);
    weights_conv(w, "stem", 3, 1, 1, WEIGHTS_SAME, "relu");
    weights_scale(w, "scale", "stem", "image");
    weights_head(w, 2, "relu", 2);
    weights_make_integer(w);
    expect_rejected(w, "the image as a gate",
                    "layer 1 'scale': scale of the image is not defined for integers");

    w = weights_new(1, 4, 4);
    weights_conv(w, "stem", 2, 1, 1, WEIGHTS_SAME, "relu");
    weights_layer(w, "pool", "pool", 2, 1, 1, NULL, NULL, NULL, -1);
    weights_layer(w, "a", "linear", 2, 1, 1, NULL, "none", NULL, -1);
    weights_layer(w, "b", "linear", 2, 1, 1, NULL, "none", "a", -1);
    weights_labels(w, 2);
    weights_make_integer(w);
    expect_rejected(w, "a residual at the end",
                    "layer 3 'b': the last layer of an integer network adds nothing");

    w = weights_new(1, 4, 4);
    weights_conv(w, "stem", 2, 1, 1, WEIGHTS_SAME, "relu");
    weights_layer(w, "depthwise", "depthwise", 2, 3, 1, (const int[]){1, 1, 1, 1}, "none", "stem", -1);
    weights_head(w, 2, "relu", 2);
    weights_make_integer(w);
    cJSON_AddNumberToObject(cJSON_GetObjectItem(w->network, "layers")->child, "output_bits", 15);
    expect_rejected(w, "a wide residual",
                    "layer 1 'depthwise': adds 'stem', whose output_bits is 15: depthwise");

    w = weights_new(1, 2, 2);
    weights_conv(w, "stem", 16385, 1, 1, WEIGHTS_SAME, "relu");
    weights_layer(w, "thin", "pointwise", 1, 1, 1, NULL, "relu", NULL, -1);
    weights_head(w, 2, "relu", 2);
    weights_make_integer(w);
    expect_rejected(w, "many terms", "layer 1 'thin': sums of 16385 products, integers' sums hold 16384");

    w = weights_new(1, 2, 2);
    weights_conv(w, "stem", 1, 1, 1, WEIGHTS_SAME, "relu");
    weights_head(w, 1, "relu", 2);
    weights_make_integer(w);
    cJSON_ReplaceItemInObject(w->network, "input", raw("[3,4096,4096]"));
    expect_rejected(w, "many pixels", "the mean of 16777216 pixels, integers' sums hold 4194304");

    /* Bytes before integers: these are where no multiple of four is. */
    w = weights_tiny_integer(1);
    cJSON *weight = cJSON_GetObjectItem(w->tensors, "stem.weight");
    cJSON_ReplaceItemInObject(weight, "dtype", cJSON_CreateString("F32"));
    cJSON *offsets = cJSON_GetObjectItem(weight, "data_offsets");
    cJSON_SetNumberValue(offsets->child, offsets->child->valuedouble + 1);
    expect_rejected(w, "a float at an odd place", "is not aligned: of type F32, at no multiple of 4 bytes");
}

/* stem, se.pool, se.reduce, se.expand, se.scale. */
static struct weights *excited(uint64_t seed)
{
    struct weights *w = weights_new(seed, 4, 4);
    weights_conv(w, "stem", 2, 1, 1, WEIGHTS_SAME, "silu");
    weights_squeeze_excite(w, "se", 3, "silu");
    weights_head(w, 2, "silu", 2);
    weights_make_integer(w);
    return w;
}

static void test_squeeze_excite(void **state)
{
    (void)state;
    static const struct edit edits[] = {
        {TENSORS, "stem.gain/dtype", "\"I32\"", "type I32, but the layer table makes it F32"},
        {TENSORS, "se.reduce.gain/shape", "[3,1]", "shape [3,1], but the layer table makes it [3]"},
        {TENSORS, "se.expand.gain", NULL, "there is a hole before it"},
        {NETWORK, "layers/0/activation", "\"relu\"", "tensor 'stem.gain'"},
        {NETWORK, "layers/0/+output_bits", "15",
         "layer 1 'se.pool': takes 'stem', whose output_bits is 15: depthwise layers and, as a gate, scale"},
        {NETWORK, "layers/0/output_scale", "1e-9",
         "layer 0 'stem': channel 0: its gain is 7.83707e+08 of its output's steps, more than 1048576"},
        {NETWORK, "layers/4/output_scale", "1e-9", "layer 4 'se.scale': channel 0: a step of its sum is"},
    };
    RUN_ON(excited, edits);
    static const struct {
        uint32_t bits;
        const char *message;
    } values[] = {
        {0, "value 1 is 0, not from 1e-09 to 1e+06"},
        {0xbf800000, "value 1 is -1, not from 1e-09 to 1e+06"},
        {0x7f800000, "value 1 is inf, not finite"},
    };
    for (size_t i = 0; i < sizeof values / sizeof values[0]; i++) {
        struct weights *w = excited(1);
        const cJSON *tensor = cJSON_GetObjectItem(w->tensors, "stem.gain");
        const int begin = cJSON_GetArrayItem(cJSON_GetObjectItem(tensor, "data_offsets"), 0)->valueint;
        memcpy((char *)w->data + begin + 4, &values[i].bits, sizeof values[i].bits);
        expect_rejected(w, "a gain", values[i].message);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_squeeze_excite),
        cmocka_unit_test(test_integer),
        cmocka_unit_test(test_integer_layers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
