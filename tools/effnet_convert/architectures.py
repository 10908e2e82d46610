"""The networks, as tables of layers."""

import math
from dataclasses import dataclass

IMAGENET_MEAN = [123.675, 116.28, 103.53]  # 255 * (0.485, 0.456, 0.406), as torchvision's models take it
IMAGENET_STD = [58.395, 57.12, 57.375]  # 255 * (0.229, 0.224, 0.225)


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
        return 2 if self.sources or self.op == "scale" or self.activation == "sigmoid" else 1

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
    residual: bool
    padding: str  # "same" as TensorFlow pads, or "symmetric": (kernel - 1) / 2 on every side
    epsilon: float  # of the batch norms
    mean: tuple  # of the pixels, 0..255
    std: tuple
    size: int = 240
    short_side: int = 272
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

    def preprocess(self):
        return {
            "short_side": self.short_side,
            "crop": self.size,
            "interpolation": "bicubic",
            "mean": list(self.mean),
            "std": list(self.std),
        }

    def pad(self, size, kernel, stride):
        """(top, left, bottom, right) for a square input of size x size.

        "same" is TensorFlow's rule: out = ceil(size / stride), the zeros that this needs are split in
        halves, and the odd one goes to the bottom and right."""
        if self.padding == "symmetric":
            return ((kernel - 1) // 2,) * 4
        total = max((math.ceil(size / stride) - 1) * stride + kernel - size, 0)
        return (total // 2, total // 2, total - total // 2, total - total // 2)


LITE1 = Architecture(
    name="lite1",
    stages=(
        (1, 3, 1, 1, 16),
        (3, 3, 2, 6, 24),
        (3, 5, 2, 6, 40),
        (4, 3, 2, 6, 80),
        (4, 5, 1, 6, 112),
        (5, 5, 2, 6, 192),
        (1, 3, 1, 6, 320),
    ),
    outer_activation="relu6",
    inner_activation="relu6",
    residual=True,
    padding="same",
    epsilon=1e-3,
    mean=(127.0, 127.0, 127.0),
    std=(128.0, 128.0, 128.0),
)

B1_PLAIN = Architecture(
    name="b1-plain",
    stages=(
        (1, 3, 1, 1, 16),
        (1, 3, 2, 6, 24),
        (1, 3, 2, 6, 40),
        (1, 3, 2, 6, 80),
        (1, 3, 1, 6, 112),
        (1, 3, 2, 6, 192),
        (1, 3, 1, 6, 320),
    ),
    outer_activation="relu",
    inner_activation="relu6",
    residual=False,
    padding="symmetric",
    epsilon=1e-5,
    mean=tuple(IMAGENET_MEAN),
    std=tuple(IMAGENET_STD),
)

# Tan and Le, 2019: B0 with depth 1.1.
B1 = Architecture(
    name="b1",
    stages=(
        (2, 3, 1, 1, 16),
        (3, 3, 2, 6, 24),
        (3, 5, 2, 6, 40),
        (4, 3, 2, 6, 80),
        (4, 5, 1, 6, 112),
        (5, 5, 2, 6, 192),
        (2, 3, 1, 6, 320),
    ),
    outer_activation="silu",
    inner_activation="silu",
    residual=True,
    padding="same",
    epsilon=1e-3,
    mean=tuple(IMAGENET_MEAN),
    std=tuple(IMAGENET_STD),
    squeeze=4,
)

ARCHITECTURES = {arch.name: arch for arch in (LITE1, B1_PLAIN, B1)}


def build_layers(arch, head, expand_at_ratio_1=False):
    """The layer table. head: [(outputs, activation), ...], the linear layers after the pool."""
    layers = []
    size = arch.size

    def convolve(name, op, inputs, outputs, kernel, stride, **more):
        nonlocal size
        pad = arch.pad(size, kernel, stride)
        layers.append(Layer(name, op, inputs, outputs, kernel=kernel, stride=stride, pad=pad, **more))
        size = (size + pad[0] + pad[2] - kernel) // stride + 1

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
