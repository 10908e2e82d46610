"""The network as ONNX, batch norm not folded, for other runtimes and as an independent check."""

import math

import numpy as np

from .errors import EX_UNAVAILABLE, ConvertError

OPSET = 17
IR_VERSION = 8  # what goes with opset 17; older runtimes take it too

PRODUCER = "effnet"


def is_ours(stream):
    """Whether a binary stream holds a model that to_onnx made: a ModelProto begins with ir_version (field 1, a
    number) and producer_name (field 2, a length and bytes)."""
    producer = bytes([2 << 3 | 2, len(PRODUCER)]) + PRODUCER.encode()
    start = stream.read(2 + len(producer))
    return start[:1] == bytes([1 << 3]) and start[2:] == producer


class _Graph:
    """Nodes and constants of a graph under construction. Each method returns its output's name."""

    def __init__(self, onnx):
        self._helper, self._from_array = onnx.helper, onnx.numpy_helper.from_array
        self.nodes, self.constants = [], {}

    def constant(self, name, array):
        if name not in self.constants:
            with np.errstate(over="ignore"):
                array = np.array(array, np.float32, order="C")
            if not np.isfinite(array).all():
                raise ConvertError(f"--onnx: {name} exceeds float32")
            self.constants[name] = self._from_array(array, name)
        return name

    def node(self, op, inputs, output, **attributes):
        self.nodes.append(self._helper.make_node(op, inputs, [output], name=output, **attributes))
        return output

    def activation(self, x, kind, prefix):
        if kind == "relu":
            return self.node("Relu", [x], f"{prefix}.relu")
        if kind == "relu6":
            bounds = [self.constant("zero", 0.0), self.constant("six", 6.0)]
            return self.node("Clip", [x, *bounds], f"{prefix}.relu6")
        if kind == "silu":
            gate = self.node("Sigmoid", [x], f"{prefix}.sigmoid")
            return self.node("Mul", [x, gate], f"{prefix}.silu")
        if kind in ("sigmoid", "hardswish", "tanh"):
            op = {"sigmoid": "Sigmoid", "hardswish": "HardSwish", "tanh": "Tanh"}[kind]
            return self.node(op, [x], f"{prefix}.{kind}")
        if kind in (
            "gelu",
            "gelu_relu",
        ):  # x / 2 * (1 + erf(x / sqrt 2)); the Gelu operator came with opset 20
            scaled = self.node("Mul", [x, self.constant("sqrt_half", math.sqrt(0.5))], f"{prefix}.scaled")
            erf = self.node("Erf", [scaled], f"{prefix}.erf")
            shifted = self.node("Add", [erf, self.constant("one", 1.0)], f"{prefix}.shifted")
            halved = self.node("Mul", [x, self.constant("half", 0.5)], f"{prefix}.halved")
            x = self.node("Mul", [halved, shifted], f"{prefix}.gelu")
            return self.node("Relu", [x], f"{prefix}.relu") if kind == "gelu_relu" else x
        return x

    def norm(self, x, norm, prefix):
        arrays = {"gamma": norm.weight, "beta": norm.bias, "mean": norm.mean, "var": norm.var}
        inputs = [self.constant(f"{prefix}.norm.{name}", array) for name, array in arrays.items()]
        return self.node("BatchNormalization", [x, *inputs], f"{prefix}.norm", epsilon=norm.epsilon)

    def scale(self, x, gate, prefix):
        """A map [N, C, H, W] times a gate [N, C]."""
        self.constants["axes"] = self._from_array(np.array([2, 3]), "axes")
        gate = self.node("Unsqueeze", [gate, "axes"], f"{prefix}.gate")
        return self.node("Mul", [x, gate], prefix)

    def layer(self, inputs, layer, source, outputs):
        """One layer, without its activation. inputs: what it takes."""
        x = inputs[0]
        if layer.op == "pool":
            x = self.node("GlobalAveragePool", [x], f"{layer.name}.average")
            return self.node("Flatten", [x], layer.name)
        if layer.op == "scale":
            return self.scale(*inputs, layer.name)
        inputs = [x, self.constant(f"{layer.name}.weight", source.weight)]
        if source.bias is not None:
            inputs.append(self.constant(f"{layer.name}.bias", source.bias))
        if layer.op == "linear":
            x = self.node("Gemm", inputs, f"{layer.name}.gemm", transB=1)
        else:
            x = self.node(
                "Conv",
                inputs,
                f"{layer.name}.conv",
                kernel_shape=[layer.kernel] * 2,
                strides=[layer.stride] * 2,
                pads=list(layer.pad),
                group=layer.outputs if layer.op == "depthwise" else 1,
            )
        if source.norm:
            x = self.norm(x, source.norm, layer.name)
        return self.node("Add", [x, outputs[layer.add]], f"{layer.name}.add") if layer.add else x


def to_onnx(network):
    """The bytes of a model: input "input" float32 [N, 3, size, size], normalised; output "logits"
    float32 [N, classes]."""
    try:
        import onnx
    except ImportError:
        raise ConvertError(
            "--onnx needs the Python package onnx (make weights installs it)", EX_UNAVAILABLE
        ) from None
    graph = _Graph(onnx)
    x, outputs = "input", {"image": "input"}
    for layer in network.layers:
        inputs = [outputs[name] for name in layer.sources] or [x]
        x = graph.layer(inputs, layer, network.parameters.get(layer.name), outputs)
        x = outputs[layer.name] = graph.activation(x, layer.activation, layer.name)
    graph.node("Identity", [x], "logits")

    helper, size = onnx.helper, network.variant.size

    def value(name, shape):
        return helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)

    proto = helper.make_graph(
        graph.nodes,
        network.arch.name,
        [value("input", ["N", 3, size, size])],
        [value("logits", ["N", network.classes])],
        list(graph.constants.values()),
    )
    model = helper.make_model(proto, opset_imports=[helper.make_opsetid("", OPSET)], producer_name=PRODUCER)
    model.ir_version = IR_VERSION
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString(deterministic=True)
