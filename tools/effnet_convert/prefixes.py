"""What wrappers put in front of a network's names, and what lies beside the network in one state dict."""

import re
from dataclasses import dataclass, field

from .errors import ConvertError

# torch.compile, FSDP and activation checkpointing name a wrapped module's inside so, at any place.
WRAPPING = frozenset(("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"))
BUFFERS = frozenset(("running_mean", "running_var", "num_batches_tracked"))
# Counters of averaged models, beside the network.
COUNTERS = frozenset(("n_averaged", "num_updates", "decay", "initted", "step"))
LOSSES = re.compile(
    r"(^|_)(criterion|criteria|loss|losses|loss_fn|loss_func|metric|metrics|accuracy|acc|auroc|f1|f1_score)$"
)
# Copies that average the weights over training.
AVERAGED = re.compile(
    r"(^|[_.-])(ema|swa|averaged|averaging|shadow|polyak)([_.-]|\d|$)|^(modelema|emamodel)$", re.IGNORECASE
)
MAX_PREFIXES = 16  # in front of a name


@dataclass
class Part:
    """A set of tensors in a state dict that share a prefix."""

    prefix: tuple
    tensors: dict  # name -> SourceTensor, without the prefix
    left_out: list = field(default_factory=list)  # names of losses' and metrics' tensors

    def inside(self, entries):
        """{path: value} of a module's parts, by their paths behind the prefix."""
        result = {}
        for path, value in entries.items():
            parts = tuple(_without_wrapping(path).split("."))
            if parts[: len(self.prefix)] == self.prefix:
                result[".".join(parts[len(self.prefix) :])] = value
        return result


def _without_wrapping(name):
    parts = name.split(".")
    return name if WRAPPING.isdisjoint(parts) else ".".join(part for part in parts if part not in WRAPPING)


def _drop(tensors, names):
    return {name: tensor for name, tensor in tensors.items() if name not in names}


def _groups(tensors):
    """{first part of the name: names}; names of one part stand under themselves."""
    groups = {}
    for name in tensors:
        groups.setdefault(name.partition(".")[0], []).append(name)
    return groups


def _is_wrapper(names):
    """Whether what all names begin with is a wrapper's, by the names behind it: it is no layer, and no Sequential."""
    firsts = {name.partition(".")[0] for name in names}
    has_layers = len(firsts) > 1 or all(name.count(".") < 2 for name in names)
    is_sequential = has_layers and all(first.isdecimal() for first in firsts)
    return "" not in firsts and not is_sequential and any("." in name for name in names)


def _split(prefix, tensors):
    """The network's tensors, and each averaged copy of it that lies beside it."""
    left_out, copies = [], []
    while len(prefix) < MAX_PREFIXES:
        groups = _groups(tensors)
        if any("." in name for name in tensors):
            tensors = _drop(tensors, {first for first in groups if first in COUNTERS and groups[first] == [first]})
            groups = _groups(tensors)
        dropped = set()
        for first in [first for first in groups if LOSSES.search(first)]:
            if len(groups) > 1:
                left_out += [".".join((*prefix, name)) for name in groups[first]]
                dropped.update(groups.pop(first))
        averaged = [first for first in groups if AVERAGED.search(first) and first not in tensors]
        for first in averaged if len(averaged) < len(groups) else averaged[1:]:
            names = groups.pop(first)
            copies += _split((*prefix, first), {name[len(first) + 1 :]: tensors[name] for name in names})
            dropped.update(names)
        tensors = _drop(tensors, dropped)
        if len(groups) != 1:
            break
        (first,) = groups
        inside = {name[len(first) + 1 :] for name in tensors}
        if not _is_wrapper(inside):
            break
        prefix = (*prefix, first)
        tensors = {name[len(first) + 1 :]: tensor for name, tensor in tensors.items()}
    return [Part(prefix, tensors, left_out), *copies]


def separate(tensors, label):
    """[Part, ...] of a state dict {name: SourceTensor}. Every part's common prefix is gone."""
    cleaned = {}
    for name, tensor in tensors.items():
        clean = _without_wrapping(name)
        if clean in cleaned:
            raise ConvertError(f"{label}: {name}: there is a {clean} too")
        cleaned[clean] = tensor
    return _split((), cleaned)


def check_whole(tensors, markers, place, label):
    """Refuses tensors of which a part alone is a network, known by one of the markers, with what can be done. Nothing
    is dropped here: the rest may be the network's head."""
    if any(marker in tensors for marker in markers):
        return
    ends = tuple("." + marker for marker in markers)
    inside = sorted({name.removesuffix(end) for name in tensors for end in ends if name.endswith(end)})
    places = [f"{place}.{prefix}" if place else prefix for prefix in inside]
    if len(inside) > 1:
        raise ConvertError(f"{label}: holds several networks, say which with --key: {', '.join(places[:6])}")
    rest = [name for name in tensors if inside and not name.startswith(inside[0] + ".")]
    if rest:
        raise ConvertError(
            f"{label}: the network's names begin with {inside[0]}. and {len(rest)} others do not "
            f"({', '.join(rest[:3])}): if they are no part of it, take it alone with --key {places[0]}; a head has to be "
            f"called as the library does"
        )
