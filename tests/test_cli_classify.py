"""effnet classify: formats, order, bad files, odd names, batches, terminals."""

import csv
import io
import json
import os
import pty
import re
import select
import struct
import subprocess
import zlib
from pathlib import Path

import pytest
from PIL import Image

from cli_model import LABELS, write_image

USAGE, DATA, NO_INPUT, UNAVAILABLE = 64, 65, 66, 69


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    return [write_image(folder / f"{i:02}.png", i) for i in range(12)]


def parse_json(text):
    return [json.loads(line) for line in text.splitlines()]


def png_header(width, height):
    """A PNG that promises width x height pixels and has none."""
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))


# ---------------------------------------------------------------- formats


def test_json(classify, images):
    done = classify("--format", "json", "-k", "6", *images[:3])
    assert (done.returncode, done.stderr) == (0, "")
    results = parse_json(done.stdout)
    assert [r["filename"] for r in results] == [str(p) for p in images[:3]]
    for result in results:
        assert set(result) == {"filename", "classes"}
        classes = result["classes"]
        assert sorted(c["index"] for c in classes) == list(range(6))
        assert all((c["id"], c["label"]) == LABELS[c["index"]] for c in classes)
        probabilities = [c["probability"] for c in classes]
        assert probabilities == sorted(probabilities, reverse=True)
        assert sum(probabilities) == pytest.approx(1, abs=1e-6)


def test_csv(classify, images):
    done = classify("--format", "csv", "-k", "4", *images[:3], text=False)
    assert done.returncode == 0 and done.stdout.count(b"\r\n") == 4
    rows = list(csv.reader(io.StringIO(done.stdout.decode(), newline=""), strict=True))
    assert rows[0] == ["filename"] + [f"{c}_{i}" for i in range(4) for c in ("index", "label", "prob")]
    expected = parse_json(classify("--format", "json", "-k", "4", *images[:3]).stdout)
    for row, result in zip(rows[1:], expected, strict=True):
        assert row[0] == result["filename"]
        cells = [(int(row[i]), row[i + 1], float(row[i + 2])) for i in range(1, len(row), 3)]
        assert cells == [(c["index"], c["label"], c["probability"]) for c in result["classes"]]
    assert {label for row in rows[1:] for label in row[2::3]} & {"comma, inside", 'a "quoted" one'}


def test_text(classify, images):
    done = classify("-k", "3", *images[:2])
    assert (done.returncode, done.stderr) == (0, "")
    expected = parse_json(classify("--format", "json", "-k", "3", *images[:2]).stdout)
    lines = iter(done.stdout.splitlines())
    for result in expected:
        assert next(lines) == result["filename"]
        for rank, c in enumerate(result["classes"], 1):
            assert next(lines) == f"{rank:4}  {100 * c['probability']:6.2f} %  {c['label']}  ({c['id']})"
    assert next(lines, None) is None


@pytest.mark.parametrize("k, count", [(1, 1), (5, 5), (6, 6), (7, 6), (2147483647, 6)])
def test_top_k_is_clipped(classify, images, k, count):
    whole = parse_json(classify("--format", "json", "-k", "6", images[0]).stdout)[0]["classes"]
    assert parse_json(classify("--format", "json", "-k", k, images[0]).stdout)[0]["classes"] == whole[:count]
    header = classify("--format", "csv", "-k", k, images[0]).stdout.splitlines()[0]
    assert header.count("prob_") == count


def test_default_top_k_is_five(classify, images):
    assert len(parse_json(classify("--format", "json", images[0]).stdout)[0]["classes"]) == 5


# ---------------------------------------------------------------- batches, order, bad files


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("batch", [1, 2, 5, 12, 100])
def test_batches_answer_alike(classify, images, batch, threads):
    """Every batch size and number of decoding threads prints what one image at a time does."""
    expected = "".join(classify("--format", "json", p).stdout for p in images)
    done = classify("--format", "json", "-b", batch, "--threads", threads, *images)
    assert done.returncode == 0 and done.stdout == expected
    assert len(set(expected.splitlines())) == len(images)


def test_real_network_batches_answer_alike(effnet, root, lite1):
    """To the last digit whatever the other images of the batch are; nearly so in batches of another size."""
    samples = sorted((root / "samples").glob("*.png"))[:3]

    def answers(batch, files):
        done = effnet("classify", "-m", lite1, "-b", batch, "--format", "json", *files)
        return {r["filename"]: r["classes"] for r in parse_json(done.stdout)}

    threes = answers(3, samples)
    assert len(threes) == 3 and threes == answers(3, reversed(samples))
    for batch in (1, 2):
        for name, classes in answers(batch, samples).items():
            assert [c["index"] for c in classes] == [c["index"] for c in threes[name]]
            assert [c["probability"] for c in classes] == pytest.approx(
                [c["probability"] for c in threes[name]], rel=1e-3)


@pytest.mark.parametrize("batch", [1, 2, 4])
def test_bad_files_in_the_middle(classify, images, tmp_path, batch):
    junk = tmp_path / "junk.png"
    junk.write_bytes(b"this is no image")
    cut = tmp_path / "cut.png"
    cut.write_bytes(images[0].read_bytes()[:60])
    missing, folder = tmp_path / "missing.png", tmp_path
    files = [images[0], junk, images[1], missing, folder, cut, images[2], images[3]]
    done = classify("--format", "json", "-b", batch, *files)
    assert done.returncode == DATA, "the status of the first bad file"
    assert [r["filename"] for r in parse_json(done.stdout)] == [str(p) for p in images[:4]]
    good = classify("--format", "json", *images[:4])
    assert done.stdout == good.stdout
    lines = done.stderr.splitlines()
    assert len(lines) == 4
    for line, file in zip(lines, (junk, missing, folder, cut)):
        assert line.startswith(f"effnet: {file}: ")
    assert classify(missing, junk).returncode == NO_INPUT


def test_all_bad(classify, tmp_path):
    done = classify("--format", "json", tmp_path / "a", tmp_path / "b")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (NO_INPUT, "", 2)


def test_many_files(classify, images):
    """More files than slots, in order, with every thread busy."""
    files = images * 40
    done = classify("--format", "json", "-k", "1", "-b", "3", "--threads", "4", *files)
    assert [r["filename"] for r in parse_json(done.stdout)] == [str(p) for p in files]


def test_no_file_descriptor_is_lost(classify, images):
    """Hundreds of files with few descriptors."""
    import resource

    done = classify("-q", *(images * 30), preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (32, 32)))
    assert done.returncode == 0, done.stderr


# ---------------------------------------------------------------- what is read


def test_standard_input(classify, images):
    from_file = parse_json(classify("--format", "json", images[1]).stdout)[0]
    done = classify("--format", "json", images[0], "-", images[2], input=images[1].read_bytes(), text=False)
    results = parse_json(done.stdout.decode())
    assert [r["filename"] for r in results] == [str(images[0]), "-", str(images[2])]
    assert results[1]["classes"] == from_file["classes"]
    assert classify("-", input=b"", text=False).returncode == DATA


def test_max_pixels(classify, images, tmp_path):
    assert classify("--max-pixels", 24 * 20, images[0]).returncode == 0
    done = classify("--max-pixels", 24 * 20 - 1, images[0])
    assert done.returncode == DATA and str(images[0]) in done.stderr
    bomb = tmp_path / "bomb.png"
    bomb.write_bytes(png_header(30000, 30000))
    assert classify(bomb).returncode == DATA


def test_exif_orientation(effnet, root, lite1):
    """The sample lies on its side in the file: heeding EXIF or not are two images."""
    sample = root / "samples/remote_control.jpg"
    upright, lying = (effnet("classify", "-m", lite1, "--format", "json", *options, sample).stdout
                      for options in ([], ["--ignore-exif"]))
    assert upright and lying and upright != lying


def test_options_end(classify, images):
    folder = images[0].parent
    (folder / "-k.png").write_bytes(images[0].read_bytes())
    done = classify("--format", "json", "--", "-k.png", images[1], cwd=folder)
    assert [r["filename"] for r in parse_json(done.stdout)] == ["-k.png", str(images[1])]
    done = classify(images[1], "--format", "json", cwd=folder)
    assert parse_json(done.stdout), "an option may follow a file"


ODD_NAMES = [
    b"new\nline.png", b"tab\tcr\r.png", b"comma,quote\".png", b"back\\slash.png", b"\xff\xfe bytes.png",
    b"cut \xe2\x82.png", b"escape \x1b[31m.png", b"\xc3\xbcmlaut \xe2\x82\xac.png", b"c1 \xc2\x9b.png",
    b"overlong \xc0\xaf.png", b"surrogate \xed\xa0\x80.png", b"turned \xe2\x80\xae.png", b" space .png",
    b"'; DROP TABLE.png", b"\x7f.png", b"\xf0\x9f\x98\x80.png", b"\xf4\x90\x80\x80.png",
]


@pytest.fixture(scope="module")
def odd_files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("odd")
    return [write_image(os.path.join(os.fsencode(folder), name), i) for i, name in enumerate(ODD_NAMES)]


def run_bytes(build, tiny, *arguments):
    return subprocess.run([build / "effnet", "classify", "-m", tiny, "--device", "cpu", *arguments], stdin=subprocess.DEVNULL,
                          capture_output=True, timeout=120, check=False)


def test_odd_names_json(build, tiny, odd_files):
    done = run_bytes(build, tiny, "--format", "json", *odd_files)
    assert (done.returncode, done.stderr) == (0, b"")
    lines = done.stdout.decode("utf-8").split("\n")  # the whole of it is UTF-8
    assert len(lines) == len(odd_files) + 1
    for line, name in zip(lines, odd_files):
        result = json.loads(line)
        try:
            assert result["filename"] == name.decode("utf-8") and "filename_hex" not in result
        except UnicodeDecodeError:
            assert bytes.fromhex(result["filename_hex"]) == name
            assert "\ufffd" in result["filename"]


def test_odd_names_csv(build, tiny, odd_files):
    done = run_bytes(build, tiny, "--format", "csv", *odd_files)
    rows = list(csv.reader(io.StringIO(done.stdout.decode("utf-8", "surrogateescape"), newline=""), strict=True))
    assert [os.fsencode(row[0]) for row in rows[1:]] == odd_files


def test_odd_names_text(build, tiny, odd_files):
    """A name stays on its line and sends nothing to a terminal."""
    done = run_bytes(build, tiny, "-k", "1", *odd_files)
    text = done.stdout.decode("utf-8")
    names = text.splitlines()[::2]
    assert len(text.splitlines()) == 2 * len(odd_files)
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", text)
    assert names[0].endswith("new\\nline.png") and names[4].endswith("\\xff\\xfe bytes.png")
    assert names[7].endswith("ümlaut €.png") and names[6].endswith("escape \\x1b[31m.png")


def test_odd_names_errors(build, tiny, tmp_path):
    missing = [os.fsencode(tmp_path) + b"/" + name for name in ODD_NAMES]
    done = run_bytes(build, tiny, *missing)
    text = done.stderr.decode("utf-8")
    assert done.returncode == NO_INPUT and text.count("\n") == len(missing)
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", text)


def test_long_names(classify, tmp_path):
    """The reason is told however long the name is."""
    long = tmp_path / "/".join(["x" * 200] * 4)
    done = classify(long, "y" * 6000)
    lines = done.stderr.splitlines()
    assert done.returncode == NO_INPUT and len(lines) == 2
    for line in lines:
        assert re.search(r"No such file|cannot read input|too long", line), line[-100:]


def test_decode(classify, images):
    """What --decode gpu needs and the CPU has not is said before anything is printed."""
    assert classify("--decode", "cpu", *images).stdout == classify(*images).stdout
    done = classify("--decode", "gpu", *images)
    assert (done.returncode, done.stdout) == (UNAVAILABLE, "")
    assert re.fullmatch(r"effnet: decoding on a GPU: the network runs on the CPU.*\n", done.stderr)


# ---------------------------------------------------------------- standard error and terminals


def test_stats(classify, images, tmp_path):
    junk = tmp_path / "junk"
    junk.write_bytes(b"no image")
    done = classify("--stats", *images, junk)
    assert done.returncode == DATA and done.stdout == classify(*images).stdout
    assert "\nstats: 13 files, 1 failed, 0 skipped\n" in done.stderr
    rows = dict(re.findall(r"^  ([a-z][a-z ]*?) +(\d+\.\d\d)(?:$|  )", done.stderr, flags=re.M))
    names = ["start", "load model", "open session", "wait", "print", "other", "total"]
    assert list(rows) == [*names, "compute", "read", "decode", "fit", "wait for seat"]
    values = {name: float(value) for name, value in rows.items()}
    assert sum(values[n] for n in names[:6]) == pytest.approx(values["total"], abs=0.1)
    assert values["compute"] > 0 and values["decode"] > 0
    slowest = re.findall(r"^ +(\d+\.\d\d) +(\d+\.\d\d) +(\d+\.\d\d)  (.*)$", done.stderr, flags=re.M)
    times = [sum(map(float, row[:3])) for row in slowest]
    assert len(slowest) == 5 and times == pytest.approx(sorted(times, reverse=True), abs=0.03)
    assert {row[3] for row in slowest} <= {str(p) for p in [*images, junk]}


def run_on_terminal(build, arguments, stdout, stderr, **environment):
    """Runs with a terminal as stdout, stderr or both; returns what the terminal showed, and the rest."""
    master, slave = pty.openpty()
    process = subprocess.Popen([build / "effnet", *arguments], stdin=subprocess.DEVNULL,
                               stdout=slave if stdout else subprocess.PIPE,
                               stderr=slave if stderr else subprocess.PIPE,
                               env={k: v for k, v in os.environ.items() if k != "NO_COLOR"} | environment)
    os.close(slave)
    shown = b""
    while select.select([master], [], [], 60)[0]:
        try:
            shown += os.read(master, 65536)
        except OSError:  # the other end is closed
            break
    rest = b"".join(process.communicate(timeout=60)[i] or b"" for i in (0, 1))
    os.close(master)
    assert process.returncode == 0, (shown, rest)
    return shown.decode(), rest.decode()


def test_colour_on_a_terminal_only(build, tiny, images):
    command = ["classify", "-m", tiny, images[0], images[1]]
    plain = subprocess.run([build / "effnet", *command], capture_output=True, text=True, check=True).stdout
    assert "\x1b" not in plain
    shown, _ = run_on_terminal(build, command, True, False, TERM="xterm")
    assert "\x1b[1m" in shown and "\x1b[0m" in shown
    assert re.sub(r"\x1b\[\d+m", "", shown).replace("\r\n", "\n") == plain
    for environment in ({"NO_COLOR": "1"}, {"TERM": "dumb"}):
        shown, _ = run_on_terminal(build, command, True, False, **({"TERM": "xterm"} | environment))
        assert shown.replace("\r\n", "\n") == plain
    shown, _ = run_on_terminal(build, command, True, False, TERM="xterm", NO_COLOR="")
    assert "\x1b[1m" in shown, "an empty NO_COLOR is as none"
    for form in ("json", "csv"):
        shown, _ = run_on_terminal(build, [*command, "--format", form], True, False, TERM="xterm")
        assert "\x1b" not in shown


def test_progress_on_a_terminal_only(build, tiny, images):
    command = ["classify", "-m", tiny, "--format", "json", "--device", "reference", *images]
    shown, results = run_on_terminal(build, command, False, True, TERM="xterm")
    assert re.search(r"\rclassify 12 of 12, \d+ images/s\x1b\[K", shown) and shown.endswith("\r\x1b[K")
    assert len(parse_json(results)) == 12
    assert run_on_terminal(build, [*command, "-q"], False, True, TERM="xterm")[0] == ""
    both, _ = run_on_terminal(build, command, True, True, TERM="xterm")
    assert "12 of 12" not in both


def test_fallback_notice(effnet, tiny, images):
    """Where auto had a GPU to try and could not take it, one line says why; -q drops it."""
    device = {d["name"]: d for d in json.loads(effnet("info", "--devices", "--format", "json").stdout)["devices"]}
    done = effnet("classify", "-m", tiny, images[0])
    assert done.returncode == 0 and done.stderr.count("\n") <= 1
    if any(d["available"] for name, d in device.items() if name.startswith("cuda")):
        assert done.stderr == ""
    quiet = effnet("classify", "-q", "-m", tiny, images[0])
    assert (quiet.stderr, quiet.stdout) == ("", done.stdout)
    assert effnet("classify", "-m", tiny, "--device", "cpu", images[0]).stderr == ""


def test_samples_by_shell_glob(effnet, root, lite1):
    """The README's command."""
    samples = sorted(p for p in (root / "samples").iterdir() if p.suffix in (".png", ".jpg"))
    done = effnet("classify", "-m", lite1, "-k", "1", *samples)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [Path(line) for line in lines[::2]] == samples
    for sample, line in zip(samples, lines[1::2]):
        assert f"  {sample.stem.replace('_', ' ')}  (n" in line


# ---------------------------------------------------------------- transparency


@pytest.fixture(scope="module")
def drawing(tmp_path_factory):
    """Black ink on nothing: without alpha all of it is black."""
    path = tmp_path_factory.mktemp("drawings") / "ink.png"
    image = Image.new("LA", (24, 20))
    image.paste((0, 255), (5, 4, 15, 9))
    image.save(path)
    return path


def test_background(classify, drawing, tmp_path):
    with Image.open(drawing) as image:
        over = Image.new("RGBA", image.size, (255, 136, 0, 255))
        over.alpha_composite(image.convert("RGBA"))
    over.convert("RGB").save(tmp_path / "flat.png")
    expected = parse_json(classify("--format", "json", tmp_path / "flat.png").stdout)[0]["classes"]
    for colour in ("#f80", "#FF8800", "#ff8800"):
        done = classify("--format", "json", "--background", colour, drawing)
        assert (done.returncode, done.stderr) == (0, "")
        assert parse_json(done.stdout)[0]["classes"] == expected
    assert parse_json(classify("--format", "json", drawing).stdout)[0]["classes"] != expected


@pytest.mark.parametrize("name,digits", [("white", "#fff"), ("Grey", "#808080"), ("gray", "#808080"), ("NAVY", "#000080"),
                                         ("lime", "#0f0"), ("silver", "#c0c0c0")])
def test_background_names(classify, drawing, name, digits):
    by_name, by_digits = (classify("--format", "json", "--background", colour, drawing) for colour in (name, digits))
    assert by_name.returncode == 0 and by_name.stdout == by_digits.stdout


@pytest.mark.parametrize("colour", ["puce", "fff", "#ff", "#fffff", "#fffffff", "#ggg", "#", "", "#-12", "white "])
def test_background_that_is_no_colour(classify, drawing, colour):
    done = classify("--background", colour, drawing)
    assert done.returncode == USAGE and "--background" in done.stderr and done.stderr.count("\n") == 1


def test_blank_without_alpha_is_noticed(classify, drawing):
    done = classify(drawing)
    assert done.returncode == 0
    assert done.stderr == f"effnet: {drawing}: one colour without its alpha, which is dropped; try --background white\n"
    assert classify("-q", drawing).stderr == ""
    assert classify("--background", "white", drawing).stderr == ""
