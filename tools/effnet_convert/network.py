"""A network with its parameters, before and after batch norm is folded."""

from dataclasses import dataclass, field

import numpy as np

from .errors import ConvertError


@dataclass
class Norm:
    """Batch norm: y = (x - mean) / sqrt(var + epsilon) * weight + bias, float arrays [out]."""

    weight: np.ndarray
    bias: np.ndarray
    mean: np.ndarray
    var: np.ndarray
    epsilon: float


@dataclass
class Parameters:
    """One layer's parameters as the source has them."""

    weight: np.ndarray
    bias: np.ndarray | None
    norm: Norm | None
    name: str  # of the weight in the source


@dataclass
class Network:
    variant: object  # variants.Variant
    layers: list
    parameters: dict = field(default_factory=dict)  # layer name -> Parameters
    notices: list = field(default_factory=list)  # what its user should know of how the source was read

    @property
    def arch(self):
        return self.variant.arch

    @property
    def classes(self):
        return self.layers[-1].outputs


def fold(network, label):
    """{tensor name: float32 array} of the weights file, batch norm folded in float64:
    weight * s and (bias - mean) * s + beta, where s = gamma / sqrt(var + epsilon)."""
    tensors = {}
    for layer in network.layers:
        if not layer.has_weights:
            continue
        source = network.parameters[layer.name]
        weight = source.weight.astype(np.float64)
        bias = np.zeros(layer.outputs) if source.bias is None else source.bias.astype(np.float64)
        with np.errstate(all="ignore"):
            if source.norm:
                norm = source.norm
                scale = norm.weight.astype(np.float64) / np.sqrt(norm.var.astype(np.float64) + norm.epsilon)
                weight = weight * scale.reshape(-1, *[1] * (weight.ndim - 1))
                bias = (bias - norm.mean.astype(np.float64)) * scale + norm.bias.astype(np.float64)
            folded = (weight.astype(np.float32), bias.astype(np.float32))
        for name, array in zip(("weight", "bias"), folded):
            if not np.isfinite(array).all():
                raise ConvertError(
                    f"{label}: {source.name}: {layer.name}.{name} exceeds float32 once batch norm is folded"
                )
            tensors[f"{layer.name}.{name}"] = array
    return tensors
