"""tools/convert.py: PyTorch's two formats and safetensors as sources; hostile and broken files."""

import copyreg
import io
import json
import os
import pickle
import random
import resource
import struct
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from convert_formats import (
    EMPTY_TUPLE,
    FALSE,
    NONE,
    PROTOCOL,
    REDUCE,
    STOP,
    TRUE,
    Tensor,
    as_tensors,
    dict_of,
    integer,
    list_of,
    name,
    old_bytes,
    ordered_dict_of,
    plain_object,
    program,
    safetensors_bytes,
    text,
    tuple_of,
    write_old,
    write_safetensors,
    write_zip,
)
from convert_networks import CONVERT, assert_one_line_error, run_convert
from effnet_convert import pickle_reader
from effnet_convert.errors import ConvertError
from effnet_convert.sources import open_source
from effnet_convert.state_dict import Reader

WRITERS = {"old": write_old, "zip": write_zip, "safetensors": write_safetensors}
PICKLING = {"old": write_old, "zip": write_zip}


@pytest.fixture
def tmp_path():
    """Removed at once: these tests write gigabytes in all."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def read(path):
    """{name: array} of every tensor in a source, read in full."""
    tensors = open_source(str(path)).tensors
    reader = Reader(tensors, str(path))
    return {key: reader.take(key, tensor.shape) for key, tensor in tensors.items()}


def refusal(path):
    with pytest.raises(ConvertError) as caught:
        read(path)
    message = str(caught.value)
    assert "\n" not in message and str(path) in message
    return message


def small_state(seed=1):
    random_numbers = np.random.default_rng(seed)
    return {
        "a.weight": random_numbers.standard_normal((3, 4, 2), np.float32),
        "a.bias": random_numbers.standard_normal(3, np.float32),
        "count": np.array(2.0, np.float32),
    }


def assert_same(got, expected):
    assert list(got) == list(expected)
    for key, array in expected.items():
        assert got[key].shape == array.shape and np.array_equal(got[key], array), key


# ---------------------------------------------------------------- what is read


@pytest.mark.parametrize("kind", WRITERS)
def test_formats(tmp_path, kind):
    state = small_state()
    assert_same(read(WRITERS[kind](tmp_path / "file", state)), state)


@pytest.mark.parametrize("kind", PICKLING)
def test_views(tmp_path, kind):
    """Strides and offsets of all sorts, several tensors in one storage."""
    base = np.arange(200, dtype=np.float32)
    views = {
        "transposed": Tensor(base, shape=(5, 3), strides=(1, 5), offset=7, key="0"),
        "channels_last": Tensor(base, shape=(4, 3, 2, 2), strides=(12, 1, 6, 3), key="0"),
        "gaps": Tensor(base, shape=(3, 2), strides=(50, 20), offset=79, key="0"),
        "last": Tensor(base, shape=(1,), strides=(1,), offset=199, key="0"),
        "scalar": Tensor(base, shape=(), strides=(), offset=42, key="0"),
        "one_long": Tensor(base, shape=(1, 4), strides=(12345, 2), offset=190, key="0"),
    }
    got = read(PICKLING[kind](tmp_path / "file", views))
    for key, view in views.items():
        expected = np.empty(view.shape, np.float32)
        for index in np.ndindex(*view.shape):
            expected[index] = base[view.offset + sum(i * s for i, s in zip(index, view.strides))]
        assert np.array_equal(got[key], expected), key


def test_storage_views_of_the_old_format(tmp_path):
    """A storage that is a window on another one: (key, offset, elements) behind its size."""
    base = np.arange(20, dtype=np.float32)

    def make_object(tensors, old):
        view = tuple_of(text("view"), integer(5), integer(4))
        return program(ordered_dict_of({"w": tensors["w"].pickled(True, extra=view)}))

    state = {"w": Tensor(base, shape=(4,), strides=(1,))}
    assert_same(read(write_old(tmp_path / "file", state, make_object=make_object)), {"w": base[5:9]})

    def beyond(tensors, old):
        view = tuple_of(text("view"), integer(17), integer(4))
        return program(ordered_dict_of({"w": tensors["w"].pickled(True, extra=view)}))

    assert "a view leaves it" in refusal(write_old(tmp_path / "file", state, make_object=beyond))

    state = {"w": Tensor(base, shape=(5,), strides=(1,))}  # leaves the window, not the storage
    assert "leave its storage" in refusal(write_old(tmp_path / "file", state, make_object=make_object))


@pytest.mark.parametrize("kind", PICKLING)
@pytest.mark.parametrize("wrapper", ["state_dict", "model", "model_state_dict"])
def test_checkpoints(tmp_path, kind, wrapper):
    """A training checkpoint: the state dict beside numbers, text, lists and an optimiser's dictionary."""
    state = small_state()

    def make_object(tensors, old):
        items = {key: tensor.pickled(old) for key, tensor in tensors.items()}
        optimizer = dict_of({"lr": b"G" + struct.pack(">d", 0.1), "betas": tuple_of(integer(1), integer(2))})
        groups = b"}(" + integer(0) + optimizer + integer(1) + NONE + b"u"
        rest = {
            "epoch": integer(300),
            "best": b"G" + struct.pack(">d", 0.75),
            "done": TRUE,
            "name": text("run 1"),
        }
        return program(
            dict_of(
                {**rest, "optimizer": groups, wrapper: ordered_dict_of(items), "log": list_of(integer(-7))}
            )
        )

    assert_same(read(PICKLING[kind](tmp_path / "file", state, make_object=make_object)), state)


@pytest.mark.parametrize("kind", WRITERS)
def test_data_parallel_names(tmp_path, kind):
    state = small_state()
    wrapped = {f"module.{key}": array for key, array in state.items()}
    assert_same(read(WRITERS[kind](tmp_path / "file", wrapped)), state)
    mixed = {**wrapped, "other": state["a.bias"]}  # the prefix means nothing unless all have it
    assert list(read(WRITERS[kind](tmp_path / "file", mixed))) == list(mixed)


def test_parameters_metadata_and_memo(tmp_path):
    """nn.Parameter, the _metadata attribute of a state dict, values taken from the memo, frames, long text."""
    state = small_state()

    def make_object(tensors, old):
        pieces = []
        for index, (key, tensor) in enumerate(tensors.items()):
            hooks = name("collections", "OrderedDict") + EMPTY_TUPLE + REDUCE
            parameter = (
                name("torch._utils", "_rebuild_parameter")
                + tuple_of(tensor.pickled(old), TRUE, hooks)
                + REDUCE
            )
            pieces += [text(key) + b"q" + bytes([index]) + b"0" + b"h" + bytes([index]), parameter]
        built = name("collections", "OrderedDict") + EMPTY_TUPLE + REDUCE + b"(" + b"".join(pieces) + b"u"
        attributes = dict_of({"_metadata": ordered_dict_of({"": dict_of({"version": integer(1)})})})
        return PROTOCOL + built + b"r\x00\x01\x00\x00" + attributes + b"b" + STOP

    assert_same(read(write_zip(tmp_path / "file", state, make_object=make_object)), state)


def test_protocol_4(tmp_path):
    """Frames, short text, names from the stack, a memo without indices."""
    array = np.arange(6, dtype=np.float32)

    def short(value):
        return b"\x8c" + bytes([len(value)]) + value.encode() + b"\x94"

    def stacked(module, attribute):
        return short(module) + short(attribute) + b"\x93\x94"

    storage = short("storage") + stacked("torch", "FloatStorage") + short("0") + short("cpu") + integer(6)
    ordered = stacked("collections", "OrderedDict") + EMPTY_TUPLE + REDUCE
    tensor = (
        stacked("torch._utils", "_rebuild_tensor_v2")
        + b"((" + storage + b"tQ" + integer(0) + integer(2) + integer(3) + b"\x86" + integer(3) + integer(1) + b"\x86"
        + FALSE + ordered + b"t" + REDUCE
    )  # fmt: skip
    body = ordered + b"(" + short("w") + tensor + b"u."
    data = b"\x80\x04\x95" + struct.pack("<Q", len(body)) + body
    path = write_zip(tmp_path / "file", {"w": array}, make_object=lambda tensors, old: data)
    assert_same(read(path), {"w": array.reshape(2, 3)})


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_wheels_and_archives(tmp_path, kind, compression):
    """One file of parameters inside; the weights file names that, not the archive."""
    state = small_state()
    inner = WRITERS[kind](tmp_path / "model.pth", state)
    expected = open_source(str(inner))
    for archive_name in ("package-1.0-py3-none-any.whl", "file.zip"):
        path = tmp_path / archive_name
        with zipfile.ZipFile(path, "w", compression) as archive:
            archive.write(inner, "package/models/model.pth")
            archive.writestr("package/models/._model.pth", "what macOS adds")
            archive.writestr("package/__init__.py", "raise SystemExit('imported')")
        assert_same(read(path), state)
        source = open_source(str(path))
        assert (source.name, source.sha256) == (expected.name, expected.sha256)


@pytest.mark.parametrize("members", [[], ["readme.txt"], ["a.pth", "b.pth"], ["a.pt", "b.safetensors"]])
def test_archives_without_one_file_of_parameters(tmp_path, members):
    with zipfile.ZipFile(tmp_path / "file.zip", "w") as archive:
        for member in members:
            archive.writestr(member, old_bytes(small_state()))
    count = sum(not member.endswith(".txt") for member in members)
    assert f"holds {count} files of parameters" in refusal(tmp_path / "file.zip")


def test_an_archive_in_an_archive_in_an_archive(tmp_path):
    data = old_bytes(small_state())
    for _ in range(2):
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w") as archive:
            archive.writestr("inner.pth", data)
        data = stream.getvalue()
    (tmp_path / "file.zip").write_bytes(data)
    assert "not one that PyTorch wrote" in refusal(tmp_path / "file.zip")


# ---------------------------------------------------------------- pickles that want to run something


def touch(path):
    return text(f"touch {path}")


def opens(path):
    return tuple_of(text(f"open({str(path)!r}, 'w')"))


SYSTEM = name("os", "system")
PLAIN_OBJECT = name("types", "SimpleNamespace") + EMPTY_TUPLE + REDUCE
EXTENSION = 240  # a code of the extension registry

# What a pickle can hold that would create the file, a way each, and what the converter calls it.
HOSTILE = {
    "global": lambda p: (SYSTEM + tuple_of(touch(p)) + REDUCE, "os.system"),
    "stack global": lambda p: (text("posix") + text("system") + b"\x93" + tuple_of(touch(p)) + REDUCE, "posix.system"),
    "inst": lambda p: (b"(" + touch(p) + b"ios\nsystem\n", "os.system"),
    "obj": lambda p: (b"(" + SYSTEM + touch(p) + b"o", "os.system"),
    "newobj": lambda p: (
        name("subprocess", "Popen") + tuple_of(list_of(text("touch"), text(str(p)))) + b"\x81", "subprocess.Popen",
    ),
    "newobj with keywords": lambda p: (
        name("subprocess", "Popen") + EMPTY_TUPLE + dict_of({"args": list_of(text("touch"), text(str(p)))}) + b"\x92",
        "subprocess.Popen",
    ),
    "build": lambda p: (PLAIN_OBJECT + dict_of({"__setstate__": SYSTEM}) + b"b" + touch(p) + b"b", "os.system"),
    "extension registry": lambda p: (b"\x82" + bytes([EXTENSION]) + tuple_of(touch(p)) + REDUCE, f"extension {EXTENSION}"),
    "persistent id": lambda p: (
        tuple_of(text("storage"), SYSTEM + tuple_of(touch(p)) + REDUCE, text("0"), text("cpu"), integer(1)) + b"Q", "os.system",
    ),
    "eval": lambda p: (name("builtins", "eval") + opens(p) + REDUCE, "builtins.eval"),
    "exec": lambda p: (name("builtins", "exec") + opens(p) + REDUCE, "builtins.exec"),
    "getattr": lambda p: (
        name("builtins", "getattr")
        + tuple_of(name("builtins", "__import__") + tuple_of(text("os")) + REDUCE, text("system"))
        + REDUCE + tuple_of(touch(p)) + REDUCE, "builtins.__import__",
    ),
    "hook of a module": lambda p: (
        name("torch.nn.modules.linear", "Linear") + EMPTY_TUPLE + b"\x81" + dict_of({
            "_modules": dict_of({}), "_parameters": dict_of({}), "_buffers": dict_of({}),
            "_load_state_dict_pre_hooks": dict_of({"0": name("functools", "partial") + tuple_of(SYSTEM, touch(p)) + REDUCE}),
        }) + b"b", "os.system",
    ),
    "subprocess": lambda p: (
        name("subprocess", "check_call") + tuple_of(list_of(text("touch"), text(str(p)))) + REDUCE, "subprocess.check_call",
    ),
    "open": lambda p: (name("io", "open") + tuple_of(text(str(p)), text("w")) + REDUCE, "io.open"),
    "dotted": lambda p: (
        text("collections") + text("OrderedDict.fromkeys.__self__") + b"\x93", "collections.OrderedDict.fromkeys.__self__",
    ),
}  # fmt: skip

HARMLESS = ("newobj", "newobj with keywords", "hook of a module", "dotted")  # to Python's machine, where torch is missing


def in_a_file(path, kind, pickled):
    """The pickle as the object of a file, or (old_first) in place of an old file's first pickle."""
    if kind == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("archive/data.pkl", pickled)
            archive.writestr("archive/version", b"3\n")
    elif kind == "old":
        path.write_bytes(old_bytes({}, make_object=lambda tensors, old: pickled))
    else:
        path.write_bytes(pickled if pickled[:1] == b"\x80" else b"\x80\x02" + pickled)
    return path


@pytest.fixture
def extension():
    copyreg.add_extension("os", "system", EXTENSION)
    yield
    copyreg.remove_extension("os", "system", EXTENSION)


@pytest.mark.parametrize("attack", HOSTILE)
def test_nothing_that_a_pickle_names_is_run(tmp_path, extension, attack):
    """Alone, in an old file's first pickle, and beside a network, which is read as ever."""
    canary = tmp_path / "canary"
    pickled, words = HOSTILE[attack](canary)
    if attack not in HARMLESS:
        try:  # the attack is real: Python's own machine falls for it
            pickle.loads(b"\x80\x04" + pickled + STOP)
        except (pickle.UnpicklingError, TypeError, AttributeError):
            pass
        assert canary.exists()
        canary.unlink()
    state = small_state()
    modules = set(sys.modules)
    for kind in ("zip", "old", "old_first"):
        result = run_convert(in_a_file(tmp_path / "evil.pth", kind, program(pickled)), tmp_path / "out")
        assert_one_line_error(result, 65, "evil.pth", *([words] if kind != "old_first" else []))
        assert not (tmp_path / "out").exists()

    def make_object(tensors, old):
        network = ordered_dict_of({key: tensor.pickled(old) for key, tensor in tensors.items()})
        return program(dict_of({"before": pickled, "state_dict": network, "after": list_of(pickled)}))

    for write in PICKLING.values():
        path = write(tmp_path / "evil.pth", state, make_object=make_object)
        assert_same(read(path), state)
        said = " ".join(open_source(str(path)).notices)
        assert "of other kinds" in said and (words.startswith(("ext", "collections")) or f"it names {words}" in said)
    assert not canary.exists()
    assert set(sys.modules) == modules


@pytest.mark.parametrize(
    "module, attribute",
    [
        ("torch", "load"),
        ("torch", "ComplexFloatStorage"),
        ("torch._utils", "_rebuild_qtensor"),
        ("numpy.core.multiarray", "_reconstruct"),
        ("argparse", "Namespace"),
        ("", ""),
        ("torch._utils\x1b[31m", "_rebuild_tensor_v2"),
    ],
)
def test_names_in_place_of_tensors(tmp_path, module, attribute):
    pickled = program(ordered_dict_of({"w": name(module, attribute)}))
    message = refusal(in_a_file(tmp_path / "file.pth", "zip", pickled))
    assert "holds no tensors" in message and message.isprintable()
    assert f"{module}.{attribute}".replace("\x1b", "\\x1b") in message


def reduced(function, *arguments):
    return function + tuple_of(*arguments) + REDUCE


BROKEN_PROGRAMS = {
    "call of a tensor function without a storage": reduced(name("torch._utils", "_rebuild_tensor_v2"), integer(1), integer(0), EMPTY_TUPLE, EMPTY_TUPLE),
    "call of a tensor function without arguments": reduced(name("torch._utils", "_rebuild_tensor_v2")),
    "call of a parameter of nothing": reduced(name("torch._utils", "_rebuild_parameter"), NONE),
    "call of a storage": reduced(name("torch", "FloatStorage"), integer(5)),
    "call of a number": integer(3) + EMPTY_TUPLE + REDUCE,
    "call with something else than a tuple": name("collections", "OrderedDict") + integer(3) + REDUCE,
    "ordered dictionary of a number": reduced(name("collections", "OrderedDict"), integer(3)),
    "ordered dictionary of numbers": reduced(name("collections", "OrderedDict"), list_of(integer(3))),
    "build on a list": list_of() + dict_of({}) + b"b",
    "item of a list": list_of() + text("a") + integer(1) + b"s",
    "append to a dictionary": dict_of({}) + integer(1) + b"a",
    "key without a value": b"}(" + text("a") + b"u",
    "key that is a list": b"}(" + list_of() + integer(1) + b"u",
    "key that is a number with a point": b"}(" + b"G" + struct.pack(">d", 0.5) + integer(1) + b"u",
    "empty stack": b"",
    "reduce on an empty stack": REDUCE,
    "mark alone": b"(",
    "tuple without mark": b"t",
    "mark under a tuple": b"(\x85",
    "pop of nothing": b"00",
    "unknown memo": b"h\x05",
    "persistent id that is a number": integer(5) + b"Q",
    "persistent id of a module": tuple_of(text("module"), *[NONE] * 4) + b"Q",
    "persistent id without a class": tuple_of(text("storage"), NONE, text("0"), text("cpu"), integer(1)) + b"Q",
    "persistent id with a function": tuple_of(text("storage"), name("collections", "OrderedDict"), text("0"), text("cpu"), integer(1)) + b"Q",
    "storage without a key": tuple_of(text("storage"), name("torch", "FloatStorage"), integer(0), text("cpu"), integer(1)) + b"Q",
    "storage of negative size": tuple_of(text("storage"), name("torch", "FloatStorage"), text("0"), text("cpu"), integer(-1)) + b"Q",
    "storage that is missing": tuple_of(text("storage"), name("torch", "FloatStorage"), text("9"), text("cpu"), integer(1)) + b"Q",
    "name that is no text": integer(1) + integer(2) + b"\x93",
    "extension registry": b"\x82\x01",
    "text persistent id": b"P0\n",
    "next buffer": b"\x97",
    "a number": integer(5),
    "text": text("hello"),
    "an empty dictionary": dict_of({}),
    "a list": list_of(),
    "an empty state dict": dict_of({"state_dict": dict_of({})}),
    "a number in the state dict": dict_of({"w": integer(3)}),
    "a name in the state dict": dict_of({"w": name("torch", "FloatStorage")}),
    "unknown instruction": b"\xff",
    "bad text": b"X\x02\x00\x00\x00\xff\xff",
}  # fmt: skip


@pytest.mark.parametrize("kind", ["zip", "old", "old_first"])
@pytest.mark.parametrize("case", BROKEN_PROGRAMS)
def test_broken_programs(tmp_path, kind, case):
    refusal(in_a_file(tmp_path / "file.pth", kind, program(BROKEN_PROGRAMS[case])))


@pytest.mark.parametrize("kind", PICKLING)
def test_pickles_have_a_limit(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(pickle_reader, "MAX_PICKLE_BYTES", 4 << 20)
    padding = b"".join(text("x" * (1 << 20)) + b"0" for _ in range(4))
    path = in_a_file(tmp_path / "file.pth", kind, program(padding, dict_of({})))
    assert ("larger" if kind == "zip" else "a pickle longer") + " than 4194304 bytes" in refusal(path)
    path = in_a_file(tmp_path / "file.pth", kind, program(padding[:-100_000], b"0", dict_of({})))
    assert "longer" not in refusal(path)


BASE = np.arange(24, dtype=np.float32)
LIMITED = {
    # pickle, and what is said where 1000 instructions and copies and 100 objects are allowed
    "instructions": (NONE * 1000, "more than 1000 instructions"),
    "objects": ((b"ca\nb\n0" * 101), "more than 100 objects"),
    "pairs copied again": (
        list_of(*[tuple_of(text("a"), NONE)] * 90) + b"\x85q\x01" + (name("collections", "OrderedDict") + b"h\x01R0") * 12,
        "copies more than 1000 elements",
    ),
    "arguments copied again": (
        tuple_of(*[NONE] * 90) + b"q\x01" + (name("a", "b") + b"h\x01R0") * 12, "copies more than 1000 elements",
    ),
    "attributes copied again": (
        name("a", "b") + EMPTY_TUPLE + REDUCE + dict_of({str(i): NONE for i in range(90)}) + b"q\x010" + b"h\x01b" * 12,
        "copies more than 1000 elements",
    ),
    "sizes copied again": (
        tuple_of(*[integer(1)] * 90) + b"q\x01" + Tensor(BASE, key="0").pickled(True) + b"0"
        + (
            name("torch._utils", "_rebuild_tensor_v2")
            + tuple_of(
                tuple_of(text("storage"), name("torch", "FloatStorage"), text("0"), text("cpu"), integer(24), NONE) + b"Q",
                integer(0), b"h\x01", b"h\x01",
            )
            + REDUCE + b"0"
        ) * 8,
        "copies more than 1000 elements",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", LIMITED)
def test_work_has_a_limit(tmp_path, monkeypatch, case):
    """A short pickle can ask for much by referring to the same thing again and again."""
    pieces, words = LIMITED[case]
    monkeypatch.setattr(pickle_reader, "MAX_STEPS", 1000)
    monkeypatch.setattr(pickle_reader, "MAX_OBJECTS", 100)
    path = write_old(tmp_path / "file.pth", {"w": Tensor(BASE)}, make_object=lambda *_: program(pieces, NONE))
    assert words in refusal(path)


def limited():
    """A gibibyte is a third more than the converter and NumPy take; a minute is forty times its time."""
    resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
    resource.setrlimit(resource.RLIMIT_CPU, (60, 60))


GREEDY = {
    # a nested tuple as a key: hashing it visits every path through it
    "exponential key": b"}("
    + integer(1)
    + b"".join(b"q\x01h\x01\x86" for _ in range(64))
    + integer(1)
    + b"u",
    "huge memo index": integer(1) + b"r\xff\xff\xff\x7f",
    "text of 4 GiB": b"X\xff\xff\xff\xff",
    "text of 2^62 bytes": b"\x8d" + struct.pack("<Q", 1 << 62),
    "bytes of 2^62 bytes": b"\x8e" + struct.pack("<Q", 1 << 62),
    "byte array of 2^40 bytes": b"\x96" + struct.pack("<Q", 1 << 40),
    "integer of 2 GiB": b"\x8b\xff\xff\xff\x7f",
    "frame of 2^62 bytes": b"\x95" + struct.pack("<Q", 1 << 62),
    "long decimal": b"I" + b"9" * 1_000_000 + b"\n",
    "endless line": b"c" + b"x" * 3_000_000,
    "deep list": b"]" * 1_000_000 + b"a" * 999_999,
    "5 MiB of marks": b"(" * (5 << 20),
    "5 MiB of text": b"".join(text("x" * (1 << 20)) + b"0" for _ in range(5)),
    "tensor of 2^60 elements": None,  # below
    "storage of 2^60 elements": None,
}


@pytest.mark.parametrize("kind", PICKLING)
@pytest.mark.parametrize("case", GREEDY)
def test_greedy_files(tmp_path, kind, case):
    path = tmp_path / "file.pth"
    if GREEDY[case] is not None:
        in_a_file(path, kind, program(GREEDY[case]))
    elif case.startswith("tensor"):
        huge = (1 << 20, 1 << 20, 1 << 20)
        PICKLING[kind](path, {"conv1.weight": Tensor(np.ones(4), shape=huge, strides=(0, 0, 0))})
    else:
        PICKLING[kind](path, {"conv1.weight": Tensor(np.ones(4), size=1 << 60)})
    check = f"""
import sys
sys.path.insert(0, {str(CONVERT.parent)!r})
from effnet_convert import pickle_reader
from effnet_convert.errors import ConvertError
from effnet_convert.sources import open_source
try:
    for name, tensor in open_source(sys.argv[1]).tensors.items():
        tensor.array(name)
except ConvertError as error:
    print(error)
    sys.exit(65)
"""
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    result = subprocess.run(
        [sys.executable, "-c", check, str(path)],
        capture_output=True, text=True, timeout=120, preexec_fn=limited, env=environment, check=False,
    )  # fmt: skip
    assert result.returncode == 65, (result.returncode, result.stderr[-300:])
    assert result.stdout.count("\n") == 1


# ---------------------------------------------------------------- broken tensors and containers

BROKEN_VIEWS = {
    "one past the end": dict(shape=(24,), strides=(1,), offset=1),
    "strides past the end": dict(shape=(2, 3), strides=(12, 6)),
    "repeated elements": dict(shape=(25,), strides=(0,)),
    "offset past the end": dict(shape=(1,), strides=(1,), offset=24),
    "negative stride": dict(shape=(3,), strides=(-1,), offset=10),
    "negative offset": dict(shape=(3,), strides=(1,), offset=-1),
    "negative size": dict(shape=(-3,), strides=(1,)),
    "fewer strides than sizes": dict(shape=(3, 2), strides=(1,)),
    "more than eight dimensions": dict(shape=(1,) * 9, strides=(1,) * 9),
    "sizes that wrap at 2^64": dict(shape=(1 << 33, 1 << 33), strides=(1 << 31, 0)),
    "an offset that wraps at 2^64": dict(shape=(2,), strides=((1 << 64) - 1,), offset=1),
}


@pytest.mark.parametrize("kind", PICKLING)
@pytest.mark.parametrize("case", BROKEN_VIEWS)
def test_views_that_leave_their_storage(tmp_path, kind, case):
    path = PICKLING[kind](tmp_path / "file", {"w": Tensor(BASE, **BROKEN_VIEWS[case])})
    source = open_source(str(path))
    with pytest.raises(ConvertError, match="^w: "):
        source.tensors["w"].array("w")


@pytest.mark.parametrize("kind", PICKLING)
def test_storages_of_another_size(tmp_path, kind):
    message = refusal(PICKLING[kind](tmp_path / "file", {"w": Tensor(BASE, size=23, shape=(23,))}))
    assert "storage 0" in message and "23" in message


def test_old_format_containers(tmp_path):
    good = old_bytes(small_state())
    path = tmp_path / "file"

    def message(data):
        path.write_bytes(data)
        return refusal(path)

    # every cut: never an answer, never an exception of another kind
    for cut in [*range(1, len(good) - 1, 3), len(good) - 1]:
        message(good[:cut])
    assert "cut off inside storage 2" in message(good[:-1])
    assert "bytes too many" in message(good + b"\0")
    assert "big-endian" in message(old_bytes(small_state(), little_endian=FALSE))
    assert "that torch.save did not write" in message(program(integer(5)) + good)
    for wrong in (b"\xff" * 8, struct.pack("<q", 1 << 61), struct.pack("<q", 25)):
        at = good.rindex(struct.pack("<q", 24))
        assert "storage 0 holds" in message(good[:at] + wrong + good[at + 8 :])


def old_file(tensors, keys, described):
    """An old file whose list of storages is given, with the described tensors' pickles."""
    data = old_bytes(tensors)
    storages = b"".join(struct.pack("<q", t.array.size) + t.data() for t in as_tensors(tensors).values())
    head = data[: data.index(program(list_of(*map(text, (t.key for t in as_tensors(tensors).values())))))]
    return head + program(list_of(*map(text, keys))) + storages + described


@pytest.mark.parametrize(
    "keys, words",
    [
        (["0"], "storage 1 is missing"),
        (["0", "1", "2"], "storage 2 is listed but not used"),
        (["0", "0"], "listed twice"),
    ],
)
def test_list_of_storages(tmp_path, keys, words):
    tensors = {"a": Tensor(np.ones(2)), "b": Tensor(np.ones(2))}
    data = old_file(tensors, keys, struct.pack("<q", 2) + b"\0" * 8 if len(keys) == 3 else b"")
    if len(keys) == 1:
        data = data[: -(8 + 8)]
    (tmp_path / "file").write_bytes(data)
    assert words in refusal(tmp_path / "file")


def test_storage_described_twice(tmp_path):
    def make_object(tensors, old):
        other = Tensor(BASE, type="float64", key="0")
        return program(ordered_dict_of({"a": tensors["a"].pickled(old), "b": other.pickled(old)}))

    for kind, words in (("old", "described twice"), ("zip", "has 96 bytes, not 24 elements")):
        message = refusal(PICKLING[kind](tmp_path / "file", {"a": Tensor(BASE)}, make_object=make_object))
        assert words in message


def test_zip_containers(tmp_path):
    state = small_state()
    path = write_zip(tmp_path / "file", state)
    good = path.read_bytes()
    for cut in range(1, len(good), 37):
        path.write_bytes(good[:cut])
        refusal(path)
    # a storage's bytes changed behind its checksum
    at = good.index(state["a.weight"].tobytes())
    path.write_bytes(good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :])
    assert "archive/data/0" in refusal(path)
    assert "compressed" in refusal(write_zip(path, state, compression=zipfile.ZIP_DEFLATED))
    assert "big-endian" in refusal(write_zip(path, state, extra=[("archive/byteorder", b"big")]))
    assert_same(read(write_zip(path, state, extra=[("archive/byteorder", b"little")])), state)
    with pytest.warns(UserWarning):
        write_zip(path, state, extra=[("archive/data/0", b"\0" * 96)])
    assert "a name twice" in refusal(path)


def test_a_zip_bomb(tmp_path):
    """The size that an archive claims is checked before anything is unpacked, and held to."""
    path = tmp_path / "file.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("w.pth", b"\x80" + b"\0" * (64 << 20))
    good = path.read_bytes()
    at = good.index(struct.pack("<I", (64 << 20) + 1), good.index(b"PK\x01\x02"))
    path.write_bytes(good[:at] + struct.pack("<I", (3 << 30)) + good[at + 4 :])
    assert "larger than" in refusal(path)
    path.write_bytes(good[:at] + struct.pack("<I", 1000) + good[at + 4 :])
    assert "w.pth" in refusal(path)


def test_a_zip_bomb_in_pytorchs_format(tmp_path):
    """What is small in every file is refused before it is unpacked where it claims to be large."""
    path = write_zip(tmp_path / "file", small_state(), extra=[("archive/byteorder", b"little" + b"\0" * 100)])
    assert "archive/byteorder is larger than 64 bytes" in refusal(path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\0" * (1 << 20))
    good = path.read_bytes()
    at = good.index(struct.pack("<I", 1 << 20), good.index(b"PK\x01\x02"))
    path.write_bytes(good[:at] + struct.pack("<I", 65 << 20) + good[at + 4 :])
    assert "archive/data.pkl is larger than 67108864 bytes" in refusal(path)


# ---------------------------------------------------------------- safetensors


def entry(shape=(2,), offsets=(0, 8), dtype="F32"):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


@pytest.mark.parametrize(
    "header, data, words",
    [
        ({"w": entry()}, b"\0" * 7, "w: cut off"),
        ({"w": entry()}, b"\0" * 9, "1 bytes belong to no tensor"),
        ({"w": entry(offsets=(0, 12))}, b"\0" * 12, "do not agree"),
        ({"w": entry(offsets=(8, 0))}, b"\0" * 8, "do not agree"),
        ({"w": entry(offsets=(4, 12))}, b"\0" * 12, "starts at 4, not at 0"),
        ({"v": entry(), "w": entry(offsets=(4, 12))}, b"\0" * 12, "starts at 4, not at 8"),
        ({"v": entry(), "w": entry(offsets=(12, 20))}, b"\0" * 20, "starts at 12, not at 8"),
        ({"v": entry(), "w": entry()}, b"\0" * 8, "starts at 0, not at 8"),
        ({"w": entry(dtype="F8_E4M3")}, b"\0" * 8, "unknown type 'F8_E4M3'"),
        ({"w": entry(dtype=["F32"])}, b"\0" * 8, "unknown type"),
        ({"w": entry(shape=(-2,))}, b"\0" * 8, "broken header entry"),
        ({"w": entry(shape=(2.0,))}, b"\0" * 8, "broken header entry"),
        ({"w": entry(shape=(True, 2))}, b"\0" * 8, "broken header entry"),
        ({"w": entry(shape=(1 << 62, 1 << 62))}, b"\0" * 8, "do not agree"),
        ({"w": entry(shape=(1 << 64,))}, b"\0" * 8, "broken header entry"),
        ({"w": entry(offsets=(0, 4, 8))}, b"\0" * 8, "broken header entry"),
        ({"w": {"dtype": "F32"}}, b"", "broken header entry"),
        ({"w": 5}, b"", "broken header entry"),
        ({}, b"", "no tensors"),
        (b'{"w":{},"w":{}}', b"", "a name twice"),
        ({str(i): {} for i in range(100_002)}, b"", "more than 100000 tensors"),
        (b'{"w":', b"", "broken header"),
        (b'{"w\xff"', b"", "broken header"),
        (b"{" * 200_000, b"", "broken header"),
        (b'{"a":' * 200_000, b"", "broken header"),
    ],
)
def test_broken_safetensors(tmp_path, header, data, words):
    (tmp_path / "file").write_bytes(safetensors_bytes(header, data))
    assert words in refusal(tmp_path / "file")


@pytest.mark.parametrize("length", [5, 100_000_001, (1 << 63) - 1, (1 << 64) - 1])
def test_header_lengths_of_safetensors(tmp_path, length):
    (tmp_path / "file").write_bytes(struct.pack("<Q", length) + json.dumps({"w": entry()}).encode()[:40])
    assert "header" in refusal(tmp_path / "file")


def test_safetensors_metadata_is_no_tensor(tmp_path):
    header = {"__metadata__": {"format": "pt"}, "w": entry()}
    (tmp_path / "file").write_bytes(safetensors_bytes(header, np.array([1.5, -2], "<f4").tobytes()))
    assert_same(read(tmp_path / "file"), {"w": np.array([1.5, -2], np.float32)})


# ---------------------------------------------------------------- random damage


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("seed", range(3))
def test_random_damage(tmp_path, kind, seed):
    """Changed, removed and inserted bytes: an answer or one refusal, never another exception."""
    print(f"seed {seed}")
    generator = random.Random(seed)
    path = WRITERS[kind](tmp_path / "file", small_state())
    good = path.read_bytes()
    refusals = 0
    for _ in range(400):
        data = bytearray(good)
        for _ in range(generator.choice((1, 1, 1, 2, 5))):
            at = generator.randrange(len(data))
            change = generator.randrange(4)
            if change == 0:
                data[at] = generator.randrange(256)
            elif change == 1:
                data[at] ^= 1 << generator.randrange(8)
            elif change == 2:
                del data[at : at + generator.choice((1, 4, 20))]
            else:
                data[at:at] = bytes(generator.randrange(256) for _ in range(generator.choice((1, 4))))
        path.write_bytes(data)
        try:
            read(path)
        except ConvertError as error:
            assert "\n" not in str(error)
            refusals += 1
    assert refusals > 100  # the damage does reach what is checked


def test_pickles_of_the_standard_library(tmp_path):
    """The hand-written pickles above are pickles: Python reads the ones without tensors alike."""
    value = {"a": (1, -5, 1 << 40), "b": [None, True, False], "c": "é" * 300}
    pieces = dict_of(
        {
            "a": tuple_of(integer(1), integer(-5), integer(1 << 40)),
            "b": list_of(NONE, TRUE, FALSE),
            "c": text("é" * 300),
        }
    )
    assert pickle.loads(program(pieces)) == value
    assert plain_object({}, False) == program(ordered_dict_of({}))
