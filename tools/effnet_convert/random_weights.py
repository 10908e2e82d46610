"""Seeded random parameters for a network that nobody has trained.

Weights are drawn, then the batch norms' statistics are measured, layer by layer, on a few synthetic images,
as training would have done; so every convolution's output has about mean 0 and variance 1 before gamma and
beta, and activations keep their range however deep the network is. The classifier is centred and scaled on
the same images, so that its answer depends on the image.

The same seed gives the same bytes with every version of NumPy, on every processor: random bits come from
PCG64's raw output, they are turned into numbers by exact integer arithmetic, and what is measured (whose
last bits depend on the order of summation) is rounded to ten bits."""

import dataclasses
import hashlib

import numpy as np

from .architectures import build_layers
from .network import Network, Norm, Parameters

IMAGES = 6  # of the calibration
LARGEST_IMAGE = 240  # of the calibration: what is measured on larger ones is the same, and B4 would take a minute more
LOGIT_STD = 2.0  # on the calibration images; drawings and photographs differ more, and give 3 to 7
# A channel that hardly moves on the calibration images must not be amplified without bound.
SMALLEST_VARIANCE = 0.05  # of the layer's median


class Stream:
    """Random numbers from PCG64's raw output."""

    def __init__(self, seed):
        self._bits = np.random.PCG64(seed)

    def normal(self, *shape):
        """About normal, mean 0 and variance 1: the sum of four 16-bit integers, scaled; |x| < 3.5."""
        raw = self._bits.random_raw(int(np.prod(shape)))
        total = sum(((raw >> np.uint64(16 * i)) & np.uint64(0xFFFF)).astype(np.int64) for i in range(4))
        # A uniform integer in [0, n) has variance (n^2 - 1) / 12; n = 65536, four of them.
        return ((total - 2 * 65535) / np.sqrt((65536.0**2 - 1) / 3)).reshape(shape)

    def uniform(self, low, high, *shape):
        raw = self._bits.random_raw(int(np.prod(shape)))
        return (low + (high - low) * ((raw >> np.uint64(11)) * 2.0**-53)).reshape(shape)


def _round_bits(x, bits=10):
    """x with `bits` significant bits."""
    mantissa, exponent = np.frexp(x)
    return np.ldexp(np.round(np.ldexp(mantissa, bits)), exponent - bits)


def calibration_images(stream, variant):
    """[IMAGES, 3, size, size], normalised. Noise at every scale from the whole image to a pixel, coarse
    scales strongest, as in photographs, of various contrast and brightness. Every second image has four
    levels a channel alone: flat areas with hard edges, as in drawings."""
    size = variant.size
    pixels = np.zeros((IMAGES, 3, size, size))
    for cells, amplitude in ((2, 40.0), (4, 30.0), (8, 24.0), (16, 18.0), (48, 12.0), (120, 8.0), (240, 5.0)):
        repeat = -(-size // cells)
        grey = stream.normal(IMAGES, 1, cells, cells)
        colour = stream.normal(IMAGES, 3, cells, cells)
        noise = (0.8 * grey + 0.6 * colour) * amplitude
        pixels += noise.repeat(repeat, axis=2).repeat(repeat, axis=3)[:, :, :size, :size]
    pixels *= stream.uniform(0.4, 1.8, IMAGES, 1, 1, 1)
    pixels += stream.uniform(70.0, 190.0, IMAGES, 1, 1, 1)
    pixels[1::2] = np.round(pixels[1::2] / 85.0) * 85.0
    pixels = np.clip(np.round(pixels), 0, 255)
    return (pixels - np.reshape(variant.mean, (3, 1, 1))) / np.reshape(variant.std, (3, 1, 1))


def _convolve(x, weight, layer):
    """float64 [n, c, h, w] -> [n, out, oh, ow], by one multiplication for each position in the kernel."""
    top, left, bottom, right = layer.pad
    x = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)))
    stride, kernel = layer.stride, layer.kernel
    height = (x.shape[2] - kernel) // stride + 1
    width = (x.shape[3] - kernel) // stride + 1
    total = 0.0
    for row in range(kernel):
        for column in range(kernel):
            window = x[:, :, row : row + stride * height : stride, column : column + stride * width : stride]
            window = window[:, :, :height, :width]
            if layer.op == "depthwise":
                total = total + window * weight[:, 0, row, column].reshape(-1, 1, 1)
            else:
                total = total + np.einsum("oc,nchw->nohw", weight[:, :, row, column], window, optimize=True)
    return total


def _activate(x, activation):
    if activation == "relu6":
        return np.clip(x, 0.0, 6.0)
    if activation in ("silu", "sigmoid"):
        gate = 1.0 / (1.0 + np.exp(-x))
        return gate * x if activation == "silu" else gate
    return np.maximum(x, 0.0) if activation == "relu" else x


def _draw_norm(stream, y, layer, epsilon):
    """Batch norm whose statistics are those of y [n, c, h, w], with a random gamma and beta."""
    channels = layer.outputs
    mean = y.mean(axis=(0, 2, 3))
    var = y.var(axis=(0, 2, 3))
    var = np.maximum(var, SMALLEST_VARIANCE * np.median(var))
    if layer.activation == "none":
        gamma, beta = stream.uniform(0.8, 1.2, channels), stream.uniform(-0.2, 0.2, channels)
    else:
        gamma, beta = stream.uniform(0.7, 1.5, channels), stream.uniform(-0.4, 0.8, channels)
    return Norm(*(a.astype(np.float32) for a in (gamma, beta, _round_bits(mean), _round_bits(var))), epsilon)


def _draw_classifier(stream, x, layer):
    """A linear layer whose logits spread by LOGIT_STD around about 0 on x [n, c]."""
    weight = stream.normal(*layer.weight_shape) / np.sqrt(layer.inputs)
    centre, spread = x.mean(axis=0), x.std(axis=0)
    weight = weight * _round_bits(LOGIT_STD / np.sqrt((spread**2).mean()))
    weight = weight.astype(np.float32)
    bias = -_round_bits(weight.astype(np.float64) @ centre) + stream.normal(layer.outputs) * 0.5
    return Parameters(weight, bias.astype(np.float32), None, layer.name)


def _draw_gate(stream, x, layer):
    """A linear layer of squeeze-and-excite, of variance about 1 over its outputs. Those before a sigmoid lie
    around 1: then the mean square of a gate stays about a half however large x is, and so many gates one after
    the other make activations neither grow nor vanish on images unlike those of the calibration."""
    weight = stream.normal(*layer.weight_shape) / np.sqrt(layer.inputs)
    weight = weight / _round_bits(np.sqrt((x**2).mean()))
    bias = stream.normal(layer.outputs) * 0.5 + (1.0 if layer.activation == "sigmoid" else 0.0)
    return Parameters(weight.astype(np.float32), bias.astype(np.float32), None, layer.name)


def _draw_convolution(stream, x, layer, epsilon):
    """A convolution's parameters, and what it gives with its batch norm for x [n, c, h, w]."""
    weight = stream.normal(*layer.weight_shape) / np.sqrt(int(np.prod(layer.weight_shape[1:])))
    weight = weight.astype(np.float32)
    y = _convolve(x, weight.astype(np.float64), layer)
    norm = _draw_norm(stream, y, layer, epsilon)
    scale = norm.weight / np.sqrt(norm.var.astype(np.float64) + norm.epsilon)
    y = (y - norm.mean.reshape(-1, 1, 1)) * scale.reshape(-1, 1, 1) + norm.bias.reshape(-1, 1, 1)
    return Parameters(weight, None, norm, layer.name), y


def random_network(variant, seed, classes=1000):
    """The network `variant` with parameters drawn from the seed: float32, batch norm not folded."""
    stream = Stream(seed)
    network = Network(variant, build_layers(variant, [(classes, "none")]))
    variant = dataclasses.replace(variant, size=min(variant.size, LARGEST_IMAGE))
    layers = build_layers(variant, [(classes, "none")])
    wanted = {name for layer in layers for name in (*layer.sources, layer.add)}
    x = calibration_images(stream, variant)
    outputs = {"image": x}
    for layer in layers:
        x, *gate = [outputs[name] for name in layer.sources] or [x]
        if layer.op == "pool":
            x = x.mean(axis=(2, 3))
        elif layer.op == "scale":
            x = x * gate[0][:, :, None, None]
        elif layer.op == "linear":
            draw = _draw_classifier if layer is layers[-1] else _draw_gate
            drawn = network.parameters[layer.name] = draw(stream, x, layer)
            x = x @ drawn.weight.astype(np.float64).T + drawn.bias
        else:
            network.parameters[layer.name], x = _draw_convolution(stream, x, layer, variant.epsilon)
        if layer.add:
            x = x + outputs[layer.add]
        x = _activate(x, layer.activation)
        if layer.name in wanted:
            outputs[layer.name] = x
    return network


def digest(network):
    """SHA-256 of the parameters before folding, in the table's order: stands for a source file's."""
    result = hashlib.sha256()
    for layer in network.layers:
        source = network.parameters.get(layer.name)
        if source is None:
            continue
        norm = source.norm
        arrays = (
            source.weight,
            source.bias,
            *((norm.weight, norm.bias, norm.mean, norm.var) if norm else ()),
        )
        for array in arrays:
            if array is not None:
                result.update(array.astype("<f4").tobytes())
    return result.hexdigest()
