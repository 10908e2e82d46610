"""Takes a network's parameters out of a state dict, each checked."""

import dataclasses
import re

import numpy as np

from .architectures import build_layers
from .errors import EX_USAGE, ConvertError
from .naming import detect, normalise_names
from .network import Network, Norm, Parameters

HEAD_EPSILON = 1e-5  # BatchNorm1d's default
MAX_WIDTH = 65536  # channels of a layer, as effnet takes them
ACTIVATIONS = ("none", "relu", "relu6", "silu", "gelu", "gelu_relu")


class Reader:
    """Takes tensors by name, and knows at the end which ones nobody asked for."""

    def __init__(self, tensors, label):
        self._tensors = tensors
        self._left = {name for name in tensors if not name.endswith("num_batches_tracked")}
        self._label = label

    def fail(self, reason):
        return ConvertError(f"{self._label}: {reason}")

    def has(self, name):
        return name in self._tensors

    def take(self, name, shape):
        if name not in self._tensors:
            raise self.fail(f"{name} is missing")
        tensor = self._tensors[name]
        if tensor.shape != tuple(shape):
            raise self.fail(f"{name} has shape {list(tensor.shape)}, not {list(shape)}")
        try:
            array = tensor.array(name)
        except ConvertError as error:
            raise self.fail(error) from None
        if not np.isfinite(array).all():
            raise self.fail(f"{name} holds a value that is not finite")
        self._left.discard(name)
        return array

    def take_norm(self, prefix, channels, epsilon):
        names = (f"{prefix}.weight", f"{prefix}.bias", f"{prefix}.running_mean", f"{prefix}.running_var")
        norm = Norm(*(self.take(name, (channels,)) for name in names), epsilon)
        if (norm.var < 0).any():
            raise self.fail(f"{prefix}.running_var holds a negative variance")
        return norm

    def finish(self):
        if self._left:
            more = f" (and {len(self._left) - 1} more)" if len(self._left) > 1 else ""
            raise self.fail(f"{min(self._left)} is unexpected{more}")


def _linear_outputs(reader, tensors, prefix):
    shape = tensors[prefix + ".weight"].shape
    if len(shape) != 2 or type(shape[0]) is not int or not 1 <= shape[0] <= MAX_WIDTH:
        raise reader.fail(f"{prefix}.weight has shape {list(shape)}, not [1 to {MAX_WIDTH}, in]")
    return shape[0]


def _head_modules(reader, tensors, prefix):
    """(linear layers, batch norms): the indices in the Sequential PREFIX.0, PREFIX.1, ..."""
    pattern = re.compile(re.escape(prefix) + r"\.(\d{1,4})\.weight")
    indices = sorted(int(found[1]) for found in map(pattern.fullmatch, tensors) if found)
    norms = [i for i in indices if reader.has(f"{prefix}.{i}.running_mean")]
    linears = [i for i in indices if i not in norms]
    if not linears:
        raise reader.fail(f"{prefix}.weight is missing")
    for norm in norms:
        if norm - 1 not in linears:
            raise reader.fail(f"{prefix}.{norm} is a batch norm that does not follow a linear layer")
    return linears, norms


def _head_activations(reader, prefix, linears, norms, given):
    """What follows each linear layer. The modules without parameters leave no trace in a state dict:
    Linear, BatchNorm1d, GELU, ReLU, Linear is recognised by its indices (0, 1 and 4)."""
    if given is not None:
        if len(given) != len(linears) - 1:
            raise ConvertError(
                f"--head-activations: {len(given)} given, but of the {len(linears)} linear layers of {prefix} "
                f"{len(linears) - 1} are followed by one",
                EX_USAGE,
            )
        return [*given, "none"]
    for index, following in zip(linears, linears[1:]):
        if index + 1 not in norms or following != index + 4:
            raise reader.fail(
                f"{prefix}.{index} does not begin Linear, BatchNorm1d, GELU, ReLU, Linear: say with "
                f"--head-activations what follows it"
            )
    return ["gelu_relu"] * (len(linears) - 1) + ["none"]


def find_head(reader, tensors, prefix, given_activations):
    """The linear layers of the head: [(prefix, batch norm's prefix or None, outputs, activation)]. Either
    one layer, PREFIX.weight, or a Sequential."""
    if reader.has(prefix + ".weight"):
        if given_activations is not None:
            raise ConvertError(f"--head-activations: {prefix} is one linear layer", EX_USAGE)
        return [(prefix, None, _linear_outputs(reader, tensors, prefix), "none")]
    linears, norms = _head_modules(reader, tensors, prefix)
    activations = _head_activations(reader, prefix, linears, norms, given_activations)
    head = []
    for index, activation in zip(linears, activations):
        name = f"{prefix}.{index}"
        norm = f"{prefix}.{index + 1}" if index + 1 in norms else None
        head.append((name, norm, _linear_outputs(reader, tensors, name), activation))
    return head


def read_network(tensors, label, arch_name="auto", changes=(), head_activations=None):
    """Finds the naming scheme and takes every parameter, checked, out of {name: SourceTensor}.

    changes: fields of the variant that the user says differ from the usual ones."""
    tensors = normalise_names(tensors, label)
    found = detect(tensors, arch_name, label)
    scheme, variant = found.scheme, dataclasses.replace(found.variant, **dict(changes))
    reader = Reader(tensors, label)
    head = find_head(reader, tensors, scheme.head, head_activations)
    layers = build_layers(
        variant, [(outputs, activation) for _, _, outputs, activation in head], scheme.expand_at_ratio_1
    )
    blocks = list(variant.arch.blocks(scheme.expand_at_ratio_1))
    network = Network(variant, layers, notices=[found.notice] if found.notice else [])
    rest = iter(head)
    for layer in layers:
        if not layer.has_weights:
            continue
        if layer.op == "linear" and layer.block >= 0:
            prefix, norm = scheme.gate(layer, blocks), None
            name = prefix + ".weight"
            weight = reader.take(name, (*layer.weight_shape, 1, 1)).reshape(layer.weight_shape)
            bias = reader.take(prefix + ".bias", (layer.outputs,))
        elif layer.op == "linear":
            prefix, norm_prefix, _, _ = next(rest)
            name = prefix + ".weight"
            weight = reader.take(name, layer.weight_shape)
            no_bias = norm_prefix and not reader.has(prefix + ".bias")
            bias = None if no_bias else reader.take(prefix + ".bias", (layer.outputs,))
            norm = reader.take_norm(norm_prefix, layer.outputs, HEAD_EPSILON) if norm_prefix else None
        else:
            name, norm_prefix = scheme.convolution(layer, blocks)
            weight, bias = reader.take(name, layer.weight_shape), None
            norm = reader.take_norm(norm_prefix, layer.outputs, variant.epsilon)
        network.parameters[layer.name] = Parameters(weight, bias, norm, name)
    reader.finish()
    return network
