"""Whole modules, as torch.save(model) writes them: their tensors by the names that a state dict has."""

from dataclasses import dataclass, field

from .errors import ConvertError
from .pickle_reader import Inert
from .tensors import SourceTensor

MAX_DEPTH = 64  # of modules in each other
# A module may be part of itself in a broken file, and a long name or a large part of many modules. So what is read is
# counted as often as it is read, over a whole checkpoint.
MAX_ENTRIES = 200_000  # modules, their attributes, parameters and buffers
MAX_NAME = 1024  # characters of a parameter's name in full
MAX_CHARACTERS = 16 << 20  # of all names together
# How objects are called that PyTorch makes tensors of: complex, quantised, sparse ones.
UNREAD = ("torch._utils._rebuild", "torch._tensor._rebuild", "tensor of ")


@dataclass
class Module:
    """A module's state dict, and what else is known of it."""

    tensors: dict = field(default_factory=dict)  # name -> SourceTensor
    classes: dict = field(default_factory=dict)  # path of a module in it -> module.class
    settings: dict = field(default_factory=dict)  # path -> {attribute: number, text, truth or tuple of whole numbers}
    configs: dict = field(default_factory=dict)  # path -> timm's pretrained_cfg
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


class Counter:
    """What was read of one checkpoint, held to the limits."""

    def __init__(self, label):
        self._label = label
        self._entries = 0
        self._characters = 0

    def fail(self, reason):
        return ConvertError(f"{self._label}: {reason}")

    def add_entries(self, count):
        self._entries += count
        if self._entries > MAX_ENTRIES:
            raise self.fail(f"modules and tensors of more than {MAX_ENTRIES} parts")

    def add_characters(self, count):
        self._characters += count
        if self._characters > MAX_CHARACTERS:
            raise self.fail(f"tensors' names of more than {MAX_CHARACTERS} characters")

    def join(self, path, name):
        """The name of a module's part in full."""
        joined = f"{path}.{name}" if path else str(name)
        if len(joined) > MAX_NAME:
            raise self.fail(f"{joined[:80]}...: a name of more than {MAX_NAME} characters")
        self.add_characters(len(joined))
        return joined


class _Reader:
    def __init__(self, counter):
        self.module = Module()
        self._counter = counter

    def walk(self, inert, path, depth):
        """In the order of a state dict: a module's parameters, its buffers, then the modules in it."""
        counter = self._counter
        if depth > MAX_DEPTH:
            raise counter.fail(f"modules in each other, more than {MAX_DEPTH} deep")
        inert.used = True
        attributes = inert.attributes
        self.module.classes[path] = inert.name
        self.module.settings[path] = _settings(attributes)
        config = attributes.get("pretrained_cfg", attributes.get("default_cfg"))
        if type(config) is Inert and config.attributes:
            config.used = True
            config = config.attributes
        if type(config) is dict:
            self.module.configs[path] = config
        counter.add_entries(1 + len(attributes))
        passing = attributes.get("_non_persistent_buffers_set")
        for part in ("_parameters", "_buffers"):
            items = attributes.get(part)
            counter.add_entries(len(items) if type(items) is dict else 0)
            for name, item in items.items() if type(items) is dict else ():
                joined = counter.join(path, name)
                if type(item) is SourceTensor:
                    if part == "_parameters" or type(passing) is not list or name not in passing:
                        self.module.tensors[joined] = item
                else:
                    self.module.note(joined, item)
        counter.add_entries(len(attributes["_modules"]))
        for name, item in attributes["_modules"].items():
            joined = counter.join(path, name)
            if is_module(item):
                self.walk(item, joined, depth + 1)
            else:
                self.module.note(joined, item)


def _settings(attributes):
    """What a constructor was given: epsilons, slopes, approximations, strides."""
    settings = {}
    for name, value in attributes.items():
        if type(name) is not str or name.startswith("_"):
            continue
        if type(value) in (int, float, bool, str):
            settings[name] = value
        elif type(value) in (tuple, list) and len(value) <= 4 and all(type(each) is int for each in value):
            settings[name] = tuple(value)
    return settings


def read_module(inert, counter):
    """counter: of the checkpoint that the module is in."""
    reader = _Reader(counter)
    reader.walk(inert, "", 0)
    return reader.module
