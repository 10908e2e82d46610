"""A pipeline over an iterable of images.

Three sorts of threads meet here: one of ours advances the caller's iterable, so that no foreign thread runs the
caller's code; the library's take the items that it made, by Feed.give, and wait there for more; the caller's takes
results. What is ahead of the results is bounded: by AHEAD items that no thread of the library has taken yet, by the
library's own number of records, and by MOST_BYTES of encoded images, or one.
"""

from __future__ import annotations

import collections
import os
import threading
from typing import TYPE_CHECKING, Any, Iterable, Iterator

import numpy as np

from ._images import Image, Item, Options
from ._library import Lock, at_end, call, error_of, ffi, here, lib
from ._results import Prediction
from .errors import Error

if TYPE_CHECKING:
    from ._model import Model
    from ._session import Session

AHEAD = 32
MOST_BYTES = 256 << 20


class Feed:
    """Items from the caller's iterable to the library's threads."""

    def __init__(self, images: Iterable[Image], options: Options) -> None:
        self.changed = threading.Condition()
        self.ready: collections.deque[Item] = collections.deque()  # not taken by the library yet
        self.taken: dict[int, Item] = {}  # by their index; their results have not come back
        self.count = 0  # taken so far
        self.bytes = 0  # of encoded images in both
        self.ended = False  # the iterable has no more, or failed:
        self.failure: BaseException | None = None
        self.closed = False
        threading.Thread(target=self._advance, args=(iter(images), options), name="effnet-feed", daemon=True).start()

    def _advance(self, images: Iterator[Image], options: Options) -> None:
        here.serves = True
        failure = None
        try:
            for index, image in enumerate(images):
                if not self._put(Item(image, index, options)):
                    return
        except BaseException as error:  # whatever it is, it is the caller's
            failure = error
        with self.changed:
            self.failure, self.ended = failure, True
            self.changed.notify_all()

    def _put(self, item: Item) -> bool:
        with self.changed:
            while not self.closed and (
                len(self.ready) >= AHEAD or (self.bytes and self.bytes + item.size_bytes > MOST_BYTES)
            ):
                self.changed.wait()
            if not self.closed:
                self.ready.append(item)
                self.bytes += item.size_bytes
                self.changed.notify_all()
            return not self.closed

    def give(self, _, item, error) -> int:
        """An effnet_source."""
        here.serves = True
        with self.changed:
            while not (self.ready or self.ended or self.closed):
                self.changed.wait()
            if self.closed or not self.ready:
                return 0
            given = self.ready.popleft()
            self.taken[self.count] = given
            self.count += 1
            self.changed.notify_all()
        item.name = given.name
        if given.data is not None:
            item.data, item.size_bytes = given.data, given.size_bytes
        return 1

    def take_back(self, index: int) -> Item:
        """The item whose result is there."""
        with self.changed:
            item = self.taken.pop(index)
            self.bytes -= item.size_bytes
            if item.size_bytes:
                self.changed.notify_all()
            return item

    def wait(self, results: int) -> bool:
        """Until there is something to wait for in the library, after so many results: False where that was all. So the
        caller waits for a slow iterable here, where signals reach it."""
        with self.changed:
            while not (self.ready or self.count > results or self.ended or self.closed):
                self.changed.wait()
            return not self.closed and (len(self.ready) > 0 or self.count > results)

    def close(self) -> None:
        with self.changed:
            self.closed = True
            self.ready.clear()
            self.changed.notify_all()


def _copy(floats, count: int) -> np.ndarray:
    return np.frombuffer(ffi.buffer(floats, 4 * count), np.float32).copy()


class Result:
    """An item's result, copied out of the library's memory."""

    __slots__ = ("blank_without_alpha", "embedding", "error", "image", "index", "logits")

    def __init__(self, result, item: Item, classes: int, embedding_size: int) -> None:
        self.index: int = result.index
        self.image = item.image
        self.blank_without_alpha: bool = result.blank_without_alpha
        self.error: Error | None = item.error
        self.logits: np.ndarray | None = None
        self.embedding: np.ndarray | None = None
        if self.error is None and result.status:
            self.error = error_of(result.error)
        elif self.error is None:
            self.logits = _copy(result.logits, classes)
            if embedding_size:
                self.embedding = _copy(result.features, embedding_size)

    def predict(self, model: Model, k: int) -> Prediction:
        if self.logits is None:
            return Prediction(self.index, self.image, self.error)
        top = model.top_k(self.logits, k)
        return Prediction(self.index, self.image, None, self.logits, top, self.blank_without_alpha, self.embedding)


class Pipeline:
    """An effnet_pipeline that runs, as an iterator of Result. The stream that hands it out refers to it, and it to
    nothing of the stream."""

    def __init__(self, model, session, pipeline_options, images: Iterable[Image], options: Options) -> None:
        self.is_open = True
        self._process = os.getpid()
        self._turn = Lock()  # around taking a result
        self._ending = Lock()  # around closing, outside of the other
        self._results = 0
        self._classes: int = lib.effnet_model_get_info(model).classes
        self._embedding_size: int = lib.effnet_session_get_info(session).feature_count
        self._feed = Feed(images, options)
        self._source = ffi.callback("effnet_source", self._feed.give, error=lib.EFFNET_E_INTERNAL)
        self._pointer = ffi.NULL
        out = ffi.new("effnet_pipeline **")
        try:
            call(lib.effnet_pipeline_open, model, pipeline_options, self._source, ffi.NULL, out)
            self._pointer = out[0]
            call(lib.effnet_pipeline_start, self._pointer, session)
        except BaseException:
            self.close()
            raise

    def __iter__(self) -> Pipeline:
        return self

    def __next__(self) -> Result:
        with self._turn:
            if self.is_open:
                found = self._next()
                if found is not None:
                    return found
        self.close()
        if self._feed.failure is not None:
            failure, self._feed.failure = self._feed.failure, None
            raise failure
        raise StopIteration

    def _next(self) -> Result | None:
        ours = os.getpid() == self._process  # else the library says why not
        if ours and not self._feed.wait(self._results):
            return None
        out = ffi.new("const struct effnet_result **")
        call(lib.effnet_pipeline_next, self._pointer, out)
        if not out[0]:
            return None
        self._results += 1
        return Result(out[0], self._feed.take_back(out[0].index), self._classes, self._embedding_size)

    def close(self) -> None:
        """Ends it, also while another thread waits for a result. The iterable is not waited for."""
        with self._ending:
            if os.getpid() == self._process:
                self._feed.close()
                if self._pointer:
                    lib.effnet_pipeline_cancel(self._pointer)
            with self._turn:
                self.is_open = False
                pointer, self._pointer = self._pointer, ffi.NULL
                lib.effnet_pipeline_close(pointer)
                self._feed.taken.clear()


class Stream:
    """An iterator over the Predictions of `Session.classify_iter`. Several threads may take from one."""

    def __init__(self, session: Session, pipeline: Pipeline, k: int) -> None:
        self._session = session  # which is not to end before
        self._pipeline = pipeline
        self._k = k
        self._end = at_end(self, pipeline.close)

    def __iter__(self) -> Stream:
        return self

    def __next__(self) -> Prediction:
        return next(self._pipeline).predict(self._session.model, self._k)

    def close(self) -> None:
        """Ends the stream: the session is free again. Waits for the files that are being read, and not for the
        iterable. Twice does no harm."""
        self._end()

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()
