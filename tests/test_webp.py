"""WebP, through libwebp where the build has it. The reference is Pillow, which brings a libwebp of its own."""

import struct

import numpy as np
import pytest
from PIL import Image

from pixels import E_DATA, SEED, assert_same, exif_block, pillow_rgb, smooth_image


@pytest.fixture(autouse=True)
def needs_libwebp(has_libwebp):
    if not has_libwebp:
        pytest.skip("this build is without libwebp")


def riff(*chunks):
    body = b"WEBP" + b"".join(name + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2)
                              for name, data in chunks)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def chunks_of(data):
    """[(name, content)] of a WebP file."""
    found, at = [], 12
    while at < len(data):
        size, = struct.unpack_from("<I", data, at + 4)
        found.append((data[at:at + 4], data[at + 8:at + 8 + size]))
        at += 8 + size + size % 2
    return found


def with_alpha(image, seed=SEED):
    rng = np.random.default_rng(seed)
    image = image.convert("RGBA")
    image.putalpha(Image.fromarray(rng.integers(0, 256, (image.height, image.width), dtype=np.uint8)))
    return image


@pytest.mark.parametrize("options", [
    {"quality": 80}, {"quality": 5}, {"quality": 100, "method": 0}, {"lossless": True}, {"lossless": True, "quality": 100},
    {"lossless": True, "exact": True}], ids=str)
@pytest.mark.parametrize("alpha", [False, True], ids=["opaque", "alpha"])
def test_pixels_are_pillows(decode, tmp_path, options, alpha):
    path = tmp_path / "image.webp"
    for width, height in [(1, 1), (2, 3), (17, 16), (61, 37), (200, 151), (500, 375)]:
        image = smooth_image(width, height, width)
        (with_alpha(image) if alpha else image).save(path, **options)
        assert_same(decode(path), pillow_rgb(path))


def test_palettes(decode, tmp_path):
    """Few colours, which a lossless file packs several to a byte."""
    path = tmp_path / "image.webp"
    for colours in (2, 4, 16, 200):
        smooth_image(77, 31, colours).quantize(colours).convert("RGB").save(path, lossless=True)
        assert_same(decode(path), pillow_rgb(path))


@pytest.mark.parametrize("lossless", [False, True], ids=["lossy", "lossless"])
def test_background(decode, tmp_path, lossless):
    path = tmp_path / "image.webp"
    with_alpha(smooth_image(61, 37)).save(path, lossless=lossless, exact=True)
    with Image.open(path) as image:
        expected = Image.alpha_composite(Image.new("RGBA", image.size, (12, 130, 201, 255)), image).convert("RGB")
    assert_same(decode(path, "--background", "0c82c9"), expected)


@pytest.mark.parametrize("lossless", [False, True], ids=["lossy", "lossless"])
def test_animation(decode, tmp_path, lossless):
    path = tmp_path / "image.webp"
    first, second = (smooth_image(50, 40, seed) for seed in (1, 2))
    first.save(path, save_all=True, append_images=[second], lossless=lossless, duration=50)
    assert_same(decode(path), pillow_rgb(path))


@pytest.mark.parametrize("alpha", [0, 0x10], ids=["opaque", "alpha"])
def test_frame_on_a_larger_canvas(decode, tmp_path, alpha):
    still = tmp_path / "still.webp"
    smooth_image(20, 12).save(still)
    frame = struct.pack("<I", 6 // 2)[:3] + struct.pack("<I", 4 // 2)[:3] + b"\x13\0\0" + b"\x0b\0\0" + b"\x32\0\0\0"
    content, = (data for name, data in chunks_of(still.read_bytes()) if name == b"VP8 ")
    content += b"\0" * (len(content) % 2)
    frame += b"VP8 " + struct.pack("<I", len(content)) + content
    path = tmp_path / "image.webp"
    path.write_bytes(riff((b"VP8X", bytes([2 | alpha, 0, 0, 0]) + b"\x31\0\0" + b"\x27\0\0"), (b"ANIM", bytes(6)),
                          (b"ANMF", frame)))
    assert_same(decode(path), pillow_rgb(path))
    over = decode(path, "--background", "ffffff")
    assert over[0, 0].tolist() == [255 if alpha else 0] * 3


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation(decode, tmp_path, orientation):
    """EXIF's; XMP's where EXIF is silent; neither where VP8X does not announce it."""
    path = tmp_path / "image.webp"
    smooth_image(41, 27).save(path, exif=b"Exif\0\0" + exif_block(orientation))
    assert_same(decode(path), pillow_rgb(path))
    chunks = chunks_of(path.read_bytes())
    chunks[0] = (b"VP8X", bytes([0]) + chunks[0][1][1:])
    path.write_bytes(riff(*chunks))
    assert_same(decode(path), pillow_rgb(path))
    smooth_image(41, 27).save(path, xmp=b'<x tiff:Orientation="%d"/>' % orientation)
    assert_same(decode(path), pillow_rgb(path))


@pytest.mark.parametrize("options", [{}, {"lossless": True}, {"exif": exif_block(6)}], ids=["lossy", "lossless", "extended"])
def test_cut_files_are_truncated(runner, tmp_path, options):
    whole = tmp_path / "whole.webp"
    smooth_image(61, 37).save(whole, **options)
    data = whole.read_bytes()
    for length in (12, 16, 25, 30, len(data) // 2, len(data) - 2):
        path = tmp_path / f"{length}.webp"
        path.write_bytes(data[:length])
        done = runner("decode", path)
        assert done.returncode == E_DATA and b"truncated" in done.stderr, (length, done.stderr)


def test_size_is_checked_first(runner, tmp_path):
    """A canvas of 2^48 pixels in 30 bytes."""
    path = tmp_path / "image.webp"
    path.write_bytes(riff((b"VP8X", b"\x10\0\0\0" + b"\xff" * 6)))
    done = runner("decode", path)
    assert done.returncode == E_DATA and b"too large" in done.stderr


@pytest.mark.parametrize("size", range(5))
def test_header_of_its_own_end(runner, tmp_path, size):
    """The RIFF header says that the file ends within it, or right behind."""
    path = tmp_path / "image.webp"
    data = riff((b"VP8X", bytes(10)), (b"ANMF", bytes(16)))
    path.write_bytes(data[:4] + struct.pack("<I", size) + data[8:])
    done = runner("decode", path)
    assert done.returncode == E_DATA and b"bad WebP" in done.stderr


# ---------------------------------------------------------------- what a lossless file may cost


def number(value, count):
    """As bits, the lowest first."""
    return [value >> i & 1 for i in range(count)]


def code_of_bytes():
    """A prefix code: the first 256 symbols have 8 bits each, their own, the highest first; the others none."""
    lengths = [int(kind == 8) for kind in (17, 18, 0, 1, 2, 3, 4, 5, 16, 6, 7, 8)]  # of the code of lengths
    return [0, *number(len(lengths) - 4, 4), *(bit for one in lengths for bit in number(one, 3)),
            1, *number(3, 3), *number(256 - 2, 8)]


def code_of_one(symbol):
    return [1, 0, 1, *number(symbol, 8)]


def lossless_file(width, height, groups):
    """As far as the image that says which of the groups codes each tile of 4 x 4; what follows is missing."""
    tiles = np.arange(-(-width // 4) * -(-height // 4)) % groups
    green_red = np.stack([tiles & 255, tiles >> 8], axis=1).astype(np.uint8)
    start = [*number(0x2f, 8), *number(width - 1, 14), *number(height - 1, 14), *number(0, 4),
             0, 0, 1, *number(0, 3), 0, *code_of_bytes(), *code_of_bytes(), *code_of_one(0), *code_of_one(255),
             *code_of_one(0)]
    bits = np.concatenate([np.array(start, np.uint8), np.unpackbits(green_red)])
    return riff((b"VP8L", np.packbits(bits, bitorder="little").tobytes() + bytes(8)))


@pytest.mark.parametrize("width, height, groups, reason", [
    (1024, 1024, 1 << 16, "too large, this WebP of 1024 x 1024 takes 1357 MB to decode"),
    (16000, 760, 65, "too complex, this WebP of 65 groups of codes changes 3040000 times from one to another"),
    (16000, 760, 64, "damaged or do not all come"),
    (16000, 748, 65, "damaged or do not all come"),
])
def test_tables_and_changes_are_limited(runner, tmp_path, width, height, groups, reason):
    path = tmp_path / "image.webp"
    path.write_bytes(lossless_file(width, height, groups))
    done = runner("decode", path)
    assert done.returncode == E_DATA and reason in done.stderr.decode(), done.stderr


def test_damage_before_the_tiles_is_told(runner, tmp_path):
    path = tmp_path / "image.webp"
    data = lossless_file(64, 64, 9)
    for length in range(26, len(data) - 8, 20):
        path.write_bytes(riff((b"VP8L", data[20:length])))
        done = runner("decode", path)
        assert done.returncode == E_DATA and b"damaged or do not all come" in done.stderr, (length, done.stderr)
