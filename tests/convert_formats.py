"""Writes the converter's source formats by hand, so that tests need neither PyTorch nor the code under test.

The pickle helpers give pieces of a pickle program (protocol 2, what PyTorch writes) as bytes."""

import json
import pickle
import struct
import zipfile
from dataclasses import dataclass

import numpy as np

PROTOCOL = b"\x80\x02"
STOP, NONE, TRUE, FALSE, REDUCE, EMPTY_TUPLE = b".", b"N", b"\x88", b"\x89", b"R", b")"
OLD_MAGIC = 0x1950A86A20F9469CFC6C

# element type: storage class in PyTorch, type in safetensors
STORAGES = {
    "float64": ("DoubleStorage", "F64"),
    "float32": ("FloatStorage", "F32"),
    "float16": ("HalfStorage", "F16"),
    "bfloat16": ("BFloat16Storage", "BF16"),
    "int64": ("LongStorage", "I64"),
}


def text(value):
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def integer(value):
    if 0 <= value < 256:
        return b"K" + bytes([value])
    if -(1 << 31) <= value < 1 << 31:
        return b"J" + struct.pack("<i", value)
    data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(data)]) + data


def name(module, attribute):
    return b"c" + module.encode() + b"\n" + attribute.encode() + b"\n"


def tuple_of(*items):
    return b"(" + b"".join(items) + b"t"


def list_of(*items):
    return b"](" + b"".join(items) + b"e"


def dict_of(items):
    return b"}(" + b"".join(text(key) + value for key, value in items.items()) + b"u"


def ordered_dict_of(items):
    empty = name("collections", "OrderedDict") + EMPTY_TUPLE + REDUCE
    return empty + b"(" + b"".join(text(key) + value for key, value in items.items()) + b"u"


def object_of(module, attribute, attributes, items=b""):
    """An object of a class; attributes: {name: pickled value}; items: pieces that follow, of a dictionary's class."""
    return name(module, attribute) + EMPTY_TUPLE + b"\x81" + dict_of(attributes) + b"b" + items


def module_of(kind, parameters=None, buffers=None, modules=None, **settings):
    """A torch.nn.Module as torch.save(model) writes it. kind: module.class; of each part: {name: pickled value}."""
    module, _, attribute = kind.rpartition(".")
    parts = {"_parameters": parameters, "_buffers": buffers, "_modules": modules}
    attributes = {part: ordered_dict_of(values or {}) for part, values in parts.items()}
    return object_of(module, attribute, {"training": FALSE, **attributes, **settings})


def pickled(value):
    """What Python pickles of anything, as a piece."""
    return pickle.dumps(value, 2)[2:-1]


def program(*pieces):
    return PROTOCOL + b"".join(pieces) + STOP


@dataclass
class Tensor:
    """What a file says of a tensor. Anything not given follows from the array."""

    array: np.ndarray
    type: str = "float32"
    shape: tuple = None
    strides: tuple = None
    offset: int = 0
    size: int = None  # elements that the file claims for the storage
    key: str = None

    def __post_init__(self):
        if self.shape is None:
            self.shape = self.array.shape
        if self.strides is None:
            self.strides = tuple(int(np.prod(self.shape[i + 1 :])) for i in range(len(self.shape)))
        if self.size is None:
            self.size = self.array.size

    def data(self):
        """The storage's bytes, little-endian."""
        if self.type == "bfloat16":
            return (np.asarray(self.array, "<f4").view("<u4") >> 16).astype("<u2").tobytes()
        return np.asarray(self.array).astype(np.dtype(self.type).newbyteorder("<")).tobytes()

    def pickled(self, old, extra=b""):
        storage = [text("storage"), name("torch", STORAGES[self.type][0]), text(self.key), text("cpu")]
        storage += [integer(self.size)] + ([extra or NONE] if old else [])
        return (
            name("torch._utils", "_rebuild_tensor_v2")
            + tuple_of(
                tuple_of(*storage) + b"Q",
                integer(self.offset),
                tuple_of(*map(integer, self.shape)),
                tuple_of(*map(integer, self.strides)),
                FALSE,
                name("collections", "OrderedDict") + EMPTY_TUPLE + REDUCE,
            )
            + REDUCE
        )


def as_tensors(state):
    """{name: array or Tensor} -> {name: Tensor}, every storage with a key."""
    tensors = {}
    for index, (key, value) in enumerate(state.items()):
        tensor = value if isinstance(value, Tensor) else Tensor(value)
        tensor.key = tensor.key or str(index)
        tensors[key] = tensor
    return tensors


def plain_object(tensors, old):
    return program(ordered_dict_of({key: tensor.pickled(old) for key, tensor in tensors.items()}))


def old_bytes(state, make_object=plain_object, little_endian=TRUE):
    """PyTorch's old format. make_object(tensors, old) -> the object's pickle."""
    tensors = as_tensors(state)
    storages = {tensor.key: tensor for tensor in tensors.values()}
    system = {"protocol_version": integer(1001), "little_endian": little_endian, "type_sizes": dict_of({})}
    parts = [
        program(integer(OLD_MAGIC)),
        program(integer(1001)),
        program(dict_of(system)),
        make_object(tensors, True),
        program(list_of(*map(text, storages))),
    ]
    for tensor in storages.values():
        parts += [struct.pack("<q", tensor.array.size), tensor.data()]
    return b"".join(parts)


def write_old(path, state, **options):
    path.write_bytes(old_bytes(state, **options))
    return path


def write_zip(path, state, make_object=plain_object, compression=zipfile.ZIP_STORED, extra=()):
    """PyTorch's zip format; extra: more members, (name, bytes)."""
    tensors = as_tensors(state)
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("archive/data.pkl", make_object(tensors, False))
        for tensor in {tensor.key: tensor for tensor in tensors.values()}.values():
            archive.writestr(f"archive/data/{tensor.key}", tensor.data())
        archive.writestr("archive/version", b"3\n")
        for member, data in extra:
            archive.writestr(member, data)
    return path


def safetensors_bytes(header, data):
    encoded = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(encoded)) + encoded + data


def write_safetensors(path, state):
    header, parts, position = {"__metadata__": {"format": "pt"}}, [], 0
    for key, tensor in as_tensors(state).items():
        data = tensor.data()
        header[key] = {
            "dtype": STORAGES[tensor.type][1],
            "shape": list(tensor.shape),
            "data_offsets": [position, position + len(data)],
        }
        parts.append(data)
        position += len(data)
    path.write_bytes(safetensors_bytes(header, b"".join(parts)))
    return path
