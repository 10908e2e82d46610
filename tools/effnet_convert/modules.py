"""Whole modules, as torch.save(model) writes them: their tensors by the names that a state dict has."""

from dataclasses import dataclass, field

from .errors import ConvertError
from .pickle_reader import Inert
from .tensors import SourceTensor

MAX_DEPTH = 64  # of modules in each other
MAX_ENTRIES = 200_000  # modules, parameters and buffers: a module may be part of itself in a broken file
# How objects are called that PyTorch makes tensors of: complex, quantised, sparse ones.
UNREAD = ("torch._utils._rebuild", "torch._tensor._rebuild", "tensor of ")


@dataclass
class Module:
    """A module's state dict, and what else is known of it."""

    tensors: dict = field(default_factory=dict)  # name -> SourceTensor
    classes: dict = field(default_factory=dict)  # path of a module in it -> module.class
    settings: dict = field(default_factory=dict)  # path -> {attribute: number, text or truth}
    others: list = field(default_factory=list)  # names of what is no tensor
    unread: dict = field(default_factory=dict)  # name of a tensor of a kind that is not read -> its kind

    def note(self, name, value):
        """Takes a state dict's entry that is no SourceTensor."""
        if type(value) is Inert and value.name.startswith(UNREAD):
            self.unread[name] = value.name
        elif value is not None:
            self.others.append(name)


def is_module(value):
    """Whether an object has what every torch.nn.Module has."""
    attributes = value.attributes if type(value) is Inert else None
    return bool(attributes) and all(type(attributes.get(part)) is dict for part in ("_modules", "_parameters"))


class _Reader:
    def __init__(self, label):
        self.module = Module()
        self._label = label
        self._entries = 0

    def _count(self, entries):
        self._entries += entries
        if self._entries > MAX_ENTRIES:
            raise ConvertError(f"{self._label}: a module of more than {MAX_ENTRIES} parts")

    def walk(self, inert, path):
        """In the order of a state dict: a module's parameters, its buffers, then the modules in it."""
        if len(path) > MAX_DEPTH:
            raise ConvertError(f"{self._label}: modules in each other, more than {MAX_DEPTH} deep")
        inert.used = True
        attributes = inert.attributes
        here = ".".join(path)
        self.module.classes[here] = inert.name
        self.module.settings[here] = _settings(attributes)
        self._count(1 + len(attributes))
        passing = attributes.get("_non_persistent_buffers_set")
        for part in ("_parameters", "_buffers"):
            items = attributes.get(part)
            self._count(len(items) if type(items) is dict else 0)
            for name, item in items.items() if type(items) is dict else ():
                if type(item) is SourceTensor:
                    if part == "_parameters" or type(passing) is not list or name not in passing:
                        self.module.tensors[".".join((*path, str(name)))] = item
                else:
                    self.module.note(".".join((*path, str(name))), item)
        self._count(len(attributes["_modules"]))
        for name, item in attributes["_modules"].items():
            if is_module(item):
                self.walk(item, (*path, str(name)))
            else:
                self.module.note(".".join((*path, str(name))), item)


def _settings(attributes):
    """What a constructor was given: epsilons, slopes, approximations."""
    return {
        name: value
        for name, value in attributes.items()
        if type(name) is str and not name.startswith("_") and type(value) in (int, float, bool, str)
    }


def read_module(inert, label):
    reader = _Reader(label)
    reader.walk(inert, ())
    return reader.module
