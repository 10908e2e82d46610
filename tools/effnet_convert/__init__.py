"""Turns trained PyTorch parameters into effnet's weights file (docs/weights-format.md), without PyTorch.

The code behind tools/convert.py. It is also the module effnet.convert of the Python package:

    import effnet.convert

    lines, notices = effnet.convert.convert("fine_tuned.pth", "mine.safetensors", labels="classes.txt")

and a program, `python -m effnet.convert --help`."""

import os

from . import command_line
from .errors import ConvertError

__all__ = ["ConvertError", "convert"]


def convert(source, out, **options):
    """Makes the weights file `out` of the checkpoint `source` (None: of none, with `arch` and `random`).

    options: those of tools/convert.py, with underscores in their names: True for one that takes no value, a sequence
    for one that takes several: convert(source, out, arch="b1", mean=(123.7, 116.3, 103.5), force=True).

    Returns two lists of lines: what was made and all that was assumed, and notices. Raises ConvertError, one line that
    names the file or tensor and the reason; its `status` is convert.py's exit status.
    """
    arguments = []
    for name, value in options.items():
        word = f"--{name.replace('_', '-')}"
        if isinstance(value, (list, tuple)):
            value = ",".join(map(str, value))
        if value is True:
            arguments.append(word)
        elif value is not None and value is not False:
            arguments.append(f"{word}={os.fspath(value) if isinstance(value, os.PathLike) else value}")
    files = [os.fspath(path) for path in (source, out) if path is not None]
    return command_line.convert(command_line.parse([*arguments, "--", *files]))
