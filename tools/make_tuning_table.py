"""Makes a table for tools/tuning/ from what `effnet tune` has measured.

    effnet tune -m lite1 -b 1,2,4,8,10,32,64,128,256    (on the GPU, which nothing else uses; for each network)
    tools/make_tuning_table.py ~/.cache/effnet/tuning.txt... >tools/tuning/nvidia-h100.txt

Entries are sorted. What a file says of a unit, its shape and batch counts in place of what files before it say of the
same. Two chips that differ in their memory alone have a table each."""
import sys

HEADER = "effnet tuning 1"


def read(path):
    with open(path, encoding="utf-8") as file:
        lines = file.read().split("\n")
    if lines[0] != HEADER:
        sys.exit(f"make_tuning_table: {path}: its first line is not '{HEADER}'")
    return [line.split("\t") for line in lines[1:] if line]


def main(paths):
    if not paths:
        sys.exit(__doc__)
    table = {}
    for path in paths:
        for fields in read(path):
            if len(fields) != 7:
                sys.exit(f"make_tuning_table: {path}: not seven fields: {fields}")
            chip, code, what, sizes, _, candidate, _ = fields
            unit = chip, what, tuple(map(int, sizes.split()))
            if table.get(unit, (path,))[0] != path:
                del table[unit]
            table.setdefault(unit, (path, []))[1].append(fields)
    print(HEADER)
    for unit in sorted(table):
        for fields in sorted(table[unit][1], key=lambda fields: int(fields[6])):
            print("\t".join(fields))


if __name__ == "__main__":
    main(sys.argv[1:])
