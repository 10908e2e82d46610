"""Every limit on the size of what is read, from both sides: what is at the limit is taken, and one more is not."""

import json
import struct
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from cli_model import DATA, USAGE, assert_one_line
from image_files import png_bytes
from pixels import E_DATA, E_USAGE, exif_block, smooth_image
from test_formats import png_header, sparse
from test_jpeg import behind_start, pillow_jpeg, segment

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tools"))
from effnet_convert import labels
from effnet_convert.errors import ConvertError

# ---------------------------------------------------------------- weights

STEM = {"name": "stem", "op": "conv", "in": 3, "out": 4, "activation": "none", "kernel": 3, "stride": 1, "pad": [1] * 4}


def write_weights(path, layers, side=16, short_side=None, tensors=None):
    """A file with this table, an average pool and one class behind it, and one tensor, which belongs to no layer."""
    width = layers[-1]["out"]
    layers = [*layers, {"name": "pool", "op": "pool", "in": width, "out": width},
              {"name": "fc", "op": "linear", "in": width, "out": 1, "activation": "none"}]
    metadata = {"format": "effnet", "format_version": "1",
                "network": json.dumps({"name": "n", "input": [3, side, side], "layers": layers}),
                "preprocess": json.dumps({"short_side": short_side or side, "crop": side, "interpolation": "bicubic",
                                          "mean": [0] * 3, "std": [1] * 3}),
                "labels": json.dumps([{"name": "all"}])}
    header = json.dumps({"__metadata__": metadata, **(tensors or {"t": {"dtype": "F32", "shape": [1],
                                                                        "data_offsets": [0, 4]}})}).encode()
    header += b" " * (-len(header) % 8)
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))
    return path


def pointwise(i, width):
    return {"name": f"p{i}", "op": "pointwise", "in": width, "out": width, "activation": "none"}


def stem(**changes):
    return {"layers": [STEM | changes]}


# name: (the limit, what the table is with that number in it, what is said of one more)
WEIGHTS = {
    "layers": (1024, lambda n: {"layers": [STEM, *(pointwise(i, 4) for i in range(n - 3))]}, "1 to 1024 layers"),
    "channels out": (65536, lambda n: stem(out=n), "out is 65537"),
    "channels in": (65536, lambda n: {"layers": [STEM | {"out": 65536}, pointwise(0, n)]}, "in is 65537"),
    "height and width": (4096, lambda n: stem() | {"side": n}, "input is 4097"),
    "elements": (16, lambda n: stem(out=n) | {"side": 4096}, "more than 268435456 elements"),
    "kernel": (15, lambda n: stem(kernel=n), "kernel is 16"),
    "stride": (8, lambda n: stem(stride=n), "stride is 9"),
    "padding": (4, lambda n: stem(kernel=5, pad=[n, 0, 0, 0]), "pad is 5"),
    "block": (1024, lambda n: stem(block=n), "block is 1025"),
    "name": (63, lambda n: stem(name="x" * n), "1 to 63 characters"),
    "short side": (8192, lambda n: stem() | {"short_side": n}, "short_side is 8193"),
}


@pytest.mark.parametrize("name", WEIGHTS)
def test_weights(effnet, tmp_path, name):
    limit, table, reason = WEIGHTS[name]
    path = write_weights(tmp_path / "w.safetensors", **table(limit))
    assert_one_line(effnet("info", "-m", path), DATA, ".weight': is missing")  # all that came before is well
    path = write_weights(path, **table(limit + 1))
    assert_one_line(effnet("info", "-m", path), DATA, reason)


@pytest.mark.parametrize("shape, reason", [
    ([1] * 8, "belongs to no layer|is missing"), ([1] * 9, "more than 8 dimensions"),
    ([1 << 53], "takes 36028797018963968 bytes"), ([(1 << 53) + 2], "not a whole number from 0 to 9007199254740992")])
def test_shapes(effnet, tmp_path, shape, reason):
    tensor = {"t": {"dtype": "F32", "shape": shape, "data_offsets": [0, 4]}}
    done = effnet("info", "-m", write_weights(tmp_path / "w.safetensors", [STEM], tensors=tensor))
    assert done.returncode == DATA and any(words in done.stderr for words in reason.split("|")), done.stderr


def test_json_values(effnet, tmp_path):
    """The header is parsed with a million values, and refused unparsed with one more."""
    for values, reason in ((10**6, "not a JSON object"), (10**6 + 1, "more than 1000000 JSON values")):
        text = b'{"t":[' + b"1," * (values - 3) + b"1]}"
        text += b" " * (-len(text) % 8)
        (tmp_path / "w.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + bytes(4))
        assert_one_line(effnet("info", "-m", tmp_path / "w.safetensors"), DATA, reason)


# ---------------------------------------------------------------- images


@pytest.mark.parametrize("header, reason", [
    (lambda side: b"P5 %d 1 255\n" % side, "longest side allowed is 16777216"),
    (lambda side: b"P5 1 %d 255\n" % side, "longest side allowed is 16777216"),
    (lambda side: png_header(side, 1, 8, 0), "Invalid IHDR data")], ids=["wide", "high", "PNG"])
def test_longest_side(runner, tmp_path, header, reason):
    """The pixels are missing, which is noticed where the size is allowed."""
    for side, allowed in ((1 << 24, True), ((1 << 24) + 1, False)):
        (tmp_path / "image").write_bytes(header(side))
        done = runner("decode", tmp_path / "image")
        assert done.returncode == E_DATA
        assert (reason in done.stderr.decode()) is not allowed, done.stderr


def test_short_side(runner, tmp_path):
    smooth_image(5, 5).save(tmp_path / "image.png")
    for short_side, status in ((1 << 16, 0), ((1 << 16) + 1, E_USAGE)):
        assert runner("fit", short_side, 8, "bilinear", tmp_path / "image.png").returncode == status


def test_bytes_of_a_file(runner, tmp_path):
    """64 MiB and three bytes a pixel that may be: what a decoder may want, and no more."""
    limit = (64 << 20) + 3 * 1000
    for size, reason in ((limit - 1, "truncated"), (limit + 1, f"more than {limit} bytes")):
        path = sparse(tmp_path / "image", b"P3 9 9 255\n#", size)
        done = runner("--max-pixels", 1000, "decode", path)
        assert done.returncode == E_DATA and reason in done.stderr.decode(), done.stderr


def test_text_of_a_png(decode, tmp_path):
    """A deflated orientation counts where it unpacks to 1 MiB, and not where to more."""
    samples = np.arange(24).reshape(2, 4, 3)
    for size, turned in ((1 << 20, True), ((1 << 20) + 1, False)):
        profile = b"\nexif\n      26\n" + exif_block(6).hex().encode()
        text = b"Raw profile type exif\0\0" + zlib.compress(profile.ljust(size, b"\n"))
        (tmp_path / "image.png").write_bytes(png_bytes(samples, 8, 2, before=[(b"zTXt", text)]))
        assert decode(tmp_path / "image.png").shape == ((4, 2, 3) if turned else (2, 4, 3))


def test_exif_of_a_jpeg(decode, tmp_path):
    """In as many segments as it takes, up to 1 MiB with its name; the directory lies at its end."""
    directory = exif_block(6)[8:]
    upright = decode_jpeg(decode, tmp_path, pillow_jpeg()).shape
    for size, turned in (((1 << 20) - 6, True), ((1 << 20) - 5, False)):
        block = (b"II*\0" + struct.pack("<I", size - len(directory))).ljust(size - len(directory), b"\0") + directory
        parts = [segment(0xE1, b"Exif\0\0" + block[i:i + 60_000]) for i in range(0, size, 60_000)]
        assert decode_jpeg(decode, tmp_path, behind_start(pillow_jpeg(), *parts)).shape == (
            (upright[1], upright[0], 3) if turned else upright)


def decode_jpeg(decode, tmp_path, data):
    (tmp_path / "image.jpg").write_bytes(data)
    return decode(tmp_path / "image.jpg")


# ---------------------------------------------------------------- the command line


@pytest.mark.parametrize("command", ["classify -b 4097", "info -b 65537", "verify -b 1025", "bench -b 65537",
                                     "classify --threads 4097", "bench -b " + ",".join(["1"] * 65)])
def test_options(effnet, command):
    assert_one_line(effnet(*command.split(), "x.png"), USAGE, "is not")


def test_a_list_of_64(effnet, tiny):
    done = effnet("bench", "-m", tiny, "--device", "cpu", "--repetitions", "1", "--warmup", "0", "--no-verify",
                  "-b", ",".join(["1"] * 64), "--format", "json")
    assert done.returncode == 0 and len(json.loads(done.stdout)["results"]) == 2 * 64


# ---------------------------------------------------------------- the converter


def test_labels_of_the_converter(tmp_path):
    for size, allowed in ((labels.MAX_BYTES, True), (labels.MAX_BYTES + 1, False)):
        path = sparse(tmp_path / "labels.txt", b"cat\n", size)
        try:
            labels.read_labels(path)
        except ConvertError as error:
            assert ("larger than" in str(error)) is not allowed, error
