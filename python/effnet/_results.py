"""What a network says of an image."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from .errors import Error


def described(**fields: str):
    """Gives the fields of a NamedTuple the texts that help() shows."""

    def describe(kind):
        for name, words in fields.items():
            getattr(kind, name).__doc__ = words
        return kind

    return describe


@described(id='WordNet id ("n03733281"), or ""', name="in words")
class Label(NamedTuple):
    """A class of a network: (id, name)."""

    id: str
    name: str


@described(
    index="in [0, classes)",
    id='WordNet id ("n03733281"), or ""',
    name="in words",
    logit="the network's output",
    probability="in [0, 1]: softmax over all classes; of a multi-label network, the logit's sigmoid",
)
class Class(NamedTuple):
    """A class as an answer: (index, id, name, logit, probability)."""

    index: int  # type: ignore[assignment]  # it hides tuple's method
    id: str
    name: str
    logit: float
    probability: float


class Prediction:
    """The answer for one image, or why there is none.

    index: the image's place among those given, from 0.
    image: what was given, the same object. It is kept alive by the prediction.
    error: None, or the `effnet.Error` for which the image has no answer.
    blank_without_alpha: all pixels have one colour, but the file's alpha, which was dropped, is not the same
        everywhere: what the image shows is in its alpha alone, and wants a `background`.

    Reading `classes`, `logits` or `embedding` of an image that has no answer raises its `error`.
    """

    __slots__ = ("_classes", "_embedding", "_logits", "blank_without_alpha", "error", "image", "index")

    def __init__(
        self,
        index: int,
        image: Any,
        error: Error | None,
        logits: np.ndarray | None = None,
        classes: tuple[Class, ...] = (),
        blank_without_alpha: bool = False,
        embedding: np.ndarray | None = None,
    ) -> None:
        self.index = index
        self.image = image
        self.error = error
        self.blank_without_alpha = blank_without_alpha
        self._logits = logits
        self._classes = classes
        self._embedding = embedding

    @property
    def classes(self) -> tuple[Class, ...]:
        """The k most probable classes, best first, ties by lower index."""
        if self.error is not None:
            raise self.error
        return self._classes

    @property
    def logits(self) -> np.ndarray:
        """float32 [classes]"""
        if self.error is not None:
            raise self.error
        assert self._logits is not None
        return self._logits

    @property
    def embedding(self) -> np.ndarray | None:
        """float32 [embedding_size], as `Session.embeddings` gives it; None: the session was made without them."""
        if self.error is not None:
            raise self.error
        return self._embedding

    def __repr__(self) -> str:
        if self.error is not None:
            return f"<effnet.Prediction {self.index}: {type(self.error).__name__}: {self.error}>"
        best = self._classes[0]
        return f"<effnet.Prediction {self.index}: {best.name}, {100 * best.probability:.2f} %>"
