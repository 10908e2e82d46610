"""Taking turns, statistics, printing, and effnet as a process that stays."""

import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import pillow_preprocess

SETTLE_S = 0.1  # between turns: a thread pool spins for a while after its work and would slow the next one


class CannotCompare(Exception):
    """Something that has to be there is not, or a contender's answer is wrong."""


def environment(build):
    """A process's environment in which programs of `build` find the libraries that were packed with them."""
    environ = dict(os.environ)
    carried = Path(build) / "lib"
    if carried.is_dir():
        environ["LD_LIBRARY_PATH"] = f"{carried.resolve()}:{environ.get('LD_LIBRARY_PATH', '')}"
    return environ


class Effnet:
    """build/tests/run_session: an open session that obeys commands."""

    def __init__(self, build, weights, device, precision="-", threads=0, max_batch=1,
                 plan="auto"):
        program = Path(build) / "tests" / "run_session"
        if not program.exists():
            raise CannotCompare(f"{program} is not there: run `make tests`")
        command = [program, weights, device, precision, str(threads), str(max_batch), plan]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=subprocess.PIPE, env=environment(build))
        first = self.process.stdout.readline().decode()
        if not first:
            self.process.wait()
            raise CannotCompare(f"effnet on {device}: {self.process.stderr.read().decode().strip()}")
        facts = first.rstrip("\n").split("\t")
        self.backend, self.device, self.precision = facts[:3]
        self.crop, self.classes, self.memory_bytes = map(int, facts[3:])
        self.batch = 0

    def _ask(self, line, payload=b""):
        self.process.stdin.write(line.encode() + b"\n" + payload)
        self.process.stdin.flush()

    def _answer(self):
        line = self.process.stdout.readline()
        if not line:
            self.process.wait()
            raise CannotCompare(f"effnet: {self.process.stderr.read().decode().strip()}")
        return line.decode()

    def pixels(self, pixels):
        self.batch = len(pixels)
        self._ask(f"pixels {self.batch}", pixels.tobytes())
        self._answer()

    def logits(self):
        self._ask("logits")
        size = self.batch * self.classes * 4
        data = self.process.stdout.read(size)
        if len(data) != size:
            self._answer()
        return np.frombuffer(data, np.float32).reshape(self.batch, self.classes)

    def pixels_to_logits(self, pixels):
        self.pixels(pixels)
        return self.logits()

    def run(self, count):
        """Wall times in microseconds, from pixels in memory to logits in memory."""
        self._ask(f"run {count}")
        return [float(t) for t in self._answer().split()]

    def time(self, count):
        """Times of the compute alone in microseconds, on the device's clock."""
        self._ask(f"time {count}")
        return [float(t) for t in self._answer().split()]

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def timed(function):
    """Makes a contender of a function: contender(count) -> wall times in microseconds."""

    def contender(count):
        times = []
        for _ in range(count):
            start = time.perf_counter()
            function()
            times.append((time.perf_counter() - start) * 1e6)
        return times

    return contender


def take_turns(contenders, rounds, turn_s=0.4, least=3):
    """contenders: {name: contender}. Each turn lasts about turn_s and `least` runs; the first run of a turn,
    which finds the caches full of others' data, is not counted. Returns {name: [[microseconds], ...]}, one
    list a round."""
    counts = {}
    for name, contender in contenders.items():
        contender(1)
        typical = statistics.median(contender(3))
        counts[name] = max(least, min(2000, round(turn_s * 1e6 / max(typical, 1)))) + 1
    results = {name: [] for name in contenders}
    for turn in range(rounds):
        names = list(contenders)
        for name in names if turn % 2 == 0 else reversed(names):
            time.sleep(SETTLE_S)
            results[name].append(contenders[name](counts[name])[1:])
    return results


def relative_l2(values, reference):
    values, reference = np.asarray(values, np.float64), np.asarray(reference, np.float64)
    return float(np.linalg.norm(values - reference) / np.linalg.norm(reference))


def check(name, values, reference, allowance):
    """Fails unless the logits are near the reference's; NaN is never near."""
    error = relative_l2(values, reference)
    if not error <= allowance:
        raise CannotCompare(f"{name}: values differ: relative L2 {error:.1e}, allowed {allowance:.0e}")
    return error


def sample_pixels(weights, count):
    """uint8 [count][crop][crop][3]: samples/ in turn, as the weights file wants them."""
    preprocess = pillow_preprocess.read_preprocess(weights)
    files = sorted(p for p in Path("samples").iterdir() if p.suffix in (".png", ".jpg"))
    images = []
    for path in files[:count]:
        with Image.open(path) as image:
            images.append(pillow_preprocess.fit(image, preprocess))
    return np.stack([images[i % len(images)] for i in range(count)]), preprocess


class Report:
    """Prints tables as they come, and keeps what was measured."""

    def __init__(self):
        self.measured = []
        self.skipped = set()

    def skip(self, what, why):
        if what not in self.skipped:
            self.skipped.add(what)
            print(f"skipped: {what}: {why}")

    def table(self, title, results, ours, unit="ms"):
        """results as take_turns gives them; `ours` names the contenders that the others are held against."""
        scale = {"ms": 1e-3, "us": 1.0}[unit]
        medians = {name: [statistics.median(turn) for turn in turns] for name, turns in results.items()}
        print(f"\n{title}\n")
        print(f"| contender | median {unit} | min | p90 | " + " | ".join(f"{o} is" for o in ours) + " |")
        print("|---|--:|--:|--:|" + "--:|" * len(ours))
        for name, turns in results.items():
            everything = sorted(t for turn in turns for t in turn)
            numbers = [statistics.median(medians[name]), everything[0], everything[int(0.9 * (len(everything) - 1))]]
            row = {"title": title, "contender": name, "unit": "us",
                   "median": numbers[0], "min": numbers[1], "p90": numbers[2], "rounds": medians[name], "ratio": {}}
            cells = [f"{n * scale:.3f}" for n in numbers]
            for o in ours:
                ratios = sorted(a / b for a, b in zip(medians[o], medians[name]))
                row["ratio"][o] = [ratios[0], statistics.median(ratios), ratios[-1]]
                cells.append("" if name == o else
                             f"{statistics.median(ratios):.3f} × ({ratios[0]:.3f} to {ratios[-1]:.3f})")
            print(f"| {name} | " + " | ".join(cells) + " |")
            self.measured.append(row)
        sys.stdout.flush()

    def write(self, path):
        Path(path).write_text(json.dumps(self.measured, indent=1))
