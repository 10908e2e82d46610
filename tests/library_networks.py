"""Parameters and images that are drawn by name, the same for a library (tests/fixtures/make_libraries.py) and for the
converter (test_architectures.py), and what the libraries made of them.

A convolution's weight is a view of one pool of numbers, at a place that its name gives, so that a checkpoint of any
network is a file of a few megabytes. Magnitudes are those of trained networks: activations stay around 1, and the
variances of batch norm are small enough for its epsilon to show."""

import gzip
import hashlib
import json
import math
from pathlib import Path

import numpy as np
from convert_formats import Tensor

FIXTURE = Path(__file__).resolve().parent / "fixtures" / "libraries.json.gz"
CLASSES = 24
POOL = 1 << 21  # elements; the largest weight has 1792 * 448 of B4's head, or 2688 * 448


def _stream(name):
    return np.random.PCG64(int.from_bytes(hashlib.sha256(name.encode()).digest()[:16], "little"))


def uniform(name, low, high, *shape):
    """Numbers in [low, high), by exact arithmetic from PCG64's bits: the same with every version of NumPy."""
    raw = _stream(name).random_raw(math.prod(shape)) >> np.uint64(11)
    return (low + (high - low) * (raw * 2.0**-53)).reshape(shape)


def _pools():
    """[convolutions, gates]: their variances are 2^-10 and 2^-4."""
    numbers = (uniform("pool", -1, 1, POOL) * math.sqrt(3)).astype(np.float32)
    return numbers / np.float32(32), numbers / np.float32(4)


CONVOLUTIONS, GATES = _pools()


def _view(name, shape, pool):
    size = math.prod(shape)
    place = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little") % (POOL - size)
    key = "convolutions" if pool is CONVOLUTIONS else "gates"
    return Tensor(pool, shape=tuple(shape), offset=place, key=key,
                  strides=tuple(math.prod(shape[i + 1 :]) for i in range(len(shape))))


def parameters(shapes):
    """{name: shape} in a library's order -> {name: array, or Tensor where it is a view}. A batch norm's statistics suit
    the convolution before it."""
    result, fan_in = {}, 1
    # In the deepest network, B4, so many residuals add up that more has to be divided away.
    calm = 1.25 if len(shapes) > 650 else 1.0
    for name, shape in shapes.items():
        part = name.rpartition(".")[2]
        if len(shape) > 1:
            fan_in = math.prod(shape[1:])
            widens = name.removesuffix("weight") + "bias" in shapes and len(shape) == 4 and shape[0] > shape[1]
            result[name] = _view(name, shape, GATES if widens else CONVOLUTIONS)
        elif part == "running_var":
            result[name] = (calm * fan_in * 2.0**-10 * uniform(name, 0.35, 1.05, *shape)).astype(np.float32)
        elif part == "running_mean":
            result[name] = (math.sqrt(fan_in) / 32 * uniform(name, -0.3, 0.3, *shape)).astype(np.float32)
        elif part == "num_batches_tracked":
            result[name] = Tensor(np.array(7), type="int64", shape=())
        else:
            low, high = (0.6, 1.4) if part == "weight" else (-0.3, 0.7)
            result[name] = uniform(name, low, high, *shape).astype(np.float32)
    return result


def array_of(value):
    """The numbers of one of these parameters."""
    if not isinstance(value, Tensor):
        return value
    size = math.prod(value.shape)
    return value.array.reshape(-1)[value.offset : value.offset + size].reshape(value.shape)


def image(size):
    """uint8 [size, size, 3]: noise at several scales."""
    total = np.zeros((size, size, 3))
    for cells, amplitude in ((3, 50), (11, 40), (size, 60)):
        repeat = -(-size // cells)
        noise = uniform(f"image {cells}", -amplitude, amplitude, cells, cells, 3)
        total += noise.repeat(repeat, 0).repeat(repeat, 1)[:size, :size]
    return np.clip(np.round(total + 120), 0, 255).astype(np.uint8)


def centre(pixels, size):
    """The central square of a square image."""
    first = (len(pixels) - size) // 2
    return pixels[first : first + size, first : first + size]


def load():
    """What make_libraries.py wrote: {"versions": ..., "tensors": {key: {name: shape}}, "networks": [...]}."""
    return json.loads(gzip.decompress(FIXTURE.read_bytes()))
