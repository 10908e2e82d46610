"""effnet classify --cam: what is drawn, into which files, and what is left alone."""

import ctypes
import json
import os
import resource
import struct
import subprocess
import time

import numpy as np
import pytest
from cli_model import CROP, DATA, LABELS, OUTPUT, UNAVAILABLE, USAGE, assert_one_line, write_image, write_tiny_model
from PIL import Image
from safetensors import safe_open
from safetensors.numpy import save_file

JET = [(0, (0, 0, 128)), (0.125, (0, 0, 255)), (0.375, (0, 255, 255)), (0.625, (255, 255, 0)), (0.875, (255, 0, 0)),
       (1, (128, 0, 0))]


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    return [write_image(folder / f"{i:02}.png", i) for i in range(3)]


def feature_map(model, crop):
    """The tiny network's last map, [8][8][8]."""
    with safe_open(model, "numpy") as file:
        weight, bias = file.get_tensor("stem.weight"), file.get_tensor("stem.bias")
    padded = np.pad((crop.astype(np.float64) - 127) / 128, ((0, 1), (0, 1), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (0, 1))[::2, ::2]
    return np.clip(np.einsum("yxcij,ocij->yxo", windows, weight) + bias, 0, 6)


def enlarge(cells, side):
    """Linear between the centres of cells, along both axes."""
    at = (np.arange(side) + 0.5) * len(cells) / side - 0.5
    for _ in range(2):
        cells = np.apply_along_axis(lambda line: np.interp(at, np.arange(len(line)), line), 0, cells).T
    return cells


def draw(model, crop, index):
    with safe_open(model, "numpy") as file:
        weight = file.get_tensor("classifier.weight")[index]
    activation = feature_map(model, crop) @ weight
    values = np.clip(enlarge(activation, CROP) / max(activation.max(), 1e-30), 0, 1)
    colours = np.stack([np.interp(values, [at for at, _ in JET], [rgb[c] for _, rgb in JET]) for c in range(3)], axis=-1)
    return (crop + colours) / 2


def test_drawing(classify, tiny, tmp_path):
    """An image whose crop needs no resizing; the map, its scale, its colours and its place, from scratch."""
    for seed in range(8):
        pixels = np.random.default_rng(seed).integers(0, 256, (CROP + 2, CROP + 2, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "image.png")
        done = classify("--format", "json", "-k", "1", "--cam", tmp_path / "cam.png", tmp_path / "image.png")
        assert done.returncode == 0 and done.stderr == "", done.stderr
        index = json.loads(done.stdout)["classes"][0]["index"]
        drawn = np.array(Image.open(tmp_path / "cam.png"))
        expected = draw(tiny, pixels[1:-1, 1:-1], index)
        assert drawn.shape == expected.shape and np.abs(drawn - expected).max() <= 1, seed
    assert sorted(os.listdir(tmp_path)) == ["cam.png", "image.png"]


def test_nothing_speaks_for_the_class(effnet, tmp_path):
    model = write_tiny_model(tmp_path / "m.safetensors", bias=[1, 2, 3])
    pixels = np.full((CROP + 2, CROP + 2, 3), 100, np.uint8)
    Image.fromarray(pixels).save(tmp_path / "image.png")
    done = effnet("classify", "-m", model, "--device", "cpu", "--cam", tmp_path / "cam.png", tmp_path / "image.png")
    assert done.returncode == 0
    assert (np.array(Image.open(tmp_path / "cam.png")) == (50, 50, 114)).all()


def test_folder(classify, images, tmp_path):
    """One file an image that has an answer; the answers are those of a run without."""
    junk = tmp_path / "junk.png"
    junk.write_bytes(b"no image")
    out = tmp_path / "maps"
    done = classify("-b", "2", "--cam", out, images[0], junk, *images[1:], "-", input=images[0].read_bytes(), text=False)
    assert done.returncode == DATA
    assert done.stdout == classify("-b", "2", images[0], junk, *images[1:], "-", input=images[0].read_bytes(),
                                   text=False).stdout
    assert sorted(os.listdir(out)) == ["00.png", "01.png", "02.png", "stdin.png"]
    pixels = {name: np.array(Image.open(out / name)) for name in os.listdir(out)}
    assert (pixels["stdin.png"] == pixels["00.png"]).all() and (pixels["00.png"] != pixels["01.png"]).any()
    for i in range(3):
        assert classify("--cam", tmp_path / "one.png", images[i]).returncode == 0
        assert (np.array(Image.open(tmp_path / "one.png")) == pixels[f"0{i}.png"]).all()


def test_names_that_clash(classify, images, tmp_path):
    names = ["a/cat.png", "b/cat.gif", "c/cat", "c/cat-2.png", ".cat.png", "é" * 120 + ".png", "é" * 120 + ".gif"]
    for i, name in enumerate(names):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(images[i % 3].read_bytes())
    out = tmp_path / "maps"
    out.mkdir()
    (out / "cat-3.png").write_bytes(b"somebody's")
    (out / "cat-4.png").mkdir()
    os.mkfifo(out / "cat-2-2.png")
    before = {}
    for _ in range(2):  # every image finds its own map again
        assert classify("--cam", out, *names, cwd=tmp_path).returncode == 0
        made = ["cat.png", "cat-2.png", "cat-5.png", "cat-2-3.png", ".cat.png", "é" * 100 + ".png", "é" * 100 + "-2.png"]
        assert sorted(os.listdir(out)) == sorted([*made, "cat-3.png", "cat-4.png", "cat-2-2.png"])
        now = {name: (out / name).read_bytes() for name in made}
        assert before in ({}, now)
        before = now
        for i in range(3, 7):
            assert before[made[i]][200:] == before[made[i % 3]][200:], "the same image: all but the name's hash"
    assert (out / "cat-3.png").read_bytes() == b"somebody's"


class Opens:
    """Counts how often anything in a folder is opened."""

    def __init__(self, folder):
        libc = ctypes.CDLL(None)
        self.fd = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        assert self.fd >= 0 and libc.inotify_add_watch(self.fd, os.fsencode(folder), 0x20) >= 0  # IN_OPEN

    def count(self):
        events = []
        while True:
            try:
                data = os.read(self.fd, 65536)
            except BlockingIOError:
                return len(events)
            while data:
                _, mask, _, length = struct.unpack_from("iIII", data)
                events.append(mask)
                data = data[16 + length:]
            assert not events[-1] & 0x4000, "IN_Q_OVERFLOW"


def test_many_of_one_name(classify, images, tmp_path):
    """A drawing is found by a few looks at the disk, however many there are of its name; whatever the order in which a
    later run comes by them, each image finds its own."""
    names = []
    for i in range(150):
        (tmp_path / f"{i}").mkdir()
        (tmp_path / f"{i}/x.png").symlink_to(images[i % 3])
        names.append(f"{i}/x.png")
    (tmp_path / "maps").mkdir()
    (tmp_path / "maps/x-70.png").write_bytes(b"somebody's")
    expected = {"x.png", *(f"x-{n}.png" for n in range(2, 152))}
    opens = Opens(tmp_path / "maps")
    before = None
    for order in names, names[::-1], names[50:60] + names[::7], names:
        assert classify("--cam", "maps", *order, cwd=tmp_path).returncode == 0
        assert opens.count() < 10 * len(names)
        drawn = {path.name: path.read_bytes() for path in (tmp_path / "maps").iterdir()}
        assert set(drawn) == expected and before in (None, drawn)
        before = drawn
        opens.count()
    assert before["x-70.png"] == b"somebody's"


def test_image_is_not_overwritten(classify, images, tmp_path):
    image = write_image(tmp_path / "image.png", 5)
    before = image.read_bytes()
    assert_one_line(classify("--cam", image, images[0]), OUTPUT, image, "no map that effnet drew, and not overwritten")
    assert_one_line(classify("--cam", image, images[0], images[1]), USAGE, "one file is for one image")
    assert image.read_bytes() == before and os.listdir(tmp_path) == ["image.png"]


@pytest.mark.parametrize("options, words", [
    (["--embeddings", "e.npy"], "--cam or --embeddings, not both"),
    (["--decode", "gpu"], "--decode gpu leaves on the GPU"),
    (["-o", "maps"], "--output and --cam name the same file"),
    (["-o", "./maps"], "--output and --cam name the same file"),
    (["--logits", "{cwd}/maps"], "--cam and --logits name the same file"),
    (["--shard", "1/2"], "{shard} in the name"),
])
def test_options_that_do_not_go_together(classify, images, tmp_path, options, words):
    options = [option.format(cwd=tmp_path, shard="{shard}") for option in options]
    for cam in "maps", "maps/", "maps.png":
        given = [option.replace("maps", cam.strip("/")) for option in options]
        assert_one_line(classify(*given, "--cam", cam, images[0], cwd=tmp_path), USAGE, words)
    assert os.listdir(tmp_path) == []


def test_maps_are_not_taken_for_images(classify, images, tmp_path):
    for folder in (".", "photos"):
        for out in ("photos", "photos/maps", "photos/maps//", "photos/a", "photos/a/"):
            (tmp_path / "photos/a").mkdir(parents=True, exist_ok=True)
            assert_one_line(classify("-r", folder, "--cam", out, cwd=tmp_path), USAGE, "may not lie in the folder")
    assert_one_line(classify("-r", "photos", "--cam", "out.png", cwd=tmp_path), USAGE, "for one image")
    write_image(tmp_path / "photos/a/x.png", 1)
    done = classify("-r", "photos", "--shard", "1/1", "--cam", "maps-{shard}", cwd=tmp_path)
    assert done.returncode == 0 and os.listdir(tmp_path / "maps-00001-of-00001") == ["x.png"]


def test_heads_without_such_maps(effnet, tiny, images, tmp_path):
    """Two linear layers: which place speaks for a class is no sum any more."""
    with safe_open(tiny, "numpy") as file:
        tensors, metadata = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()
    network = json.loads(metadata["network"])
    classes = len(LABELS)
    network["layers"].append({"name": "last", "op": "linear", "in": classes, "out": classes, "activation": "none"})
    tensors |= {"last.weight": np.eye(classes, dtype=np.float32), "last.bias": np.zeros(classes, np.float32)}
    save_file(tensors, tmp_path / "m.safetensors", metadata | {"network": json.dumps(network)})
    done = effnet("classify", "-m", tmp_path / "m.safetensors", "--cam", tmp_path / "maps", images[0])
    assert_one_line(done, UNAVAILABLE, "no class activation maps", "not one linear layer")
    assert os.listdir(tmp_path) == ["m.safetensors"]


def test_after_a_kill(classify, images, tmp_path):
    """What a kill leaves of a map is replaced; another's file of that name is in the way."""
    out = tmp_path / "maps"
    assert classify("--cam", out, images[0]).returncode == 0
    whole, torn = (out / "00.png").read_bytes(), out / "00.png.cam.partial"
    for size in (0, 1, 20, 40, 94, 300):
        torn.write_bytes(whole[:size])
        assert classify("--cam", out, images[0]).returncode == 0
        assert os.listdir(out) == ["00.png"] and (out / "00.png").read_bytes() == whole
    torn.write_bytes(b"mine")
    done = classify("--cam", out, images[0])
    assert done.returncode == OUTPUT and "in the way" in done.stderr and torn.read_bytes() == b"mine"


def test_full_disk(classify, tiny, tmp_path):
    image = tmp_path / "image.png"
    Image.fromarray(np.random.default_rng(1).integers(0, 256, (30, 30, 3), np.uint8)).save(image)
    done = classify("--cam", tmp_path / "maps", image,
                    preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (200, 200)))
    assert done.returncode == OUTPUT and done.stderr == f"effnet: {tmp_path}/maps/image.png: File too large\n"
    assert os.listdir(tmp_path / "maps") == []
    (tmp_path / "file").write_bytes(b"")
    done = classify("--cam", tmp_path / "file/maps", image)
    assert_one_line(done, OUTPUT, "Not a directory")
    assert_one_line(classify("--cam", tmp_path / "file", image), OUTPUT, tmp_path / "file", "is no folder, and no .png by its name")


def test_resume(build, classify, tiny, images, tmp_path):
    """Runs that are killed, then one that goes on: the results and the maps of one run."""
    for i in range(300):
        (tmp_path / f"{i:03}").symlink_to(images[i % 3])
    names = sorted(os.listdir(tmp_path))
    arguments = ["--format", "csv", "-b", "4", "-o", "out", "--cam", "maps", *names]
    assert classify(*arguments, cwd=tmp_path).returncode == 0
    (tmp_path / "out").rename(tmp_path / "whole")
    (tmp_path / "maps").rename(tmp_path / "whole-maps")
    for killed in range(5):
        process = subprocess.Popen([build / "effnet", "classify", "-m", tiny, "--device", "cpu", "--resume", *arguments],
                                   stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=tmp_path)
        time.sleep(0.04 * (killed + 1))
        process.kill()
        process.wait(60)
    done = classify("--resume", *arguments, cwd=tmp_path)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    assert (tmp_path / "out").read_bytes() == (tmp_path / "whole").read_bytes()
    assert sorted(os.listdir(tmp_path / "maps")) == [f"{name}.png" for name in names]
    for name in names:
        assert (tmp_path / f"maps/{name}.png").read_bytes() == (tmp_path / f"whole-maps/{name}.png").read_bytes()
    assert {*os.listdir(tmp_path)} == {*names, "out", "maps", "whole", "whole-maps"}
