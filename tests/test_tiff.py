"""TIFF, through libtiff where the build has it. The reference is Pillow, which brings a libtiff of its own."""

import io
import lzma
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from image_files import tiff_bytes
from pixels import E_DATA, SEED, assert_refused, assert_same, pillow_rgb, smooth_image
from test_formats import limited

GREY_WHITE_FIRST, GREY, RGB, PALETTE, INKS, YCBCR, LAB = 0, 1, 2, 3, 5, 6, 8
NONE, JPEG, DEFLATE, LZMA, WEBP = 1, 7, 8, 34925, 50001


@pytest.fixture(autouse=True)
def needs_libtiff(has_libtiff):
    if not has_libtiff:
        pytest.skip("this build is without libtiff")


def deflate(_block, data):
    return zlib.compress(data)


def by_pillow(format_, **options):
    """A strip's or tile's pixels as a file of that format."""
    def pack(block, _data):
        buffer = io.BytesIO()
        pixels = block.astype(np.uint8)
        Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels).save(buffer, format_, **options)
        return buffer.getvalue()
    return pack


def noise(bits, channels=1, width=37, height=45):
    return np.random.default_rng(SEED + bits).integers(0, 1 << bits, (height, width, channels))


def rgb_tiff(**options):
    return tiff_bytes(np.asarray(smooth_image(37, 45)), 8, RGB, **options)


@pytest.fixture
def same(decode_all, tmp_path):
    """Asserts that the library decodes files, each of bytes or saved by a function, as Pillow does."""
    def check(*contents):
        paths = []
        for number, content in enumerate(contents):
            paths.append(tmp_path / f"{number}.tif")
            if callable(content):
                content(paths[-1])
            else:
                paths[-1].write_bytes(content)
        for path, pixels in zip(paths, decode_all(paths)):
            assert_same(pixels, pillow_rgb(path))
    return check


# photometric interpretation, channels, bits, extra samples
KINDS = [(GREY_WHITE_FIRST, 1, 8, ()), (GREY, 1, 8, ()), (GREY, 1, 16, ()), (GREY, 2, 8, (2,)), (RGB, 3, 8, ()), (RGB, 3, 16, ()),
         (RGB, 4, 8, (0,)), (RGB, 4, 8, (1,)), (RGB, 4, 8, (2,)), (RGB, 4, 16, (1,)), (RGB, 4, 16, (2,)), (INKS, 4, 8, ()),
         (INKS, 4, 16, ()), (PALETTE, 1, 8, ()), (PALETTE, 1, 4, ()), (PALETTE, 2, 8, (2,))]
PACKED_KINDS = [(RGB, 4, 8, ()), (RGB, 5, 8, (2, 0)), (INKS, 5, 8, (0,)), (GREY, 2, 8, (0,)), (GREY_WHITE_FIRST, 1, 1, ()), (GREY, 1, 1, ()),
                (GREY, 1, 2, ()), (GREY_WHITE_FIRST, 1, 4, ()), (PALETTE, 1, 2, ()), (PALETTE, 1, 1, ())]


def every_kind(order, big, planes, geometry):
    """Pillow reads planes rightly where they are compressed."""
    for photometric, channels, bits, extra in KINDS + ([] if planes else PACKED_KINDS):
        palette = np.random.default_rng(SEED).integers(0, 65536, 3 << bits).tolist() if photometric == PALETTE else None
        for pack in [deflate] if planes else [None, deflate]:
            yield tiff_bytes(noise(bits, channels), bits, photometric, order, big, planes, extra=extra, palette=palette,
                             pack=pack, compression=DEFLATE if pack else NONE, **geometry)


@pytest.mark.parametrize("geometry", [{}, {"rows": 7}, {"tile": (16, 32)}], ids=["one strip", "strips", "tiles"])
@pytest.mark.parametrize("order,big", [("<", False), (">", False), ("<", True)])
@pytest.mark.parametrize("planes", [False, True], ids=["packed", "planes"])
def test_kinds(same, order, big, planes, geometry):
    same(*every_kind(order, big, planes, geometry))


def test_big_endian_bigtiff(decode_all, tmp_path):
    """Which Pillow does not recognise."""
    paths = [tmp_path / "classic.tif", tmp_path / "big.tif"]
    for contents in zip(every_kind(">", False, False, {}), every_kind(">", True, False, {})):
        for path, content in zip(paths, contents):
            path.write_bytes(content)
        classic, big = decode_all(paths)
        assert_same(big, classic)


def test_uncompressed_planes(decode, tmp_path):
    """Pillow takes planes of 16 bits for such of 8 where they are not compressed."""
    path = tmp_path / "image.tif"
    for geometry in ({}, {"rows": 7}, {"tile": (16, 32)}):
        samples = noise(16, 3)
        path.write_bytes(tiff_bytes(samples, 16, RGB, planes=True, **geometry))
        assert_same(decode(path), samples >> 8)


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("bits", [12, 16])
def test_deep_grey(decode, tmp_path, order, bits):
    """The upper eight bits. Pillow's convert("RGB") clips at 255, and does not invert."""
    samples = noise(bits)
    for photometric in (GREY_WHITE_FIRST, GREY):
        path = tmp_path / "image.tif"
        path.write_bytes(tiff_bytes(samples, bits, photometric, order))
        grey = samples >> (bits - 8)
        assert_same(decode(path), np.repeat(grey if photometric else 255 - grey, 3, axis=2))


def test_multiplied_grey(decode, tmp_path):
    """As colours are divided by alpha; Pillow does not make RGB of such a file."""
    path = tmp_path / "image.tif"
    samples = noise(8, 2)
    path.write_bytes(tiff_bytes(samples, 8, GREY, extra=(1,)))
    grey = decode(path)
    path.write_bytes(tiff_bytes(samples[:, :, [0, 0, 0, 1]], 8, RGB, extra=(1,)))
    assert_same(grey, pillow_rgb(path))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16"])
@pytest.mark.parametrize("compression", ["raw", "tiff_lzw", "tiff_adobe_deflate", "tiff_deflate", "packbits", "lzma", "zstd"])
def test_compressions(same, mode, compression):
    if mode == "I;16":
        image = Image.fromarray((noise(16, width=200, height=151)[:, :, 0]).astype(np.uint16))
    else:
        image = smooth_image(200, 151).convert(mode)
    rows, differences = {278: 20}, {317: 2}
    plain = compression in ("raw", "packbits") or mode == "1"
    same(*(lambda path, tags=tags: image.save(path, "TIFF", compression=compression, tiffinfo=tags)
           for tags in ({}, rows, {} if plain else differences)))


@pytest.mark.parametrize("compression", ["tiff_ccitt", "group3", "group4"])
def test_fax(same, compression):
    image = smooth_image(200, 151).convert("L").point(lambda value: 255 * (value > 128)).convert("1")
    same(*(lambda path, inverted=inverted: image.save(path, "TIFF", compression=compression, tiffinfo={262: inverted})
           for inverted in (0, 1)))


@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("geometry", [{}, {"rows": 16}, {"tile": (32, 16)}], ids=["one strip", "strips", "tiles"])
def test_jpeg(same, subsampling, geometry):
    """With tables of its own in each strip or tile; libtiff makes RGB of YCbCr."""
    factors = [(1, 1), (2, 1), (2, 2)][subsampling]
    packs = [by_pillow("JPEG", quality=80, subsampling=subsampling, progressive=way) for way in (False, True)]
    same(*(tiff_bytes(np.asarray(smooth_image(70, 45)), 8, YCBCR, compression=JPEG, pack=pack, tags=[(530, "H", factors)],
                      **geometry) for pack in packs))


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK", "YCbCr"])
def test_jpeg_with_shared_tables(same, mode):
    image = smooth_image(200, 151).convert(mode)
    same(*(lambda path, options=options: image.save(path, "TIFF", compression="jpeg", **options)
           for options in ({}, {"quality": 20, "tiffinfo": {278: 16}})))


@pytest.mark.parametrize("options", [{"lossless": True}, {"quality": 70}], ids=str)
def test_webp(decode, tmp_path, options):
    """Pillow's libtiff does not read it; Pillow itself does."""
    image, path = smooth_image(70, 45), tmp_path / "image.tif"
    path.write_bytes(tiff_bytes(np.asarray(image), 8, RGB, compression=WEBP, pack=by_pillow("WEBP", **options)))
    image.save(tmp_path / "image.webp", **options)
    assert_same(decode(path), pillow_rgb(tmp_path / "image.webp"))


@pytest.mark.parametrize("bits", [1, 8])
def test_fill_order(same, bits):
    def reversed_bits(block, data):
        return bytes(int(f"{byte:08b}"[::-1], 2) for byte in deflate(block, data))
    same(*(tiff_bytes(noise(bits), bits, GREY, tags=[(266, "H", [2])], pack=pack, compression=compression)
           for pack, compression in ((None, NONE), (reversed_bits, DEFLATE))))


def test_orientation(same, runner, tmp_path):
    """The tag's; XMP's where there is none."""
    xmp = b'<x tiff:Orientation="%d"/>'
    same(*(rgb_tiff(big=big, tags=tags) for big in (False, True) for orientation in range(1, 9)
           for tags in ([(274, "H", [orientation]), (700, "B", xmp % 3)], [(700, "B", xmp % orientation)])))
    (tmp_path / "image.tif").write_bytes(rgb_tiff(tags=[(274, "H", [6])]))
    for options, size in ((["--ignore-exif"], b"37 45\n"), ([], b"45 37\n")):
        assert runner(*options, "decode", tmp_path / "image.tif").stdout.startswith(size)


def test_first_page(same):
    pages = [smooth_image(width, 20, width) for width in (30, 40, 50)]
    same(*(lambda path, compression=compression: pages[0].save(path, "TIFF", compression=compression, save_all=True,
                                                               append_images=pages[1:])
           for compression in ("raw", "tiff_lzw")))


@pytest.mark.parametrize("channels,photometric,extra,planes", [(4, RGB, 2, False), (4, RGB, 1, False), (4, RGB, 2, True),
                                                               (4, RGB, 1, True), (2, GREY, 2, False)])
def test_background(decode, tmp_path, channels, photometric, extra, planes):
    path = tmp_path / "image.tif"
    path.write_bytes(tiff_bytes(noise(8, channels, width=300), 8, photometric, planes=planes, extra=(extra,), pack=deflate,
                                compression=DEFLATE))
    with Image.open(path) as image:
        over = Image.alpha_composite(Image.new("RGBA", image.size, (12, 130, 201, 255)), image.convert("RGBA")).convert("RGB")
    assert_same(decode(path, "--background", "0c82c9"), over)


def test_alpha_of_few_bits(decode, tmp_path):
    path = tmp_path / "image.tif"
    samples = noise(2, 2)
    path.write_bytes(tiff_bytes(samples, 2, GREY, extra=(2,)))
    grey, alpha = samples[:, :, :1] * 85, samples[:, :, 1:] * 85
    assert_same(decode(path, "--background", "ffffff"), np.repeat((grey * alpha + 255 * (255 - alpha) + 127) // 255, 3, axis=2))


@pytest.mark.parametrize("planes", [False, True], ids=["packed", "planes"])
def test_colours_of_few_bits(decode_all, tmp_path, planes):
    """Pillow reads those of 8 and 16 bits alone. The largest sample is 255, whatever its bits."""
    paths, wanted = [], []
    for bits in (1, 2, 4, 12):
        for photometric, channels in ((RGB, 3), (INKS, 4)):
            samples = noise(bits, channels)
            paths.append(tmp_path / f"{bits}-{channels}.tif")
            paths[-1].write_bytes(tiff_bytes(samples, bits, photometric, planes=planes))
            full = samples >> 4 if bits == 12 else samples * 255 // ((1 << bits) - 1)
            wanted.append(full if photometric == RGB else ((255 - full[:, :, :3]) * (255 - full[:, :, 3:]) + 127) // 255)
    for pixels, expected in zip(decode_all(paths), wanted):
        assert_same(pixels, expected)


# ---------------------------------------------------------------- what is refused

FORMAT = 339  # of samples


@pytest.mark.parametrize("content,reason", [
    (lambda: tiff_bytes(noise(16), 16, GREY, tags=[(FORMAT, "H", [3])]), "floating point of 16 bits, which is not read"),
    (lambda: tiff_bytes(noise(8), 8, GREY, tags=[(FORMAT, "H", [2])]), "signed numbers of 8 bits, which is not read"),
    (lambda: tiff_bytes(noise(8), 8, GREY, tags=[(FORMAT, "H", [4])]), "something unknown of 8 bits, which is not read"),
    (lambda: tiff_bytes(noise(8), 8, GREY, tags=[(258, "H", [6])]), "samples of 6 bits, which is not read"),
    (lambda: tiff_bytes(noise(8), 8, GREY, tags=[(258, "H", [32])]), "samples of 32 bits, which is not read"),
    (lambda: rgb_tiff(tags=[(262, "H", [LAB])]), "photometric interpretation 8, which is not read"),
    (lambda: rgb_tiff(tags=[(262, "H", [YCBCR])]), "YCbCr that is not JPEG, which is not read"),
    (lambda: rgb_tiff(tags=[(259, "H", [6])]), "compression 6, which is not read"),
    (lambda: rgb_tiff(tags=[(259, "H", [34661])]), "compression 34661, which is not read"),
    (lambda: tiff_bytes(noise(8), 8, RGB), "bad TIFF: 1 samples a pixel of photometric interpretation 2"),
    (lambda: tiff_bytes(noise(16), 16, PALETTE, palette=[0] * (3 << 16)), "bad TIFF: no palette for samples of 16 bits"),
    (lambda: rgb_tiff(tags=[(258, "H", [8, 8, 16])]), "bad TIFF: "),
    (lambda: b"II*\0\x08\0\0\0\0\0\0\0\0\0", "bad TIFF: "),
])
def test_refused(runner, tmp_path, content, reason):
    assert_refused(runner, tmp_path, content(), reason)


@pytest.mark.parametrize("big", [False, True], ids=["classic", "big"])
@pytest.mark.parametrize("options", [{}, {"rows": 7}, {"tile": (16, 32)}, {"compression": DEFLATE, "pack": deflate}],
                         ids=["strip", "strips", "tiles", "deflate"])
def test_cut_files_are_truncated(runner, tmp_path, big, options):
    """The directory comes behind the pixels."""
    data = rgb_tiff(big=big, **options)
    for length in (4, 8, 15, len(data) // 2, len(data) - 100, len(data) - 30):
        assert_refused(runner, tmp_path, data[:length], "truncated, the file ends before the image does")


def test_cut_files_with_the_directory_first(runner, tmp_path):
    smooth_image(37, 45).save(tmp_path / "first.tif")
    data = (tmp_path / "first.tif").read_bytes()
    for length in (8, 9, 20, 100, 135, 139, len(data) // 2, len(data) - 1):
        assert_refused(runner, tmp_path, data[:length], "truncated, the file ends before the image does")


def test_damaged_strips(runner, tmp_path):
    def short(_block, data):
        return zlib.compress(data)[:-200]
    assert_refused(runner, tmp_path, rgb_tiff(compression=DEFLATE, pack=short), "bad TIFF: ")


# ---------------------------------------------------------------- what a small file may cost

def declared(**numbers):
    """A tiny file that declares something large."""
    tags = {"width": 256, "height": 257, "rows": 278, "tile_width": 322, "tile_height": 323}
    return [(tags[name], "I", [number]) for name, number in numbers.items()]


@pytest.mark.parametrize("options,reason", [
    ({"tags": declared(width=100000, height=100000)}, "too large, 100000 x 100000 is more than the limit"),
    ({"tags": declared(width=1 << 31)}, "too large"), ({"tags": declared(height=0)}, "bad TIFF: "),
    ({"tile": (16, 16), "tags": declared(tile_width=65536, tile_height=65536)}, "takes 12885 MB to decode; the limit is 1130"),
    ({"tile": (16, 16), "tags": declared(tile_width=1 << 31, tile_height=1 << 31)}, "bad TIFF: "),
    ({"tags": declared(width=10, height=300000, rows=1)}, "too large, this TIFF has 300000 strips or tiles; the limit is 262144"),
    ({"tags": [(277, "H", [65535]), (258, "H", [8] * 65535), *declared(width=4000)]}, "too large, its rows unpack to"),
], ids=["sides", "side", "no side", "tiles", "larger tiles", "strips", "samples"])
def test_size_is_checked_first(runner, sanitized, tmp_path, options, reason):
    path = tmp_path / "image.tif"
    path.write_bytes(rgb_tiff(**options))
    done = limited(runner, sanitized, path)
    assert done.returncode == E_DATA and reason in done.stderr.decode(), done.stderr


def shared(data, strips):
    """A file of so many strips of a row, all of which are `data`."""
    return tiff_bytes(np.zeros((strips, 8, 1), int), 8, GREY, rows=1, compression=DEFLATE,
                      pack=lambda block, _, first=[data]: first.pop() if first else b"",
                      tags=[(273, "I", [8] * strips), (279, "I", [len(data)] * strips)])


def test_strips_may_not_overlap_much(runner, decode, tmp_path):
    """Equal strips may share their bytes, but not so that a file costs many times its size."""
    path = tmp_path / "image.tif"
    path.write_bytes(shared(zlib.compress(bytes(range(8))), 20))
    assert_same(decode(path), np.tile(np.arange(8)[None, :, None], (20, 1, 3)))
    empty = b"\0\0\0\xff\xff" * 800000  # a block of deflate that gives nothing
    assert_refused(runner, tmp_path, shared(b"\x78\x9c" + empty, 20), "bad TIFF: its strips or tiles overlap")


def test_directory_is_bounded(runner, decode, tmp_path):
    """Its entries are many, or claim the same bytes over and over."""
    many = [(58000 + i, "I", [i]) for i in range(4100)]
    assert_refused(runner, tmp_path, rgb_tiff(tags=many), "bad TIFF: a directory of 41")
    path = tmp_path / "image.tif"
    path.write_bytes(rgb_tiff(tags=many[:4000]))
    assert_same(decode(path), smooth_image(37, 45))
    entries = b"".join(struct.pack("<HHII", 58000 + i, 1, 1 << 20, 8) for i in range(4000))
    assert_refused(runner, tmp_path, b"II*\0" + struct.pack("<IH", 8, 4000) + entries + bytes(1 << 20),
                   "too large, this TIFF's directory takes 37748 MB")


def test_jpeg_scans_are_bounded(runner, tmp_path):
    samples = np.zeros((2048, 2048, 1), int)

    def many_scans(block, data):
        jpeg = by_pillow("JPEG", progressive=True)(block, data)
        last = jpeg.rindex(b"\xff\xda")
        return jpeg[:last] + jpeg[last:-2] * 500 + jpeg[-2:]
    assert_refused(runner, tmp_path, tiff_bytes(samples, 8, GREY, compression=JPEG, pack=many_scans),
                   "has JPEG streams of many scans")

    def arithmetic(block, data):
        return by_pillow("JPEG")(block, data).replace(b"\xff\xc0", b"\xff\xc9")
    assert_refused(runner, tmp_path, tiff_bytes(samples, 8, GREY, compression=JPEG, pack=arithmetic), "arithmetically coded JPEG")


def test_what_lzma_keeps_is_counted(runner, tmp_path):
    """As much as the strip has, beside the image."""
    data = rgb_tiff(compression=LZMA, pack=lambda *_: lzma.compress(b""), tags=declared(width=16000, height=13000, rows=13000))
    assert_refused(runner, tmp_path, data, "MB to decode; the limit is 1130", "--max-pixels", "300000000")
