"""How state dicts call the parameters: one class a naming scheme.

A scheme answers convolution(layer, blocks) -> (name of the weight, prefix of its batch norm) and head,
the prefix of the classifier."""

import re

from .architectures import B1_PLAIN, LITE1
from .errors import ConvertError

# Parameters that are attributes of their own (`fc_weight`) mean the same as those of a module (`fc.weight`).
_ATTRIBUTE = re.compile(r"_(weight|bias|running_mean|running_var|num_batches_tracked)$")


class LitePytorch:
    """efficientnet_lite_pytorch: _conv_stem, _blocks.3._expand_conv, _bn0, _fc."""

    title = "efficientnet_lite_pytorch"
    arch = LITE1
    marker = "_conv_stem.weight"
    head = "_fc"
    parts = {
        "expand": ("_expand_conv", "_bn0"),
        "depthwise": ("_depthwise_conv", "_bn1"),
        "project": ("_project_conv", "_bn2"),
    }

    def __init__(self, names):
        self.expand_at_ratio_1 = False

    def convolution(self, layer, blocks):
        if layer.name == "stem":
            return "_conv_stem.weight", "_bn0"
        if layer.name == "head":
            return "_conv_head.weight", "_bn1"
        conv, norm = self.parts[layer.name.rpartition(".")[2]]
        prefix = f"_blocks.{layer.block}."
        return f"{prefix}{conv}.weight", prefix + norm


class Timm:
    """timm: conv_stem, blocks.STAGE.REPEAT.conv_pw, bn1, classifier. A block that does not expand is a
    depthwise separable one there, with other names."""

    title = "timm"
    arch = LITE1
    marker = "conv_stem.weight"
    head = "classifier"
    expanding = {
        "expand": ("conv_pw", "bn1"),
        "depthwise": ("conv_dw", "bn2"),
        "project": ("conv_pwl", "bn3"),
    }
    separable = {"depthwise": ("conv_dw", "bn1"), "project": ("conv_pw", "bn2")}

    def __init__(self, names):
        self.expand_at_ratio_1 = False

    def convolution(self, layer, blocks):
        if layer.name == "stem":
            return "conv_stem.weight", "bn1"
        if layer.name == "head":
            return "conv_head.weight", "bn2"
        block = blocks[layer.block]
        parts = self.expanding if block.has_expand else self.separable
        conv, norm = parts[layer.name.rpartition(".")[2]]
        prefix = f"blocks.{block.stage}.{block.repeat}."
        return f"{prefix}{conv}.weight", prefix + norm


class SevenBlocksSequential:
    """KernelBench's EfficientNetB1: conv1, bn1, mbconv1.0 ... mbconv7.7, conv2, bn2, fc. A block is a
    Sequential of convolution, batch norm, ReLU6, convolution, ...; in KernelBench the first block has its
    1x1 expansion although it expands by 1."""

    title = "EfficientNetB1 (sequential)"
    arch = B1_PLAIN
    marker = "mbconv1.0.weight"
    head = "fc"

    def __init__(self, names):
        self.expand_at_ratio_1 = "mbconv1.6.weight" in names

    def convolution(self, layer, blocks):
        if layer.name in ("stem", "head"):
            number = 1 if layer.name == "stem" else 2
            return f"conv{number}.weight", f"bn{number}"
        order = (
            ("expand", "depthwise", "project") if blocks[layer.block].has_expand else ("depthwise", "project")
        )
        index = 3 * order.index(layer.name.rpartition(".")[2])
        prefix = f"mbconv{layer.block + 1}."
        return f"{prefix}{index}.weight", f"{prefix}{index + 1}"


class SevenBlocksNamed:
    """The same network with named parts: mbconv2.expand_conv, depthwise_conv, project_conv; their batch
    norms expand_bn, depthwise_bn, project_bn, or numbered in the block's order (bn1, bn2, bn3)."""

    title = "EfficientNetB1 (named)"
    arch = B1_PLAIN
    marker = "mbconv1.depthwise_conv.weight"
    head = "fc"

    def __init__(self, names):
        self.expand_at_ratio_1 = "mbconv1.expand_conv.weight" in names
        self.numbered = {}
        for name in names:
            found = re.fullmatch(r"mbconv(\d)\.bn(\d)\.weight", name)
            if found:
                self.numbered.setdefault(int(found[1]), []).append(int(found[2]))

    def convolution(self, layer, blocks):
        if layer.name in ("stem", "head"):
            number = 1 if layer.name == "stem" else 2
            return f"conv{number}.weight", f"bn{number}"
        part = layer.name.rpartition(".")[2]
        prefix = f"mbconv{layer.block + 1}."
        order = (
            ("expand", "depthwise", "project") if blocks[layer.block].has_expand else ("depthwise", "project")
        )
        numbers = sorted(self.numbered.get(layer.block + 1, ()))
        norm = f"bn{numbers[order.index(part)]}" if len(numbers) == len(order) else f"{part}_bn"
        return f"{prefix}{part}_conv.weight", prefix + norm


SCHEMES = (LitePytorch, Timm, SevenBlocksSequential, SevenBlocksNamed)


def normalise_names(tensors, label):
    """{name: tensor} with `fc_weight` spelt `fc.weight`."""
    result = {}
    for name, tensor in tensors.items():
        spelt = _ATTRIBUTE.sub(r".\1", name)
        if spelt in result:
            raise ConvertError(f"{label}: {name}: there is a {spelt} too")
        result[spelt] = tensor
    return result


def detect(tensors, arch_name, label):
    """The scheme that the names follow; arch_name is what the user asked for, or "auto"."""
    for scheme in SCHEMES:
        if scheme.marker in tensors:
            if arch_name not in ("auto", scheme.arch.name):
                raise ConvertError(
                    f"{label}: the names are {scheme.title}'s: {scheme.arch.name}, not {arch_name}"
                )
            return scheme(tensors)
    markers = ", ".join(scheme.marker for scheme in SCHEMES)
    raise ConvertError(f"{label}: the names follow no known scheme (none of {markers} is there)")
