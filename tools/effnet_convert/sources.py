"""Opens a source file of any kind and finds the network's tensors in it."""

import hashlib
import os
import re
import stat
from collections import Counter
from dataclasses import dataclass, field

from . import file_kinds, safetensors_file, torch_files
from .containers import NothingFound, choose, class_names, image_arguments, recorded_names
from .errors import EX_NOINPUT, ConvertError
from .naming import SCHEMES
from .prefixes import check_whole
from .zip_files import Archive

CARRIED = (".pth", ".pt", ".bin", ".ckpt", ".pth.tar", ".safetensors")
MAX_SOURCE_BYTES = 2 << 30
# Names in a pickle by which a file runs something when Python loads it.
RUNNING = re.compile(
    r"(os|posix|nt|subprocess|pty|shutil|socket|sys|runpy|importlib|webbrowser|commands|ctypes|code|pip)\."
    r"|(builtins|__builtin__)\.(eval|exec|execfile|compile|open|__import__)\b|io\.open\b"
)
MAX_NAMED = 3  # kinds of objects that a notice names


@dataclass(frozen=True)
class Source:
    """name and sha256 are of the file that holds the tensors: a wheel's member, not the wheel."""

    name: str
    sha256: str
    tensors: dict  # name -> SourceTensor
    # Where the file is a whole module: {path: module.class} and {path: {attribute: number, text or truth}}.
    modules: dict = field(default_factory=dict)
    settings: dict = field(default_factory=dict)
    config: dict | None = None  # a whole module's pretrained_cfg, timm's
    weights: str = ""  # "raw" where there are EMA ones beside, "EMA", or "" where there is one set
    names: tuple = ()  # what the file calls its network
    arguments: dict = field(default_factory=dict)  # what a trainer's arguments say of images and classes
    class_names: str = ""  # the key under which the file names its classes
    notices: tuple = ()  # what the user is to know of how they were found


def open_file(path):
    """A binary stream; a named pipe without a writer must not hang the program."""
    return open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK))


def read_file(path, max_bytes=MAX_SOURCE_BYTES):
    """A regular file's bytes; anything without a size of its own (a device, a pipe) is refused."""
    try:
        with open_file(path) as stream:
            status = os.fstat(stream.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise ConvertError(f"{path}: not a regular file", EX_NOINPUT)
            if status.st_size > max_bytes:
                raise ConvertError(f"{path}: larger than {max_bytes} bytes")
            return stream.read()
    except OSError as error:
        raise ConvertError(f"{path}: {error.strerror}", EX_NOINPUT) from None


def open_source(path, key=None, ema=False):
    """key: where in the file the tensors are; ema: take the EMA weights, not the raw ones."""
    if os.path.isdir(path):
        file_kinds.refuse_folder(os.listdir(path), path)
    name = os.fsencode(os.path.basename(path)).decode("utf-8", "replace")
    data, name, label, value, inert = _open(read_file(path), name, path)
    try:
        choice = choose(value, label, key, ema)
    except NothingFound as error:
        others = _others(inert)
        raise ConvertError(f"{error}; it names {others}" if others else error) from None
    names, arguments = recorded_names(value), image_arguments(value)  # before what nobody has read is counted
    check_whole(choice.tensors, [scheme.marker for scheme in SCHEMES], choice.place, label)
    others = _others(inert)
    unseen = [f"{others} in it {'was' if others.startswith('1 ') else 'were'} not looked at"] if others else []
    notices = [*choice.notices, *unseen, *_warnings(inert)]
    return Source(
        name,
        hashlib.sha256(data).hexdigest(),
        choice.tensors,
        choice.classes,
        choice.settings,
        choice.config,
        choice.weights,
        names,
        arguments,
        class_names(value),
        tuple(notices),
    )


def _others(inert):
    """How many objects a pickle names that nobody has read, in words."""
    names = Counter(each.name for each in inert if not each.used)
    if not names:
        return ""
    by_weight = sorted(names, key=lambda name: (not RUNNING.match(name), -names[name]))
    named = ", ".join(name[:80] for name in by_weight[:MAX_NAMED])
    more = ", ..." if len(names) > MAX_NAMED else ""
    return f"{names.total()} object{'s' * (names.total() > 1)} of other kinds ({named}{more})"


def _warnings(inert):
    """What is to be said of names that no trainer writes."""
    names = sorted({each.name for each in inert if RUNNING.match(each.name)})
    if not names:
        return []
    return [f"it names {names[0]}, which runs commands or code: nothing was run, but do not torch.load this file"]


def _open(data, name, label, carried=False):
    """Returns (data, name, label, what the file holds, the inert objects in it). label is what messages call the file;
    name goes into the weights file."""
    if data[:2] == b"PK":
        archive = Archive(data, label)
        if torch_files.pickle_member(archive) is None and not carried:
            return _open_carried(archive, label)
        pickle = torch_files.read_zip(archive, label)
    elif safetensors_file.looks_like(data):
        return data, name, label, safetensors_file.read(data, label), []
    elif data.startswith(torch_files.OLD_STARTS):
        pickle = torch_files.read_old(data, label)
    else:
        file_kinds.refuse(data, name, label)
    return data, name, label, pickle.value, pickle.inert


def _open_carried(archive, label):
    """The one file of parameters in a wheel or another archive."""
    file_kinds.refuse_zip(list(archive.members), label)
    found = [
        info
        for path, info in archive.members.items()
        if path.endswith(CARRIED) and not os.path.basename(path).startswith("._")  # what macOS adds
    ]
    if len(found) != 1:
        names = f": {', '.join(info.filename for info in found[:3])}" if found else ""
        raise ConvertError(
            f"{label}: holds {len(found)} files of parameters ({', '.join(CARRIED)}), not one{names}: "
            f"give the file itself"
        )
    path = found[0].filename
    return _open(bytes(archive.read(found[0])), os.path.basename(path), f"{label}: {path}", carried=True)
