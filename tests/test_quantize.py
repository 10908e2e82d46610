"""effnet quantize: the file that it makes, what it prints, what it refuses."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from cli_model import OUTPUT, assert_one_line, write_tiny_model
from safetensors import safe_open
from safetensors.numpy import save_file

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tools"))
import photographs


def layer(op, channels, outputs, activation="none", **more):
    row = {"op": op, "in": channels, "out": outputs, "activation": activation} | more
    if op in ("conv", "depthwise"):
        row = {"kernel": 3, "stride": 2, "pad": [0, 0, 1, 1]} | row
    if op in ("pool", "scale"):
        del row["activation"]
    return row


def small_layers(**others):
    """A network's layers by name; `others` in place of, or behind, those of the name."""
    return {
        "stem": layer("conv", 3, 8, "relu6"),
        "depthwise": layer("depthwise", 8, 8, "relu6"),
        "project": layer("pointwise", 8, 8),
        "pool": layer("pool", 8, 8),
        "classifier": layer("linear", 8, 4),
    } | others


def excited_layers(channels=24):
    """Blocks with SiLU and squeeze-and-excite, as B0's: one that does not expand, and two that do, the last with a
    residual."""
    layers = {"stem": layer("conv", 3, 16, "silu")}
    size = 16
    for i, hidden in enumerate((16, 72, 96)):
        depthwise, gate = f"{i}.depthwise", f"{i}.se.expand"
        expand = {f"{i}.expand": layer("pointwise", size, hidden, "silu")} if hidden != size else {}
        layers |= expand | {
            depthwise: layer("depthwise", hidden, hidden, "silu", stride=1, pad=[1, 1, 1, 1]),
            f"{i}.se.pool": layer("pool", hidden, hidden),
            f"{i}.se.reduce": layer("linear", hidden, 8, "silu"),
            gate: layer("linear", 8, hidden, "sigmoid"),
            f"{i}.se.scale": layer("scale", hidden, hidden, inputs=[depthwise, gate]),
            f"{i}.project": layer("pointwise", hidden, channels, **({"add": "1.project"} if i == 2 else {})),
        }
        size = channels
    return layers | {"head": layer("pointwise", channels, 64, "silu"), "pool": layer("pool", 64, 64),
                     "classifier": layer("linear", 64, 10)}


def write_network(path, layers, change=None, side=16, version="2", **preprocess):
    """Writes seeded weights of these layers. change(tensors) changes them first."""
    random = np.random.default_rng(1)
    tensors = {}
    for name, row in layers.items():
        if row["op"] in ("pool", "scale"):
            continue
        shape = [row["out"], 1 if row["op"] == "depthwise" else row["in"]]
        if row["op"] != "linear":
            shape += [row.get("kernel", 1)] * 2
        tensors[f"{name}.weight"] = random.normal(0, 0.3, shape).astype(np.float32)
        tensors[f"{name}.bias"] = random.normal(0, 0.5, row["out"]).astype(np.float32)
    if change:
        change(tensors)
    classes = list(layers.values())[-1]["out"]
    rows = [{"name": name} | row for name, row in layers.items()]
    save_file(tensors, path, {
        "format": "effnet",
        "format_version": version,
        "network": json.dumps({"name": "t", "input": [3, side, side], "layers": rows}),
        "preprocess": json.dumps({"short_side": side, "crop": side, "interpolation": "bicubic",
                                  "mean": [127, 127, 127], "std": [128, 128, 128]} | preprocess),
        "labels": json.dumps([{"id": "", "name": f"class {i}"} for i in range(classes)]),
    })
    return path


@pytest.fixture(scope="module")
def photos(build):
    """Crops to calibrate with, none of them among the crops that are compared."""
    folder = build / "calibration"
    photographs.write_crops(folder, 32, 18)
    return folder


@pytest.fixture(scope="module")
def plain_int8(effnet, b1_plain, tmp_path_factory):
    out = tmp_path_factory.mktemp("quantize") / "b1-plain-int8.safetensors"
    done = effnet("quantize", b1_plain, "-o", out, "--random", "4", "-q", "--format", "json")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return out, json.loads(done.stdout)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A network of three layers, where it does not matter which."""
    return write_tiny_model(tmp_path_factory.mktemp("small") / "small.safetensors")


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_file(plain_int8, b1_plain):
    out, _ = plain_int8
    with safe_open(out, "numpy") as file, safe_open(b1_plain, "numpy") as floats:
        names = set(file.keys())
        for name in floats.keys():
            tensor = file.get_tensor(name)
            assert tensor.shape == floats.get_tensor(name).shape
            assert tensor.dtype == (np.int8 if name.endswith(".weight") else np.int32)
            names.remove(name)
        assert all(name.endswith(".scale") for name in names) and len(names) > 20
        layers = json.loads(file.metadata()["network"])["layers"]
        assert file.metadata()["format_version"] == "2"
        assert file.metadata()["labels"] == floats.metadata()["labels"]
        assert file.metadata()["preprocess"] == floats.metadata()["preprocess"]
        assert file.metadata()["source"] == floats.metadata()["source"]
        # Each weight is near the float: neighbours were grown by no more than some factor a channel.
        w, q = floats.get_tensor("stem.weight"), file.get_tensor("stem.weight").astype(np.float64)
        scaled = q * file.get_tensor("stem.scale")[:, None, None, None]
        for channel in range(len(w)):
            assert np.corrcoef(w[channel].ravel(), scaled[channel].ravel())[0, 1] > 0.99
    assert all("output_scale" in layer for layer in layers[:-1]) and "output_scale" not in layers[-1]
    relu6 = [layer for layer in layers[:-1] if layer.get("activation") == "relu6"]
    assert relu6 and all(layer["output_zero"] == 0 for layer in relu6)
    assert out.stat().st_size < 0.27 * b1_plain.stat().st_size


def test_report(plain_int8, b1_plain):
    out, report = plain_int8
    assert report["network"] == "b1-plain" and report["output"] == str(out)
    assert report["images"] == report["compared"] == 4
    assert 0 <= report["same_answer"] <= 4
    rows = report["layers"]
    assert rows[0]["name"] == "stem" and rows[-1]["range"] == "floats"
    assert all(row["range"] in ("min-max", "percentile", "least squares") for row in rows[:-1])
    assert all(row["snr_db"] > 15 for row in rows)
    assert all(row["grown"] >= 1 for row in rows[:-1]) and any(row["grown"] > 1.5 for row in rows[:-1])
    assert rows[-2]["name"] == "pool" and rows[-2]["grown"] == 1  # features as large as the floats'


def test_runs_as_the_reference(effnet, plain_int8):
    done = effnet("verify", "-m", plain_int8[0], "-b", "2", "--format", "json")
    assert done.returncode == 0, done.stdout
    report = json.loads(done.stdout)
    assert report["backend"] == "int8" and report["precision"] == "int8"
    assert all(unit["absolute_error"] == 0 for unit in report["units"])


@pytest.fixture(scope="module")
def excited(effnet, tmp_path_factory):
    folder = tmp_path_factory.mktemp("excited")
    weights = write_network(folder / "floats.safetensors", excited_layers(), side=33)
    done = effnet("quantize", weights, "-o", folder / "integers.safetensors", "--random", "16", "-q", "--format", "json")
    assert done.returncode == 0 and done.stderr == ""
    return folder / "integers.safetensors", json.loads(done.stdout)["layers"]


def test_squeeze_excite(excited, effnet):
    """Gates have 15 bits and are not grown; what is behind SiLU is."""
    path, rows = excited
    layers = excited_layers()
    assert [row["name"] for row in rows] == list(layers)
    for row, of in zip(rows, layers.values(), strict=True):
        gate = of.get("activation") == "sigmoid"
        assert row["bits"] == (15 if gate or row["name"] == "stem" else 32 if row["name"] == "classifier" else 8)
        assert row["snr_db"] > 20, row
        assert row["grown"] == 1 or not gate
    assert max(row["grown"] for row in rows if row["name"].endswith(".depthwise")) > 1.2
    with safe_open(path, "numpy") as file:
        gains = {name.removesuffix(".gain"): file.get_tensor(name) for name in file.keys() if name.endswith(".gain")}
    curved = {name for name, of in layers.items() if of.get("activation") in ("silu", "sigmoid")}
    assert gains.keys() == curved and all((gain >= 1).all() for gain in gains.values())
    done = effnet("verify", "-m", path, "-b", "3", "--format", "json")
    assert done.returncode == 0, done.stdout
    assert all(unit["absolute_error"] == 0 for unit in json.loads(done.stdout)["units"])


def test_same_file_again(effnet, plain_int8, b1_plain, small, tmp_path, sanitized):
    """Also of another number of threads; of other images, another one."""
    out, digests = tmp_path / "again.safetensors", []
    for options in ["--threads", "3"], ["--threads", "1"], ["--seed", "2"]:
        done = effnet("quantize", small, "-o", out, "--random", "4", "-q", *options)
        assert done.returncode == 0, done.stderr
        digests.append(digest(out))
    assert digests[0] == digests[1] != digests[2]
    if not sanitized:  # there it takes half a minute
        done = effnet("quantize", b1_plain, "-o", out, "--random", "4", "-q", "--threads", "1")
        assert done.returncode == 0, done.stderr
        assert digest(out) == digest(plain_int8[0])


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one processor: one thread in any case")
def test_threads(build, tmp_path):
    """With --threads 1 there is never another: not to calibrate, nor to compare, which takes some tenths of a second."""
    weights = write_network(tmp_path / "t.safetensors", small_layers(), side=256)
    command = [build / "effnet", "quantize", weights, "-o", tmp_path / "out", "--random", "32", "-q", "--threads", "1"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        most = 0
        while process.poll() is None:
            try:
                most = max(most, len(os.listdir(f"/proc/{process.pid}/task")))
            except FileNotFoundError:
                break
            time.sleep(0.001)
    assert process.returncode == 0 and most == 1


def test_drawn_images_get_a_line(effnet, small, tmp_path):
    done = effnet("quantize", small, "-o", tmp_path / "out", "--random", "1")
    assert done.returncode == 0
    assert done.stderr.count("\n") == 1 and "drawn images" in done.stderr


def test_folder(effnet, small, tmp_path, root):
    samples = sorted((root / "samples").glob("*.png"))
    folder = tmp_path / "images" / "below"
    folder.mkdir(parents=True)
    (folder / "a.png").write_bytes(samples[0].read_bytes())
    (folder / "notes.txt").write_text("no image")
    out = tmp_path / "out.safetensors"
    done = effnet("quantize", small, "-o", out, "--calibrate", tmp_path / "images", samples[1], "--format", "json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["images"] == 2


def top1(effnet, weights, paths):
    """The most probable class of each image."""
    done = effnet("classify", "-m", weights, "--device", "cpu", "-k", "1", "--format", "json", *paths)
    assert done.returncode == 0, done.stderr
    return [json.loads(line)["classes"][0]["index"] for line in done.stdout.splitlines()]


@pytest.fixture(scope="module")
def labelled(effnet, b1_plain, root, tmp_path_factory):
    """Images in a folder a class, all but two of what the floats take them for; and what these take them for."""
    folder = tmp_path_factory.mktemp("labelled")
    samples = sorted((root / "samples").glob("*.png"))
    answers = top1(effnet, b1_plain, samples)
    paths = []
    for i, (sample, answer) in enumerate(zip(samples, answers)):
        (folder / str(answer + (i < 2))).mkdir(exist_ok=True)
        paths.append(folder / str(answer + (i < 2)) / sample.name)
        shutil.copy(sample, paths[-1])
    return folder, paths, answers


def evaluated(effnet, b1_plain, out, *arguments, status=0):
    """What is printed, and the warnings."""
    done = effnet("quantize", b1_plain, "-o", out, "--random", "4", "-q", "--format", "json", "--evaluate", *arguments)
    assert done.returncode == status, done.stderr
    return json.loads(done.stdout), done.stderr


@pytest.mark.parametrize("how", ["folders", "csv", "csv, columns"])
def test_evaluate_with_labels(effnet, b1_plain, labelled, tmp_path, how):
    folder, paths, floats = labelled
    arguments = [folder]
    if how != "folders":
        header = "picture,truth,file\n" if "columns" in how else ""
        lines = (f"{p},{p.parent.name},{tmp_path / 'missing'}\n" for p in paths)
        (tmp_path / "list.csv").write_text(header + "".join(lines))
        arguments = [tmp_path / "list.csv"]
        if header:
            arguments += ["--file-column", "picture", "--label-column", "truth"]
    report, errors = evaluated(effnet, b1_plain, tmp_path / "out", *arguments)
    integers = top1(effnet, tmp_path / "out", paths)
    labels = [int(path.parent.name) for path in paths]
    assert errors == "" and report["evaluated"] == str(arguments[0])
    assert report["evaluated_images"] == len(paths) and report["evaluated_failed"] == 0
    share = 100 / len(paths)
    assert report["fp32_top1"] == pytest.approx(share * (len(paths) - 2), abs=0.01)
    assert report["int8_top1"] == pytest.approx(share * sum(map(int.__eq__, integers, labels)), abs=0.01)
    assert report["evaluated_same"] == sum(map(int.__eq__, integers, floats)) > 0


def test_evaluate_a_list_from_a_pipe(effnet, small, labelled, tmp_path):
    """It can be read once: all of its lines count."""
    source, sink = os.pipe()
    with os.fdopen(sink, "w") as file:
        file.writelines(f"{path},1\n" for path in labelled[1])
    try:
        done = effnet("quantize", small, "-o", tmp_path / "out", "--random", "1", "-q", "--format", "json", "--evaluate",
                      f"/dev/fd/{source}", pass_fds=[source])
    finally:
        os.close(source)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["evaluated_images"] == len(labelled[1])


def test_evaluate_without_labels(effnet, b1_plain, labelled, plain_int8, tmp_path):
    _, paths, floats = labelled
    integers = top1(effnet, plain_int8[0], paths)
    folder = tmp_path / "images"
    folder.mkdir()
    for path in paths:
        shutil.copy(path, folder)
    (folder / "notes.txt").write_text("no image")
    for operand, count in ((folder, len(paths)), (paths[0], 1)):
        report, errors = evaluated(effnet, b1_plain, tmp_path / "out", operand)
        assert errors == "" and report["evaluated_images"] == count
        assert report["evaluated_same"] == sum(map(int.__eq__, integers[:count], floats))
        assert "fp32_top1" not in report and "int8_top1" not in report


def test_evaluate_a_broken_image(effnet, b1_plain, labelled, tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    shutil.copy(labelled[1][0], folder)
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    report, errors = evaluated(effnet, b1_plain, tmp_path / "out", folder, status=65)
    assert errors.count("\n") == 1 and "broken.png" in errors
    assert report["evaluated_images"] == report["evaluated_failed"] == 1
    done = effnet("quantize", b1_plain, "-o", tmp_path / "out", "--random", "1", "-q", "--evaluate", folder / "broken.png")
    assert done.returncode == 65 and done.stdout == "" and "none of the 1 images" in done.stderr


@pytest.mark.parametrize("arguments, status, message", [
    ([], 64, "MODEL is missing"),
    (["b1-plain"], 64, "-o OUT is missing"),
    (["b1-plain", "-o", "{tmp}/out"], 64, "--calibrate FILE|FOLDER..., or --random N, is missing"),
    (["b1-plain", "-o", "{tmp}/out", "--calibrate"], 64, "--calibrate without an image"),
    (["b1-plain", "-o", "{tmp}/out", "--calibrate", "--random", "1", "x"], 64, "do not go together"),
    (["b1-plain", "-o", "{tmp}/out", "--random", "1", "x"], 64, "unexpected 'x'"),
    (["b1-plain", "-o", "{tmp}/out", "--random", "1025"], 64, "--random"),
    (["b1-plain", "-o", "{tmp}/out.partial", "--random", "1"], 64, "no output may end in .partial"),
    (["nobody", "-o", "{tmp}/out", "--random", "1"], 66, "nobody"),
    (["b1-plain", "-o", "{tmp}/no/out", "--random", "1"], 74, "no/out"),
    (["b1-plain", "-o", "{tmp}/out", "--calibrate", "{tmp}/missing.png"], 66, "missing.png"),
    (["b1-plain", "-o", "{tmp}/out", "--calibrate", "{tmp}"], 66, "no image in"),
    (["b1-plain", "-o", "{tmp}/out", "--calibrate", "{tmp}/../broken.png"], 65, "broken.png"),
    (["b1-plain", "-o", "{tmp}/out", "--random", "1", "--class-order", "sorted"], 64, "go with --evaluate"),
    (["b1-plain", "-o", "{tmp}/out", "--random", "1", "--evaluate", "{tmp}/missing"], 66, "missing"),
    (["b1-plain", "-o", "{tmp}/out", "--random", "1", "--evaluate", "{tmp}"], 66, "no image in"),
    (["b1-plain", "-o", "{tmp}/out", "--random", "1", "--evaluate", "docs"], 65, "'lab' is no class"),
    (["b1-plain", "-o", "{tmp}/out", "--random", "1", "--evaluate", "LICENSE"], 65, "LICENSE:1: 1 field"),
])
def test_refused(effnet, b1_plain, tmp_path, arguments, status, message):
    (tmp_path / "../broken.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    done = effnet("quantize", *(a.format(tmp=tmp_path) for a in arguments))
    assert done.returncode == status, done.stderr
    assert done.stdout == "" and done.stderr.count("\n") == 1
    assert done.stderr.startswith("effnet: ") and message in done.stderr
    assert not (tmp_path / "out").exists()


def test_refuses_integers(effnet, plain_int8, tmp_path):
    done = effnet("quantize", plain_int8[0], "-o", tmp_path / "out", "--random", "1", "-q")
    assert done.returncode == 69 and "is of integers already" in done.stderr
    done = effnet("classify", "-m", plain_int8[0], "--precision", "fp32", "x.png")
    assert done.returncode == 69 and "is of integers: int8 alone, not fp32" in done.stderr


@pytest.fixture
def refuse(effnet, tmp_path):
    """Quantizes the network, and wants one line that says why not; what was there stays, and nothing else."""
    def run(weights, status, *words):
        out, good = tmp_path / "out" / "t-int8.safetensors", (2).to_bytes(8, "little") + b"{}"
        out.parent.mkdir()
        out.write_bytes(good)
        assert_one_line(effnet("quantize", weights, "-o", out, "--random", "2", "-q"), status, *words)
        assert out.read_bytes() == good and list(out.parent.iterdir()) == [out]
    return run


@pytest.mark.parametrize("layers, options, message", [
    (small_layers(classifier=layer("linear", 8, 8, add="pool")), {},
     "layer 'classifier': the last layer of an integer network adds nothing"),
    (small_layers(stem=layer("conv", 3, 2048, "relu", stride=8), depthwise=layer("conv", 2048, 8)), {},
     "layer 'depthwise': sums of 18432 products, integers' sums hold 16384"),
    ({"pool": layer("pool", 3, 3), "classifier": layer("linear", 3, 4)}, {},
     "layer 'pool': pool of the image is not defined"),
    ({"stem": layer("conv", 3, 1, stride=1, pad=[1, 1, 1, 1]), "pool": layer("pool", 1, 1),
      "classifier": layer("linear", 1, 4)}, {"side": 2050},
     "layer 'pool': the mean of 4202500 pixels, integers' sums hold 4194304"),
    (small_layers(), {"mean": [-200, 0, 300]}, "layer 'stem': takes the image, whose mean -200 is no byte"),
    (small_layers(image=layer("linear", 4, 4)), {"version": "1"}, "layer 'image': the name stands for what"),
    (small_layers(stem=layer("conv", 3, 8, "hardswish")), {},
     "layer 'stem': activation hardswish is not defined for integers: none, relu, relu6, silu and sigmoid are"),
    (small_layers(project=layer("pointwise", 8, 8, "silu", add="depthwise")), {},
     "layer 'project': adds before silu, which is not defined for integers"),
], ids=["the last adds", "terms", "pool of the image", "large pool", "mean", "a layer called image", "hardswish",
        "adds before SiLU"])
def test_refuses_what_integers_cannot_be(refuse, tmp_path, layers, options, message):
    """Before any image is run."""
    refuse(write_network(tmp_path / "t.safetensors", layers, **options), 69, f"network t: {message}")


def scale_weights(*names, factor):
    def change(tensors):
        for name in names:
            tensors[f"{name}.weight"] *= np.float32(factor)
    return change


def test_refuses_infinity(refuse, tmp_path):
    layers = small_layers(stem=layer("conv", 3, 8, "relu"), depthwise=layer("depthwise", 8, 8, "relu"))
    change = scale_weights("stem", "depthwise", factor=1e30)
    refuse(write_network(tmp_path / "t.safetensors", layers, change), 65,
           "network t: layer 'depthwise' gives infinity or NaN")


def test_refuses_large_scales(refuse, tmp_path):
    layers = small_layers(stem=layer("conv", 3, 8, "relu"), depthwise=layer("depthwise", 8, 8, "relu"))
    refuse(write_network(tmp_path / "t.safetensors", layers, scale_weights("stem", factor=1e9)), 69,
           "network t: layer 'depthwise': a step of its output would be ", ", integer networks have up to 1e+06")


def test_refuses_large_weights_of_the_last_layer(refuse, tmp_path):
    refuse(write_network(tmp_path / "t.safetensors", small_layers(), scale_weights("classifier", factor=1e10)), 69,
           "network t: layer 'classifier', output channel 0: a step of its weights would be ")


def test_gates_of_bytes_are_not_grown(effnet, tmp_path):
    """A linear layer reads this one, too: no 15 bits. Its channels differ in size, and nothing could shrink again."""
    def change(tensors):
        for name in "gate.weight", "gate.bias":
            tensors[name] *= np.float32(0.1) ** np.arange(8, dtype=np.float32).reshape([8] + [1] * (tensors[name].ndim - 1))
    layers = {"stem": layer("conv", 3, 8, "silu"), "mean": layer("pool", 8, 8), "gate": layer("linear", 8, 8),
              "other": layer("linear", 8, 8, "sigmoid"), "once": layer("scale", 8, 8, inputs=["stem", "gate"]),
              "twice": layer("scale", 8, 8, inputs=["once", "other"]), "pool": layer("pool", 8, 8),
              "classifier": layer("linear", 8, 4)}
    weights = write_network(tmp_path / "t.safetensors", layers, change)
    done = effnet("quantize", weights, "-o", tmp_path / "out.safetensors", "--random", "8", "-q", "--format", "json")
    assert done.returncode == 0, done.stderr
    rows = {row["name"]: row for row in json.loads(done.stdout)["layers"]}
    assert rows["gate"]["bits"] == 8 and rows["gate"]["grown"] == 1 and rows["other"]["bits"] == 15
    assert all(row["snr_db"] > 15 for row in rows.values()), rows


@pytest.mark.parametrize("case", ["dead by its bias", "saturated by its bias", "no weights"])
def test_multipliers_are_at_most_one(effnet, tmp_path, case):
    """Of channels whose weights need steps of no size, or biases larger steps than the output has."""
    def change(tensors):
        if case == "no weights":
            tensors["stem.weight"] *= 3e7
            tensors["depthwise.weight"][:] = tensors["depthwise.bias"][:] = 0
        else:
            tensors["depthwise.bias"][0] = -1e8 if case.startswith("dead") else 1e8
    layers = small_layers(stem=layer("conv", 3, 8, "relu")) if case == "no weights" else small_layers()
    out = tmp_path / "out.safetensors"
    weights = write_network(tmp_path / "t.safetensors", layers, change)
    done = effnet("quantize", weights, "-o", out, "--random", "8", "-q", "--format", "json")
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)["layers"]
    assert all(row["snr_db"] > 15 for row in rows), rows


def test_what_does_not_open_takes_no_place(refuse, tmp_path):
    """A step of what 'sum' adds is of a dead channel's large weights, and all of 'sum' is small."""
    def change(tensors):
        tensors["stem.weight"][0], tensors["stem.bias"][0] = 0, -1
        tensors["large.weight"][:], tensors["large.bias"][:] = 0, 0
        tensors["large.weight"][:, 0] = 1e8
        tensors["sum.weight"] *= 1e-3
        tensors["sum.bias"] *= 1e-3
    layers = {"stem": layer("conv", 3, 8, "relu6"), "large": layer("pointwise", 8, 8),
              "sum": layer("pointwise", 8, 8, inputs=["stem"], add="large"),
              "pool": layer("pool", 8, 8), "classifier": layer("linear", 8, 4)}
    refuse(write_network(tmp_path / "t.safetensors", layers, change), 65, "t-int8.safetensors: not written: ",
           "layer 2 'sum': a step of what it adds is ")


def test_writes_regular_files_alone(effnet, small):
    done = effnet("quantize", small, "-o", "/dev/null", "--random", "1", "-q")
    assert_one_line(done, 74, "/dev/null: is no regular file")


def test_does_not_overwrite_what_it_reads(effnet, b1_plain, labelled, tmp_path):
    weights, listed = shutil.copy(b1_plain, tmp_path), tmp_path / "list.csv"
    listed.write_text(f"{labelled[1][0]},1\n")
    for out in weights, listed:
        before = digest(Path(out))
        done = effnet("quantize", weights, "-o", out, "--random", "1", "--evaluate", listed)
        assert done.returncode == 64 and "is read, and so not overwritten" in done.stderr
        assert digest(Path(out)) == before


def test_overwrites_weights_alone(effnet, small, root, tmp_path):
    """And says so before it calibrates."""
    photo, notes, pipe, out = (tmp_path / name for name in ("photo.png", "notes.txt", "pipe", "out"))
    shutil.copy(sorted((root / "samples").glob("*.png"))[0], photo)
    notes.write_text("[1, 2], {}\n")
    os.mkfifo(pipe)
    before = digest(photo), digest(notes)
    for path, words in [(photo, "is no safetensors file, and not overwritten"),
                        (notes, "is no safetensors file, and not overwritten"),
                        ("/dev/null", "is no regular file"), (pipe, "is no regular file")]:
        done = effnet("quantize", small, "-o", path, "--calibrate", photo, tmp_path / "missing.png", timeout=60)
        assert_one_line(done, OUTPUT, f"{path}: {words}")
    assert (digest(photo), digest(notes)) == before
    out.touch()
    for _ in range(2):  # what is empty, and weights
        done = effnet("quantize", small, "-o", out, "--calibrate", photo, "-q")
        assert done.returncode == 0 and done.stderr == "" and out.stat().st_size
    assert sorted(os.listdir(tmp_path)) == ["notes.txt", "out", "photo.png", "pipe"]


def test_answers_of_lite1(effnet, lite1, photos, build, tmp_path, sanitized):
    if sanitized:
        pytest.skip("minutes, for answers that are those of the other build")
    out = tmp_path / "lite1-int8.safetensors"
    done = effnet("quantize", lite1, "-o", out, "--calibrate", photos, "-q", "--format", "json")
    assert done.returncode == 0, done.stderr
    bits = [row["bits"] for row in json.loads(done.stdout)["layers"]]
    assert bits == [15] + [8] * (len(bits) - 2) + [32]  # the stem's output, which a depthwise layer reads
    assert out.stat().st_size <= 6_000_000
    paths = photographs.write_crops(build / "compared", 54, 81)
    same = sum(map(int.__eq__, top1(effnet, lite1, paths), top1(effnet, out, paths)))
    print(same, "of", len(paths), "answers stay")
    assert same >= 0.9 * len(paths)
