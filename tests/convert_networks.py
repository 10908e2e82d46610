"""State dicts of both networks in every naming scheme, written out independently of tools/effnet_convert,
and a plain float64 forward pass over a layer table."""

import contextlib
import io
import math
import subprocess
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
CONVERT = ROOT / "tools" / "convert.py"
sys.path.insert(0, str(CONVERT.parent))

from effnet_convert import command_line  # noqa: E402

# repeats, kernel, stride, expand ratio, outputs
STAGES = {
    "lite1": [
        (1, 3, 1, 1, 16),
        (3, 3, 2, 6, 24),
        (3, 5, 2, 6, 40),
        (4, 3, 2, 6, 80),
        (4, 5, 1, 6, 112),
        (5, 5, 2, 6, 192),
        (1, 3, 1, 6, 320),
    ],
    "b1-plain": [
        (1, 3, 1, 1, 16),
        (1, 3, 2, 6, 24),
        (1, 3, 2, 6, 40),
        (1, 3, 2, 6, 80),
        (1, 3, 1, 6, 112),
        (1, 3, 2, 6, 192),
        (1, 3, 1, 6, 320),
    ],
}
EPSILON = {"lite1": 1e-3, "b1-plain": 1e-5}
NORM_PARTS = ("weight", "bias", "running_mean", "running_var")


def run_convert(*arguments):
    """Runs the converter in this process. Returns a CompletedProcess with text output."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = command_line.main([str(argument) for argument in arguments])
        except SystemExit as end:  # --help
            status = end.code
    return subprocess.CompletedProcess(arguments, status, out.getvalue(), err.getvalue())


def spawn_convert(*arguments, **options):
    """The same in a process of its own, for what belongs to a process: working folder, limits, ..."""
    command = [sys.executable, str(CONVERT), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, **options)


def assert_one_line_error(result, status, *words):
    """The run failed with this status and one line that holds the words."""
    assert result.returncode == status, (result.returncode, result.stderr)
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1 and result.stderr.startswith("convert.py: "), result.stderr
    for word in words:
        assert str(word) in result.stderr, result.stderr


def convolutions(arch, expand_at_ratio_1=False):
    """[(layer name, weight shape, stage, repeat, block, expands)] without the classifier."""
    rows = [("stem", (32, 3, 3, 3), None, None, None, None)]
    inputs, block = 32, 0
    for stage, (repeats, kernel, _, ratio, outputs) in enumerate(STAGES[arch]):
        for repeat in range(repeats):
            hidden, place = inputs * ratio, (stage, repeat, block, ratio != 1 or expand_at_ratio_1)
            if place[3]:
                rows.append((f"blocks.{block}.expand", (hidden, inputs, 1, 1), *place))
            rows.append((f"blocks.{block}.depthwise", (hidden, 1, kernel, kernel), *place))
            rows.append((f"blocks.{block}.project", (outputs, hidden, 1, 1), *place))
            inputs, block = outputs, block + 1
    rows.append(("head", (1280, inputs, 1, 1), None, None, None, None))
    return rows


def lite_pytorch_name(layer, stage, repeat, block, expands):
    if layer in ("stem", "head"):
        return f"_conv_{layer}.weight", {"stem": "_bn0", "head": "_bn1"}[layer]
    part = layer.split(".")[-1]
    number = {"expand": 0, "depthwise": 1, "project": 2}[part]
    return f"_blocks.{block}._{part}_conv.weight", f"_blocks.{block}._bn{number}"


def timm_name(layer, stage, repeat, block, expands):
    if layer in ("stem", "head"):
        return f"conv_{layer}.weight", {"stem": "bn1", "head": "bn2"}[layer]
    part = layer.split(".")[-1]
    at = f"blocks.{stage}.{repeat}"
    if expands:
        conv, norm = {"expand": ("pw", 1), "depthwise": ("dw", 2), "project": ("pwl", 3)}[part]
    else:
        conv, norm = {"depthwise": ("dw", 1), "project": ("pw", 2)}[part]
    return f"{at}.conv_{conv}.weight", f"{at}.bn{norm}"


def sequential_name(layer, stage, repeat, block, expands):
    if layer in ("stem", "head"):
        return {"stem": ("conv1.weight", "bn1"), "head": ("conv2.weight", "bn2")}[layer]
    parts = ["expand", "depthwise", "project"] if expands else ["depthwise", "project"]
    index = 3 * parts.index(layer.split(".")[-1])
    return f"mbconv{block + 1}.{index}.weight", f"mbconv{block + 1}.{index + 1}"


def named_name(layer, stage, repeat, block, expands):
    if layer in ("stem", "head"):
        return sequential_name(layer, stage, repeat, block, expands)
    part = layer.split(".")[-1]
    return f"mbconv{block + 1}.{part}_conv.weight", f"mbconv{block + 1}.{part}_bn"


def numbered_name(layer, stage, repeat, block, expands):
    weight, norm = named_name(layer, stage, repeat, block, expands)
    if layer not in ("stem", "head"):
        parts = ["expand", "depthwise", "project"] if expands else ["depthwise", "project"]
        norm = f"mbconv{block + 1}.bn{parts.index(layer.split('.')[-1]) + 1}"
    return weight, norm


# scheme: network, function of the names, the classifier's prefix
SCHEMES = {
    "lite_pytorch": ("lite1", lite_pytorch_name, "_fc"),
    "timm": ("lite1", timm_name, "classifier"),
    "sequential": ("b1-plain", sequential_name, "fc"),
    "named": ("b1-plain", named_name, "fc"),
    "numbered": ("b1-plain", numbered_name, "fc"),
}

# What the tensors of a scheme leave open.
WHICH = {"timm": ("--arch", "tf_efficientnet_lite1")}


def state_dict(scheme, seed=1, classes=1000, expand_at_ratio_1=False, head=None):
    """{name: float32 array}. The same seed gives the same values under every scheme of a network.
    head: {name after the prefix: array}, instead of one linear layer."""
    arch, names, prefix = SCHEMES[scheme]
    random = np.random.default_rng(seed)
    state = {}
    for layer, shape, *place in convolutions(arch, expand_at_ratio_1):
        weight, norm = names(layer, *place)
        state[weight] = random.standard_normal(shape, np.float32) / np.float32(
            math.sqrt(math.prod(shape[1:]))
        )
        for part in NORM_PARTS:
            low, high = {"weight": (0.5, 1.5), "running_var": (0.2, 2.0)}.get(part, (-0.5, 0.5))
            state[f"{norm}.{part}"] = random.uniform(low, high, shape[0]).astype(np.float32)
        state[f"{norm}.num_batches_tracked"] = np.array(7.0, np.float32)
    if head is None:
        head = {
            "weight": random.standard_normal((classes, 1280), np.float32) / 36,
            "bias": random.standard_normal(classes, np.float32),
        }
    state.update({f"{prefix}.{part}": array for part, array in head.items()})
    return state


def fine_tuned_head(seed=2, hidden=(48,), classes=10, bias=True):
    """The parameters of Linear, BatchNorm1d, GELU, ReLU, ..., Linear by their names in a Sequential."""
    random = np.random.default_rng(seed)
    head, inputs, index = {}, 1280, 0
    for outputs in hidden:
        head[f"{index}.weight"] = random.standard_normal((outputs, inputs), np.float32) / 36
        if bias:
            head[f"{index}.bias"] = random.standard_normal(outputs, np.float32)
        for part in NORM_PARTS:
            low, high = {"weight": (0.5, 1.5), "running_var": (0.2, 2.0)}.get(part, (-0.5, 0.5))
            head[f"{index + 1}.{part}"] = random.uniform(low, high, outputs).astype(np.float32)
        inputs, index = outputs, index + 4
    head[f"{index}.weight"] = random.standard_normal((classes, inputs), np.float32) / np.sqrt(
        np.float32(inputs)
    )
    head[f"{index}.bias"] = random.standard_normal(classes, np.float32)
    return head


def erf(x):
    return np.vectorize(math.erf, otypes=[np.float64])(x)


ACTIVATE = {
    "none": lambda x: x,
    "relu": lambda x: np.maximum(x, 0),
    "relu6": lambda x: np.clip(x, 0, 6),
    "silu": lambda x: x / (1 + np.exp(-x)),
    "gelu": lambda x: x * 0.5 * (1 + erf(x / math.sqrt(2))),
    "hardswish": lambda x: x * np.clip(x + 3, 0, 6) / 6,
    "tanh": np.tanh,
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "gelu_relu": lambda x: np.where(x > 0, x * 0.5 * (1 + erf(x / math.sqrt(2))), 0),
}


def convolve(x, weight, stride, pad, depthwise):
    """float64 [n, c, h, w] by windows; pad: top, left, bottom, right."""
    x = np.pad(x, ((0, 0), (0, 0), (pad[0], pad[2]), (pad[1], pad[3])))
    kernel = weight.shape[-1]
    windows = np.lib.stride_tricks.sliding_window_view(x, (kernel, kernel), (2, 3))[:, :, ::stride, ::stride]
    if depthwise:
        return np.einsum("nchwij,cij->nchw", windows, weight[:, 0])
    return np.einsum("nchwij,ocij->nohw", windows, weight, optimize=True)


def run_layer(layer, tensors, x, outputs):
    """One layer of the table, in float64. x: the output before it; outputs: {layer name: output} of all."""
    x, *gate = [outputs[name] for name in layer["inputs"]] if "inputs" in layer else [x]
    if layer["op"] == "pool":
        return x.mean(axis=(2, 3))
    if layer["op"] == "scale":
        return x * gate[0][:, :, None, None]
    weight = tensors[layer["name"] + ".weight"].astype(np.float64)
    bias = tensors[layer["name"] + ".bias"].astype(np.float64)
    if layer["op"] == "linear":
        y = x @ weight.T + bias
    else:
        pad = layer.get("pad", (0, 0, 0, 0))
        y = convolve(x, weight, layer.get("stride", 1), pad, layer["op"] == "depthwise")
        y = y + bias[:, None, None]
    if "add" in layer:
        y = y + outputs[layer["add"]]
    return ACTIVATE[layer["activation"]](y)


def run_network(layers, tensors, x):
    """{layer name: output} over the whole table; x float [n, 3, h, w]."""
    x = x.astype(np.float64)
    outputs = {"image": x}
    for layer in layers:
        x = outputs[layer["name"]] = run_layer(layer, tensors, x, outputs)
    return outputs
