"""effnet.Session: a model made ready on a device."""

from __future__ import annotations

import contextlib
import warnings
from typing import Iterable, Iterator

import numpy as np

from ._images import Image, Options, fit, several
from ._library import Lock, at_end, call, ffi, lib, text
from ._model import Handle, Model
from ._results import Prediction
from ._stream import Pipeline, Stream
from .errors import UsageError


class _State:
    """An effnet_session, with the stream that uses it. It does not refer to the Session, which it may outlive."""

    def __init__(self, model: Handle, options) -> None:
        self.pipeline: Pipeline | None = None  # of the stream that is open
        self._model = model
        self._lock = Lock()
        model.keep()
        try:
            out = ffi.new("effnet_session **")
            call(lib.effnet_session_open, model.pointer, options, out)
            self.pointer = out[0]
        except BaseException:
            model.release()
            raise

    @contextlib.contextmanager
    def alone(self) -> Iterator:
        """The session, for this thread alone: others wait. A stream that is open is not waited for, since its end may
        be this thread's to bring about."""
        with self._lock:
            if not self.pointer:
                raise UsageError("the session is closed")
            if self.pipeline is not None and self.pipeline.is_open:
                raise UsageError("the session is in use by a stream of classify_iter: close that first")
            yield self.pointer

    def close(self) -> None:
        with self._lock:
            if self.pipeline is not None:
                self.pipeline.close()
            if self.pointer:
                lib.effnet_session_close(self.pointer)
                self._model.release()
            self.pointer = None


class Session:
    """A model made ready on a device: `Model.session` makes one.

    A session may be used from any number of threads: calls wait for each other, and each releases the interpreter's
    lock while it computes. To compute in several threads at once, open a session in each; they share the model's
    weights. While a stream of `classify_iter` is open, other calls raise UsageError.

    A child of fork may close the session, at the end of the process too, and open sessions of its own on the same
    model; to run this one there is a UsageError. A child of a process that uses a GPU here gets none.

    A session is closed by `close()`, at the end of a `with`, or with its last reference.

    Attributes, beside the methods below:
        model: the Model
        backend, device, precision: "onednn", "cuda" or "reference"; the processor's name; "fp32", "bf16" or "fp16"
        notice: why "auto" did not take the GPU, and which options of a GPU alone went unused; or ""
        batch, threads: images a pass at most; threads on the CPU
        memory_bytes: activations, weights and workspaces that the session holds
        embedding_size: numbers of an image's embedding; 0 where the session was made without `embeddings`
    """

    def __init__(
        self,
        model: Model,
        device: str,
        precision: str | None,
        batch: int,
        threads: int,
        plan: str | None,
        embeddings: bool,
    ) -> None:
        options = ffi.new("struct effnet_session_options *", lib.effnet_session_defaults())
        words = [ffi.NULL if word is None else ffi.new("char[]", word.encode()) for word in (device, precision, plan)]
        options.device, options.precision, options.plan = words
        if embeddings:
            options.features = lib.EFFNET_FEATURES_POOLED
        try:
            options.max_batch, options.threads = batch, threads
        except OverflowError:
            raise UsageError(f"batch {batch} or threads {threads} is out of all bounds") from None
        if batch < 1:
            raise UsageError(f"batch size {batch} is not 1 or more")
        self._state = _State(model._open_handle(), options)
        self._end = at_end(self, self._state.close)
        info = lib.effnet_session_get_info(self._state.pointer)
        self.model = model
        self.backend: str = text(info.backend)
        self.device: str = text(info.device)
        self.precision: str = text(info.precision)
        self.notice: str = text(info.notice)
        self.batch: int = info.max_batch
        self.threads: int = info.threads
        self.memory_bytes: int = info.memory_bytes
        self.embedding_size: int = info.feature_count
        self._decoding_threads = threads
        if self.notice:
            warnings.warn(f"effnet: {self.notice}", RuntimeWarning, stacklevel=3)

    def logits(self, pixels: np.ndarray) -> np.ndarray:
        """Runs the network.

        pixels: uint8 [n][crop][crop][3], rows from the top, red first, as `Model.preprocess` makes them; read where
            they are if contiguous, else from a copy. More than `batch` images go in several passes.

        Returns float32 [n][classes]. An image's logits do not depend on the other images, bit for bit.
        """
        pixels = self._checked("logits", pixels)
        logits = np.empty((len(pixels), self.model.classes), np.float32)
        with self._state.alone() as session:
            if len(pixels):
                _run(session, ffi.from_buffer("uint8_t[]", pixels), len(pixels), logits, None)
        return logits

    def embeddings(self, pixels: np.ndarray) -> np.ndarray:
        """Runs the network for what its classifier reads: the features that its last pooling gives.

        pixels: as those of `logits`.

        Returns float32 [n][embedding_size]. The session is one that was made with `embeddings`, else there is a
        UsageError.
        """
        if not self.embedding_size:
            raise UsageError("embeddings: the session was made without them: model.session(..., embeddings=True)")
        pixels = self._checked("embeddings", pixels)
        logits = np.empty((len(pixels), self.model.classes), np.float32)
        embeddings = np.empty((len(pixels), self.embedding_size), np.float32)
        with self._state.alone() as session:
            if len(pixels):
                _run(session, ffi.from_buffer("uint8_t[]", pixels), len(pixels), logits, embeddings)
        return embeddings

    def _checked(self, what: str, pixels: np.ndarray) -> np.ndarray:
        crop = self.model.preprocessing.crop
        if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or pixels.shape[1:] != (crop, crop, 3):
            raise UsageError(f"{what} of {_described(pixels)}: uint8 [n][{crop}][{crop}][3] is wanted")
        return np.ascontiguousarray(pixels)

    def classify(
        self,
        images: Image | Iterable[Image],
        k: int = 5,
        *,
        max_pixels: int | None = None,
        ignore_exif: bool = False,
        background: tuple[int, int, int] | None = None,
    ) -> list[Prediction]:
        """The k most probable classes of one image or of several (see `effnet.Image`), a Prediction each, in order.

        Several images are decoded in threads ahead of the network. The other arguments are those of
        `Model.preprocess`. Raises the error of the first image that has one; `classify_iter` hands it out in its place.
        """
        chosen, options = list(several(images)), Options(max_pixels, ignore_exif, background)
        _check_k(k)
        with self._state.alone() as session:
            if len(chosen) == 1:
                return [self._classify_one(session, chosen[0], k, options)]
            with contextlib.closing(self._pipeline(chosen, options)) as pipeline:
                found = []
                for entry in pipeline:
                    if entry.error is not None:
                        raise entry.error
                    found.append(entry.predict(self.model, k))
                return found

    def _classify_one(self, session, image: Image, k: int, options: Options) -> Prediction:
        """Without a thread, which would cost more than it brings."""
        model = self.model
        crop = ffi.new("uint8_t[]", 3 * model.preprocessing.crop**2)
        blank = fit(image, "image 0", model._handle.preprocess, options, crop)
        logits = np.empty(model.classes, np.float32)
        embedding = np.empty(self.embedding_size, np.float32) if self.embedding_size else None
        _run(session, crop, 1, logits, embedding)
        return Prediction(0, image, None, logits, model.top_k(logits, k), blank, embedding)

    def classify_iter(
        self,
        images: Iterable[Image],
        k: int = 5,
        *,
        max_pixels: int | None = None,
        ignore_exif: bool = False,
        background: tuple[int, int, int] | None = None,
        ordered: bool = True,
        decode_gpu: bool = False,
    ) -> Stream:
        """Classifies a stream of images of any length: an iterator over a Prediction for each, which is also a context
        manager.

        images: any iterable. A thread of its own advances it, some hundreds of images ahead of the results, and waits
            when these are not taken: memory does not grow with the number of images. What it raises is raised by the
            stream, after the results before.
        ordered: results come in the order of the images; else as they are ready.
        decode_gpu: the session's GPU decodes plain JPEGs beside the threads, with pixels that differ by rounding.

        The other arguments are those of `classify`. An image that fails is a Prediction with an `error`, and costs the
        others nothing. The session is the stream's until that is exhausted or closed, by `close()`, at the end of a
        `with`, or with its last reference, as after a `break`.
        """
        options = Options(max_pixels, ignore_exif, background)
        _check_k(k)
        iterator = iter(several(images))
        with self._state.alone():
            pipeline = self._pipeline(iterator, options, ordered, decode_gpu)
            self._state.pipeline = pipeline
        return Stream(self, pipeline, k)

    def _pipeline(
        self, images: Iterable[Image], options: Options, ordered: bool = True, decode_gpu: bool = False
    ) -> Pipeline:
        pipeline = ffi.new("struct effnet_pipeline_options *", lib.effnet_pipeline_defaults())
        pipeline.image = options.struct[0]
        pipeline.threads = min(self._decoding_threads, 1024)
        pipeline.unordered, pipeline.decode_gpu = not ordered, decode_gpu
        handle = self.model._handle  # which the session keeps open, also where the Model is closed
        return Pipeline(handle.pointer, self._state.pointer, pipeline, images, options)

    def close(self) -> None:
        """Closes the session, and the stream that uses it. Waits for calls in other threads. Twice does no harm."""
        self._end()

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def __repr__(self) -> str:
        closed = "" if self._end.alive else ", closed"
        return f"<effnet.Session {self.model.network} on {self.backend} in {self.precision}, batch {self.batch}{closed}>"


def _run(session, pixels, n: int, logits: np.ndarray, embeddings: np.ndarray | None) -> None:
    """A pass or several over n crops; embeddings None: without."""
    target = ffi.from_buffer("float[]", logits)
    if embeddings is None:
        call(lib.effnet_session_run, session, pixels, n, target)
    else:
        call(lib.effnet_session_run_features, session, pixels, n, target, ffi.from_buffer("float[]", embeddings))


def _described(value) -> str:
    if isinstance(value, np.ndarray):
        return f"an array of type {value.dtype} and shape {value.shape}"
    return f"a {type(value).__name__}"


def _check_k(k: int) -> None:
    if k < 1:
        raise UsageError(f"k = {k} is not 1 or more")
