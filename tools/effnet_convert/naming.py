"""How state dicts call the parameters: one class a naming scheme.

A scheme answers convolution(layer, blocks) -> (name of the weight, prefix of its batch norm), gate(layer, blocks) ->
prefix of a layer of squeeze-and-excite, and head, the prefix of the classifier."""

import re
from dataclasses import dataclass, replace

from . import variants
from .architectures import ARCHITECTURES, LARGER, build_layers
from .errors import ConvertError
from .relatives import relative_of

# Parameters that are attributes of their own (`fc_weight`) mean the same as those of a module (`fc.weight`).
_ATTRIBUTE = re.compile(r"_(weight|bias|running_mean|running_var|num_batches_tracked)$")


def _part(layer):
    """What a layer is in its block: "expand" of "blocks.3.expand"."""
    return layer.name.rpartition(".")[2]


class Pytorch:
    """efficientnet_pytorch and efficientnet_lite_pytorch: _conv_stem, _blocks.3._expand_conv, _bn0, _fc."""

    title = "efficientnet_pytorch"
    libraries = ("efficientnet_pytorch", "efficientnet_lite_pytorch")
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
        conv, norm = self.parts[_part(layer)]
        prefix = f"_blocks.{layer.block}."
        return f"{prefix}{conv}.weight", prefix + norm

    def gate(self, layer, blocks):
        return f"_blocks.{layer.block}._se_{_part(layer)}"


class Timm:
    """timm and geffnet: conv_stem, blocks.STAGE.REPEAT.conv_pw, bn1, classifier. A block that does not expand is a
    depthwise separable one there, with other names."""

    title = "timm"
    libraries = ("timm",)
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
        conv, norm = parts[_part(layer)]
        prefix = f"blocks.{block.stage}.{block.repeat}."
        return f"{prefix}{conv}.weight", prefix + norm

    def gate(self, layer, blocks):
        block = blocks[layer.block]
        return f"blocks.{block.stage}.{block.repeat}.se.conv_{_part(layer)}"


class Torchvision:
    """torchvision: features.0 is the stem, features.STAGE.REPEAT.block.K with stages from 1, features.8 the head,
    classifier.1. In a block, K counts convolutions (.0, its batch norm .1) and squeeze-and-excite (fc1, fc2)."""

    title = "torchvision"
    libraries = ("torchvision",)
    marker = "features.0.0.weight"
    head = "classifier"
    parts = ("expand", "depthwise", "gate", "project")

    def __init__(self, names):
        self.expand_at_ratio_1 = False

    def _prefix(self, layer, blocks, part):
        block = blocks[layer.block]
        index = self.parts.index(part) - (0 if block.has_expand else 1)
        return f"features.{block.stage + 1}.{block.repeat}.block.{index}."

    def convolution(self, layer, blocks):
        if layer.name in ("stem", "head"):
            prefix = "features.0." if layer.name == "stem" else "features.8."
        else:
            prefix = self._prefix(layer, blocks, _part(layer))
        return prefix + "0.weight", prefix + "1"

    def gate(self, layer, blocks):
        return self._prefix(layer, blocks, "gate") + {"reduce": "fc1", "expand": "fc2"}[_part(layer)]


class SevenBlocksSequential:
    """KernelBench's EfficientNetB1: conv1, bn1, mbconv1.0 ... mbconv7.7, conv2, bn2, fc. A block is a
    Sequential of convolution, batch norm, ReLU6, convolution, ...; in KernelBench the first block has its
    1x1 expansion although it expands by 1."""

    title = "EfficientNetB1 (sequential)"
    libraries = ("KernelBench",)
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
        index = 3 * order.index(_part(layer))
        prefix = f"mbconv{layer.block + 1}."
        return f"{prefix}{index}.weight", f"{prefix}{index + 1}"


class SevenBlocksNamed:
    """The same network with named parts: mbconv2.expand_conv, depthwise_conv, project_conv; their batch
    norms expand_bn, depthwise_bn, project_bn, or numbered in the block's order (bn1, bn2, bn3)."""

    title = "EfficientNetB1 (named)"
    libraries = ("KernelBench",)
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
        part = _part(layer)
        prefix = f"mbconv{layer.block + 1}."
        order = (
            ("expand", "depthwise", "project") if blocks[layer.block].has_expand else ("depthwise", "project")
        )
        numbers = sorted(self.numbered.get(layer.block + 1, ()))
        norm = f"bn{numbers[order.index(part)]}" if len(numbers) == len(order) else f"{part}_bn"
        return f"{prefix}{part}_conv.weight", prefix + norm


SCHEMES = (Pytorch, Timm, Torchvision, SevenBlocksSequential, SevenBlocksNamed)


def normalise_names(tensors, label):
    """{name: tensor} with `fc_weight` spelt `fc.weight`."""
    result = {}
    for name, tensor in tensors.items():
        spelt = _ATTRIBUTE.sub(r".\1", name)
        if spelt in result:
            raise ConvertError(f"{label}: {name}: there is a {spelt} too")
        result[spelt] = tensor
    return result


@dataclass(frozen=True)
class Found:
    """What a state dict was recognised as."""

    scheme: object
    variant: variants.Variant
    rivals: tuple = ()  # other variants whose tensors would look the same
    notes: tuple = ()  # what else the user is to know

    @property
    def notice(self):
        """What to tell the user where the tensors left a choice, or ""."""
        if not self.variant.knows_tag:
            return (
                f"{self.variant.full_name}: the tag is not known, so images are prepared as timm's default of the name "
                f"has it: --config config.json, or options, say better"
            )
        if not self.rivals:
            return ""
        others = " or ".join(rival.name for rival in self.rivals)
        return (
            f"taken for {self.variant.full_name}; {others} has the same tensors and another preprocessing or padding: "
            f"say which by --arch"
        )


def expected_shapes(scheme, variant):
    """{name: shape} of the convolutions and gates that the scheme has for a variant's architecture."""
    blocks = list(variant.arch.blocks(scheme.expand_at_ratio_1))
    shapes = {}
    for layer in build_layers(variant, [], scheme.expand_at_ratio_1):
        if layer.op == "linear":
            shapes[scheme.gate(layer, blocks) + ".weight"] = (*layer.weight_shape, 1, 1)
        elif layer.has_weights:
            shapes[scheme.convolution(layer, blocks)[0]] = layer.weight_shape
    return shapes


ENOUGH = 0.9  # of the tensors: the few that may be missing or wrong are named one by one later


def _likeness(shapes, expected):
    """The share of tensors that two dicts {name: shape} have in common, of those that either has."""
    common = sum(shapes.get(name) == shape for name, shape in expected.items())
    return common / (len(shapes) + len(expected) - common)


def _architecture(scheme, tensors, label):
    """The architecture whose tensors are most like these."""
    candidates = [v for v in variants.VARIANTS if v.library in scheme.libraries]
    known = {v.arch.name: v for v in candidates}
    if "b0" in known:
        known |= {arch.name: replace(known["b0"], arch=arch) for arch in LARGER}
    shapes = {name: tensor.shape for name, tensor in tensors.items() if len(tensor.shape) == 4}
    likeness = {name: _likeness(shapes, expected_shapes(scheme, variant)) for name, variant in known.items()}
    best = max(likeness, key=likeness.get)
    if likeness[best] < ENOUGH:
        relative = relative_of(tensors)
        if relative:
            raise ConvertError(f"{label}: {relative}, which effnet does not run ({_supported()})")
        raise ConvertError(f"{label}: the names are {scheme.title}'s, but the widths are no known network's: {_seen(shapes, scheme)}")
    if best not in ARCHITECTURES:
        raise ConvertError(f"{label}: EfficientNet-{best.upper()}, which effnet does not run ({_supported()})")
    return ARCHITECTURES[best]


def _supported():
    return "it runs B0 to B4 and Lite0 to Lite4"


def _seen(shapes, scheme):
    """What a refusal says of the tensors that it did not recognise."""
    depthwise = [shape for shape in shapes.values() if shape[1] == 1 and shape[0] > 1]
    stem = shapes.get(scheme.marker)
    widest = max((shape[0] for shape in shapes.values()), default=0)
    return (
        f"a stem of {stem[0] if stem else '?'} channels, {len(depthwise)} depthwise convolutions, {len(shapes)} "
        f"convolutions in all, the widest of {widest} channels"
    )


def detect(tensors, wanted, label):
    """What the tensors are, as Found. wanted: what the user asked for by --arch, or "auto"."""
    allowed = variants.named(wanted)
    scheme = next((scheme for scheme in SCHEMES if scheme.marker in tensors), None)
    if scheme is None:
        relative = relative_of(tensors)
        if relative:
            raise ConvertError(f"{label}: {relative}, which effnet does not run ({_supported()})")
        markers = ", ".join(scheme.marker for scheme in SCHEMES)
        raise ConvertError(f"{label}: the names follow no known scheme (none of {markers} is there)")
    scheme = scheme(tensors)
    arch = _architecture(scheme, tensors, label)
    chosen = [v for v in allowed if v.library in scheme.libraries and v.arch is arch]
    if not chosen:
        raise ConvertError(f"{label}: the tensors are {scheme.title}'s: {arch.name}, not {wanted}")
    return Found(scheme, chosen[0], tuple(chosen[1:]))
