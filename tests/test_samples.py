"""samples/: each is recognised as what it is named after, and is what tools/draw_samples.py draws."""

import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tools"))
import draw_samples

FOLDER = Path(__file__).resolve().parent.parent / "samples"
NAMES = sorted(draw_samples.SAMPLES)


def test_committed():
    assert sorted(p.name for p in FOLDER.iterdir()) == NAMES
    assert sum(p.stat().st_size for p in FOLDER.iterdir()) < 300_000


@pytest.mark.parametrize("name", NAMES)
def test_redrawn(name):
    with Image.open(FOLDER / name) as committed, Image.open(io.BytesIO(draw_samples.sample_bytes(name))) as drawn:
        assert committed.mode == drawn.mode and committed.info.keys() == drawn.info.keys()
        assert committed.getexif() == drawn.getexif()
        assert committed.getpalette() == drawn.getpalette()
        np.testing.assert_array_equal(np.asarray(committed), np.asarray(drawn))


def test_recognised(effnet, lite1):
    """One call for all of them, so that they also go through batches."""
    done = effnet("classify", "-m", lite1, "-k", "1", "-b", "4", "--format", "json", *(FOLDER / n for n in NAMES))
    assert done.returncode == 0, done.stderr
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert [Path(a["filename"]).name for a in answers] == NAMES
    found = {n: a["classes"][0]["label"].replace(" ", "_") for n, a in zip(NAMES, answers)}
    assert found == {n: Path(n).stem for n in NAMES}


def test_formats_are_the_promised_ones():
    """The kinds of file that the samples are there to show."""
    header = {n: (FOLDER / n).read_bytes()[:33] for n in NAMES}
    png = {n: (h[24], h[25], h[28]) for n, h in header.items() if n.endswith(".png")}  # depth, colour type, interlace
    assert {(16, 2, 0), (8, 0, 0), (8, 3, 0), (8, 6, 0), (8, 2, 1), (8, 2, 0)} == set(png.values())
    with Image.open(FOLDER / "crossword_puzzle.png") as image:
        assert "transparency" in image.info
    with Image.open(FOLDER / "remote_control.jpg") as image:
        assert image.getexif()[0x0112] == 6 and image.size == (400, 280)
