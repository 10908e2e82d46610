"""The files that come out: what they may replace, and how they come to be there, all of them or none."""

import contextlib
import os
import stat
import tempfile
from dataclasses import dataclass
from typing import Callable

from . import signals
from .errors import EX_OUTPUT, EX_USAGE, ConvertError
from .sources import open_file


@dataclass(frozen=True)
class Output:
    """A file to be written. is_ours(stream): whether a binary stream reads a file of this kind that we made."""

    path: str
    what: str  # its name in usage: "OUT.safetensors"
    kind: str  # "a weights file"
    is_ours: Callable

    @property
    def target(self):
        """The file itself: a link stays, what it points to is replaced."""
        return os.path.realpath(self.path)

    def fail(self, reason):
        return ConvertError(f"{self.path}: cannot be written: {reason}", EX_OUTPUT)

    @contextlib.contextmanager
    def reporting(self):
        """Failures of the operating system, as one line about this file."""
        try:
            yield
        except OSError as error:
            raise self.fail(error.strerror) from None


# ---------------------------------------------------------------- what may be replaced


def _identity(path):
    """What two names of one file have in common: its device and inode, or where it would come to be."""
    try:
        status = os.stat(path)
        return status.st_dev, status.st_ino
    except FileNotFoundError:
        return os.path.realpath(path)


def _is_ours(output):
    try:
        with open_file(output.path) as stream:
            return output.is_ours(stream)
    except OSError:  # what cannot be looked at is not known to be ours
        return False


def _check_existing(output, force):
    try:
        mode = os.stat(output.path).st_mode
    except FileNotFoundError:
        if os.path.basename(output.path) in ("", ".", ".."):
            raise ConvertError(f"{output.path}: the name of a folder: name a file as {output.what}", EX_USAGE) from None
        return
    if not stat.S_ISREG(mode):
        raise output.fail("not a regular file")
    if force:
        return
    if not _is_ours(output):
        raise ConvertError(
            f"{output.path}: exists, and is not {output.kind} of effnet's: name a new {output.what} (each SOURCE "
            f"is converted by itself), or replace it with --force",
            EX_USAGE,
        )
    if not mode & 0o222:
        raise ConvertError(f"{output.path}: exists, and is read-only: replace it with --force", EX_USAGE)


def check_outputs(outputs, inputs, force):
    """Refuses an output that is an input or another output under whatever name, that is no regular file, or
    (without force) that is there and not made here. inputs: the paths of the files that are read."""
    seen = {}
    for path in inputs:
        with contextlib.suppress(OSError):  # whoever reads it will say so
            seen[_identity(path)] = f"is the same file as {path}, which is read"
    for output in outputs:
        with output.reporting():
            identity = _identity(output.path)
            if identity in seen:
                raise ConvertError(f"{output.path}: {seen[identity]}: name another {output.what}", EX_USAGE)
            seen[identity] = f"is the same file as {output.what}"
            _check_existing(output, force)


# ---------------------------------------------------------------- how they come to be there


def _take_rights(descriptor, target):
    """The rights and owner of the file that is replaced, as far as we may give them; those of any new file."""
    try:
        old = os.stat(target)
    except FileNotFoundError:
        mask = os.umask(0)
        os.umask(mask)
        os.fchmod(descriptor, 0o666 & ~mask)
        return
    with contextlib.suppress(OSError):
        os.fchown(descriptor, old.st_uid, old.st_gid)
    os.fchmod(descriptor, stat.S_IMODE(old.st_mode) & 0o777)


def _write_beside(target, data, temporaries):
    """Writes a new file in the target's folder, and through to the disk; its name goes into temporaries."""
    with signals.held():
        descriptor, name = tempfile.mkstemp(prefix=".convert-", dir=os.path.dirname(target))
        temporaries.append(name)
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(data)
        stream.flush()
        _take_rights(descriptor, target)
        os.fsync(descriptor)


def _second_name(target, temporaries):
    """Another name for a file that is about to be replaced, to bring it back by; None where there is no file
    yet, and "" where the file system has no links."""
    name = tempfile.mktemp(prefix=".convert-", dir=os.path.dirname(target))
    try:
        os.link(target, name)
    except FileNotFoundError:
        return None
    except OSError:
        return ""
    temporaries.append(name)
    return name


def _put_in_place(outputs, temporaries):
    """Renames the first temporaries to the outputs' names, all or none."""
    done = []
    try:
        for output, new in zip(outputs, temporaries.copy()):
            old = _second_name(output.target, temporaries) if len(outputs) > 1 else ""
            with output.reporting():
                os.replace(new, output.target)
            done.append((output.target, old))
    except ConvertError:
        for target, old in done:
            with contextlib.suppress(OSError):
                if old is None:
                    os.unlink(target)
                elif old:
                    os.replace(old, target)
        raise
    for folder in {os.path.dirname(output.target) for output in outputs}:
        with contextlib.suppress(OSError):  # not every file system can
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


def write_outputs(outputs, contents, inputs, force):
    """Writes contents[i] to outputs[i]. Until all are written nothing is replaced; whatever goes wrong, also a
    signal, leaves what was there."""
    temporaries = []
    try:
        for output, data in zip(outputs, contents):
            with output.reporting():
                _write_beside(output.target, data, temporaries)
        with signals.held():
            check_outputs(outputs, inputs, force)  # again: it may be long since
            _put_in_place(outputs, temporaries)
    finally:
        for name in temporaries:
            with contextlib.suppress(OSError):
                os.unlink(name)
