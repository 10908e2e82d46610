"""BMP: what Pillow reads must give Pillow's bytes, and what it refuses though the format defines it, the
format's. The kinds are those of the usual test collections; every file is made here."""

import struct

import numpy as np
import pytest

from pixels import E_DATA, SEED, assert_same, pillow_rgb

WINDOWS = (40, 52, 56, 108, 124)
WIDTHS = (1, 2, 3, 7, 8, 9, 31, 33)


def header_bytes(size, width, height, bits, compression=0, colours=0, masks=()):
    """A header of `size` bytes; masks that it has no room for follow it."""
    if size == 12:
        return struct.pack("<IHHHH", 12, width, height, 1, bits)
    fields = struct.pack("<IiiHHIIiiII", size, width, height, 1, bits, compression, 0, 2835, 2835, colours, 0)
    return (fields + b"".join(struct.pack("<I", mask) for mask in masks)).ljust(size, b"\0") if size > 40 else \
        fields[:size] + b"".join(struct.pack("<I", mask) for mask in masks)


def bmp_file(data, size, width, height, bits, palette=b"", gap=b"", offset=None, **more):
    headers = header_bytes(size, width, height, bits, **more)
    if offset is None:
        offset = 14 + len(headers) + len(palette) + len(gap)
    return struct.pack("<2sIHHI", b"BM", 0, 0, 0, offset) + headers + palette + gap + data


def packed(samples, bits):
    """[height][width] of numbers -> rows from the bottom, each a multiple of four bytes."""
    rows = []
    for row in samples[::-1]:
        if bits < 8:
            flat = (row[:, None] >> np.arange(bits - 1, -1, -1) & 1).astype(np.uint8)
            data = np.packbits(flat.reshape(-1)).tobytes()
        else:
            data = b"".join(int(value).to_bytes(bits // 8, "little") for value in row)
        rows.append(data + bytes(-len(data) % 4))
    return b"".join(rows)


def random_palette(rng, count, entry=4):
    return rng.integers(0, 256, count * entry, dtype=np.uint8).tobytes()


def palette_rgb(palette, entry=4):
    """All 256 colours; those that are not there are black."""
    colours = np.zeros((256, 3), np.uint8)
    known = np.frombuffer(palette, np.uint8).reshape(-1, entry)[:256, 2::-1]
    colours[:len(known)] = known
    return colours


@pytest.fixture
def write(tmp_path):
    path = tmp_path / "image.bmp"

    def write_file(data):
        path.write_bytes(data)
        return path
    return write_file


# ---------------------------------------------------------------- headers and depths

@pytest.mark.parametrize("top_down", [False, True], ids=["bottom_up", "top_down"])
@pytest.mark.parametrize("bits", [1, 4, 8, 16, 24, 32])
@pytest.mark.parametrize("size", [12, 64, *WINDOWS])
def test_headers(decode, write, size, bits, top_down):
    rng = np.random.default_rng([SEED, size, bits])
    for width in WIDTHS:
        samples = rng.integers(0, 1 << bits, (5, width))
        palette = random_palette(rng, 1 << bits, 3 if size == 12 else 4) if bits <= 8 else b""
        height = -5 if top_down and size != 12 else 5
        path = write(bmp_file(packed(samples, bits), size, width, height, bits, palette))
        assert_same(decode(path), pillow_rgb(path))


@pytest.mark.parametrize("size", range(16, 65, 4))
def test_short_os2_headers(decode, write, size):
    """Of an OS/2 2 header, what is left out is zero: no compression, a full palette."""
    rng = np.random.default_rng([SEED, size])
    samples, palette = rng.integers(0, 256, (6, 11)), random_palette(rng, 256)
    path = write(bmp_file(packed(samples, 8), size, 11, 6, 8, palette))
    assert_same(decode(path), palette_rgb(palette)[samples])


@pytest.mark.parametrize("bits", [2, 4])
@pytest.mark.parametrize("grey", [False, True])
def test_few_bits(decode, write, bits, grey):
    """Two bits, which Pillow refuses, and greys that are their own indices, which it mistakes for 8 bits."""
    rng = np.random.default_rng([SEED, bits])
    samples = rng.integers(0, 1 << bits, (7, 13))
    palette = b"".join(bytes([i, i, i, 0]) for i in range(1 << bits)) if grey else random_palette(rng, 1 << bits)
    path = write(bmp_file(packed(samples, bits), 40, 13, 7, bits, palette))
    assert_same(decode(path), palette_rgb(palette)[samples])


# ---------------------------------------------------------------- palettes and offsets

@pytest.mark.parametrize("colours", [1, 2, 3, 12, 101, 255, 256])
@pytest.mark.parametrize("bits", [1, 4, 8])
def test_indices_behind_the_palette_are_black(decode, write, bits, colours):
    rng = np.random.default_rng([SEED, bits, colours])
    samples = rng.integers(0, 1 << bits, (9, 21))
    palette = random_palette(rng, colours)
    path = write(bmp_file(packed(samples, bits), 40, 21, 9, bits, palette, colours=colours))
    for _ in range(3):
        assert_same(decode(path), palette_rgb(palette)[samples])
    assert_same(decode(path), pillow_rgb(path))


def test_black_and_white_in_many_bits(decode, write):
    """Two colours, black and white, in 4 or 8 bits: Pillow would read 1 bit a pixel."""
    samples = np.random.default_rng(SEED).integers(0, 2, (9, 40))
    for bits in (4, 8):
        path = write(bmp_file(packed(samples, bits), 40, 40, 9, bits, b"\0\0\0\0\xff\xff\xff\0", colours=2))
        assert_same(decode(path), np.repeat(samples[..., None] * 255, 3, axis=2).astype(np.uint8))


@pytest.mark.parametrize("bits,colours", [(8, 256), (8, 100), (8, 3), (1, 1)])
def test_grey_palettes(decode, write, bits, colours):
    """A palette of greys that are their own indices: Pillow does not look at it, so it lacks nothing."""
    samples = np.random.default_rng(SEED).integers(0, 1 << bits, (9, 40))
    palette = b"".join(bytes([i, i, i, 0]) for i in range(colours))
    path = write(bmp_file(packed(samples, bits), 40, 40, 9, bits, palette, colours=colours))
    assert_same(decode(path), pillow_rgb(path))


@pytest.mark.parametrize("bits", [4, 8])
def test_os2_palette_runs_into_the_pixels(decode, write, bits):
    """OS/2 1 does not count colours: the palette ends where the pixels begin."""
    rng = np.random.default_rng([SEED, bits])
    palette = random_palette(rng, 12, 3)
    samples = rng.integers(0, 12, (1 if bits == 4 else 9, 16))
    path = write(bmp_file(packed(samples, bits), 12, 16, len(samples), bits, palette))
    assert_same(decode(path), palette_rgb(palette, 3)[samples])
    assert_same(decode(path), pillow_rgb(path))


def test_oversize_palette(decode, write):
    rng = np.random.default_rng(SEED)
    palette, samples = random_palette(rng, 300), rng.integers(0, 256, (5, 19))
    path = write(bmp_file(packed(samples, 8), 40, 19, 5, 8, palette, colours=300))
    assert_same(decode(path), palette_rgb(palette)[samples])


@pytest.mark.parametrize("size", [40, 108, 124])
@pytest.mark.parametrize("bits", [8, 16, 24, 32])
@pytest.mark.parametrize("gap", [0, 1, 2, 12, 1000])
def test_gaps(decode, write, size, bits, gap):
    """Bytes between headers and pixels, among them palettes of files that need none."""
    rng = np.random.default_rng([SEED, bits, gap])
    samples = rng.integers(0, 1 << bits, (5, 19))
    for colours in {256 if bits == 8 else 0, 256, 300 if bits > 8 else 256}:
        path = write(bmp_file(packed(samples, bits), size, 19, 5, bits, random_palette(rng, colours), bytes(gap),
                              colours=colours))
        assert_same(decode(path), pillow_rgb(path))


@pytest.mark.parametrize("bits", [1, 8, 24, 32])
@pytest.mark.parametrize("offset", [0, 54])
def test_offset_that_is_not_told(decode, write, bits, offset):
    """Zero, or the palette left out when counting."""
    rng = np.random.default_rng([SEED, bits])
    palette = random_palette(rng, 1 << bits) if bits <= 8 else b""
    path = write(bmp_file(packed(rng.integers(0, 1 << bits, (5, 19)), bits), 40, 19, 5, bits, palette, offset=offset))
    assert_same(decode(path), pillow_rgb(path))


def test_fields_that_do_not_matter(decode, write):
    rng = np.random.default_rng(SEED)
    path = write(bmp_file(packed(rng.integers(0, 1 << 24, (5, 19)), 24), 40, 19, 5, 24))
    data = bytearray(path.read_bytes())
    expected = decode(path)
    for at, size in ((2, 4), (6, 4), (26, 2), (34, 4), (38, 4), (42, 4), (50, 4)):
        changed = data.copy()
        changed[at:at + size] = b"\xff" * size
        assert_same(decode(write(changed)), expected)
        assert_same(decode(write(changed)), pillow_rgb(write(changed)))


# ---------------------------------------------------------------- masks

def masked(samples, mask):
    """One channel: v * 255 / (2^n - 1), rounded down for 5 and 6 bits, else to the nearest."""
    if not mask:
        return np.zeros(samples.shape, np.uint8)
    shift = (mask & -mask).bit_length() - 1
    most = mask >> shift
    half = 0 if most in (31, 63) else most // 2
    return ((((samples & mask) >> shift) * 255 + half) // most).astype(np.uint8)


PILLOW_MASKS = [
    (32, (0xFF0000, 0xFF00, 0xFF, 0)), (32, (0xFF000000, 0xFF0000, 0xFF00, 0)), (32, (0xFF000000, 0xFF00, 0xFF, 0)),
    (32, (0xFF000000, 0xFF0000, 0xFF00, 0xFF)), (32, (0xFF, 0xFF00, 0xFF0000, 0xFF000000)),
    (32, (0xFF0000, 0xFF00, 0xFF, 0xFF000000)), (32, (0xFF000000, 0xFF00, 0xFF, 0xFF0000)), (32, (0, 0, 0, 0)),
    (24, (0xFF0000, 0xFF00, 0xFF, 0)), (16, (0xF800, 0x7E0, 0x1F, 0)), (16, (0x7C00, 0x3E0, 0x1F, 0)),
    (16, (0x7C00, 0x3E0, 0x1F, 0x8000))]
OTHER_MASKS = [
    (32, (0xFF, 0xFF00, 0xFF0000, 0)), (32, (0xFFE00000, 0x1FFC00, 0x3FF, 0)), (32, (0xFE000000, 0x1FFFF80, 0x7F, 0)),
    (32, (0x3FF, 0xFFC00, 0x3FF00000, 0xC0000000)), (32, (0xFFFFFFFE, 1, 0, 0)), (16, (0xF00, 0xF0, 0xF, 0xF000)),
    (16, (0x3000, 0xE00, 0x100, 0)), (16, (0xE000, 0x1FF8, 7, 0)), (16, (0xFF, 0xFF00, 0, 0)),
    (24, (0xFF, 0xFF00, 0xFF0000, 0))]


@pytest.mark.parametrize("size,bits,masks", [
    (size, bits, masks) for size in WINDOWS for bits, masks in PILLOW_MASKS
    if size >= 56 or bits < 32 or (bits, (*masks[:3], 0)) in PILLOW_MASKS])
def test_masks_that_pillow_reads(decode, write, size, bits, masks):
    samples = np.random.default_rng([SEED, bits]).integers(0, 1 << bits, (7, 33))
    count = 4 if size >= 56 else 3
    path = write(bmp_file(packed(samples, bits), size, 33, 7, bits, compression=3, masks=masks[:count]))
    assert_same(decode(path), pillow_rgb(path))


@pytest.mark.parametrize("bits,masks", OTHER_MASKS)
@pytest.mark.parametrize("size,compression", [
    (20, 3), (36, 3), (36, 6), (40, 3), (40, 6), (52, 3), (52, 6), (56, 3), (124, 3)])
def test_masks_that_pillow_refuses(decode, write, size, compression, bits, masks):
    samples = np.random.default_rng([SEED, bits]).integers(0, 1 << bits, (7, 33))
    count = 4 if size >= 56 or (size < 52 and compression == 6) else 3
    path = write(bmp_file(packed(samples, bits), size, 33, 7, bits, compression=compression, masks=masks[:count]))
    assert_same(decode(path), np.stack([masked(samples, mask) for mask in masks[:3]], axis=-1))


@pytest.mark.parametrize("bits,masks", [
    (16, (0, 0, 0)), (16, (0xF80000, 0x7E0, 0x1F)), (16, (0xFF00, 0xFF0, 0xF)), (32, (0xFF0F00, 0xF000, 0xFF))])
def test_impossible_masks(runner, write, bits, masks):
    path = write(bmp_file(bytes(64), 40, 4, 4, bits, compression=3, masks=masks))
    done = runner("decode", path)
    assert done.returncode == E_DATA and "mask" in done.stderr.decode()


# ---------------------------------------------------------------- run lengths

def run_lengths(rng, indices, bits, skips):
    """Codes for [height][width] from the bottom, by chance runs, values and, with `skips`, steps over pixels
    and rows. Gives the codes and which pixels they set."""
    height, width = indices.shape
    out, known = bytearray(), np.zeros(indices.shape, bool)
    y = 0
    while y < height:
        x = 0
        while x < width:
            count = int(rng.integers(1, min(width - x, 255) + 1))
            kind = int(rng.integers(4 if skips else 2))
            if kind == 3:  # an early end of the row
                break
            if kind == 2:
                down = int(rng.integers(0, min(3, height - y)))
                out += bytes([0, 2, count, down])
                x, y = x + count, y + down
                continue
            values = indices[height - 1 - y, x:x + count]
            if kind == 0 or count < 3:
                first, second = int(values[0]), int(values[min(1, count - 1)]) if bits == 4 else int(values[0])
                values = np.where(np.arange(count) % 2 == 0, first, second)
                out += bytes([count, first << 4 | second if bits == 4 else first])
            elif bits == 4:
                pairs = np.append(values, 0)[:count + count % 2].reshape(-1, 2)
                data = bytes(int(a) << 4 | int(b) for a, b in pairs)
                out += bytes([0, count]) + data + bytes(len(data) % 2)
            else:
                out += bytes([0, count]) + values.astype(np.uint8).tobytes() + bytes(count % 2)
            indices[height - 1 - y, x:x + count] = values
            known[height - 1 - y, x:x + count] = True
            x += count
        out += b"\0\0"
        y += 1
    return bytes(out + b"\0\1"), known


@pytest.mark.parametrize("skips", [False, True], ids=["whole", "skipping"])
@pytest.mark.parametrize("bits", [4, 8])
def test_run_lengths(decode, write, bits, skips):
    rng = np.random.default_rng([SEED, bits, skips])
    palette = random_palette(rng, 1 << bits)
    for round_ in range(30):
        width, height = int(rng.integers(1, 300)), int(rng.integers(1, 20))
        indices = rng.integers(0, 1 << bits, (height, width))
        data, known = run_lengths(rng, indices, bits, skips)
        path = write(bmp_file(data, 40, width, height, bits, palette, compression=3 - bits // 4))
        print(f"{width} x {height}, round {round_}, seed {SEED}")
        assert_same(decode(path), palette_rgb(palette)[np.where(known, indices, 0)])
        if not skips:
            assert_same(decode(path), pillow_rgb(path))


@pytest.mark.parametrize("height", [3, -3])
def test_runs_that_do_not_keep_to_rows(decode, write, height):
    """A run is cut at the row's end; values go on in the next row, as in Pillow. Rows from the top, too."""
    palette = random_palette(np.random.default_rng(SEED), 256)
    data = b"\x09\x01\0\0" + b"\0\x06abcdef" + b"\x09\x02\0\0" + b"\x05\x03" + b"\0\1"
    path = write(bmp_file(data, 40, 5, height, 8, palette, compression=1))
    assert_same(decode(path), pillow_rgb(path))


def test_runs_that_end_early(decode, runner, write):
    """Behind the end of the bitmap everything has index 0; without that mark the file is truncated."""
    palette = random_palette(np.random.default_rng(SEED), 256)
    rgb = palette_rgb(palette)
    path = write(bmp_file(b"\x02\x07\0\1", 40, 4, 2, 8, palette, compression=1))
    assert_same(decode(path), rgb[np.array([[0, 0, 0, 0], [7, 7, 0, 0]])])
    for data in (b"\x02\x07", b"\x02", b"\x02\x07\0\2\1", b"\x02\x07\0\x05abcd"):
        done = runner("decode", write(bmp_file(data, 40, 4, 4, 8, palette, compression=1)))
        assert done.returncode == E_DATA and "truncated" in done.stderr.decode()


def test_run_lengths_of_colours(decode, write):
    """OS/2 2 alone has them."""
    data = b"\x03BGR" + b"\0\x03" + b"abcdefghi\0" + b"\0\1"
    path = write(bmp_file(data, 64, 3, 2, 24, compression=4))
    assert_same(decode(path), np.array([[list(b"cba"), list(b"fed"), list(b"ihg")], [list(b"RGB")] * 3], np.uint8))


# ---------------------------------------------------------------- files that end early

@pytest.mark.parametrize("top_down", [False, True], ids=["bottom_up", "top_down"])
@pytest.mark.parametrize("bits", [1, 4, 8, 16, 24, 32])
def test_padding_may_lack_at_the_end(decode_all, runner, write, tmp_path, bits, top_down):
    """Some writers leave out the padding of the last row that is stored. Of its pixels nothing may lack."""
    rng = np.random.default_rng([SEED, bits])
    palette = random_palette(rng, 1 << bits) if bits <= 8 else b""
    for width, height in [(w, h) for w in (*WIDTHS, 37) for h in (1, 4)]:
        samples = rng.integers(0, 1 << bits, (height, width))
        whole = bmp_file(packed(samples, bits), 40, width, -height if top_down else height, bits, palette)
        padding = -((width * bits + 7) // 8) % 4
        paths = [tmp_path / f"{cut}.bmp" for cut in range(padding + 1)]
        for cut, path in enumerate(paths):
            path.write_bytes(whole[:len(whole) - cut])
        expected, *others = decode_all(paths)
        for path, pixels in zip(paths[1:], others):
            assert_same(pixels, expected)
            assert_same(pixels, pillow_rgb(path))
        done = runner("decode", write(whole[:-padding - 1]))
        assert done.returncode == E_DATA and "truncated" in done.stderr.decode()


# ---------------------------------------------------------------- what is refused

@pytest.mark.parametrize("data,reason", [
    (bmp_file(bytes(64), 40, 4, 4, 30000), "bad BMP: bits a pixel: 30000"),
    (bmp_file(bytes(64), 40, 4, 4, 64), "bad BMP: bits a pixel: 64"),
    (bmp_file(bytes(64), 66, 4, 4, 8), "bad BMP: bytes of header: 66"),
    (bmp_file(bytes(64), 40, 4, 4, 8, colours=0x12345678), "bad BMP: colours in the palette: 305419896"),
    (bmp_file(bytes(64), 40, -4, 4, 8), "bad size, -4 x 4"),
    (bmp_file(bytes(64), 40, 4, 0, 8), "bad size, 4 x 0"),
    (bmp_file(bytes(64), 40, 3000000, 2000000, 8),
     "too large, 3000000 x 2000000 is more than the limit of 178956970 pixels"),
    (bmp_file(bytes(64), 40, 4, 4, 8, compression=2, offset=5000), "truncated, the file ends before the image does"),
    (bmp_file(bytes(64), 40, 4, 4, 8, compression=7), "bad BMP: compression 7 of 8 bits a pixel"),
    (bmp_file(bytes(64), 40, 4, 4, 24, compression=1), "bad BMP: compression 1 of 24 bits a pixel"),
    (bmp_file(bytes(64), 124, 4, 4, 0, compression=4), "a JPEG within a BMP, which is not read"),
    (bmp_file(bytes(64), 124, 4, 4, 0, compression=5), "a PNG within a BMP, which is not read"),
    (bmp_file(bytes(64), 64, 4, 4, 1, compression=3), "a BMP in Huffman codes, which is not read"),
    (bmp_file(packed(np.zeros((4, 4), int), 24)[:-1], 40, 4, 4, 24), "truncated, the file ends before the image does"),
])
def test_refused(runner, write, data, reason):
    path = write(data)
    done = runner("decode", path)
    assert (done.returncode, done.stderr.decode()) == (E_DATA, f"{path}: {reason}\n")
