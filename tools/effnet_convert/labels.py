"""Names of the classes."""

import unicodedata
from pathlib import Path

from .errors import ConvertError
from .sources import read_file

IMAGENET = Path(__file__).resolve().parents[2] / "weights" / "imagenet_labels.tsv"
IMAGENET_CLASSES = 1000
MAX_BYTES = 64 << 20


def read_labels(path):
    """[{"id", "name"}, ...] from a text file: a line a class, in order, of one to three fields with tabs
    between them: name; id, name; or index, id, name. A first line "index<TAB>..." is a title."""
    try:
        text = read_file(path, MAX_BYTES).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConvertError(f"{path}: not UTF-8 (byte {error.start})") from None
    lines = text.replace("\r\n", "\n").split("\n")
    if lines[-1] == "":
        lines.pop()
    first = 1
    if lines and lines[0].startswith("index\t"):
        lines.pop(0)
        first = 2
    labels = []
    width = 0
    for number, line in enumerate(lines, first):
        fields = line.split("\t")
        width = width or len(fields)
        if len(fields) != width or width > 3:
            raise ConvertError(f"{path}: line {number} has {len(fields)} fields, not {min(width, 3)}")
        if width == 3 and fields[0] != str(len(labels)):
            raise ConvertError(f"{path}: line {number} has index {fields[0]}, not {len(labels)}")
        if not fields[-1].strip():
            raise ConvertError(f"{path}: line {number} has no name")
        if any(unicodedata.category(c) in ("Cc", "Cs") for c in line if c != "\t"):
            raise ConvertError(f"{path}: line {number} holds a control character")
        labels.append({"id": fields[-2] if width > 1 else "", "name": fields[-1]})
    if not labels:
        raise ConvertError(f"{path}: holds no labels")
    return labels


def labels_for(path, classes, label):
    """The user's labels, or ImageNet's where there are as many classes. label: the network in messages."""
    if path is None and classes != IMAGENET_CLASSES:
        raise ConvertError(
            f"{label}: {classes} classes, not ImageNet's {IMAGENET_CLASSES}: name them with --labels FILE"
        )
    labels = read_labels(path or IMAGENET)
    if len(labels) != classes:
        raise ConvertError(f"{path or IMAGENET}: {len(labels)} labels, but {label} has {classes} classes")
    return labels
