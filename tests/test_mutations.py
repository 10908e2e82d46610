"""Damaged images of every kind, by tests/run_mutate_images.c: each gives an image or a line that says why not.

What counts is the build: under the address and the memory sanitizer (make check SAN=1, make check-msan) a
read of bytes that are not there, or that nobody wrote, ends the program. $EFFNET_TEST_ROUNDS is how many copies of
each file are tried.
"""

import os
import subprocess
import zlib

import numpy as np
import pytest

from image_files import CHANNELS, gif_bytes, png_bytes, tiff_bytes
from pixels import SEED, exif_block, smooth_image
from test_avif import GRID, TEN_BITS, TEN_BITS_ALPHA
from test_bmp import bmp_file, packed, random_palette, run_lengths
from test_formats import TGA_KINDS, tga_file, tga_packets
from test_webp import with_alpha

ROUNDS = int(os.environ.get("EFFNET_TEST_ROUNDS", 100))
FILES = {}


def kind(name):
    def keep(make):
        FILES[name] = make
        return make
    return keep


@kind("png")
def png_files(rng):
    for color_type, depths in ((0, (1, 4, 16)), (2, (8, 16)), (3, (2, 8)), (4, (8,)), (6, (8, 16))):
        for depth in depths:
            samples = rng.integers(0, 1 << depth, (9, 13, CHANNELS[color_type]))
            palette = random_palette(rng, 1 << depth, 3) if color_type == 3 else None
            trns = {0: b"\0\1", 2: bytes(6), 3: b"\0\x80"}.get(color_type)
            profile = b"\nexif\n  26\n" + exif_block(6).hex().encode()
            text = (b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(profile))
            exif = [(b"eXIf", exif_block(3))][:depth % 3]
            yield png_bytes(samples, depth, color_type, depth != 8, palette, trns, exif, [text])


@kind("jpeg")
def jpeg_files(_rng):
    for options in ({}, {"progressive": True}, {"subsampling": "4:2:0", "restart_marker_rows": 1}):
        for mode in ("RGB", "L", "CMYK"):
            yield lambda path, mode=mode, options=options: \
                smooth_image(37, 29).convert(mode).save(path, "JPEG", exif=b"Exif\0\0" + exif_block(6), **options)


@kind("bmp")
def bmp_files(rng):
    for bits in (1, 2, 4, 8, 16, 24, 32):
        palette = random_palette(rng, 1 << bits) if bits <= 8 else b""
        yield bmp_file(packed(rng.integers(0, 1 << bits, (7, 13)), bits), 108, 13, 7, bits, palette, bytes(12))
    for bits in (4, 8):
        data, _ = run_lengths(rng, rng.integers(0, 1 << bits, (7, 40)), bits, True)
        yield bmp_file(data, 40, 40, 7, bits, random_palette(rng, 1 << bits), compression=3 - bits // 4)
    yield bmp_file(b"\x03BGR\0\x03abcdefghi\0\0\1", 64, 3, 2, 24, compression=4)
    yield bmp_file(packed(rng.integers(0, 1 << 8, (7, 13)), 8), 12, 13, 7, 8, random_palette(rng, 20, 3))
    for masks in ((0xff000000, 0xff0000, 0xff00, 0xff), (0x3ff, 0xffc00, 0x3ff00000, 0xc0000000)):
        yield bmp_file(packed(rng.integers(0, 1 << 32, (7, 13)), 32), 56, 13, 7, 32, compression=3, masks=masks)


@kind("gif")
def gif_files(rng):
    for bits, interlaced, clears in ((1, False, True), (4, True, True), (8, False, False)):
        yield gif_bytes(rng.integers(0, 1 << bits, (40, 50)), (60, 45), (3, 2), bits, random_palette(rng, 1 << bits, 3),
                        transparent=1, interlaced=interlaced, clears=clears)
    yield gif_bytes(rng.integers(0, 4, (20, 20)), (20, 20), bits=2, palette=bytes(range(12)), code_bits=11)


@kind("tga")
def tga_files(rng):
    for type_, bits, map_bits in TGA_KINDS:
        pixels = rng.integers(0, 256, (7, 13, bits // 8), dtype=np.uint8)
        palette = random_palette(rng, 100, map_bits // 8) if map_bits else b""
        yield tga_file(pixels.tobytes(), type_, 13, 7, bits, 0x18, palette=palette, first=5, map_bits=map_bits)
        yield tga_file(tga_packets(rng, pixels, True), type_ | 8, 13, 7, bits, 0, palette=palette, map_bits=map_bits)


@kind("pnm")
def pnm_files(rng):
    for digit, channels in ((1, 1), (2, 1), (3, 3), (4, 1), (5, 1), (6, 3)):
        for maximum in (255, 1000) if digit % 3 != 1 else (1,):
            samples = rng.integers(0, maximum + 1, (5, 16 * channels))
            header = f"P{digit} # a comment\n16 5\n" + (f"{maximum}\n" if digit % 3 != 1 else "")
            if digit < 4:
                body = " ".join(map(str, samples.reshape(-1))).encode()
            elif digit == 4:
                body = np.packbits(samples.astype(np.uint8), axis=1).tobytes()
            else:
                body = samples.astype(">u2" if maximum > 255 else np.uint8).tobytes()
            yield header.encode() + body


@kind("webp")
def webp_files(_rng):
    for options in ({}, {"lossless": True}, {"exif": exif_block(6)}, {"save_all": True, "append_images": [smooth_image(37, 29, 1)]}):
        for mode in ("RGB", "RGBA"):
            yield lambda path, mode=mode, options=options: \
                smooth_image(37, 29).convert(mode).save(path, "WEBP", **options)


@kind("tiff")
def tiff_files(rng):
    def noise(bits, channels):
        return rng.integers(0, 1 << bits, (29, 37, channels))
    for order, big, planes in (("<", False, False), (">", False, True), ("<", True, False), (">", True, True)):
        for geometry in ({}, {"rows": 5}, {"tile": (16, 16)}):
            yield tiff_bytes(noise(8, 4), 8, 2, order, big, planes, extra=(2,), tags=[(274, "H", [6])], **geometry)
            yield tiff_bytes(noise(16, 3), 16, 2, order, big, planes, pack=lambda _, data: zlib.compress(data), compression=8,
                             tags=[(317, "H", [2])], **geometry)
    yield tiff_bytes(noise(4, 1), 4, 3, palette=rng.integers(0, 65536, 48).tolist(), tags=[(700, "B", b"tiff:Orientation>6")])
    yield tiff_bytes(noise(12, 1), 12, 1)
    for mode, compressions in (("RGB", "tiff_lzw tiff_adobe_deflate packbits lzma zstd jpeg"), ("YCbCr", "jpeg"), ("CMYK", "jpeg"),
                               ("1", "tiff_ccitt group3 group4 tiff_lzw")):
        for compression in compressions.split():
            yield lambda path, mode=mode, compression=compression: \
                smooth_image(37, 29).convert(mode).save(path, "TIFF", compression=compression, tiffinfo={278: 8})


@kind("avif")
def avif_files(_rng):
    for options in ({}, {"subsampling": "4:4:4", "range": "limited"}, {"exif": exif_block(6)}):
        for image in (smooth_image(37, 29), smooth_image(37, 29).convert("L"), with_alpha(smooth_image(37, 29))):
            yield lambda path, image=image, options=options: image.save(path, "AVIF", speed=10, **options)
    yield lambda path: smooth_image(37, 29).save(path, "AVIF", save_all=True, append_images=[smooth_image(37, 29, 1)])
    yield from (TEN_BITS, TEN_BITS_ALPHA, GRID)


@pytest.mark.parametrize("name", FILES)
def test_damaged_files(request, build, tmp_path, name):
    library = {"webp": "libwebp", "tiff": "libtiff", "avif": "libavif"}.get(name)
    if library and not request.getfixturevalue(f"has_{library}"):
        pytest.skip(f"this build is without {library}")
    paths = []
    for number, content in enumerate(FILES[name](np.random.default_rng(SEED))):
        paths.append(tmp_path / f"{number}.{name}")
        if callable(content):
            content(paths[-1])
        else:
            paths[-1].write_bytes(content)
    seed = os.environ.get("EFFNET_TEST_SEED", str(SEED))
    done = subprocess.run([build / "tests" / "run_mutate_images", str(ROUNDS), seed, *paths], capture_output=True,
                          text=True, timeout=3600, check=False)
    print(done.stdout[-4000:], done.stderr[-8000:])
    assert done.returncode == 0 and done.stderr == ""
    assert done.stdout.count(" decoded, ") == len(paths)
