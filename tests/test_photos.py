"""Real photographs as JPEG: every answer must be onnxruntime's after Pillow. (In a build without libjpeg-turbo
stb_image decodes them, which differs from Pillow by a level or two here and there: two answers may.) A hundred
crops of varying size, shape, quality and chroma subsampling, cut with a fixed seed from photographs that Debian
and Python packages ship."""

import io
import json
import random
import sys
import zipfile
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))
import pillow_preprocess

COUNT, SEED = 100, 20
WHEELS = ROOT / ".cache" / "photos"
SKIMAGE = """astronaut.png brick.png camera.png chelsea.png coffee.png coins.png grass.png gravel.png
    hubble_deep_field.jpg moon.png motorcycle_left.png retina.jpg rocket.jpg""".split()
SKLEARN = ["china.jpg", "flower.jpg"]
DEBIAN = Path("/usr/share/backgrounds/mate/nature")  # package mate-backgrounds


def photographs():
    """The photographs as RGB images, in a fixed order."""
    for wheel, names in (("scikit_image-*.whl", SKIMAGE), ("scikit_learn-*.whl", SKLEARN)):
        (path,) = WHEELS.glob(wheel)
        with zipfile.ZipFile(path) as archive:
            members = {Path(m).name: m for m in archive.namelist() if Path(m).name in names}
            for name in names:
                yield Image.open(io.BytesIO(archive.read(members[name]))).convert("RGB")
    for path in sorted(DEBIAN.glob("*.jpg")):
        yield Image.open(path).convert("RGB")


def cut(image, rng):
    """A crop of half to all of each side, and in one case of three made smaller, as JPEG."""
    width, height = (round(side * rng.uniform(0.5, 1)) for side in image.size)
    left, top = rng.randint(0, image.width - width), rng.randint(0, image.height - height)
    crop = image.crop((left, top, left + width, top + height))
    largest = rng.choice([None, 1000, 400])
    if largest:
        crop.thumbnail((largest, largest), Image.Resampling.LANCZOS)
    out = io.BytesIO()
    crop.save(out, "JPEG", quality=rng.choice([60, 75, 90, 95]), subsampling=rng.choice([0, 1, 2]),
              progressive=rng.random() < 0.25)
    return out.getvalue()


@pytest.fixture(scope="module")
def crops(build):
    folder = build / "photos"
    folder.mkdir(exist_ok=True)
    images, rng, paths = list(photographs()), random.Random(SEED), []
    assert len(images) >= 25
    for i in range(COUNT):
        paths.append(folder / f"{i:03}.jpg")
        paths[-1].write_bytes(cut(images[i % len(images)], rng))
    return paths


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
