"""effnet classify where something gives out: memory, disk, a file that is read, a source. docs/robustness.md says what holds."""

import os
import resource
import subprocess
import sys
import threading
import time
import zlib

import numpy as np
import pytest
from cli_model import DATA, OUTPUT, write_image
from image_files import chunk
from test_formats import png_header, sparse

NO_MEMORY = 71

# A program between, since the peak that the system tells of a child begins with its parent's.
PEAK = """import resource, subprocess, sys
status = subprocess.run(sys.argv[1:], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode
print(status, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"""


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    return [write_image(folder / f"{i:02}.png", i) for i in range(12)]


@pytest.fixture(scope="module")
def command(build, tiny):
    return [build / "effnet", "classify", "-m", tiny, "--device", "cpu", "-q", "--format", "csv", "--no-header"]


def run(command, *arguments, **options):
    return subprocess.run([*command, *map(str, arguments)], capture_output=True, text=True, timeout=300,
                          stdin=subprocess.DEVNULL, check=False, **options)


def peak_bytes(command, *arguments):
    done = run([sys.executable, "-I", "-c", PEAK, *command], *arguments)
    return int(done.stdout.split()[1]) << 10


def limit(kind, size):
    return {"preexec_fn": lambda: resource.setrlimit(kind, (size, size))}


# ---------------------------------------------------------------- memory


def test_an_image_that_does_not_fit(command, images, tmp_path, sanitized):
    """It gets a line, the others their answers, also where it alone would fit, but not beside the session: from
    a limit that has no room for either to one that has room for both."""
    if sanitized:
        pytest.skip("sanitizers take address space without end")
    large = tmp_path / "large.png"
    rows = zlib.compress(bytes(13000 * (13000 // 8 + 1)))
    large.write_bytes(png_header(13000, 13000, 1, 0) + chunk(b"IDAT", rows) + chunk(b"IEND", b""))
    others, statuses = run(command, *images, *images).stdout, []
    for megabytes in (200, 520, 540, 550, 560, 570, 580, 640):
        done = run(command, "--threads", "1", *images, large, *images, **limit(resource.RLIMIT_AS, megabytes << 20))
        statuses.append(done.returncode)
        if done.returncode == 0:
            continue
        assert (done.returncode, done.stdout) == (NO_MEMORY, others), (megabytes, done.stderr)
        assert done.stderr.startswith(f"effnet: {large}: ") and done.stderr.count("\n") == 1, done.stderr
    assert statuses[0] == NO_MEMORY and statuses[-1] == 0


def test_large_files_share_memory(command, tmp_path, sanitized):
    """Fifteen threads read beside the one that decodes; of 48 MB each, two files at a time are in memory."""
    if sanitized:
        pytest.skip("sanitizers keep freed memory")
    files = [sparse(tmp_path / f"{i}.ppm", b"P6 4000 4100 255\n", 48 << 20) for i in range(12)]
    assert peak_bytes(command, "--threads", "1", *files) < 240 << 20


def test_names_take_no_memory(command, tmp_path, sanitized):
    """95,000 more, of 113 bytes each."""
    peaks = []
    for count in (5000, 100000):
        (tmp_path / "list").write_text("".join(f"/nonexistent/{i:0100}\n" for i in range(count)))
        peaks.append(peak_bytes(command, "--files-from", tmp_path / "list"))
    assert sanitized or peaks[1] < peaks[0] + (4 << 20)


# ---------------------------------------------------------------- files that change


def test_files_that_change_while_they_are_read(command, images, tmp_path):
    """Another thread cuts, lengthens, replaces and removes them: each is answered or named, once."""
    files = []
    for i in range(40):
        files.append(tmp_path / f"{i:02}.ppm")
        files[-1].write_bytes(b"P6 300 300 255\n" + bytes([i]) * 270000)
    whole, stop = files[0].read_bytes(), threading.Event()

    def change():
        draw = np.random.default_rng(1)
        while not stop.is_set():
            path, kind = files[draw.integers(len(files))], draw.integers(5)
            if kind == 0:
                path.unlink(missing_ok=True)
            elif kind == 1 and path.exists():
                os.truncate(path, draw.integers(len(whole)))
            elif kind == 2:
                (tmp_path / "new").write_bytes(whole)
                os.replace(tmp_path / "new", path)
            else:
                with open(path, "ab") as file:
                    file.write(whole[:100000])

    thread = threading.Thread(target=change)
    thread.start()
    try:
        for _ in range(3):
            done = run(command, *(files * 10))
            answers = [line.split(",")[0] for line in done.stdout.splitlines()]
            named = [line.split(": ")[1] for line in done.stderr.splitlines()]
            assert sorted(answers + named) == sorted(map(str, files * 10)), done.stderr
    finally:
        stop.set()
        thread.join()


def test_a_pipe_that_ends_early(command, images, tmp_path):
    os.mkfifo(tmp_path / "fifo")
    writer = threading.Thread(target=lambda: (tmp_path / "fifo").write_bytes(images[0].read_bytes()[:90]))
    writer.start()
    done = run(command, *images, tmp_path / "fifo")
    writer.join()
    assert done.returncode == DATA and done.stdout == run(command, *images).stdout
    assert done.stderr.startswith(f"effnet: {tmp_path / 'fifo'}: ") and done.stderr.count("\n") == 1, done.stderr


def opened_for_reading(path):
    """A descriptor to write to the pipe, once somebody reads it."""
    for _ in range(3000):
        try:
            return os.open(path, os.O_WRONLY | os.O_NONBLOCK)
        except OSError:
            time.sleep(0.02)
    raise AssertionError(f"nobody opens {path}")


def test_a_slow_file_does_not_hold_up_the_others(build, command, images, tmp_path):
    """The first gives nothing: the others are read and decoded all the same, as the last, a pipe, is; then come
    the answers, in order."""
    for name in ("first", "last"):
        os.mkfifo(tmp_path / name)
    names = [tmp_path / "first", *(images * 30), tmp_path / "last"]
    with subprocess.Popen([*command, *names], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True) as process:
        first = opened_for_reading(tmp_path / "first")
        last = opened_for_reading(tmp_path / "last")
        for descriptor in (last, first):
            os.write(descriptor, images[3].read_bytes())
            os.close(descriptor)
        assert [line.split(",")[0] for line in process.stdout] == list(map(str, names))
    assert process.returncode == 0


# ---------------------------------------------------------------- outputs


def test_going_on_after_a_full_disk(command, images, tmp_path):
    """What was written before the disk was full is not done again, nor lost."""
    out, array = tmp_path / "out", tmp_path / "out.npy"
    arguments = ["-o", out, "--logits", array, *(images * 20)]
    done = run(command, *arguments, **limit(resource.RLIMIT_FSIZE, 8192))
    assert done.returncode == OUTPUT and done.stderr.count("\n") == 1 and "File too large" in done.stderr, done.stderr
    assert not out.exists() and not array.exists()
    assert run(command, *arguments, "--resume").returncode == 0
    resumed = out.read_bytes(), array.read_bytes()
    assert run(command, *arguments).returncode == 0
    assert (out.read_bytes(), array.read_bytes()) == resumed
    assert out.read_text().count("\n") == 240


@pytest.mark.parametrize("name, start", [
    ("libwebp", b"RIFF\xf0\xff\xff\x00WEBPVP8 "),
    ("libtiff", b"II*\0\0\0\x10\0"),
    ("libavif", b"\0\0\0\x20ftypavif\0\0\0\0avifmif1miafMA1B\0\0\0\x08mdat"),
])
def test_without_its_library_a_file_is_not_read(command, tmp_path, name, start):
    """Where the library cannot be loaded, or the build is without: the rest of the file is not waited for."""
    for library in "libwebp.so.7", "libtiff.so.6", "libavif.so.13", "libavif.so.15", "libavif.so.16":
        (tmp_path / library).write_bytes(b"")
    process = subprocess.Popen([*command, "-"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                               env=os.environ | {"LD_LIBRARY_PATH": str(tmp_path)})
    process.stdin.write(start.ljust(64 << 10, b"\0"))
    process.stdin.flush()
    assert process.wait(60) == DATA, "it waits for more"
    assert process.stdout.read() == b""
    line = process.stderr.read().decode()
    assert line.count("\n") == 1 and f", which {name} reads; " in line, line
    for pipe in process.stdin, process.stdout, process.stderr:
        pipe.close()
