"""tools/convert.py: heads of one linear layer and of several, and what the source does not say of them."""

from dataclasses import replace

import numpy as np
import pytest
from convert_formats import Tensor, module_of, pickled, program, write_safetensors, write_zip
from convert_networks import (
    ACTIVATE,
    WHICH,
    assert_one_line_error,
    fine_tuned_head,
    run_convert,
    run_network,
    state_dict,
)
from convert_runs import converted, labels_file, load, refused, tmp_path  # noqa: F401
from effnet_convert import safetensors_file
from effnet_convert.architectures import build_layers
from effnet_convert.built import as_built
from effnet_convert.errors import ConvertError
from effnet_convert.heads import ACTIVATIONS, HeadOptions, find_head
from effnet_convert.naming import Found, Timm
from effnet_convert.state_dict import Reader
from effnet_convert.variants import VARIANTS, named


def expected_head(parts, activation, epsilon, x):
    """Linear, BatchNorm1d, activation and two more modules, ..., Linear as written."""
    last = max(int(name.split(".")[0]) for name in parts)
    for at in range(0, last, 4):
        x = x @ parts[f"{at}.weight"].astype(np.float64).T + parts.get(f"{at}.bias", 0.0)
        mean, var, gamma, beta = (
            parts[f"{at + 1}.{part}"].astype(np.float64) for part in ("running_mean", "running_var", "weight", "bias")
        )
        x = ACTIVATE[activation]((x - mean) / np.sqrt(var + epsilon) * gamma + beta)
    return x @ parts[f"{last}.weight"].astype(np.float64).T + parts[f"{last}.bias"]


def relative_error(got, expected):
    return np.linalg.norm(got - expected) / np.linalg.norm(expected)


@pytest.mark.parametrize(
    "scheme, hidden, bias, activation, epsilon",
    [
        ("lite_pytorch", (48,), True, "gelu_relu", None),
        ("timm", (48,), False, "hardswish", "1e-2"),
        ("sequential", (40, 24), True, "tanh", "0.1"),
    ],
)
def test_fine_tuned_head(tmp_path, scheme, hidden, bias, activation, epsilon):
    parts = fine_tuned_head(hidden=hidden, bias=bias)
    labels = labels_file(tmp_path, "".join(f"class {i}\n" for i in range(10)))
    options = [*WHICH.get(scheme, ()), "--labels", labels, "--head-activations", ",".join([activation] * len(hidden))]
    options += ["--head-epsilon", epsilon] if epsilon else []
    metadata, tensors = converted(tmp_path, state_dict(scheme, head=parts), *options)
    layers = [layer for layer in metadata["network"]["layers"] if layer["name"].startswith("classifier")]
    widths = [1280, *hidden, 10]
    assert layers == [
        {
            "name": f"classifier.{i}",
            "op": "linear",
            "in": widths[i],
            "out": widths[i + 1],
            "activation": "none" if i == len(hidden) else activation,
        }
        for i in range(len(hidden) + 1)
    ]
    assert metadata["format_version"] == ("1" if activation == "gelu_relu" else "2")
    x = np.random.default_rng(5).standard_normal((3, 1280))
    y = run_network(layers, tensors, x)[layers[-1]["name"]]
    assert relative_error(y, expected_head(parts, activation, float(epsilon or 1e-5), x)) <= 1e-6


def linear_head(*places, norms=()):
    """Linear layers of 8 at these places of a Sequential, batch norms at those."""
    head, inputs = {}, 1280
    for place in sorted((*places, *norms)):
        if place in norms:
            parts = ("weight", "bias", "running_mean", "running_var")
            head.update({f"{place}.{part}": np.ones(8, np.float32) for part in parts})
        else:
            head[f"{place}.weight"] = np.ones((8, inputs), np.float32)
            head[f"{place}.bias"] = np.ones(8, np.float32)
            inputs = 8
    return head


def found_head(folder, head, options):
    """[(outputs, activation), ...] of parameters under "fc"."""
    path = write_safetensors(folder / "head.bin", {f"fc.{name}": array for name, array in head.items()})
    tensors = safetensors_file.read(path.read_bytes(), path.name)
    return [(part.outputs, part.activation) for part in find_head(Reader(tensors, "head.bin"), tensors, "fc", options)]


# The first would have been taken for Linear, BatchNorm1d, GELU, ReLU, Linear by its indices alone.
@pytest.mark.parametrize(
    "head, words",
    [
        (linear_head(0, 4, norms=(1,)), "2 linear layers in fc, .* --head-activations A "),
        (linear_head(0, 2, 5), "3 linear layers in fc, .* --head-activations A,A "),
        (linear_head(0, 4, norms=(2,)), "fc.2 is a batch norm that does not follow"),
        ({"dense.weight": np.ones((10, 1280), np.float32)}, "fc.weight is missing .fc.dense.weight is there"),
        ({**linear_head(0), "2.weight": np.ones(8, np.float32)}, "fc.2.weight has shape .8.: neither"),
    ],
)
def test_heads_that_are_refused(tmp_path, head, words):
    with pytest.raises(ConvertError, match=words) as refusal:
        found_head(tmp_path, head, HeadOptions())
    assert refusal.value.status == 65


@pytest.mark.parametrize(
    "head, words",
    [
        ({}, "fc.weight is missing"),
        ({**linear_head(0, 4), "7.0.weight": np.ones(3, np.float32)}, "fc.7.0.weight is unexpected"),
        ({**linear_head(0, 4), "4.weight": np.ones((8, 9), np.float32)}, "fc.4.weight has shape [8, 9]"),
    ],
)
def test_parameters_that_do_not_fit(tmp_path, head, words):
    options = ("--head-activations", "relu") if head else ()
    refused(tmp_path, state_dict("sequential", head=head), words, options=options)


def test_activations_from_the_user(tmp_path):
    head = linear_head(0, 2, 5, norms=(3,))
    assert found_head(tmp_path, head, HeadOptions(("silu", "none"))) == [(8, "silu"), (8, "none"), (8, "none")]
    with pytest.raises(ConvertError, match="--head-activations: 1 given, but of the 3 linear layers") as refusal:
        found_head(tmp_path, head, HeadOptions(("silu",)))
    assert refusal.value.status == 64
    with pytest.raises(ConvertError, match="fc is one linear layer"):
        found_head(tmp_path, {"weight": np.ones((8, 4), np.float32)}, HeadOptions(("relu",)))
    result = run_convert("source", "out", "--head-activations", "swish,none")
    assert_one_line_error(result, 64, "--head-activations", "swish", *ACTIVATIONS)


def modules(*names):
    return {f"fc.{index}": name for index, name in enumerate(names)}


@pytest.mark.parametrize(
    "names, activations",
    [
        (["Linear", "BatchNorm1d", "GELU", "ReLU", "Linear"], ["gelu_relu"]),
        (["Linear", "BatchNorm1d", "ReLU", "Dropout", "Linear"], ["relu"]),
        (["Linear", "BatchNorm1d", "Identity", "Dropout", "Linear", "LogSoftmax"], ["none"]),
        (["torch.nn.modules.linear.Linear", "BatchNorm1d", "torch.nn.Hardswish", "Dropout", "Linear"], ["hardswish"]),
    ],
)
def test_activations_from_the_classes_of_a_module(tmp_path, names, activations):
    options = HeadOptions(classes=modules(*names))
    assert [activation for _, activation in found_head(tmp_path, linear_head(0, 4, norms=(1,)), options)] == [
        *activations,
        "none",
    ]


@pytest.mark.parametrize(
    "names, given, words",
    [
        (["Linear", "BatchNorm1d", "LeakyReLU", "Dropout", "Linear"], None, "fc.2 .LeakyReLU. is nothing that effnet has"),
        (["Linear", "BatchNorm1d", "ReLU", "GELU", "Linear"], None, "relu and gelu follow one linear layer"),
        (["Linear", "BatchNorm1d", "ReLU"], None, "fc.3 .a module that the source does not name"),
        (["Linear", "BatchNorm1d", "ReLU", "Dropout", "Linear"], ("silu",), "the source's modules are relu"),
        (["Linear", "BatchNorm1d", "ReLU", "Dropout", "Linear", "Sigmoid"], None, "fc.5 is a Sigmoid.*--multi-label"),
        (["Linear", "BatchNorm1d", "ReLU", "Dropout", "Linear", "ReLU"], None, "fc.5 .ReLU. is nothing .* after"),
    ],
)
def test_classes_of_a_module_that_are_refused(tmp_path, names, given, words):
    with pytest.raises(ConvertError, match=words):
        found_head(tmp_path, linear_head(0, 4, norms=(1,)), HeadOptions(given, classes=modules(*names)))


def test_settings_of_a_module(tmp_path):
    """A batch norm's epsilon counts, unless --head-epsilon says another; GELU by tanh is none of effnet's."""
    names = modules("Linear", "BatchNorm1d", "GELU", "Dropout", "Linear")
    settings = {"fc.1": {"eps": 0.25}, "fc.2": {"approximate": "none"}}
    assert HeadOptions(settings=settings).epsilon_of("fc.1") == 0.25
    assert HeadOptions(epsilon=0.5, settings=settings).epsilon_of("fc.1") == 0.5
    assert HeadOptions().epsilon_of("fc.1") == 1e-5
    with pytest.raises(ConvertError, match="fc.1: its eps is 'x'"):
        HeadOptions(settings={"fc.1": {"eps": "x"}}).epsilon_of("fc.1")
    head = linear_head(0, 4, norms=(1,))
    assert found_head(tmp_path, head, HeadOptions(classes=names, settings=settings))[0] == (8, "gelu")
    with pytest.raises(ConvertError, match="fc.2 .GELU by tanh. is nothing that effnet has"):
        found_head(tmp_path, head, HeadOptions(classes=names, settings={"fc.2": {"approximate": "tanh"}}))


def test_activation_before_the_first_linear_layer(tmp_path):
    with pytest.raises(ConvertError, match="before the first linear layer"):
        found_head(tmp_path, linear_head(1), HeadOptions(classes=modules("SiLU", "Linear")))
    options = HeadOptions(multi_label=True, classes=modules("Dropout", "Linear", "Sigmoid"))
    assert found_head(tmp_path, linear_head(1), options) == [(8, "none")]


def test_linear_without_bias_and_norm_without_weight(tmp_path):
    """bias=False is a bias of 0, affine=False a weight of 1 and a bias of 0, and the former is said."""
    state = state_dict("sequential")
    plain = {**state, "fc.bias": np.zeros(1000, np.float32), "bn1.weight": np.ones(32, np.float32)}
    plain["bn1.bias"] = np.zeros(32, np.float32)
    _, expected = converted(tmp_path, plain)
    bare = {name: array for name, array in plain.items() if name not in ("fc.bias", "bn1.weight", "bn1.bias")}
    _, tensors = converted(tmp_path, bare)
    assert all(np.array_equal(tensors[name], array) for name, array in expected.items())
    result = run_convert(tmp_path / "source.bin", tmp_path / "out.safetensors")
    assert "\n  head: 1000 none without bias\n" in result.stdout
    (tmp_path / "out.safetensors").unlink()
    refused(tmp_path, {name: array for name, array in plain.items() if name != "bn1.bias"}, "bn1.bias is missing")


def test_multi_label(tmp_path):
    """Each class its own sigmoid: the file says it, of version 2; one class is refused without."""
    one = {"weight": np.ones((1, 1280), np.float32), "bias": np.ones(1, np.float32)}
    state, labels = state_dict("sequential", head=one), labels_file(tmp_path, "defect\n")
    refused(tmp_path, state, "one class", "--multi-label", options=("--labels", labels))
    metadata, _ = converted(tmp_path, state, "--labels", labels, "--multi-label")
    assert metadata["network"]["multi_label"] is True and metadata["format_version"] == "2"
    assert metadata["network"]["layers"][-1]["activation"] == "none"
    result = run_convert(tmp_path / "source.bin", tmp_path / "out.safetensors", "--labels", labels, "--multi-label")
    assert ", 1 class\n" in result.stdout and "(a line each), each with its own sigmoid\n" in result.stdout
    random = ("--arch", "b1-plain", "--random", 1, tmp_path / "random", "--labels", labels)
    assert_one_line_error(run_convert(*random), 65, "one class", "labels.txt")


def whole_module(path, state, classes, epsilon, **more):
    """Writes a state dict as torch.save(model) writes the module that has it. classes: {module path: class of torch.nn}
    of what a state dict does not tell; more: attributes of the network."""
    tensors = {name: Tensor(array, key=str(i)) for i, (name, array) in enumerate(state.items())}
    paths = {name.rpartition(".")[0] for name in state} | set(classes)

    def build(prefix):
        inside = {path[len(prefix) :].split(".")[0] for path in paths if path.startswith(prefix) and path != prefix[:-1]}
        own = {name[len(prefix) :]: t.pickled(False) for name, t in tensors.items() if name.rpartition(".")[0] == prefix[:-1]}
        is_norm = "running_mean" in own
        kind = classes.get(prefix[:-1], "BatchNorm2d" if is_norm else "Module")
        buffers = {part: own.pop(part) for part in list(own) if is_norm and part not in ("weight", "bias")}
        settings = {"eps": pickled(0.5 if kind == "BatchNorm1d" else epsilon)} if is_norm else {}
        modules = {name: build(f"{prefix}{name}.") for name in sorted(inside, key=lambda name: (len(name), name))}
        settings |= {name: pickled(value) for name, value in more.items() if not prefix}
        return module_of(f"torch.nn.{kind}", own, buffers, modules, **settings)

    return write_zip(path, {t.key: t for t in tensors.values()}, lambda _, old: program(build("")))


def test_whole_module(tmp_path):
    """Its classes tell the head's activation, its batch norms their epsilons: of timm's two networks the one with 1e-5."""
    head = fine_tuned_head(hidden=(8,), classes=3)
    names = ["Linear", "BatchNorm1d", "SiLU", "Dropout", "Linear"]
    state = state_dict("timm", head=head)
    labels = ("--labels", labels_file(tmp_path, "cat\ndog\nfish\n"))
    source = whole_module(tmp_path / "model.pth", state, {f"classifier.{i}": name for i, name in enumerate(names)}, 1e-5)
    result = run_convert(source, tmp_path / "whole", *labels)
    assert (result.returncode, result.stderr) == (0, "")
    assert "  network: timm/efficientnet_lite1, padding symmetric, epsilon 1e-05\n" in result.stdout
    assert "  head: 8 silu, 3 none, batch norm epsilon 0.5\n" in result.stdout
    options = ("--arch", "efficientnet_lite1", "--head-activations", "silu", "--head-epsilon", "0.5")
    _, expected = converted(tmp_path, state, *labels, *options)
    _, tensors = load(tmp_path / "whole")
    assert all(np.array_equal(tensors[name], array) for name, array in expected.items())


def test_pretrained_cfg_of_a_whole_module(tmp_path):
    """timm's networks carry what a config.json says; options go first."""
    config = {"architecture": "efficientnet_lite1", "tag": "x", "input_size": (3, 256, 256), "crop_pct": 0.5}
    config |= {"mean": (0.5, 0.5, 0.5), "std": (0.25, 0.5, 0.5), "interpolation": "bilinear", "num_classes": 7}
    source = whole_module(tmp_path / "model.pth", state_dict("timm"), {}, 1e-5, pretrained_cfg=config)
    result = run_convert(source, tmp_path / "out", "--mean", 100)
    assert "  image: size 256, short side 512, bilinear, mean 100, std 63.75,127.5,127.5\n" in result.stdout, result.stderr
    assert "model.pth: its pretrained_cfg says how images are prepared" in result.stderr
    source = whole_module(tmp_path / "model.pth", state_dict("timm"), {}, 1e-5, pretrained_cfg={**config, "crop_pct": 2})
    assert_one_line_error(run_convert(source, tmp_path / "none"), 65, "model.pth: its pretrained_cfg: crop_pct 2")


def test_epsilons_of_a_module():
    """One that no variant has is taken all the same; several are refused."""
    found = Found(Timm(()), VARIANTS[0], (VARIANTS[10],))
    norms = {"a": "torch.nn.BatchNorm2d", "b": "timm.BatchNormAct2d", "fc.1": "torch.nn.BatchNorm1d"}

    def built(*epsilons):
        settings = {path: {"eps": epsilon} for path, epsilon in zip(norms, epsilons)}
        return as_built(found, norms, settings, "source")

    assert built() == as_built(found, {}, {}, "source") == found
    assert (built(1e-3, 1e-3, 0.5).variant, built(1e-3, 1e-3).rivals) == (VARIANTS[0], ())
    assert (built(1e-5, 1e-5).variant, built(1e-5, 1e-5).rivals) == (VARIANTS[10], ())
    assert "its modules have epsilon 0.25, not 0.001" in built(0.25, 0.25).notes[0] and built(1e-5, 1e-5).notes == ()
    assert built(0.25, 0.25).variant == replace(VARIANTS[0], epsilon=0.25) and built(0.25, 0.25).rivals
    for epsilons in ((1e-3, 1e-5), ("x", "x"), (2.0, 2.0), ("x" * 1000, 1e-3), (1 << 32000, 1 << 32000), (1 << 32000, 1)):
        with pytest.raises(ConvertError, match="source: its batch norms' eps are .{3,99} not one number"):
            built(*epsilons)


@pytest.mark.parametrize(
    "epsilon, words",
    [(1 << 32000, "a whole number of 32001 bits"), ("x" * 1000, "xxx"), (0.0, "0.0")],
    ids=["whole number", "text", "zero"],
)
def test_epsilons_of_a_head_that_are_refused(epsilon, words):
    with pytest.raises(ConvertError, match=f"fc.1: its eps is .*{words}") as refusal:
        HeadOptions(settings={"fc.1": {"eps": epsilon}}).epsilon_of("fc.1")
    assert len(str(refusal.value)) < 200


def convolutions_as(padding, **changes):
    """classes and settings of a timm module of B0 whose convolutions pad so; changes: {module path: (class, settings)}."""
    (plain,) = named("timm/efficientnet_b0")
    classes, settings, scheme = {"bn1.act": "torch.nn.SiLU"}, {}, Timm(())
    blocks = list(plain.arch.blocks())
    for layer in build_layers(plain, []):
        if layer.op in ("conv", "depthwise", "pointwise"):
            path = scheme.convolution(layer, blocks)[0].removesuffix(".weight")
            same = padding == "same" and layer.stride == 2
            classes[path] = "timm.layers.conv2d_same.Conv2dSame" if same else "torch.nn.Conv2d"
            settings[path] = {"stride": (layer.stride,) * 2, "padding": (0, 0) if same else layer.pad[:2], "dilation": (1, 1)}
    for path, (kind, more) in changes.items():
        classes[path] = kind or classes[path]
        settings[path] = {**settings.get(path, {}), **more}
    return classes, settings


def built_as(classes, settings, *names):
    found = [named(name)[0] for name in names or ("timm/efficientnet_b0", "timm/tf_efficientnet_b0")]
    return as_built(Found(Timm(()), found[0], tuple(found[1:])), classes, settings, "source")


def test_padding_of_a_module():
    """Its convolutions tell it, whatever the batch norms' epsilon."""
    norm = {"bn1": ("torch.nn.BatchNorm2d", {"eps": 1e-5})}
    assert built_as(*convolutions_as("symmetric")).variant == named("timm/efficientnet_b0")[0]
    assert built_as(*convolutions_as("same")).variant == named("timm/tf_efficientnet_b0")[0]
    found = built_as(*convolutions_as("same", **norm))
    assert (found.variant.name, found.variant.epsilon, found.rivals) == ("tf_efficientnet_b0", 1e-5, ())
    found = built_as(*convolutions_as("same"), "timm/efficientnet_b0")
    assert found.variant.padding == "same" and "padding same, not symmetric" in found.notes[0]


@pytest.mark.parametrize(
    "path, kind, settings, words",
    [
        ("conv_stem", None, {"stride": (1, 1)}, "conv_stem has stride .1, 1., where timm/efficientnet_b0 has 2"),
        ("blocks.5.1.conv_dw", None, {"dilation": (2, 2)}, "blocks.5.1.conv_dw has dilation"),
        ("conv_stem", None, {"padding_mode": "reflect"}, "conv_stem has padding_mode reflect"),
        ("conv_stem", None, {"padding": (0, 0)}, "conv_stem pads by .0, 0, 0, 0."),
        ("bn1.act", "torch.nn.ReLU", {}, "bn1.act is ReLU, where timm/efficientnet_b0 has SiLU"),
        ("blocks.0.0.se.gate", "torch.nn.Hardsigmoid", {}, "blocks.0.0.se.gate is Hardsigmoid"),
        ("global_pool", "timm.SelectAdaptivePool2d", {"pool_type": "max"}, "global_pool is .* .max.: effnet takes the mean"),
        ("avgpool", "torch.nn.AdaptiveMaxPool2d", {}, "avgpool is AdaptiveMaxPool2d: effnet takes the mean"),
    ],
)
def test_modules_that_compute_something_else(path, kind, settings, words):
    with pytest.raises(ConvertError, match="source: " + words):
        built_as(*convolutions_as("symmetric", **{path: (kind, settings)}))
