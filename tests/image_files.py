"""Writers of image files for tests, where Pillow's own would not write the kind that is wanted."""

import struct
import zlib

import numpy as np

CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by colour type
ADAM7 = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def paeth(left, up, corner):
    estimate = left + up - corner
    return min((left, up, corner), key=lambda value: abs(estimate - value))


def filtered(rows, pixel_bytes):
    """The rows with filter types 0 to 4 in turn."""
    out, above = b"", bytes(len(rows[0]))
    for number, row in enumerate(rows):
        kind = number % 5
        line = bytearray()
        for i, value in enumerate(row):
            left, up, corner = (row[i - pixel_bytes] if i >= pixel_bytes else 0, above[i],
                                above[i - pixel_bytes] if i >= pixel_bytes else 0)
            line.append(value - (0, left, up, (left + up) // 2, paeth(left, up, corner))[kind] & 255)
        out += bytes([kind]) + bytes(line)
        above = row
    return out


def packed_rows(samples, depth):
    """[height][width][channels] -> rows of bytes, samples high bit first."""
    flat = samples.reshape(samples.shape[0], -1).astype(np.uint16)
    if depth == 16:
        return [row.astype(">u2").tobytes() for row in flat]
    if depth == 8:
        return [row.astype(np.uint8).tobytes() for row in flat]
    bits = flat[:, :, None] >> np.arange(depth - 1, -1, -1) & 1
    return [row.tobytes() for row in np.packbits(bits.reshape(flat.shape[0], -1).astype(np.uint8), axis=1)]


def png_bytes(samples, depth, color_type, interlaced=False, palette=None, trns=None, before=(), after=()):
    """A PNG of `samples` [height][width][channels]; `before` and `after`: chunks around the pixels."""
    height, width, channels = samples.shape
    pixel_bytes = max(1, channels * depth // 8)
    if interlaced:
        parts = [samples[y::dy, x::dx] for x, y, dx, dy in ADAM7]
        data = b"".join(filtered(packed_rows(part, depth), pixel_bytes) for part in parts if part.size)
    else:
        data = filtered(packed_rows(samples, depth), pixel_bytes)
    png = b"\x89PNG\r\n\x1a\n"
    png += chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, color_type, 0, 0, int(interlaced)))
    png += b"".join(chunk(*item) for item in before)
    if palette is not None:
        png += chunk(b"PLTE", palette)
    if trns is not None:
        png += chunk(b"tRNS", trns)
    compressed = zlib.compress(data, 6)
    half = len(compressed) // 2
    png += chunk(b"IDAT", compressed[:half]) + chunk(b"IDAT", compressed[half:])
    return png + b"".join(chunk(*item) for item in after) + chunk(b"IEND", b"")


def random_png(rng, width, height, depth, color_type, interlaced, transparent):
    """Noise; `transparent`: with a tRNS chunk, whose colour, where it is one, a third of the pixels have."""
    samples = rng.integers(0, 1 << depth, (height, width, CHANNELS[color_type]))
    palette = trns = None
    if color_type == 3:
        palette = rng.integers(0, 256, 3 << depth, dtype=np.uint8).tobytes()
        trns = rng.integers(0, 256, (1 << depth) - 1, dtype=np.uint8).tobytes()
    elif color_type in (0, 2):
        samples[rng.random((height, width)) < 0.3] = samples[0, 0]
        trns = samples[0, 0].astype(">u2").tobytes()
    return png_bytes(samples, depth, color_type, interlaced, palette, trns if transparent else None)


def lzw_blocks(indices, bits, clears=True):
    """GIF's codes for the indices; without `clears` the table fills up and stays as it is."""
    clear, end = 1 << bits, (1 << bits) + 1
    table, size, out, hold, held = {}, bits + 1, bytearray(), 0, 0

    def emit(code):
        nonlocal hold, held
        hold |= code << held
        held += size
        while held >= 8:
            out.append(hold & 255)
            hold >>= 8
            held -= 8

    emit(clear)
    following, prefix = end + 1, None
    for index in map(int, indices):
        if prefix is None:
            prefix = index
        elif (prefix, index) in table:
            prefix = table[prefix, index]
        else:
            emit(prefix)
            if following < 4096:
                table[prefix, index] = following
                if following == 1 << size and size < 12:
                    size += 1
                following += 1
            elif clears:
                emit(clear)
                table, size, following = {}, bits + 1, end + 1
            prefix = index
    emit(prefix)
    emit(end)
    out.append(hold & 255)
    return b"".join(bytes([len(out[i:i + 255])]) + bytes(out[i:i + 255]) for i in range(0, len(out), 255)) + b"\0"


def gif_bytes(indices, screen, corner=(0, 0), bits=8, palette=None, local=None, transparent=None, clears=True,
              interlaced=False, code_bits=None):
    height, width = indices.shape
    gif = b"GIF89a" + struct.pack("<HHBBB", *screen, 0x80 | bits - 1 if palette else 0, 5, 0) + (palette or b"")
    gif += b"!\xfe\x07comment\0"
    if transparent is not None:
        gif += b"!\xf9\x04" + struct.pack("<BHB", 1, 0, transparent) + b"\0"
    flags = (0x80 | bits - 1 if local else 0) | (0x40 if interlaced else 0)
    gif += b"," + struct.pack("<HHHHB", *corner, width, height, flags) + (local or b"")
    order = [*range(0, height, 8), *range(4, height, 8), *range(2, height, 4), *range(1, height, 2)]
    rows = indices[order] if interlaced else indices
    code_bits = code_bits or max(bits, 2)
    return gif + bytes([code_bits]) + lzw_blocks(rows.reshape(-1), code_bits, clears) + b";"


def tiff_rows(samples, bits, order):
    """[height][width][channels] -> rows of bytes; 16 bits in the file's order, fewer high bit first."""
    flat = samples.reshape(samples.shape[0], -1)
    if bits == 16:
        return flat.astype(order + "u2").tobytes()
    if bits == 8:
        return flat.astype(np.uint8).tobytes()
    planes = flat.astype(np.uint16)[:, :, None] >> np.arange(bits - 1, -1, -1) & 1
    return b"".join(np.packbits(row.reshape(-1).astype(np.uint8)).tobytes() for row in planes)


def tiff_blocks(samples, tile, rows):
    """In strips of `rows`, or in tiles (width, height), which are filled up with zeros."""
    height, width, channels = samples.shape
    if not tile:
        return [samples[y:y + rows] for y in range(0, height, rows)]
    padded = np.zeros((-height % tile[1] + height, -width % tile[0] + width, channels), samples.dtype)
    padded[:height, :width] = samples
    return [padded[y:y + tile[1], x:x + tile[0]] for y in range(0, height, tile[1]) for x in range(0, width, tile[0])]


def tiff_bytes(samples, bits, photometric, order="<", big=False, planes=False, tile=None, rows=None, extra=(), palette=None,
               pack=None, compression=1, tags=()):
    """A TIFF of `samples` [height][width][channels]; `pack(block, its bytes)` compresses a strip or tile, `tags` are
    more of the directory's entries: (tag, type, values), type "B", "H", "I" or "d"."""
    height, width, channels = samples.shape
    rows = rows or height
    parts = [samples[:, :, c:c + 1] for c in range(channels)] if planes else [samples]
    blocks = [block for part in parts for block in tiff_blocks(part, tile, rows)]
    blobs = [tiff_rows(block, bits, order) for block in blocks]
    if pack:
        blobs = [pack(block, blob) for block, blob in zip(blocks, blobs)]
    word, header = ("Q", 16) if big else ("I", 8)
    offsets = [header + sum(map(len, blobs[:i])) for i in range(len(blobs))]
    entries = [(256, "I", [width]), (257, "I", [height]), (258, "H", [bits] * channels), (259, "H", [compression]),
               (262, "H", [photometric]), (277, "H", [channels]), (284, "H", [1 + planes])]
    sizes = [len(blob) for blob in blobs]
    if tile:
        entries += [(322, "I", [tile[0]]), (323, "I", [tile[1]]), (324, word, offsets), (325, word, sizes)]
    else:
        entries += [(273, word, offsets), (278, "I", [rows]), (279, word, sizes)]
    if palette is not None:
        entries.append((320, "H", palette))
    if extra:
        entries.append((338, "H", list(extra)))
    entries = sorted({entry[0]: entry for entry in [*entries, *tags]}.values())

    at = header + sum(sizes)
    size, number = struct.calcsize("=" + word), {"B": 1, "H": 3, "I": 4, "d": 12, "Q": 16}
    values_at = at + (8 if big else 2) + len(entries) * (4 + 2 * size) + size
    directory, values = struct.pack(order + ("Q" if big else "H"), len(entries)), b""
    for tag, kind, content in entries:
        value = struct.pack(f"{order}{len(content)}{kind}", *content)
        if len(value) > size:
            values, value = values + value, struct.pack(order + word, values_at + len(values))
        directory += struct.pack(order + "HH" + word, tag, number[kind], len(content)) + value.ljust(size, b"\0")
    start = (b"II" if order == "<" else b"MM") + struct.pack(order + "H", 43 if big else 42)
    start += struct.pack(order + "HHQ", 8, 0, at) if big else struct.pack(order + "I", at)
    return start + b"".join(blobs) + directory + bytes(size) + values
