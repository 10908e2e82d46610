"""What the program says where something is not what it should be: one line that names it and the reason."""

import gzip
import io
import json
import lzma
import os
import pickle
import resource
import tarfile
import zipfile

import numpy as np
import pytest
from cli_model import (
    DATA,
    NO_INPUT,
    OUTPUT,
    UNAVAILABLE,
    USAGE,
    assert_one_line,
    run_with_stdout,
)
from convert_formats import write_old, write_safetensors, write_zip
from convert_networks import ROOT
from PIL import Image
from safetensors.numpy import save_file


# ---------------------------------------------------------------- what stands in place of weights

STATE = {"conv_stem.weight": np.ones((4, 3, 3, 3), np.float32), "bn1.num_batches_tracked": np.array(7, np.int64)}


def by(write, *arguments):
    """What a writer of files writes, as bytes."""

    def make(folder):
        path = folder / "by"
        write(path, *arguments)
        return path.read_bytes()

    return make


def blank(kind):
    def make(_):
        out = io.BytesIO()
        Image.new("RGB", (20, 20)).save(out, kind)
        return out.getvalue()

    return make


def archive_of_arrays(_):
    out = io.BytesIO()
    np.savez(out, weight=np.ones(4))
    return out.getvalue()


def zip_of(name):
    def make(_):
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w") as archive:
            archive.writestr(name, b"x" * 100)
        return out.getvalue()

    return make


def tar(_):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("weights"))
    return out.getvalue()


def onnx_model(producer, **fields):
    def make(_):
        import onnx

        value = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
        graph = onnx.helper.make_graph([onnx.helper.make_node("Identity", ["x"], ["y"])], "g", [value], [value])
        model = onnx.helper.make_model(graph, **({"producer_name": producer} if producer else {}), **fields)
        return model.SerializeToString()

    return make


PAGE = "<!DOCTYPE html>\n<html><body>Not found</body></html>\n"
KINDS = {
    "torch.pth": (by(write_zip, STATE), "a PyTorch checkpoint"),
    "old.pth": (by(write_old, STATE), "a PyTorch checkpoint"),
    "timm.safetensors": (by(write_safetensors, STATE), "without effnet's layer table"),
    "half.safetensors": (by(lambda p: save_file({"w": np.ones(3, np.float16)}, p)), "without effnet's layer table"),
    "other.safetensors": (by(lambda p: save_file({"w": np.ones(3)}, p, {"a": "b"})), "without effnet's layer table"),
    "ours.onnx": (lambda _: (ROOT / "weights" / "b1-plain.onnx").read_bytes()[:100_000], "an ONNX model"),
    "another's.onnx": (onnx_model("pytorch", producer_version="2.1"), "an ONNX model"),
    "nobody's.onnx": (onnx_model(""), "an ONNX model"),
    "lfs.safetensors": (lambda _: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "Git LFS pointer"),
    "page.safetensors": (lambda _: PAGE.encode(), "an HTML page"),
    "small page": (lambda _: b"\xef\xbb\xbf\n <HTML>", "an HTML page"),
    "error.xml": (lambda _: b'<?xml version="1.0"?><Error/>', "an XML file"),
    "pickle": (lambda _: pickle.dumps({"a": 1}), "a Python pickle"),
    "arrays.npz": (archive_of_arrays, "NumPy arrays"),
    "array.npy": (by(lambda p: np.save(open(p, "wb"), np.ones(3))), "a NumPy array"),
    "model.keras": (zip_of("config.json"), "a Keras model"),
    "package.whl": (zip_of("package/__init__.py"), "a ZIP archive"),
    "model.h5": (lambda _: b"\x89HDF\r\n\x1a\n" + bytes(99), "HDF5"),
    "model.tflite": (lambda _: b"\x1c\0\0\0TFL3" + bytes(99), "TensorFlow Lite"),
    "model.gguf": (lambda _: b"GGUF\3\0\0\0" + bytes(99), "GGUF"),
    "saved_model.pb": (lambda _: b"\x08\x01\x12\xff\x01" + bytes(99), "TensorFlow"),
    "w.safetensors.gz": (lambda _: gzip.compress(bytes(99)), "gzip"),
    "w.safetensors.xz": (lambda _: lzma.compress(bytes(99)), "xz"),
    "w.tar": (tar, "tar"),
    "index.json": (lambda _: json.dumps({"weight_map": {}}).encode(), "a JSON file"),
    "empty": (lambda _: b"", "empty file"),
    "short": (lambda _: b"ab", "too few"),
    "zeros": (lambda _: bytes(1 << 20), "not a safetensors file"),
    "small numbers": (lambda _: b"\5\0\0\0\0\0\0\0" + b"\1\2\3" * 99, "not a safetensors file"),
    "text": (lambda _: b"tench\ngoldfish\ngreat white shark\n", "not a safetensors file"),
    "x.png": (blank("PNG"), "a PNG image"),
    "x.jpg": (blank("JPEG"), "a JPEG image"),
    "x.gif": (blank("GIF"), "a GIF image"),
    "x.bmp": (blank("BMP"), "a BMP image"),
    "x.webp": (blank("WEBP"), "a WebP image"),
    "x.tiff": (blank("TIFF"), "a TIFF image"),
    "x.pdf": (blank("PDF"), "a PDF document"),
    "x.svg": (lambda _: b"<svg/>", "an SVG image"),
}


@pytest.mark.parametrize("name", KINDS)
def test_what_is_no_weights_file_is_named(effnet, tmp_path, name):
    make, what = KINDS[name]
    path = tmp_path / name
    data = make(tmp_path)
    path.write_bytes(data)
    done = effnet("info", "-m", path)
    assert_one_line(done, DATA, f"{path}: ", what, "tools/convert.py")
    if what in ("a PyTorch checkpoint", "without effnet's layer table", "an HTML page"):
        assert "convert it with tools/convert.py" in done.stderr
    if what not in ("empty file", "too few"):  # as well where nothing more of it is there
        path.write_bytes(data[:300])
        assert effnet("info", "-m", path).returncode == DATA


def test_broken_weights_of_ours_are_not_taken_for_others(effnet, tiny, tmp_path):
    data = tiny.read_bytes()
    path = tmp_path / "broken.safetensors"
    for broken in (data[:-4], data[: len(data) // 2], data.replace(b'"format_version":"1"', b'"format_version":"7"')):
        path.write_bytes(broken)
        done = effnet("info", "-m", path)
        assert_one_line(done, DATA, path)
        assert "convert.py" not in done.stderr and "without effnet's" not in done.stderr


# ---------------------------------------------------------------- long names, odd names


def deep_folder(folder, part, levels):
    for _ in range(levels):
        folder = folder / part
    folder.mkdir(parents=True)
    return folder


@pytest.mark.parametrize("part", ["x" * 100, "ü" * 50, "€" * 40, "🖼" * 30, "a🖼" * 20])
def test_a_long_path_keeps_its_end(effnet, tmp_path, part):
    for levels in (1, 2, 3, 4, 12):
        path = deep_folder(tmp_path / str(levels), part, levels) / "weights.safetensors"
        done = effnet("info", "-m", path)
        assert_one_line(done, NO_INPUT, "/weights.safetensors: No such file")
        path.write_bytes(b"nothing of the kind")
        done = effnet("info", "-m", path)
        assert_one_line(done, DATA, "/weights.safetensors: not a safetensors file", "header of")
        assert "\\x" not in done.stderr and "\ufffd" not in done.stderr


def test_long_arguments(effnet, tiny, image):
    long = "€" * 40_000
    for arguments, end in [
        (["info", long], "(see 'effnet info --help')"),
        ([long], "(see 'effnet --help')"),
        (["classify", "--format", long, image], "(see 'effnet classify --help')"),
        (["info", "-m", long], "File name too long"),
        (["classify", "-m", tiny, "--device", long, image], "cuda:N"),
    ]:
        done = effnet(*arguments)
        assert_one_line(done, done.returncode, end)
        assert done.returncode in (USAGE, NO_INPUT) and "\\x" not in done.stderr and len(done.stderr) < 2000


def test_tensor_names_are_cut_between_characters(effnet, tmp_path):
    for shift in range(4):
        name = "x" * shift + "🖼" * 60
        header = {"__metadata__": {"format": "effnet"}, name: {"dtype": "F16", "shape": [2], "data_offsets": [0, 4]}}
        text = json.dumps(header, ensure_ascii=False).encode()
        text += b" " * (-len(text) % 4)
        path = tmp_path / "w.safetensors"
        path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(4))
        done = effnet("info", "-m", path)
        assert_one_line(done, DATA, "🖼...' at offset 0", "type F16")
        assert "\\x" not in done.stderr


def test_empty_names(effnet, tiny, image):
    for arguments in (["classify", ""], ["classify", image, ""], ["verify", ""], ["bench", "--end-to-end", ""]):
        assert_one_line(effnet(*arguments, "-m", tiny), USAGE, "empty", f"effnet {arguments[0]} --help")


def test_a_file_where_a_command_belongs(effnet, image):
    assert_one_line(effnet(image), USAGE, image, "effnet classify")


def test_a_folder_in_place_of_weights(effnet, tmp_path):
    assert_one_line(effnet("info", "-m", tmp_path), NO_INPUT, f"{tmp_path}: a folder, not a regular file")
    os.mkfifo(tmp_path / "fifo")
    assert_one_line(effnet("info", "-m", tmp_path / "fifo"), NO_INPUT, "fifo: not a regular file")


# ---------------------------------------------------------------- output that fails


def large_outputs(lite1, image):
    """More than one buffer of the C library, so that writing fails before the last flush."""
    formats = ("text", "json", "csv", "markdown")
    commands = [["info", "-m", lite1, "--format", f] for f in formats[:2]]
    commands += [["info", "-m", lite1, "--device=cpu", "--plan", "--format", f] for f in formats[:2]]
    commands += [["classify", "-m", lite1, "--device=cpu", "-k", "1000", "--format", f, image, image]
                 for f in formats[:3]]
    commands += [["bench", "-m", lite1, "--device=cpu", "--layers", "--no-verify", "--repetitions", "1", "--format", f]
                 for f in formats]
    return commands + [["bench", "--help"]]


@pytest.mark.parametrize("stdout, reason", [("full", "No space left"), ("pipe", "Broken pipe"), ("closed", "Bad file")])
def test_a_failed_write_keeps_its_reason(build, lite1, image, stdout, reason):
    for arguments in large_outputs(lite1, image):
        if stdout == "full":
            write = os.open("/dev/full", os.O_WRONLY)
        else:
            read, write = os.pipe()
            os.close(read)
        done = run_with_stdout(build, arguments, write,
                               preexec_fn=(lambda: os.close(1)) if stdout == "closed" else None)
        os.close(write)
        assert done.returncode == OUTPUT, (arguments, done.stderr)
        assert done.stderr.startswith(f"effnet: standard output: {reason}"), (arguments, done.stderr)
        assert done.stderr.count("\n") == 1, (arguments, done.stderr)


def test_a_file_without_room(build, lite1, tmp_path):
    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))

    with open(tmp_path / "out", "wb") as out:
        done = run_with_stdout(build, ["info", "-m", lite1, "--format", "json"], out, preexec_fn=limit)
    assert done.returncode == OUTPUT, (done.returncode, done.stderr)
    assert done.stderr == "effnet: standard output: File too large\n"


# ---------------------------------------------------------------- this machine


def test_no_word_of_a_gpu_where_there_is_none(effnet, tiny, image):
    """Who asks for a precision that no GPU has on a machine without one gets the CPU, or a word about the CPU."""
    devices = json.loads(effnet("info", "--devices", "--format", "json").stdout)["devices"]
    if any(d["available"] for d in devices if d["name"].startswith("cuda")):
        pytest.skip("a GPU is here")
    cpu = next(d["precisions"] for d in devices if d["name"] == "cpu")
    for precision in ("fp32", "bf16"):
        done = effnet("classify", "-m", tiny, "--precision", precision, image)
        assert done.returncode == (0 if precision in cpu else UNAVAILABLE), done.stderr
        assert not any(word in done.stderr for word in ("GPU", "CUDA", "cuda")), done.stderr
