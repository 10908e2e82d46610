"""effnet classify --resume: after a kill at any moment nothing is lost and nothing is there twice."""

import os
import random
import re
import subprocess
import time

import numpy as np
import pytest
from cli_model import DATA, OUTPUT, USAGE, assert_one_line, write_image, write_tiny_model

ROUNDS = int(os.environ.get("EFFNET_TEST_ROUNDS", "10"))


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Every tenth is bad."""
    folder = tmp_path_factory.mktemp("images")
    files = []
    for i in range(40):
        path = folder / f"{i:03}.png"
        if i % 10 == 7:
            path.write_bytes(b"GIF89a broken")
        else:
            write_image(path, i)
        files.append(path)
    return files


@pytest.fixture
def command(build, tiny, tmp_path):
    return [build / "effnet", "classify", "-m", tiny, "--device", "cpu", "-q", "-b", "8"]


def run(command, *arguments, **options):
    return subprocess.run([*command, *map(str, arguments)], capture_output=True, text=True, timeout=300,
                          stdin=subprocess.DEVNULL, check=False, **options)


def kill_after(command, arguments, seconds):
    process = subprocess.Popen([*command, *map(str, arguments)], stdin=subprocess.DEVNULL, text=True,
                               stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    time.sleep(seconds)
    process.kill()
    return process.communicate(timeout=60)[1], process.returncode


@pytest.mark.parametrize("form", ["csv", "text"])
def test_killed_at_random_points(command, images, tmp_path, form):
    files = tmp_path / "list"
    files.write_text("\n".join(map(str, images * 50)) + "\n")
    inputs = ["--format", form, "--files-from", files]
    start = time.monotonic()
    names = ["out", "logits.npy", "embeddings.npy"]

    def outputs(folder):
        return [word for option, name in zip(("-o", "--logits", "--embeddings"), names, strict=True)
                for word in (option, folder / name)]

    def assert_whole():
        for name in names:
            assert (tmp_path / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()

    (tmp_path / "whole").mkdir()
    whole = run(command, *inputs, *outputs(tmp_path / "whole"))
    seconds = time.monotonic() - start
    assert whole.returncode == DATA
    seed = int(os.environ.get("EFFNET_TEST_SEED", random.randrange(1 << 30)))
    print("seed", seed)
    draw = random.Random(seed)
    arguments = [*inputs, *outputs(tmp_path), "--resume"]
    errors, finished = "", 0
    for _ in range(ROUNDS):
        stderr, status = kill_after(command, arguments, draw.uniform(0, 0.6 * seconds))
        errors += stderr
        if status != -9:
            assert status == DATA, stderr
            finished += 1
            assert_whole()
            assert not re.search("partial|resume", " ".join(os.listdir(tmp_path)))
            (tmp_path / "out").unlink()
    done = run(command, *arguments)
    assert done.returncode == DATA, done.stderr
    errors += done.stderr
    assert_whole()
    assert sorted(os.listdir(tmp_path)) == sorted(["list", "whole", *names])
    for path in images[7::10]:  # a line may come again where the kill fell behind it
        assert errors.count(f"effnet: {path}: ") >= 50 * (finished + 1)


def broken_run(command, images, folder, *options):
    """A run that is killed once it has noted failures; returns its arguments and what the whole gives."""
    os.mkfifo(folder / "slow")
    arguments = [*options, "-o", folder / "out", *images, folder / "slow"]
    process = subprocess.Popen([*command, *map(str, arguments)], stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    for _ in range(600):
        time.sleep(0.05)
        if (folder / "out.resume").exists() and (folder / "out.resume").stat().st_size > 2048:
            break
    process.kill()
    process.wait(60)
    (folder / "slow").unlink()
    (folder / "slow").write_bytes(images[0].read_bytes())
    return arguments


def test_what_is_done_is_not_done_again(command, images, tmp_path):
    arguments = broken_run(command, images, tmp_path)
    done = run(command, *arguments, "--resume")
    assert done.returncode == DATA and str(images[7]) not in done.stderr, "its line was printed by the first run"
    assert (tmp_path / "out").read_text() == run(command, *images, tmp_path / "slow").stdout


def test_torn_ends(command, images, tmp_path):
    """Behind what is noted anything may stand; a torn record leaves the one before."""
    arguments = broken_run(command, images, tmp_path)
    with open(tmp_path / "out.partial", "ab") as partial:
        partial.write(b"half a li")
    path = tmp_path / "out.resume"
    data = bytearray(path.read_bytes())
    newest = max(range(2), key=lambda i: int(data[2048 + 256 * i:].split(b" ")[0].strip(b"\0") or b"-1", 16))
    if all(data[2048 + 256 * i] for i in range(2)):
        data[2048 + 256 * newest + 9] ^= 1
        path.write_bytes(data)
    done = run(command, *arguments, "--resume")
    assert done.returncode == DATA
    assert (tmp_path / "out").read_text() == run(command, *images, tmp_path / "slow").stdout


def test_without_the_option_nothing_is_lost(command, images, tmp_path):
    arguments = broken_run(command, images, tmp_path)
    before = {name: (tmp_path / name).read_bytes() for name in os.listdir(tmp_path)}
    done = run(command, *arguments)
    assert_one_line(done, USAGE, "a run broke off after", "--resume goes on")
    assert before == {name: (tmp_path / name).read_bytes() for name in os.listdir(tmp_path)}


@pytest.mark.parametrize("options, words", [
    (["-k", "3"], "topk=5, and this one has topk=3"),
    (["--format", "csv"], "format=text, and this one has format=csv"),
    (["--scores", "logits"], "scores=probabilities"),
    (["--background", "white"], "background"),
    (["--ignore-exif"], "ignore-exif=0"),
    (["--embeddings", "e.npy"], "embeddings=0, and this one has embeddings=1"),
    (["-b", "4"], "batch-size=8"),
    (["--shard", "1/1"], None),
    (["--shard", "1/2"], "shard=1/1, and this one has shard=1/2"),
    (["--device", "reference"], "device=cpu"),
    (["--threads", "1"], None),
])
def test_other_options_are_refused(command, images, tmp_path, options, words):
    arguments = broken_run(command, images, tmp_path)
    done = run(command, *options, "--resume", *arguments)
    if words:
        assert_one_line(done, USAGE, words)
        assert run(command, "--resume", *arguments).returncode == DATA, "nothing was lost"
    else:
        assert done.returncode == DATA


def test_options_that_end_early_are_refused(command, images, tmp_path):
    arguments = broken_run(command, images, tmp_path)
    resume = tmp_path / "out.resume"
    header, records = resume.read_bytes()[:2048], resume.read_bytes()[2048:]
    resume.write_bytes(header.split(b"shard=")[0].ljust(2048, b"\0") + records)
    assert_one_line(run(command, "--resume", *arguments), USAGE,
                    f"{resume} is of a run with other options, and this one has shard=1/1; to begin anew, remove it")


def test_other_weights_and_files_are_refused(command, images, tmp_path):
    arguments = broken_run(command, images, tmp_path)
    other = write_tiny_model(tmp_path / "other.safetensors", seed=2)
    assert_one_line(run(command, "-m", other, "--resume", *arguments), USAGE, "weights=")
    swapped = [images[1], images[0], *images[2:], tmp_path / "slow"]
    assert_one_line(run(command, "--resume", "-o", tmp_path / "out", *swapped), USAGE, "are not those of the run")
    assert_one_line(run(command, "--resume", "-o", tmp_path / "out", images[0]), USAGE, "are not those of the run")
    more = [*arguments, images[3]]
    assert run(command, "--resume", *more).returncode == DATA
    assert (tmp_path / "out").read_text() == run(command, *images, tmp_path / "slow", images[3]).stdout


def test_lost_results_are_noticed(command, images, tmp_path):
    arguments = broken_run(command, images, tmp_path)
    (tmp_path / "out.partial").write_bytes(b"")
    assert_one_line(run(command, "--resume", *arguments), OUTPUT, "has lost what it held")


@pytest.mark.parametrize("name, data", [("out.resume", b"mine"), ("out.resume", b"m" * 5000), ("out.partial", b"mine")])
def test_what_is_not_ours_is_left_alone(command, images, tmp_path, name, data):
    (tmp_path / name).write_bytes(data)
    for options in ([], ["--resume"]):
        done = run(command, *options, "-o", tmp_path / "out", *images[:2])
        assert_one_line(done, OUTPUT, tmp_path / name, "in the way")
        assert (tmp_path / name).read_bytes() == data and os.listdir(tmp_path) == [name]


def test_damaged_resume_files(command, images, tmp_path):
    """Whatever is in it: the results are right, or one line says what is wrong."""
    arguments = broken_run(command, images, tmp_path)
    whole = run(command, *images, tmp_path / "slow").stdout
    resume, partial = tmp_path / "out.resume", tmp_path / "out.partial"
    good, results = resume.read_bytes(), partial.read_bytes()
    draw = np.random.default_rng(3)
    cases = [good[:n] for n in (0, 5, 16, 17, 2047, 2048, 2100, 2400)]
    for _ in range(20):
        data = np.frombuffer(good, np.uint8).copy()
        at = draw.integers(0, len(good), 3) if draw.random() < 0.5 else draw.integers(2048, len(good), 3)
        data[at] = draw.integers(0, 256, 3)
        cases.append(data.tobytes())
    for data in cases:
        resume.write_bytes(data)
        partial.write_bytes(results)
        done = run(command, "--resume", *arguments)
        assert done.returncode in (DATA, USAGE, OUTPUT), done
        if done.returncode == DATA:
            assert (tmp_path / "out").read_text() == whole
            (tmp_path / "out").unlink()
        else:
            assert done.stderr.count("\n") == 1


def test_two_at_a_time(command, images, tmp_path):
    os.mkfifo(tmp_path / "slow")
    arguments = [*map(str, ["-o", tmp_path / "out", *images, tmp_path / "slow"])]
    first = subprocess.Popen([*command, *arguments], stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    for _ in range(600):
        time.sleep(0.05)
        if (tmp_path / "out.partial").exists():
            break
    assert_one_line(run(command, *arguments, "--resume"), OUTPUT, "another process")
    first.kill()
    first.wait(60)
