"""The head of a network: its linear layers, their batch norms, and what is between them."""

import re
from dataclasses import dataclass, field

from .errors import EX_USAGE, ConvertError, shown

ACTIVATIONS = ("none", "relu", "relu6", "silu", "hardswish", "tanh", "gelu", "gelu_relu")
MAX_WIDTH = 65536  # channels of a layer, as effnet takes them
EPSILON = 1e-5  # BatchNorm1d's default

# torch.nn's classes, where the source tells them: what follows a linear layer, and what leaves its output alone when
# a network classifies. (Softmax does so at the end, where effnet applies its own.)
_ACTIVATION_OF = {
    "ReLU": "relu",
    "ReLU6": "relu6",
    "SiLU": "silu",
    "Hardswish": "hardswish",
    "Tanh": "tanh",
    "GELU": "gelu",
}
_WITHOUT_EFFECT = ("Dropout", "AlphaDropout", "FeatureAlphaDropout", "Identity", "Flatten", "BatchNorm1d")
_SOFTMAX = ("Softmax", "LogSoftmax")


@dataclass(frozen=True)
class HeadOptions:
    """What is known of a head beside its parameters."""

    activations: tuple | None = None  # of the linear layers but the last, as the user gives them
    epsilon: float | None = None  # of its batch norms, as the user gives it
    multi_label: bool = False  # each class has a sigmoid of its own
    # Where the source is a whole module: {module path: class name}, {module path: {attribute: value}}.
    classes: dict = field(default_factory=dict)
    settings: dict = field(default_factory=dict)

    def epsilon_of(self, norm):
        """The user's, the module's own, or the default."""
        told = self.settings.get(norm, {}).get("eps", EPSILON)
        if type(told) is not float or not 0 < told < 1:
            raise ConvertError(f"{norm}: its eps is {shown(told)}, not a number between 0 and 1")
        return self.epsilon or told


@dataclass(frozen=True)
class HeadLayer:
    """A linear layer of a head."""

    prefix: str  # of its parameters
    norm: str | None  # prefix of the batch norm behind it
    outputs: int
    activation: str


def _outputs(reader, tensors, prefix):
    shape = tensors[prefix + ".weight"].shape
    if len(shape) != 2 or type(shape[0]) is not int or not 1 <= shape[0] <= MAX_WIDTH:
        raise reader.fail(f"{prefix}.weight has shape {list(shape)}, not [1 to {MAX_WIDTH}, in]")
    return shape[0]


def _modules(reader, tensors, prefix):
    """(linear layers, batch norms): the indices in the Sequential PREFIX.0, PREFIX.1, ..."""
    pattern = re.compile(re.escape(prefix) + r"\.(\d{1,4})\.(weight|running_mean)")
    found = [match for match in map(pattern.fullmatch, tensors) if match]
    norms = {int(match[1]) for match in found if match[2] == "running_mean"}
    linears = sorted({int(match[1]) for match in found} - norms)
    if not linears:
        others = sorted(name for name in tensors if name.startswith(prefix + "."))
        more = f" ({others[0]} is there, but a head is one linear layer or a Sequential of them)" if others else ""
        raise reader.fail(f"{prefix}.weight is missing{more}")
    for index in linears:
        shape = tensors[f"{prefix}.{index}.weight"].shape
        if len(shape) != 2:
            raise reader.fail(
                f"{prefix}.{index}.weight has shape {list(shape)}: neither a linear layer's nor that of a batch norm with "
                f"statistics"
            )
    for norm in sorted(norms):
        if norm - 1 not in linears:
            raise reader.fail(f"{prefix}.{norm} is a batch norm that does not follow a linear layer")
    return linears, norms


def _class(options, path):
    name = options.classes.get(path, "a module that the source does not name").rpartition(".")[2]
    if name == "GELU" and options.settings.get(path, {}).get("approximate", "none") != "none":
        return "GELU by tanh"
    return name


def _between(reader, prefix, options, first, last):
    """The activation that the modules first, ..., last - 1 of a Sequential make, by their classes."""
    made = []
    for index in range(first, last):
        name = _class(options, f"{prefix}.{index}")
        if name in _ACTIVATION_OF:
            made.append(_ACTIVATION_OF[name])
        elif name not in _WITHOUT_EFFECT:
            raise reader.fail(f"{prefix}.{index} ({name}) is nothing that effnet has between linear layers")
    if len(made) < 2 or made == ["gelu", "relu"]:
        return "_".join(made) or "none"
    raise reader.fail(f"{prefix}: {' and '.join(made)} follow one linear layer: effnet has no such activation")


def _check_end(reader, prefix, options, last):
    """What follows the last linear layer, where its class is known."""
    behind = re.compile(re.escape(prefix) + r"\.(\d{1,4})")
    for path in options.classes:
        match, name = behind.fullmatch(path), _class(options, path)
        if not match or int(match[1]) <= last or name in _WITHOUT_EFFECT:
            continue
        if name == "Sigmoid" and not options.multi_label:
            raise reader.fail(f"{path} is a Sigmoid, so each class has its own: say --multi-label")
        if name not in (("Sigmoid",) if options.multi_label else _SOFTMAX):
            raise reader.fail(f"{path} ({name}) is nothing that effnet has after the last linear layer")


def _activations(reader, prefix, linears, options):
    """What follows each linear layer. A state dict does not say: modules without parameters leave no trace."""
    given, between = options.activations, list(zip(linears, linears[1:]))
    if given is not None and len(given) != len(between):
        raise ConvertError(
            f"--head-activations: {len(given)} given, but of the {len(linears)} linear layers of {prefix} "
            f"{len(between)} are followed by one",
            EX_USAGE,
        )
    if any(path.startswith(prefix + ".") for path in options.classes):
        if _between(reader, prefix, options, 0, linears[0]) != "none":
            raise reader.fail(f"{prefix}: an activation comes before the first linear layer: effnet has none there")
        _check_end(reader, prefix, options, linears[-1])
        told = [_between(reader, prefix, options, index + 1, after) for index, after in between]
        if given is not None and told != list(given):
            raise ConvertError(f"--head-activations: the source's modules are {','.join(told)}", EX_USAGE)
        return [*told, "none"]
    if given is None and between:
        raise reader.fail(
            f"{len(linears)} linear layers in {prefix}, and a state dict does not hold what is between them: say with "
            f"--head-activations {','.join('A' * len(between))} (A: {', '.join(ACTIVATIONS)})"
        )
    return [*(given or ()), "none"]


def find_head(reader, tensors, prefix, options):
    """The linear layers of the head: either one, PREFIX.weight, or those of a Sequential. [HeadLayer, ...]"""
    if reader.has(prefix + ".weight"):
        if options.activations is not None:
            raise ConvertError(f"--head-activations: {prefix} is one linear layer", EX_USAGE)
        return [HeadLayer(prefix, None, _outputs(reader, tensors, prefix), "none")]
    linears, norms = _modules(reader, tensors, prefix)
    head = []
    for index, activation in zip(linears, _activations(reader, prefix, linears, options)):
        name = f"{prefix}.{index}"
        norm = f"{prefix}.{index + 1}" if index + 1 in norms else None
        head.append(HeadLayer(name, norm, _outputs(reader, tensors, name), activation))
    return head


def check_classes(classes, multi_label, label):
    """label: the network in messages."""
    if classes == 1 and not multi_label:
        raise ConvertError(
            f"{label}: one class, which would have a probability of 100 % on every image: with --multi-label it gets a "
            f"sigmoid"
        )
