"""Fine-tuned heads, from the state dict to the classes: converted, then run by effnet, and held against the same network
in NumPy."""

import json
import sys

import numpy as np
import pytest
from convert_formats import write_zip
from convert_networks import ROOT, fine_tuned_head, run_convert, run_network, state_dict
from PIL import Image
from safetensors import safe_open

sys.path.insert(0, str(ROOT / "tools"))
import pillow_preprocess  # noqa: E402

CLASSES, HIDDEN = 7, (24, 40)
IMAGES = [ROOT / "samples" / name for name in ("maze.png", "remote_control.jpg")]


# The activations, and what else is said of the network.
HEADS = {
    "softmax": (["gelu_relu", "gelu_relu"], ["--size", "96"]),
    "multi-label": (
        ["hardswish", "tanh"],
        ["--size", "64", "--multi-label", "--resize", "squash", "--interpolation", "bilinear"],
    ),
}


@pytest.fixture(scope="module", params=HEADS)
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def weights(kind, tmp_path_factory):
    """The converted file."""
    folder = tmp_path_factory.mktemp("head")
    source = write_zip(folder / "tuned.pth", state_dict("sequential", head=fine_tuned_head(hidden=HIDDEN, classes=CLASSES)))
    labels = folder / "labels.txt"
    labels.write_text("".join(f"kind {i}\n" for i in range(CLASSES)))
    activations, options = HEADS[kind]
    options = ("--labels", labels, "--head-activations", ",".join(activations), *options)
    done = run_convert(source, folder / "tuned.safetensors", *options)
    assert done.returncode == 0, done.stderr
    return folder / "tuned.safetensors"


def run_json(effnet, *arguments):
    done = effnet(*arguments, "--format", "json")
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def expected(kind, weights):
    """Probabilities of both images, in float64."""
    with safe_open(weights, "np") as file:
        layers = json.loads(file.metadata()["network"])["layers"]
        tensors = {name: file.get_tensor(name) for name in file.keys()}
    preprocess = pillow_preprocess.read_preprocess(weights)
    crops = []
    for path in IMAGES:
        with Image.open(path) as image:
            crops.append(pillow_preprocess.fit(image, preprocess))
    logits = run_network(layers, tensors, pillow_preprocess.normalise(np.stack(crops), preprocess))["classifier.2"]
    if kind == "multi-label":
        return 1 / (1 + np.exp(-logits))
    e = np.exp(logits - logits.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def test_layers(effnet, kind, weights):
    info = json.loads(run_json(effnet, "info", "-m", weights))
    head = [layer for layer in info["layers"] if layer["op"] == "linear"]
    assert info["classes"] == CLASSES and info["layers"][-3:] == head
    assert [(layer["name"], layer["activation"]) for layer in head] == [
        (f"classifier.{i}", activation) for i, activation in enumerate([*HEADS[kind][0], "none"])]
    assert [layer["output"] for layer in head] == [[1, 1, width] for width in (*HIDDEN, CLASSES)]


@pytest.mark.parametrize("device", ["cpu", "reference"])
def test_classify(effnet, weights, expected, device):
    lines = run_json(effnet, "classify", "-m", weights, "--device", device, "-k", CLASSES, *IMAGES).splitlines()
    assert len(lines) == len(IMAGES)
    for line, probabilities in zip(map(json.loads, lines), expected):
        got = {entry["index"]: entry["probability"] for entry in line["classes"]}
        assert sorted(got) == list(range(CLASSES))
        np.testing.assert_allclose([got[i] for i in range(CLASSES)], probabilities, rtol=1e-3, atol=1e-6)
        assert all(entry["label"] == f"kind {entry['index']}" for entry in line["classes"])
        assert line["classes"][0]["index"] == np.argmax(probabilities)


def test_verify(effnet, weights):
    report = json.loads(run_json(effnet, "verify", "-m", weights, "--device", "cpu", "--batch-size", "2"))
    assert report["ok"] is True
    units = " ".join(unit["layers"] for unit in report["units"])
    assert all(f"classifier.{i}" in units for i in range(3))
