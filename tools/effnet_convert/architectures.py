"""The networks, as tables of layers. What libraries mean by them (padding, epsilon, preprocessing): variants.py."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Layer:
    """One layer; the fields are those of the weights file (docs/weights-format.md)."""

    name: str
    op: str
    inputs: int
    outputs: int
    activation: str = "none"
    kernel: int = 1
    stride: int = 1
    pad: tuple = (0, 0, 0, 0)  # top, left, bottom, right
    sources: tuple = ()  # names of the layers that it takes, "inputs" in the file; () is the layer before
    add: str = ""
    block: int = -1

    @property
    def has_weights(self):
        return self.op not in ("pool", "scale")

    @property
    def format_version(self):
        """The first version of the weights file that can say this."""
        newer = self.sources or self.op == "scale" or self.activation in ("sigmoid", "hardswish", "tanh")
        return 2 if newer else 1

    @property
    def weight_shape(self):
        if self.op == "linear":
            return (self.outputs, self.inputs)
        return (self.outputs, 1 if self.op == "depthwise" else self.inputs, self.kernel, self.kernel)

    def as_json(self):
        entry = {"name": self.name, "op": self.op, "in": self.inputs, "out": self.outputs}
        if self.has_weights:
            entry["activation"] = self.activation
        if self.op in ("conv", "depthwise"):
            entry.update(kernel=self.kernel, stride=self.stride, pad=list(self.pad))
        if self.sources:
            entry["inputs"] = list(self.sources)
        if self.add:
            entry["add"] = self.add
        if self.block >= 0:
            entry["block"] = self.block
        return entry


@dataclass(frozen=True)
class Block:
    """An MBConv block: expand 1x1, depthwise, squeeze-and-excite where the architecture has it, project 1x1."""

    stage: int  # from 0
    repeat: int  # within the stage, from 0
    kernel: int
    stride: int
    inputs: int
    outputs: int
    ratio: int
    has_expand: bool

    @property
    def hidden(self):
        return self.inputs * self.ratio


@dataclass(frozen=True)
class Architecture:
    name: str
    stages: tuple  # (repeats, kernel, stride, ratio, outputs)
    outer_activation: str  # of the stem and the head
    inner_activation: str  # of the blocks
    residual: bool = True
    stem: int = 32
    head: int = 1280
    squeeze: int = 0  # squeeze-and-excite narrows to a block's input channels over this; 0: there is none

    def blocks(self, expand_at_ratio_1=False):
        """expand_at_ratio_1: a block that expands by 1 has its 1x1 convolution all the same."""
        inputs = self.stem
        for stage, (repeats, kernel, stride, ratio, outputs) in enumerate(self.stages):
            for repeat in range(repeats):
                step = stride if repeat == 0 else 1
                has_expand = ratio != 1 or expand_at_ratio_1
                yield Block(stage, repeat, kernel, step, inputs, outputs, ratio, has_expand)
                inputs = outputs


# EfficientNet-B0 (Tan and Le, 2019), which all the others scale.
_STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)

# Factors of width and depth; Lite0 to Lite4 have those of B0 to B4.
_FACTORS = {
    "b0": (1.0, 1.0),
    "b1": (1.0, 1.1),
    "b2": (1.1, 1.2),
    "b3": (1.2, 1.4),
    "b4": (1.4, 1.8),
    "b5": (1.6, 2.2),
    "b6": (1.8, 2.6),
    "b7": (2.0, 3.1),
    "b8": (2.2, 3.6),
    "l2": (4.3, 5.3),
}


def _scaled_width(channels, factor):
    """The nearest multiple of 8, or the next one where that would take away more than a tenth."""
    scaled = channels * factor
    rounded = max(8, int(scaled + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * scaled else rounded


def _scaled(name, width, depth, is_lite):
    """Lite leaves stem and head as wide, and the first and the last stage as deep, as B0 has them."""
    stages = []
    for index, (repeats, kernel, stride, ratio, outputs) in enumerate(_STAGES):
        if not (is_lite and index in (0, len(_STAGES) - 1)):
            repeats = math.ceil(repeats * depth)
        stages.append((repeats, kernel, stride, ratio, _scaled_width(outputs, width)))
    outer = 1.0 if is_lite else width
    activation = "relu6" if is_lite else "silu"
    return Architecture(
        name,
        tuple(stages),
        activation,
        activation,
        stem=_scaled_width(32, outer),
        head=_scaled_width(1280, outer),
        squeeze=0 if is_lite else 4,
    )


# KernelBench, level 3, problem 23: seven blocks, one a stage, all with 3x3 windows.
B1_PLAIN = Architecture(
    "b1-plain",
    tuple((1, 3, stride, ratio, outputs) for _, _, stride, ratio, outputs in _STAGES),
    outer_activation="relu",
    inner_activation="relu6",
    residual=False,
)

_B = {name: _scaled(name, *factors, is_lite=False) for name, factors in _FACTORS.items()}
_LITE = [_scaled(f"lite{i}", *_FACTORS[f"b{i}"], is_lite=True) for i in range(5)]

ARCHITECTURES = {arch.name: arch for arch in (*_LITE, *(_B[f"b{i}"] for i in range(5)), B1_PLAIN)}

# Known, so that a refusal can name them, but not supported.
LARGER = tuple(arch for arch in _B.values() if arch.name not in ARCHITECTURES)


def build_layers(variant, head, expand_at_ratio_1=False):
    """The layer table. head: [(outputs, activation), ...], the linear layers after the pool."""
    arch = variant.arch
    layers = []
    size = variant.padding_size

    def convolve(name, op, inputs, outputs, kernel, stride, **more):
        nonlocal size
        pad = variant.pad(size, kernel, stride)
        layers.append(Layer(name, op, inputs, outputs, kernel=kernel, stride=stride, pad=pad, **more))
        size = math.ceil(size / stride)

    def pointwise(name, inputs, outputs, **more):
        layers.append(Layer(name, "pointwise", inputs, outputs, **more))

    def squeeze_excite(prefix, channels, reduced, block):
        before = layers[-1].name
        layers.append(Layer(prefix + "pool", "pool", channels, channels, block=block))
        layers.append(Layer(prefix + "reduce", "linear", channels, reduced, arch.inner_activation, block=block))
        layers.append(Layer(prefix + "expand", "linear", reduced, channels, "sigmoid", block=block))
        sources = (before, prefix + "expand")
        layers.append(Layer(prefix + "scale", "scale", channels, channels, sources=sources, block=block))

    convolve("stem", "conv", 3, arch.stem, 3, 2, activation=arch.outer_activation)
    for index, block in enumerate(arch.blocks(expand_at_ratio_1)):
        before = layers[-1].name
        prefix = f"blocks.{index}."
        if block.has_expand:
            pointwise(prefix + "expand", block.inputs, block.hidden, activation=arch.inner_activation, block=index)
        convolve(
            prefix + "depthwise",
            "depthwise",
            block.hidden,
            block.hidden,
            block.kernel,
            block.stride,
            activation=arch.inner_activation,
            block=index,
        )
        if arch.squeeze:
            squeeze_excite(prefix + "se.", block.hidden, max(1, block.inputs // arch.squeeze), index)
        adds = arch.residual and block.stride == 1 and block.inputs == block.outputs
        pointwise(prefix + "project", block.hidden, block.outputs, add=before if adds else "", block=index)
    pointwise("head", layers[-1].outputs, arch.head, activation=arch.outer_activation)
    layers.append(Layer("pool", "pool", arch.head, arch.head))
    inputs = arch.head
    for index, (outputs, activation) in enumerate(head):
        name = "classifier" if len(head) == 1 else f"classifier.{index}"
        layers.append(Layer(name, "linear", inputs, outputs, activation))
        inputs = outputs
    return layers
