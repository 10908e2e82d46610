"""A network of a weights file, in PyTorch, channels-last: batch norm folded, or a layer of its own."""

import json
import struct

import numpy as np
import torch
import torch.nn.functional as F

ACTIVATIONS = {
    "none": lambda x: x,
    "relu": torch.relu,
    "relu6": F.relu6,
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_relu": lambda x: torch.relu(F.gelu(x)),
    "sigmoid": torch.sigmoid,
    "hardswish": F.hardswish,
    "tanh": torch.tanh,
}

EPSILON = 1e-3  # of batch norm


def read_weights(path):
    """(layer table, {tensor name: float32 array}) of a weights file."""
    data = np.fromfile(path, np.uint8)
    (size,) = struct.unpack("<Q", data[:8].tobytes())
    header = json.loads(data[8 : 8 + size].tobytes())
    layers = json.loads(header.pop("__metadata__")["network"])["layers"]
    tensors = {}
    for name, entry in header.items():
        begin, end = (8 + size + offset for offset in entry["data_offsets"])
        tensors[name] = data[begin:end].view(np.float32).reshape(entry["shape"])
    return layers, tensors


class Network(torch.nn.Module):
    """NCHW float tensor, in channels-last memory -> logits.

    With batch_norm each convolution is followed by a batch norm, as in the network's published code. The weights file
    holds it folded, so its scale is 1 and its shift the bias: other numbers, the same operations.
    """

    def __init__(self, path, batch_norm=False):
        super().__init__()
        self.batch_norm = batch_norm
        self.layers, tensors = read_weights(path)
        self.wanted = {name for layer in self.layers for name in (*layer.get("inputs", ()), layer.get("add"))}
        self.parameters_of = torch.nn.ParameterDict()
        for layer in self.layers:
            if layer["op"] not in ("pool", "scale"):
                for part in ("weight", "bias"):
                    value = torch.from_numpy(tensors[f"{layer['name']}.{part}"].copy())
                    key = f"{layer['name']}.{part}".replace(".", "_")
                    self.parameters_of[key] = torch.nn.Parameter(value, requires_grad=False)
                    if part == "bias":
                        for name, constant in (("mean", 0.0), ("variance", 1.0 - EPSILON), ("scale", 1.0)):
                            self.parameters_of[key.removesuffix("bias") + name] = torch.nn.Parameter(
                                torch.full_like(value, constant), requires_grad=False
                            )

    def forward(self, x):
        kept = {"image": x}
        for layer in self.layers:
            x = self.run_layer(layer, *[kept[name] for name in layer.get("inputs", ())] or [x])
            if layer.get("add"):
                x = x + kept[layer["add"]]
            x = ACTIVATIONS[layer.get("activation", "none")](x)
            if layer["name"] in self.wanted:
                kept[layer["name"]] = x
        return x

    def run_layer(self, layer, x, gate=None):
        if layer["op"] == "pool":
            return x.mean(dim=(2, 3))
        if layer["op"] == "scale":
            return x * gate[:, :, None, None]
        key = layer["name"].replace(".", "_")
        weight, bias = self.parameters_of[key + "_weight"], self.parameters_of[key + "_bias"]
        if layer["op"] == "linear":
            return F.linear(x, weight, bias)
        top, left, bottom, right = layer.get("pad", (0, 0, 0, 0))
        padding = (top, left)
        if (top, left) != (bottom, right):
            x, padding = F.pad(x, (left, right, top, bottom)), (0, 0)
        groups = layer["in"] if layer["op"] == "depthwise" else 1
        if not self.batch_norm:
            return F.conv2d(x, weight, bias, layer.get("stride", 1), padding, 1, groups)
        x = F.conv2d(x, weight, None, layer.get("stride", 1), padding, 1, groups)
        mean, variance = self.parameters_of[key + "_mean"], self.parameters_of[key + "_variance"]
        return F.batch_norm(x, mean, variance, self.parameters_of[key + "_scale"], bias, eps=EPSILON)
