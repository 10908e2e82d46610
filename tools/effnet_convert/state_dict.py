"""Takes a network's parameters out of a state dict, each checked."""

import dataclasses

import numpy as np

from .architectures import build_layers
from .built import as_built
from .errors import ConvertError
from .heads import HeadOptions, find_head
from .naming import detect, normalise_names
from .network import Network, Norm, Parameters
from .variants import tagged


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
        """Without weight and bias it is one with affine=False, which scales by 1 and adds 0."""
        parts = ("weight", "bias", "running_mean", "running_var")
        plain = self.has(f"{prefix}.running_mean") and not (self.has(f"{prefix}.weight") or self.has(f"{prefix}.bias"))
        affine = [np.ones(channels, np.float32), np.zeros(channels, np.float32)] if plain else []
        taken = [self.take(f"{prefix}.{part}", (channels,)) for part in parts[len(affine) :]]
        norm = Norm(*affine, *taken, epsilon)
        if (norm.var < 0).any():
            raise self.fail(f"{prefix}.running_var holds a negative variance")
        return norm

    def finish(self):
        if self._left:
            more = f" (and {len(self._left) - 1} more)" if len(self._left) > 1 else ""
            raise self.fail(f"{min(self._left)} is unexpected{more}")


def as_recorded(found, names):
    """found, of the variants left the one that the checkpoint itself names, if it names one. timm's names may end with a
    tag, which says which weights."""
    plain = {name.partition(".")[0] for name in names}
    named = [variant for variant in (found.variant, *found.rivals) if variant.name in plain]
    if len(named) != 1:
        return found
    variant = named[0]
    tags = {name.partition(".")[2] for name in names if name.startswith(variant.name + ".")}
    if variant.library == "timm" and not variant.tag and len(tags) == 1:
        variant = tagged(variant, tags.pop())
    return dataclasses.replace(found, variant=variant, rivals=())


def read_network(tensors, label, arch_name="auto", change=lambda default: {}, head_options=HeadOptions(), names=()):
    """Finds the naming scheme and takes every parameter, checked, out of {name: SourceTensor}.

    names: what the checkpoint calls its network.

    change(variant): {field: value} of what the user says differs from the usual."""
    tensors = normalise_names(tensors, label)
    found = as_built(detect(tensors, arch_name, label), head_options.classes, head_options.settings, label)
    found = as_recorded(found, names)
    scheme, variant = found.scheme, dataclasses.replace(found.variant, **change(found.variant))
    reader = Reader(tensors, label)
    head = find_head(reader, tensors, scheme.head, head_options)
    layers = build_layers(variant, [(part.outputs, part.activation) for part in head], scheme.expand_at_ratio_1)
    blocks = list(variant.arch.blocks(scheme.expand_at_ratio_1))
    network = Network(variant, layers, notices=[*found.notes, *([found.notice] if found.notice else [])])
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
            part = next(rest)
            name, bias_name = part.prefix + ".weight", part.prefix + ".bias"
            weight = reader.take(name, layer.weight_shape)
            bias = reader.take(bias_name, (layer.outputs,)) if reader.has(bias_name) else None
            norm = reader.take_norm(part.norm, layer.outputs, head_options.epsilon_of(part.norm)) if part.norm else None
        else:
            name, norm_prefix = scheme.convolution(layer, blocks)
            weight, bias = reader.take(name, layer.weight_shape), None
            norm = reader.take_norm(norm_prefix, layer.outputs, variant.epsilon)
        network.parameters[layer.name] = Parameters(weight, bias, norm, name)
    reader.finish()
    return network
