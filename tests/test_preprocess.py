"""Decoding, EXIF orientation, resizing and cropping against Pillow.

tests/run_fit_image.c prints the pixels that the library makes. They must be Pillow's bytes. PNG is here; other
formats have files of their own, test_jpeg.py, test_bmp.py and test_formats.py. The one deliberate difference from
Pillow's convert("RGB") is
16-bit grey, where Pillow clips at 255 and the library keeps the high byte.
"""

import io
import resource
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from image_files import chunk, png_bytes, random_png
from pixels import (E_DATA, E_NOINPUT, E_USAGE, SEED, assert_same, exif_block, pillow_fit, pillow_rgb,
                    smooth_image)

pytestmark = pytest.mark.filterwarnings("ignore:Palette images with Transparency")  # Pillow's, about dropped alpha


# ---------------------------------------------------------------- PNG

PNG_KINDS = [(color_type, depth, transparent)
             for color_type, depths in ((0, (1, 2, 4, 8, 16)), (2, (8, 16)), (3, (1, 2, 4, 8)), (4, (8, 16)),
                                        (6, (8, 16)))
             for depth in depths
             for transparent in ((False, True) if color_type in (0, 2, 3) else (False,))]


@pytest.mark.parametrize("interlaced", [False, True], ids=["plain", "interlaced"])
@pytest.mark.parametrize("color_type,depth,transparent", PNG_KINDS)
def test_png_kinds(decode, fit, tmp_path, color_type, depth, transparent, interlaced):
    rng = np.random.default_rng([SEED, color_type, depth, transparent, interlaced])
    for number, (width, height) in enumerate([(37, 29), (1, 1), (3, 11), (130, 67)]):
        path = tmp_path / f"{number}.png"
        path.write_bytes(random_png(rng, width, height, depth, color_type, interlaced, transparent))
        assert_same(decode(path), pillow_rgb(path))
        assert_same(fit(path), pillow_fit(pillow_rgb(path)))


def test_png_index_behind_the_palette_is_black(decode, tmp_path):
    path = tmp_path / "short.png"
    path.write_bytes(png_bytes(np.arange(16).reshape(1, 16, 1), 8, 3, palette=bytes(range(10, 40))))
    assert_same(decode(path), pillow_rgb(path))


def test_png_metadata_changes_no_pixel(decode, tmp_path):
    rng = np.random.default_rng(SEED)
    samples = rng.integers(0, 256, (9, 9, 3))
    path = tmp_path / "metadata.png"
    path.write_bytes(png_bytes(samples, 8, 2, before=[
        (b"gAMA", struct.pack(">I", 100000)), (b"sBIT", b"\x05\x06\x05"), (b"cHRM", bytes(32)),
        (b"iCCP", b"broken\0\0not zlib"), (b"tEXt", b"Title\0x"),
        (b"zTXt", b"Comment\0\0" + zlib.compress(bytes(1 << 20))),
        (b"pHYs", struct.pack(">IIB", 1, 2, 0)), (b"bKGD", bytes(6)), (b"prVt", b"unknown")]))
    assert_same(decode(path), samples)


@pytest.mark.parametrize("cut,whole", [(0, True), (4, True), (12, True), (16, False), (40, False), (500, False)])
def test_png_cut_short(runner, tmp_path, cut, whole):
    """Nothing behind the pixel data is missed, here as in Pillow."""
    data = png_bytes(np.random.default_rng(SEED).integers(0, 256, (30, 30, 3)), 8, 2)
    path = tmp_path / "cut.png"
    path.write_bytes(data[:len(data) - cut])
    done = runner("decode", path)
    assert done.returncode == (0 if whole else E_DATA)
    if not whole:
        assert done.stderr.decode() == f"{path}: truncated, the file ends before the image does\n"


# ---------------------------------------------------------------- sizes

def save_random(path, width, height, rng, extreme=False):
    pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    if extreme:  # only black and white, so that bicubic overshoots everywhere
        pixels = np.where(pixels < 128, 0, 255).astype(np.uint8)
    Image.fromarray(pixels).save(path, compress_level=1)


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("width,height", [
    (3, 3), (272, 272), (273, 275), (275, 273), (272, 300), (300, 272), (240, 240), (271, 272), (272, 271),
    (239, 1000), (1000, 239), (544, 544), (500, 375), (375, 500), (1, 40), (40, 1), (2, 5), (404, 845),
    (845, 404), (300, 1200), (263, 582), (2500, 2000), (700, 3000), (3000, 700)])
def test_sizes(fit, tmp_path, width, height, interpolation):
    rng = np.random.default_rng([SEED, width, height])
    path = tmp_path / "image.png"
    for extreme in (False, True):
        save_random(path, width, height, rng, extreme)
        expected = pillow_fit(Image.open(path).convert("RGB"), interpolation=interpolation)
        assert_same(fit(path, interpolation=interpolation), expected)


@pytest.mark.parametrize("length", [5000, 4999, 40001])
@pytest.mark.parametrize("upright", [True, False], ids=["tall", "wide"])
def test_needles(runner, sanitized, tmp_path, upright, length):
    """One pixel wide, 5000 long: whole it would be resized to 272 x 1360000. Along the short side all pixels
    are the same, before and after, so Pillow resizes the long side only and the result is repeated. The
    library gets by with little memory."""
    rng = np.random.default_rng([SEED, length])
    line = rng.integers(0, 256, (length, 3), dtype=np.uint8)
    path = tmp_path / "needle.png"
    Image.fromarray(line[:, None] if upright else line[None]).save(path)
    resized = Image.fromarray(line[:, None]).resize((1, 272 * length), Image.Resampling.BICUBIC)
    top = round((272 * length - 240) / 2.0)
    expected = np.repeat(np.asarray(resized.crop((0, top, 1, top + 240))), 240, axis=1)

    def limit_memory():
        if not sanitized:
            resource.setrlimit(resource.RLIMIT_AS, (100 << 20, 100 << 20))

    done = runner("fit", 272, 240, "bicubic", path, preexec_fn=limit_memory)
    assert done.returncode == 0, done.stderr.decode()
    crop = np.frombuffer(done.stdout, np.uint8).reshape(240, 240, 3)
    assert_same(crop, expected if upright else expected.transpose(1, 0, 2))


@pytest.mark.parametrize("short_side,crop", [(272, 240), (240, 240), (256, 224), (33, 32), (1, 1), (7, 4),
                                             (300, 299)])
def test_seeded_random_sizes(fit, tmp_path, short_side, crop):
    rng = np.random.default_rng([SEED, short_side, crop])
    path = tmp_path / "image.png"
    for _ in range(12):
        width, height = (int(2 ** rng.uniform(0, 10.3)) for _ in range(2))
        if max(width, height) * short_side // min(width, height) > 40000:
            width = height
        interpolation = ("bicubic", "bilinear")[int(rng.integers(2))]
        print(f"{width} x {height}, {interpolation}, seed {SEED}")
        save_random(path, width, height, rng, extreme=bool(rng.integers(2)))
        expected = pillow_fit(Image.open(path).convert("RGB"), short_side, crop, interpolation)
        assert_same(fit(path, short_side, crop, interpolation), expected)


@pytest.mark.parametrize("crop", [240, 64, 600, 33, 1])
def test_squashed(fit, tmp_path, crop):
    """Both sides become the crop's, each by a scale of its own: one may grow while the other shrinks. Which pass comes
    first depends on both."""
    rng = np.random.default_rng([SEED, crop])
    path = tmp_path / "image.png"
    sizes = [(crop, crop), (crop, 3 * crop + 1), (1, 2000), (2000, 1), (crop // 2 + 1, 3 * crop), (3 * crop, crop // 2 + 1)]
    sizes += [tuple(int(2 ** rng.uniform(0, 10.3)) for _ in range(2)) for _ in range(8)]
    for number, (width, height) in enumerate(sizes):
        interpolation = ("bicubic", "bilinear")[number % 2]
        print(f"{width} x {height}, {interpolation}, seed {SEED}")
        save_random(path, width, height, rng, extreme=bool(rng.integers(2)))
        expected = pillow_fit(Image.open(path).convert("RGB"), "squash", crop, interpolation)
        assert_same(fit(path, "squash", crop, interpolation), expected)


@pytest.mark.parametrize("short_side,crop", [(240, 241), (0, 0), (10, 0), (-3, -5), (1 << 20, 16)])
def test_impossible_crops(runner, tmp_path, short_side, crop):
    path = tmp_path / "image.png"
    save_random(path, 5, 5, np.random.default_rng(SEED))
    assert runner("fit", short_side, crop, "bicubic", path).returncode == E_USAGE


# ---------------------------------------------------------------- EXIF

@pytest.mark.parametrize("order", ["<", ">"], ids=["little", "big"])
@pytest.mark.parametrize("orientation", range(0, 10))
def test_exif_in_png(decode, tmp_path, orientation, order):
    samples = np.random.default_rng([SEED, orientation]).integers(0, 256, (45, 70, 3)).astype(np.uint8)
    path = tmp_path / "turned.png"
    block = (b"eXIf", exif_block(orientation, order))
    for where in ({"before": [block]}, {"after": [block]}):
        path.write_bytes(png_bytes(samples, 8, 2, **where))
        assert_same(decode(path), pillow_rgb(path))
        assert_same(decode(path, "--ignore-exif"), samples)
    upright = decode(path)
    assert upright.shape == ((70, 45, 3) if 5 <= orientation <= 8 else (45, 70, 3))




# ---------------------------------------------------------------- files and errors

def test_standard_input(runner, tmp_path):
    path = tmp_path / "image.png"
    save_random(path, 400, 300, np.random.default_rng(SEED))  # more than is read at once
    assert path.stat().st_size > 1 << 17
    piped = runner("decode", "-", input=path.read_bytes())
    assert piped.returncode == 0 and piped.stdout == runner("decode", path).stdout
    done = runner("decode", "-", input=b"")
    assert (done.returncode, done.stderr) == (E_DATA, b"standard input: empty file\n")


def test_format_is_told_by_content(decode, tmp_path):
    path = tmp_path / "image.jpg"
    smooth_image(20, 20).save(path, format="PNG")
    assert_same(decode(path), smooth_image(20, 20))


@pytest.mark.parametrize("name,content,status,reason", [
    ("missing.png", None, E_NOINPUT, "No such file or directory"),
    ("empty.png", b"", E_DATA, "empty file"),
    ("text.png", b"hello, world\n" * 99, E_DATA, "not a PNG, JPEG, BMP, GIF, TGA, PNM, WebP, TIFF or AVIF image"),
    ("zeros.png", bytes(1 << 20), E_DATA, "not a PNG, JPEG, BMP, GIF, TGA, PNM, WebP, TIFF or AVIF image"),
    ("signature.png", b"\x89PNG\r\n\x1a\n", E_DATA, "truncated, the file ends before the image does"),
    ("signature.jpg", b"\xff\xd8\xff", E_DATA, "truncated, the file ends before the image does"),
    ("signature.gif", b"GIF89a", E_DATA, "truncated, the file ends before the image does"),
    ("signature.bmp", b"BM", E_DATA, "truncated, the file ends before the image does"),
    ("signature.ppm", b"P6\n", E_DATA, "truncated, the file ends before the image does"),
    ("short.ppm", b"P6 1000 1000 255\n" + bytes(1000), E_DATA, "truncated, the file ends before the image does"),
    ("zero.ppm", b"P6 0 10 255\n", E_DATA, "bad size, 0 x 10"),
    ("maximum.ppm", b"P6 1 1 0\nabc", E_DATA, "bad PNM: the maximum is 0"),
    ("number.ppm", b"P6 1 x 255\nabc", E_DATA, "bad PNM: a number is expected at byte 5"),
    ("sample.ppm", b"P2 1 1 15\n16\n", E_DATA, "bad PNM: a number above 15"),
    ("large.gif", b"GIF89a\xff\xff\xff\xff\0\0\0,\0\0\0\0\1\0\1\0\0\2", E_DATA,
     "too large, 65535 x 65535 is more than the limit of 178956970 pixels"),
])
def test_bad_files(runner, tmp_path, name, content, status, reason):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    done = runner("decode", path)
    assert (done.returncode, done.stderr.decode()) == (status, f"{path}: {reason}\n")


def test_directory_and_long_name(runner, tmp_path):
    done = runner("decode", tmp_path)
    assert (done.returncode, done.stderr.decode()) == (E_NOINPUT, f"{tmp_path}: Is a directory\n")
    folder = tmp_path
    while len(str(folder)) < 1000:
        folder = folder / ("x" * 200)
    folder.mkdir(parents=True)
    (folder / "image").write_bytes(b"nothing")
    done = runner("decode", folder / "image")
    assert done.returncode == E_DATA and done.stderr.count(b"\n") == 1
    assert b"x/image: not a PNG" in done.stderr, "a long path keeps its end"


@pytest.mark.parametrize("extension", ["png", "jpg", "bmp", "gif", "tga", "ppm"])
def test_pixel_limit(runner, tmp_path, extension):
    path = tmp_path / f"image.{extension}"
    smooth_image(50, 40).save(path)
    assert runner("--max-pixels", 2000, "decode", path).returncode == 0
    done = runner("--max-pixels", 1999, "decode", path)
    assert done.returncode == E_DATA
    assert "too large, 50 x 40 is more than the limit of 1999 pixels" in done.stderr.decode()
    assert runner("--max-pixels", 0, "decode", path).returncode == E_USAGE


def test_size_is_checked_before_memory(runner, tmp_path):
    """Headers that promise a lot: refused by the limit, or cheap until the pixels do not come."""
    path = tmp_path / "huge.png"
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 1 << 30, 1 << 30, 8, 2, 0, 0, 0))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", b"") + chunk(b"IEND", b""))
    assert runner("decode", path).returncode == E_DATA
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 1 << 24, 10, 8, 2, 0, 0, 0))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", b"") + chunk(b"IEND", b""))
    assert runner("decode", path).returncode == E_DATA


@pytest.mark.parametrize("extension,options", [
    ("jpg", {}), ("jpg", {"progressive": True}), ("bmp", {}), ("gif", {}), ("tga", {}),
    ("tga", {"compression": "tga_rle"}), ("ppm", {}), ("png", {})])
def test_truncated(runner, tmp_path, extension, options):
    """Cut anywhere before the pixels' end, a file is bad data, never an image."""
    whole = io.BytesIO()
    smooth_image(40, 30).save(whole, format={"jpg": "JPEG", "tga": "TGA", "ppm": "PPM"}.get(extension, extension),
                              **options)
    data = whole.getvalue()
    if extension == "tga":
        data = data[:-26]  # the footer
    tail = {"png": 16, "gif": 5}.get(extension, 1)
    path = tmp_path / f"cut.{extension}"
    for length in [*range(1, 40), *range(40, len(data) - tail, max(1, len(data) // 25)), len(data) - tail]:
        path.write_bytes(data[:length])
        done = runner("decode", path)
        assert done.returncode == E_DATA, (length, len(data))
        assert done.stderr.decode().startswith(f"{path}: ") and done.stderr.count(b"\n") == 1
