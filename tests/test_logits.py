"""Logits against onnxruntime, which runs the exported networks with their batch norm not folded: an
independent reading of padding, folding, residuals, squeeze-and-excite and normalisation."""

import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))
from peers.common import Effnet
from pillow_preprocess import fit, normalise, read_preprocess

NETWORKS = ["lite1", "b1-plain", "b1"]
ALLOWANCE = 1e-5  # relative L2 of an image's logits
IMAGES = 7


def drawn(seed, crop):
    """Images without noise, uint8 [2][crop][crop][3]: soft blobs of colour, and hard-edged stripes."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:crop, :crop] / crop
    soft = np.zeros((crop, crop, 3))
    for _ in range(12):
        cx, cy, width = *random.random(2), random.uniform(0.03, 0.3)
        soft += np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / width**2)[..., None] * random.uniform(-120, 120, 3)
    angle, pitch = random.uniform(0, np.pi), random.uniform(0.02, 0.2)
    stripes = ((x * np.cos(angle) + y * np.sin(angle)) / pitch % 1 < 0.5)[..., None]
    hard = np.where(stripes, random.uniform(0, 255, 3), random.uniform(0, 255, 3))
    return np.stack([np.clip(soft + 127, 0, 255), hard]).round().astype(np.uint8)


@pytest.fixture(scope="module", params=NETWORKS)
def network(request, lite1, lite1_onnx, b1_plain, b1_plain_onnx, b1_files):
    """A network's weights file, IMAGES crops and onnxruntime's logits for them."""
    weights, onnx = {"lite1": (lite1, lite1_onnx), "b1-plain": (b1_plain, b1_plain_onnx), "b1": b1_files}[request.param]
    preprocess = read_preprocess(weights)
    crop = preprocess["crop"]
    samples = sorted(p for p in (ROOT / "samples").iterdir() if p.suffix in (".png", ".jpg"))[:2]
    random = np.random.default_rng(5)
    print("seeds: drawings 3 and 4, noise 5")
    pixels = np.concatenate(
        [drawn(3, crop), drawn(4, crop), random.integers(0, 256, (1, crop, crop, 3), np.uint8)]
        + [fit(Image.open(path), preprocess)[None] for path in samples])
    assert len(pixels) == IMAGES
    if request.param == "b1":
        # Where an image is flat, onnxruntime's float sums over 14400 equal pixels are off by 1e-4 of the mean, which
        # squeeze-and-excite takes. A little noise everywhere, and their rounding has no direction.
        noise = random.integers(-16, 17, pixels.shape)
        pixels = np.clip(pixels + noise, 0, 255).astype(np.uint8)
    session = onnxruntime.InferenceSession(str(onnx), providers=["CPUExecutionProvider"])
    expected = session.run(["logits"], {"input": normalise(pixels, preprocess)})[0]
    return weights, pixels, expected


# The reference is slow, so it takes one image; the rest runs both with a thread an image and with all
# threads on one.
@pytest.mark.parametrize("device, threads, max_batch, images", [
    ("reference", 1, 1, 1), ("cpu", 1, 1, IMAGES), ("cpu", 2, 1, IMAGES), ("cpu", 3, 1, IMAGES), ("cpu", 2, 4, IMAGES),
    ("cpu", 5, IMAGES, IMAGES)])
def test_logits(network, build, device, threads, max_batch, images):
    weights, pixels, expected = network
    # Of b1's 163 layers two float computations each stay within 1e-5 of the reference (test_cli_measure.py).
    allowance = 2 * ALLOWANCE if weights.stem == "b1" and device == "cpu" else ALLOWANCE
    effnet = Effnet(build, weights, device, "fp32", threads, max_batch)
    try:
        got = []
        for first in range(0, images, max_batch):
            effnet.pixels(pixels[first:min(first + max_batch, images)])
            got.append(effnet.logits())
        got = np.concatenate(got).astype(np.float64)
    finally:
        effnet.close()
    assert got.shape == (images, expected.shape[1])
    expected = expected[:images].astype(np.float64)
    errors = np.linalg.norm(got - expected, axis=1) / np.linalg.norm(expected, axis=1)
    print("relative L2:", errors)
    assert (errors <= allowance).all(), errors  # a NaN is not
    assert (got.argmax(axis=1) == expected.argmax(axis=1)).all()


def test_logits_tell_images_apart(network):
    """Else the comparison above would be worth little."""
    expected = network[2].astype(np.float64)
    for i in range(IMAGES):
        for j in range(i):
            assert np.linalg.norm(expected[i] - expected[j]) > 100 * ALLOWANCE * np.linalg.norm(expected[i])
