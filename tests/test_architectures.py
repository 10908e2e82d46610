"""tools/convert.py on the checkpoints that libraries write, held against these libraries: the names and shapes of their
tensors, how they prepare images, and the logits that they compute in float64 (fixtures/make_libraries.py)."""

import re
from types import SimpleNamespace

import library_networks
import numpy as np
import pytest
from convert_formats import write_zip
from convert_networks import run_convert
from convert_runs import labels_file, tmp_path  # noqa: F401
from effnet_convert.architectures import ARCHITECTURES
from effnet_convert.errors import ConvertError
from effnet_convert.naming import detect
from effnet_convert.variants import VARIANTS, for_random, named
from peers.common import Effnet

LIBRARIES = library_networks.load()
NETWORKS = {f"{n['library']}/{n['name']}": n for n in LIBRARIES["networks"]}
ODD_SIZE = LIBRARIES["odd_size"]
ALLOWANCE = 1e-5  # relative L2 of the logits


def shapes_of(full_name):
    return LIBRARIES["tensors"][NETWORKS[full_name]["tensors"]]


def only_shapes(shapes):
    """Tensors as detect() looks at them."""
    return {name: SimpleNamespace(shape=tuple(shape)) for name, shape in shapes.items()}


def relative_error(got, expected):
    expected = np.array(expected)
    return np.linalg.norm(got.astype(np.float64) - expected) / np.linalg.norm(expected)


# ---------------------------------------------------------------- what the tensors tell


def test_every_variant_is_held_against_its_library():
    assert {v.full_name for v in VARIANTS if v.library != "KernelBench"} == set(NETWORKS)


@pytest.mark.parametrize("full_name", NETWORKS)
def test_variant(full_name):
    """The tensors tell the architecture; with --arch, what is assumed is what the library does."""
    network, tensors = NETWORKS[full_name], only_shapes(shapes_of(full_name))
    variant = detect(tensors, full_name, "x").variant
    assert variant.full_name == full_name
    assert variant.arch.name == re.search(r"(lite|b)\d", full_name)[0]
    for field in ("size", "short_side", "interpolation", "epsilon"):
        assert getattr(variant, field) == network[field], field
    for field in ("mean", "std"):
        assert np.allclose(np.array(getattr(variant, field)) / 255, network[field], rtol=1e-12, atol=0), field
    found = detect(tensors, "auto", "x")
    assert found.variant.arch is variant.arch
    possible = {v.full_name for v in VARIANTS if v.library == variant.library and v.arch is variant.arch}
    assert {v.full_name for v in (found.variant, *found.rivals)} == possible
    assert (found.notice == "") == (len(possible) == 1)
    for other in set(possible) - {found.variant.full_name}:
        assert other.partition("/")[2] in found.notice and "--arch" in found.notice


def test_arch_that_the_tensors_contradict():
    cases = [
        ("timm/tf_efficientnet_b1", "b2", "b1, not b2"),
        ("timm/tf_efficientnet_b1", "torchvision/efficientnet_b1", "timm's: b1, not torchvision/efficientnet_b1"),
        ("timm/efficientnet_lite0", "b0", "lite0, not b0"),
        ("efficientnet_pytorch/efficientnet-b0", "efficientnet-lite0", "b0, not efficientnet-lite0"),
        ("torchvision/efficientnet_b0", "tf_efficientnet_b0", "torchvision's: b0, not tf_efficientnet_b0"),
    ]
    for full_name, wanted, words in cases:
        with pytest.raises(ConvertError, match=words):
            detect(only_shapes(shapes_of(full_name)), wanted, "x")


def test_names_of_arch():
    assert named("auto") == VARIANTS
    assert {v.full_name for v in named("efficientnet_b1")} == {"timm/efficientnet_b1", "torchvision/efficientnet_b1"}
    assert {v.library for v in named("lite1")} == {"timm", "efficientnet_lite_pytorch"}
    assert [v.full_name for v in named("torchvision/efficientnet_b1")] == ["torchvision/efficientnet_b1"]
    with pytest.raises(ConvertError, match="--arch b9: unknown.*lite0.*b4"):
        named("b9")
    made = {name: for_random(name).full_name for name in ARCHITECTURES}
    assert made["lite3"] == "efficientnet_lite_pytorch/efficientnet-lite3"
    assert made["b4"] == "timm/tf_efficientnet_b4" and made["b1-plain"] == "KernelBench/b1-plain"
    assert for_random("torchvision/efficientnet_b2").full_name == "torchvision/efficientnet_b2"


@pytest.mark.parametrize("relative", LIBRARIES["relatives"], ids=lambda relative: relative["name"])
def test_relatives_are_called_by_their_names(relative):
    with pytest.raises(ConvertError) as refusal:
        detect(only_shapes(relative["tensors"]), "auto", "x.pth")
    assert str(refusal.value).startswith("x.pth: ") and relative["called"] in str(refusal.value)


def test_a_tensor_missing_or_of_another_shape_does_not_hide_the_network():
    """What is wrong is then said of that tensor, when it is read."""
    tensors = only_shapes(shapes_of("timm/efficientnet_b2"))
    tensors["conv_stem.weight"].shape = (32, 1, 3, 3)
    del tensors["blocks.3.1.conv_dw.weight"]
    assert detect(tensors, "auto", "x").variant.arch.name == "b2"


# ---------------------------------------------------------------- logits


def convert(folder, full_name, *options):
    """The weights file of a network with the parameters that its library had."""
    parameters = library_networks.parameters(shapes_of(full_name))
    source = write_zip(folder / "source.pth", parameters)
    labels = labels_file(folder, "".join(f"class {i}\n" for i in range(library_networks.CLASSES)))
    out = folder / "out.safetensors"
    done = run_convert(source, out, "--arch", full_name, "--labels", labels, *options)
    # A size of the test's own gets a notice where the library pads for another.
    unexpected = [line for line in done.stderr.splitlines() if "pads so whatever size comes in" not in line]
    assert done.returncode == 0 and not unexpected, done.stderr
    return out


def logits(build, weights, device, size, short_side):
    effnet = Effnet(build, weights, device, "fp32", 0)
    try:
        effnet.pixels(library_networks.centre(library_networks.image(short_side), size)[None])
        return effnet.logits()[0]
    finally:
        effnet.close()


@pytest.mark.parametrize("full_name", NETWORKS)
def test_logits(tmp_path, build, sanitized, full_name):  # noqa: F811
    network = NETWORKS[full_name]
    if sanitized and "odd_logits" not in network:
        pytest.skip("slow with sanitizers; the smallest of each library run")
    got = logits(build, convert(tmp_path, full_name), "cpu", network["size"], network["short_side"])
    error = relative_error(got, network["logits"])
    print(f"{full_name}: relative L2 {error:.1e}")
    assert error <= ALLOWANCE  # a NaN is not


@pytest.mark.parametrize("full_name", [name for name, network in NETWORKS.items() if "odd_logits" in network])
def test_logits_at_another_size(tmp_path, build, full_name):  # noqa: F811
    """75, 38, 19, 10, 5, 3: paddings at odd sizes. efficientnet_pytorch's stay those of the size it was made for."""
    weights = convert(tmp_path, full_name, "--size", ODD_SIZE, "--short-side", ODD_SIZE)
    for device in ("cpu", "reference"):
        error = relative_error(logits(build, weights, device, ODD_SIZE, ODD_SIZE), NETWORKS[full_name]["odd_logits"])
        print(f"{full_name}, {device}: relative L2 {error:.1e}")
        assert error <= ALLOWANCE


@pytest.mark.parametrize("options", [("--padding", "symmetric"), ("--epsilon", "1e-5"), ("--padding", "same")])
def test_logits_with_a_wrong_option(tmp_path, build, options):  # noqa: F811
    """The parameters are such that padding and epsilon show: else the tests above would be worth little."""
    full_name = "efficientnet_pytorch/efficientnet-b0"
    weights = convert(tmp_path, full_name, "--size", ODD_SIZE, "--short-side", ODD_SIZE, *options)
    error = relative_error(logits(build, weights, "cpu", ODD_SIZE, ODD_SIZE), NETWORKS[full_name]["odd_logits"])
    assert error > 100 * ALLOWANCE, error
