"""Fixtures for the tests of the Python package, which are run by `make check-python`: against what the wheel in
build/python holds, unpacked beside it, and the program of the same build."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BUILD = (ROOT / os.environ.get("EFFNET_BUILD", "build")).resolve()
PACKAGE = BUILD / "python" / "package"
sys.path[:0] = [str(PACKAGE), str(ROOT / "tests")]
os.environ["PYTHONPATH"] = str(PACKAGE)  # for programs that a test starts
os.environ.pop("EFFNET_MODEL", None)

import effnet
from cli_model import write_image, write_tiny_model


@pytest.fixture(scope="session")
def root():
    return ROOT


@pytest.fixture(scope="session")
def package():
    """The folder that holds the unpacked package."""
    return PACKAGE


@pytest.fixture(scope="session")
def program():
    """program(arguments...) -> the CompletedProcess of the command line."""

    def run(*arguments, **options):
        return subprocess.run([BUILD / "effnet", *map(str, arguments)], stdin=subprocess.DEVNULL, capture_output=True,
                              text=True, timeout=120, check=False, **options)

    return run


@pytest.fixture(scope="session")
def python():
    """python(source, arguments...) -> the CompletedProcess of another Python."""

    def run(source, *arguments, **options):
        options.setdefault("timeout", 60)
        return subprocess.run([sys.executable, "-c", source, *map(str, arguments)], stdin=subprocess.DEVNULL,
                              capture_output=True, text=True, check=False, **options)

    return run


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """The weights of a very small network: crops of 16 x 16, six classes."""
    return write_tiny_model(tmp_path_factory.mktemp("model") / "tiny.safetensors")


@pytest.fixture(scope="session")
def model(tiny):
    return effnet.Model(tiny)


@pytest.fixture(scope="session")
def photos(tmp_path_factory):
    """Twelve images, as paths."""
    folder = tmp_path_factory.mktemp("photos")
    return [str(write_image(folder / f"{i}.png", i)) for i in range(12)]


@pytest.fixture
def session(model):
    with model.session("cpu", batch=4, threads=2) as opened:
        yield opened
