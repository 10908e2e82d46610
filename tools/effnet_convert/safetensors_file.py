"""safetensors: u64 header length, JSON header, data. Sources are read, the weights file is written."""

import json
import math

import numpy as np

from .errors import ConvertError
from .tensors import ELEMENT_TYPES, MAX_DIMENSIONS, SourceTensor

MAX_HEADER_BYTES = 100_000_000
MAX_TENSORS = 100_000
FORMAT = "effnet"  # in the metadata of the files that we write
ALIGNMENT = 64  # of the data within the file


def looks_like(data):
    return data[8:9] == b"{"


def is_ours(stream):
    """Whether a binary stream holds a weights file of effnet's."""
    start = stream.read(8)
    length = min(int.from_bytes(start, "little"), MAX_HEADER_BYTES)
    try:
        header, _ = _header(start + stream.read(length), "")
    except ConvertError:
        return False
    return _has_our_format(header)


def _has_our_format(header):
    metadata = header.get("__metadata__")
    return type(metadata) is dict and metadata.get("format") == FORMAT


def _object_checks():
    """A hook for json.loads that refuses a name twice, and too many objects while they are read: each is a tensor but
    for the metadata and the header itself."""
    count = 0

    def check(pairs):
        nonlocal count
        count += 1
        if count > MAX_TENSORS + 2:
            raise ValueError(f"more than {MAX_TENSORS} tensors")
        result = dict(pairs)
        if len(result) != len(pairs):
            raise ValueError("a name twice")
        return result

    return check


def _header(buffer, label):
    length = int.from_bytes(buffer[:8], "little")
    if length > MAX_HEADER_BYTES or 8 + length > len(buffer):
        raise ConvertError(f"{label}: the header of {length} bytes is too long or cut off")
    try:
        header = json.loads(bytes(buffer[8 : 8 + length]).decode("utf-8"), object_pairs_hook=_object_checks())
    except (ValueError, RecursionError) as error:
        raise ConvertError(f"{label}: broken header ({error})") from None
    if type(header) is not dict:
        raise ConvertError(f"{label}: the header is not a JSON object")
    return header, 8 + length


def _whole_numbers(value, count=None):
    return (
        type(value) is list
        and (count is None or len(value) == count)
        and all(type(n) is int and 0 <= n < 1 << 63 for n in value)
    )


def read(data, label):
    """Returns {name: SourceTensor}. The data must be covered exactly, without overlaps or holes."""
    buffer = memoryview(data)
    header, data_start = _header(buffer, label)
    if _has_our_format(header):
        raise ConvertError(f"{label}: effnet's own weights already: name them by -m, or convert what they were made of")
    header.pop("__metadata__", None)
    tensors, spans = {}, []
    for name, entry in header.items():
        if (
            type(entry) is not dict
            or not _whole_numbers(entry.get("shape"))
            or not _whole_numbers(entry.get("data_offsets"), 2)
        ):
            raise ConvertError(f"{label}: {name}: broken header entry")
        shape, (start, end) = tuple(entry["shape"]), entry["data_offsets"]
        element_type = entry.get("dtype")
        if type(element_type) is not str or element_type not in ELEMENT_TYPES:
            raise ConvertError(f"{label}: {name}: unknown type {element_type!r}")
        item = ELEMENT_TYPES[element_type].itemsize
        if len(shape) > MAX_DIMENSIONS or end - start != math.prod(shape) * item:
            raise ConvertError(f"{label}: {name}: shape {list(shape)} and {end - start} bytes do not agree")
        if data_start + end > len(buffer):
            raise ConvertError(f"{label}: {name}: cut off")
        spans.append((start, end, name))
        strides = tuple(math.prod(shape[i + 1 :]) for i in range(len(shape)))
        at, to = data_start + start, data_start + end
        tensors[name] = SourceTensor(
            element_type, shape, strides, 0, math.prod(shape), lambda at=at, to=to: buffer[at:to]
        )
    position = 0
    for start, end, name in sorted(spans):
        if start != position:
            raise ConvertError(f"{label}: {name}: its data starts at {start}, not at {position}")
        position = end
    if data_start + position != len(buffer):
        raise ConvertError(f"{label}: {len(buffer) - data_start - position} bytes belong to no tensor")
    return tensors


def write(stream, tensors, metadata):
    """Writes float32 arrays {name: array} in their order. The same arguments give the same bytes."""
    header = {"__metadata__": metadata}
    position = 0
    for name, array in tensors.items():
        header[name] = {
            "dtype": "F32",
            "shape": list(array.shape),
            "data_offsets": [position, position + array.nbytes],
        }
        position += array.nbytes
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode("utf-8")
    text += b" " * (-(8 + len(text)) % ALIGNMENT)
    stream.write(len(text).to_bytes(8, "little"))
    stream.write(text)
    for array in tensors.values():
        stream.write(np.ascontiguousarray(array, "<f4").tobytes())
