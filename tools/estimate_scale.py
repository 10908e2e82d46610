#!/usr/bin/env python3
"""What many images cost on N machines: time, bytes read, and which step binds, from rates that were measured.

    tools/estimate_scale.py --images 1e6 1e9 --machines 1 10 100 --compute 95 --cores 2 --decode 310 --image-bytes 110e3

A machine reads, decodes and computes at once, so the slowest of these steps is what it takes; before them each shard counts
all names. Nothing is random in it: no machine fails, and none is slower than another.
"""

import argparse

STEPS = ("compute", "decode", "disk", "storage")


def estimate(images, machines, o):
    """Hours in all, hours of each step alone, and of the names."""
    each = images / machines
    hours = {
        "compute": each / (o.devices * o.compute),
        "decode": each / (o.cores * o.decode),
        "disk": each * o.image_bytes / o.disk if o.disk else 0,
        "storage": images * o.image_bytes / o.storage if o.storage else 0,
    }
    names = o.start + images / o.names
    return {step: seconds / 3600 for step, seconds in hours.items()}, names / 3600


def duration(hours):
    if hours < 1 / 60:
        return f"{3600 * hours:.0f} s"
    if hours < 1:
        return f"{60 * hours:.0f} min"
    return f"{hours:.1f} h" if hours < 48 else f"{hours / 24:.1f} d"


def positive(text):
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return value


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=positive, nargs="+", default=[1e6, 1e9])
    parser.add_argument("--machines", type=positive, nargs="+", default=[1, 10, 100])
    parser.add_argument("--compute", type=positive, required=True, help="images/s of a device (bench: stream, or run)")
    parser.add_argument("--devices", type=positive, default=1, help="GPUs a machine, or 1 for its CPU")
    parser.add_argument("--decode", type=positive, required=True, help="images/s that a core decodes and fits (bench --end-to-end)")
    parser.add_argument("--cores", type=positive, required=True, help="that decode, a machine")
    parser.add_argument("--image-bytes", type=positive, default=110e3, help="of a file (default: 110e3)")
    parser.add_argument("--disk", type=positive, help="bytes/s that a machine's own disk reads (default: any number)")
    parser.add_argument("--storage", type=positive, help="bytes/s that all machines together read (default: any number)")
    parser.add_argument("--names", type=positive, default=1.5e6, help="names/s that a shard counts (default: 1.5e6)")
    parser.add_argument("--start", type=float, default=1, help="seconds until a process works (default: 1)")
    o = parser.parse_args()
    print("| images | machines | time | read, each machine | from storage, all | names | binds |")
    print("|--:|--:|--:|--:|--:|--:|---|")
    for images in o.images:
        for machines in o.machines:
            steps, names = estimate(images, machines, o)
            slowest = max(STEPS, key=steps.get)
            hours = names + steps[slowest]
            read = images * o.image_bytes / machines
            rate = images * o.image_bytes / 3600 / steps[slowest]
            binds = slowest if steps[slowest] > names else "names"
            print(f"| {images:,.0f} | {machines:,.0f} | {duration(hours)} | {read / 1e9:,.1f} GB | {rate / 1e6:,.0f} MB/s "
                  f"| {duration(names)} | {binds} |")


if __name__ == "__main__":
    main()
