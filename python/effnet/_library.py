"""libeffnet.so: loading it, its errors as exceptions, and what outlives the call that made it."""

from __future__ import annotations

import os
import threading
import weakref

from ._cffi import ffi
from .errors import Error, of_status

try:
    lib = ffi.dlopen(os.path.join(os.path.dirname(os.path.abspath(__file__)), "libeffnet.so"))
except OSError as _error:
    raise ImportError(
        f"effnet: {_error}. effnet's docs/python.md lists the libraries that the system must have"
    ) from None


def text(pointer) -> str:
    """A C string. What a file calls itself need not be UTF-8."""
    return ffi.string(pointer).decode("utf-8", "surrogateescape")


def error_of(error) -> Error:
    """The exception for a struct effnet_error that holds one."""
    return of_status(error.status, text(error.message))


def call(function, *arguments) -> None:
    """Calls a function that takes a struct effnet_error last; raises what it reports. The interpreter's lock is
    released meanwhile."""
    error = ffi.new("struct effnet_error *")
    if function(*arguments, error):
        raise error_of(error)


# ---------------------------------------------------------------- fork


class Lock:
    """A lock, to be used by `with`. In a child of fork it is free: the thread that held it is not there. Who holds it
    may take it again, as the garbage collector does that closes something else in the same thread."""

    _all: weakref.WeakSet[Lock] = weakref.WeakSet()

    def __init__(self) -> None:
        self._lock = threading.RLock()
        Lock._all.add(self)

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_) -> None:
        self._lock.release()

    @staticmethod
    def _renew() -> None:
        for lock in Lock._all:
            lock._lock = threading.RLock()


os.register_at_fork(after_in_child=Lock._renew)


# ---------------------------------------------------------------- ends

# .serves: this thread is one that closing a stream waits for.
here = threading.local()


def _close(close) -> None:
    if getattr(here, "serves", False):
        threading.Thread(target=close, name="effnet-close", daemon=True).start()
    else:
        close()


def at_end(owner: object, close) -> weakref.finalize:
    """close() is called once: by the returned object, when `owner` is garbage, or when Python ends, last made first
    closed. `close` must not refer to `owner`. The garbage collector runs in any thread, which may be one that
    close() would wait for: it has a thread of its own then."""
    return weakref.finalize(owner, _close, close)
