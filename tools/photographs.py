#!/usr/bin/env python3
"""Photographs that Debian and Python packages ship, and crops of them: the tests compare answers on these, and integer
networks are calibrated with them.

    tools/photographs.py FOLDER COUNT SEED    writes COUNT crops into FOLDER, the same for the same seed

The wheels lie in .cache/photos (tools/requirements-photos.txt), Debian's package is mate-backgrounds.
"""

import io
import random
import sys
import zipfile
from pathlib import Path

from PIL import Image

WHEELS = Path(__file__).resolve().parents[1] / ".cache" / "photos"
SKIMAGE = """astronaut.png brick.png camera.png chelsea.png coffee.png coins.png grass.png gravel.png
    hubble_deep_field.jpg moon.png motorcycle_left.png retina.jpg rocket.jpg""".split()
SKLEARN = ["china.jpg", "flower.jpg"]
DEBIAN = Path("/usr/share/backgrounds/mate/nature")  # package mate-backgrounds


class PhotographsMissing(Exception):
    """A package with photographs is not there."""


def photographs():
    """The photographs as RGB images, in a fixed order."""
    for wheel, names in (("scikit_image-*.whl", SKIMAGE), ("scikit_learn-*.whl", SKLEARN)):
        paths = list(WHEELS.glob(wheel))
        if len(paths) != 1:
            raise PhotographsMissing(f"{WHEELS}: {len(paths)} {wheel}, where one is wanted: run "
                                     "tools/fetch_wheels.sh tools/requirements-photos.txt .cache/photos")
        with zipfile.ZipFile(paths[0]) as archive:
            members = {Path(m).name: m for m in archive.namelist() if Path(m).name in names}
            for name in names:
                yield Image.open(io.BytesIO(archive.read(members[name]))).convert("RGB")
    paths = sorted(DEBIAN.glob("*.jpg"))
    if not paths:
        raise PhotographsMissing(f"{DEBIAN}: no photographs there: install Debian's package mate-backgrounds")
    for path in paths:
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


def write_crops(folder, count, seed):
    """Cuts `count` crops, of each photograph in turn, into JPEGs in a folder, and returns their paths."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    images, rng, paths = list(photographs()), random.Random(seed), []
    for i in range(count):
        paths.append(folder / f"{i:03}.jpg")
        paths[-1].write_bytes(cut(images[i % len(images)], rng))
    return paths


def main(arguments):
    if len(arguments) != 3:
        sys.exit(__doc__)
    folder, count, seed = arguments
    try:
        write_crops(folder, int(count), int(seed))
    except (PhotographsMissing, OSError, ValueError) as error:
        sys.exit(f"photographs.py: {error}")


if __name__ == "__main__":
    main(sys.argv[1:])
