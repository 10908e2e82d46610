"""What a library means by a network: how it pads, its batch norms' epsilon, how images become its input.

The tensors of a checkpoint tell the architecture, and by their names the library, but none of this."""

import math
import re
from dataclasses import dataclass, replace

from .architectures import ARCHITECTURES, Architecture
from .errors import EX_USAGE, ConvertError

IMAGENET_MEAN = (123.675, 116.28, 103.53)  # 255 * (0.485, 0.456, 0.406)
IMAGENET_STD = (58.395, 57.12, 57.375)  # 255 * (0.229, 0.224, 0.225)
IMAGENET = (IMAGENET_MEAN, IMAGENET_STD)
HALF = ((127.5,) * 3, (127.5,) * 3)

_PADDING = re.compile(r"same(?:@([1-9]\d{0,3}))?|symmetric")


def is_padding(text):
    return _PADDING.fullmatch(text) is not None


@dataclass(frozen=True)
class Variant:
    library: str
    name: str  # the library's name of the network
    arch: Architecture
    padding: str  # "same" as TensorFlow pads, "same@N" as it would pad inputs of N x N, or "symmetric"
    epsilon: float  # of the batch norms
    mean: tuple  # of the pixels, 0..255
    std: tuple
    size: int  # of the input
    short_side: int  # to which images are resized before the centre of that size is cut out
    interpolation: str = "bicubic"
    resize: str = "short-side"
    tag: str = ""  # timm's: which weights of that name

    @property
    def full_name(self):
        return f"{self.library}/{self.name}" + (f".{self.tag}" if self.tag else "")

    @property
    def knows_tag(self):
        return not self.tag or self.tag in _TAGS.get(self.name, ())

    def preprocess(self):
        """As the weights file has it."""
        resize = {} if self.resize == "short-side" else {"resize": self.resize}
        return {
            **resize,
            "short_side": self.short_side,
            "crop": self.size,
            "interpolation": self.interpolation,
            "mean": list(self.mean),
            "std": list(self.std),
        }

    @property
    def padding_size(self):
        """The input's size that the padding is for."""
        return int(_PADDING.fullmatch(self.padding)[1] or self.size)

    def pad(self, size, kernel, stride):
        """(top, left, bottom, right) of a window over size x size.

        "symmetric" is (kernel - 1) / 2 on every side. "same" is TensorFlow's rule: out = ceil(size / stride), the
        zeros that this needs are split in halves, and the odd one goes to the bottom and right."""
        if self.padding == "symmetric":
            return ((kernel - 1) // 2,) * 4
        total = max((math.ceil(size / stride) - 1) * stride + kernel - size, 0)
        return (total // 2, total // 2, total - total // 2, total - total // 2)


# ---------------------------------------------------------------- the table


def _timm(name, size, crop_pct, colours=IMAGENET, interpolation="bicubic"):
    """timm 1.0: default_cfgs of timm/models/efficientnet.py, the first weights of each name, input_size (some have a
    larger test_input_size too). tf_ is TensorFlow's padding and epsilon; without, PyTorch's."""
    padding, epsilon = ("same", 1e-3) if name.startswith("tf_") else ("symmetric", 1e-5)
    short_side = math.floor(size / crop_pct)
    arch = ARCHITECTURES[name.rpartition("_")[2]]
    return Variant("timm", name, arch, padding, epsilon, *colours, size, short_side, interpolation)


def _torchvision(name, size, short_side, interpolation="bicubic"):
    """torchvision 0.29: transforms of the weights DEFAULT in torchvision/models/efficientnet.py."""
    arch = ARCHITECTURES[name[len("efficientnet_") :][:2]]
    return Variant("torchvision", name, arch, "symmetric", 1e-5, *IMAGENET, size, short_side, interpolation)


def _pytorch(index, size):
    """efficientnet_pytorch 0.7: params in its utils.py, which pad for that size whatever comes in; images as in its
    examples/imagenet."""
    arch = ARCHITECTURES[f"b{index}"]
    name = f"efficientnet-b{index}"
    return Variant("efficientnet_pytorch", name, arch, f"same@{size}", 1e-3, *IMAGENET, size, size)


def _lite_pytorch(index, size):
    """efficientnet_lite_pytorch 0.1: params in its utils.py. Its weights are TensorFlow's, which were trained on
    (pixel - 127) / 128 and cut out of images with a margin of 32 (lite_preprocessing of TensorFlow's TPU models)."""
    arch = ARCHITECTURES[f"lite{index}"]
    name = f"efficientnet-lite{index}"
    mean, std = (127.0,) * 3, (128.0,) * 3
    return Variant("efficientnet_lite_pytorch", name, arch, f"same@{size}", 1e-3, mean, std, size, size + 32)


# Where tensors leave a choice, what is further up is taken. timm: the name without tf_ comes first, unless timm has no
# weights for it.
VARIANTS = (
    *(_lite_pytorch(index, size) for index, size in enumerate((224, 240, 260, 280, 300))),
    *(_pytorch(index, size) for index, size in enumerate((224, 240, 260, 300, 380))),
    _timm("efficientnet_lite0", 224, 0.875),
    _timm("tf_efficientnet_lite0", 224, 0.875, HALF),
    _timm("tf_efficientnet_lite1", 240, 0.882, HALF),
    _timm("efficientnet_lite1", 240, 0.882),
    _timm("tf_efficientnet_lite2", 260, 0.890, HALF),
    _timm("efficientnet_lite2", 260, 0.890),
    _timm("tf_efficientnet_lite3", 300, 0.904, HALF, "bilinear"),
    _timm("efficientnet_lite3", 300, 0.904),
    _timm("tf_efficientnet_lite4", 380, 0.920, HALF, "bilinear"),
    _timm("efficientnet_lite4", 380, 0.922),
    _timm("efficientnet_b0", 224, 0.875),
    _timm("tf_efficientnet_b0", 224, 0.875),
    _timm("efficientnet_b1", 240, 0.9, HALF),
    _timm("tf_efficientnet_b1", 240, 0.882),
    _timm("efficientnet_b2", 256, 0.875),
    _timm("tf_efficientnet_b2", 260, 0.890),
    _timm("efficientnet_b3", 288, 0.875),
    _timm("tf_efficientnet_b3", 300, 0.904),
    _timm("efficientnet_b4", 320, 0.875),
    _timm("tf_efficientnet_b4", 380, 0.922),
    _torchvision("efficientnet_b0", 224, 256),
    _torchvision("efficientnet_b1", 240, 255, "bilinear"),
    _torchvision("efficientnet_b1.IMAGENET1K_V1", 240, 256),
    _torchvision("efficientnet_b2", 288, 288),
    _torchvision("efficientnet_b3", 300, 320),
    _torchvision("efficientnet_b4", 380, 384),
    Variant("KernelBench", "b1-plain", ARCHITECTURES["b1-plain"], "symmetric", 1e-5, *IMAGENET, 240, 272),
)

# timm 1.0's tags of each name, and what differs from the name's own line above.
_HALF = {"mean": HALF[0], "std": HALF[1]}
_TENSORFLOW = {"ns_jft_in1k": {}, "ap_in1k": _HALF, "aa_in1k": {}, "in1k": {}}
_TAGS = {
    "efficientnet_b0": {"ra_in1k": {}, "ra4_e3600_r224_in1k": {**_HALF, "short_side": 248}},
    "efficientnet_b1": {
        "ra4_e3600_r240_in1k": {},
        "ft_in1k": {"mean": IMAGENET_MEAN, "std": IMAGENET_STD, "size": 224, "short_side": 256},
    },
    "efficientnet_b2": {"ra_in1k": {}},
    "efficientnet_b3": {"ra2_in1k": {}},
    "efficientnet_b4": {"ra2_in1k": {}},
    "efficientnet_lite0": {"ra_in1k": {}},
    **{f"tf_efficientnet_b{index}": _TENSORFLOW for index in range(5)},
    **{f"tf_efficientnet_lite{index}": {"in1k": {}} for index in range(5)},
}


def tagged(variant, tag):
    """A variant of timm as the weights of that tag have it; with an unknown tag, as the name has it."""
    return replace(variant, tag=tag, **_TAGS.get(variant.name, {}).get(tag, {}))


# ---------------------------------------------------------------- --arch


def named(name):
    """The variants that --arch NAME leaves: of an architecture ("b1"), or of that name in any library
    ("efficientnet_b1") or one ("torchvision/efficientnet_b1"), or of timm's weights with a tag
    ("efficientnet_b1.ft_in1k"). "auto" leaves all."""
    if name == "auto":
        return VARIANTS
    found = tuple(v for v in VARIANTS if name in (v.arch.name, v.name, v.full_name))
    if not found:
        plain, _, tag = name.partition(".")
        timms = [v for v in VARIANTS if v.library == "timm" and plain in (v.name, v.full_name)]
        found = tuple(tagged(variant, tag) for variant in timms if tag)
    if not found:
        raise ConvertError(
            f"--arch {name}: unknown: {', '.join(ARCHITECTURES)}, auto, or a library's name of one of these: "
            f"tf_efficientnet_b1, torchvision/efficientnet_b1, efficientnet-lite1, ... (docs/weights-format.md lists them)",
            EX_USAGE,
        )
    return found


def for_random(name):
    """The variant that --arch NAME --random makes. An architecture's name says no library: the padding, epsilon and
    pixels are then TensorFlow's, with which it was published."""
    published = f"efficientnet-{name}" if name.startswith("lite") else f"tf_efficientnet_{name}"
    found = named(name)
    return next((variant for variant in found if variant.name == published), found[0])
