"""Models: found as the program finds them, what they say of themselves, crops, their ends."""

import gc
import os
import pickle
import shutil
import sys
import threading

import effnet
import numpy as np
import pytest
from cli_model import LABELS, write_tiny_model
from PIL import Image

# ---------------------------------------------------------------- finding weights


@pytest.fixture
def places(tmp_path, tiny, monkeypatch):
    """PREFIX/bin with a stand-in for the program, first on PATH, and weights of two names in PREFIX/share/effnet."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "share/effnet").mkdir(parents=True)
    (tmp_path / "empty").mkdir()
    stand_in = tmp_path / "bin/effnet"
    stand_in.write_text("#!/bin/sh\n")
    stand_in.chmod(0o755)
    shutil.copy(tiny, tmp_path / "share/effnet/mine.safetensors")
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    monkeypatch.chdir(tmp_path / "empty")
    return tmp_path


def test_a_name_is_looked_for_beside_the_program(places):
    with effnet.Model("mine") as model:
        assert model.path == str(places / "share/effnet/mine.safetensors") and model.network == "tiny"


def test_a_name_is_looked_for_in_the_source(package, monkeypatch, tmp_path):
    """The package lies in its build folder, from where the program finds it, too; Python and PATH are elsewhere."""
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    weights = package.parents[2] / "weights" / "lite1.safetensors"
    if not weights.exists():
        pytest.skip("no lite1 in the source")
    with effnet.Model("lite1") as model:
        assert model.path == str(weights) and model.classes == 1000


def test_environment(places, tiny, monkeypatch):
    monkeypatch.setenv("EFFNET_MODEL", str(tiny))
    assert effnet.Model().path == str(tiny)
    monkeypatch.setenv("EFFNET_MODEL", "mine")
    assert effnet.Model().path == str(places / "share/effnet/mine.safetensors")
    assert effnet.Model(tiny).path == str(tiny)  # what is said goes first


@pytest.mark.parametrize("asked", ["nothing.safetensors", "no-such-network", "folder/x", "x" * 5000, "-"])
def test_messages_are_the_programs(places, program, asked):
    done = program("info", "-m", asked, cwd=places / "empty")
    with pytest.raises(effnet.InputError) as raised:
        effnet.Model(asked)
    assert done.returncode == 66 and done.stderr == f"effnet: {raised.value}\n"


def test_a_file_goes_before_a_name(places):
    (places / "empty/mine").write_bytes(b"junk")
    with pytest.raises(effnet.DataError, match="mine"):
        effnet.Model("mine")


def test_path_with_bytes_that_are_no_text(tmp_path, tiny):
    path = os.fsdecode(os.fsencode(tmp_path) + b"/\xff.safetensors")
    shutil.copy(tiny, path)
    assert effnet.Model(path).path == path
    with pytest.raises(effnet.UsageError, match="NUL"):
        effnet.Model("a\0b")


# ---------------------------------------------------------------- what it says


def test_facts(model, tiny):
    assert (model.network, model.classes, model.multi_label) == ("tiny", 6, False)
    assert model.input_shape == (16, 16, 3) and model.layer_count == 3
    assert model.parameters > 0 and model.multiply_adds > 0 and model.source_file == "seeded"
    assert model.preprocessing == effnet.Preprocessing(18, 16, "bicubic", (127.0,) * 3, (128.0,) * 3, "short-side")
    assert model.labels == tuple(effnet.Label(*label) for label in LABELS)
    assert repr(model) == f"<effnet.Model tiny: {tiny}>"


def test_squashed_bilinear(tmp_path):
    path = write_tiny_model(tmp_path / "m.safetensors", resize="squash", short_side=16, interpolation="bilinear")
    kind = effnet.Model(path).preprocessing
    assert (kind.resize, kind.interpolation) == ("squash", "bilinear")


def test_top_k(model, tmp_path):
    logits = np.array([0, 3, 1, 3, -1, 2], np.float32)
    top = model.top_k(logits, 4)
    assert [c.index for c in top] == [1, 3, 5, 2] and top[0].name == "comma, inside" and top[0].id == "n00000002"
    softmax = np.exp(logits.astype(float)) / np.exp(logits.astype(float)).sum()
    assert np.allclose([c.probability for c in top], softmax[[1, 3, 5, 2]]) and top[0].logit == 3
    assert len(model.top_k(logits, 1000)) == 6
    for wrong in (logits[:5], logits[None]):
        with pytest.raises(effnet.UsageError, match="shape"):
            model.top_k(wrong)
    with pytest.raises(effnet.UsageError):
        model.top_k(logits, 0)
    several = effnet.Model(write_tiny_model(tmp_path / "m.safetensors", multi_label=True))
    assert np.allclose([c.probability for c in several.top_k(logits)], 1 / (1 + np.exp([-3, -3, -2, -1, 0])))


# ---------------------------------------------------------------- crops


def crop_of(image):
    """By Pillow: the shorter side to 18, the middle 16 x 16."""
    scale = 18 / min(image.size)
    size = [18 if side == min(image.size) else int(side * scale) for side in image.size]
    resized = image.resize(size, Image.Resampling.BICUBIC)
    left, top = (round((side - 16) / 2) for side in size)
    return np.asarray(resized.crop((left, top, left + 16, top + 16)))


def test_every_kind_of_image_gives_the_same_crop(model, photos, tmp_path):
    path = photos[0]
    opened = Image.open(path)
    data = open(path, "rb").read()
    kinds = [path, tmp_path / path, data, bytearray(data), memoryview(data), np.asarray(opened), opened]
    crops = model.preprocess(kinds)
    assert crops.shape == (7, 16, 16, 3) and crops.dtype == np.uint8
    assert (crops == crop_of(opened)).all()
    assert (model.preprocess(path) == crops[:1]).all() and model.preprocess([]).shape == (0, 16, 16, 3)
    pixels = np.asarray(opened)
    strided = np.repeat(np.repeat(pixels, 2, 0), 2, 1)[::2, ::2]
    batch = np.stack([pixels, pixels])
    assert not strided.flags.c_contiguous
    assert (model.preprocess(strided) == crops[:1]).all() and (model.preprocess(batch) == crops[:2]).all()


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I;16"])
@pytest.mark.parametrize("background", [None, (10, 200, 30)])
def test_pillows_modes(model, session, tmp_path, mode, background):
    """As its file, where a file can hold the mode."""
    random = np.random.default_rng(5)
    image = Image.fromarray(random.integers(0, 256, (20, 24, 4), np.uint8), "RGBA")
    if mode == "I;16":
        image = Image.fromarray(random.integers(0, 65536, (20, 24), np.uint16))
    else:
        image = image.convert("RGB").convert(mode) if mode in ("P", "CMYK", "YCbCr") else image.convert(mode)
    if mode in ("CMYK", "YCbCr"):  # which a PNG cannot hold
        expected = model.preprocess(np.asarray(image.convert("RGB")))
    else:
        image.save(tmp_path / "x.png")
        expected = model.preprocess(tmp_path / "x.png", background=background)
    assert (model.preprocess(image, background=background) == expected).all()
    streamed = [p.logits for p in session.classify([image, image], background=background)]
    assert np.array_equal(streamed, np.repeat(session.logits(expected), 2, 0))


def test_orientation(model, tmp_path):
    image = Image.fromarray(np.random.default_rng(1).integers(0, 256, (20, 40, 3), np.uint8))
    exif = Image.Exif()
    exif[0x112] = 6
    image.save(tmp_path / "turned.png", exif=exif)
    for kind in (str(tmp_path / "turned.png"), Image.open(tmp_path / "turned.png")):
        assert (model.preprocess(kind) == crop_of(image.rotate(-90, expand=True))).all()
        assert (model.preprocess(kind, ignore_exif=True) == crop_of(image)).all()


@pytest.mark.parametrize("image, kind, said", [
    (np.zeros((4, 4), np.uint8), effnet.UsageError, r"\(4, 4\)"),
    (np.zeros((4, 4, 4), np.uint8), effnet.UsageError, r"\(4, 4, 4\)"),
    (np.zeros((0, 4, 3), np.uint8), effnet.UsageError, r"\(0, 4, 3\)"),
    (np.zeros((4, 4, 3)), effnet.UsageError, "float64"),
    ([7], effnet.UsageError, "int is no image"),
    ([None], effnet.UsageError, "NoneType is no image"),
    (b"", effnet.DataError, "image 0"),
    (b"GIF89a", effnet.DataError, "image 0"),
    ("/nowhere.jpg", effnet.InputError, "/nowhere.jpg"),
    ("/tmp", effnet.InputError, "/tmp"),
    ("a\0b", effnet.UsageError, "NUL"),
])
def test_refused_images(model, session, image, kind, said):
    images = image if isinstance(image, list) else [image]
    for call in (model.preprocess, session.classify):
        with pytest.raises(kind, match=said):
            call(images)
    with pytest.raises(kind, match=said):  # of several, which go another way
        session.classify([*images, *images])


@pytest.mark.parametrize("options, said", [
    ({"max_pixels": 10}, "pixels"), ({"max_pixels": 0}, "pixel limit"), ({"max_pixels": "x"}, "max_pixels"),
    ({"background": (1, 2)}, "background"), ({"background": (1, 2, 256)}, "background"),
    ({"background": (1, 2, 3, 4)}, "background"), ({"background": "red"}, "background"),
])
def test_refused_options(model, session, photos, options, said):
    for call in (model.preprocess, session.classify):
        with pytest.raises(effnet.Error, match=said):
            call(photos[:1], **options)


def test_broken_image_of_pillows(session, photos, tmp_path):
    """It fails when it is decoded, which is late; its neighbours have their answers."""
    image = Image.fromarray(np.random.default_rng(1).integers(0, 256, (200, 200, 3), np.uint8))
    image.save(tmp_path / "whole.png")
    (tmp_path / "half.png").write_bytes((tmp_path / "whole.png").read_bytes()[:50_000])
    broken = Image.open(tmp_path / "half.png")
    answers = list(session.classify_iter([photos[0], broken, photos[1]]))
    assert [a.error is None for a in answers] == [True, False, True]
    assert isinstance(answers[1].error, effnet.DataError) and "image 1: " in str(answers[1].error)
    with pytest.raises(effnet.DataError):
        session.classify(Image.open(tmp_path / "half.png"))


# ---------------------------------------------------------------- ends


def test_use_after_close(tiny, photos):
    model = effnet.Model(tiny)
    session = model.session("cpu")
    before = session.classify(photos[0])[0].classes
    model.close()
    model.close()
    assert repr(model).endswith(", closed>")
    for use in (model.session, lambda: model.preprocess(photos)):
        with pytest.raises(effnet.UsageError, match="the model is closed"):
            use()
    assert session.classify(photos[0])[0].classes == before and len(model.labels) == 6
    session.close()


def test_labels_of_a_closed_model(tiny, photos):
    model = effnet.Model(tiny)
    with model.session("cpu") as session:
        model.close()
        assert session.classify(photos[0])[0].classes  # which need the labels
    other = effnet.Model(tiny)
    other.close()
    with pytest.raises(effnet.UsageError, match="the model is closed"):
        other.labels  # noqa: B018


def open_files():
    return len(os.listdir("/proc/self/fd")), sum(".safetensors" in line for line in open("/proc/self/maps"))


def test_nothing_is_left_open(tiny):
    gc.collect()
    before = open_files()
    for _ in range(20):
        effnet.Model(tiny).session("reference")
    model = effnet.Model(tiny)
    model.cycle = [model, model.session("reference")]
    del model
    gc.collect()
    assert open_files() == before


def test_a_model_in_many_threads(model, photos):
    expected = model.preprocess(photos)
    found = [None] * 8

    def work(i):
        with model.session("reference") as session:
            found[i] = model.preprocess(photos), session.logits(expected)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all((crops == expected).all() and (logits == found[0][1]).all() for crops, logits in found)


# ---------------------------------------------------------------- errors


def test_errors_by_status():
    from effnet._cffi import ffi
    from effnet.errors import of_status

    statuses = {name: value for name, value in ffi.typeof("enum effnet_status").relements.items() if value}
    kinds = {name: type(of_status(value, "why")) for name, value in statuses.items()}
    assert len(kinds) == 7 and len(set(kinds.values())) == 7 and effnet.Error not in kinds.values()
    assert kinds["EFFNET_E_DATA"] is effnet.DataError and issubclass(effnet.DataError, ValueError)
    for name, kind in kinds.items():
        error = pickle.loads(pickle.dumps(of_status(statuses[name], "why")))
        assert type(error) is kind and str(error) == "why" and error.status == statuses[name]
        row = [line for line in effnet.__doc__.splitlines() if line.startswith(f"    {kind.__name__} ")]
        assert row and int(row[0].split()[1]) == error.status and issubclass(kind, eval(row[0].split()[2]))
    later = of_status(-99, "of a later library")
    assert type(later) is effnet.Error and pickle.loads(pickle.dumps(later)).status == -99


@pytest.mark.parametrize("options, kind, said", [
    ({"device": "toaster"}, effnet.UsageError, "toaster"),
    ({"device": ""}, effnet.UsageError, "device"),
    ({"device": "cuda:999"}, effnet.UnavailableError, "cuda|CUDA"),
    ({"device": "reference", "precision": "bf16"}, effnet.UnavailableError, "bf16"),
    ({"precision": "fp8"}, effnet.UsageError, "fp8"),
    ({"batch": 0}, effnet.UsageError, "batch"),
    ({"batch": 1 << 40}, effnet.UsageError, "batch"),
    ({"batch": 1 << 20}, effnet.UsageError, "batch"),
    ({"threads": -1}, effnet.UsageError, "threads"),
    ({"plan": "x"}, effnet.UsageError, "plan"),
])
def test_refused_sessions(model, options, kind, said):
    with pytest.raises(kind, match=said):
        model.session(**{"device": "cpu"} | options)


def test_a_notice_is_a_warning(model):
    with pytest.warns(RuntimeWarning, match="plan cudnn") as caught:
        session = model.session("cpu", plan="cudnn")
    assert caught[0].filename == __file__ and "plan cudnn" in session.notice


def test_devices():
    found = {device.name: device for device in effnet.devices()}
    assert found["reference"].available and "fp32" in found["reference"].precisions
    assert found["cpu"].available and found["cpu"].description
    assert any(name.startswith("cuda") for name in found)
