"""A very small network and images for it, so that the command line's tests cost next to nothing, and what these
share."""

import json
import subprocess

import numpy as np
from PIL import Image
from safetensors.numpy import save_file

CROP = 16
# Exit statuses.
USAGE, DATA, NO_INPUT, UNAVAILABLE, OUTPUT = 64, 65, 66, 69, 74
LABELS = [
    ("n00000001", "plain"),
    ("n00000002", "comma, inside"),
    ("n00000003", 'a "quoted" one'),
    ("n00000004", "Übergröße"),
    ("n00000005", " spaced "),
    ("n00000006", "last"),
]


def write_tiny_model(path, seed=1, side=CROP, classes=len(LABELS), bias=None, multi_label=False, **preprocess):
    """Writes a network of three layers: a 3x3 convolution, the pool, a classifier of up to six classes. With `bias`, the
    logits are these numbers whatever the image is. `preprocess`: what is other than usual."""
    labels = LABELS[:classes if bias is None else len(bias)]
    random = np.random.default_rng(seed)
    layers = [
        {"name": "stem", "op": "conv", "in": 3, "out": 8, "activation": "relu6", "kernel": 3, "stride": 2,
         "pad": [0, 0, 1, 1]},
        {"name": "pool", "op": "pool", "in": 8, "out": 8},
        {"name": "classifier", "op": "linear", "in": 8, "out": len(labels), "activation": "none"},
    ]
    tensors = {
        "stem.weight": random.normal(0, 0.5, (8, 3, 3, 3)),
        "stem.bias": random.normal(0.5, 0.5, 8),
        "classifier.weight": random.normal(0, 1, (len(labels), 8)),
        "classifier.bias": random.normal(0, 1, len(labels)),
    }
    if bias is not None:
        tensors |= {"classifier.weight": np.zeros((len(labels), 8)), "classifier.bias": np.array(bias)}
    network = {"name": "tiny", "input": [3, side, side], "layers": layers}
    if multi_label:
        network["multi_label"] = True
    metadata = {
        "format": "effnet",
        "format_version": "2" if multi_label or "resize" in preprocess else "1",
        "network": json.dumps(network),
        "preprocess": json.dumps({"short_side": side + 2, "crop": side, "interpolation": "bicubic",
                                  "mean": [127, 127, 127], "std": [128, 128, 128]} | preprocess),
        "labels": json.dumps([{"id": i, "name": n} for i, n in labels]),
        "source": json.dumps({"file": "seeded", "sha256": "0" * 64}),
    }
    save_file({k: v.astype(np.float32) for k, v in tensors.items()}, path, metadata)
    return path


def write_image(path, seed, size=(24, 20)):
    """Writes a seeded PNG of random blocks, each seed another."""
    blocks = np.random.default_rng(seed).integers(0, 256, (3, 4, 3), np.uint8)
    with open(path, "wb") as file:
        Image.fromarray(blocks).resize(size, Image.Resampling.NEAREST).save(file, "PNG")
    return path


def assert_one_line(done, status, *words):
    """It failed with `status`, nothing on standard output, and one line that holds the words."""
    assert done.returncode == status, done.stderr
    assert done.stdout == ""
    assert done.stderr.startswith("effnet: ") and done.stderr.count("\n") == 1, done.stderr
    for word in words:
        assert str(word) in done.stderr


def run_with_stdout(build, arguments, stdout, **options):
    return subprocess.run([build / "effnet", *arguments], stdin=subprocess.DEVNULL, stdout=stdout,
                          stderr=subprocess.PIPE, text=True, timeout=300, check=False, **options)
