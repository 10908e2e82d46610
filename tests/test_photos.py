"""Real photographs as JPEG: every answer must be onnxruntime's after Pillow. (In a build without libjpeg-turbo
stb_image decodes them, which differs from Pillow by a level or two here and there: two answers may.) A hundred
crops of varying size, shape, quality and chroma subsampling, cut with a fixed seed from photographs that Debian
and Python packages ship."""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))
import photographs
import pillow_preprocess

COUNT, SEED = 100, 20


@pytest.fixture(scope="module")
def crops(build):
    return photographs.write_crops(build / "photos", COUNT, SEED)


@pytest.mark.parametrize("network", ["lite1", "lite0", "lite2"])
def test_top1_agrees_with_onnxruntime(effnet, network, crops, has_libjpeg):
    weights, onnx = (ROOT / "weights" / f"{network}.{ending}" for ending in ("safetensors", "onnx"))
    if network != "lite1" and not (weights.exists() and onnx.exists()):
        pytest.skip(f"no weights of {network} (make weights NETWORKS={network})")
    preprocess = pillow_preprocess.read_preprocess(weights)
    session = onnxruntime.InferenceSession(str(onnx), providers=["CPUExecutionProvider"])
    wanted = []
    for path in crops:
        with Image.open(path) as image:
            pixels = pillow_preprocess.fit(image, preprocess)
        (logits,) = session.run(None, {"input": pillow_preprocess.normalise(pixels[None], preprocess)})
        wanted.append(int(np.argmax(logits[0])))

    done = effnet("classify", "-m", weights, "--device", "cpu", "-k", "1", "-b", "8", "--format", "json", *crops)
    assert done.returncode == 0, done.stderr
    found = [json.loads(line)["classes"][0]["index"] for line in done.stdout.splitlines()]
    assert len(found) == COUNT
    differ = [path.name for path, f, w in zip(crops, found, wanted) if f != w]
    print(len(differ), "of", COUNT, "differ;", len(set(wanted)), "different answers")
    assert len(differ) <= (0 if has_libjpeg else 2), f"seed {SEED}: {differ}"
    assert len(set(wanted)) >= 20, "the photographs are to show different things"
