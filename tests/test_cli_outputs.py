"""effnet classify: files of results, arrays of logits, what is printed."""

import csv
import io
import itertools
import json
import os
import re
import signal
import stat
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from cli_model import DATA, OUTPUT, USAGE, assert_one_line, write_image, write_tiny_model
from safetensors import safe_open


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    return [write_image(folder / f"{i:02}.png", i) for i in range(12)]


@pytest.mark.parametrize("form", ["json", "csv", "text"])
def test_output_is_what_would_be_printed(classify, images, tmp_path, form):
    out = tmp_path / "out"
    printed = classify("--format", form, *images, text=False).stdout
    for _ in range(2):  # a file that is there is replaced
        done = classify("--format", form, "-o", out, *images)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        assert out.read_bytes() == printed
        assert os.listdir(tmp_path) == ["out"]
        out.write_bytes(b"older results")


def test_output_keeps_mode_and_link(classify, images, tmp_path):
    real, link = tmp_path / "real", tmp_path / "link"
    real.write_bytes(b"older")
    real.chmod(0o640)
    link.symlink_to("real")
    assert classify("-o", link, images[0]).returncode == 0
    assert link.is_symlink() and stat.S_IMODE(real.stat().st_mode) == 0o640
    assert real.read_text() == classify(images[0]).stdout


def test_output_to_what_is_no_file(classify, images, tmp_path, build, tiny):
    assert classify("-o", "/dev/stdout", *images).stdout == classify(*images).stdout
    assert classify("-o", "/dev/null", images[0]).returncode == 0
    assert_one_line(classify("-o", tmp_path, images[0]), OUTPUT, f"{tmp_path}: Is a directory")
    assert_one_line(classify("-o", tmp_path / "no/out", images[0]), OUTPUT, "No such file")
    assert_one_line(classify("--resume", "-o", "/dev/null", images[0]), USAGE, "no regular file")
    assert_one_line(classify("--resume", images[0]), USAGE, "--output")
    for option in ("--logits", "--embeddings"):
        assert_one_line(classify(option, "/dev/null", images[0]), USAGE, f"{option}: /dev/null is no regular file")
    same = tmp_path / "same"
    for first, second in itertools.combinations(("--output", "--logits", "--embeddings"), 2):
        done = classify(first, same, second, same, images[0])
        assert_one_line(done, USAGE, f"{first} and {second} name the same file")
    done = classify("-o", "/dev/full", images[0])
    assert done.returncode == OUTPUT and done.stderr == "effnet: /dev/full: No space left on device\n"
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    process = subprocess.Popen([build / "effnet", "classify", "-m", tiny, "--device", "cpu", "-o", pipe, images[0]])
    assert pipe.read_text() == classify(images[0]).stdout
    assert process.wait(60) == 0


def test_output_that_is_read_is_left_alone(effnet, tiny, images, tmp_path):
    """The list of names, and the weights, in whatever spelling."""
    names, model = tmp_path / "names", tmp_path / "model"
    names.write_text(f"{images[0]}\n")
    model.write_bytes(tiny.read_bytes())
    (tmp_path / "link").symlink_to("names")
    for option in "-o", "--logits", "--embeddings":
        for output in "names", "./names", "link", model:
            done = effnet("classify", "-m", model, "--files-from", "names", option, output, cwd=tmp_path)
            assert_one_line(done, USAGE, f"{output}: is read, and so not overwritten")
    assert names.read_text() == f"{images[0]}\n" and model.read_bytes() == tiny.read_bytes()
    assert sorted(os.listdir(tmp_path)) == ["link", "model", "names"]


def test_output_that_is_an_image_is_left_alone(classify, images, tmp_path):
    image = write_image(tmp_path / "image.png", 5)
    before = image.read_bytes()
    for option in ("-o", "--logits", "--embeddings"):
        done = classify(option, image, *images)
        assert done.returncode == OUTPUT and "an image, which is not overwritten" in done.stderr
    assert image.read_bytes() == before and os.listdir(tmp_path) == ["image.png"]


@pytest.mark.parametrize("ending", [".partial", ".resume", ".shard"])
def test_endings_of_what_is_made_beside_an_output(classify, images, tmp_path, ending):
    """An output of such a name would be another's file: it, or a link to it, is refused."""
    taken, link = tmp_path / f"a.csv{ending}", tmp_path / "link"
    taken.write_bytes(b"")
    link.symlink_to(taken)
    for option in ("-o", "--logits", "--embeddings", "--cam"):
        for name in (taken, link):
            others = ["--logits" if option == "-o" else "-o", tmp_path / "a.csv"]
            if option != "--cam":
                others += ["--shard", "1/2"]
            assert_one_line(classify(*others, option, name, *images), USAGE, f"{name}: no output may end in {ending}")
    done = classify("-o", f"{tmp_path}/{{shard}}{ending}", *images)
    assert_one_line(done, USAGE, f"00001-of-00001{ending}: no output may end in {ending}")
    assert sorted(os.listdir(tmp_path)) == sorted([taken.name, "link"]) and not taken.read_bytes()


def test_results_that_begin_as_an_image_does(classify, images, tmp_path):
    """BM, a BMP's two letters, are those of results whose first file is so named."""
    (tmp_path / "BMW.png").write_bytes(images[0].read_bytes())
    for _ in range(2):
        assert classify("--format", "csv", "--no-header", "-o", "out", "BMW.png", cwd=tmp_path).returncode == 0
    assert (tmp_path / "out").read_text().startswith("BMW.png,")


def test_output_on_a_full_disk(classify, images, tmp_path):
    import resource

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))

    out = tmp_path / "out"
    done = classify("--format", "json", "-o", out, *(images * 20), preexec_fn=limit)
    assert done.returncode == OUTPUT and done.stderr.count("\n") == 1
    assert done.stderr.startswith(f"effnet: {out}: File too large") and not out.exists()
    done = classify("--format", "json", "-o", out, "--resume", *(images * 20))
    assert done.returncode == 0 and out.read_text() == classify("--format", "json", *(images * 20)).stdout


def test_no_header(classify, images):
    whole = classify("--format", "csv", *images).stdout
    assert classify("--format", "csv", "--no-header", *images).stdout == whole.split("\n", 1)[1]


def test_scores(classify, images):
    likely, logits = ([json.loads(line)["classes"] for line in
                       classify("--format", "json", "-k", "6", "--scores", scores, *images).stdout.splitlines()]
                      for scores in ("probabilities", "logits"))
    for a, b in zip(likely, logits, strict=True):
        assert [c["index"] for c in a] == [c["index"] for c in b]
        values = np.array([c["logit"] for c in b])
        softmax = np.exp(values - values.max()) / np.exp(values - values.max()).sum()
        assert [c["probability"] for c in a] == pytest.approx(softmax, rel=1e-5)
        assert "probability" not in b[0] and "logit" not in a[0]
    rows = list(csv.reader(io.StringIO(classify("--format", "csv", "-k", "2", "--scores", "logits", *images).stdout)))
    assert rows[0] == ["filename", "index_0", "label_0", "logit_0", "index_1", "label_1", "logit_1"]
    assert [float(row[3]) for row in rows[1:]] == [c[0]["logit"] for c in logits]
    text = classify("-k", "1", "--scores", "logits", images[0]).stdout
    assert f"{logits[0][0]['logit']:.4f}" in text and "%" not in text


def test_logits(classify, images, tmp_path):
    junk = tmp_path / "junk"
    junk.write_bytes(b"no image")
    files = [*images[:5], junk, *images[5:]]
    done = classify("--format", "json", "-k", "6", "--scores", "logits", "--logits", tmp_path / "l.npy", *files)
    assert done.returncode == DATA
    assert done.stderr.splitlines()[1] == f"effnet: {tmp_path}/l.npy: 1 of 13 rows are NaN: those of files that failed"
    array = np.load(tmp_path / "l.npy")
    assert array.shape == (13, 6) and array.dtype == np.float32 and np.isnan(array[5]).all()
    for row, line in zip(np.delete(array, 5, axis=0), done.stdout.splitlines(), strict=True):
        for c in json.loads(line)["classes"]:
            assert row[c["index"]] == np.float32(c["logit"])
    assert sorted(os.listdir(tmp_path)) == ["junk", "l.npy"]
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "a.txt").write_text("skipped")
    write_image(folder / "b", 1)
    classify("-r", folder, "--logits", tmp_path / "l.npy")
    assert (np.load(tmp_path / "l.npy") == array[1]).all() and len(np.load(tmp_path / "l.npy")) == 1


def test_logits_of_many_classes_and_of_none(effnet, tmp_path, image):
    model = write_tiny_model(tmp_path / "m.safetensors", bias=[0.5, float("-3e38"), 1e-40])
    done = effnet("classify", "-m", model, "--device", "cpu", "--logits", tmp_path / "l.npy", image, image)
    assert done.returncode == 0
    assert np.load(tmp_path / "l.npy").tolist() == [[0.5, float(np.float32(-3e38)), float(np.float32(1e-40))]] * 2
    empty = tmp_path / "empty"
    empty.mkdir()
    effnet("classify", "-m", model, "--device", "cpu", "--logits", tmp_path / "l.npy", "-r", empty)
    assert np.load(tmp_path / "l.npy").shape == (0, 3)


def test_embeddings(classify, tiny, images, tmp_path):
    """They are what the classifier makes its logits of."""
    junk = tmp_path / "junk"
    junk.write_bytes(b"no image")
    files = [*images[:5], junk, *images[5:]]
    arrays = {name: tmp_path / f"{name}.npy" for name in ("logits", "embeddings")}
    options = [word for name, path in arrays.items() for word in (f"--{name}", path)]
    done = classify(*options, *files)
    assert done.returncode == DATA and done.stdout == classify(*files).stdout
    assert done.stderr.splitlines()[1:] == [f"effnet: {path}: 1 of 13 rows are NaN: those of files that failed"
                                            for path in arrays.values()]
    logits, embeddings = (np.load(path) for path in arrays.values())
    assert embeddings.shape == (13, 8) and embeddings.dtype == np.float32
    assert np.isnan(embeddings[5]).all() and not np.isnan(np.delete(embeddings, 5, axis=0)).any()
    with safe_open(tiny, "numpy") as model:
        weight, bias = (model.get_tensor(f"classifier.{part}") for part in ("weight", "bias"))
    np.testing.assert_allclose(embeddings @ weight.T + bias, logits, rtol=1e-5, atol=1e-5)
    assert len(np.unique(embeddings[:, 0])) > 5, "images have embeddings of their own"
    classify("--embeddings", tmp_path / "alone.npy", *files)
    np.testing.assert_array_equal(np.load(tmp_path / "alone.npy"), embeddings)
    for shard in ("1/2", "2/2"):
        classify("--shard", shard, "--embeddings", tmp_path / "part-{shard}.npy", *files)
    parts = [np.load(tmp_path / f"part-0000{i}-of-00002.npy") for i in (1, 2)]
    np.testing.assert_array_equal(np.concatenate(parts), embeddings)


# ---------------------------------------------------------------- signals


def wait_for(condition):
    for _ in range(600):
        if condition():
            return
        time.sleep(0.05)
    raise AssertionError("nothing happened")


def takes(process, number):
    """Whether a thread of the program waits for the signal: its first one has it blocked, and not all signals, as while
    it starts a thread."""
    blocked = re.search(r"^SigBlk:\s*(\w+)", Path(f"/proc/{process.pid}/status").read_text(), re.M)[1]
    return [int(blocked, 16) >> (n - 1) & 1 for n in (number, signal.SIGUSR1)] == [1, 0]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted(build, classify, tiny, images, tmp_path, number):
    """What is done is written, and --resume goes on; the process ends by the signal."""
    out, slow = tmp_path / "out", tmp_path / "slow"
    os.mkfifo(slow)
    command = [build / "effnet", "classify", "-m", tiny, "--device", "cpu", "--format", "json", "-b", "4", "-o", out,
               *images, slow]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
                               preexec_fn=lambda: signal.signal(number, signal.SIG_DFL))  # it may be ignored here
    wait_for(lambda: takes(process, number))
    time.sleep(0.5)  # in which most images are done
    process.send_signal(number)
    stderr = process.communicate(timeout=60)[1]
    assert process.returncode == -number
    assert "--resume goes on" in stderr and stderr.count("\n") == 1
    assert not out.exists() and (tmp_path / "out.partial").exists()
    slow.unlink()
    slow.write_bytes(images[3].read_bytes())
    done = classify("--format", "json", "-b", "4", "-o", out, "--resume", *images, slow)
    assert done.returncode == 0, done.stderr
    assert out.read_text() == classify("--format", "json", "-b", "4", *images, slow).stdout
    assert sorted(os.listdir(tmp_path)) == ["out", "slow"]


def test_interrupted_without_output(build, tiny, images, tmp_path):
    slow = tmp_path / "slow"
    os.mkfifo(slow)
    process = subprocess.Popen([build / "effnet", "classify", "-m", tiny, "--device", "cpu", "--logits", tmp_path / "l.npy",
                                images[0], slow], stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
                               stdout=subprocess.DEVNULL)
    wait_for(lambda: takes(process, signal.SIGTERM))
    process.terminate()
    assert process.communicate(timeout=60)[1] == "" and process.returncode == -signal.SIGTERM
    assert os.listdir(tmp_path) == ["slow"]
