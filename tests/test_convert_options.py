"""tools/convert.py: how images are prepared, as options and timm's config.json say it, and what it says of it."""

import json
from dataclasses import dataclass

import numpy as np
import pytest
from convert_formats import write_safetensors
from convert_networks import ROOT, assert_one_line_error, run_convert, state_dict
from convert_runs import load, tmp_path  # noqa: F401
from effnet_convert.architectures import Layer
from effnet_convert.command_line import parse
from effnet_convert.errors import ConvertError
from effnet_convert.preprocess import Config, check_elements, read_config, settle, short_numbers
from effnet_convert.variants import IMAGENET_MEAN, VARIANTS



@dataclass(frozen=True)
class Default:
    """What a variant says."""

    size: int = 240
    short_side: int = 272
    interpolation: str = "bicubic"
    resize: str = "short-side"
    padding: str = "same"
    epsilon: float = 1e-3
    mean: tuple = (127.0,) * 3
    std: tuple = (128.0,) * 3


def settled(*options, config=Config(), default=Default()):
    """({field: value} that differ from the default, notes)."""
    changes, notes = settle(default, parse([*map(str, options), "source", "out"]), config)
    return {name: value for name, value in changes.items() if value != getattr(default, name)}, notes


@pytest.mark.parametrize(
    "options, expected",
    [
        ([], {}),
        (["--size", 288], {"size": 288, "short_side": 326}),  # the default's share: 240 / 272
        (["--size", 288, "--short-side", 288], {"size": 288, "short_side": 288}),
        (["--size", 224, "--crop-pct", "0.875"], {"size": 224, "short_side": 256}),
        (["--crop-pct", "0.882"], {}),  # 272.1
        (["--crop-pct", "0.9"], {"short_side": 266}),  # 266.67
        (["--crop-pct", "1"], {"short_side": 240}),
        (["--resize", "squash"], {"short_side": 240, "resize": "squash"}),
        (["--resize", "squash", "--size", 96, "--short-side", 96], {"size": 96, "short_side": 96, "resize": "squash"}),
        (["--interpolation", "bilinear"], {"interpolation": "bilinear"}),
        (["--padding", "symmetric", "--epsilon", "1e-5"], {"padding": "symmetric", "epsilon": 1e-5}),
        (["--mean", "1,2,3", "--std", "4"], {"mean": (1, 2, 3), "std": (4, 4, 4)}),
        (["--mean", "0", "--std", "58"], {"mean": (0, 0, 0), "std": (58, 58, 58)}),
        (["--mean", "104,117,123", "--std", "1"], {"mean": (104, 117, 123), "std": (1, 1, 1)}),
    ],
)
def test_options(options, expected):
    assert settled(*options) == (expected, [])


def test_fractions_of_255():
    changes, notes = settled("--mean", "0.485,0.456,0.406", "--std", "0.229,0.224,0.225")
    assert changes == {"mean": (123.675, 116.28, 103.53), "std": (58.395, 57.12, 57.375)}
    assert notes == [
        "--mean, --std: at most 1, so fractions of 255: mean 123.675,116.28,103.53, std 58.395,57.12,57.375"
    ]
    assert settled("--mean", "0", "--std", "1")[0] == {"mean": (0, 0, 0), "std": (255, 255, 255)}
    assert settled("--std", "0.5")[0] == {"std": (127.5, 127.5, 127.5)}


@pytest.mark.parametrize(
    "options, words",
    [
        (["--size", "0"], "--size"),
        (["--size", "4097"], "4096"),
        (["--short-side", "8193"], "8192"),
        (["--short-side", "239"], "short side of 239"),
        (["--size", "4096", "--crop-pct", "0.4"], "short side of 10240"),
        (["--crop-pct", "1e-320"], "a short side of inf"),
        (["--crop-pct", "1e-300"], "a short side of 2.4e+302"),
        (["--crop-pct", "0"], "--crop-pct"),
        (["--crop-pct", "1.01"], "--crop-pct"),
        (["--crop-pct", "nan"], "--crop-pct"),
        (["--crop-pct", "0.9", "--short-side", "272"], "give one"),
        (["--resize", "squash", "--short-side", "272"], "squash"),
        (["--resize", "squash", "--crop-pct", "0.9"], "squash"),
        (["--resize", "border"], "--resize"),
        (["--interpolation", "lanczos"], "--interpolation"),
        (["--mean", "0.5", "--std", "58"], "fractions of 255"),
        (["--mean", "127", "--std", "0.5"], "fractions of 255"),
        (["--std", "1e-7"], "--std"),
        (["--std", "1,0,1"], "--std"),
        (["--std", "nan"], "--std"),
        (["--head-epsilon", "0"], "--head-epsilon"),
    ],
)
def test_options_that_are_refused(options, words):
    with pytest.raises(ConvertError) as refusal:
        settled(*options)
    assert words in str(refusal.value) and refusal.value.status == 64


def test_a_size_with_too_many_elements():
    """The last layer of these three gives 2^28 elements with one size, and more with the next."""
    layers = [
        Layer("stem", "conv", 3, 32, kernel=3, stride=2, pad=(0, 0, 1, 1)),
        Layer("wide", "pointwise", 32, 64),
        Layer("pool", "pool", 64, 64),
    ]
    check_elements(layers, 4096, "source")
    with pytest.raises(ConvertError, match="source: with size 4098, wide gives more than 268435456 elements"):
        check_elements(layers, 4098, "source")


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.full_name)
def test_the_documentation_lists_the_defaults(variant):
    colours = f"{short_numbers(variant.mean)}, {short_numbers(variant.std)}"
    row = [f"`{variant.full_name}`", variant.arch.name, variant.padding, f"{variant.epsilon:g}",
           f"{variant.size} of {variant.short_side}", variant.interpolation,
           "ImageNet" if variant.mean == IMAGENET_MEAN else colours]  # fmt: skip
    assert f"| {' | '.join(row)} |\n" in (ROOT / "docs" / "weights-format.md").read_text()


# ---------------------------------------------------------------- config.json


HUB = {  # as timm 1.0 writes it
    "architecture": "tf_efficientnet_lite1",
    "num_classes": 1000,
    "num_features": 1280,
    "pretrained_cfg": {
        "tag": "in1k",
        "custom_load": False,
        "input_size": [3, 240, 240],
        "fixed_input_size": False,
        "interpolation": "bicubic",
        "crop_pct": 0.882,
        "crop_mode": "center",
        "mean": [0.5, 0.5, 0.5],
        "std": [0.5, 0.5, 0.5],
        "num_classes": 1000,
        "pool_size": [8, 8],
        "first_conv": "conv_stem",
        "classifier": "classifier",
    },
}


def config_file(folder, **changes):
    """The above with other values in pretrained_cfg; those of "top" beside it."""
    value = {**HUB, **changes.pop("top", {})}
    value["pretrained_cfg"] = {**HUB["pretrained_cfg"], **changes}
    path = folder / "config.json"
    path.write_text(json.dumps(value))
    return path


def test_config(tmp_path):
    config = read_config(config_file(tmp_path))
    assert (config.architecture, config.classes, config.imagenet, config.labels) == (
        "tf_efficientnet_lite1", 1000, True, None)  # fmt: skip
    assert settled(config=config) == ({"mean": (127.5,) * 3, "std": (127.5,) * 3}, [])
    path = tmp_path / "flat.json"  # as timm wrote it before 0.9
    path.write_text(json.dumps({**HUB["pretrained_cfg"], "architecture": "efficientnet_lite1"}))
    assert settled(config=read_config(path)) == ({"mean": (127.5,) * 3, "std": (127.5,) * 3}, [])


def test_values_of_a_config(tmp_path):
    config = read_config(config_file(
        tmp_path, input_size=[3, 288, 288], crop_pct=0.9, interpolation="bilinear", mean=[0, 0, 0], std=[1, 1, 1],
        tag="my_own"))  # fmt: skip
    assert config.imagenet is False
    expected = {"size": 288, "short_side": 320, "interpolation": "bilinear", "mean": (0,) * 3, "std": (255,) * 3}
    assert settled(config=config) == (expected, [])
    squash = read_config(config_file(tmp_path, crop_mode="squash", crop_pct=1.0))
    assert settled(config=squash)[0]["resize"] == "squash"
    assert settled("--resize", "squash", config=config)[0]["short_side"] == 288  # its crop_pct is another resizing's
    notes = settled(config=read_config(config_file(tmp_path, test_input_size=[3, 256, 256])))[1]
    assert notes == ["config.json: input_size [3, 240, 240] is taken, not test_input_size [3, 256, 256] (--size says otherwise)"]


def test_options_before_the_config(tmp_path):
    path = config_file(tmp_path, crop_pct=0.5, crop_mode="border", interpolation="lanczos")
    options = ["--short-side", 250, "--resize", "short-side", "--interpolation", "bilinear", "--mean", 9, "--std", 8]
    expected = {"short_side": 250, "interpolation": "bilinear", "mean": (9,) * 3, "std": (8,) * 3}
    assert settled(*options, config=read_config(path)) == (expected, [])
    assert settled("--size", 100, config=read_config(config_file(tmp_path)))[0]["short_side"] == 113  # 100 / 0.882


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"crop_mode": "border"}, "crop_mode border is none of effnet's: --resize"),
        ({"crop_mode": "squash"}, "squash makes both sides 240"),
        ({"interpolation": "lanczos"}, "interpolation lanczos is none of effnet's: --interpolation"),
        ({"input_size": [3, 240, 320]}, "input_size [3, 240, 320]"),
        ({"input_size": [1, 240, 240]}, "input_size [1, 240, 240]"),
        ({"input_size": 240}, "input_size 240"),
        ({"input_size": [3, 0, 0]}, "input_size [3, 0, 0] is not three whole numbers above 0"),
        ({"input_size": [3, -4, -4], "crop_mode": "squash", "crop_pct": 1}, "input_size [3, -4, -4] is not"),
        ({"input_size": [3, 10**400, 10**400]}, "input_size [3, 1000"),
        ({"test_input_size": [256] * 4000}, "test_input_size [256"),
        ({"crop_pct": 5e-324}, "a short side of inf"),
        ({"input_size": [3, 5000, 5000]}, "a size of 5000"),
        ({"crop_pct": 1.5}, "crop_pct 1.5"),
        ({"crop_pct": 10**400}, "crop_pct 1000"),
        ({"crop_pct": "0.9"}, 'crop_pct "0.9"'),
        ({"std": [0.5, 0, 0.5]}, "std [0.5, 0, 0.5]"),
        ({"mean": [0.5, 0.5]}, "mean [0.5, 0.5]"),
        ({"global_pool": "max"}, "global_pool max"),
        ({"top": {"num_classes": "many"}}, 'num_classes "many"'),
        ({"top": {"architecture": None}}, "has no architecture"),
    ],
)
def test_configs_that_are_refused(tmp_path, changes, words):
    with pytest.raises(ConvertError) as refusal:
        settled(config=read_config(config_file(tmp_path, **changes)))
    assert words in str(refusal.value)


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"\xff", b'{"pretrained_cfg": 3}', b"[" * 100_000])
def test_what_is_no_config(tmp_path, text):
    (tmp_path / "config.json").write_bytes(text)
    with pytest.raises(ConvertError, match="config.json: not "):
        read_config(tmp_path / "config.json")


def test_labels_of_a_config(tmp_path):
    top = {"label_names": ["n1", "n2", "n3"], "label_descriptions": {"n1": "cat", "n2": "dog", "n3": "fish"}}
    config = read_config(config_file(tmp_path, top=top))
    assert config.labels.entries == [{"id": f"n{i}", "name": n} for i, n in ((1, "cat"), (2, "dog"), (3, "fish"))]
    assert config.labels.origin == "3 from config.json (label_names)"
    named = read_config(config_file(tmp_path, top={"label_names": {"1": "dog", "0": "cat"}}))
    assert [entry["name"] for entry in named.labels.entries] == ["cat", "dog"]
    for names in (["a", "a"], "cat", [], {"1": "dog"}):
        with pytest.raises(ConvertError, match="config.json: "):
            read_config(config_file(tmp_path, top={"label_names": names}))


# ---------------------------------------------------------------- the whole way


THREE = {"weight": np.ones((3, 1280), np.float32), "bias": np.ones(3, np.float32)}
SQUASH = {"top": {"num_classes": 3, "label_names": ["cat", "dog", "fish"]}, "crop_mode": "squash", "crop_pct": 1.0}


def test_what_is_said_reaches_the_file(tmp_path):
    source = write_safetensors(tmp_path / "lite.bin", state_dict("timm", head=THREE))
    out, config = tmp_path / "out.safetensors", config_file(tmp_path, **SQUASH)
    result = run_convert(source, out, "--config", config, "--size", 96, "--interpolation", "bilinear", "--epsilon", "0.25")
    assert (result.returncode, result.stderr) == (0, ""), result.stderr
    assert result.stdout == (
        f"{out}: lite1, 66 layers, 4112691 parameters, 3 classes\n"
        "  network: timm/tf_efficientnet_lite1, padding same, epsilon 0.25\n"
        "  image: size 96, both sides to 96, bilinear, mean 127.5, std 127.5\n"
        "  labels: 3 from config.json (label_names)\n"
    )
    metadata, tensors = load(out)
    assert metadata["format_version"] == "2" and metadata["network"]["input"] == [3, 96, 96]
    assert metadata["preprocess"] == {
        "resize": "squash", "short_side": 96, "crop": 96, "interpolation": "bilinear", "mean": [127.5] * 3,
        "std": [127.5] * 3,
    }  # fmt: skip
    assert metadata["network"]["layers"][0]["pad"] == [0, 0, 1, 1]
    assert [label["name"] for label in metadata["labels"]] == ["cat", "dog", "fish"]
    state = state_dict("timm", head=THREE)
    scale = state["bn1.weight"] / np.sqrt(state["bn1.running_var"] + 0.25)
    assert np.allclose(tensors["stem.weight"], state["conv_stem.weight"] * scale[:, None, None, None], rtol=1e-6)


def test_what_a_config_decides(tmp_path):
    """The two networks of timm's that have the same tensors: without a word for one, a notice names the other."""
    source = write_safetensors(tmp_path / "lite.bin", state_dict("timm", head=THREE))
    labels = tmp_path / "labels.txt"
    labels.write_text("cat\ndog\nfish\n")
    out = tmp_path / "out.safetensors"
    result = run_convert(source, out, "--labels", labels)
    assert "taken for timm/tf_efficientnet_lite1" in result.stderr and " efficientnet_lite1 " in result.stderr
    config = config_file(tmp_path, top={"architecture": "efficientnet_lite1"})
    result = run_convert(source, out, "--labels", labels, "--config", config)
    assert "  network: timm/efficientnet_lite1, padding symmetric, epsilon 1e-05\n" in result.stdout
    assert result.stderr == f"convert.py: {config} is of a network of 1000 classes, {source} has 3\n"
    result = run_convert(source, out, "--labels", labels, "--config", config, "--arch", "tf_efficientnet_lite1")
    assert "  network: timm/tf_efficientnet_lite1, padding same" in result.stdout  # options go first
    config = config_file(tmp_path, top={"architecture": "resnet50"})
    refusal = run_convert(source, out, "--labels", labels, "--config", config)
    assert_one_line_error(refusal, 65, "config.json: architecture resnet50 is none of timm's")
    result = run_convert(source, out, "--labels", labels, "--config", config, "--arch", "efficientnet_lite1")
    assert result.returncode == 0, result.stderr
    config = config_file(tmp_path, top={"architecture": "efficientnet_b0.ra_in1k"})
    assert_one_line_error(run_convert(source, out, "--labels", labels, "--config", config), 65, "lite1, not timm/efficientnet_b0")
    assert_one_line_error(run_convert(source, config, "--config", config, "--force"), 64, "config.json", "is read")


def test_a_config_that_says_imagenet(tmp_path):
    source, out = write_safetensors(tmp_path / "lite.bin", state_dict("timm")), tmp_path / "out.safetensors"
    result = run_convert(source, out, "--config", config_file(tmp_path))
    assert (result.returncode, result.stderr) == (0, "") and "  labels: ImageNet's 1000\n" in result.stdout
    result = run_convert(source, out, "--config", config_file(tmp_path, tag="mine"))
    assert "ImageNet's names are taken" in result.stderr


def test_random_weights_of_another_size(tmp_path):
    """The numbers that are drawn are for the size, and a classifier for each of a config's labels."""
    out = tmp_path / "out.safetensors"
    config = config_file(tmp_path, **SQUASH)
    result = run_convert("--arch", "b1-plain", "--random", 1, "--size", 64, "--config", config, out)
    assert result.returncode == 0 and ", 3 classes\n" in result.stdout, result.stderr
    assert load(out)[0]["preprocess"]["crop"] == 64


def test_a_size_that_the_padding_is_not_for():
    default = VARIANTS[0]  # efficientnet_lite_pytorch's Lite0, which pads for 224
    assert settled("--size", 224, default=default)[1] == []
    assert "size 256, but padding same@224" in settled("--size", 256, default=default)[1][0]
    assert settled("--size", 256, "--padding", "same@224", default=default)[1] == []
