"""AVIF, through libavif where the build has it. The reference is Pillow, which brings a libavif of its own."""

import base64
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from pixels import E_DATA, E_NOMEM, assert_refused, assert_same, exif_block, pillow_rgb, smooth_image
from test_formats import limited
from test_webp import with_alpha


@pytest.fixture(autouse=True)
def needs_libavif(has_libavif):
    if not has_libavif:
        pytest.skip("this build is without libavif")


def box(kind, *content):
    return struct.pack(">I", 8 + sum(map(len, content))) + kind + b"".join(content)


def boxes_of(data):
    """[(kind, content)] of a file or of a box's content."""
    found, at = [], 0
    while at < len(data):
        size, kind = struct.unpack_from(">I4s", data, at)
        found.append((kind, data[at + 8:at + size]))
        at += size
    return found


def avif(tmp_path, image=None, **options):
    image = image or smooth_image(61, 37)
    image.save(tmp_path / "made.avif", **{"speed": 10, **options})
    return (tmp_path / "made.avif").read_bytes()


@pytest.fixture
def same(decode_all, tmp_path):
    """Asserts that the library decodes images, saved by Pillow with options, as Pillow does."""
    def check(*saved):
        paths = [tmp_path / f"{number}.avif" for number in range(len(saved))]
        for path, (image, options) in zip(paths, saved):
            image.save(path, **{"speed": 10, **options})
        for path, pixels in zip(paths, decode_all(paths)):
            assert_same(pixels, pillow_rgb(path))
    return check


@pytest.mark.parametrize("subsampling", ["4:0:0", "4:2:0", "4:2:2", "4:4:4"])
@pytest.mark.parametrize("alpha", [False, True], ids=["opaque", "alpha"])
def test_pixels_are_pillows(same, subsampling, alpha):
    sizes = [(1, 1), (2, 3), (17, 16), (61, 37), (200, 151), (500, 375)]
    images = [smooth_image(width, height, width) for width, height in sizes]
    same(*((with_alpha(image) if alpha else image, {"subsampling": subsampling, "range": range_, "quality": quality})
           for image in images for range_, quality in (("full", 75), ("limited", 30))))


def test_lossless(same):
    same((smooth_image(61, 37), {"quality": 100, "subsampling": "4:4:4"}))


def test_background(decode, tmp_path):
    path = tmp_path / "image.avif"
    with_alpha(smooth_image(61, 37)).save(path, speed=10)
    with Image.open(path) as image:
        expected = Image.alpha_composite(Image.new("RGBA", image.size, (12, 130, 201, 255)), image).convert("RGB")
    assert_same(decode(path, "--background", "0c82c9"), expected)


def test_multiplied_alpha(same):
    same((with_alpha(smooth_image(61, 37)), {"alpha_premultiplied": True}))


def test_animation(same):
    first, second = (smooth_image(50, 40, seed) for seed in (1, 2))
    same((first, {"save_all": True, "append_images": [second], "duration": 50}))


def test_orientation(same):
    """Pillow writes EXIF's into the container; XMP's counts where both are silent."""
    image, xmp = smooth_image(41, 27), b'<x tiff:Orientation="%d"/>'
    same(*((image, options) for orientation in range(1, 9) for options in (
        {"exif": exif_block(orientation)}, {"exif": exif_block(orientation), "xmp": xmp % 3}, {"xmp": xmp % orientation})))


def test_ignored_orientation(runner, tmp_path):
    path = tmp_path / "image.avif"
    smooth_image(41, 27).save(path, speed=10, exif=exif_block(6))
    for options, size in ((["--ignore-exif"], b"41 27\n"), ([], b"27 41\n")):
        assert runner(*options, "decode", path).stdout.startswith(size)


def unpacked(text):
    return zlib.decompress(base64.b64decode(text))


# Made by libavif 0.11.1 and libaom 3.6.0 of smooth_image(16, 16), and of smooth_image(128, 128) in four tiles: Pillow
# writes neither.
TEN_BITS = unpacked(
    b"eNpjYGBQSCupLEgsy0xjAAIQnZuZZpibmZjm62joBBT6lJtaksgAARoZKTlFUDZDQWZyCQMSyMlMghnDV5BZkgsWZARiucyc/GQQxwXEZ4SIMkoBaTuQ"
    b"mZmZeWlwtVJATioTlJdYZmDonJ+TD7YyK7OgqABIe2cWJOcDaZHM4oJUqNUCMFyQWZEJEmDm4uICUjyJZYbOjQw+ICHh5PycorzknAqgybwMbA1AIfHM"
    b"glyY14AOY2FkamYBMt1yUxJLhBi4OCV4/t9YoLjgQoORvhSDRGIbK4PTv9O+f52eJYsvbxf7yVzoonLktOT/Hcf5T8q9Zfq64cvExltlac/+3pwJAJxf"
    b"TJw=")

TEN_BITS_ALPHA = unpacked(
    b"eNpjYGBQSCupLEgsy0xjAAIQnZuZZpibmZjm62joxMDA2JubWpLIAAEaGSk5RVA2Q0FmcgkDEsjJTIIZw1eQWZILFmQEYp3MnPxkEMeFgYEJLALEzCJA"
    b"2g7IB/MYtwJxPJDtlJmZBzYCLCMF5KQyQc1JLDMwdM7PyQc7ACHDBJFxzCnISITIFKWmQZ3El1hakQO2E2Tr4cyCogIgPTezIDkfSItkFhekQlUKwHBB"
    b"ZkUmSICZi4sLSPEklhk6NzL4gISEk/NzivKScyqApvEysDVAPApRzoikOAYkYAG02hnEKC3Ks8otSE0HE05WyZnJBVbFlcUlqbnFVkA1mTmZiUWVVokw"
    b"58tlFuTCghvocBZGpmYWBiYWRtY2dqAtS3NTEkuEGLhYJXj+37hidJlJgOG4bOb7C+zr7AUTHv0zPCq9lPGWjtZ3x+z1nNUPZq/qNO6YO+2a7/e1nEzb"
    b"92hW+v8vnO2xsCQ3zHT7s5KtdclJDwN/TSvxOuy57L3wpM/7iuPzXuccCan//+zfcjkfW8UKZ2sGO9VdN8NW3e3+msujHrr/1bN7b67u2WV8deaLaecY"
    b"1yyYl/KxxLV/R6mpfFbkI8/Hv+awLD666p1zbUIH25mCCov4hVrzs8/OWBLGc0Sap7s2/mLujS2cHesnLV/sMr/SlPmNVP8u7wdvTwU+Y/oWVfdk4qS/"
    b"vgWL1/Q6PFmXuuOx8Cn9+fMvP2V/z6kwpXFrp7TQho/iU1/eD1+QsrjzWNU/O72LF+9x5QsE2+bqZa3ZOWmfgHzePeef/AtOG37XOHND7N31SbdflQoo"
    b"Wh2OmaT7+OLRDsHDRkka753UQ0M2c665VvNJOqfGafamgoXpwiw3zIqP1oZN0FAIe3s95wMweDlBwbtAccGFBiN9KQaJxDZWBqd/p33/Oj1LFl/eLvaT"
    b"udBF5chpyf87jvOflHvL9HXDl4mNt8rSnv29ORMAF2wgkQ==")

GRID = unpacked(
    b"eNpjYGBQSCupLEgsy0xjAAIQnZuZZpibmZjm62joxMDA+DA3tSSRAQI0MlJyiqBshoLM5BIGJJCTmQQzhq8gsyQXLMgIxGGZOfnJII4LAwMrWASImTiB"
    b"NAcDE5QnCKQ9GZihvCgg7c3AAuUtBdJeQJ0Q3nsgHQDEEzIz88CWgWWkgJxUJqiN6UWZKc75Oflgp8JkGEF2JZYZGGKRYcYpw4JThhVNRiGzKDUNGhQi"
    b"KZm56WDdTECzWcAunJlZUFQApOMzC5LzQWoyiwtSoeoboFigILMiEyTAzMHBAaSEk/NzivKScyqAZvEysDWgaXOAYp7EMkPnRgYekJhRZkEuLLqAgc3M"
    b"yMTMwMTCwtTKzMAMoVggFCuEYmC0y01JBEYkIyPQCQ1CDFycEqL1f5uYpHg5jKzkP9j//3+EYf9jPn/ZBfd3V/xlXFFdaFU7d92rlWuOA9XyFZsz1p4O"
    b"+bLmWuLCruOPJJXzvRrWxopNuLgA1SAbmEGp1mtPX7j8+bhGgcSVa0nlh/7oJK50KniutL9RytGCq3nONMtpU0VTXq7qNdRYm2M/uy5Rdf8SVKOsYUY9"
    b"SPJ4+LBA8PNq8+2eG7g3tWkEKNTffJz9Za/jj2cBhZtu67cFfGpI7dK+oFfyd3q9xjw7/TZUkxyhJm3zLrAye2G65N3zQ7bdiz68Uv3WoNOrs2mfsYKb"
    b"5PNHZ9RXteVm5cyd0FQuNj3TLfPkwUoXNQ8W8zNtUxUAK4TYIg==")


@pytest.mark.parametrize("content", [TEN_BITS, TEN_BITS_ALPHA, GRID], ids=["ten bits", "with alpha", "grid"])
def test_what_pillow_does_not_write(decode, tmp_path, content):
    path = tmp_path / "image.avif"
    path.write_bytes(content)
    assert_same(decode(path), pillow_rgb(path))


# ---------------------------------------------------------------- what is refused

def test_cut_files_are_truncated(runner, tmp_path):
    for options in ({}, {"exif": exif_block(6)}):
        data = avif(tmp_path, with_alpha(smooth_image(61, 37)), **options)
        for length in (12, 40, 150, data.index(b"mdat") - 5, data.index(b"mdat") + 50, len(data) // 2, len(data) - 1):
            assert_refused(runner, tmp_path, data[:length], "truncated, the file ends before the image does")


def test_damaged_files(runner, tmp_path):
    data = avif(tmp_path)
    start = data.index(b"mdat") + 4
    assert_refused(runner, tmp_path, data[:start] + bytes(len(data) - start), "bad AVIF: ")
    assert_refused(runner, tmp_path, data.replace(b"av01", b"av99"), "bad AVIF: no image in it")
    assert_refused(runner, tmp_path, data.replace(b"pitm", b"free"), "bad AVIF: ")


def changed(data, kind, old, new):
    """A file whose box holds other bytes, as many."""
    at = data.index(kind)
    where = data.index(old, at)
    return data[:where] + new + data[where + len(old):]


def with_frames(data, copies, first=False):
    """A file whose image has its only frame again and again, behind all that was there or before the sequence header."""
    boxes = dict(boxes_of(data))
    obus = boxes[b"mdat"]
    place = struct.pack(">HII", 1, data.index(b"mdat") + 4, len(obus))  # of an item that has one extent
    assert obus[:3] == b"\x12\0\x0a" and place in boxes[b"meta"]  # a delimiter, the sequence header, then the frame
    frame = obus[4 + obus[3]:]
    longer = obus[:2] + frame * copies + obus[2:] if first else obus + frame * copies
    return data.replace(place, struct.pack(">HII", 1, len(data) + 8, len(longer))) + box(b"mdat", longer)


def test_frames_are_bounded(runner, decode, tmp_path):
    """An image may hide frames: each takes the time of an image."""
    path = tmp_path / "image.avif"
    data = avif(tmp_path, Image.new("RGB", (2000, 2000)))
    path.write_bytes(with_frames(data, 3))
    assert decode(path).shape == (2000, 2000, 3)
    for first in (False, True):  # a grid's tiles may have the header of another
        assert_refused(runner, tmp_path, with_frames(data, 44, first), "frames have more than the limit of 178956970 pixels")


def test_size_is_checked_first(runner, sanitized, tmp_path):
    """The container's, then what the AV1 says."""
    path = tmp_path / "image.avif"
    data = avif(tmp_path, Image.new("RGB", (300, 200)))
    size = struct.pack(">II", 300, 200)
    for width, height, reason in ((20000, 20000, "too large"), (0, 200, "bad"), (20, 20, "bad AVIF: a frame that is larger than the image"),
                                  (13000, 13000, "MB to decode; the limit is 1130")):
        path.write_bytes(changed(data, b"ispe", size, struct.pack(">II", width, height)))
        done = limited(runner, sanitized, path, 400)
        assert done.returncode == E_DATA and reason in done.stderr.decode(), done.stderr
    path.write_bytes(changed(data, b"ispe", size, struct.pack(">II", 6000, 4000)))  # to which it is scaled
    if not sanitized:  # libavif 0.11, which would end the process, is not started; a later one makes do with less
        assert limited(runner, sanitized, path, 400).returncode in (0, E_NOMEM)
    assert_refused(runner, tmp_path, data, "too large, 300 x 200 is more than the limit of 59999 pixels", "--max-pixels", 59999)


def test_kept_bytes_are_bounded(runner, tmp_path):
    data = avif(tmp_path, with_alpha(smooth_image(64, 64)), subsampling="4:4:4")
    size = struct.pack(">II", 64, 64)
    assert_refused(runner, tmp_path, data.replace(size, struct.pack(">II", 10000, 12000)), "MB to decode; the limit is 1130")


def test_lists_are_bounded(runner, tmp_path):
    """Of a list in the container, libavif's time goes by the square."""
    data = avif(tmp_path)
    meta = dict(boxes_of(data))[b"meta"]
    long = b"".join(box(b"cdsc", struct.pack(">HHH", i % 65536, 1, 1)) for i in range(5000))
    content = meta + box(b"iref", bytes(4), long)
    assert_refused(runner, tmp_path, data.replace(box(b"meta", meta), box(b"meta", content)), "bad AVIF: a list of 70004 bytes")


def test_bytes_are_bounded(runner, tmp_path):
    """40 MB of AV1, be they of one item's extents, all the same."""
    data = avif(tmp_path)
    obus = dict(boxes_of(data))[b"mdat"]
    place = struct.pack(">HII", 1, data.index(b"mdat") + 4, len(obus))
    count = 40_000_000 // len(data) + 1
    extents = struct.pack(">H", count) + struct.pack(">II", 0, len(data)) * count
    meta = dict(boxes_of(data))[b"meta"]
    iloc = dict(boxes_of(meta[4:]))[b"iloc"]
    longer = meta.replace(box(b"iloc", iloc), box(b"iloc", iloc.replace(place, extents)))
    reason = "too large, this AVIF has more than the limit of 40 MB of AV1" if 8 * count < 60000 else "bad AVIF: a list"
    assert_refused(runner, tmp_path, data.replace(box(b"meta", meta), box(b"meta", longer)), reason)
