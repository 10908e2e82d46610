"""effnet evaluate: figures against numpy's from the probabilities that classify prints; what names classes; lists;
bad files; outputs."""

import csv
import io
import json
import os
import shutil
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from PIL import Image

import cli_model
from cli_model import DATA, LABELS, NO_INPUT, OUTPUT, UNAVAILABLE, USAGE, assert_one_line, write_image, write_tiny_model

TIMM = ["model", "top1", "top1_err", "top5", "top5_err", "param_count", "img_size", "crop_pct", "interpolation"]
COUNTS = [7, 3, 5, 4, 0, 5]  # images of each class


@pytest.fixture(scope="module")
def evaluate(effnet, tiny):
    """evaluate(arguments..., option=...) -> CompletedProcess"""
    return lambda *arguments, **options: effnet("evaluate", "-m", tiny, "--device", "cpu", *arguments, **options)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder a class, named by WordNet id, with COUNTS images; one class has none."""
    root = tmp_path_factory.mktemp("set")
    for label, count in enumerate(COUNTS):
        (root / LABELS[label][0]).mkdir()
        for i in range(count):
            write_image(root / LABELS[label][0] / f"{i}.png", 100 * label + i)
    return root


@pytest.fixture(scope="module")
def answers(effnet, tiny, folder):
    """Paths, labels [n] and probabilities [n][classes], as classify prints them."""
    paths = sorted(folder.rglob("*.png"))
    done = effnet("classify", "-m", tiny, "--device", "cpu", "-k", 6, "--format", "json", *paths)
    assert done.returncode == 0, done.stderr
    probabilities = np.zeros((len(paths), len(LABELS)))
    for row, line in zip(probabilities, done.stdout.splitlines(), strict=True):
        for c in json.loads(line)["classes"]:
            row[c["index"]] = c["probability"]
    ids = [i for i, _ in LABELS]
    return paths, np.array([ids.index(p.parent.name) for p in paths]), probabilities


def figures(labels, p):
    """What evaluate is to print, in plain numpy."""
    n, predicted, confidence = len(labels), p.argmax(1), p.max(1)
    ranks = (p > p[np.arange(n), labels][:, None]).sum(1)
    right, error = predicted == labels, 0.0
    for i in range(15):
        inside = (confidence > i / 15) & (confidence <= (i + 1) / 15)
        if inside.any():
            error += inside.sum() / n * abs(right[inside].mean() - confidence[inside].mean())
    z, share = 1.959963984540054, right.mean()
    centre, half = share + z * z / (2 * n), z * np.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return {
        "images": n, "failed": 0, "not_finite": 0,
        "top1": 100 * share, "top1_err": 100 - 100 * share,
        "top5": 100 * (ranks < 5).mean(), "top5_err": 100 - 100 * (ranks < 5).mean(),
        "top1_low": 100 * (centre - half) / (1 + z * z / n), "top1_high": 100 * (centre + half) / (1 + z * z / n),
        "class_mean": 100 * np.mean([right[labels == c].mean() for c in set(labels)]),
        "confidence": confidence.mean(), "calibration_error": error,
        "log_loss": -np.log(p[np.arange(n), labels]).mean(),
    }


def run_json(evaluate, *arguments, status=0):
    done = evaluate("--format", "json", *arguments)
    assert done.returncode == status, done.stderr
    return json.loads(done.stdout)


def read_csv(text):
    """Header and records; lines end with CR LF."""
    rows = list(csv.reader(io.StringIO(text, newline=""), strict=True))
    return rows[0], [dict(zip(rows[0], row, strict=True)) for row in rows[1:]]


# ---------------------------------------------------------------- figures


def test_figures(evaluate, folder, answers):
    got = run_json(evaluate, folder)
    wanted = figures(*answers[1:])
    assert 0 < wanted["top1"] < wanted["top5"] < 100, "an image in each group"
    for key, value in wanted.items():
        assert got[key] == pytest.approx(value, rel=1e-6, abs=6e-5), key
    assert (got["model"], got["img_size"], got["crop_pct"], got["interpolation"]) == ("tiny", 16, 0.889, "bicubic")
    assert (got["classes_by"], got["set"]) == ("WordNet id", str(folder))


def test_csv_begins_with_timms_columns(evaluate, folder):
    done = evaluate("--format", "csv", folder, text=False)
    assert done.returncode == 0 and done.stdout.count(b"\r\n") == 2
    header, (record,) = read_csv(done.stdout.decode())
    assert header[:len(TIMM)] == TIMM and len(set(header)) == len(header)
    expected = run_json(evaluate, folder)
    assert set(expected) == {*header, "confusions"}
    for key, value in record.items():
        assert (float(value) if isinstance(expected[key], (int, float)) else value) == expected[key]


def test_per_class_and_confusions(evaluate, folder, answers):
    _, labels, p = answers
    predicted = p.argmax(1)
    got = run_json(evaluate, "--per-class", folder)
    assert sorted(c["index"] for c in got["classes"]) == [0, 1, 2, 3, 5]
    for c in got["classes"]:
        mine = labels == c["index"]
        assert (c["id"], c["label"]) == LABELS[c["index"]]
        assert (c["class_images"], c["predicted"]) == (mine.sum(), (predicted == c["index"]).sum())
        assert c["class_top1"] == pytest.approx(100 * (predicted[mine] == c["index"]).mean(), abs=0.006)
        wrong = np.bincount(predicted[mine & (predicted != labels)], minlength=6)
        assert c["mistaken"] == wrong.max()
        assert c["mistaken_for"] == (LABELS[wrong.argmax()][1] if wrong.max() else "")
    shares = [c["class_top1"] for c in got["classes"]]
    assert shares == sorted(shares) and len(set(shares)) > 1
    pairs = np.zeros((6, 6), int)
    np.add.at(pairs, (labels, predicted), 1)
    np.fill_diagonal(pairs, 0)
    wanted = sorted(((-pairs[i, j], i, j) for i in range(6) for j in range(6) if pairs[i, j]))[:10]
    assert [(-c["images"], c["index"], c["predicted"]) for c in got["confusions"]] == wanted
    _, records = read_csv(evaluate("--format", "csv", "--per-class", folder).stdout)
    assert [(int(r["index"]), r["label"]) for r in records] == [(c["index"], c["label"]) for c in got["classes"]]
    assert {r["top1"] for r in records} == {f"{got['top1']:.4f}"}


def test_text(evaluate, folder):
    done = evaluate("--per-class", folder)
    got = run_json(evaluate, folder)
    assert done.returncode == 0 and done.stderr == ""
    lines = done.stdout.splitlines()
    assert any(line.startswith("top-1 ") and f"{got['top1']:.2f} %" in line and
               f"{got['top1_low']:.2f} to {got['top1_high']:.2f}" in line for line in lines)
    assert any(line.startswith("calibration ") and f"{100 * got['calibration_error']:.2f} %" in line
               for line in lines)
    assert any("6 folders, classes by WordNet id" in line for line in lines)
    assert any(line.split() == ["images", "24,", "of", "5", "of", "6", "classes"] for line in lines)
    assert "Classes, the least accurate first" in lines and "Most frequent confusions" in lines


def test_against(evaluate, folder, answers):
    got = run_json(evaluate, "--against-device", "reference", folder)
    assert (got["against_backend"], got["compared"], got["same_top1"]) == ("reference", 24, 24)
    assert got["against_top1"] == got["top1"] and 0 <= got["largest_difference"] < 1e-4
    text = evaluate("--against-device", "reference", folder).stdout
    assert "same top-1" in text and "24 of 24" in text
    same = run_json(evaluate, "--against-precision", "fp32", folder)
    assert same["largest_difference"] == 0 and same["against_precision"] == "fp32"
    assert_one_line(evaluate("--against-device", "nothing", folder), 64, "nothing")


def test_the_same_whatever_the_batch(evaluate, folder):
    expected = evaluate("--format", "json", "--threads", 2, folder).stdout
    for batch in (1, 5, 100):
        assert evaluate("--format", "json", "--threads", 2, "-b", batch, folder).stdout == expected


def test_samples_are_right(effnet, lite1, root, tmp_path):
    for path in (root / "samples").iterdir():
        (tmp_path / path.stem).mkdir()
        shutil.copy(path, tmp_path / path.stem)
    done = effnet("evaluate", "-m", lite1, "--format", "json", "--device", "cpu", tmp_path)
    assert done.returncode == 0, done.stderr
    got = json.loads(done.stdout)
    assert (got["images"], got["top1"], got["classes_by"], got["confusions"]) == (10, 100, "label", [])
    assert (got["param_count"], got["img_size"], got["crop_pct"]) == (5.39, 240, 0.882)


# ---------------------------------------------------------------- folders


def rename_folders(folder, to, name):
    """A copy whose folder of class i is called name(i)."""
    for i, (wordnet_id, _) in enumerate(LABELS):
        shutil.copytree(folder / wordnet_id, to / name(i))
    return to


@pytest.mark.parametrize("kind, name", [
    ("label", lambda i: LABELS[i][1]),
    ("label", lambda i: LABELS[i][1].replace(" ", "_").replace("l", "L")),
    ("index", str),
    ("index", lambda i: f"{i:04}"),
])
def test_folders_by(evaluate, folder, tmp_path, kind, name):
    expected = run_json(evaluate, folder) | {"set": str(tmp_path), "classes_by": kind}
    assert run_json(evaluate, rename_folders(folder, tmp_path, name)) == expected


def test_sorted_folders(evaluate, folder, tmp_path):
    """Ranks of the names decide, as in torchvision's ImageFolder, and only where there are as many as classes."""
    names = ["Zebra", "ant", "bee", "cow", "é", "𐍈"]
    copy = rename_folders(folder, tmp_path, lambda i: names[i])
    (copy / ".hidden").mkdir()
    (copy / "readme.txt").write_text("no folder")
    assert_one_line(evaluate(copy), DATA, copy, "'Zebra' is no class", "--class-order sorted")
    expected = run_json(evaluate, folder) | {"set": str(copy), "classes_by": "order of the folders"}
    assert run_json(evaluate, "--class-order", "sorted", copy) == expected
    (copy / "more").mkdir()
    assert_one_line(evaluate("--class-order", "sorted", copy), DATA, "6", "there are 7")


def test_one_kind_of_name_for_all(evaluate, folder, tmp_path):
    copy = rename_folders(folder, tmp_path, lambda i: LABELS[i][0] if i else "0")
    assert_one_line(evaluate(copy), DATA, "'0' is no class: no WordNet id of tiny")


def test_two_classes_of_one_name(effnet, tmp_path, monkeypatch):
    monkeypatch.setattr(cli_model, "LABELS", [("a1", "crane"), ("a2", "Crane"), ("a3", "crane"), ("a4", "owl")])
    model = write_tiny_model(tmp_path / "cranes.safetensors")
    images = tmp_path / "images"
    for name in ("crane", "owl"):
        (images / name).mkdir(parents=True)
        write_image(images / name / "0.png", 1)
    assert_one_line(effnet("evaluate", "-m", model, images), DATA, "'crane' may be one of several classes")
    (images / "crane").rename(images / "Crane")  # this one alone is written so
    done = effnet("evaluate", "-m", model, "--format", "csv", "--per-class", images)
    assert done.returncode == 0, done.stderr
    assert {r["index"] for r in read_csv(done.stdout)[1]} == {"1", "3"}


def test_folders_below_and_links(evaluate, folder, tmp_path):
    """Images lie at any depth; a link into its own folder does not go round for ever."""
    copy = rename_folders(folder, tmp_path, lambda i: LABELS[i][0])
    inner = copy / LABELS[0][0] / "inner"
    inner.mkdir()
    (copy / LABELS[0][0] / "3.png").rename(inner / "3.png")
    (inner / "round").symlink_to(copy / LABELS[0][0])
    (inner / ".hidden").write_text("no image")
    os.mkfifo(inner / "pipe")
    got, expected = run_json(evaluate, copy), run_json(evaluate, folder)
    assert (got["images"], got["failed"]) == (24, 0)
    assert got["top1"] == expected["top1"] and got["log_loss"] == pytest.approx(expected["log_loss"], rel=1e-8)


def test_nothing_there(evaluate, tmp_path):
    assert_one_line(evaluate(tmp_path), NO_INPUT, tmp_path, "no folder in it")
    (tmp_path / LABELS[0][0]).mkdir()
    assert_one_line(evaluate(tmp_path), NO_INPUT, tmp_path, "no file")
    assert_one_line(evaluate(tmp_path / "none"), NO_INPUT, tmp_path / "none")
    assert_one_line(evaluate("--labels-from", tmp_path / "none.csv"), NO_INPUT, tmp_path / "none.csv")
    assert_one_line(evaluate("--labels-from", tmp_path), NO_INPUT, tmp_path)


# ---------------------------------------------------------------- a CSV


def quoted(text):
    return '"' + text.replace('"', '""') + '"'


@pytest.mark.parametrize("form", [
    {},
    {"header": "file,label"},
    {"header": "Path,width,CLASS", "fields": lambda f, l: f"{f},24,{l}"},
    {"header": "wnid,image", "fields": lambda f, l: f"{l},{f}"},
    {"header": "a,b,c", "fields": lambda f, l: f"{l},x,{f}", "options": ["--file-column", "c", "--label-column", "a"]},
    {"fields": lambda f, l: f"{l},x,{f}", "options": ["--file-column", "3", "--label-column", "1"]},
    {"header": "label,x,file", "fields": lambda f, l: f"{l},x,{f}", "options": ["--file-column", "3"]},
    {"end": "\r\n", "mark": "\ufeff", "header": "filename,target"},
    {"end": "\r", "header": '"file","label"', "fields": lambda f, l: f"{quoted(f)},{l}"},
    {"end": "\n\n", "header": "file,label,notes", "fields": lambda f, l: f'{f},{l},"two\nlines, ""here"""'},
])
@pytest.mark.parametrize("kind", ["WordNet id", "label", "index"])
def test_csv_forms(evaluate, folder, answers, tmp_path, form, kind):
    """All forms give the folder's figures, wherever the program is started."""
    name = {"WordNet id": lambda i: LABELS[i][0], "label": lambda i: quoted(LABELS[i][1]), "index": str}[kind]
    fields = form.get("fields", "{},{}".format)
    listed = tmp_path / "list.csv"
    (tmp_path / "images").symlink_to(folder)
    lines = [form["header"]] if "header" in form else []
    for i, (path, label) in enumerate(zip(*answers[:2], strict=True)):
        file = str(path) if i % 5 == 0 else f"images/{path.relative_to(folder)}"
        lines.append(fields(file, name(int(label))))
    end = form.get("end", "\n")
    text = form.get("mark", "") + end.join(lines) + ("" if len(lines) % 2 else end)
    listed.write_bytes(text.encode())
    got = run_json(evaluate, "--labels-from", listed, *form.get("options", []))
    assert got == run_json(evaluate, folder) | {"set": str(listed), "classes_by": kind}


@pytest.mark.parametrize("form", [{"lineterminator": "\r\n"}, {"lineterminator": "\n", "quoting": csv.QUOTE_ALL}])
def test_names_of_any_kind_come_back(evaluate, tmp_path, form):
    """Python's csv writes the list and reads the predictions."""
    random = np.random.default_rng(7)
    names = ["".join(random.choice(list('a,"\n\r \'é\udcff;\t'), 1 + i % 9)) + f"{i}" for i in range(40)]
    image = write_image(tmp_path / "image.png", 1)
    for name in names:
        (tmp_path / name).symlink_to(image)
    with open(tmp_path / "list.csv", "w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        csv.writer(file, **form).writerows((name, i % 6) for i, name in enumerate(names))
    done = evaluate("--labels-from", "list.csv", "--predictions", "out.csv", "-q", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    _, records = read_csv((tmp_path / "out.csv").read_bytes().decode("utf-8", "surrogateescape"))
    assert [(r["file"], int(r["label"])) for r in records] == [(name, i % 6) for i, name in enumerate(names)]


@pytest.mark.parametrize("text, words", [
    (b"a.png,n00000001\nb.png,n00000099\n", (":2:", "'n00000099' is no class: no WordNet id of tiny")),
    (b"file,label\na.png,6\n", (":2:", "'6' is no class")),
    (b"species,picture\nplain,a.png\n", (":1:", "'picture' is no class", "--label-column")),
    (b"file,label\na.png,0\nb.png\n", (":3: 1 field, where column 2 is wanted",)),
    (b"file,label\n\n,0\n", (":3: the name of the file is empty",)),
    (b'file,label\n"a.png,0\nb.png,0\n', (":2: a quote is opened and not closed",)),
    (b'file,label\n"a".png,0\n', (":2: text follows a closing quote",)),
    (b"file,label\na.png\0,0\n", ("a byte that is 0",)),
    (b"file,label\na.png,\n", (":2:", "'' is no class")),
])
def test_bad_csv(evaluate, tmp_path, text, words):
    listed = tmp_path / "list.csv"
    listed.write_bytes(text)
    assert_one_line(evaluate("--labels-from", listed), DATA, listed, *words)


@pytest.mark.parametrize("text", [b"", b"\xef\xbb\xbf", b"\n\r\n", b"file,label\n"])
def test_empty_csv(evaluate, tmp_path, text):
    listed = tmp_path / "list.csv"
    listed.write_bytes(text)
    assert_one_line(evaluate("--labels-from", listed), NO_INPUT, listed, "names no image")


def test_columns_that_are_not_there(evaluate, tmp_path):
    listed = tmp_path / "list.csv"
    listed.write_text("file,label\na.png,0\n")
    assert_one_line(evaluate("--labels-from", listed, "--label-column", "species"), USAGE, "'species'")
    listed.write_text("a,label\na.png,0\n")
    assert_one_line(evaluate("--labels-from", listed, "--label-column", "label"), USAGE, "--file-column")


def test_a_file_called_dash_is_no_standard_input(evaluate, tmp_path):
    write_image(tmp_path / "-", 1)
    (tmp_path / "list.csv").write_text("-,0\n")
    done = evaluate("--labels-from", "list.csv", "--format", "json", cwd=tmp_path)
    assert done.returncode == 0 and json.loads(done.stdout)["images"] == 1


# ---------------------------------------------------------------- bad images


def test_bad_images_are_left_out(evaluate, folder, tmp_path):
    copy = rename_folders(folder, tmp_path, lambda i: LABELS[i][0])
    (copy / LABELS[1][0] / "a.png").write_bytes(b"no image")
    (copy / LABELS[4][0] / "b.png").symlink_to(copy / LABELS[1][0] / "a.png")
    done = evaluate("--format", "json", "--per-class", "--against-device", "reference", copy)
    assert done.returncode == DATA and done.stderr.count("\n") == 2
    got, expected = json.loads(done.stdout), run_json(evaluate, "--per-class", folder)
    assert (got["failed"], got["images"], got["top1"], got["compared"]) == (2, 24, expected["top1"], 24)
    assert got["classes"] == expected["classes"]


def test_only_bad_images(evaluate, tmp_path):
    listed = tmp_path / "list.csv"
    listed.write_text("none.png,0\nlist.csv,1\n")
    done = evaluate("--labels-from", listed)
    assert done.returncode == NO_INPUT and done.stdout == ""
    assert "none of its 2 images could be read" in done.stderr.splitlines()[2]


def test_blank_images_are_told_of(evaluate, tmp_path):
    image = Image.new("RGBA", (20, 20), (0, 0, 0, 0))
    image.putpixel((3, 3), (0, 0, 0, 255))
    image.save(tmp_path / "blank.png")
    (tmp_path / "list.csv").write_text("blank.png,0\n")
    done = evaluate("--labels-from", tmp_path / "list.csv")
    assert done.returncode == 0 and "--background white" in done.stderr
    assert evaluate("--labels-from", tmp_path / "list.csv", "--background", "white").stderr == ""


# ---------------------------------------------------------------- outputs


def test_predictions(evaluate, folder, answers, tmp_path):
    paths, labels, p = answers
    written = tmp_path / "answers.csv"
    assert evaluate("--predictions", written, folder).returncode == 0
    header, records = read_csv(written.read_bytes().decode())
    assert header == ["file", "label", "label_name", "predicted", "predicted_name", "probability", "rank"]
    order = np.argsort(-p, axis=1, kind="stable")
    for record, path, label, row, place in zip(records, paths, labels, p, order, strict=True):
        assert (record["file"], int(record["label"]), int(record["predicted"])) == (str(path), label, place[0])
        assert (record["label_name"], record["predicted_name"]) == (LABELS[label][1], LABELS[place[0]][1])
        assert float(record["probability"]) == pytest.approx(row.max(), rel=1e-6)
        assert int(record["rank"]) == 1 + list(place).index(label)
    again = run_json(evaluate, "--labels-from", written)
    assert again == run_json(evaluate, folder) | {"set": str(written), "classes_by": "index"}
    assert os.listdir(tmp_path) == ["answers.csv"]


def test_plot(evaluate, folder, answers, tmp_path):
    drawn, again = tmp_path / "plot.svg", tmp_path / "again.svg"
    drawn.write_text("from before")
    drawn.chmod(0o600)
    got = json.loads(evaluate("--format", "json", "--plot", drawn, folder).stdout)
    tree = ElementTree.parse(drawn)
    text = [" ".join(node.itertext()) for node in tree.iter()
            if node.tag in ("{http://www.w3.org/2000/svg}text", "{http://www.w3.org/2000/svg}title")]
    assert f"tiny: top-1 {got['top1']:.2f} %, top-5 {got['top5']:.2f} % of 24 images" in text
    assert any(f"expected calibration error {100 * got['calibration_error']:.2f} %" in t for t in text)
    _, labels, p = answers
    wrong = [i for i in range(6) if (p.argmax(1)[labels == i] != i).any()]
    assert wrong
    for i in wrong:  # with the quotes and the umlauts of their labels
        assert f"{LABELS[i][1]} ({COUNTS[i]})" in text
        right = int((p.argmax(1)[labels == i] == i).sum())
        assert not right or any(t.startswith(f"{LABELS[i][1]}: {right} of {COUNTS[i]} right") for t in text)
    bars = [t for t in text if t.startswith("confidence ") and "right" in t]
    assert len(bars) == len(set(np.ceil(p.max(1) * 15)))
    assert evaluate("--plot", again, folder).returncode == 0
    assert again.read_bytes() == drawn.read_bytes()
    assert sorted(os.listdir(tmp_path)) == ["again.svg", "plot.svg"]


def test_plot_escapes_labels(effnet, tmp_path, monkeypatch):
    monkeypatch.setattr(cli_model, "LABELS", [("a", "<b> & \"c\" 'd'"), ("b", "x\ufffey"), ("c", "ü" * 40)])
    model = write_tiny_model(tmp_path / "odd.safetensors", bias=[0, 1, -1])
    write_image(tmp_path / "0.png", 1)
    (tmp_path / "list.csv").write_text("0.png,0\n0.png,1\n0.png,2\n")
    done = effnet("evaluate", "-m", model, "--labels-from", tmp_path / "list.csv", "--plot", tmp_path / "p.svg")
    assert done.returncode == 0, done.stderr
    text = [node.text for node in ElementTree.parse(tmp_path / "p.svg").iter()]
    assert "<b> & \"c\" 'd' (1)" in text and "x\ufffdy" in text and "ü" * 21 + "… (1)" in text


def test_outputs_that_cannot_be_written(evaluate, folder, tmp_path):
    """Said before anything runs, where that can be known."""
    for option in ("--plot", "--predictions"):
        assert_one_line(evaluate(option, tmp_path / "none" / "file", folder), OUTPUT, tmp_path / "none" / "file")
        assert_one_line(evaluate(option, tmp_path, folder), OUTPUT, tmp_path)
        full = evaluate(option, "/dev/full", folder)
        assert full.returncode == OUTPUT and "/dev/full: " in full.stderr
        assert evaluate(option, "/dev/null", folder).returncode == 0
        link = tmp_path / "link"
        link.symlink_to("target")
        (tmp_path / "target").touch()
        assert evaluate(option, link, folder).returncode == 0
        assert link.is_symlink() and (tmp_path / "target").stat().st_size
        link.unlink()
        (tmp_path / "target").unlink()
    labels = tmp_path / "labels.csv"
    labels.write_text("file,label\nx.png,0\n")
    for option in ("--plot", "--predictions"):
        done = evaluate(option, f"{tmp_path}/./labels.csv", "--labels-from", labels)
        assert_one_line(done, USAGE, "labels.csv: is read, and so not overwritten")
    assert labels.read_text() == "file,label\nx.png,0\n"
    labels.unlink()
    done = evaluate("--plot", tmp_path / "a", "--predictions", f"{tmp_path}/./a", folder)
    assert_one_line(done, USAGE, "--predictions and --plot name the same file")
    assert os.listdir(tmp_path) == []


def test_output_that_is_an_image_is_left_alone(evaluate, folder, tmp_path):
    """But --plot replaces its own drawing."""
    drawing, image = tmp_path / "plot.svg", write_image(tmp_path / "image.png", 5)
    assert evaluate("--plot", drawing, folder).returncode == 0
    before = drawing.read_bytes(), image.read_bytes()
    for option, output in [("--plot", image), ("--predictions", image), ("--predictions", drawing)]:
        assert_one_line(evaluate(option, output, folder), OUTPUT, f"{output}: is an image, which is not overwritten")
    assert (drawing.read_bytes(), image.read_bytes()) == before
    drawing.write_text("<svg />")
    assert evaluate("--plot", drawing, folder).returncode == 0 and drawing.read_bytes() == before[0]


def test_decode(evaluate, folder):
    """The side of --device alone decodes on a GPU, which here is none."""
    same = evaluate("--format", "json", folder).stdout
    assert evaluate("--format", "json", "--decode", "cpu", folder).stdout == same
    for more in (), ("--against-device", "cpu"):
        done = evaluate("--decode", "gpu", *more, folder)
        assert_one_line(done, UNAVAILABLE, "decoding on a GPU: the network runs on the CPU")
        assert not done.stdout


# ---------------------------------------------------------------- usage


@pytest.mark.parametrize("arguments, word", [
    ([], "--labels-from FILE.csv"),
    (["a", "b"], "unexpected 'b'"),
    (["a", "--labels-from", "b.csv"], "unexpected 'a'"),
    (["--labels-from", "b.csv", "--class-order", "sorted"], "--class-order"),
    (["a", "--file-column", "1"], "--labels-from"),
])
def test_usage(evaluate, arguments, word):
    assert_one_line(evaluate(*arguments), USAGE, word)


def test_multi_label_is_refused(effnet, folder, tmp_path):
    model = write_tiny_model(tmp_path / "many.safetensors", multi_label=True)
    assert_one_line(effnet("evaluate", "-m", model, folder), USAGE, "multi-label")


def test_a_full_disk_is_an_output_error(build, tiny, folder):
    with open("/dev/full", "w") as full:
        done = cli_model.run_with_stdout(build, ["evaluate", "-m", tiny, folder], full)
    assert done.returncode == OUTPUT and done.stderr.count("\n") == 1
