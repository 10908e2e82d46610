#!/usr/bin/env python3
"""Draws samples/: images that the ImageNet networks recognise, in the file formats that effnet reads.

    tools/draw_samples.py [FOLDER]      default: samples

A file that is there already and holds anything else is left alone: remove it to have it drawn anew.

A sample is named after the class it shows. Everything is drawn at four times its size and averaged down,
with fixed seeds, so the same pixels come out each time.
"""

import io
import math
import random
import struct
import sys
import zlib
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

SCALE = 4  # supersampling


class Canvas:
    """A drawing surface in units of final pixels."""

    def __init__(self, width, height, background):
        self.width, self.height = width, height
        self.image = Image.new("RGB", (width * SCALE, height * SCALE), background)
        self.draw = ImageDraw.Draw(self.image)

    def ellipse(self, x, y, rx, ry, fill, outline=None, width=0):
        box = [v * SCALE for v in (x - rx, y - ry, x + rx, y + ry)]
        self.draw.ellipse(box, fill=fill, outline=outline, width=width * SCALE)

    def rectangle(self, x0, y0, x1, y1, fill=None, outline=None, width=0, radius=0):
        box = [v * SCALE for v in (x0, y0, x1, y1)]
        self.draw.rounded_rectangle(box, radius * SCALE, fill=fill, outline=outline, width=width * SCALE)

    def polygon(self, points, fill):
        self.draw.polygon([(x * SCALE, y * SCALE) for x, y in points], fill=fill)

    def line(self, points, fill, width=1.0):
        self.draw.line([(x * SCALE, y * SCALE) for x, y in points], fill=fill, width=round(width * SCALE))

    def text(self, x, y, text, size, fill="black", anchor="mm"):
        font = ImageFont.load_default(size * SCALE)
        self.draw.text((x * SCALE, y * SCALE), text, fill=fill, font=font, anchor=anchor)

    def sky(self, top, bottom):
        """A vertical gradient over all of it."""
        rows = self.height * SCALE
        for y in range(rows):
            colour = tuple(round(a + (b - a) * y / rows) for a, b in zip(top, bottom))
            self.draw.line((0, y, self.width * SCALE, y), fill=colour)

    def pixels(self):
        """float [height][width][3] in 0..255: the mean of each SCALE x SCALE square."""
        fine = np.asarray(self.image, np.float64)
        return fine.reshape(self.height, SCALE, self.width, SCALE, 3).mean(axis=(1, 3))


def at(cx, cy, radius, turn):
    """The point at `turn` (0 up, 1 once round, clockwise) on a circle."""
    angle = math.tau * turn
    return cx + radius * math.sin(angle), cy - radius * math.cos(angle)


# ---------------------------------------------------------------- drawings


def crossword_puzzle(squares=13, cell=24, margin=12):
    size = squares * cell + 2 * margin
    canvas = Canvas(size, size, "white")
    rng = random.Random(7)
    black = set()
    for _ in range(16):
        row, column = rng.randrange(squares), rng.randrange(squares)
        black |= {(row, column), (squares - 1 - row, squares - 1 - column)}

    def is_open(row, column):
        return 0 <= row < squares and 0 <= column < squares and (row, column) not in black

    number = 0
    for row in range(squares):
        for column in range(squares):
            x, y = margin + column * cell, margin + row * cell
            fill = "white" if is_open(row, column) else "black"
            canvas.rectangle(x, y, x + cell, y + cell, fill=fill, outline="black", width=1)
            across = not is_open(row, column - 1) and is_open(row, column + 1)
            down = not is_open(row - 1, column) and is_open(row + 1, column)
            if is_open(row, column) and (across or down):
                number += 1
                canvas.text(x + 2, y + 1, str(number), 8, anchor="la")
    return canvas.pixels()


def analog_clock(width=360, height=320):
    canvas = Canvas(width, height, (235, 230, 215))
    cx, cy, radius = width / 2, height / 2, 147
    canvas.ellipse(cx, cy, radius, radius, (60, 45, 35))
    canvas.ellipse(cx, cy, radius * 0.9, radius * 0.9, "white")
    for minute in range(60):
        hour = minute % 5 == 0
        marks = [at(cx, cy, radius * r, minute / 60) for r in (0.80 if hour else 0.84, 0.87)]
        canvas.line(marks, "black", 3 if hour else 1)
    for hour in range(1, 13):
        canvas.text(*at(cx, cy, radius * 0.66, hour / 12), str(hour), 29)
    for turn, length, thickness in ((10.15 / 12, 0.45, 7), (9 / 60, 0.68, 5)):
        canvas.line([at(cx, cy, -radius * 0.1, turn), at(cx, cy, radius * length, turn)], "black", thickness)
    canvas.ellipse(cx, cy, 6, 6, "black")
    return canvas.pixels()


def maze(cells=11, wall=3, path=20, margin=16):
    rng = random.Random(3)
    size = 2 * cells + 1
    solid = [[True] * size for _ in range(size)]
    solid[1][1] = solid[0][1] = solid[size - 1][size - 2] = False
    trail, seen = [(0, 0)], {(0, 0)}
    while trail:
        row, column = trail[-1]
        around = [(row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)]
        fresh = [p for p in around if 0 <= p[0] < cells and 0 <= p[1] < cells and p not in seen]
        if not fresh:
            trail.pop()
            continue
        to = rng.choice(fresh)
        solid[2 * to[0] + 1][2 * to[1] + 1] = solid[row + to[0] + 1][column + to[1] + 1] = False
        seen.add(to)
        trail.append(to)
    edges = [margin + (i + 1) // 2 * wall + i // 2 * path for i in range(size + 1)]
    canvas = Canvas(edges[-1] + margin, edges[-1] + margin, "white")
    for row in range(size):
        for column in range(size):
            if solid[row][column]:
                canvas.rectangle(edges[column], edges[row], edges[column + 1], edges[row + 1], fill="black")
    return canvas.pixels()


def traffic_light(width=300, height=360):
    canvas = Canvas(width, height, "white")
    canvas.sky((110, 160, 220), (200, 220, 240))
    cx = width / 2
    canvas.rectangle(cx - 9, 300, cx + 9, height, fill=(70, 70, 75))
    canvas.rectangle(cx - 60, 30, cx + 60, 310, fill=(25, 28, 25), outline=(60, 60, 60), width=3, radius=18)
    for y, colour in ((80, (255, 50, 30)), (170, (90, 75, 10)), (260, (10, 70, 30))):
        canvas.ellipse(cx, y, 46, 46, (50, 52, 50))
        canvas.ellipse(cx, y + 4, 40, 40, (5, 5, 5))
        canvas.ellipse(cx, y, 35, 35, colour)
    canvas.ellipse(cx - 6, 71, 16, 15, (255, 120, 90))
    return canvas.pixels()


def spider_web(width=320, height=320, spokes=18):
    canvas = Canvas(width, height, (40, 60, 45))
    rng = random.Random(5)
    cx, cy = width * 0.48, height * 0.47
    turns = [(i + rng.uniform(-0.2, 0.2)) / spokes for i in range(spokes)]
    for turn in turns:
        canvas.line([(cx, cy), at(cx, cy, 300, turn)], (225, 230, 225), 1.25)
    for ring in range(3, 26):
        corners = [at(cx, cy, ring * 7 * rng.uniform(0.98, 1), turn) for turn in turns]
        for (x0, y0), (x1, y1) in zip(corners, corners[1:] + corners[:1]):
            sag = (x0 + x1) / 2 * 0.965 + cx * 0.035, (y0 + y1) / 2 * 0.965 + cy * 0.035
            canvas.line([(x0, y0), sag, (x1, y1)], (210, 220, 215))
    return canvas.pixels()


def honeycomb(width=320, height=320, side=20):
    canvas = Canvas(width, height, (180, 110, 15))
    rng = random.Random(2)
    for row in range(-1, 14):
        for column in range(-1, 11):
            x, y = (column + row % 2 / 2) * side * math.sqrt(3), row * side * 1.5
            honey = 190 + rng.randrange(40), 120 + rng.randrange(30), 20
            for part, fill in ((1, (230, 170, 50)), (0.86, (150, 85, 10)), (0.7, honey)):
                canvas.polygon([at(x, y, side * part, i / 6) for i in range(6)], fill)
    return canvas.pixels()


def abacus(width=340, height=300):
    canvas = Canvas(width, height, (240, 240, 235))
    rng = random.Random(4)
    colours = [(200, 40, 40), (40, 90, 190), (240, 190, 30), (40, 150, 70), (230, 120, 30)]
    canvas.rectangle(15, 15, width - 15, height - 15, outline=(120, 70, 30), width=16)
    for row in range(7):
        y = 50 + row * 34
        canvas.line([(28, y), (width - 28, y)], (120, 120, 120), 3)
        left = rng.randrange(11)
        for bead in range(10):
            x = 40 + bead * 17 + (0 if bead < left else 90)
            canvas.ellipse(x, y, 9, 14, colours[row % 5])
            canvas.ellipse(x - 2, y - 6, 3, 4, "white")
    return canvas.pixels()


def digital_clock(width=400, height=280):
    # The lit segments of a digit: a top, b and c right, d bottom, e and f left, g middle.
    lit = {"0": "abcdef", "1": "bc", "4": "bcfg", "8": "abcdefg"}
    segment = {
        "a": (11, 0, 39, 11), "b": (39, 6, 50, 48), "c": (39, 52, 50, 94), "d": (11, 89, 39, 100),
        "e": (0, 52, 11, 94), "f": (0, 6, 11, 48), "g": (11, 45, 39, 56),
    }  # fmt: skip
    red = (255, 40, 20)
    canvas = Canvas(width, height, (90, 70, 55))
    canvas.rectangle(20, 50, width - 20, height - 50, fill=(30, 30, 34), radius=24)
    canvas.rectangle(45, 75, width - 45, height - 75, fill=(10, 5, 5))
    for x, digit in zip((62, 125, 223, 288), "1048"):
        for name in lit[digit]:
            x0, y0, x1, y1 = segment[name]
            canvas.rectangle(x + x0, 90 + y0, x + x1, 90 + y1, fill=red, radius=4)
    for y in (122, 162):
        canvas.ellipse(200, y, 7, 7, red)
    return canvas.pixels()


def remote_control(width=280, height=400):
    canvas = Canvas(width, height, (205, 190, 165))
    canvas.rectangle(80, 20, 200, 380, fill=(35, 35, 38), radius=22)
    canvas.ellipse(106, 47, 11, 11, (200, 40, 40))
    for column in range(3):
        x = 96 + column * 32
        for row in range(4):
            canvas.rectangle(x, 75 + row * 30, x + 24, 95 + row * 30, fill=(200, 200, 205), radius=5)
        colour = ((60, 150, 90), (200, 180, 50), (60, 100, 190))[column]
        for y in (305, 335):
            canvas.rectangle(x, y, x + 24, y + 18, fill=colour, radius=5)
    canvas.ellipse(140, 247, 42, 42, (90, 90, 95))
    canvas.ellipse(140, 247, 18, 18, (190, 190, 195))
    return canvas.pixels()


def envelope(width=400, height=280):
    canvas = Canvas(width, height, (110, 75, 50))
    left, right, top, bottom, fold = 30, width - 30, 40, height - 40, (width / 2, 160)
    canvas.rectangle(left, top, right, bottom, fill=(240, 232, 210))
    canvas.polygon([(left, top), (right, top), fold], (225, 214, 188))
    canvas.line([(left, top), fold, (right, top)], (150, 140, 115), 2)
    canvas.line([(left, bottom), (150, 135)], (190, 180, 155))
    canvas.line([(right, bottom), (250, 135)], (190, 180, 155))
    return canvas.pixels()


# ---------------------------------------------------------------- file formats


def png_bytes(samples, palette=None, alpha=None, interlace=False):
    """A PNG of uint8 or uint16 samples [height][width] or [height][width][channels], written here because
    Pillow writes neither 16-bit colour nor interlaced files. palette: uint8 [n][3]; alpha: one byte for
    each of its first entries."""
    height, width = samples.shape[:2]
    channels = samples.shape[2] if samples.ndim == 3 else 1
    colour_type = 3 if palette is not None else {1: 0, 2: 4, 3: 2, 4: 6}[channels]

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    def rows(part):
        part = part.astype(part.dtype.newbyteorder(">"))
        return b"".join(b"\0" + row.tobytes() for row in part)  # filter type 0 before each row

    # PNG specification, 8.2: Adam7's first row, first column, row step and column step in each pass.
    adam7 = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]
    passes = adam7 if interlace else [(0, 0, 1, 1)]
    data = b"".join(rows(samples[y::dy, x::dx]) for y, x, dy, dx in passes)
    header = struct.pack(">IIBBBBB", width, height, 8 * samples.itemsize, colour_type, 0, 0, int(interlace))
    chunks = [chunk(b"IHDR", header)]
    if palette is not None:
        chunks.append(chunk(b"PLTE", palette.tobytes()))
    if alpha is not None:
        chunks.append(chunk(b"tRNS", bytes(alpha)))
    chunks += [chunk(b"IDAT", zlib.compress(data, 9)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def to_bytes(pixels):
    return np.round(pixels).astype(np.uint8)


def rgb(pixels):
    return png_bytes(to_bytes(pixels))


def interlaced(pixels):
    return png_bytes(to_bytes(pixels), interlace=True)


def rgb16(pixels):
    return png_bytes(np.round(pixels * 257).astype(np.uint16))


def grey(pixels):
    return png_bytes(to_bytes(pixels[:, :, 0]))


def rgba(pixels):
    """The image fades out to the right; effnet drops the alpha channel, as most programs do."""
    height, width = pixels.shape[:2]
    alpha = np.broadcast_to(np.linspace(255, 60, width)[None, :, None], (height, width, 1))
    return png_bytes(to_bytes(np.concatenate([pixels, alpha], axis=2)))


def palette_transparent(pixels, levels=16):
    """Grey levels as a palette, the brightest of them fully transparent."""
    index = np.round(pixels[:, :, 0] * (levels - 1) / 255).astype(np.uint8)
    palette = np.repeat(np.round(np.linspace(0, 255, levels)).astype(np.uint8)[:, None], 3, axis=1)
    return png_bytes(index, palette, alpha=[255] * (levels - 1) + [0])


def jpeg_on_its_side(pixels):
    """Stored a quarter turn to the left, with the EXIF orientation (6) that says to turn it right."""
    exif = Image.Exif()
    exif[0x0112] = 6
    out = io.BytesIO()
    Image.fromarray(np.rot90(to_bytes(pixels)).copy()).save(out, "JPEG", quality=90, exif=exif)
    return out.getvalue()


SAMPLES = {
    "abacus.png": (abacus, rgb16),
    "analog_clock.png": (analog_clock, rgb),
    "crossword_puzzle.png": (crossword_puzzle, palette_transparent),
    "digital_clock.png": (digital_clock, rgba),
    "envelope.png": (envelope, rgb),
    "honeycomb.png": (honeycomb, interlaced),
    "maze.png": (maze, grey),
    "remote_control.jpg": (remote_control, jpeg_on_its_side),
    "spider_web.png": (spider_web, rgb),
    "traffic_light.png": (traffic_light, rgb),
}


def sample_bytes(name):
    """The file that samples/NAME holds."""
    draw, encode = SAMPLES[name]
    return encode(draw())


def main(arguments):
    default = Path(__file__).resolve().parent.parent / "samples"
    folder = Path(arguments[0]) if arguments else default
    folder.mkdir(exist_ok=True)
    kept = 0
    for name in SAMPLES:
        path, data = folder / name, sample_bytes(name)
        try:
            with open(path, "xb") as file:
                file.write(data)
        except FileExistsError:
            if path.read_bytes() != data:
                print(f"draw_samples.py: {path}: exists, and is another image: left alone", file=sys.stderr)
                kept += 1
                continue
        print(path)
    return 73 if kept else 0  # EX_CANTCREAT


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
