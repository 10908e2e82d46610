"""The exceptions: one for each status of the library, all of them `effnet.Error`."""

from __future__ import annotations


class Error(Exception):
    """What went wrong, in one line that names the file, tensor or layer and the reason.

    `status` is the library's enum effnet_status, by which a program may map it to what `effnet` exits with.
    """

    status: int = 0

    def __init__(self, message: str = "", status: int | None = None) -> None:
        super().__init__(message)
        if status is not None:
            self.status = status


class UsageError(Error, ValueError):
    """An argument is wrong, or an object is used that is closed or belongs to the parent process. (-1)"""

    status = -1


class DataError(Error, ValueError):
    """An image or a weights file is broken or not supported. (-2)"""

    status = -2


class InputError(Error, OSError):
    """A file does not exist or cannot be read. (-3)"""

    status = -3


class UnavailableError(Error, RuntimeError):
    """No such device, or a library or the precision is missing here. (-4)"""

    status = -4


class InternalError(Error, RuntimeError):
    """A library call failed, or a check of effnet's own. (-5)"""

    status = -5


class OutOfMemoryError(Error, MemoryError):
    """Host or device memory is exhausted. (-6)"""

    status = -6


class OutputError(Error, OSError):
    """Results cannot be written. (-7)"""

    status = -7


_BY_STATUS = {
    kind.status: kind
    for kind in (UsageError, DataError, InputError, UnavailableError, InternalError, OutOfMemoryError, OutputError)
}


def of_status(status: int, message: str) -> Error:
    """The exception for a status, of which a later library may have more."""
    return _BY_STATUS.get(status, Error)(message, status)
