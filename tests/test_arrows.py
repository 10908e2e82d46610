"""Who includes and calls whom: as the table of docs/design.md allows, and never in a circle."""

import os
import re
import subprocess

import pytest

SOURCES = ("include", "src", "kernels")  # and where a compiler looks for "name.h", after the file's own folder


def read_table(text):
    """{'src/common/': {'include/'}}: the folders of the table in docs/design.md, and what each may include."""
    rows = text.split("| folder | holds | may include |\n")[1].split("\n\n")[0].splitlines()[1:]
    table = {}
    for row in rows:
        names, _, allowed = row.strip("|").split(" | ")
        for name in re.findall(r"`([^`]+)`", names):
            assert name not in table, f"{name} is there twice"
            table[name] = set(re.findall(r"`([^`]+)`", allowed))
    return table


def room_of(path, table):
    """The folder of the table, or the file, that `path` belongs to: the nearest one."""
    return max((name for name in table if path == name or (name.endswith("/") and path.startswith(name))),
               key=len, default=None)


def source_files(root):
    return sorted(str(path.relative_to(root)) for folder in SOURCES for path in (root / folder).rglob("*")
                  if path.suffix in (".c", ".h", ".cu", ".cuh"))


def includes(root, files):
    """{file: the files of ours that it includes}."""
    found = {}
    for file in files:
        names = re.findall(r'^[ \t]*#[ \t]*include[ \t]*["<]([^">]+)[">]', (root / file).read_text(), re.M)
        places = [os.path.dirname(file), *SOURCES]
        found[file] = {next((p for p in (f"{place}/{name}" for place in places) if p in files), None)
                       for name in names} - {None}
    return found


def upward(graph, table):
    """'a includes b' for every arrow that the table does not allow."""
    wrong = []
    for file, targets in graph.items():
        for target in targets:
            room, other = room_of(file, table), room_of(target, table)
            if room is None or other is None or (other != room and other not in table[room]):
                wrong.append(f"{file} includes {target}")
    return sorted(wrong)


def circles(graph):
    """Sets of nodes that can reach each other."""
    reach = {node: set(graph[node]) for node in graph}
    for middle in graph:
        for node in graph:
            if middle in reach[node]:
                reach[node] |= reach[middle]
    return sorted({tuple(sorted(other for other in reach[node] if node in reach.get(other, ())))
                   for node in graph if node in reach[node]})


@pytest.fixture(scope="module")
def table(root):
    return read_table((root / "docs/design.md").read_text())


@pytest.fixture(scope="module")
def graph(root):
    found = includes(root, source_files(root))
    assert len(found) > 100 and sum(map(len, found.values())) > 300
    return found


def test_the_table_is_true_and_has_no_circle(root, table):
    for name, allowed in table.items():
        assert (root / name).exists(), name
        assert allowed <= set(table), (name, allowed)
    assert circles(table) == []
    homeless = [file for file in source_files(root) if room_of(file, table) is None]
    assert homeless == [], "in no folder of the table"


def test_no_include_points_upward(graph, table):
    assert upward(graph, table) == []


def test_no_headers_include_each_other(graph):
    assert circles(graph) == []


def object_calls(root, build):
    """{object: objects that define what it uses}, for the library, as it is built now, and the command line."""
    library = [(root / name).resolve() for name in (build / "objects.list").read_text().split()]
    sources = [root / "src/main.c", *(root / "src/cli").rglob("*.c")]
    defined, used = {}, {}
    for path in [*library, *(build / "obj" / source.relative_to(root).with_suffix(".o") for source in sources)]:
        name = str(path.relative_to(build / "obj"))
        used[name] = set()
        for line in subprocess.run(["nm", path], check=True, capture_output=True, text=True).stdout.splitlines():
            kind, symbol = line.split()[-2:]
            if kind in "BDRT":
                defined[symbol] = name
            elif kind == "U":
                used[name].add(symbol)
    return {name: {defined[s] for s in symbols & set(defined)} - {name} for name, symbols in used.items()}


def test_no_files_call_each_other(root, build):
    calls = object_calls(root, build)
    if not any(calls.values()):
        pytest.skip("objects without symbols that nm knows, as -flto makes them")
    assert len(calls) > 50 and calls["src/main.o"]
    assert circles(calls) == []


def test_these_tests_can_fail(table):
    assert upward({"src/common/a.c": {"src/image/image.h"}, "src/cli/a.c": {"src/cli/bench/a.h"},
                   "kernels/a.cu": {"src/common/half.h"}, "src/a.c": {"include/effnet.h"}}, table) == [
        "kernels/a.cu includes src/common/half.h", "src/a.c includes include/effnet.h",
        "src/cli/a.c includes src/cli/bench/a.h", "src/common/a.c includes src/image/image.h"]
    assert upward({"src/cli/bench/a.c": {"src/cli/a.h", "include/effnet.h"}}, table) == []
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [("a", "b", "c")]
