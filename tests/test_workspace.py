"""A workspace, which decodes no more of an image than its crop needs and keeps its memory, against the functions for
whole images: every byte of the crop and every word of the refusals, over files in random order."""

import io
import subprocess

import numpy as np
import pytest
from PIL import Image

from pixels import SEED, exif_block, smooth_image

SAMPLINGS = ["1x1", "2x1", "1x2", "2x2", "4x1", "1x4", "4x2", "2x4", "3x1", "1x3", "1x1,2x2,2x2", "2x2,2x1,1x2",
             "2x2,2x2,1x1", "2x1,1x1,2x1"]
OPTIONS = ["", "-progressive", "-arithmetic", "-arithmetic -progressive", "-restart 1", "-restart 3B -progressive",
           "-restart 5B", "-rgb", "-grayscale", "-grayscale -progressive", "-optimize -quality 100", "scans"]
SIZES = [(1, 1), (3, 700), (700, 3), (33, 31), (64, 64), (100, 300), (301, 99), (333, 251), (251, 333), (500, 375),
         (640, 201), (201, 640), (512, 512)]


@pytest.fixture
def same(build, sanitized):
    """A function: `rounds` over these files show no difference; gives how many images were fitted and refused."""
    def run(paths, rounds, **options):
        rounds = rounds // 8 if sanitized else rounds
        done = subprocess.run([build / "tests" / "run_workspace", str(SEED), str(rounds), *paths],
                              capture_output=True, timeout=600, check=False, **options)
        assert done.returncode == 0, done.stderr.decode()
        return tuple(map(int, done.stdout.split()))
    return run


def cjpeg(image, script, options, sampling):
    ppm = io.BytesIO()
    image.save(ppm, "PPM")
    scans = ["-scans", script] if "scans" in options else []
    return subprocess.run(["cjpeg", *options.replace("scans", "").split(), *scans, "-sample", sampling],
                          input=ppm.getvalue(), stdout=subprocess.PIPE, check=True).stdout


def turned(data, orientation):
    block = b"Exif\0\0" + exif_block(orientation, ">")
    return data[:2] + b"\xff\xe1" + (len(block) + 2).to_bytes(2, "big") + block + data[2:]


@pytest.fixture
def jpegs(tmp_path):
    """One file of each kind of coding and each sampling, of sizes and orientations drawn for it."""
    rng = np.random.default_rng(SEED)
    (tmp_path / "script").write_text("0;1;2;")
    paths = []
    for options in OPTIONS:
        for sampling in SAMPLINGS:
            width, height = SIZES[rng.integers(len(SIZES))]
            data = cjpeg(smooth_image(width, height, rng), tmp_path / "script", options, sampling)
            if rng.random() < 0.6:
                data = turned(data, int(rng.integers(1, 9)))
            paths.append(tmp_path / f"{len(paths)}-{sampling.replace(',', '_')}{options.replace(' ', '_')}.jpg")
            paths[-1].write_bytes(data)
    for i, (width, height) in enumerate(SIZES):
        out = io.BytesIO()
        smooth_image(width, height, rng).convert("CMYK").save(out, "JPEG", progressive=i % 3 == 0)
        paths.append(tmp_path / f"cmyk{i}.jpg")
        paths[-1].write_bytes(turned(out.getvalue(), 1 + i % 8))
    return paths


def damaged(data, rng):
    """Cut, with and without an end marker behind it, or with some bytes overwritten."""
    kind = rng.integers(3)
    if kind < 2:
        return data[:rng.integers(3, len(data))] + (b"\xff\xd9" if kind else b"")
    data = bytearray(data)
    for at in rng.integers(3, len(data), rng.integers(1, 6)):
        data[at] = rng.integers(256)
    return bytes(data)


def test_jpegs(has_libjpeg, same, jpegs):
    fitted, refused = same(jpegs, 4000)
    assert fitted > 0 and (refused == 0 or not has_libjpeg)


def test_damaged_jpegs(same, jpegs, tmp_path):
    """What is refused and what is let pass does not depend on how much is decoded."""
    rng, paths = np.random.default_rng(SEED), list(jpegs)
    for i in range(1000):
        paths.append(tmp_path / f"damaged{i}.jpg")
        paths[-1].write_bytes(damaged(jpegs[rng.integers(len(jpegs))].read_bytes(), rng))
    fitted, refused = same(paths, 4000)
    assert refused > 100 and fitted > 100


def test_large_and_small(same, jpegs, tmp_path):
    """Files of other formats, large ones and bad ones between the JPEGs."""
    rng, paths = np.random.default_rng(SEED), [*jpegs[::20], tmp_path / "missing.jpg", tmp_path]
    for i, format_name in enumerate(["PNG", "BMP", "GIF", "TGA", "PPM", "JPEG"]):
        for width, height in [(1, 1), (160, 120), (2600, 1900)]:
            path = tmp_path / f"{width}.{format_name.lower()}"
            smooth_image(width, height, rng).save(path, format_name)
            paths.append(path)
        bad = tmp_path / f"bad{i}"
        bad.write_bytes(damaged((tmp_path / f"160.{format_name.lower()}").read_bytes(), rng))
        paths.append(bad)
    alpha = np.zeros((50, 60, 4), np.uint8)
    alpha[10:20, :, 3] = 255
    Image.fromarray(alpha).save(tmp_path / "blank.png")
    (tmp_path / "empty").write_bytes(b"")
    fitted, refused = same([*paths, tmp_path / "blank.png", tmp_path / "empty"], 400)
    assert refused > 0 and fitted > 0
