"""What measure_python.py and measure_ray.py share."""

import statistics
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
PROGRAM = ROOT / "build/effnet"


def write_photos(folder, count):
    """JPEGs of ImageNet's usual size, of the samples rotated by more and more. Returns their paths."""
    samples = [Image.open(path).convert("RGB").resize((500, 375)) for path in sorted((ROOT / "samples").glob("*.*"))]
    paths = [folder / f"{i}.jpg" for i in range(count)]
    for i, path in enumerate(paths):
        samples[i % len(samples)].rotate(i).save(path, quality=90)
    return paths


def shown(values, scale=1.0):
    """The median and, in brackets, the least and the most."""
    low, high = scale * min(values), scale * max(values)
    return f"{scale * statistics.median(values):.4g} [{low:.4g} to {high:.4g}]"
