"""effnet.Model: an open weights file."""

from __future__ import annotations

import contextlib
import os
import sys
from functools import cached_property
from typing import TYPE_CHECKING, Iterable, Iterator, NamedTuple

import numpy as np

from ._images import Image, Options, fit, path_bytes, several
from ._library import Lock, at_end, call, ffi, lib, text
from ._results import Class, Label, described
from .errors import UsageError

if TYPE_CHECKING:
    from ._session import Session

_PATH_MAX = 4096  # of limits.h, on every Linux


@described(
    short_side="pixels to which the shorter side is resized; squashed: crop",
    crop="then the central square of so many pixels a side is taken; squashed, that is all of it",
    interpolation='"bicubic" or "bilinear"',
    mean="red, green, blue, of pixels from 0 to 255",
    std="likewise: the network's input is (pixel - mean) / std",
    resize='"short-side", or "squash": both sides become crop, whatever that does to the proportions',
)
class Preprocessing(NamedTuple):
    """How an image becomes a network's input."""

    short_side: int
    crop: int
    interpolation: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    resize: str


def _preprocessing(p) -> Preprocessing:
    interpolation = {lib.EFFNET_BICUBIC: "bicubic", lib.EFFNET_BILINEAR: "bilinear"}[p.interpolation]
    resize = {lib.EFFNET_RESIZE_SHORT_SIDE: "short-side", lib.EFFNET_RESIZE_SQUASH: "squash"}[p.resize]
    return Preprocessing(p.short_side, p.crop, interpolation, tuple(p.mean), tuple(p.std), resize)


class Handle:
    """An effnet_model, closed once nobody uses it: the Model and its sessions each hold one use, in whichever order
    they end."""

    def __init__(self, path: bytes) -> None:
        out = ffi.new("effnet_model **")
        call(lib.effnet_model_open, path, out)
        self.pointer = out[0]
        self.preprocess = ffi.addressof(lib.effnet_model_get_info(self.pointer)[0], "preprocess")
        self._uses = 1
        self._lock = Lock()

    def keep(self) -> None:
        with self._lock:
            if not self._uses:
                raise UsageError("the model is closed")
            self._uses += 1

    @contextlib.contextmanager
    def used(self) -> Iterator:
        """The effnet_model, which stays open meanwhile."""
        self.keep()
        try:
            yield self.pointer
        finally:
            self.release()

    def release(self) -> None:
        with self._lock:
            self._uses -= 1
            if not self._uses:
                lib.effnet_model_close(self.pointer)


def _find(path_or_name: str | os.PathLike[str] | None) -> bytes:
    """The weights file that is meant, as the program finds it. The folders in which a program may lie: build/python of
    the source, if this package is build/python/package/effnet; that of Python's own programs; that of effnet on PATH."""
    folders = [os.path.abspath(os.path.join(__file__, "../../..")), os.path.join(sys.prefix, "bin")]
    programs = (os.path.join(folder, "effnet") for folder in os.get_exec_path())
    program = next((path for path in programs if os.access(path, os.X_OK)), None)
    folders += [os.path.dirname(os.path.realpath(program))] if program else []
    names = [ffi.new("char[]", os.fsencode(folder)) for folder in folders]
    word = ffi.NULL if path_or_name is None else path_bytes(path_or_name)
    path = ffi.new("char[]", _PATH_MAX)
    call(lib.effnet_model_find, word, ffi.new("const char *[]", names), len(names), path)
    return ffi.string(path)


class Model:
    """An open weights file: the network, its weights, preprocessing and labels. Read-only; any number of sessions and
    threads may share one.

    path_or_name: a weights file, or the name of a network as for the program's -m ("lite1"), which is looked for in
        `weights` of the source that the package was built in, and in `share/effnet` beside the folder of Python's
        programs or of the `effnet` on PATH. None: what the environment's EFFNET_MODEL says, else lite1.

    Raises InputError where there is no such file, DataError where it is broken.

    A model is closed by `close()`, at the end of a `with`, or with its last reference. Sessions that are open keep
    what they need of it. The file must not shrink while it is open.

    Attributes, beside the methods below:
        path, network: the file; the network's name, as "lite1"
        classes, labels: how many; a Label for each, in the order of the logits
        multi_label: whether the classes do not exclude one another
        preprocessing: see Preprocessing
        input_shape: (height, width, channels) of the network's input
        layer_count, parameters, multiply_adds: of the network; multiply_adds for one image
        source_file, source_sha256: what the weights were converted from
    """

    def __init__(self, path_or_name: str | os.PathLike[str] | None = None) -> None:
        self._handle = Handle(_find(path_or_name))
        self._end = at_end(self, self._handle.release)
        info = lib.effnet_model_get_info(self._handle.pointer)
        self.path: str = os.fsdecode(ffi.string(info.path))
        self.network: str = text(info.network)
        self.classes: int = info.classes
        self.multi_label: bool = info.multi_label
        self.input_shape: tuple[int, int, int] = (info.height, info.width, info.channels)
        self.layer_count: int = info.layer_count
        self.parameters: int = info.parameters
        self.multiply_adds: int = info.multiply_adds
        self.source_file: str = text(info.source_file)
        self.source_sha256: str = text(info.source_sha256)
        self.preprocessing: Preprocessing = _preprocessing(info.preprocess)

    def _open_handle(self) -> Handle:
        if not self._end.alive:
            raise UsageError("the model is closed")
        return self._handle

    @cached_property
    def labels(self) -> tuple[Label, ...]:
        """The classes' ids and names, in the order of the logits."""
        with self._handle.used() as pointer:
            found = [lib.effnet_model_label(pointer, i) for i in range(self.classes)]
            return tuple(Label(text(label.id), text(label.name)) for label in found)

    def session(
        self,
        device: str = "auto",
        precision: str | None = None,
        batch: int = 1,
        threads: int = 0,
        *,
        plan: str | None = None,
        embeddings: bool = False,
    ) -> Session:
        """Makes the network ready on a device.

        device: "auto" (the GPU where there is one, else the CPU), "cpu", "reference", "cuda", "cuda:N".
        precision: "fp32", "bf16" or "fp16"; None: the device's own, fp32 on the CPU, fp16 on a GPU.
        batch: images a pass through the network at most, 1 to 65536. 32 is good for many files; 1 answers soonest.
        threads: on the CPU; 0: as many as the process may use.
        plan: on a GPU, "auto" or "cudnn"; None is auto.
        embeddings: the session hands these out, too: `Session.embeddings`, and `embedding` of a Prediction.

        Raises UnavailableError where the device cannot be had, OutOfMemoryError. Where "auto" takes the CPU although
        there is NVIDIA hardware, a RuntimeWarning says why.
        """
        from ._session import Session

        return Session(self, device, precision, batch, threads, plan, embeddings)

    def preprocess(
        self,
        images: Image | Iterable[Image],
        *,
        max_pixels: int | None = None,
        ignore_exif: bool = False,
        background: tuple[int, int, int] | None = None,
    ) -> np.ndarray:
        """Decodes images and makes the network's crops of them, byte for byte as Pillow would resize them.

        images: one image or several (see `effnet.Image`).
        max_pixels: an encoded image of more pixels is refused (default 178956970).
        ignore_exif: ignore the orientation in EXIF and XMP data.
        background: red, green, blue, 0 to 255: lay transparent pixels over it. None: alpha is dropped.

        Returns uint8 [n][crop][crop][3], which `Session.logits` takes. Raises the first image's error that has one.
        """
        chosen, options = list(several(images)), Options(max_pixels, ignore_exif, background)
        crop = self.preprocessing.crop
        crops = np.empty((len(chosen), crop, crop, 3), np.uint8)
        handle = self._open_handle()
        with handle.used():
            for i, image in enumerate(chosen):
                fit(image, f"image {i}", handle.preprocess, options, ffi.from_buffer("uint8_t[]", crops[i]))
        return crops

    def top_k(self, logits: np.ndarray, k: int = 5) -> tuple[Class, ...]:
        """The k most probable classes of one image, best first, ties by lower index; fewer where the network has fewer.

        logits: float32 [classes], one row of what `Session.logits` returns.
        """
        row = np.ascontiguousarray(logits, np.float32)
        if row.shape != (self.classes,) or k < 1:
            raise UsageError(f"top_k: k = {k} of logits of shape {row.shape}, not 1 or more of ({self.classes},)")
        rank = lib.effnet_top_k_multi_label if self.multi_label else lib.effnet_top_k
        top = ffi.new("struct effnet_class[]", min(k, self.classes))
        count = rank(ffi.from_buffer("float[]", row), self.classes, len(top), top)
        found = [(c.index, self.labels[c.index], c.logit, c.probability) for c in top[0:count]]
        return tuple(Class(i, label.id, label.name, logit, probability) for i, label, logit, probability in found)

    def close(self) -> None:
        """Closes the model: no session can be opened any more. Sessions that are open stay so. Twice does no harm."""
        self._end()

    def __enter__(self) -> Model:
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<effnet.Model {self.network}: {self.path}{'' if self._end.alive else ', closed'}>"
