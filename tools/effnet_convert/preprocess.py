"""How images become the network's input: what options and timm's config.json say of it, checked."""

import json
import math
import os
from dataclasses import dataclass, field, replace

from .errors import EX_USAGE, ConvertError
from .labels import labels_of_config
from .sources import read_file
from .variants import named

MAX_SIZE = 4096  # height and width of the input, as effnet takes them
MAX_SHORT_SIDE = 8192
MAX_ELEMENTS = 1 << 28  # of what a layer takes or gives
MIN_STD = 1e-6
MAX_CONFIG_BYTES = 16 << 20
INTERPOLATIONS = ("bicubic", "bilinear")
RESIZES = ("short-side", "squash")

_RESIZE_OF_CROP_MODE = {"center": "short-side", "squash": "squash"}


def _is_fraction(values):
    """Whether they can only be fractions of 255; 0 and 1 may be either."""
    return values is not None and max(map(abs, values)) <= 1 and not set(values) <= {0.0, 1.0}


def in_255(mean, std, place):
    """(mean, std, notes) in units of 0..255; None where it is not given. Where all that is given is at most 1, it is
    taken as fractions of 255, as PyTorch's transforms have it."""
    given = {name: values for name, values in (("mean", mean), ("std", std)) if values is not None}
    if not given or any(abs(value) > 1 for values in given.values() for value in values):
        if _is_fraction(mean) or _is_fraction(std):
            raise ConvertError(f"{place}: one of mean and std is in fractions of 255, the other is not", EX_USAGE)
        return mean, std, []
    # 12 digits: 0.485 * 255 is 123.675, not 123.67499999999998
    scaled = {name: tuple(float(f"{value * 255:.12g}") for value in values) for name, values in given.items()}
    said = ", ".join(f"{name} {short_numbers(values)}" for name, values in scaled.items())
    return scaled.get("mean"), scaled.get("std"), [f"{place}: at most 1, so fractions of 255: {said}"]


def short_numbers(values):
    """"127" or "123.675,116.28,103.53"."""
    return ",".join(f"{value:.9g}" for value in (values[:1] if len(set(values)) == 1 else values))


# ---------------------------------------------------------------- config.json


@dataclass(frozen=True)
class Config:
    """What a config.json says; None where it says nothing."""

    path: str = ""
    architecture: str | None = None
    classes: int | None = None
    size: int | None = None
    crop_pct: float | None = None
    crop_mode: str | None = None
    interpolation: str | None = None
    mean: tuple | None = None
    std: tuple | None = None
    labels: object = None  # Labels
    imagenet: bool = False  # trained on ImageNet's 1000 classes
    notes: list = field(default_factory=list)

    def fail(self, reason):
        return ConvertError(f"{self.path}: {reason}")


class _Fields:
    """Values of a JSON object by key, each checked."""

    def __init__(self, path, objects):
        self._path, self._objects = path, objects

    def fail(self, reason):
        return ConvertError(f"{self._path}: {reason}")

    def get(self, key, holds, what):
        """The first object's value that has the key and is not null."""
        value = next((entry[key] for entry in self._objects if entry.get(key) is not None), None)
        if value is not None and not holds(value):
            raise self.fail(f"{key} {json.dumps(value, default=lambda other: type(other).__name__)[:80]} is not {what}")
        return value


def _is_number(value):
    return type(value) in (int, float) and abs(value) < 1e9  # not NaN, and no whole number that no float holds


def _three_numbers(low):
    return lambda value: type(value) is list and len(value) == 3 and all(_is_number(v) and low < v < 1e6 for v in value)


def _is_text(value):
    return type(value) is str


def _is_size(value):
    return type(value) is list and len(value) == 3 and all(type(n) is int and 0 < n < 1e9 for n in value)


def _input_size(fields):
    value = fields.get("input_size", _is_size, "three whole numbers above 0")
    if value is None:
        return None, []
    if value[0] != 3 or value[1] != value[2]:
        raise fields.fail(f"input_size {value} is not [3, size, size]: effnet takes square images of three colours")
    test = fields.get("test_input_size", _is_size, "three whole numbers above 0")
    if test in (None, value):
        return value[2], []
    return value[2], [f"input_size {value} is taken, not test_input_size {test} (--size says otherwise)"]


def _load_object(path):
    try:
        value = json.loads(read_file(path, MAX_CONFIG_BYTES).decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ConvertError(f"{path}: not JSON: {error}") from None
    if type(value) is not dict or type(value.get("pretrained_cfg", {})) is not dict:
        raise ConvertError(f"{path}: not a config.json as timm writes it: no JSON object")
    return value


def read_config(path):
    """The file beside weights on timm's hub: {"architecture", "num_classes", "pretrained_cfg": {"input_size", ...}}, or
    all of it in one object."""
    top = _load_object(path)
    fields = _Fields(path, [top, top.get("pretrained_cfg", {})])
    if fields.get("architecture", _is_text, "a name") is None:
        raise fields.fail("has no architecture: --config takes the config.json beside timm's weights")
    return _config(fields, path)


IMAGE_FIELDS = ("input_size", "test_input_size", "crop_pct", "crop_mode", "interpolation", "mean", "std")


def module_config(entries, label):
    """What the pretrained_cfg of a whole timm module says of images. The classes in it are those of the weights that the
    training began with."""
    taken = {name: entries[name] for name in (*IMAGE_FIELDS, "architecture") if entries.get(name) is not None}
    if not any(name in taken for name in IMAGE_FIELDS):
        return Config()
    place = f"{label}: its pretrained_cfg"
    plain = {name: list(value) if type(value) is tuple else value for name, value in taken.items()}
    config = _config(_Fields(place, [plain]), place)
    said = f"{place} says how images are prepared, which was taken (options go first)"
    return replace(config, notes=[said, *config.notes])


def _config(fields, path):
    architecture = fields.get("architecture", _is_text, "a name")
    size, notes = _input_size(fields)
    pool = fields.get("global_pool", _is_text, "a name")
    if pool not in (None, "avg"):
        raise fields.fail(f"global_pool {pool}: effnet takes the mean (avg)")
    mean = fields.get("mean", _three_numbers(-1e6), "three numbers")
    std = fields.get("std", _three_numbers(0), "three numbers above 0")
    mean, std, _ = in_255(mean, std, path)  # fractions are the rule there, so nothing is said
    names = fields.get("label_names", lambda v: True, "")
    descriptions = fields.get("label_descriptions", lambda v: True, "")
    tag = fields.get("tag", _is_text, "a name") or ""
    return Config(
        path=path,
        architecture=architecture and architecture.partition(".")[0],  # what follows is the tag
        classes=fields.get("num_classes", lambda v: type(v) is int and v >= 0, "a number"),
        size=size,
        crop_pct=fields.get("crop_pct", lambda v: _is_number(v) and 0 < v <= 1, "a number above 0 and up to 1"),
        crop_mode=fields.get("crop_mode", _is_text, "a name"),
        interpolation=fields.get("interpolation", _is_text, "a name"),
        mean=mean,
        std=std,
        labels=None if names is None else labels_of_config(names, descriptions, path),
        imagenet="in1k" in tag.split("_"),
        notes=[f"{os.path.basename(path)}: {note}" for note in notes],
    )


# ---------------------------------------------------------------- options, config.json, defaults


def chosen_arch(options, config):
    """The network by a name of --arch: the option's, else the config's."""
    if options.arch != "auto" or config.architecture is None:
        return options.arch
    name = f"timm/{config.architecture}"
    try:
        named(name)
    except ConvertError:
        reason = f"architecture {config.architecture} is none of timm's that effnet knows (--arch names one)"
        raise config.fail(reason) from None
    return name


def _resize(options, config):
    if options.resize or config.crop_mode is None:
        return options.resize or "short-side"
    if config.crop_mode not in _RESIZE_OF_CROP_MODE:
        raise config.fail(
            f"crop_mode {config.crop_mode} is none of effnet's: --resize {' or '.join(RESIZES)} says what to do instead"
        )
    return _RESIZE_OF_CROP_MODE[config.crop_mode]


def _interpolation(options, config, default):
    chosen = options.interpolation or config.interpolation or default.interpolation
    if chosen not in INTERPOLATIONS:
        raise config.fail(
            f"interpolation {chosen} is none of effnet's: --interpolation {' or '.join(INTERPOLATIONS)} says what to do "
            f"instead"
        )
    return chosen


def _short_side(options, config, default, size, resize):
    """From --short-side; from --crop-pct or crop_pct, as timm computes it; else the default's share of the size."""
    crop_pct = options.crop_pct or (None if options.short_side or options.resize == "squash" else config.crop_pct)
    if resize == "squash":
        if (options.short_side or size) != size or (crop_pct or 1) != 1:
            raise ConvertError(
                f"squash makes both sides {size}, and nothing is cut off then: no other short side, and a crop_pct of 1 "
                f"(--resize short-side keeps the image's shape)",
                EX_USAGE,
            )
        return size
    short_side = options.short_side
    if short_side is None:
        short_side = size / crop_pct if crop_pct else size * default.short_side // default.size
        if short_side < MAX_SHORT_SIDE + 1:  # a tiny crop_pct gives an infinite one
            short_side = math.floor(short_side)
    if not size <= short_side <= MAX_SHORT_SIDE:
        raise ConvertError(f"a short side of {short_side:.9g}: with size {size} it is {size} to {MAX_SHORT_SIDE}", EX_USAGE)
    return short_side


def _padding_notes(default, options, size):
    """What is to be said where the library pads for another size than the one that comes in."""
    if options.padding or not default.padding.startswith("same@") or default.padding == f"same@{size}":
        return []
    return [
        f"size {size}, but padding {default.padding}: {default.library} pads so whatever size comes in; --padding "
        f"same@{size} is for a network that was built for that size"
    ]


def settle(default, options, config=Config()):
    """(changes, notes): the fields of the variant `default` that config.json and, before it, the options set."""
    size = options.size or config.size or default.size
    if size > MAX_SIZE:
        raise ConvertError(f"a size of {size}: effnet takes up to {MAX_SIZE}", EX_USAGE)
    resize = _resize(options, config)
    mean, std, notes = in_255(options.mean, options.std, "--mean, --std")
    changes = {
        "size": size,
        "short_side": _short_side(options, config, default, size, resize),
        "resize": resize,
        "interpolation": _interpolation(options, config, default),
        "mean": mean or config.mean or default.mean,
        "std": std or config.std or default.std,
        "padding": options.padding or default.padding,
        "epsilon": options.epsilon or default.epsilon,
    }
    if min(changes["std"]) < MIN_STD:
        raise ConvertError(f"a std of {min(changes['std']):g} is less than {MIN_STD:g}", EX_USAGE)
    return changes, [*config.notes, *notes, *_padding_notes(default, options, size)]


def _are_same(value, taken, unit):
    numbers = tuple(value) if type(value) in (list, tuple) else (value,) * 3
    return len(numbers) == 3 and all(type(n) in (int, float) and abs(n * unit - t) < 1e-3 for n, t in zip(numbers, taken))


def _is_taken(name, value, variant, options):
    """Whether what a trainer's argument says is what was taken, or an option says what to do instead."""
    if name in ("mean", "std"):
        return bool(getattr(options, name)) or any(_are_same(value, getattr(variant, name), unit) for unit in (1, 255))
    if name in ("img_size", "input_size"):
        return bool(options.size) or (value[-1] if type(value) in (list, tuple) else value) == variant.size
    if name == "crop_pct":
        said = type(value) in (int, float) and 0 < value <= 1 and math.floor(variant.size / value) == variant.short_side
        return bool(options.crop_pct or options.short_side) or said
    if name == "interpolation":
        return bool(options.interpolation) or value == variant.interpolation
    return options.multi_label


def ignored_arguments(arguments, variant, options):
    """What a trainer's arguments say and was not taken, in words, or ""."""

    def words(value):
        return ",".join(f"{each:.9g}" for each in value) if type(value) in (list, tuple) else str(value)[:40]

    left = {name: value for name, value in arguments.items() if not _is_taken(name, value, variant, options)}
    return ", ".join(f"{name} {words(value)}" for name, value in left.items())


def check_elements(layers, size, label):
    """Refuses a size with which a layer's tensors would be larger than effnet takes."""
    sides = {"image": size}
    before = "image"
    for layer in layers:
        side = sides[(layer.sources or (before,))[0]]
        if layer.op in ("conv", "depthwise"):
            side = (side + layer.pad[0] + layer.pad[2] - layer.kernel) // layer.stride + 1
        elif layer.op in ("pool", "linear"):
            side = 1
        if side * side * layer.outputs > MAX_ELEMENTS:
            raise ConvertError(
                f"{label}: with size {size}, {layer.name} gives more than {MAX_ELEMENTS} elements", EX_USAGE
            )
        sides[layer.name] = side
        before = layer.name
