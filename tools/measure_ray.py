#!/usr/bin/env python3
"""What the examples for Ray give on this machine, beside the program in one run: docs/scale.md has the figures.

    make wheel program weights && tools/setup.sh --scale
    .venv-scale/bin/python tools/measure_ray.py [ROUNDS]

First images/s of ray_classify over JPEGs with 1, 2 and 4 actors of a core, starting them included, against `effnet classify` with
two threads in the same round. Then what the service answers 32 clients a second, against images/s of `effnet bench` at the
service's batch just before and after, the service having two replicas of a core. Medians and, in brackets, the least and the most."""

import http.client
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from measuring import PROGRAM, ROOT, shown, write_photos

FOLDERS = [str(ROOT / "build/python/package"), str(ROOT / "examples")]
sys.path[:0] = FOLDERS
os.environ["PYTHONPATH"] = ":".join(FOLDERS)  # for Ray's processes
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"

import ray
import ray_classify
import ray_serve

FILES, ACTORS = 600, (1, 2, 4)
CLIENTS, WARM_SECONDS, SECONDS, PORT = 32, 5, 20, 8123


def seconds(work):
    since = time.perf_counter()
    work()
    return time.perf_counter() - since


def program(*arguments):
    return subprocess.run([PROGRAM, *arguments, "--device", "cpu", "--threads", "2"], check=True, capture_output=True,
                          text=True).stdout


def measure_actors(photos, folder, rounds):
    times = {name: [] for name in ("program", *ACTORS)}
    for i in range(rounds):
        times["program"].append(seconds(lambda: program("classify", "-q", "-b", "32", "-r", str(photos))))
        for actors in ACTORS:
            target = str(folder / f"out-{i}-{actors}")
            times[actors].append(seconds(lambda: ray_classify.classify(str(photos), target, actors=actors, rows=64)))
    print(f"{FILES} files, {rounds} rounds\n  effnet classify: {shown([FILES / t for t in times['program']])} images/s")
    for actors in ACTORS:
        ratios = [own / other for own, other in zip(times["program"], times[actors], strict=True)]
        print(f"  {actors} actors: {shown([FILES / t for t in times[actors]])} images/s, ratio {shown(ratios)}", flush=True)


def client(bodies, number, until, took, failed):
    connection = http.client.HTTPConnection("127.0.0.1", PORT, timeout=60)
    for i in range(number, 1 << 30):
        if time.perf_counter() >= until:
            return
        since = time.perf_counter()
        connection.request("POST", "/", body=bodies[i % len(bodies)])
        response = connection.getresponse()
        response.read()
        now = time.perf_counter()
        (took if response.status == 200 else failed).append((now, now - since))


def serve(bodies):
    """(answers a second, the 99th of a hundred waits in ms, failures)"""
    took, failed, since = [], [], time.perf_counter() + WARM_SECONDS
    clients = [threading.Thread(target=client, args=(bodies, i, since + SECONDS, took, failed)) for i in range(CLIENTS)]
    for thread in clients:
        thread.start()
    for thread in clients:
        thread.join()
    waits = sorted(wait for end, wait in took if since <= end < since + SECONDS)
    return len(waits) / SECONDS, 1e3 * waits[len(waits) * 99 // 100], len(failed)


def bench():
    report = json.loads(program("bench", "-m", "lite1", "-b", str(ray_serve.BATCH), "--duration", "5", "--format", "json"))
    return next(row["images_per_s"] for row in report["results"] if row["measure"] == "run")


def measure_service(photos, rounds):
    bodies = [path.read_bytes() for path in sorted(photos.iterdir())]
    ray_serve.run(port=PORT, replicas=2)
    rates, waits, ratios, failures = [], [], [], 0
    before = bench()
    for _ in range(rounds):
        rate, wait, failed = serve(bodies)
        after = bench()
        rates.append(rate)
        waits.append(wait)
        ratios.append(2 * rate / (before + after))
        failures += failed
        before = after
    print(f"service, {CLIENTS} clients, {rounds} rounds: {shown(rates)} answers/s, {shown(ratios)} of effnet bench's, "
          f"99 of 100 within {shown(waits)} ms, {failures} failed")


def main():
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    os.chdir(ROOT)
    ray.init(address="local", num_cpus=max(ACTORS) + 1, log_to_driver=False, logging_level="error")
    ray.data.DataContext.get_current().enable_progress_bars = False
    with tempfile.TemporaryDirectory() as folder:
        photos = Path(folder) / "photos"
        photos.mkdir()
        write_photos(photos, FILES)
        measure_actors(photos, Path(folder), rounds)
        measure_service(photos, rounds)


if __name__ == "__main__":
    main()
