"""PyTorch's two file formats: the old one, pickles followed by raw storages, and the zip archive."""

import io
import struct
import zipfile

from .errors import ConvertError
from .pickle_reader import Storage, read_pickle
from .tensors import ELEMENT_TYPES

OLD_MAGIC = 0x1950A86A20F9469CFC6C
OLD_PROTOCOL = 1001
MAX_MEMBER_BYTES = 2 << 30  # of a file inside a compressed archive


# ---------------------------------------------------------------- old format


def read_old(data, label):
    """magic, protocol and system (a pickle each), the object, the list of storage keys, then for each key
    its number of elements (int64) and its bytes. Returns the object."""
    stream = io.BytesIO(data)
    buffer = memoryview(data)
    if read_pickle(stream, label) != OLD_MAGIC:
        raise ConvertError(f"{label}: not a file that PyTorch wrote")
    if read_pickle(stream, label) != OLD_PROTOCOL:
        raise ConvertError(f"{label}: unknown version of PyTorch's old format")
    system = read_pickle(stream, label)
    if type(system) is not dict or system.get("little_endian") is not True:
        raise ConvertError(f"{label}: written on a big-endian machine, which is not supported")

    places = {}  # key -> (element type, elements, offset in the buffer)
    declared = {}

    def storage_of(machine, kind, arguments):
        key, _, size, view = (*arguments, None)[:4]
        if type(key) is not str or type(size) is not int or size < 0:
            raise machine.fail("broken pickle (a storage without a key or a size)")
        if declared.setdefault(key, (kind.element_type, size)) != (kind.element_type, size):
            raise machine.fail(f"storage {key} is described twice, differently")
        start, elements = 0, size
        if view is not None:  # (key, offset, elements): a window on the storage
            if (
                type(view) is not tuple
                or len(view) != 3
                or any(type(n) is not int or n < 0 for n in view[1:])
            ):
                raise machine.fail("broken pickle (a storage view without a size)")
            start, elements = view[1:]
            if start + elements > size:
                raise machine.fail(f"storage {key}: a view leaves it")
        item = ELEMENT_TYPES[kind.element_type].itemsize

        def read():
            at = places[key] + start * item
            return buffer[at : at + elements * item]

        return Storage(kind.element_type, elements, read)

    value = read_pickle(stream, label, storage_of)
    keys = read_pickle(stream, label)
    if type(keys) is not list or not all(type(key) is str for key in keys):
        raise ConvertError(f"{label}: the list of storages is broken")
    position = stream.tell()
    for key in keys:
        if key not in declared or key in places:
            raise ConvertError(f"{label}: storage {key} is listed but not used, or listed twice")
        element_type, size = declared[key]
        if position + 8 > len(buffer):
            raise ConvertError(f"{label}: cut off before storage {key}")
        stored = int.from_bytes(buffer[position : position + 8], "little", signed=True)
        if stored != size:
            raise ConvertError(f"{label}: storage {key} holds {stored} elements, not {size}")
        places[key] = position + 8
        position += 8 + size * ELEMENT_TYPES[element_type].itemsize
        if position > len(buffer):
            raise ConvertError(f"{label}: cut off inside storage {key}")
    for key in declared:
        if key not in places:
            raise ConvertError(f"{label}: storage {key} is missing")
    if position != len(buffer):
        raise ConvertError(f"{label}: {len(buffer) - position} bytes too many behind the last storage")
    return value


# ---------------------------------------------------------------- zip format


def open_zip(data, label):
    try:
        return zipfile.ZipFile(io.BytesIO(data))
    except (zipfile.BadZipFile, NotImplementedError, ValueError, OverflowError, struct.error) as error:
        raise ConvertError(f"{label}: broken zip archive ({error})") from None


def read_member(archive, info, label):
    """A member's bytes, its checksum verified. The size that the archive claims is a limit, not a promise."""
    if info.file_size > MAX_MEMBER_BYTES:
        raise ConvertError(f"{label}: {info.filename} is larger than {MAX_MEMBER_BYTES} bytes")
    try:
        with archive.open(info) as member:
            data = member.read(info.file_size + 1)
    except MemoryError:
        raise
    except Exception as error:  # BadZipFile, zlib.error, lzma.LZMAError, RuntimeError, ...: no common base
        raise ConvertError(f"{label}: {info.filename}: broken member ({error})") from None
    if len(data) != info.file_size:
        raise ConvertError(
            f"{label}: {info.filename} does not have the {info.file_size} bytes that it claims"
        )
    return data


def pickle_member(archive):
    """The one member NAME/data.pkl of a PyTorch archive, or None."""
    found = [
        info
        for info in archive.infolist()
        if info.filename.count("/") == 1 and info.filename.endswith("/data.pkl")
    ]
    return found[0] if len(found) == 1 else None


def read_zip(archive, label):
    """NAME/data.pkl is the object, NAME/data/KEY the storages, uncompressed. Returns the object."""
    info = pickle_member(archive)
    if info is None:
        raise ConvertError(f"{label}: a zip archive, but not one that PyTorch wrote")
    members = {member.filename: member for member in archive.infolist()}
    if len(members) != len(archive.infolist()):
        raise ConvertError(f"{label}: the archive holds a name twice")
    root = info.filename[: -len("data.pkl")]
    order = members.get(root + "byteorder")
    if order is not None and read_member(archive, order, label) != b"little":
        raise ConvertError(f"{label}: written on a big-endian machine, which is not supported")

    def storage_of(machine, kind, arguments):
        key, _, size = arguments[:3]
        if type(key) is not str or type(size) is not int or size < 0:
            raise machine.fail("broken pickle (a storage without a key or a size)")
        member = members.get(f"{root}data/{key}")
        if member is None:
            raise machine.fail(f"storage {key} is missing")
        if member.compress_type != zipfile.ZIP_STORED:
            raise machine.fail(f"storage {key} is compressed, which PyTorch does not do")
        if member.file_size != size * ELEMENT_TYPES[kind.element_type].itemsize:
            raise machine.fail(f"storage {key} has {member.file_size} bytes, not {size} elements")
        return Storage(kind.element_type, size, lambda: read_member(archive, member, label))

    return read_pickle(io.BytesIO(read_member(archive, info, label)), label, storage_of)
