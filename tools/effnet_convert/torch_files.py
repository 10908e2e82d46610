"""PyTorch's two file formats: the old one, pickles followed by raw storages, and the zip archive."""

import zipfile

from . import pickle_reader
from .errors import ConvertError
from .pickle_reader import Storage, read_pickle
from .tensors import ELEMENT_TYPES

OLD_MAGIC = 0x1950A86A20F9469CFC6C
OLD_PROTOCOL = 1001
MAX_BYTEORDER_BYTES = 64
# How such a file begins: the magic number, pickled with protocol 1, or 2 and later.
OLD_STARTS = (b"L%dL\n." % OLD_MAGIC, b"\x80")


def _is_count(value):
    return type(value) is int and 0 <= value < 1 << 63


# ---------------------------------------------------------------- old format


def read_old(data, label):
    """magic, protocol and system (a pickle each), the object, the list of storage keys, then for each key
    its number of elements (int64) and its bytes. Returns the object's Pickle."""
    buffer = memoryview(data)
    magic = read_pickle(data, 0, label)
    if magic.value != OLD_MAGIC:
        raise ConvertError(f"{label}: a pickle that torch.save did not write: load it, and torch.save its state dict")
    protocol = read_pickle(data, magic.end, label)
    if protocol.value != OLD_PROTOCOL:
        raise ConvertError(f"{label}: unknown version of PyTorch's old format")
    described = read_pickle(data, protocol.end, label)
    system = described.value
    if type(system) is not dict or system.get("little_endian") is not True:
        raise ConvertError(f"{label}: written on a big-endian machine, which is not supported")

    places = {}  # key -> offset in the buffer
    declared = {}  # key -> (element type, elements)
    storages = {}  # (key, start, elements) -> Storage, so that what is shared is told by its identity

    def storage_of(machine, kind, arguments):
        key, _, size, view = (*arguments, None)[:4]
        if type(key) is not str or not _is_count(size):
            raise machine.fail("broken pickle (a storage without a key or a size)")
        if declared.setdefault(key, (kind.element_type, size)) != (kind.element_type, size):
            raise machine.fail(f"storage {key} is described twice, differently")
        start, elements = 0, size
        if view is not None:  # (key, offset, elements): a window on the storage
            if type(view) is not tuple or len(view) != 3 or not all(map(_is_count, view[1:])):
                raise machine.fail("broken pickle (a storage view without a size)")
            start, elements = view[1:]
            if start + elements > size:
                raise machine.fail(f"storage {key}: a view leaves it")
        item = ELEMENT_TYPES[kind.element_type].itemsize

        def read():
            at = places[key] + start * item
            return buffer[at : at + elements * item]

        return storages.setdefault((key, start, elements), Storage(kind.element_type, elements, read))

    value = read_pickle(data, described.end, label, storage_of)
    listed = read_pickle(data, value.end, label)
    places.update(_places(buffer, listed, declared, label))
    return value


def _places(buffer, listed, declared, label):
    """{key: offset in the buffer} of the storages behind the list of their keys, which is a Pickle. All that are
    declared must be there, and nothing else."""
    keys, places = listed.value, {}
    if type(keys) is not list or not all(type(key) is str for key in keys):
        raise ConvertError(f"{label}: the list of storages is broken")
    position = listed.end
    for key in keys:
        if key not in declared or key in places:
            raise ConvertError(f"{label}: storage {key} is listed but not used, or listed twice")
        element_type, size = declared[key]
        if position + 8 > len(buffer):
            raise ConvertError(f"{label}: cut off before storage {key}: download or copy it again")
        stored = int.from_bytes(buffer[position : position + 8], "little", signed=True)
        if stored != size:
            raise ConvertError(f"{label}: storage {key} holds {stored} elements, not {size}")
        places[key] = position + 8
        position += 8 + size * ELEMENT_TYPES[element_type].itemsize
        if position > len(buffer):
            raise ConvertError(f"{label}: cut off inside storage {key}: download or copy it again")
    for key in declared:
        if key not in places:
            raise ConvertError(f"{label}: storage {key} is missing")
    if position != len(buffer):
        raise ConvertError(f"{label}: {len(buffer) - position} bytes too many behind the last storage")
    return places


# ---------------------------------------------------------------- zip format


def pickle_member(archive):
    """The one member NAME/data.pkl of a PyTorch archive, or None."""
    found = [name for name in archive.members if name.count("/") == 1 and name.endswith("/data.pkl")]
    return archive.members[found[0]] if len(found) == 1 else None


def read_zip(archive, label):
    """NAME/data.pkl is the object, NAME/data/KEY the storages, uncompressed. Returns the object's Pickle."""
    info = pickle_member(archive)
    if info is None:
        raise ConvertError(f"{label}: a zip archive, but not one that PyTorch wrote")
    members = archive.members
    root = info.filename[: -len("data.pkl")]
    if root + "constants.pkl" in members or any(name.startswith(root + "code/") for name in members):
        raise ConvertError(
            f"{label}: a TorchScript archive, whose names are its program's: where it was made, torch.save "
            f"the model's state_dict(), and convert that"
        )
    order = members.get(root + "byteorder")
    if order is not None and archive.read(order, MAX_BYTEORDER_BYTES) != b"little":
        raise ConvertError(f"{label}: written on a big-endian machine, which is not supported")
    storages = {}

    def storage_of(machine, kind, arguments):
        key, _, size = arguments[:3]
        if type(key) is not str or not _is_count(size):
            raise machine.fail("broken pickle (a storage without a key or a size)")
        if (key, kind, size) in storages:
            return storages[key, kind, size]
        member = members.get(f"{root}data/{key}")
        if member is None:
            raise machine.fail(f"storage {key} is missing")
        if member.compress_type != zipfile.ZIP_STORED:
            raise machine.fail(f"storage {key} is compressed, which PyTorch does not do")
        if member.file_size != size * ELEMENT_TYPES[kind.element_type].itemsize:
            raise machine.fail(f"storage {key} has {member.file_size} bytes, not {size} elements")
        storage = Storage(kind.element_type, size, lambda: archive.read(member))
        return storages.setdefault((key, kind, size), storage)

    pickle = bytes(archive.read(info, pickle_reader.MAX_PICKLE_BYTES))
    return read_pickle(pickle, 0, label, storage_of)
