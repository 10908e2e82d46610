"""Fixtures for all Python tests.

The program under test is the one in the build folder that $EFFNET_BUILD names (default: build), so that
`make check SAN=1` runs the same tests against the sanitized program, but for those that never reach the fixture
`build`: a sanitizer sees nothing of Python.
"""

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from cli_model import write_image, write_tiny_model
from convert_networks import run_convert

ROOT = Path(__file__).resolve().parent.parent
BUILD = (ROOT / os.environ.get("EFFNET_BUILD", "build")).resolve()
# A program that fails leaves its threads to the system: one of them may be waiting for standard input for ever.
# The C tests are told of threads that nobody joins.
os.environ["TSAN_OPTIONS"] = os.environ.get("TSAN_OPTIONS", "") + " report_thread_leaks=0"


def is_sanitized():
    flags = BUILD / "cc.flags"
    return flags.exists() and "-fsanitize" in flags.read_text()


def pytest_collection_modifyitems(config, items):
    if is_sanitized():
        config.hook.pytest_deselected(items=[item for item in items if "build" not in item.fixturenames])
        items[:] = [item for item in items if "build" in item.fixturenames]


def run_effnet(*arguments, timeout=600, **options):
    """Runs the program with the given arguments and returns the CompletedProcess, output captured as text."""
    options.setdefault("text", True)
    options.setdefault("cwd", ROOT)
    if "input" not in options:
        options.setdefault("stdin", subprocess.DEVNULL)
    return subprocess.run([str(BUILD / "effnet"), *map(str, arguments)], stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, timeout=timeout, check=False, **options)


@pytest.fixture(scope="session")
def root():
    """The repository's root folder."""
    return ROOT


@pytest.fixture(scope="session")
def build():
    """The build folder under test."""
    return BUILD


@pytest.fixture(scope="session")
def effnet(build):
    """run_effnet: a function that runs the program under test."""
    assert (build / "effnet").exists(), f"{build / 'effnet'} is not built: run `make`"
    return run_effnet


@pytest.fixture(scope="session")
def sanitized():
    """Whether the program under test was built with sanitizers (slow, and larger in memory)."""
    return is_sanitized()


@pytest.fixture(scope="session")
def has_libjpeg():
    """Whether the program under test decodes JPEG through libjpeg-turbo, not stb_image."""
    return "-DEFFNET_HAVE_JPEG" in (BUILD / "cc.flags").read_text()


@pytest.fixture(scope="session")
def has_libwebp():
    """Whether the program under test was built to read WebP."""
    return "-DEFFNET_HAVE_WEBP" in (BUILD / "cc.flags").read_text()


@pytest.fixture(scope="session")
def has_libtiff():
    """Whether the program under test was built to read TIFF."""
    return "-DEFFNET_HAVE_TIFF" in (BUILD / "cc.flags").read_text()


@pytest.fixture(scope="session")
def has_libavif():
    """Whether the program under test was built to read AVIF."""
    return "-DEFFNET_HAVE_AVIF" in (BUILD / "cc.flags").read_text()


def weights_file(name):
    path = ROOT / "weights" / name
    assert path.exists(), f"{path} is missing: run `make weights`"
    return path


@pytest.fixture(scope="session")
def lite1():
    """The converted EfficientNet-Lite1 weights."""
    return weights_file("lite1.safetensors")


@pytest.fixture(scope="session")
def b1_plain():
    """The seeded random weights of the seven-block network."""
    return weights_file("b1-plain.safetensors")


@pytest.fixture(scope="session")
def b1_files(tmp_path_factory):
    """Seeded random weights of EfficientNet-B1 and their ONNX export."""
    folder = tmp_path_factory.mktemp("b1")
    weights, onnx = folder / "b1.safetensors", folder / "b1.onnx"
    made = run_convert("--arch", "b1", "--random", 1, weights, "--onnx", onnx)
    assert made.returncode == 0, made.stderr
    return weights, onnx


@pytest.fixture(scope="session")
def b1(b1_files):
    """Seeded random weights of EfficientNet-B1: squeeze-and-excite and SiLU."""
    return b1_files[0]


@pytest.fixture(scope="session")
def lite1_onnx():
    """EfficientNet-Lite1 exported for other runtimes, batch norm not folded."""
    return weights_file("lite1.onnx")


@pytest.fixture(scope="session")
def b1_plain_onnx():
    """The seven-block network exported for other runtimes, batch norm not folded."""
    return weights_file("b1-plain.onnx")


@pytest.fixture(scope="session")
def runner(build):
    program = build / "tests" / "run_fit_image"
    assert program.exists(), f"{program} is not built: run `make tests`"

    def run(*arguments, **options):
        return subprocess.run([program, *map(str, arguments)], capture_output=True, timeout=300, check=False,
                              **options)
    return run


@pytest.fixture(scope="session")
def decode_all(runner):
    """Paths -> an array [height][width][3] each, by one start of the program."""
    def decode_paths(paths, *options):
        done = runner(*options, "decode", *paths)
        assert done.returncode == 0, done.stderr.decode()
        images, rest = [], done.stdout
        for _ in paths:
            header, rest = rest.split(b"\n", 1)
            width, height = map(int, header.split()[:2])
            images.append(np.frombuffer(rest, np.uint8, width * height * 3).reshape(height, width, 3))
            rest = rest[width * height * 3:]
        assert not rest
        return images
    return decode_paths


@pytest.fixture(scope="session")
def decode(decode_all):
    """Path -> array [height][width][3]."""
    return lambda path, *options: decode_all([path], *options)[0]


@pytest.fixture(scope="session")
def fit(runner):
    """Path -> crop [crop][crop][3]."""
    def fit_path(path, short_side=272, crop=240, interpolation="bicubic"):
        done = runner("fit", short_side, crop, interpolation, path)
        assert done.returncode == 0, done.stderr.decode()
        return np.frombuffer(done.stdout, np.uint8).reshape(crop, crop, 3)
    return fit_path


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """The very small network of cli_model, in a weights file."""
    return write_tiny_model(tmp_path_factory.mktemp("model") / "tiny.safetensors")


@pytest.fixture
def image(tmp_path):
    """One image for it."""
    return write_image(tmp_path / "image.png", 1)


@pytest.fixture(scope="session")
def classify(effnet, tiny):
    """classify(files..., option=...) -> CompletedProcess, of a tiny network on the CPU"""
    return lambda *arguments, **options: effnet("classify", "-m", tiny, "--device", "cpu", *arguments, **options)
