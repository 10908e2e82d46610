"""JPEG against Pillow, byte for byte; files that end early; and what a file may cost.

Files come from Pillow, from libjpeg-turbo's cjpeg and jpegtran, and for the hostile ones from the writer below.
A build without libjpeg-turbo decodes through stb_image: there the pixels of common files may differ by 3, and the
rest is skipped.
"""

import io
import re
import resource
import struct
import subprocess

import numpy as np
import pytest
from PIL import Image, ImageDraw

from pixels import E_DATA, SEED, assert_same, exif_block, pillow_fit, pillow_rgb, smooth_image

TRUNCATED = "truncated, the file ends before the image does"
INCOMPLETE = "truncated, or not completed by its encoder: the scans do not bring every coefficient in full"
SIZES = [(1, 1), (2, 1), (3, 5), (17, 15), (31, 33), (65, 47)]


@pytest.fixture(scope="session")
def libjpeg(has_libjpeg):
    if not has_libjpeg:
        pytest.skip("this build has no libjpeg-turbo")


@pytest.fixture
def check(libjpeg, decode_all, tmp_path):
    """A function: the pixels of these files are Pillow's."""
    def check_files(*files):
        paths = [tmp_path / f"{i}.jpg" for i in range(len(files))]
        for path, data in zip(paths, files):
            path.write_bytes(data)
        for path, pixels in zip(paths, decode_all(paths)):
            assert_same(pixels, pillow_rgb(path))
    return check_files


@pytest.fixture
def refused(runner, tmp_path):
    """A function: this file is refused; gives the reason."""
    def refused_bytes(data, **options):
        path = tmp_path / "bad.jpg"
        path.write_bytes(data)
        done = runner("decode", path, **options)
        assert done.returncode == E_DATA, done.returncode
        message = done.stderr.decode()
        assert message.startswith(f"{path}: ") and message.count("\n") == 1
        return message[len(f"{path}: "):-1]
    return refused_bytes


def pillow_jpeg(width=45, height=37, mode="RGB", **options):
    out = io.BytesIO()
    smooth_image(width, height).convert(mode).save(out, "JPEG", **options)
    return out.getvalue()


def tool(name, *options, data):
    return subprocess.run([name, *options], input=data, stdout=subprocess.PIPE, check=True).stdout


def cjpeg(width, height, *options):
    ppm = io.BytesIO()
    smooth_image(width, height).save(ppm, "PPM")
    return tool("cjpeg", *options, data=ppm.getvalue())


# ---------------------------------------------------------------- a file's parts

def segments(data):
    """(marker, place, length with the marker) of what stands before the first scan's data."""
    at, found = 2, []
    while not found or found[-1][0] != 0xDA:
        length = 2 + int.from_bytes(data[at + 2:at + 4], "big")
        found.append((data[at + 1], at, length))
        at += length
    return found


def first(data, *markers):
    return next(at for marker, at, _ in segments(data) if marker in markers)


def without(data, marker):
    for found, at, length in segments(data):
        if found == marker:
            return data[:at] + data[at + length:]
    return data


def patched(data, at, *values):
    return data[:at] + bytes(values) + data[at + len(values):]


def segment(marker, data):
    return struct.pack(">BBH", 0xFF, marker, len(data) + 2) + data


def behind_start(data, *inserted):
    return data[:2] + b"".join(inserted) + data[2:]


def adobe(transform):
    return segment(0xEE, b"Adobe\0\x64\0\0\0\0" + bytes([transform]))


def scan_starts(data):
    return [found.start() for found in re.finditer(b"\xff\xda\0", data)]


def restart_markers(data):
    return [found.start() for found in re.finditer(b"\xff[\xd0-\xd7]", data)]


# ---------------------------------------------------------------- pixels

@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("progressive", [False, True], ids=["baseline", "progressive"])
@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
@pytest.mark.parametrize("quality", [50, 90, 100])
def test_common_files(has_libjpeg, decode, fit, tmp_path, quality, subsampling, progressive, mode):
    path = tmp_path / "photo.jpg"
    for width, height in [(333, 251), (16, 16), (1, 1), (9, 8)]:
        path.write_bytes(pillow_jpeg(width, height, mode, quality=quality, subsampling=subsampling,
                                     progressive=progressive))
        ours, theirs = decode(path), np.asarray(pillow_rgb(path))
        if not has_libjpeg and subsampling == "4:2:2" and width > 2:
            # stb_image swaps the weights where the last chroma sample begins
            wrong = ((width + 1) // 2 - 1) * 2
            ours, theirs = np.delete(ours, wrong, axis=1), np.delete(theirs, wrong, axis=1)
        assert_same(ours, theirs, tolerance=0 if has_libjpeg else 3)
        if has_libjpeg:
            assert_same(fit(path), pillow_fit(pillow_rgb(path)))


@pytest.mark.parametrize("options", [
    "", "-progressive", "-arithmetic", "-arithmetic -progressive", "-restart 1", "-restart 3B -progressive",
    "-restart 2B -arithmetic", "-rgb", "-grayscale", "-optimize -quality 100"])
@pytest.mark.parametrize("sampling", [
    "1x1", "2x1", "1x2", "2x2", "4x1", "1x4", "4x2", "2x4", "3x1", "1x1,2x2,2x2", "2x2,2x1,1x2", "2x2,2x2,1x1",
    "2x1,1x1,2x1"])
def test_samplings(check, sampling, options):
    check(*(cjpeg(width, height, *options.split(), "-sample", sampling) for width, height in SIZES))


@pytest.mark.parametrize("script", ["0;1;2;", "2;1;0;", "0;1,2;", "0,1,2:0-0,0,0;0:1-63,0,0;1:1-63,0,0;2:1-63,0,0;"])
def test_scan_scripts(check, refused, tmp_path, script):
    """Components in scans of their own; and the file that ends between two scans."""
    (tmp_path / "script").write_text(script)
    for sampling in ("1x1", "2x1", "2x2"):
        data = cjpeg(90, 70, "-sample", sampling, "-scans", tmp_path / "script")
        check(data)
        assert len(scan_starts(data)) == script.count(";")
        for start in scan_starts(data)[1:]:
            assert refused(data[:start] + b"\xff\xd9") == (INCOMPLETE if "-" in script else TRUNCATED)


@pytest.mark.parametrize("progressive", [False, True], ids=["baseline", "progressive"])
@pytest.mark.parametrize("transform", [0, 1, 2, 3, 255])
def test_colour_spaces(check, transform, progressive):
    """Adobe's marker with every transform, with and without JFIF's, in files of 1, 3 and 4 components."""
    data = pillow_jpeg(progressive=progressive)
    check(behind_start(data, adobe(transform)))
    check(behind_start(without(data, 0xE0), adobe(transform)))
    check(behind_start(pillow_jpeg(mode="L", progressive=progressive), adobe(transform)))
    data = pillow_jpeg(mode="CMYK", progressive=progressive)  # with an Adobe marker
    check(patched(data, data.index(b"Adobe") + 11, transform))
    check(without(data, 0xEE))


@pytest.mark.parametrize("identifiers", [b"RGB", b"rgb", b"\0\1\2", b"\1\1\1", b"\1\2\2", b"\1\1\2", b"\1\x22\x23"])
def test_component_identifiers(check, identifiers):
    """They tell RGB from YCbCr, and need not differ."""
    for data in (pillow_jpeg(), without(pillow_jpeg(), 0xE0)):
        frame, scan = first(data, 0xC0), first(data, 0xDA)
        for i, identifier in enumerate(identifiers):
            data = patched(patched(data, frame + 10 + 3 * i, identifier), scan + 5 + 2 * i, identifier)
        check(data)


def test_several_images(check):
    """Of a multi-picture file, and whatever else follows the end, the first image counts."""
    data = pillow_jpeg()
    out = io.BytesIO()
    smooth_image(60, 50).save(out, "MPO", save_all=True, append_images=[smooth_image(60, 50, SEED + 1)])
    for file in (out.getvalue(), data + pillow_jpeg(20, 20), data + bytes(1000)):
        check(file)


# ---------------------------------------------------------------- orientation

@pytest.mark.parametrize("kind", ["H", "I"], ids=["short", "long"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif(has_libjpeg, decode, fit, tmp_path, orientation, kind):
    path = tmp_path / "turned.jpg"
    path.write_bytes(pillow_jpeg(90, 60, quality=95, exif=b"Exif\0\0" + exif_block(orientation, ">", kind)))
    assert_same(decode(path), pillow_rgb(path), tolerance=0 if has_libjpeg else 3)
    assert_same(fit(path), pillow_fit(pillow_rgb(path)), tolerance=0 if has_libjpeg else 4)
    with Image.open(path) as image:
        assert_same(decode(path, "--ignore-exif"), image.convert("RGB"), tolerance=0 if has_libjpeg else 3)


@pytest.mark.parametrize("xmp", [b'<x tiff:Orientation="%d"/>', b"<tiff:Orientation>%d</tiff:Orientation>",
                                 b"tiff:Orientation='%d'", b'tiff:Orientation="x" tiff:Orientation="%d"'])
@pytest.mark.parametrize("orientation", [0, 1, 6, 8, 9])
def test_xmp(check, orientation, xmp):
    """XMP's orientation counts where EXIF has none."""
    def app1(text):
        return segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + text)
    turned = app1(xmp % orientation)
    data = pillow_jpeg()
    check(behind_start(data, turned))
    check(behind_start(data, app1(b'tiff:Orientation="3"'), turned))
    check(behind_start(data, turned, segment(0xE1, b"Exif\0\0" + exif_block(8, ">"))))
    check(behind_start(data, turned, segment(0xE1, b"Exif\0\0" + exif_block(9, ">"))))
    check(behind_start(data, turned, segment(0xE1, b"Exif\0\0II*\0\x08\0\0\0\0\0\0\0\0\0")))
    check(behind_start(data, turned, segment(0xE1, b"Exif\0\0" * 2 + exif_block(8, ">"))))
    for nothing in (b"", b"junk", b"junk and more", b"II*\0\xff\xff\xff\xff"):  # without a TIFF header XMP counts neither
        check(behind_start(data, turned, segment(0xE1, b"Exif\0\0" + nothing)))


def test_exif_in_several_segments(check):
    """They are joined; the name before each is no part of it."""
    block = exif_block(6, ">")
    for cuts in ((0,), (2,), (11,), (25,), (30,), (8, 9), (0, 0, 20), (len(block),)):
        parts = [block[i:j] for i, j in zip((0, *cuts), (*cuts, len(block)))]
        check(behind_start(pillow_jpeg(), *(segment(0xE1, b"Exif\0\0" + part) for part in parts)))


# ---------------------------------------------------------------- the end

@pytest.mark.parametrize("options", ["", "-progressive", "-restart 1", "-restart 1 -progressive", "-restart 4B",
                                     "-grayscale", "-sample 1x1 -quality 95"])
def test_ends_early(libjpeg, refused, options):
    """With and without an end marker behind the cut."""
    data = cjpeg(160, 120, *options.split())
    start = first(data, 0xDA)
    reasons = []
    for length in np.linspace(start + 14, len(data) - 4, 20).astype(int):
        reasons.append(refused(data[:length] + b"\xff\xd9"))
        assert refused(data[:length]) == TRUNCATED
    # Others were cut within a table or a scan's header, or behind a scan.
    others = [reason for reason in reasons if reason not in (TRUNCATED, INCOMPLETE)]
    assert len(others) <= 2 and all(reason.startswith("bad JPEG: ") for reason in others)
    assert refused(data[:-1]) == refused(data[:-2]) == TRUNCATED
    assert (len(scan_starts(data)) > 1) == ("-progressive" in options)
    for start in scan_starts(data)[1:]:
        assert refused(data[:start] + b"\xff\xd9") == INCOMPLETE


@pytest.mark.parametrize("last", [9, 20, 62])
@pytest.mark.parametrize("bit", [0, 1])
def test_progressive_without_high_frequencies(check, refused, tmp_path, last, bit):
    """Left out by the encoder, of all components alike; but not of some, nor low bits."""
    script = tmp_path / "script"
    for sampling in ("1x1", "2x2"):
        script.write_text("0,1,2:0-0,0,0;" + "".join(f"{i}:1-{last},0,{bit};" for i in range(3)))
        data = cjpeg(90, 70, "-sample", sampling, "-scans", script)
        if bit:
            assert refused(data) == INCOMPLETE
        else:
            check(data)
        script.write_text("0,1,2:0-0,0,0;" + "".join(f"{i}:1-{last - i},0,{bit};" for i in range(3)))
        assert refused(cjpeg(90, 70, "-sample", sampling, "-scans", script)) == INCOMPLETE
    script.write_text("0:0-0,0,0;0:1-8,0,0;")
    assert refused(cjpeg(90, 70, "-grayscale", "-scans", script)) == INCOMPLETE  # libjpeg would smooth it


def test_arithmetic_code_ends_early(refused):
    """Its zeros at the end may be left out. What nobody drew comes out of none."""
    data = cjpeg(320, 240, "-arithmetic", "-quality", "80")
    start = first(data, 0xDA) + 14
    for share in (0.1, 0.25, 0.5, 0.75, 0.9):
        assert refused(data[:start + int((len(data) - start) * share)] + b"\xff\xd9") == TRUNCATED


def drawing(rng):
    """Shapes, text and patterns on one colour: of such an image arithmetic code may end long before its rows do."""
    width, height = (int(side) for side in rng.integers(8, 400, 2))
    def colour():
        return tuple(int(value) for value in rng.choice([0, 30, 128, 200, 255], 3))
    image = Image.new("RGB", (width, height), colour())
    draw = ImageDraw.Draw(image)
    for _ in range(rng.integers(1, 4)):
        x0, x1 = sorted(int(x) for x in rng.integers(0, width, 2))
        y0, y1 = sorted(int(y) for y in rng.integers(0, height, 2))
        kind = rng.choice(["rectangle", "ellipse", "line", "text", "pattern"])
        if kind == "text":
            draw.text((x0, y0), "drawing " * int(rng.integers(1, 9)), fill=colour())
        elif kind == "line":
            draw.line((x0, y0, x1, y1), fill=colour(), width=int(rng.integers(1, 9)))
        elif kind == "pattern":
            side, fill, stripes = int(rng.choice([4, 8, 12, 16])), colour(), rng.integers(0, 2)
            for y in range(y0, height, side):
                for x in range(0, width, side):
                    if (x // side + (0 if stripes else y // side)) % 2:
                        draw.rectangle((x, y, x + side - 1, y + side - 1), fill=fill)
        else:
            getattr(draw, kind)((x0, y0, x1, y1), fill=colour())
    return image


def test_arithmetic_code_of_drawings(check):
    """A complete file is never refused."""
    rng = np.random.default_rng(SEED)
    samplings, options = ["1x1", "2x1", "2x2", "4x1"], [[], [], [], ["-progressive"], ["-restart", "1"]]
    images = [drawing(rng) for _ in range(150)]
    red = Image.new("RGB", (300, 200), "white")
    ImageDraw.Draw(red).rectangle((75, 50, 150, 133), fill="red")
    for i, image in enumerate([red, *images]):
        ppm = io.BytesIO()
        image.save(ppm, "PPM")
        sampling = "2x2" if i == 0 else rng.choice(samplings)
        check(tool("cjpeg", "-arithmetic", "-sample", sampling, "-quality", str(rng.integers(10, 101) if i else 75),
                   *options[i % len(options)], data=ppm.getvalue()))


@pytest.mark.parametrize("junk", [b"\x11\x22\x33" * 50, b"\xff\0" + b"\x11\x22\x33" * 50, b"\xff\xe3\0\5abc", b"\xff\xd0"],
                         ids=["bytes", "zero", "segment", "restart"])
def test_junk_before_the_end(check, junk):
    for options in ({}, {"progressive": True}, {"restart_marker_rows": 1}):
        data = pillow_jpeg(80, 66, **options)
        check(data[:-2] + junk + b"\xff\xd9")


def test_unknown_marker_behind_the_pixels(libjpeg, decode, tmp_path):
    """Pillow gives up over it, with all pixels read."""
    data = pillow_jpeg()
    (tmp_path / "good.jpg").write_bytes(data)
    (tmp_path / "junk.jpg").write_bytes(data[:-2] + b"\xff\x02\x11\x22\xff\xd9")
    assert_same(decode(tmp_path / "junk.jpg"), decode(tmp_path / "good.jpg"))


RESTARTS = ["-restart 1", "-restart 1 -progressive", "-restart 1 -arithmetic", "-restart 3B -grayscale",
            "-restart 1B -grayscale", "-restart 2B -progressive", "-restart 40B", "-restart 90B -progressive",
            "-restart 9B -arithmetic -progressive", "-restart 2B scans", "CMYK", "CMYK progressive"]


def restart_file(tmp_path, options):
    if options.startswith("CMYK"):
        return pillow_jpeg(97, 75, "CMYK", progressive="progressive" in options, restart_marker_blocks=5)
    (tmp_path / "script").write_text("0;1;2;")
    scans = ["-scans", tmp_path / "script"] if "scans" in options else []
    return cjpeg(200 if "1B" not in options else 97, 130, *options.replace("scans", "").split(), *scans)


@pytest.mark.parametrize("options", RESTARTS)
def test_lost_restart_marker(check, tmp_path, options):
    """Any one of them cut out, overwritten or miscounted."""
    data = restart_file(tmp_path, options)
    found = restart_markers(data)
    files = []
    for at in found[::max(1, len(found) // 20)] + found[-2:]:
        files += [data[:at] + data[at + 2:], patched(data, at, 0, 0),
                  patched(data, at + 1, 0xD0 | (data[at + 1] + 3 & 7))]
    check(*files)


@pytest.mark.parametrize("options", [options for options in RESTARTS if "arithmetic" not in options])
def test_cut_between_restart_markers(refused, tmp_path, options):
    """Anywhere, also in and about a marker: a cut is no lost marker."""
    data = restart_file(tmp_path, options)
    rng = np.random.default_rng(SEED)
    found = restart_markers(data)
    cuts = [int(at) + offset for at in rng.choice(found, 4) for offset in (-1, 0, 1, 2, 3)]
    cuts += [found[-1] + offset for offset in range(4)]
    cuts += rng.integers(first(data, 0xDA) + 14, len(data) - 3, 26).tolist()
    for cut in (cut for cut in cuts if cut < len(data) - 2):
        reason = refused(data[:cut] + b"\xff\xd9")
        assert reason == TRUNCATED or reason.startswith("bad JPEG: ")


def test_too_many_restart_intervals_lost(libjpeg, refused):
    data = cjpeg(200, 150, "-restart", "1")
    found = restart_markers(data)
    kept = data[:found[1]] + b"".join(data[at:at + 2] for at in found[1:]) + b"\xff\xd9"
    assert refused(kept) == TRUNCATED
    assert refused(data[:found[0]] + b"\xff\xd0\xff\xd9") == TRUNCATED
    # A restart marker where none is due is an end like any other.
    data = cjpeg(200, 150)
    assert refused(patched(data, len(data) // 2, 0xFF, 0xD0)) == TRUNCATED


# ---------------------------------------------------------------- kinds that are not read

def test_other_kinds(libjpeg, refused):
    data = pillow_jpeg()
    frame = first(data, 0xC0)
    assert refused(patched(data, frame + 4, 12)) == "a JPEG of 12 bits a sample, which is not read"
    for marker, kind in [(0xC3, "lossless JPEG"), (0xCB, "lossless JPEG"), (0xC5, "hierarchical JPEG"),
                         (0xCF, "hierarchical JPEG"), (0xDE, "hierarchical JPEG"), (0xF7, "JPEG-LS image")]:
        assert refused(patched(data, frame + 1, marker)) == f"a {kind}, which is not read"
    for options in ("-progressive", "-progressive -restart 2B"):
        progressive = cjpeg(45, 37, *options.split())
        same = progressive
        for i in range(3):
            same = patched(same, first(progressive, 0xC2) + 10 + 3 * i, 1)
        for start in scan_starts(progressive):
            for i in range(progressive[start + 4]):
                same = patched(same, start + 5 + 2 * i, 1)
        assert refused(same) == "bad JPEG: several scans, and two components of identifier 1"
    two = behind_start(b"\xff\xd8", tables(), frame_header(0xC0, 8, 8, [(1, 0x11), (2, 0x11)]), scan([1, 2], 0, 63),
                       b"\0\xff\xd9")
    assert refused(two) == "a JPEG of 2 components, which is not read; 1, 3 and 4 are"
    assert refused(data[:first(data, 0xDA)] + b"\xff\xd9").startswith("bad JPEG: ")
    assert refused(patched(data, frame + 5, 0, 0)).startswith("bad JPEG: ")


# ---------------------------------------------------------------- cost

def tables():
    """A quantisation table, and Huffman tables: DC difference 0 is "0"; end of block is "10", and "0" begins an end
    of block of 16384 blocks and as many as the next 14 bits say."""
    def huffman(kind, symbols):
        return segment(0xC4, bytes([kind, 1, 1] + [0] * 14 + symbols))
    return segment(0xDB, bytes([0] + [1] * 64)) + huffman(0x00, [0, 1]) + huffman(0x10, [0xE0, 0x00])


def frame_header(marker, width, height, components):
    parts = b"".join(bytes([identifier, factors, 0]) for identifier, factors in components)
    return segment(marker, struct.pack(">BHHB", 8, height, width, len(components)) + parts)


def scan(components, start, end, approximation=0):
    parts = b"".join(bytes([identifier, 0]) for identifier in components)
    return segment(0xDA, bytes([len(components)]) + parts + bytes([start, end, approximation]))


def empty_blocks(count):
    """Ends of block for `count` blocks or more."""
    return bytes(b for _ in range(0, count, 32767 * 8) for b in bits("0" + "1" * 14 for _ in range(8)))


def bits(texts):
    text = "".join(texts)
    text += "1" * (-len(text) % 8)
    return int(text, 2).to_bytes(len(text) // 8, "big").replace(b"\xff", b"\xff\0")


@pytest.fixture
def cheaply_refused(refused, sanitized):
    """A function: this file is refused with no more than 1.2 GB, and soon. (The time is limited so that a file that
    takes hours fails the test; how many seconds it may be depends on the machine.)"""
    def refused_bytes(data):
        def limit():
            if not sanitized:
                resource.setrlimit(resource.RLIMIT_AS, (1_200_000_000, 1_200_000_000))
                resource.setrlimit(resource.RLIMIT_CPU, (30, 30))
        return refused(data, preexec_fn=limit)
    return refused_bytes


@pytest.mark.parametrize("width,height,scans", [(13000, 13000, 400), (65500, 8, 9000), (8, 65500, 4000),
                                                (8, 8, 400_000)])
@pytest.mark.parametrize("approximation", [0x00, 0x10], ids=["first", "refining"])
def test_scans_of_nothing(libjpeg, cheaply_refused, width, height, scans, approximation):
    """Progressive scans of a few bytes, each of which goes over the whole image."""
    blocks = -(-width // 8) * -(-height // 8)
    data = (b"\xff\xd8" + tables() + frame_header(0xC2, width, height, [(1, 0x11)]) +
            (scan([1], 1, 63, approximation) + empty_blocks(blocks)) * scans + b"\xff\xd9")
    assert cheaply_refused(data).startswith("too costly a JPEG: ")


@pytest.mark.parametrize("marker", [0xC0, 0xC1, 0xC2, 0xC9, 0xCA])
@pytest.mark.parametrize("factors", [0x11, 0x22])
def test_large_image_without_data(libjpeg, cheaply_refused, marker, factors):
    components = [(1, factors), (2, 0x11), (3, 0x11)]
    header = b"\xff\xd8" + tables() + frame_header(marker, 13000, 13000, components)
    end = 0 if marker in (0xC2, 0xCA) else 63
    for scans in (1, 128):
        reason = cheaply_refused(header + scan([1, 2, 3], 0, end) * scans + b"\xff\xd9")
        assert reason in (TRUNCATED, INCOMPLETE) or reason.startswith(("too large, ", "too costly "))
    reason = cheaply_refused(header + b"".join(scan([i], 0, end) for i in (1, 2, 3)) * 100 + b"\xff\xd9")
    assert reason in (TRUNCATED, INCOMPLETE) or reason.startswith(("too large, ", "too costly "))


@pytest.mark.parametrize("start,end,approximation", [(0, 63, 0), (63, 0, 0), (0, 0, 0x10)])
def test_arithmetic_scans_of_nothing(libjpeg, cheaply_refused, start, end, approximation):
    """Sequential ones, whose header libjpeg does not heed."""
    header = frame_header(0xC9, 4000, 4000, [(1, 0x11), (2, 0x11), (3, 0x11)])
    scans = b"".join(scan([i], start, end, approximation) for i in (1, 2, 3)) * 3000
    reason = cheaply_refused(b"\xff\xd8" + tables() + header + scans + b"\xff\xd9")
    assert reason.startswith("too costly a JPEG: ")


def test_large_progressive_image(libjpeg, cheaply_refused):
    """Its coefficients would take more than the limit."""
    header = frame_header(0xC2, 13000, 13000, [(1, 0x11), (2, 0x11), (3, 0x11)])
    reason = cheaply_refused(b"\xff\xd8" + tables() + header + scan([1, 2, 3], 0, 0) + b"\xff\xd9")
    assert reason == "too large, this JPEG of 13000 x 13000 takes 1521 MB to decode; the limit is 1130"


@pytest.mark.parametrize("options", ["", "-progressive", "-arithmetic", "-progressive -arithmetic", "-restart 1"])
def test_large_image_of_one_colour(libjpeg, runner, tmp_path, sanitized, options):
    """Few bytes, and yet all there: it is read."""
    if sanitized:
        pytest.skip("slow with sanitizers")
    side = 4000 if options == "-progressive -arithmetic" else 6000
    image = Image.new("RGB", (side, side), (10, 200, 90))
    out = io.BytesIO()
    image.save(out, "PPM")
    path = tmp_path / "flat.jpg"
    path.write_bytes(tool("cjpeg", *options.split(), data=out.getvalue()))
    done = runner("fit", 240, 240, "bilinear", path)
    assert done.returncode == 0, done.stderr.decode()
    with Image.open(path) as opened:
        assert done.stdout == bytes(opened.convert("RGB").getpixel((0, 0))) * (240 * 240)
