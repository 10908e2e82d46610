/* Words of the weights file for the interface's enums, and back. */
#include "model/table.h"

#include <stddef.h>
#include <string.h>

static const char *const op_names[] = {
    [EFFNET_OP_CONV] = "conv", [EFFNET_OP_DEPTHWISE] = "depthwise", [EFFNET_OP_POINTWISE] = "pointwise",
    [EFFNET_OP_POOL] = "pool", [EFFNET_OP_LINEAR] = "linear",       [EFFNET_OP_SCALE] = "scale",
};

static const char *const activation_names[] = {
    [EFFNET_ACT_NONE] = "none",       [EFFNET_ACT_RELU] = "relu",
    [EFFNET_ACT_RELU6] = "relu6",     [EFFNET_ACT_SILU] = "silu",
    [EFFNET_ACT_GELU] = "gelu",       [EFFNET_ACT_GELU_RELU] = "gelu_relu",
    [EFFNET_ACT_SIGMOID] = "sigmoid", [EFFNET_ACT_HARDSWISH] = "hardswish",
    [EFFNET_ACT_TANH] = "tanh",
};

static const char *const interpolation_names[] = {
    [EFFNET_BICUBIC] = "bicubic",
    [EFFNET_BILINEAR] = "bilinear",
};

static const char *const resize_names[] = {
    [EFFNET_RESIZE_SHORT_SIDE] = "short-side",
    [EFFNET_RESIZE_SQUASH] = "squash",
};

#define COUNT(names) (int)(sizeof(names) / sizeof(names)[0])

static int find(const char *const *names, int count, const char *name)
{
    for (int i = 0; i < count; i++)
        if (strcmp(names[i], name) == 0) return i;
    return -1;
}

const char *effnet_op_name(enum effnet_op op)
{
    return (unsigned)op < COUNT(op_names) ? op_names[op] : "unknown";
}

const char *effnet_activation_name(enum effnet_activation activation)
{
    return (unsigned)activation < COUNT(activation_names) ? activation_names[activation] : "unknown";
}

int effnet_op_from_name(const char *name)
{
    return find(op_names, COUNT(op_names), name);
}

int effnet_activation_from_name(const char *name)
{
    return find(activation_names, COUNT(activation_names), name);
}

int effnet_interpolation_from_name(const char *name)
{
    return find(interpolation_names, COUNT(interpolation_names), name);
}

int effnet_resize_from_name(const char *name)
{
    return find(resize_names, COUNT(resize_names), name);
}
