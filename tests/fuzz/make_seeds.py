"""Writes what the fuzzers begin with, a folder for each: make_seeds.py BUILD_FOLDER

Images come from the tests' writers, weights from tests/weights_builder.c.
"""

import json
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from pixels import SEED
from test_mutations import FILES


def images(folder, _build):
    for kind, make in FILES.items():
        for number, content in enumerate(make(np.random.default_rng(SEED))):
            path = folder / f"{kind}-{number}"
            if callable(content):
                content(path)
                content = path.read_bytes()
            path.write_bytes(content + bytes([number % 16]))


def weights(folder, build):
    with tempfile.TemporaryDirectory() as files:
        subprocess.run([build / "tests" / "fuzz" / "save_weights", files], check=True)
        for path in Path(files).iterdir():
            content = path.read_bytes()
            length = struct.unpack("<Q", content[:8])[0]
            header = json.dumps(json.loads(content[8:8 + length]), separators=(",", ":")).encode()
            data = struct.pack("<I", len(content) - 8 - length)[:3]
            (folder / path.stem).write_bytes(header + data + b"\0")


def lists(folder, _build):
    names = [b"a.png", b"b c.jpg", b"", b"-", b"\xff\xfe", "ä/ö".encode(), b"\r", b"last"]
    for flags in range(16):
        separator = b"\0" if flags & 1 else (b"\n", b"\r\n")[flags >> 1 & 1]
        text = separator.join(names) + (separator if flags & 2 else b"")
        (folder / f"{flags}").write_bytes(text + bytes([flags * 5, flags]))
    (folder / "mark").write_bytes(b"\xef\xbb\xbfa\n\xef\xbb\xbfb" + b"\3\0")
    (folder / "long").write_bytes(b"\1\1\1yyy\n\1\1\1\n" + b"\xff\2")
    (folder / "too-long").write_bytes(b"a\n\1\1\1\1\n" + b"\xff\2")


def options(folder, _build):
    lines = ["-f a.png", "-fn 3 --text x -- -y", "--choice json --plan cudnn --plan=auto --plan x", "--number=-3 -n4096",
             "--real .5 --real 1e-3", "-b 1,8,32 --batches=4096", "--background #fff --background teal --background #01Fe9a",
             "--numbr 1", "--re 1", "-x", "--help", "2/4 1/1 0/3 x/y --b=", "-b " + ",".join(["1"] * 65)]
    for number, line in enumerate(lines):
        (folder / f"{number}").write_bytes(line.replace(" ", "\0").encode() + b"\0")


def resumes(folder, _build):
    """Sequence, items, rows, failed, skipped, bytes, hash of names, status, finished."""
    for number, flags in enumerate([0, 2, 4, 6, 10, 22, 1, 3]):
        first = struct.pack("<9q", 4, 3, 2, 1, 1, 10, 99, -2, 0)
        second = struct.pack("<9q", 5, 4, 3, 1, 1, 15, 99, -2, number % 2)
        (folder / f"{number}").write_bytes(first + second + b"line\nline\nline\nhalf" + bytes([3, flags]))


TARGETS = {"image": images, "weights": weights, "list": lists, "options": options, "resume": resumes}

if __name__ == "__main__":
    build_folder = Path(sys.argv[1])
    for target, make_target in TARGETS.items():
        seeds = build_folder / "seeds" / target
        seeds.mkdir(parents=True, exist_ok=True)
        make_target(seeds, build_folder)
