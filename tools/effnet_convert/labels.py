"""Names of the classes, in the forms in which people keep them."""

import csv
import json
import os
import re
import unicodedata
from dataclasses import dataclass
from pathlib import Path

from .errors import ConvertError
from .heads import MAX_WIDTH
from .sources import read_file

# The Python package has the file beside this one, the source among the weights.
_BESIDE = Path(__file__).resolve().with_name("imagenet_labels.tsv")
IMAGENET = _BESIDE if _BESIDE.exists() else _BESIDE.parents[2] / "weights" / "imagenet_labels.tsv"
IMAGENET_CLASSES = 1000
IMAGENET_ORIGIN = "ImageNet's 1000"
MAX_BYTES = 16 << 20  # 256 for each class

# SHA-256 of the published parameters in the packages of tools/requirements-weights.txt.
_TRAINED_ON_IMAGENET = (
    "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",  # efficientnet-lite0-57934424.pth
    "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",  # efficientnet-lite1-77cc7160.pth
    "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",  # efficientnet-lite2-9656183e.pth
)

# A first line with such words is a title; without a word is the column of indices that pandas writes.
COLUMNS = ("index", "", "id", "wnid", "name", "label", "class")
NAME_COLUMNS = ("name", "label", "class")

_INDEX = re.compile(r"\d{1,9}")
_INDEX_AND_NAME = re.compile(r"(\d{1,9})(?:\s*[,:;]\s*|\s+)(\S.*)")
_ID_AND_NAME = re.compile(r"(n\d{8})(?:\s*,\s*|\s+)(\S.*)")  # WordNet's, as ImageNet's folders are called


@dataclass(frozen=True)
class Labels:
    entries: list  # [{"id", "name"}, ...], one a class, in order
    origin: str  # how many and where from, in words
    path: object  # of the file


@dataclass(frozen=True)
class _Row:
    """What a file says of one class."""

    where: str  # "line 3"
    name: object
    id: object = ""
    index: object = None  # None: rows are in the order of the classes


# ---------------------------------------------------------------- text


def _is_index(text):
    return _INDEX.fullmatch(text) is not None


def _choose_columns(columns, rows):
    """(name, id or None, index or None): the columns that hold them. rows: [{column: text}, ...]. A column called
    label, class or id may hold either names or indices: where all of it are whole numbers, it is the index."""

    def numbers(column):
        return all(_is_index(str(row[column])) for row in rows)

    candidates = [column for column in NAME_COLUMNS if column in columns]
    name = next((column for column in candidates if column == "name" or not numbers(column)), candidates[0])
    rest = [column for column in columns if column != name]
    index = "index" if "index" in rest else None
    index = index or next((column for column in ("", "class", "label", "id") if column in rest and numbers(column)), None)
    return name, next((column for column in ("wnid", "id") if column in rest and column != index), None), index


def _rows_of_columns(columns, rows, places):
    """_Rows of records {column: value}."""
    name, identity, index = _choose_columns(columns, rows)
    return name, [
        _Row(place, row[name], row[identity] if identity else "", row[index] if index else None)
        for place, row in zip(places, rows)
    ]


def _title(lines):
    """(columns, delimiter) where the first line is a title, else None. A single known word is one where all lines have
    as many delimiters."""
    for delimiter in "\t,;":
        columns = [field.strip().strip('"').lower() for field in lines[0].split(delimiter)]
        known = sum(column in COLUMNS for column in columns)
        has_name = any(column in NAME_COLUMNS for column in columns)
        if len(columns) == 1:
            known = 2 if has_name else 0
        elif known == 1 and has_name and all(line.count(delimiter) == len(columns) - 1 for line in lines):
            known = 2
        if known >= 2:
            return columns, delimiter
    return None


def _split(lines, delimiter):
    """[(fields, "line 3"), ...]; fields in quotes where the delimiter is not a tab."""
    if delimiter == "\t":
        return [(line.split("\t"), f"line {number}") for number, line in enumerate(lines, 1)]
    reader = csv.reader(lines, delimiter=delimiter, skipinitialspace=True, strict=True)
    try:
        return [([field.strip() for field in fields], f"line {reader.line_num}") for fields in reader]
    except csv.Error as error:
        raise ConvertError(f"line {reader.line_num}: {error}") from None


def _read_table(lines, columns, delimiter):
    if not any(column in NAME_COLUMNS for column in columns):
        raise ConvertError(f"line 1 has no column {', '.join(NAME_COLUMNS[:-1])} or {NAME_COLUMNS[-1]}")
    if len(set(columns)) != len(columns):
        raise ConvertError("line 1 has a column twice")
    if len(columns) == 1:  # whatever else is in the line is part of the name
        return f"column {columns[0]}", [_Row(f"line {i}", line) for i, line in enumerate(lines[1:], 2)]
    rows, places = [], []
    for fields, place in _split(lines, delimiter)[1:]:
        if len(fields) != len(columns):
            raise ConvertError(f"{place} has {len(fields)} fields, not {len(columns)}")
        rows.append(dict(zip(columns, fields)))
        places.append(place)
    name, rows = _rows_of_columns(columns, rows, places)
    return f"{'tabs' if delimiter == chr(9) else 'CSV'}, column {name}", rows


def _read_tabs(lines):
    """name; index or id, name; or index, id, name, with tabs between."""
    split = _split(lines, "\t")
    width = len(split[0][0])
    for fields, place in split:
        if len(fields) != width or width > 3:
            raise ConvertError(f"{place} has {len(fields)} fields, not {min(width, 3)}")
    if width == 3:
        return "index, id, name", [_Row(place, f[2], f[1], f[0]) for f, place in split]
    indexed = _is_index(split[0][0][0])
    for fields, place in split:
        if _is_index(fields[0]) is not indexed:
            raise ConvertError(f"{place}: {fields[0]} is {'no ' if indexed else 'an '}index, unlike line 1's")
    if indexed:
        return "index, name", [_Row(place, f[1], "", f[0]) for f, place in split]
    return "id, name", [_Row(place, f[1], f[0]) for f, place in split]


def _read_lines(lines):
    """A line a class: name; or index, name; or id, name, with a space or so between."""
    indexed = [_INDEX_AND_NAME.fullmatch(line) for line in lines]
    hint = "(where the numbers belong to the names, put a line `name` first)"
    if all(indexed):
        indices = {int(match[1]) for match in indexed}
        if len(indices) == len(lines) and max(indices) >= len(lines):
            missing = min(set(range(len(lines))) - indices)
            raise ConvertError(
                f"every line begins with a number, but none with {missing}: indices count from 0 {hint}"
            )
        return "index, name", [_Row(f"line {i}", m[2], "", m[1]) for i, m in enumerate(indexed, 1)]
    if all(indexed[:2]) and int(indexed[0][1]) + 1 == int(indexed[1][1]):
        raise ConvertError(f"line {indexed.index(None) + 1} has no index and name, as those before {hint}")
    identified = [_ID_AND_NAME.fullmatch(line) for line in lines]
    if any(identified):
        if not all(identified):
            raise ConvertError(f"line {identified.index(None) + 1} has no id like n01440764 before the name")
        return "id, name", [_Row(f"line {i}", m[2], m[1]) for i, m in enumerate(identified, 1)]
    return "a line each", [_Row(f"line {i}", line) for i, line in enumerate(lines, 1)]


def _read_text(text):
    """(the form in words, [_Row, ...])."""
    if text.rstrip().count("\n") > MAX_WIDTH:  # the first line may be a title
        raise ConvertError(f"more than {MAX_WIDTH} lines, but a network has up to as many classes")
    lines = text.replace("\r\n", "\n").split("\n")
    while lines and not lines[-1].strip():
        lines.pop()
    if not lines:
        return "", []
    title = _title(lines)
    if title:
        return _read_table(lines, *title)
    return _read_tabs(lines) if any("\t" in line for line in lines) else _read_lines(lines)


# ---------------------------------------------------------------- JSON


def _unique(pairs):
    result = {}
    for key, value in pairs:
        if key in result:
            raise ConvertError(f"JSON: key {key!r} is there twice")
        result[key] = value
    return result


def _parse_json(text):
    """The value, or None where the text does not begin as a list or an object of JSON's."""
    if not text.lstrip().startswith(("[", "{")):
        return None
    try:
        return json.loads(text, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise ConvertError(f"begins as JSON does, but {error} (put a line `name` before a line each)") from None


def _entry_row(place, value, index=None):
    """One entry: "tench", or ImageNet's ["n01440764", "tench"]."""
    if type(value) is list and len(value) == 2:
        return _Row(place, value[1], value[0], index)
    return _Row(place, value, "", index)


def _object_rows(entries, places, indices):
    """Entries that are objects {"name": "tench", ...}. indices: those that their keys give, or None."""
    columns = [column.lower() for column in entries[0]]
    rows = [{key.lower(): value for key, value in entry.items()} for entry in entries]
    for place, row in zip(places, rows):
        if sorted(row) != sorted(columns):
            raise ConvertError(f"{place} has the keys {', '.join(row)}, not {', '.join(columns)}")
    if not any(column in NAME_COLUMNS for column in columns):
        raise ConvertError(f"{places[0]} has no key {', '.join(NAME_COLUMNS[:-1])} or {NAME_COLUMNS[-1]}")
    name, result = _rows_of_columns(columns, rows, places)
    if indices is not None:
        result = [_Row(row.where, row.name, row.id, index) for row, index in zip(result, indices)]
    return f", key {name}", result


def _read_json(value):
    if not value:
        return "", []
    if len(value) > MAX_WIDTH:
        raise ConvertError(f"{len(value)} entries, but a network has up to {MAX_WIDTH} classes")
    if type(value) is list:
        entries, indices, kind = value, None, "JSON list"
        places = [f"entry {i}" for i in range(len(entries))]
    elif all(type(index) is int for index in value.values()):
        rows = [_Row(f"key {name!r}", name, "", index) for name, index in value.items()]
        return "JSON object, name to index", rows
    else:
        entries, indices, kind = list(value.values()), list(value), "JSON object, index to name"
        places = [f"key {key!r}" for key in indices]
    if all(type(entry) is dict and entry for entry in entries):
        more, rows = _object_rows(entries, places, indices)
        return kind + more, rows
    return kind, [_entry_row(*entry) for entry in zip(places, entries, indices or [None] * len(entries))]


# ---------------------------------------------------------------- what all forms have in common


def _check_text(where, what, text):
    if type(text) is not str:
        raise ConvertError(f"{where}: the {what} is not text")
    if any(unicodedata.category(c) in ("Cc", "Cs") for c in text):
        raise ConvertError(f"{where} holds a control character")


def _in_order(rows):
    """The rows by their indices, which must be 0, 1, 2, ..."""
    if rows[0].index is None:
        return rows
    seen = {}
    for row in rows:
        if type(row.index) is not int and not (type(row.index) is str and _is_index(row.index.strip())):
            raise ConvertError(f"{row.where} has index {row.index!r}, not a whole number from 0")
        index = int(row.index)
        if index in seen:
            raise ConvertError(f"{row.where} has index {index}, which {seen[index].where} has too")
        seen[index] = row
    ordered = [seen[index] for index in sorted(seen)]
    for due, (index, row) in enumerate(sorted(seen.items())):
        if index != due:
            raise ConvertError(f"{row.where} has index {index}, but none has {due}")
    return ordered


def _entries(rows):
    """[{"id", "name"}, ...] of rows that are checked."""
    rows, seen = _in_order(rows), {}
    for row in rows:
        _check_text(row.where, "name", row.name)
        _check_text(row.where, "id", row.id)
        if not row.name.strip():
            raise ConvertError(f"{row.where} has no name")
        before = seen.setdefault((row.id, row.name), row)
        if before is not row:
            raise ConvertError(
                f"{row.where} has the name {row.name}, which {before.where} has too: they need other names, or ids"
            )
    return [{"id": row.id, "name": row.name} for row in rows]


def read_labels(path):
    """Labels of a file, in any of the forms of docs/weights-format.md, told by its content."""
    try:
        text = read_file(path, MAX_BYTES).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConvertError(f"{path}: not UTF-8 (byte {error.start})") from None
    try:
        value = _parse_json(text)
        form, rows = _read_text(text) if value is None else _read_json(value)
        if not rows:
            raise ConvertError("holds no labels")
        return Labels(_entries(rows), f"{len(rows)} from {os.path.basename(path)} ({form})", path)
    except ConvertError as error:
        raise ConvertError(f"{path}: {error}") from None


def labels_of_config(names, descriptions, path):
    """Labels of timm's config.json: label_names, and label_descriptions {label name: words} or None."""
    try:
        if type(names) not in (list, dict) or not names:
            raise ConvertError("label_names is neither a list nor an object")
        entries = _entries(_read_json(names)[1])
        if type(descriptions) is dict:  # the names are ids then, as n01440764
            entries = [{"id": entry["name"], "name": descriptions.get(entry["name"], "")} for entry in entries]
            _entries([_Row(f"label_descriptions: {entry['id']}", entry["name"], entry["id"]) for entry in entries])
        return Labels(entries, f"{len(entries)} from {os.path.basename(path)} (label_names)", path)
    except ConvertError as error:
        raise ConvertError(f"{path}: {error}") from None


def are_imagenet(sha256):
    """Whether parameters of this hash are known to have been trained on ImageNet's classes."""
    return sha256 in _TRAINED_ON_IMAGENET


def labels_for(path, of_config, classes, label):
    """The user's labels; else those of a config.json (Labels or None), or ImageNet's where there are as many classes.
    label: the network in messages."""
    if path is not None:
        labels = read_labels(path)
    elif of_config is not None:
        labels = of_config
    elif classes == IMAGENET_CLASSES:
        labels = Labels(read_labels(IMAGENET).entries, IMAGENET_ORIGIN, IMAGENET)
    else:
        raise ConvertError(
            f"{label}: {classes} classes, not ImageNet's {IMAGENET_CLASSES}: name them with --labels FILE"
        )
    if len(labels.entries) != classes:
        raise ConvertError(f"{labels.path}: {len(labels.entries)} labels, but {label} has {classes} classes")
    return labels
