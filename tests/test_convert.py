"""tools/convert.py: naming schemes, folding, the weights file and the command line."""

import hashlib
import json
import math
import os
import subprocess
import sys

import numpy as np
import pytest
from convert_formats import Tensor, write_old, write_safetensors, write_zip
from convert_networks import (
    CONVERT,
    EPSILON,
    SCHEMES,
    WHICH,
    assert_one_line_error,
    convolutions,
    run_convert,
    spawn_convert,
    state_dict,
)
from convert_runs import converted, load, refused, tmp_path  # noqa: F401


@pytest.fixture(scope="module")
def seven_blocks():
    return state_dict("sequential")


@pytest.fixture(scope="module")
def lite():
    return state_dict("lite_pytorch")


@pytest.fixture(scope="module")
def reference(tmp_path_factory, seven_blocks, lite):
    """What the first scheme of each network gives: {network: (metadata, tensors)}."""
    folder = tmp_path_factory.mktemp("reference")
    return {"b1-plain": converted(folder, seven_blocks), "lite1": converted(folder, lite)}


# ---------------------------------------------------------------- naming schemes


@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_scheme_gives_the_same_file(tmp_path, reference, scheme):
    arch = SCHEMES[scheme][0]
    metadata, tensors = converted(tmp_path, state_dict(scheme), *WHICH.get(scheme, ()))
    expected_metadata, expected = reference[arch]
    assert metadata["network"] == expected_metadata["network"]
    assert list(tensors) == list(expected)
    for name, array in tensors.items():
        assert np.array_equal(array, expected[name]), name


@pytest.mark.parametrize("scheme", ["sequential", "named", "numbered"])
def test_first_block_with_its_expansion_by_one(tmp_path, scheme):
    """KernelBench's own form has a 1x1 convolution in the block that expands by 1: it is kept, as a layer."""
    state = state_dict(scheme, expand_at_ratio_1=True)
    metadata, tensors = converted(tmp_path, state)
    names = [layer["name"] for layer in metadata["network"]["layers"]]
    assert names[:5] == [
        "stem",
        "blocks.0.expand",
        "blocks.0.depthwise",
        "blocks.0.project",
        "blocks.1.expand",
    ]
    layer = metadata["network"]["layers"][1]
    assert (layer["op"], layer["in"], layer["out"], layer["activation"]) == ("pointwise", 32, 32, "relu6")
    assert tensors["blocks.0.expand.weight"].shape == (32, 32, 1, 1)


def test_attributes_mean_the_same_as_modules(tmp_path, reference):
    """fc_weight, conv1_weight, bn1_running_mean: parameters that are no module's."""
    state = state_dict("named")
    spelt = {}
    for name, array in state.items():
        head, _, part = name.rpartition(".")
        spelt[f"{head}_{part}" if head in ("fc", "conv1", "bn1", "mbconv2.expand_bn") else name] = array
    assert "fc_weight" in spelt and "mbconv2.expand_bn_running_var" in spelt
    _, tensors = converted(tmp_path, spelt)
    assert all(np.array_equal(tensors[name], array) for name, array in reference["b1-plain"][1].items())


def test_attribute_and_module_together_are_refused(tmp_path, seven_blocks):
    refused(tmp_path, {**seven_blocks, "fc_bias": seven_blocks["fc.bias"]}, "fc_bias", "fc.bias")


def test_explicit_architecture(tmp_path, seven_blocks):
    metadata, _ = converted(tmp_path, seven_blocks, "--arch", "b1-plain")
    assert metadata["network"]["name"] == "b1-plain"
    (tmp_path / "out.safetensors").unlink()
    refused(tmp_path, seven_blocks, "b1-plain, not lite1", options=("--arch", "lite1"))


def test_unknown_names(tmp_path):
    refused(tmp_path, {"layer1.weight": np.zeros((3, 3), np.float32)}, "no known scheme")


# ---------------------------------------------------------------- layer tables


def test_table_of_lite1(reference):
    layers = reference["lite1"][0]["network"]["layers"]
    assert reference["lite1"][0]["network"]["input"] == [3, 240, 240]
    by_name = {layer["name"]: layer for layer in layers}
    assert len(by_name) == len(layers) == 66
    expected = [row[0] for row in convolutions("lite1")] + ["pool", "classifier"]
    assert [layer["name"] for layer in layers] == expected
    assert by_name["stem"] == {
        "name": "stem", "op": "conv", "in": 3, "out": 32, "activation": "relu6",
        "kernel": 3, "stride": 2, "pad": [0, 0, 1, 1],
    }  # fmt: skip
    # TensorFlow's SAME padding, for the sizes 120, 60, 30, 15 that the map has there
    strided = {1: [0, 0, 1, 1], 4: [1, 1, 2, 2], 7: [0, 0, 1, 1], 15: [2, 2, 2, 2]}
    for block in range(21):
        layer = by_name[f"blocks.{block}.depthwise"]
        if block in strided:
            assert (layer["stride"], layer["pad"]) == (2, strided[block]), block
        else:
            assert (layer["stride"], layer["pad"]) == (1, [(layer["kernel"] - 1) // 2] * 4), block
    added = {layer["name"]: layer["add"] for layer in layers if "add" in layer}
    assert added == {
        f"blocks.{block}.project": f"blocks.{block - 1}.project"
        for block in range(21)
        if block not in (0, 1, 4, 7, 11, 15, 20)
    }
    assert "blocks.0.expand" not in by_name
    assert by_name["head"]["activation"] == "relu6" and by_name["blocks.3.project"]["activation"] == "none"
    assert {layer["activation"] for layer in layers if layer["name"].endswith(("expand", "depthwise"))} == {
        "relu6"
    }
    assert by_name["pool"] == {"name": "pool", "op": "pool", "in": 1280, "out": 1280}
    assert by_name["classifier"] == {
        "name": "classifier",
        "op": "linear",
        "in": 1280,
        "out": 1000,
        "activation": "none",
    }
    # the published figures: 5.4 M parameters, 600 M multiply-adds
    size, parameters, multiply_adds = 240, 0, 0
    for layer in layers:
        if layer["op"] == "pool":
            size = 1
            continue
        weights = layer["out"] * layer["in"] * layer.get("kernel", 1) ** 2
        weights //= layer["in"] if layer["op"] == "depthwise" else 1
        size = -(-size // layer.get("stride", 1))
        parameters += weights + layer["out"]
        multiply_adds += weights * size * size
    assert 5.35e6 < parameters < 5.45e6 and 590e6 < multiply_adds < 610e6


def test_table_of_b1_plain(reference):
    layers = reference["b1-plain"][0]["network"]["layers"]
    by_name = {layer["name"]: layer for layer in layers}
    assert [layer["name"] for layer in layers] == [row[0] for row in convolutions("b1-plain")] + [
        "pool",
        "classifier",
    ]
    assert by_name["stem"]["activation"] == by_name["head"]["activation"] == "relu"
    assert all(layer["pad"] == [1, 1, 1, 1] for layer in layers if "pad" in layer)
    assert not any("add" in layer for layer in layers)
    assert [by_name[f"blocks.{b}.depthwise"]["stride"] for b in range(7)] == [1, 2, 2, 2, 1, 2, 1]


def test_table_of_b1(b1):
    """EfficientNet-B1: format version 2, for squeeze-and-excite's sake; the published sizes."""
    metadata, tensors = load(b1)
    layers = metadata["network"]["layers"]
    by_name = {layer["name"]: layer for layer in layers}
    assert metadata["format_version"] == "2"
    assert [layer["name"] for layer in layers[13:20]] == [
        f"blocks.2.{part}"
        for part in ("expand", "depthwise", "se.pool", "se.reduce", "se.expand", "se.scale", "project")
    ]
    assert layers[15:19] == [
        {"name": "blocks.2.se.pool", "op": "pool", "in": 96, "out": 96, "block": 2},
        {"name": "blocks.2.se.reduce", "op": "linear", "in": 96, "out": 4, "activation": "silu", "block": 2},
        {"name": "blocks.2.se.expand", "op": "linear", "in": 4, "out": 96, "activation": "sigmoid", "block": 2},
        {
            "name": "blocks.2.se.scale",
            "op": "scale",
            "in": 96,
            "out": 96,
            "inputs": ["blocks.2.depthwise", "blocks.2.se.expand"],
            "block": 2,
        },
    ]
    assert [name for name in tensors if name.startswith("blocks.2.se.")] == [
        f"blocks.2.se.{part}" for part in ("expand.bias", "expand.weight", "reduce.bias", "reduce.weight")
    ]
    assert by_name["blocks.22.project"]["add"] == "blocks.21.project" and len(layers) == 163
    # 7.79 M with two parameters a channel of the batch norms, of which folding leaves one
    channels = sum(layer["out"] for layer in layers if layer["op"] in ("conv", "depthwise", "pointwise"))
    assert sum(tensor.size for tensor in tensors.values()) + channels == 7_794_184


def test_preprocessing_and_overrides(tmp_path, reference, seven_blocks):
    assert reference["lite1"][0]["preprocess"] == {
        "short_side": 272, "crop": 240, "interpolation": "bicubic", "mean": [127.0] * 3, "std": [128.0] * 3,
    }  # fmt: skip
    plain = reference["b1-plain"][0]["preprocess"]
    assert np.allclose(plain["mean"], 255 * np.array([0.485, 0.456, 0.406]), rtol=1e-12)
    assert np.allclose(plain["std"], 255 * np.array([0.229, 0.224, 0.225]), rtol=1e-12)
    options = ("--padding", "same", "--epsilon", "0.5", "--mean", "1,2,3", "--std", "4")
    metadata, tensors = converted(tmp_path, seven_blocks, *options)
    assert metadata["preprocess"]["mean"] == [1, 2, 3] and metadata["preprocess"]["std"] == [4, 4, 4]
    assert metadata["network"]["layers"][0]["pad"] == [0, 0, 1, 1]
    scale = seven_blocks["bn1.weight"] / np.sqrt(seven_blocks["bn1.running_var"] + 0.5)
    expected = seven_blocks["conv1.weight"] * scale[:, None, None, None]
    assert np.allclose(tensors["stem.weight"], expected, rtol=1e-6)


# ---------------------------------------------------------------- folding


@pytest.mark.parametrize("scheme", ["lite_pytorch", "sequential"])
def test_folding_in_float64(reference, lite, seven_blocks, scheme):
    arch, names, prefix = SCHEMES[scheme]
    state = lite if arch == "lite1" else seven_blocks
    tensors = reference[arch][1]
    for layer, _, *place in convolutions(arch):
        weight, norm = names(layer, *place)
        gamma, beta, mean, var = (
            state[f"{norm}.{part}"].astype(np.float64)
            for part in ("weight", "bias", "running_mean", "running_var")
        )
        scale = gamma / np.sqrt(var + EPSILON[arch])
        expected = state[weight].astype(np.float64) * scale[:, None, None, None]
        # to the last bit of float32, up to ties in rounding
        assert np.allclose(tensors[layer + ".weight"], expected, rtol=6.1e-8, atol=0), layer
        assert np.allclose(tensors[layer + ".bias"], beta - mean * scale, rtol=6.1e-8, atol=1e-15), layer
    assert np.array_equal(tensors["classifier.weight"], state[prefix + ".weight"])
    assert np.array_equal(tensors["classifier.bias"], state[prefix + ".bias"])


def test_zero_variance_is_allowed(tmp_path, seven_blocks):
    _, tensors = converted(tmp_path, {**seven_blocks, "bn1.running_var": np.zeros(32, np.float32)})
    scale = seven_blocks["bn1.weight"].astype(np.float64) / np.sqrt(1e-5)
    expected = seven_blocks["conv1.weight"] * scale[:, None, None, None]
    assert np.allclose(tensors["stem.weight"], expected, rtol=6.1e-8)


def changed(state, name, value, at=0):
    array = state[name].copy()
    array.flat[at] = value
    return {**state, name: array}


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", ["mbconv3.3.weight", "mbconv3.4.running_mean", "fc.bias"])
def test_values_that_are_not_finite(tmp_path, seven_blocks, name, value):
    refused(tmp_path, changed(seven_blocks, name, value, at=-1), name, "not finite")


def test_negative_variance(tmp_path, seven_blocks):
    refused(
        tmp_path, changed(seven_blocks, "mbconv5.7.running_var", -1e-9), "mbconv5.7.running_var", "negative"
    )


def test_overflow_of_float32_by_folding(tmp_path, seven_blocks):
    state = changed(seven_blocks, "bn2.running_var", 0.0)
    state = changed(state, "bn2.weight", 1e38)
    refused(tmp_path, state, "conv2.weight", "exceeds float32")


@pytest.mark.parametrize("name", ["mbconv4.3.weight", "bn2.running_var", "fc.weight", "mbconv1.0.weight"])
def test_missing_tensor(tmp_path, seven_blocks, name):
    state = {key: value for key, value in seven_blocks.items() if key != name}
    # without the scheme's marker the file follows no scheme, and the message lists the markers
    refused(tmp_path, state, name)


def test_unexpected_tensors(tmp_path, seven_blocks):
    extra = {"mbconv2.se.weight": np.zeros(3, np.float32), "zzz": np.zeros(3, np.float32)}
    refused(tmp_path, {**seven_blocks, **extra}, "mbconv2.se.weight is unexpected (and 1 more)")


@pytest.mark.parametrize(
    "name, shape",
    [
        ("conv1.weight", (32, 3, 5, 5)),
        ("mbconv2.0.weight", (96, 16)),
        ("mbconv2.4.bias", (97,)),
        ("fc.weight", (1000, 1281)),
        ("fc.weight", (1000,)),
        ("fc.weight", (0, 1280)),
        ("fc.bias", (999,)),
        ("bn1.weight", ()),
    ],
)
def test_wrong_shape(tmp_path, seven_blocks, name, shape):
    refused(tmp_path, {**seven_blocks, name: np.ones(shape, np.float32)}, name, list(shape))


def test_more_classes_than_effnet_takes(tmp_path, seven_blocks):
    wide = Tensor(np.ones(4), shape=(65537, 1280), strides=(0, 0))
    source = write_zip(tmp_path / "source.pth", {**seven_blocks, "fc.weight": wide})
    assert_one_line_error(run_convert(source, tmp_path / "out"), 65, "fc.weight has shape [65537, 1280]")


def test_integer_where_floating_point_is_expected(tmp_path, seven_blocks):
    state = {**seven_blocks, "bn1.bias": Tensor(np.ones(32), type="int64")}
    refused(tmp_path, state, "bn1.bias", "I64")


@pytest.mark.parametrize("write", [write_old, write_zip, write_safetensors])
@pytest.mark.parametrize("kind", ["float16", "bfloat16", "float64"])
def test_other_element_types(tmp_path, write, kind):
    state = state_dict("sequential", classes=1000)
    typed = {name: Tensor(array, type=kind) for name, array in state.items()}
    _, tensors = converted(tmp_path, typed, write=write)
    rounded = {}
    for name, array in state.items():
        if kind == "bfloat16":
            array = (
                (np.atleast_1d(array).view(np.uint32) & np.uint32(0xFFFF0000))
                .view(np.float32)
                .reshape(array.shape)
            )
        else:
            array = array.astype(kind)
        rounded[name] = array.astype(np.float32)
    _, expected = converted(tmp_path, rounded)
    assert all(np.array_equal(tensors[name], expected[name]) for name in expected)


# ---------------------------------------------------------------- the file


def test_metadata_and_layout(tmp_path, seven_blocks):
    source = write_safetensors(tmp_path / "my weights.bin", seven_blocks)
    out = tmp_path / "out.safetensors"
    assert run_convert(source, out).returncode == 0
    metadata, tensors = load(out)
    assert metadata["format"] == "effnet" and metadata["format_version"] == "1"
    assert set(metadata) == {"format", "format_version", "network", "preprocess", "labels", "source"}
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    assert metadata["source"] == {"file": "my weights.bin", "sha256": digest}
    assert all(array.dtype == np.float32 for array in tensors.values())
    data = out.read_bytes()
    length = int.from_bytes(data[:8], "little")
    assert (8 + length) % 64 == 0
    header = json.loads(data[8 : 8 + length])
    position, order = 0, []
    for name, entry in header.items():
        if name != "__metadata__":
            assert entry["data_offsets"][0] == position
            position = entry["data_offsets"][1]
            order.append(name)
    assert 8 + length + position == len(data)
    layers = [layer["name"] for layer in metadata["network"]["layers"] if layer["op"] != "pool"]
    assert order == [f"{layer}.{part}" for layer in layers for part in ("weight", "bias")]


def test_same_input_gives_the_same_bytes(tmp_path, seven_blocks):
    source = write_zip(tmp_path / "source.pth", seven_blocks)
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        arguments = (source, tmp_path / folder / "w.safetensors", "--onnx", tmp_path / folder / "w.onnx")
        environment = {**os.environ, "PYTHONHASHSEED": str(ord(folder))}
        assert spawn_convert(*arguments, env=environment).returncode == 0
    for name in ("w.safetensors", "w.onnx"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


# ---------------------------------------------------------------- command line


@pytest.mark.parametrize(
    "arguments, words",
    [
        ((), "SOURCE"),
        (("a",), "SOURCE"),
        (("a", "b", "c"), "SOURCE"),
        (("--random", "1", "out"), "--arch"),
        (("--arch", "b1-plain", "--random", "1", "source", "out"), "--random"),
        (("--arch", "b1", "--random", "-1", "out"), "--random"),
        (("--arch", "b1-plain", "--random", "-1", "out"), "--random"),
        (("--arch", "b1-plain", "--random", "1.5", "out"), "--random"),
        (("--arch", "b1-plain", "--random", str(1 << 64), "out"), "--random"),
        (("--arch", "b1-plain", "--random", "1", "--head-activations", "relu", "out"), "--head-activations"),
        (("--arch", "b7", "a", "b"), "b7"),
        (("--std", "0", "a", "b"), "--std"),
        (("--std", "1,2", "a", "b"), "--std"),
        (("--mean", "nan", "a", "b"), "--mean"),
        (("--epsilon", "-1e-3", "a", "b"), "--epsilon"),
        (("--epsilon", "0", "a", "b"), "--epsilon"),
        (("--onnx", "./b", "a", "b"), "--onnx"),
        (("--colour", "a", "b"), "--colour"),
    ],
)
def test_usage_errors(tmp_path, arguments, words):
    assert_one_line_error(spawn_convert(*arguments, cwd=tmp_path), 64, words)
    assert list(tmp_path.iterdir()) == []


def test_help():
    result = run_convert("--help")
    assert result.returncode == 0 and result.stderr == ""
    for word in ("SOURCE", "--arch", "--labels", "--random", "--onnx", "exit status"):
        assert word in result.stdout


@pytest.mark.parametrize("source", ["missing.pth", ".", "/dev/zero", "fifo"])
def test_sources_that_cannot_be_read(tmp_path, source):
    os.mkfifo(tmp_path / "fifo")
    assert_one_line_error(spawn_convert(source, "out", cwd=tmp_path), 66, source)


@pytest.mark.parametrize("text", [b"", b"P", b"PK", b"{}", b"\x80", b"hello, world\n", b"\x00" * 64])
def test_files_of_another_kind(tmp_path, text):
    (tmp_path / "file.pth").write_bytes(text)
    assert_one_line_error(spawn_convert("file.pth", "out", cwd=tmp_path), 65, "file.pth")


def test_names_of_files_that_are_not_text(tmp_path, seven_blocks):
    """File names are bytes; those that are not UTF-8 come out replaced, and print."""
    source = os.fsencode(
        write_safetensors(tmp_path / "w", seven_blocks).rename(tmp_path / os.fsdecode(b"w\xff"))
    )
    out = os.fsencode(tmp_path / "out") + b"\xfe"
    result = subprocess.run(
        [sys.executable, CONVERT, source, out], capture_output=True, timeout=120, check=False
    )
    assert result.returncode == 0 and b"out\\xdcfe: b1-plain" in result.stdout, result
    assert load(os.fsdecode(out))[0]["source"]["file"] == "w\ufffd"


def test_control_characters_in_names_do_not_reach_the_terminal(tmp_path, seven_blocks):
    refused(tmp_path, {**seven_blocks, "a\x1b[2J\nb": np.ones(1, np.float32)}, "\\x1b[2J\\x0ab is unexpected")


def test_weights_of_our_own(tmp_path, b1_plain):
    result = run_convert(b1_plain, tmp_path / "again.safetensors")
    assert_one_line_error(result, 65, "effnet's own weights already")
