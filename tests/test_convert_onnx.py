"""tools/convert.py --onnx and --random: the exported networks against onnxruntime and plain NumPy, what the
random weights compute, and the published weights on drawings."""

import hashlib
import math
import random
import subprocess
import sys

import numpy as np
import onnx
import onnxruntime
import pytest
from convert_formats import Tensor, write_safetensors, write_zip
from convert_networks import (
    CONVERT,
    EPSILON,
    SCHEMES,
    assert_one_line_error,
    convolutions,
    convolve,
    fine_tuned_head,
    run_convert,
    run_network,
    state_dict,
)
from convert_runs import load, tmp_path  # noqa: F401
from PIL import Image, ImageDraw


def session(path_or_bytes):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 2
    model = path_or_bytes if isinstance(path_or_bytes, bytes) else str(path_or_bytes)
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def logits_of(path, x):
    return session(path).run(["logits"], {"input": x})[0]


def relative_error(got, expected):
    return np.linalg.norm(got - expected) / np.linalg.norm(expected)


def convert(folder, state, *options, write=write_safetensors):
    source = write(folder / "source.bin", state)
    result = run_convert(source, folder / "w.safetensors", "--onnx", folder / "w.onnx", *options)
    assert result.returncode == 0, result.stderr
    return folder / "w.safetensors", folder / "w.onnx"


# ---------------------------------------------------------------- the exported graph


@pytest.mark.parametrize("scheme", ["lite_pytorch", "sequential"])
def test_the_graph_is_the_unfolded_network(tmp_path, scheme):
    arch, names, prefix = SCHEMES[scheme]
    state = state_dict(scheme)
    _, path = convert(tmp_path, state)
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", 17)]
    (value_in,), (value_out,) = model.graph.input, model.graph.output
    dims = value_in.type.tensor_type.shape.dim
    assert (value_in.name, value_out.name) == ("input", "logits")
    assert dims[0].dim_param and [d.dim_value for d in dims[1:]] == [3, 240, 240]
    assert value_out.type.tensor_type.shape.dim[1].dim_value == 1000
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    convs = [node for node in model.graph.node if node.op_type == "Conv"]
    norms = [node for node in model.graph.node if node.op_type == "BatchNormalization"]
    rows = convolutions(arch)
    assert len(convs) == len(norms) == len(rows)
    for conv, norm, (layer, shape, *place) in zip(convs, norms, rows):
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in conv.attribute}
        weight, prefix = names(layer, *place)
        assert np.array_equal(constants[conv.input[1]], state[weight]) and len(conv.input) == 2
        assert attributes["group"] == (shape[0] if layer.endswith("depthwise") else 1)
        assert norm.input[0] == conv.output[0]
        for name, part in zip(norm.input[1:], ("weight", "bias", "running_mean", "running_var")):
            assert np.array_equal(constants[name], state[f"{prefix}.{part}"])
        assert norm.attribute[0].f == np.float32(EPSILON[arch])
    kinds = [node.op_type for node in model.graph.node]
    assert kinds.count("Add") == (14 if arch == "lite1" else 0)
    assert kinds.count("Relu") == (0 if arch == "lite1" else 2)
    assert kinds[-4:] == ["GlobalAveragePool", "Flatten", "Gemm", "Identity"]


@pytest.mark.parametrize("scheme", ["lite_pytorch", "sequential"])
def test_first_layers_against_numpy(tmp_path, scheme):
    """The stem and two blocks (three for lite1: with a residual) from the state dict alone, in float64."""
    arch, names, _ = SCHEMES[scheme]
    state = state_dict(scheme, seed=3)
    _, path = convert(tmp_path, state)
    blocks = 3 if arch == "lite1" else 2
    model = onnx.load(path)
    end = {"lite1": "blocks.2.project.add", "b1-plain": "blocks.1.project.norm"}[arch]
    model.graph.output.append(onnx.helper.make_tensor_value_info(end, onnx.TensorProto.FLOAT, None))
    x = np.random.default_rng(4).standard_normal((1, 3, 240, 240), np.float32)
    got = session(model.SerializeToString()).run([end], {"input": x})[0]

    same = arch == "lite1"  # pads as TensorFlow: at stride 2 nothing before, one behind
    values, before = x.astype(np.float64), None
    for layer, shape, *place in convolutions(arch)[: 1 + 3 * blocks - 1]:
        weight, norm = names(layer, *place)
        part = layer.split(".")[-1]
        stride = 2 if layer in ("stem", "blocks.1.depthwise") else 1
        kernel = shape[-1]
        pad = (0, 0, 1, 1) if same and stride == 2 else ((kernel - 1) // 2,) * 4
        if part in ("expand", "depthwise") and (part == "expand" or place[2] == 0):
            before = values  # the block's input
        y = convolve(values, state[weight].astype(np.float64), stride, pad, part == "depthwise")
        gamma, beta, mean, var = (
            state[f"{norm}.{p}"].astype(np.float64)[:, None, None]
            for p in ("weight", "bias", "running_mean", "running_var")
        )
        y = (y - mean) / np.sqrt(var + EPSILON[arch]) * gamma + beta
        if layer == "blocks.2.project" and same:
            y = y + before
        if part == "stem" and not same:
            y = np.maximum(y, 0)
        elif part != "project":
            y = np.clip(y, 0, 6)
        values = y
    assert got.shape == values.shape
    assert relative_error(got, values) < 2e-6


@pytest.mark.parametrize(
    "scheme, expand_at_ratio_1", [("lite_pytorch", False), ("sequential", False), ("sequential", True)]
)
def test_folded_weights_against_the_unfolded_graph(tmp_path, scheme, expand_at_ratio_1):
    """The weights file, run through its own layer table in float64, against onnxruntime on the graph."""
    weights, path = convert(tmp_path, state_dict(scheme, seed=5, expand_at_ratio_1=expand_at_ratio_1))
    metadata, tensors = load(weights)
    x = np.random.default_rng(6).standard_normal((2, 3, 240, 240), np.float32)
    expected = run_network(metadata["network"]["layers"], tensors, x)["classifier"]
    got = logits_of(path, x)
    assert got.shape == (2, 1000)
    assert relative_error(got, expected) < 1e-5
    # dynamic batch: an image alone gives the same
    assert relative_error(logits_of(path, x[1:]), expected[1:]) < 1e-5


def test_squeeze_and_excite(b1_files):
    """The weights file of b1 through its own table in float64 against onnxruntime on the graph, which has a Sigmoid a
    gate and one a SiLU."""
    weights, path = b1_files
    metadata, tensors = load(weights)
    layers = metadata["network"]["layers"]
    x = np.random.default_rng(6).standard_normal((2, 3, 240, 240), np.float32)
    assert relative_error(logits_of(path, x), run_network(layers, tensors, x)["classifier"]) < 1e-5
    kinds = [node.op_type for node in onnx.load(path).graph.node]
    silus = sum(layer.get("activation") == "silu" for layer in layers)
    assert kinds.count("Sigmoid") == silus + 23 and kinds.count("Mul") == silus + 23 == 92
    assert kinds.count("GlobalAveragePool") == 24 and kinds.count("Gemm") == 47 and kinds.count("Add") == 16


@pytest.mark.parametrize("activations", ["gelu,silu", "relu,relu6", "none,gelu_relu", "hardswish,tanh"])
def test_heads_of_several_layers(tmp_path, activations):
    labels = tmp_path / "labels.txt"
    labels.write_text("".join(f"class {i}\n" for i in range(10)))
    state = state_dict("sequential", head=fine_tuned_head(hidden=(48, 24)))
    weights, path = convert(tmp_path, state, "--labels", labels, "--head-activations", activations)
    metadata, tensors = load(weights)
    x = np.random.default_rng(7).standard_normal((2, 3, 240, 240), np.float32)
    expected = run_network(metadata["network"]["layers"], tensors, x)["classifier.2"]
    assert relative_error(logits_of(path, x), expected) < 1e-5


def test_values_beyond_float32_are_not_exported(tmp_path):
    """Doubles whose folding fits into float32 although one of them does not."""
    state = {name: Tensor(array, type="float64") for name, array in state_dict("sequential").items()}
    state["bn1.running_var"] = Tensor(np.full(32, 1e300), type="float64")
    source = write_zip(tmp_path / "source.pth", state)
    assert run_convert(source, tmp_path / "out").returncode == 0
    (tmp_path / "out").unlink()
    result = run_convert(source, tmp_path / "out", "--onnx", tmp_path / "out.onnx")
    assert_one_line_error(result, 65, "stem.norm.var", "exceeds float32")
    assert not (tmp_path / "out").exists() and not (tmp_path / "out.onnx").exists()


def test_export_without_the_package_onnx(tmp_path):
    code = (
        "import sys; sys.modules['onnx'] = None; sys.path.insert(0, sys.argv.pop(1)); "
        "from effnet_convert.command_line import main; sys.exit(main(sys.argv[1:]))"
    )
    source = write_safetensors(tmp_path / "source", state_dict("sequential"))
    command = [
        sys.executable,
        "-c",
        code,
        CONVERT.parent,
        source,
        tmp_path / "out",
        "--onnx",
        tmp_path / "out.onnx",
    ]
    result = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=120, check=False)
    assert_one_line_error(result, 69, "onnx")
    assert not (tmp_path / "out").exists()


# ---------------------------------------------------------------- random weights


def random_weights(folder, arch, seed, name="w", options=()):
    weights, path = folder / f"{name}.safetensors", folder / f"{name}.onnx"
    result = run_convert("--arch", arch, "--random", seed, weights, "--onnx", path, *options)
    assert result.returncode == 0, result.stderr
    return weights, path


def test_random_weights_repeat_and_differ(tmp_path):
    first, _ = random_weights(tmp_path, "b1-plain", 7, "a")
    again, _ = random_weights(tmp_path, "b1-plain", 7, "b")
    other, _ = random_weights(tmp_path, "b1-plain", 8, "c")
    assert first.read_bytes() == again.read_bytes()
    source, tensors = load(first)[0]["source"], load(first)[1]
    assert source["file"] == "random, seed 7" and len(source["sha256"]) == 64
    assert load(other)[0]["source"]["sha256"] != source["sha256"]
    different = load(other)[1]
    assert not any(np.array_equal(tensors[name], different[name]) for name in tensors)


def test_random_weights_are_the_same_everywhere(tmp_path):
    """Seed 1 as published: the parameters' bytes do not depend on the versions of NumPy or the processor."""
    weights, _ = random_weights(tmp_path, "b1-plain", 1)
    _, tensors = load(weights)
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(tensors[name].tobytes())
    assert digest.hexdigest() == "78f1011c9561b6345c6fd78137d3d54bd8fd4b193a967069f9e20341031dcf67"


def test_random_weights_with_labels(tmp_path):
    labels = tmp_path / "labels.txt"
    labels.write_text("cat\ndog\nfish\n")
    weights, path = random_weights(tmp_path, "b1-plain", 1, options=("--labels", labels))
    metadata, tensors = load(weights)
    assert [label["name"] for label in metadata["labels"]] == ["cat", "dog", "fish"]
    assert tensors["classifier.weight"].shape == (3, 1280)
    assert logits_of(path, np.zeros((1, 3, 240, 240), np.float32)).shape == (1, 3)


def drawings():
    """{name: image}: what ImageNet's networks know, drawn."""
    shuffle = random.Random(1)
    crossword = Image.new("RGB", (400, 360), "white")
    draw = ImageDraw.Draw(crossword)
    for column in range(13):
        for row in range(12):
            x, y = 10 + 29 * column, 5 + 29 * row
            draw.rectangle([x, y, x + 29, y + 29], "black" if shuffle.random() < 0.25 else "white", "black")
            if shuffle.random() < 0.3:
                draw.text((x + 4, y + 3), str(shuffle.randint(1, 40)), "black")
    light = Image.new("RGB", (300, 400), (130, 180, 230))
    draw = ImageDraw.Draw(light)
    draw.rectangle([140, 250, 160, 400], (60, 60, 60))
    draw.rounded_rectangle([95, 40, 205, 270], 20, (25, 25, 25))
    for y, colour in ((80, (240, 30, 30)), (155, (70, 60, 10)), (230, (10, 60, 20))):
        draw.ellipse([120, y - 30, 180, y + 30], colour)
    noise = np.random.default_rng(0).integers(0, 256, (300, 300, 3), dtype=np.uint8)
    return {
        "crossword puzzle": crossword,
        "traffic light": light,
        "noise": Image.fromarray(noise),
        "blue": Image.new("RGB", (300, 300), (30, 80, 200)),
        "black": Image.new("RGB", (300, 300)),
        "white": Image.new("RGB", (300, 300), "white"),
    }


def preprocessed(image, preprocess):
    """float32 [1, 3, 240, 240], with Pillow."""
    width, height = image.size
    short, crop = preprocess["short_side"], preprocess["crop"]
    size = (short, short * height // width) if width < height else (short * width // height, short)
    image = image.convert("RGB").resize(size, Image.BICUBIC)
    left, top = round((size[0] - crop) / 2), round((size[1] - crop) / 2)
    pixels = np.asarray(image.crop((left, top, left + crop, top + crop)), np.float32)
    pixels = (pixels - np.float32(preprocess["mean"])) / np.float32(preprocess["std"])
    return np.ascontiguousarray(pixels.transpose(2, 0, 1)[None], np.float32)


@pytest.mark.parametrize("arch, seed", [("b1-plain", 1), ("b1-plain", 12345), ("lite1", 1), ("b1", 1)])
def test_random_weights_keep_activations_in_range(tmp_path, arch, seed):
    """On drawings and extreme images every layer's output has a sane size and is no constant, the logits
    depend on the image, and the fifth class is clear of the sixth."""
    weights, path = random_weights(tmp_path, arch, seed)
    preprocess = load(weights)[0]["preprocess"]
    model = onnx.load(path)
    ends = [
        node.output[0]
        for node in model.graph.node
        if node.op_type in ("Clip", "Relu", "Add", "BatchNormalization")
    ]
    model.graph.output.extend(
        onnx.helper.make_tensor_value_info(end, onnx.TensorProto.FLOAT, None) for end in ends
    )
    run = session(model.SerializeToString())
    images = drawings()
    x = np.concatenate([preprocessed(image, preprocess) for image in images.values()])
    logits, *layers = run.run(["logits", *ends], {"input": x})
    for name, y in zip(ends, layers):
        assert np.abs(y).max() < 100, name
        busy = y[:3]  # the two drawings and the noise
        assert 0.2 < busy.std() < 5, name
        # few channels are dead on them
        assert (busy.max(axis=(0, 2, 3)) == busy.min(axis=(0, 2, 3))).mean() < 0.02, name
    assert 1 < logits.std() < 15 and np.abs(logits).max() < 60
    ranked = np.sort(logits, axis=1)[:, ::-1]
    assert (ranked[:, 4] - ranked[:, 5]).min() > 1e-3
    assert len(set(logits.argmax(axis=1))) >= 4
    # SiLU cuts little off, so b1 is nearer to a linear map of the image than networks with ReLU6
    assert np.corrcoef(logits[:3])[np.triu_indices(3, 1)].max() < (0.95 if arch == "b1" else 0.9)


# ---------------------------------------------------------------- the published weights


@pytest.mark.parametrize("image", ["crossword puzzle", "traffic light"])
def test_published_weights_know_drawings(lite1, lite1_onnx, image):
    metadata, tensors = load(lite1)
    x = preprocessed(drawings()[image], metadata["preprocess"])
    logits = logits_of(lite1_onnx, x)[0]
    probabilities = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    assert metadata["labels"][int(logits.argmax())]["name"] == image
    assert probabilities.max() > 0.5
    expected = run_network(metadata["network"]["layers"], tensors, x)["classifier"][0]
    assert relative_error(logits, expected) < 1e-5


def test_published_weights_are_those(lite1):
    metadata, tensors = load(lite1)
    assert metadata["source"]["file"] == "efficientnet-lite1-77cc7160.pth"
    # the file's name holds the start of its SHA-256, as PyTorch's hub does it
    assert metadata["source"]["sha256"].startswith("77cc7160")
    assert sum(math.prod(array.shape) for array in tensors.values()) == 5_389_848


def test_random_weights_in_place(b1_plain):
    assert load(b1_plain)[0]["source"]["file"] == "random, seed 1"
