"""How an image becomes the network's input, in Pillow and NumPy: what effnet does in C, written again.

Used by the tests and by tools/compare_peers.py, to feed other runtimes as effnet feeds its own.
"""

import json
import struct

import numpy as np
from PIL import Image, ImageOps


def read_preprocess(weights_path):
    """The "preprocess" object of a weights file (docs/weights-format.md)."""
    with open(weights_path, "rb") as file:
        (size,) = struct.unpack("<Q", file.read(8))
        return json.loads(json.loads(file.read(size))["__metadata__"]["preprocess"])


def fit(image, preprocess):
    """A Pillow image -> uint8 [crop][crop][3]: EXIF orientation, RGB, resize of the short side, or squash of both, and
    the central crop."""
    rgb = ImageOps.exif_transpose(image).convert("RGB")
    short, crop = preprocess["short_side"], preprocess["crop"]
    width, height = rgb.size
    if preprocess.get("resize") == "squash":
        size = crop, crop
    elif width <= height:
        size = short, int(short * height / width)
    else:
        size = int(short * width / height), short
    rgb = rgb.resize(size, getattr(Image.Resampling, preprocess["interpolation"].upper()))
    left, top = round((size[0] - crop) / 2), round((size[1] - crop) / 2)
    return np.asarray(rgb.crop((left, top, left + crop, top + crop)))


def normalise(pixels, preprocess):
    """uint8 [n][crop][crop][3] -> float32 [n][3][crop][crop]."""
    mean, std = (np.asarray(preprocess[key], np.float32) for key in ("mean", "std"))
    return np.ascontiguousarray(((pixels.astype(np.float32) - mean) / std).transpose(0, 3, 1, 2))
