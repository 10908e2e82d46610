"""Finds the network's tensors in what a checkpoint holds: state dicts under any key, whole modules, EMA copies.

A place in a checkpoint is a path of keys, with points between them. The last of them may be what a state
dict's names begin with: state_dict.model_ema is what is called `model_ema.` there."""

import re
from dataclasses import dataclass, field

from .errors import EX_USAGE, ConvertError
from .modules import Counter, Module, is_module, read_module
from .pickle_reader import Inert
from .prefixes import AVERAGED, BUFFERS, Part, separate
from .tensors import SourceTensor

MAX_DEPTH = 12  # of dictionaries in each other
MAX_KEY = 200  # characters of a key under which something is looked for
MAX_LISTED = 6  # places that a message lists

# Where trainers put the weights that they train.
PLAIN = frozenset(
    "state_dict model model_state_dict model_state net network module params parameters weights state "
    "current_model_state".split()
)
OPTIMISERS = re.compile(r"optim|sched|scaler|^collected_params$", re.IGNORECASE)
SHADOW_LIST = "shadow_params"  # torch_ema: the parameters in their order, without names
# Where trainers note the name of the network, and in what.
RECORDS = ("args", "opt", "config", "cfg", "hparams", "hyper_parameters")
RECORDED_NAMES = ("arch", "architecture", "model", "model_name", "backbone")
IMAGE_ARGUMENTS = ("mean", "std", "img_size", "input_size", "crop_pct", "interpolation", "multi_label", "bce_loss")
# Lightning's WeightAveraging moves the raw weights here, and the averages to their place.
MOVED_BY_LIGHTNING = "current_model_state"


class NothingFound(ConvertError):
    """There are no tensors at all."""


@dataclass
class Found:
    """A set of tensors that may be the network's."""

    keys: tuple
    part: Part
    module: Module
    is_averaged: bool
    notices: list = field(default_factory=list)

    @property
    def place(self):
        return ".".join((*self.keys, *self.part.prefix))

    @property
    def tensors(self):
        return self.part.tensors

    @property
    def is_plain(self):
        """Whether every key on the way to it is one that trainers use for the network."""
        return all(key in PLAIN or AVERAGED.search(key) for key in self.keys)


@dataclass
class Choice:
    """The tensors to take of a checkpoint."""

    tensors: dict  # name -> SourceTensor
    classes: dict  # path of a module -> module.class, where the checkpoint says
    settings: dict  # path of a module -> {attribute: value}
    config: dict | None  # a whole module's pretrained_cfg
    place: str  # as --key names it, "" for the whole file
    weights: str  # "raw" where there are EMA ones beside, "EMA", or "" where there is one set
    notices: list


def _contents(value):
    """A dictionary's items, or an object's attributes and items."""
    return value if type(value) is dict else {**(value.attributes or {}), **(value.items or {})}


class _Search:
    """Looks into each dictionary and object once, however often the checkpoint refers to it."""

    def __init__(self, value, label):
        self.found = []
        self.lists = []  # (place, tensors)
        self._label = label
        self._counter = Counter(label)
        self._seen = set()
        self._top = value
        if type(value) in (dict, Inert):
            self._walk(value, ())

    def _walk(self, value, keys):
        if id(value) in self._seen or len(keys) > MAX_DEPTH:
            return
        self._seen.add(id(value))
        before = len(self.found)
        if is_module(value):
            self._add(keys, read_module(value, self._counter))
            return
        items = _contents(value)
        if any(type(item) is SourceTensor for item in items.values()):
            self._add(keys, self._state_dict(items))
        arguments = value.arguments if type(value) is Inert else ()
        for key, item in (*items.items(), *((str(index), item) for index, item in enumerate(arguments))):
            if type(key) is not str or len(key) > MAX_KEY or OPTIMISERS.search(key):
                continue
            if type(item) in (dict, Inert):
                self._walk(item, (*keys, key))
            elif type(item) is list and (key == SHADOW_LIST or any(map(AVERAGED.search, (*keys, key)))):
                self._add_list((*keys, key), item)
        if type(value) is Inert and len(self.found) > before:
            value.used = True

    def _add_list(self, keys, items):
        if id(items) not in self._seen and items and all(type(item) is SourceTensor for item in items):
            self.lists.append((".".join(keys), items))
        self._seen.add(id(items))

    def _state_dict(self, items):
        module = Module()
        self._counter.add_entries(len(items))
        for name, item in items.items():
            self._counter.add_characters(len(str(name)))
            if type(name) is str and type(item) is SourceTensor:
                module.tensors[name] = item
            elif type(item) not in (dict, list) and not (type(item) is Inert and item.attributes):
                module.note(str(name), item)
        return module

    def _add(self, keys, module):
        for part in separate(module.tensors, self._label) if module.tensors else ():
            is_averaged = any(map(AVERAGED.search, (*keys, *part.prefix)))
            if keys[:1] == ("state_dict",) and type(self._top) is dict and MOVED_BY_LIGHTNING in self._top:
                is_averaged = True
            found = Found(keys, part, module, is_averaged)
            if part.left_out:
                found.notices.append(f"{_some(part.left_out)}: left out, as a loss's or a metric's")
            if module.others:
                found.notices.append(f"{_some(module.others)}: left out, being no tensor")
            self.found.append(found)


def _some(names):
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(name[:80] for name in names[:3]) + more


def _places(found):
    more = f" and {len(found) - MAX_LISTED} more" if len(found) > MAX_LISTED else ""
    return ", ".join(each.place[:80] or "the whole file" for each in found[:MAX_LISTED]) + more


def _likely(found):
    """Without what has no convolution where others have: statistics, a loss's weights."""
    with_convolutions = [f for f in found if any(len(tensor.shape) == 4 for tensor in f.tensors.values())]
    return with_convolutions or found


def _without_copies(found):
    """A module and its state dict, say, are the same tensors twice."""
    kept, seen = [], set()
    for each in found:
        key = frozenset((name, tensor.offset, id(tensor.read_storage)) for name, tensor in each.tensors.items())
        if key not in seen:
            seen.add(key)
            kept.append(each)
    return kept


def _under(found, key, label):
    """What lies at the place that --key names, or in it."""
    at = [each for each in found if each.place == key or each.place.startswith(key + ".")]
    if at:
        return at
    for each in found:
        place = (*each.keys, *each.part.prefix)
        inside = key.split(".")
        if tuple(inside[: len(place)]) != place:
            continue
        inside = inside[len(place) :]
        prefix = ".".join(inside) + "."
        tensors = {name[len(prefix) :]: t for name, t in each.tensors.items() if name.startswith(prefix)}
        for part in separate(tensors, label) if tensors else ():
            part.prefix = (*each.part.prefix, *inside, *part.prefix)
            at.append(Found(each.keys, part, each.module, any(map(AVERAGED.search, (*each.keys, *part.prefix)))))
        if at:
            return at
    there = f"there are: {_places(found)}" if found else "there are no tensors in it"
    raise ConvertError(f"{label}: --key {key}: nothing is there; {there}", EX_USAGE)


def _one_of(found, label):
    """The one that is plainly the network; its notices tell of the others."""
    found = _without_copies(found)
    chosen = found if len(found) == 1 else [each for each in found if each.is_plain]
    if len(chosen) != 1:
        raise ConvertError(f"{label}: holds several sets of tensors, say which with --key: {_places(found)}")
    rest = [each for each in found if each is not chosen[0]]
    if rest:
        chosen[0].notices.append(f"{_places(chosen)} was taken, not {_places(rest)}: --key says which")
    return chosen[0]


def _averaged_list(raw, lists):
    """EMA weights without names: as many as the raw ones' parameters, in their order. Their place and tensors."""
    parameters = [name for name in raw.tensors if name.rpartition(".")[2] not in BUFFERS]
    shapes = [raw.tensors[name].shape for name in parameters]
    for place, tensors in lists:
        if [tensor.shape for tensor in tensors] == shapes:
            return place, {**raw.tensors, **dict(zip(parameters, tensors))}
    return None


def _with_buffers(averaged, raw):
    """EMA weights, with the raw ones' batch norm statistics where a copy of the parameters alone was kept."""
    missing = [name for name in raw.tensors if name not in averaged.tensors]
    if not missing or any(name.rpartition(".")[2] not in BUFFERS for name in missing):
        return averaged.tensors
    if any(name not in raw.tensors for name in averaged.tensors):
        return averaged.tensors
    averaged.notices.append("the EMA weights have no batch norm statistics of their own: the raw weights' were taken")
    return {name: averaged.tensors.get(name, raw.tensors[name]) for name in raw.tensors}


def _choice(found, tensors, weights, label, more=()):
    part = found.part
    for name, kind in part.inside(found.module.unread).items():
        raise ConvertError(f"{label}: {name}: a tensor of a kind that is not read ({kind})")
    classes, settings = part.inside(found.module.classes), part.inside(found.module.settings)
    config = part.inside(found.module.configs).get("")
    return Choice(tensors, classes, settings, config, found.place, weights, [*found.notices, *more])


def _choose_averaged(raw, averaged, lists, label):
    if averaged:
        chosen = _one_of(averaged, label)
        only = len(raw) == 1 or sum(each.is_plain for each in raw) == 1
        tensors = _with_buffers(chosen, _one_of(raw, label)) if only else chosen.tensors
        return _choice(chosen, tensors, "EMA", label)
    if lists and raw:
        base = _one_of(raw, label)
        found = _averaged_list(base, lists)
        if found is None:
            raise ConvertError(
                f"{label}: {lists[0][0]}: {len(lists[0][1])} EMA tensors without names, which do not fit the "
                f"parameters of {_places([base])}"
            )
        return _choice(base, found[1], "EMA", label)
    raise ConvertError(f"{label}: --ema: there are no EMA weights in it", EX_USAGE)


def choose(value, label, key=None, ema=False):
    """The tensors to take of what a checkpoint holds: of raw and EMA ones the raw, unless `ema` asks for the others."""
    search = _Search(value, label)
    found = _likely(search.found)
    if not found:
        raise NothingFound(f"{label}: holds no tensors{_instead(value, search.lists)}")
    everywhere = [each for each in found if not each.is_averaged]
    if key is not None:
        lists = [each for each in search.lists if each[0] == key or each[0].startswith(key + ".")]
        if lists:
            return _choose_averaged(everywhere, [], lists, label)
        found = _likely(_under(search.found, key, label))
        exact = [each for each in found if each.place == key]
        found = exact if exact and not ema else found
    raw = [each for each in found if not each.is_averaged]
    averaged = [each for each in found if each.is_averaged]
    if ema or not raw:
        chosen = _choose_averaged(everywhere, averaged, search.lists, label)
        if not ema and key is None:
            chosen.notices.append("its only weights are EMA ones: they were taken")
        return chosen
    chosen = _one_of(raw, label)
    beside = [*(each.place for each in averaged), *(place for place, _ in search.lists)]
    if not beside:
        return _choice(chosen, chosen.tensors, "", label)
    notice = f"the raw weights were taken ({_places([chosen])}): --ema takes the EMA ones ({_some(beside)})"
    return _choice(chosen, chosen.tensors, "raw", label, [notice])


def _instead(value, lists):
    """What a checkpoint without tensors holds."""
    if lists:
        return f" with names, only the list {lists[0][0]}"
    if type(value) is dict and value:
        return f", only {_some([str(key) for key in value])}"
    return ""


def _records(value):
    """(object, its entries) of the checkpoint itself and of a trainer's arguments in it."""
    if type(value) not in (dict, Inert):
        return []
    top = _contents(value)
    inner = [top[key] for key in RECORDS if type(top.get(key)) in (dict, Inert)]
    return [(value, top), *((each, _contents(each)) for each in inner)]


def _mark_read(value):
    if type(value) is Inert:
        value.used = True


def recorded_names(value):
    """What a checkpoint calls its network, by timm's `arch` or a trainer's arguments: names without the hub that they
    come from."""
    texts = []
    for record, entries in _records(value):
        found = [entries[key] for key in RECORDED_NAMES if type(entries.get(key)) is str]
        texts += found
        if found:
            _mark_read(record)
    return tuple(text.rpartition("/")[2] for text in texts)


def _is_said(value):
    """Whether an argument has a value: a truth, a number, a text, or numbers."""
    if type(value) in (list, tuple):
        return 0 < len(value) <= 4 and all(type(each) in (int, float) for each in value)
    return type(value) in (bool, int, float, str) and bool(value)


def class_names(value):
    """The key under which a checkpoint names its classes, or ""."""
    for _, entries in _records(value):
        for key in ("class_to_idx", "classes", "class_names"):
            if type(entries.get(key)) in (dict, list, tuple) and entries[key]:
                return key
    return ""


def image_arguments(value):
    """{name: value} of what a trainer's arguments say of images and classes, where they say it."""
    arguments = {}
    for record, entries in _records(value)[1:]:
        found = {key: entries[key] for key in IMAGE_ARGUMENTS if _is_said(entries.get(key))}
        arguments = {**found, **arguments}
        if found:
            _mark_read(record)
    return arguments
