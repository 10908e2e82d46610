"""What a whole module says of how its network computes, held against what its library is known for."""

import dataclasses

from .architectures import build_layers
from .errors import ConvertError, shown

_CLASSES_OF = {
    "silu": ("SiLU", "Swish", "SwishMe", "SwishJit", "MemoryEfficientSwish"),
    "relu": ("ReLU",),
    "relu6": ("ReLU6",),
}
_OTHER_ACTIVATIONS = (
    "CELU ELU GELU GELUTanh HardMish Hardsigmoid HardSigmoid Hardswish HardSwish HardswishMe HardSwishMe Hardtanh LeakyReLU "
    "Mish PReLU QuickGELU RReLU SELU Softplus Tanh"
).split()
_ACTIVATIONS = {*_OTHER_ACTIVATIONS, *(name for names in _CLASSES_OF.values() for name in names)}
_MEAN_POOLS = ("avg", "fast", "fastavg")  # pool_type of timm's SelectAdaptivePool2d
# Inputs' sizes, for which efficientnet_pytorch's modules pad; usual ones first.
_SIZES = (224, 240, 256, 260, 280, 288, 300, 320, 380, 384, *range(1, 1025))


def _kind(classes, path):
    return classes.get(path, "").rpartition(".")[2]


def _convolutions(found, variant, classes):
    """(layer, path of its module) of the convolutions whose modules are known."""
    blocks = list(variant.arch.blocks(found.scheme.expand_at_ratio_1))
    for layer in build_layers(variant, [], found.scheme.expand_at_ratio_1):
        if layer.op in ("conv", "depthwise", "pointwise"):
            path = found.scheme.convolution(layer, blocks)[0].removesuffix(".weight")
            if path in classes:
                yield layer, path


def _check_convolutions(found, classes, settings, label):
    for layer, path in _convolutions(found, found.variant, classes):
        own = settings.get(path, {})
        wanted = {"stride": layer.stride, "dilation": 1} if layer.kernel > 1 else {"stride": layer.stride}
        for name, value in wanted.items():
            told = own.get(name)
            if type(told) is tuple and any(each != value for each in told):
                raise ConvertError(f"{label}: {path} has {name} {told}, where {found.variant.full_name} has {value}")
        if layer.kernel > 1 and own.get("padding_mode", "zeros") != "zeros":
            raise ConvertError(f"{label}: {path} has padding_mode {own['padding_mode']}: effnet pads with zeros")


def _check_modules(found, classes, settings, label):
    """Activations and the pool; the head's are looked at where the head is found."""
    arch, head = found.variant.arch, found.scheme.head
    allowed = {*_CLASSES_OF[arch.outer_activation], *_CLASSES_OF[arch.inner_activation]}
    for path in classes:
        if path == head or path.startswith(head + "."):
            continue
        kind = _kind(classes, path)
        if kind in _ACTIVATIONS and kind not in allowed:
            raise ConvertError(f"{label}: {path} is {kind}, where {found.variant.full_name} has {_CLASSES_OF[arch.inner_activation][0]}")
        pool = settings.get(path, {}).get("pool_type", "avg")
        if "MaxPool" in kind or "GeM" in kind or pool not in _MEAN_POOLS:
            raise ConvertError(f"{label}: {path} is {kind}{'' if pool == 'avg' else f' ({pool})'}: effnet takes the mean")


def _told_padding(path, classes, settings):
    """"same", (top, left, bottom, right), or None where the module does not say."""
    static, own = path + ".static_padding", settings.get(path, {})
    if static in classes:
        left, right, top, bottom = (settings.get(static, {}).get("padding", ()) or (0,) * 4)[:4]
        return top, left, bottom, right
    if "Same" in _kind(classes, path):
        return "same"
    padding = own.get("padding")
    return padding * 2 if type(padding) is tuple and len(padding) == 2 else None


def _misfit(found, padding, told, classes):
    """Path of the first convolution that does not pad so, or None. With a stride of 1 all the ways are one."""
    variant = dataclasses.replace(found.variant, padding=padding)
    for layer, path in _convolutions(found, variant, classes):
        said = told.get(path)
        if said is None or (said == "same" and layer.stride == 1):
            continue
        if said == "same" or (padding == "same" and layer.stride > 1):
            fits = said == padding
        else:
            fits = said == layer.pad
        if not fits:
            return path
    return None


def _padding(found, classes, settings, label):
    """How the module's convolutions pad, or None where none says."""
    told = {}
    for layer, path in _convolutions(found, found.variant, classes):
        said = _told_padding(path, classes, settings) if layer.kernel > 1 else None
        if said is not None:
            told[path] = said
    if not told:
        return None
    known = [variant.padding for variant in (found.variant, *found.rivals)]
    static = any(path + ".static_padding" in classes for path in told)
    for padding in (*known, "symmetric", "same", *(f"same@{size}" for size in _SIZES if static)):
        if _misfit(found, padding, told, classes) is None:
            return padding
    path = _misfit(found, known[0], told, classes)
    raise ConvertError(
        f"{label}: {path} pads by {told[path]} (top, left, bottom, right), and the convolutions together as no known library does"
    )


def _epsilon(classes, settings, label):
    """Of the module's batch norms but the head's, or None where none says."""
    norms = [path for path, name in classes.items() if "BatchNorm" in name and "1d" not in name]
    epsilons = {settings.get(path, {}).get("eps") for path in norms} - {None}
    if not epsilons:
        return None
    epsilon = next(iter(epsilons))
    if len(epsilons) > 1 or type(epsilon) is not float or not 0 < epsilon < 1:
        raise ConvertError(f"{label}: its batch norms' eps are {', '.join(sorted(map(shown, epsilons))[:4])}, not one number")
    return epsilon


def as_built(found, classes, settings, label):
    """found, of the variants left those that pad as a whole module does, then those with its epsilon; where none does, the
    variants with the module's value. What the module has and the variant cannot have is refused. classes, settings:
    {module path: ...}, empty where the source is a state dict."""
    if not classes:
        return found
    _check_convolutions(found, classes, settings, label)
    _check_modules(found, classes, settings, label)
    left, notes = [found.variant, *found.rivals], list(found.notes)
    told = {"padding": _padding(found, classes, settings, label), "epsilon": _epsilon(classes, settings, label)}
    for name, value in told.items():
        if value is None:
            continue
        alike = [variant for variant in left if getattr(variant, name) == value]
        if not alike:
            usual = getattr(left[0], name)
            notes.append(f"its modules have {name} {value}, not {usual} as {left[0].full_name}: taken (--{name} goes first)")
        left = alike or [dataclasses.replace(variant, **{name: value}) for variant in left]
    return dataclasses.replace(found, variant=left[0], rivals=tuple(left[1:]), notes=tuple(notes))
