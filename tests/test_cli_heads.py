"""Multi-label networks, squashed images and networks of other sizes, from the command line."""

import csv
import io
import json
import math

import numpy as np
import pytest
from PIL import Image
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from cli_model import CROP, LABELS, USAGE, assert_one_line, write_image, write_tiny_model

BIAS = [-1, 0, 2, 30, -0.5, 1]
ORDER = [3, 2, 5, 1, 4, 0]


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Multi-label networks whose logits are known: of six classes, of six improbable ones, of one, of one improbable."""
    folder = tmp_path_factory.mktemp("models")
    return {name: write_tiny_model(folder / f"{name}.safetensors", bias=bias, multi_label=True)
            for name, bias in {"six": BIAS, "none": [-3] * 6, "one": [0.5], "not": [-0.5]}.items()}


def run(effnet, model, *arguments):
    done = effnet("classify", "-m", model, "--device", "cpu", *arguments)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout


def classes(effnet, model, image, *options):
    (line,) = run(effnet, model, "--format", "json", *options, image).splitlines()
    result = json.loads(line)
    assert set(result) == {"filename", "classes"}
    return result["classes"]


# ---------------------------------------------------------------- multi-label


@pytest.mark.parametrize("options,count", [
    ([], 4), (["--threshold", "0.5"], 4), (["--threshold", "0.51"], 3), (["--threshold", "0"], 6),
    (["--threshold", "1"], 1), (["-k", "2"], 2), (["-k", "99"], 6), (["-k", "5", "--threshold", "0.7"], 3),
    (["-k", "2", "--threshold", "0.7"], 2)])
def test_classes_by_threshold_and_number(effnet, models, image, options, count):
    """One class is at the threshold exactly: it counts. sigmoid(30) is 1 as a float."""
    found = classes(effnet, models["six"], image, *options)
    assert [c["index"] for c in found] == ORDER[:count]
    assert [(c["id"], c["label"]) for c in found] == [LABELS[i] for i in ORDER[:count]]
    assert [c["probability"] for c in found] == pytest.approx([sigmoid(BIAS[i]) for i in ORDER[:count]], rel=1e-6)


def test_no_class_is_probable(effnet, models, tmp_path):
    images = [write_image(tmp_path / f"{i}.png", i) for i in range(2)]
    line = "      no class at or above 50 %\n"
    assert run(effnet, models["none"], *images) == f"{images[0]}\n{line}{images[1]}\n{line}"
    assert "above 4.75 %" in run(effnet, models["none"], "--threshold", "0.0475", images[0])
    assert classes(effnet, models["none"], images[0]) == []
    assert len(classes(effnet, models["none"], images[0], "-k", "3")) == 3


def test_one_output(effnet, models, image):
    assert run(effnet, models["one"], image) == f"{image}\n   1   62.25 %  plain  (n00000001)\n"
    assert classes(effnet, models["not"], image) == []
    assert classes(effnet, models["not"], image, "-k", "1")[0]["probability"] == pytest.approx(sigmoid(-0.5), rel=1e-6)


@pytest.mark.parametrize("options,most,count", [([], 6, 4), (["-k", "2"], 2, 2), (["-k", "5", "--threshold", "0.7"], 5, 3)])
def test_csv_is_rectangular(effnet, models, image, options, most, count):
    title, record = csv.reader(io.StringIO(run(effnet, models["six"], "--format", "csv", *options, image), newline=""))
    assert len(title) == len(record) == 1 + 3 * most and title[-1] == f"prob_{most - 1}"
    assert record[1::3] == [str(i) for i in ORDER[:count]] + [""] * (most - count)
    assert record[2::3] == [LABELS[i][1] for i in ORDER[:count]] + [""] * (most - count)
    assert float(record[3]) == 1 and record[3 * count + 1:] == [""] * (3 * (most - count))


def test_threshold_is_for_multi_label_networks(effnet, tiny, models, image):
    done = effnet("classify", "-m", tiny, "--threshold", "0.5", image)
    assert_one_line(done, USAGE, "--threshold is for multi-label networks", "tiny exclude one another", "-k")
    for value in ("1.01", "-0.1", "half", "nan", ""):
        done = effnet("classify", "-m", models["six"], "--threshold", value, image)
        assert_one_line(done, USAGE, "--threshold", "a number from 0 to 1")


def test_verify_compares_what_is_said(effnet, models, tmp_path):
    model = write_tiny_model(tmp_path / "m.safetensors", multi_label=True)
    done = effnet("verify", "-m", model, "--device", "cpu", "--format", "json")
    assert done.returncode == 0, done.stderr
    logits = json.loads(done.stdout)["logits"][0]
    assert logits["same_classes"] == 2 and "same_top_1" not in logits


def test_a_logit_near_0_is_held_against_its_terms(effnet, tmp_path):
    """One output that comes out as nothing but rounding, since the bias cancels the rest of the sum."""
    path, other = tmp_path / "m.safetensors", tmp_path / "near.safetensors"
    write_tiny_model(path, side=32, classes=1, multi_label=True)
    verify = ["--device", "cpu", "--format", "json", "-b", "1"]
    logit = json.loads(effnet("verify", "-m", path, *verify).stdout)["logits"][0]["worst_reference"]
    tensors = load_file(path)
    tensors["classifier.bias"] -= np.float32(logit)
    with safe_open(path, "numpy") as file:
        save_file(tensors, other, file.metadata())
    done = effnet("verify", "-m", other, *verify)
    assert done.returncode == 0, done.stdout
    assert abs(json.loads(done.stdout)["logits"][0]["worst_reference"]) < 1e-4 * abs(logit)
    assert effnet("bench", "-m", other, "--device", "cpu", "--duration", "0").returncode == 0


# ---------------------------------------------------------------- preprocessing


def test_info_shows_all_of_it(effnet, models, tiny, tmp_path):
    shown = json.loads(effnet("info", "-m", tiny, "--format", "json").stdout)
    assert (shown["resize"], shown["short_side"], shown["crop"], shown["interpolation"], shown["mean"], shown["std"],
            shown["multi_label"]) == ("short-side", 18, 16, "bicubic", [127] * 3, [128] * 3, False)
    other = write_tiny_model(tmp_path / "m.safetensors", multi_label=True, resize="squash", short_side=CROP,
                             interpolation="bilinear", mean=[1.5, 2, 3], std=[4, 5, 6.25])
    shown = json.loads(effnet("info", "-m", other, "--format", "json").stdout)
    assert (shown["resize"], shown["interpolation"], shown["mean"], shown["std"], shown["multi_label"]) == \
        ("squash", "bilinear", [1.5, 2, 3], [4, 5, 6.25], True)
    text = effnet("info", "-m", other).stdout
    for words in (["resize", "squash"], ["interpolation", "bilinear"], ["mean (of 255)", "1.5 2 3"], ["multi-label", "yes"]):
        assert any(all(word in line for word in words) for line in text.splitlines()), words


def test_squashed_images(effnet, tmp_path):
    """A wide image by a network that squashes is what Pillow's resize makes of it by one that takes it as it is."""
    squash = write_tiny_model(tmp_path / "squash.safetensors", resize="squash", short_side=CROP)
    whole = write_tiny_model(tmp_path / "whole.safetensors", short_side=CROP)
    wide = write_image(tmp_path / "wide.png", 3, (90, 30))
    square = tmp_path / "square.png"
    Image.open(wide).resize((CROP, CROP), Image.Resampling.BICUBIC).save(square)
    assert classes(effnet, squash, wide) == classes(effnet, whole, square) != classes(effnet, whole, wide)


@pytest.mark.parametrize("side", [64, 600])
def test_networks_of_other_sizes(effnet, tmp_path, side):
    model = write_tiny_model(tmp_path / "m.safetensors", side=side, short_side=side, interpolation="bilinear")
    image = write_image(tmp_path / "image.png", 4, (700, 50))
    done = effnet("verify", "-m", model, "--device", "cpu", image)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(classes(effnet, model, image)) == 5
