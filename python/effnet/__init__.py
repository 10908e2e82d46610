"""Image classifiers of the size of EfficientNet-B1 on the CPU or an NVIDIA GPU: libeffnet for Python.

    import effnet

    model = effnet.Model("lite1")                   # or a weights file
    session = model.session("cpu", batch=32)
    for best in session.classify("photo.jpg", k=3)[0].classes:
        print(f"{best.probability:6.2%}  {best.name}")

From an image to an answer there are three steps, which can be called alone:

    pixels = model.preprocess(["a.jpg", "b.png"])   # uint8   [n][crop][crop][3]
    logits = session.logits(pixels)                 # float32 [n][classes]
    best = model.top_k(logits[0], k=3)              # three Class(index, id, name, logit, probability)

An image (`effnet.Image`) is the path of a file, the bytes of an encoded file, pixels as a uint8 array
[height][width][3], or an image of Pillow's. PNG, JPEG, BMP, GIF, TGA, PNM, WebP, TIFF and AVIF are read, and become the
same pixels and the same logits as with the program `effnet`.

Many images go through `classify_iter`, which reads, decodes and computes in threads, in bounded memory however many there
are, and hands out an answer for each, also for one that fails:

    with session.classify_iter(pathlib.Path("photos").rglob("*.jpg")) as answers:
        for answer in answers:
            print(answer.image, answer.error or answer.classes[0].name)

Threads: the interpreter's lock is released wherever something is computed, decoded or waited for. A model may be shared by
threads. A session may, too: its calls wait for each other.

Errors: what goes wrong is an `effnet.Error`, has one line that names the file and the reason, and `status`, the library's
enum effnet_status. Arguments of a wrong type may get Python's own TypeError or BufferError.

    class              status  also an        when
    UsageError             -1  ValueError     an argument is wrong; something closed is used
    DataError              -2  ValueError     an image or a weights file is broken or not supported
    InputError             -3  OSError        a file does not exist or cannot be read
    UnavailableError       -4  RuntimeError   no such device; a library or the precision is missing here
    InternalError          -5  RuntimeError   a library call failed, or a check of effnet's own
    OutOfMemoryError       -6  MemoryError    host or device memory is exhausted
    OutputError            -7  OSError        results cannot be written

`import effnet.convert` converts checkpoints of PyTorch and safetensors to weights files, without PyTorch.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from ._images import Image
from ._library import ffi, lib, text
from ._model import Model, Preprocessing
from ._results import Class, Label, Prediction, described
from ._session import Session
from ._stream import Stream
from .errors import (
    DataError,
    Error,
    InputError,
    InternalError,
    OutOfMemoryError,
    OutputError,
    UnavailableError,
    UsageError,
)

__all__ = [
    "Class",
    "DataError",
    "Device",
    "Error",
    "Image",
    "InputError",
    "InternalError",
    "Label",
    "Model",
    "OutOfMemoryError",
    "OutputError",
    "Prediction",
    "Preprocessing",
    "Session",
    "Stream",
    "UnavailableError",
    "UsageError",
    "devices",
]

__version__ = text(lib.effnet_version())


@described(
    name="as `Model.session` takes it",
    description="what it is",
    backend='that would run: "onednn", "cuda" or "reference"',
    precisions='of "fp32", "bf16" and "fp16"',
    available="whether it can be used",
    detail='why it cannot, or a remark; or ""',
)
class Device(NamedTuple):
    """A device of this machine."""

    name: str
    description: str
    backend: str
    precisions: tuple[str, ...]
    available: bool
    detail: str


def devices() -> list[Device]:
    """The devices of this machine, those that cannot be used too."""
    found = []

    @ffi.callback("void(*)(const struct effnet_device *, void *)")
    def visit(device, _):
        words = [text(word) if word else "" for word in (device.name, device.description, device.backend)]
        precisions = tuple(re.findall(r"\w+", text(device.precisions))) if device.precisions else ()
        found.append(Device(*words, precisions, device.available, text(device.detail) if device.detail else ""))

    lib.effnet_devices(visit, ffi.NULL)
    return found


for _name in __all__:  # they are the package's, whichever file they are in
    if isinstance(globals()[_name], type):
        globals()[_name].__module__ = __name__
