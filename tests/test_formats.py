"""GIF, TGA, PNM, transparency, orientation and limits; PNG's kinds and JPEG are in test_preprocess.py, BMP in
test_bmp.py. The reference is Pillow wherever it reads a file."""

import itertools
import os
import resource
import struct
import subprocess
import zlib

import numpy as np
import pytest
from PIL import Image

from image_files import ADAM7, CHANNELS, chunk, gif_bytes, png_bytes, random_png
from pixels import E_DATA, SEED, assert_same, exif_block, pillow_fit, pillow_rgb, smooth_image

pytestmark = pytest.mark.filterwarnings("ignore:Palette images with Transparency")  # Pillow's, about dropped alpha


# ---------------------------------------------------------------- BMP, GIF, TGA, PNM

@pytest.mark.parametrize("extension,mode", [
    (extension, mode) for extension in ("bmp", "tga", "ppm") for mode in ("RGB", "L", "P", "1", "RGBA")
    if (extension, mode) not in (("ppm", "P"), ("tga", "1"))])  # no such kind
@pytest.mark.parametrize("width,height", [(64, 48), (61, 37), (1, 1), (3, 50)])
def test_saved_by_pillow(decode, fit, tmp_path, extension, mode, width, height):
    path = tmp_path / f"image.{extension}"
    image = smooth_image(width, height).convert(mode)
    if mode == "RGBA":
        image.putalpha(Image.fromarray(np.full((height, width), 77, np.uint8)))
    image.save(path)
    assert_same(decode(path), pillow_rgb(path))
    assert_same(fit(path), pillow_fit(pillow_rgb(path)))


@pytest.mark.parametrize("interlaced", [False, True], ids=["plain", "interlaced"])
@pytest.mark.parametrize("mode", ["P", "L", "1"])
def test_gif(decode, fit, tmp_path, mode, interlaced):
    path = tmp_path / "image.gif"
    for width, height in [(200, 150), (1, 1), (7, 3), (63, 41)]:
        smooth_image(width, height).convert(mode).save(path, interlace=interlaced)
        assert_same(decode(path), pillow_rgb(path))
        assert_same(fit(path), pillow_fit(pillow_rgb(path)))


def test_gif_transparent_and_animated(decode, tmp_path):
    """Transparency is dropped, and of an animation the first frame counts."""
    path = tmp_path / "image.gif"
    first, second = (smooth_image(50, 40, seed).quantize(16) for seed in (1, 2))
    first.save(path, save_all=True, append_images=[second], transparency=3, duration=50, loop=0)
    assert_same(decode(path), pillow_rgb(path))


@pytest.mark.parametrize("clears", [True, False], ids=["cleared", "full_table"])
@pytest.mark.parametrize("bits", [1, 2, 5, 8])
def test_gif_codes(decode, tmp_path, bits, clears):
    """Noise long enough to fill the code table several times over."""
    rng = np.random.default_rng([SEED, bits])
    indices = rng.integers(0, 1 << bits, (220, 230))
    palette = rng.integers(0, 256, 3 << bits, dtype=np.uint8)
    path = tmp_path / "image.gif"
    path.write_bytes(gif_bytes(indices, (230, 220), bits=bits, palette=palette.tobytes(), clears=clears))
    assert_same(decode(path), palette.reshape(-1, 3)[indices])
    assert_same(decode(path), pillow_rgb(path))


@pytest.mark.parametrize("transparent", [None, 0, 7])
@pytest.mark.parametrize("interlaced", [False, True], ids=["plain", "interlaced"])
@pytest.mark.parametrize("local", [False, True], ids=["global", "local"])
@pytest.mark.parametrize("screen,corner", [((40, 30), (0, 0)), ((60, 50), (7, 9)), ((20, 20), (3, 4))])
def test_gif_frames(decode, tmp_path, screen, corner, local, interlaced, transparent):
    """Frames smaller than the screen and sticking out of it, and both kinds of palette."""
    rng = np.random.default_rng(SEED)
    tables = [rng.integers(0, 256, 3 << 4, dtype=np.uint8).tobytes() for _ in range(2)]
    indices = rng.integers(0, 16, (30, 40))
    path = tmp_path / "image.gif"
    path.write_bytes(gif_bytes(indices, screen, corner, 4, tables[0], tables[1] if local else None, transparent,
                               interlaced=interlaced))
    assert_same(decode(path), pillow_rgb(path))


@pytest.mark.parametrize("maximum", [1, 3, 100, 255, 256, 1023, 65535])
@pytest.mark.parametrize("kind", [2, 3, 5, 6])
def test_pnm_maxima(decode, tmp_path, kind, maximum):
    """As Pillow reads them; of 16-bit grey, which it scales to 65535 and would clip, the high byte is kept."""
    rng = np.random.default_rng([SEED, kind, maximum])
    channels = 3 if kind % 3 == 0 else 1
    samples = rng.integers(0, maximum + 1, (11, 13, channels))
    header = f"P{kind}\n# a comment\n13 # another\n11\n{maximum}\n".encode()
    if kind < 4:
        body = " ".join(map(str, samples.reshape(-1))).encode() + b"\n"
    else:
        body = samples.astype(">u2" if maximum > 255 else np.uint8).tobytes()
    path = tmp_path / "image.pnm"
    path.write_bytes(header + body)
    if channels == 1 and maximum > 255:
        scaled = (np.round(samples / maximum * 65535).astype(int) >> 8).astype(np.uint8)
    else:
        scaled = np.round(samples / maximum * 255).astype(np.uint8)
    assert_same(decode(path), np.repeat(scaled, 3 // channels, axis=2))
    assert_same(decode(path), pillow_rgb(path))


@pytest.mark.parametrize("kind", [1, 4])
def test_pbm(decode, tmp_path, kind):
    bits = np.random.default_rng([SEED, kind]).integers(0, 2, (9, 19))
    if kind == 1:
        body = b"\n".join(b"".join(b"%d" % bit for bit in row) for row in bits) + b"# end\n"
    else:
        body = np.packbits(bits.astype(np.uint8), axis=1).tobytes()
    path = tmp_path / "image.pbm"
    path.write_bytes(b"P%d 19 9\n" % kind + body)
    assert_same(decode(path), pillow_rgb(path))


def test_gif_codes_wider_than_the_palette(decode, tmp_path):
    """A file may tell more bits than its palette needs, up to 12; none at all means one colour."""
    rng = np.random.default_rng(SEED)
    palette = rng.integers(0, 256, 3 << 4, dtype=np.uint8).tobytes()
    path = tmp_path / "image.gif"
    for bits, clears in itertools.product(range(5, 12), (True, False)):
        indices = rng.integers(0, 16, (90, 80))
        path.write_bytes(gif_bytes(indices, (80, 90), bits=4, palette=palette, clears=clears, code_bits=bits))
        assert_same(decode(path), np.frombuffer(palette, np.uint8).reshape(-1, 3)[indices])
        assert_same(decode(path), pillow_rgb(path))


@pytest.mark.parametrize("local", [False, True], ids=["global", "local"])
def test_gif_grey_palette(decode, tmp_path, local):
    """A palette of greys that are their own indices is none, for Pillow: index 200 is grey 200."""
    palette = b"".join(bytes([i, i, i]) for i in range(16))
    indices = np.random.default_rng(SEED).integers(0, 256, (9, 20))
    path = tmp_path / "image.gif"
    path.write_bytes(gif_bytes(indices, (20, 9), bits=4, palette=None if local else palette,
                               local=palette if local else None, code_bits=8))
    assert_same(decode(path), pillow_rgb(path))


@pytest.mark.parametrize("cut", range(1, 8))
def test_gif_without_its_end(decode, tmp_path, cut):
    """The last codes' block is whole; end code, terminators and trailer may be missing or something else."""
    indices = np.random.default_rng(SEED).integers(0, 16, (12, 12))
    path = tmp_path / "image.gif"
    data = gif_bytes(indices, (12, 12), bits=4, palette=bytes(range(48)))
    expected = np.frombuffer(bytes(range(48)), np.uint8).reshape(-1, 3)[indices]
    path.write_bytes(data[:-2] if cut > 2 else data[:-cut])
    assert_same(decode(path), expected)
    path.write_bytes(data[:-2] + b"\xff" * cut)
    assert_same(decode(path), expected)


# ---------------------------------------------------------------- TGA

def tga_file(body, type_, width, height, bits, descriptor=0x20, text=b"", palette=b"", first=0, map_bits=0):
    entries = len(palette) // ((map_bits + 7) // 8) if map_bits else 0
    return struct.pack("<BBBHHBHHHHBB", len(text), int(bool(map_bits)), type_, first, entries, map_bits, 0, 0, width,
                       height, bits, descriptor) + text + palette + body


def tga_packets(rng, pixels, crossing):
    """[count][bytes] -> run-length packets; with `crossing`, values go on behind a row's end."""
    height, width, size = pixels.shape
    out = b""
    for start, stop in [(0, height)] if crossing else [(y, y + 1) for y in range(height)]:
        line, at = pixels[start:stop].reshape(-1, size), 0
        while at < len(line):
            count = int(rng.integers(1, min(128, len(line) - at) + 1))
            same = 1
            while same < count and np.array_equal(line[at + same], line[at]) and (at + same) % width:
                same += 1
            if same > 1 or count == 1:
                out += bytes([0x80 | same - 1]) + line[at].tobytes()
                count = same
            else:
                out += bytes([count - 1]) + line[at:at + count].tobytes()
            at += count
    return out


TGA_KINDS = [(2, 16, 0), (2, 24, 0), (2, 32, 0), (3, 8, 0), (3, 16, 0), (1, 8, 16), (1, 8, 24), (1, 8, 32)]


@pytest.mark.parametrize("descriptor", [0x00, 0x10, 0x20, 0x30, 0x28, 0x01])
@pytest.mark.parametrize("type_,bits,map_bits", TGA_KINDS)
@pytest.mark.parametrize("packets", ["raw", "runs", "crossing"])
def test_tga(decode_all, tmp_path, type_, bits, map_bits, packets, descriptor):
    """All kinds that Pillow reads, in all orders, among them palettes that do not begin at 0 or are short."""
    rng, paths = np.random.default_rng([SEED, type_, bits, map_bits]), []
    for width, height, first, entries in [(20, 11, 0, 256), (1, 1, 0, 1), (131, 3, 0, 100), (7, 50, 10, 30)]:
        pixels = rng.integers(0, 256, (height, width, bits // 8), dtype=np.uint8)
        if packets != "raw":
            pixels[rng.random((height, width)) < 0.5] = pixels[0, 0]
        body = pixels.tobytes() if packets == "raw" else tga_packets(rng, pixels, packets == "crossing")
        palette = rng.integers(0, 256, entries * ((map_bits + 7) // 8), dtype=np.uint8).tobytes()
        paths.append(tmp_path / f"{width}.tga")
        paths[-1].write_bytes(tga_file(body, type_ | 8 * (packets != "raw"), width, height, bits, descriptor,
                                       b"a text", palette, first if map_bits else 0, map_bits))
    for path, pixels in zip(paths, decode_all(paths)):
        assert_same(pixels, pillow_rgb(path))


def test_tga_that_pillow_refuses(decode, tmp_path):
    """Indices of 16 bits, 15 bits a pixel or an entry, a run over a row's end, a palette that is not used."""
    rng = np.random.default_rng(SEED)
    path = tmp_path / "image.tga"
    palette = rng.integers(0, 256, (400, 3), dtype=np.uint8)
    indices = rng.integers(0, 400, (6, 9))
    path.write_bytes(tga_file(indices.astype("<u2").tobytes(), 1, 9, 6, 16, palette=palette.tobytes(), map_bits=24))
    assert_same(decode(path), palette[indices][..., ::-1])

    pixels = rng.integers(0, 1 << 15, (6, 9))
    expected = np.stack([(pixels >> shift & 31) * 255 // 31 for shift in (10, 5, 0)], axis=-1).astype(np.uint8)
    path.write_bytes(tga_file(pixels.astype("<u2").tobytes(), 2, 9, 6, 15))
    assert_same(decode(path), expected)
    path.write_bytes(tga_file(bytes(range(54)), 1, 9, 6, 8, palette=pixels.astype("<u2").tobytes(), map_bits=15))
    assert_same(decode(path), expected)

    path.write_bytes(tga_file(b"\x85abc", 10, 2, 3, 24))
    assert_same(decode(path), np.full((3, 2, 3), list(b"cba"), np.uint8))
    colours = rng.integers(0, 256, (6, 9, 3), dtype=np.uint8)
    path.write_bytes(tga_file(colours.tobytes(), 2, 9, 6, 24, palette=palette.tobytes(), map_bits=24))
    assert_same(decode(path), colours[..., ::-1])


def test_tga_bits(decode, tmp_path):
    path = tmp_path / "image.tga"
    for width, descriptor in itertools.product((1, 7, 8, 9, 30), (0, 0x30)):
        data = np.random.default_rng(width).integers(0, 256, (4, (width + 7) // 8), dtype=np.uint8)
        path.write_bytes(tga_file(data.tobytes(), 3, width, 4, 1, descriptor))
        assert_same(decode(path), pillow_rgb(path))


# ---------------------------------------------------------------- sixteen bits

def test_deep_grey_is_the_same_in_png_and_pgm(decode, tmp_path):
    """The high byte counts, which is what becomes of colour in a PNG."""
    samples = np.random.default_rng(SEED).integers(0, 1 << 16, (30, 40, 1))
    samples[0, :5, 0] = 0, 255, 256, 32768, 65535
    (tmp_path / "grey.png").write_bytes(png_bytes(samples, 16, 0))
    (tmp_path / "grey.pgm").write_bytes(b"P5 40 30 65535\n" + samples.astype(">u2").tobytes())
    (tmp_path / "plain.pgm").write_bytes(b"P2 40 30 65535\n" + " ".join(map(str, samples.reshape(-1))).encode())
    (tmp_path / "colour.png").write_bytes(png_bytes(np.repeat(samples, 3, axis=2), 16, 2))
    expected = np.repeat((samples >> 8).astype(np.uint8), 3, axis=2)
    for name in ("grey.png", "grey.pgm", "plain.pgm", "colour.png"):
        assert_same(decode(tmp_path / name), expected)
    assert_same(np.asarray(Image.open(tmp_path / "colour.png").convert("RGB")), expected)


# ---------------------------------------------------------------- transparency

BACKGROUNDS = [(255, 255, 255), (0, 0, 0), (12, 130, 201)]


def over(path, background):
    """`path` over the background, by Pillow in both of its ways."""
    with Image.open(path) as image:
        rgba = image.convert("RGBA")
    composite = Image.alpha_composite(Image.new("RGBA", rgba.size, (*background, 255)), rgba).convert("RGB")
    pasted = Image.new("RGB", rgba.size, background)
    pasted.paste(rgba, mask=rgba.getchannel("A"))
    assert_same(np.asarray(composite), pasted)
    return composite


def background_option(background):
    return "--background", bytes(background).hex()


@pytest.mark.parametrize("background", BACKGROUNDS)
@pytest.mark.parametrize("interlaced", [False, True], ids=["plain", "interlaced"])
@pytest.mark.parametrize("color_type,depth", [(0, 1), (0, 8), (2, 8), (3, 1), (3, 2), (3, 4), (3, 8), (4, 8), (4, 16),
                                              (6, 8), (6, 16)])
def test_background_png(decode, tmp_path, color_type, depth, interlaced, background):
    rng = np.random.default_rng([SEED, color_type, depth])
    path = tmp_path / "image.png"
    for width, height in [(41, 29), (1, 1), (3, 7)]:
        path.write_bytes(random_png(rng, width, height, depth, color_type, interlaced, color_type in (0, 2, 3)))
        assert_same(decode(path, *background_option(background)), over(path, background))
        assert_same(decode(path), pillow_rgb(path))


@pytest.mark.parametrize("color_type,depth,key,other,seen", [
    (0, 2, 1, 2, 170), (0, 4, 3, 4, 68), (0, 16, 0x1234, 0x1235, 0x12), (2, 16, 0x1234, 0x1235, 0x12)])
def test_background_png_key(decode, tmp_path, color_type, depth, key, other, seen):
    """The transparent colour is compared before samples are scaled to 8 bits; Pillow compares after."""
    samples = np.full((2, 2, CHANNELS[color_type]), key)
    samples[0, 1] = other
    path = tmp_path / "image.png"
    path.write_bytes(png_bytes(samples, depth, color_type, trns=samples[0, 0].astype(">u2").tobytes()))
    expected = np.full((2, 2, 3), 255, np.uint8)
    expected[0, 1] = seen
    assert_same(decode(path, "--background", "ffffff"), expected)


@pytest.mark.parametrize("background", BACKGROUNDS)
def test_background_all_alphas(decode, tmp_path, background):
    """Every alpha with every value, so that no other rounding would do."""
    pixels = np.zeros((256, 256, 4), np.uint8)
    pixels[..., 3] = np.arange(256)[:, None]
    for channel in range(3):
        pixels[..., channel] = np.arange(256)[None] if channel < 2 else np.arange(256)[None, ::-1]
    for extension in ("png", "tga"):
        path = tmp_path / f"image.{extension}"
        Image.fromarray(pixels).save(path)
        assert_same(decode(path, *background_option(background)), over(path, background))


@pytest.mark.parametrize("background", BACKGROUNDS)
@pytest.mark.parametrize("interlaced", [False, True], ids=["plain", "interlaced"])
@pytest.mark.parametrize("transparent", [None, 0, 7])
@pytest.mark.parametrize("screen,corner", [((40, 30), (0, 0)), ((60, 50), (7, 9)), ((20, 20), (3, 4))])
def test_background_gif(decode, tmp_path, screen, corner, transparent, interlaced, background):
    rng = np.random.default_rng(SEED)
    palette = rng.integers(0, 256, 3 << 4, dtype=np.uint8).tobytes()
    path = tmp_path / "image.gif"
    path.write_bytes(gif_bytes(rng.integers(0, 16, (30, 40)), screen, corner, 4, palette, None, transparent,
                               interlaced=interlaced))
    assert_same(decode(path, *background_option(background)), over(path, background))


@pytest.mark.parametrize("background", BACKGROUNDS)
@pytest.mark.parametrize("type_,bits,map_bits", [kind for kind in TGA_KINDS if kind not in ((3, 8, 0), (2, 24, 0))])
def test_background_tga(decode, tmp_path, type_, bits, map_bits, background):
    """Where the header speaks of alpha; where it does not, there is none."""
    rng = np.random.default_rng([SEED, type_, bits])
    body = rng.integers(0, 256, 30 * 20 * bits // 8, dtype=np.uint8).tobytes()
    palette = rng.integers(0, 256, 256 * map_bits // 8, dtype=np.uint8).tobytes()
    path = tmp_path / "image.tga"
    path.write_bytes(tga_file(body, type_, 30, 20, bits, 0x28, palette=palette, map_bits=map_bits))
    assert_same(decode(path, *background_option(background)), over(path, background))
    path.write_bytes(tga_file(body, type_, 30, 20, bits, 0x20, palette=palette, map_bits=map_bits))
    assert_same(decode(path, *background_option(background)), pillow_rgb(path))


@pytest.mark.parametrize("background", BACKGROUNDS)
def test_background_bmp(decode, tmp_path, background):
    """A mask makes alpha; the fourth byte of a pixel without masks is nothing."""
    rng = np.random.default_rng(SEED)
    pixels = rng.integers(0, 256, 20 * 30 * 4, dtype=np.uint8).tobytes()
    path = tmp_path / "image.bmp"
    for compression, masks in ((3, (0xff0000, 0xff00, 0xff, 0xff000000)), (3, (0xff000000, 0xff0000, 0xff00, 0xff)),
                               (3, (0xff0000, 0xff00, 0xff, 0)), (0, (0, 0, 0, 0))):
        header = struct.pack("<IiiHHIIiiII4I", 56, 30, 20, 1, 32, compression, 0, 0, 0, 0, 0, *masks)
        path.write_bytes(struct.pack("<2sIHHI", b"BM", 0, 0, 0, 70) + header + pixels)
        assert_same(decode(path, *background_option(background)), over(path, background))


@pytest.mark.parametrize("kind", ["rgba.png", "la.png", "palette.png", "key.gif"])
def test_blank_without_alpha(runner, tmp_path, kind):
    """What has its ink in alpha alone is told from what is one colour with alpha, too."""
    ink = np.zeros((8, 9), np.uint8)
    ink[2:5, 3:7] = 200
    path = tmp_path / kind

    def save(alpha, value):
        value = np.broadcast_to(np.uint8(value), alpha.shape)
        if kind == "rgba.png":
            path.write_bytes(png_bytes(np.dstack([value, value, value, alpha]), 8, 6))
        elif kind == "la.png":
            path.write_bytes(png_bytes(np.dstack([value, alpha]), 8, 4))
        elif kind == "palette.png":
            path.write_bytes(png_bytes((alpha > 0).astype(int)[..., None] + 2 * (value > 0)[..., None], 8, 3,
                                       palette=bytes(6) + b"\xff" * 6, trns=b"\0\xff\0\xff"))
        else:
            path.write_bytes(gif_bytes((alpha > 0).astype(int) + 2 * (value > 0), (9, 8), bits=2,
                                       palette=bytes(6) + b"\xff" * 6, transparent=0))

    def first_line(*options):
        done = runner(*options, "decode", path)
        assert done.returncode == 0, done.stderr
        return done.stdout.split(b"\n", 1)[0]

    save(ink, 0)
    assert first_line() == b"9 8 blank"
    assert first_line("--background", "ffffff") == b"9 8"
    if kind != "key.gif":
        save(ink * 0 + 200, 0)
        assert first_line() == b"9 8", "alpha is the same everywhere"
    save(ink, np.where(np.arange(72).reshape(8, 9) == 71, 255, 0))
    assert first_line() == b"9 8", "one pixel has another colour"


# ---------------------------------------------------------------- orientation in a PNG's text

def raw_profile(orientation):
    data = b"Exif\0\0" + exif_block(orientation)
    lines = [data.hex()[i:i + 72] for i in range(0, 2 * len(data), 72)]
    return f"\nexif\n{len(data):8}\n".encode() + "\n".join(lines).encode() + b"\n"


def xmp(orientation, element=False):
    told = f"<tiff:Orientation>{orientation}</tiff:Orientation>" if element else f'tiff:Orientation="{orientation}"'
    return f'<x:xmpmeta xmlns:x="adobe:ns:meta/">{told}</x:xmpmeta>'.encode()


def international(keyword, text, deflated=False):
    return b"iTXt", keyword + b"\0" + bytes([deflated, 0]) + b"en\0" + keyword + b"\0" + \
        (zlib.compress(text) if deflated else text)


RAW, XMP = b"Raw profile type exif", b"XML:com.adobe.xmp"
ORIENTATION_CHUNKS = {
    "exif": [(b"eXIf", exif_block(6))],
    "exif without orientation, xmp": [(b"eXIf", b"II*\0\x08\0\0\0\0\0\0\0\0\0"), international(XMP, xmp(3))],
    "exif before xmp": [international(XMP, xmp(3)), (b"eXIf", exif_block(6))],
    "exif of 1 before xmp": [(b"eXIf", exif_block(1)), international(XMP, xmp(3))],
    "exif before raw": [(b"tEXt", RAW + b"\0" + raw_profile(3)), (b"eXIf", exif_block(8))],
    "raw": [(b"tEXt", RAW + b"\0" + raw_profile(5))],
    "raw deflated": [(b"zTXt", RAW + b"\0\0" + zlib.compress(raw_profile(7)))],
    "raw, international": [international(RAW, raw_profile(4), deflated=True)],
    "raw before xmp": [international(XMP, xmp(3)), (b"zTXt", RAW + b"\0\0" + zlib.compress(raw_profile(7)))],
    "last raw": [(b"tEXt", RAW + b"\0" + raw_profile(3)), (b"tEXt", RAW + b"\0" + raw_profile(8))],
    "xmp": [international(XMP, xmp(6))],
    "xmp element": [international(XMP, xmp(6, element=True))],
    "xmp deflated": [international(XMP, xmp(8), deflated=True)],
    "last xmp": [international(XMP, xmp(3)), international(XMP, xmp(6))],
    "text called exif": [(b"tEXt", b"exif\0" + exif_block(6))],
    "other text": [(b"tEXt", b"Comment\0" + xmp(6)), (b"zTXt", b"Raw profile type xmp\0\0" + zlib.compress(xmp(6)))],
    "broken deflate": [(b"zTXt", RAW + b"\0\0notzlib"), international(XMP, xmp(3))],
    "empty": [(b"tEXt", b""), (b"zTXt", b"\0"), (b"iTXt", b"\0\0"), (b"iTXt", XMP + b"\0\0\0")],
}


@pytest.mark.parametrize("where", ["before", "after"])
@pytest.mark.parametrize("name", ORIENTATION_CHUNKS)
def test_orientation_in_png(decode, tmp_path, name, where):
    samples = np.random.default_rng(SEED).integers(0, 256, (5, 9, 3))
    path = tmp_path / "image.png"
    path.write_bytes(png_bytes(samples, 8, 2, **{where: ORIENTATION_CHUNKS[name]}))
    assert_same(decode(path), pillow_rgb(path))
    assert_same(decode(path, "--ignore-exif"), samples)


def one_entry(kind, count, value, behind=b""):
    """EXIF data with the orientation alone, as `count` values of a TIFF type."""
    return b"II*\0\x08\0\0\0\1\0" + struct.pack("<HHI", 0x0112, kind, count) + value.ljust(4, b"\0") + bytes(4) + behind


@pytest.mark.parametrize("exif", [
    *(one_entry(kind, 1, b"\6") for kind in (1, 2, 3, 4, 6, 7, 8, 9, 13)), one_entry(3, 1, b"\xfa\xff"),
    one_entry(8, 1, b"\xfa\xff"), one_entry(3, 0, b"\6"), one_entry(3, 2, b"\6\0\3"),
    one_entry(3, 3, b"\x1a", b"\6\0\3\0\3\0"), one_entry(3, 3, b"\x1a", b"\6\0\3\0\3"),
    one_entry(4, 1 << 31, b"\x1a"), b"Exif\0\0" + one_entry(3, 1, b"\6"),
    b"II\0*" + one_entry(3, 1, b"\6")[4:]], ids=repr)
@pytest.mark.filterwarnings("ignore")  # Pillow's of these files
def test_orientation_of_other_types(decode, tmp_path, exif):
    samples = np.random.default_rng(SEED).integers(0, 256, (5, 9, 3))
    path = tmp_path / "image.png"
    path.write_bytes(png_bytes(samples, 8, 2, after=[(b"eXIf", exif), international(XMP, xmp(3))]))
    assert_same(decode(path), pillow_rgb(path))


def test_orientation_in_broken_text(decode, tmp_path):
    """Where Pillow gives up on the whole file, metadata that is wrong tells nothing."""
    samples = np.random.default_rng(SEED).integers(0, 256, (5, 9, 3))
    path = tmp_path / "image.png"
    wrong_sum = bytearray(png_bytes(samples, 8, 2, after=ORIENTATION_CHUNKS["xmp"]))
    wrong_sum[-14] ^= 1
    bomb = zlib.compress(bytes(1 << 26))
    for data in (wrong_sum, png_bytes(samples, 8, 2, after=[(b"tEXt", RAW + b"\0\nexif\n  6\nzz")]),
                 png_bytes(samples, 8, 2, after=[(b"zTXt", RAW + b"\0\0" + bomb), (b"iCCP", b"x\0\0" + bomb)])):
        path.write_bytes(data)
        assert_same(decode(path), samples)


# ---------------------------------------------------------------- formats that are not read

def heif(*brands):
    return struct.pack(">I4s4sI", 16 + 4 * len(brands[1:]), b"ftyp", brands[0], 0) + b"".join(brands[1:])


@pytest.mark.parametrize("what,content", [
    ("a HEIC image", heif(b"heic", b"mif1", b"heic")), ("a HEIC image", heif(b"mif1", b"heic")),
    ("a JPEG 2000 image", b"\0\0\0\x0cjP  \r\n\x87\n"), ("a JPEG 2000 image", b"\xff\x4f\xff\x51\0"),
    ("a JPEG XL image", b"\xff\x0a\xfa"), ("a JPEG XL image", b"\0\0\0\x0cJXL \r\n\x87\n"),
    ("an icon (ICO)", struct.pack("<HHH4BHHII", 0, 1, 1, 32, 32, 0, 0, 1, 32, 4264, 22)),
    ("a cursor (CUR)", struct.pack("<HHH4BHHII", 0, 2, 1, 32, 32, 0, 0, 8, 16, 0x181068, 22)),
    ("a Photoshop file (PSD)", b"8BPS\0\1"), ("a PDF document", b"%PDF-1.7\n"), ("a PostScript file", b"%!PS-Adobe"),
    ("an SVG image", b'<svg xmlns="http://www.w3.org/2000/svg"/>'),
    ("an SVG image", b"\xef\xbb\xbf\n<?xml version='1.0'?>\n<!-- drawn -->\n<svg/>"),
    ("an SVG image", b"<!-- " + b"<html> is not drawn\n" * 500 + b"--><svg/>"),
    ("an SVG image", "\ufeff<?xml version='1.0'?>\n<!-- \u2026 -->\n<svg/>".encode("utf-16-le")),
    ("an SVG image", "\ufeff<svg/>".encode("utf-16-be")),
    ("an icon (ICNS)", b"icns\0\0\x10\0"), ("a PCX image", b"\x0a\5\1\x08\0\0\0\0\x0f\0\x0f\0"),
    ("a PDF document", b"\0" * 3 + b"HTTP/1.1 200 OK\r\n\r\n" + b" " * 900 + b"%PDF-1.4\n"),
    ("an HTML page", b"<!DOCTYPE html><html><body>404"), ("a QOI image", b"qoif\0\0\0\1"), ("a DDS image", b"DDS |"),
    ("an OpenEXR image", b"\x76\x2f\x31\1\2"), ("a Radiance HDR image", b"#?RADIANCE\n"), ("a PAM image", b"P7\nWIDTH"),
    ("an OS/2 bitmap array", b"BA" + bytes(12) + b"BM"), ("a gzip archive", b"\x1f\x8b\x08"),
    ("a ZIP archive", b"PK\3\4"), ("a PyTorch checkpoint", b"PK\3\4" + bytes(26) + b"archive/data.pkl"),
    ("an xz archive", b"\xfd7zXZ\0"), ("a tar archive", bytes(257) + b"ustar"), ("a Python pickle", b"\x80\4"),
    ("an XML file", b"<?xml version='1.0'?>\n<error/>"), ("a JSON file", b'{"a": 1}'), ("a NumPy array", b"\x93NUMPY\1"),
    ("an ONNX model", b"\x08\x08\x12\4test"), ("a TensorFlow Lite model", b"\x1c\0\0\0TFL3"), ("a Git LFS pointer in place of the file", b"version https://git-lfs.github.com/"),
])
def test_unread_formats_are_named(runner, tmp_path, what, content):
    path = tmp_path / "image"
    for tail in (b"", bytes(64), b"<" * 8000):
        path.write_bytes(content + tail)
        done = runner("decode", path)
        assert (done.returncode, done.stderr.decode()) == (E_DATA, f"{path}: {what}, which is not read\n")


@pytest.mark.parametrize("extension", ["ico", "pdf", "jp2", "eps", "dds"])
def test_unread_formats_of_pillow(runner, tmp_path, extension):
    path = tmp_path / f"image.{extension}"
    try:
        smooth_image(32, 32).save(path)
    except (KeyError, OSError, ValueError) as error:
        pytest.skip(f"Pillow cannot write it here: {error}")
    done = runner("decode", path)
    assert done.returncode == E_DATA and done.stderr.decode().endswith(", which is not read\n")


# ---------------------------------------------------------------- how much of a file is read

def sparse(path, start, size):
    with open(path, "wb") as file:
        file.write(start)
        file.truncate(size)
    return path


def limited(runner, sanitized, path, megabytes=128, **options):
    def limit_memory():
        if not sanitized:
            resource.setrlimit(resource.RLIMIT_AS, (megabytes << 20, megabytes << 20))
    return runner("decode", path, preexec_fn=limit_memory, **options)


def png_header(width, height, depth, color_type, interlaced=False):
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, color_type, 0, 0,
                                                            int(interlaced)))


BMP_HEADER = struct.pack("<2sIHHIIiiHHIIiiII", b"BM", 0, 0, 0, 54, 40, 2, 2, 1, 24, 0, 0, 0, 0, 0, 0)


@pytest.mark.parametrize("start,reason", [
    (b"BM", "bad BMP: bytes of header: 0"),
    (BMP_HEADER[:18] + struct.pack("<ii", 100000, 100000) + BMP_HEADER[26:], "too large"),
    (b"P6 100000 100000 255\n", "too large"), (b"GIF89a\xff\xff\xff\xff\0\0\0,\0\0\0\0\1\0\1\0\0\2", "too large"),
    (png_header(100000, 100000, 8, 2), "too large"),
    (png_header(12000, 12000, 16, 6), "too large, its rows unpack to 1152012000 bytes, more than the limit of 805306368"),
    (b"\0\0\2\0\0\0\0\0\0\0\0\0\xff\xff\xff\xff\x18\x20", "too large"),
    (b"\0", "not a PNG"),
])
def test_huge_files_are_refused_by_their_start(runner, sanitized, tmp_path, start, reason):
    path = sparse(tmp_path / "image", start, 1500 << 20)
    done = limited(runner, sanitized, path)
    assert done.returncode == E_DATA and reason in done.stderr.decode() and done.stderr.count(b"\n") == 1


def png_rows_bytes(width, height, depth, color_type, interlaced):
    """What is inflated: a filter's number and the samples, of every row of every pass that has pixels."""
    total = 0
    for x, y, dx, dy in ADAM7 if interlaced else [(0, 0, 1, 1)]:
        columns, rows = len(range(x, width, dx)), len(range(y, height, dy))
        total += rows * ((columns * CHANNELS[color_type] * depth + 7) // 8 + 1) if columns else 0
    return total


@pytest.mark.parametrize("interlaced", [False, True], ids=["plain", "interlaced"])
@pytest.mark.parametrize("width,depth,color_type", [(10000, 16, 6), (6, 16, 6), (7, 16, 6), (9, 16, 2), (11000, 16, 2)])
def test_png_rows_are_limited(runner, tmp_path, width, depth, color_type, interlaced):
    """The highest image whose rows stay within the limit lacks its data, the next is too large."""
    limit = 768 << 20
    low, high = 0, 1 << 27
    while high - low > 1:
        middle = (low + high) // 2
        fits = png_rows_bytes(width, middle, depth, color_type, interlaced) <= limit
        low, high = (middle, high) if fits else (low, middle)
    path = tmp_path / "image.png"
    for height, reason in [
        (low, "truncated, the file ends before the image does"),
        (high, f"too large, its rows unpack to {png_rows_bytes(width, high, depth, color_type, interlaced)} bytes, "
               f"more than the limit of {limit}")]:
        path.write_bytes(png_header(width, height, depth, color_type, interlaced) + b"\0\0\1\0IDAT")
        done = runner("decode", path)
        assert (done.returncode, done.stderr.decode()) == (E_DATA, f"{path}: {reason}\n")
    done = runner("--max-pixels", 179_000_000, "decode", path)
    assert "truncated" in done.stderr.decode(), "the limit grows with that on pixels"
    done = runner("--max-pixels", width * low - 1, "decode", path)
    assert "pixels" in done.stderr.decode()


@pytest.mark.parametrize("start,size", [
    (BMP_HEADER, (2, 2)), (b"P6 2 2 255\n", (2, 2)), (b"\0\0\2\0\0\0\0\0\0\0\0\0\2\0\2\0\x18\x20", (2, 2))])
def test_what_follows_the_pixels_is_not_read(runner, sanitized, tmp_path, start, size):
    path = sparse(tmp_path / "image", start, 1500 << 20)
    done = limited(runner, sanitized, path)
    assert done.returncode == 0 and done.stdout == b"%d %d\n" % size + bytes(3 * size[0] * size[1])


@pytest.mark.parametrize("start", [
    png_header(2, 2, 8, 2) + b"\x7f\xff\xff\xfftEXt",
    gif_bytes(np.zeros((2, 2), int), (2, 2), bits=2)[:13] + b"!\xfe" + b"\xff" * 300, b"P3 2 2 255\n#"])
def test_endless_streams(runner, tmp_path, start):
    """Given up on after as much as an image of that size may have; with a small limit here, for speed."""
    (tmp_path / "start").write_bytes(start)
    source = subprocess.Popen(["sh", "-c", "cat start; exec cat /dev/zero"], cwd=tmp_path, stdout=subprocess.PIPE)
    done = runner("--max-pixels", 1000, "decode", "-", stdin=source.stdout)
    source.stdout.close()
    source.kill()
    source.wait()
    assert done.returncode == E_DATA
    assert done.stderr.decode().startswith("standard input: ") and done.stderr.count(b"\n") == 1


def test_pipes_and_devices(runner, tmp_path):
    for path, returncode in (("/dev/zero", E_DATA), ("/dev/null", E_DATA)):
        assert runner("decode", path).returncode == returncode
    smooth_image(300, 200).save(tmp_path / "image.bmp")
    os.mkfifo(tmp_path / "fifo")
    with subprocess.Popen(["sh", "-c", "cat image.bmp >fifo"], cwd=tmp_path):
        done = runner("decode", tmp_path / "fifo")
    assert done.returncode == 0 and done.stdout == b"300 200\n" + smooth_image(300, 200).tobytes()
