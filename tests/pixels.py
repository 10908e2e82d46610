"""What the tests of decoding and preprocessing share: the library's pixels come from the fixtures `runner`,
`decode` and `fit` of conftest.py, Pillow's from here."""

import struct

import numpy as np
from PIL import Image, ImageOps

SEED = 20240607
E_USAGE, E_DATA, E_NOINPUT, E_NOMEM = 1, 2, 3, 6  # minus the statuses of include/effnet.h


def pillow_rgb(path):
    """What the library should decode `path` to, by Pillow."""
    with Image.open(path) as image:
        image = ImageOps.exif_transpose(image)
        if image.mode.startswith("I"):
            grey = (np.asarray(image).astype(np.uint32) >> 8).astype(np.uint8)
            return Image.fromarray(grey).convert("RGB")
        return image.convert("RGB")


def pillow_fit(image, short_side=272, crop=240, interpolation="bicubic"):
    """torchvision's Resize and CenterCrop on a Pillow image; with a short side of "squash", its Resize((crop, crop))."""
    width, height = image.size
    if short_side == "squash":
        size = crop, crop
    elif width <= height:
        size = short_side, int(short_side * height / width)
    else:
        size = int(short_side * width / height), short_side
    filters = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
    image = image.resize(size, filters[interpolation])
    left, top = (round((side - crop) / 2.0) for side in size)
    return np.asarray(image.crop((left, top, left + crop, top + crop)))


def assert_same(ours, theirs, tolerance=0):
    theirs = np.asarray(theirs)
    assert ours.shape == theirs.shape
    difference = np.abs(ours.astype(int) - theirs.astype(int))
    worst = np.unravel_index(np.argmax(difference), difference.shape)
    assert difference.max() <= tolerance, \
        f"{np.count_nonzero(difference > tolerance)} of {difference.size} bytes differ, the worst at " \
        f"{tuple(map(int, worst))}: {ours[worst]} for {theirs[worst]}"


def assert_refused(runner, tmp_path, content, reason, *options):
    """The library says in one line why it does not decode these bytes."""
    path = tmp_path / "image"
    path.write_bytes(content)
    done = runner(*options, "decode", path)
    message = done.stderr.decode()
    assert done.returncode == E_DATA and message.startswith(f"{path}: ") and reason in message, message
    assert message.count("\n") == 1


def smooth_image(width, height, seed=SEED):
    """Something like a photo: soft shapes, edges, and a little noise."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (height // 10 + 2, width // 10 + 2, 3), dtype=np.uint8))
    image = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)).astype(int)
    image[height // 3:height // 2, width // 4:] //= 2
    return Image.fromarray(np.clip(image + rng.integers(-5, 6, image.shape), 0, 255).astype(np.uint8))


def exif_block(orientation, order="<", kind="H"):
    """A TIFF header and a directory with three entries, the second of which is the orientation."""
    value = struct.pack(order + kind, orientation).ljust(4, b"\0")
    types = {"H": 3, "I": 4}
    return ((b"II" if order == "<" else b"MM") + struct.pack(order + "HI", 42, 8) + struct.pack(order + "H", 3) +
            struct.pack(order + "HHII", 0x0100, 4, 1, 9) +
            struct.pack(order + "HHI", 0x0112, types[kind], 1) + value +
            struct.pack(order + "HHII", 0x0213, 3, 1, 1) + bytes(4))
