"""Tensors that a source describes, before anything of theirs is copied."""

import math
from dataclasses import dataclass
from typing import Callable

import numpy as np

from .errors import ConvertError

MAX_DIMENSIONS = 8

# Element types by their safetensors name: the NumPy type that holds them in a file. All little-endian.
ELEMENT_TYPES = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "I16": np.dtype("<i2"),
    "I8": np.dtype("i1"),
    "U8": np.dtype("u1"),
    "BOOL": np.dtype("u1"),
}
FLOAT_TYPES = ("F64", "F32", "F16", "BF16")


@dataclass(frozen=True)
class SourceTensor:
    """A strided view of a storage. Offset and strides count elements, as PyTorch's do.

    read_storage() returns the storage's `storage_size` elements as a buffer; it is called only when the
    values are needed, so that a checkpoint's optimiser state costs nothing."""

    element_type: str
    shape: tuple
    strides: tuple
    offset: int
    storage_size: int
    read_storage: Callable

    def check_bounds(self, name):
        """Refuses a view that leaves its storage, or is larger than it (so a size read from a file never
        makes anything larger than that file)."""
        if len(self.shape) != len(self.strides) or len(self.shape) > MAX_DIMENSIONS:
            raise ConvertError(f"{name}: {len(self.shape)} sizes and {len(self.strides)} strides")
        sizes = (*self.shape, *self.strides, self.offset)
        if any(type(n) is not int or n < 0 for n in sizes):
            raise ConvertError(f"{name}: a size, stride or offset is not a whole number >= 0")
        elements = math.prod(self.shape)
        if elements == 0:
            return
        last = self.offset + sum((n - 1) * s for n, s in zip(self.shape, self.strides))
        if last >= self.storage_size or elements > self.storage_size:
            raise ConvertError(
                f"{name}: shape {list(self.shape)}, strides {list(self.strides)} and offset {self.offset} "
                f"leave its storage of {self.storage_size} elements"
            )

    def array(self, name):
        """The values, float32 or float64 (half and bfloat16 widened, which is exact), C order."""
        if self.element_type not in FLOAT_TYPES:
            raise ConvertError(f"{name}: {self.element_type} elements where floating point is expected")
        self.check_bounds(name)
        if math.prod(self.shape) == 0:
            return np.zeros(self.shape, np.float32)
        flat = np.frombuffer(self.read_storage(), ELEMENT_TYPES[self.element_type], self.storage_size)
        strides = [s * flat.itemsize for s in self.strides]
        view = np.lib.stride_tricks.as_strided(flat[self.offset :], self.shape, strides, writeable=False)
        if self.element_type == "BF16":  # the upper half of a float32
            return (view.astype("<u4", order="C") << 16).view("<f4")
        return np.array(view, "<f8" if self.element_type == "F64" else "<f4", order="C")
