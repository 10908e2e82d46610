"""Conversions as tests make them, and what they ask of these."""

import json
import tempfile
from pathlib import Path

import pytest
from convert_formats import write_safetensors
from convert_networks import assert_one_line_error, run_convert
from safetensors import safe_open


@pytest.fixture
def tmp_path():
    """Removed at once: these tests write gigabytes in all."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def load(path):
    """(metadata with its JSON parsed, tensors), by the safetensors package."""
    with safe_open(str(path), "numpy") as file:
        metadata = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}
    for key in ("network", "preprocess", "labels", "source"):
        metadata[key] = json.loads(metadata[key])
    return metadata, tensors


def converted(folder, state, *options, write=write_safetensors):
    """Writes the state dict, converts it, and loads what came out."""
    source = write(folder / "source.bin", state)
    result = run_convert(source, folder / "out.safetensors", *options)
    assert result.returncode == 0, result.stderr
    notice = f"convert.py: {source}: 1000 classes without --labels: ImageNet's names are taken\n"
    assert result.stderr in ("", notice)
    return load(folder / "out.safetensors")


def refused(folder, state, *words, options=(), status=65):
    source = write_safetensors(folder / "source.bin", state)
    out = folder / "out.safetensors"
    assert_one_line_error(run_convert(source, out, *options), status, *words)
    assert not out.exists()


def labels_file(folder, text):
    path = folder / "labels.txt"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path
