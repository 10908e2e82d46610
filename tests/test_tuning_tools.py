"""effnet tune where there is nothing to tune, and the tools that make the tables of measured kernels."""

import subprocess
import sys

import pytest

UNAVAILABLE = 69
HEADER = "effnet tuning 1\n"


def entry(candidate, time, what="pool", sizes="1 64 320", chip="GPU"):
    return f"{chip}\tcode\t{what}\t{sizes}\t1000\t{candidate}\t{time}\n"


@pytest.mark.parametrize("device", ["cpu", "reference"])
def test_nothing_to_tune(effnet, tiny, device):
    done = effnet("tune", "-m", tiny, "--device", device)
    assert (done.returncode, done.stdout) == (UNAVAILABLE, "")
    assert done.stderr == f"effnet: device {device} has nothing to tune; a GPU has\n"


def make_table(root, *files):
    return subprocess.run([sys.executable, root / "tools/make_tuning_table.py", *files], capture_output=True,
                          text=True, check=False)


def test_table_of_several_files(root, tmp_path):
    """Entries are sorted by chip, unit and sizes as numbers; the last file that speaks of a unit counts, with all that
    it says of it."""
    first, second = tmp_path / "first.txt", tmp_path / "second.txt"
    first.write_text(HEADER + entry("old", 5) + entry("older", 4) + entry("large", 9, sizes="10 64 320")
                     + entry("other", 7, sizes="2 64 320"))
    second.write_text(HEADER + entry("slower", 4) + entry("fast", 3) + entry("b", 1, chip="A chip"))
    done = make_table(root, first, second)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == (HEADER + entry("b", 1, chip="A chip") + entry("fast", 3) + entry("slower", 4)
                           + entry("other", 7, sizes="2 64 320") + entry("large", 9, sizes="10 64 320"))


@pytest.mark.parametrize("text, words", [("", "first line"), ("effnet tuning 2\n", "first line"),
                                         (HEADER + "one\ttwo\n", "seven fields")])
def test_table_refuses(root, tmp_path, text, words):
    file = tmp_path / "tuning.txt"
    file.write_text(text)
    done = make_table(root, file)
    assert done.returncode == 1 and words in done.stderr and done.stdout in ("", HEADER)


def test_embedding(root, tmp_path):
    """Every line of the tables of tools/tuning/ becomes a line of the program's text, whatever is in it."""
    done = subprocess.run([root / "tools/embed_tuning.sh"], cwd=root, capture_output=True, text=True, check=True)
    lines = sum(len(table.read_text().splitlines()) - 1 for table in (root / "tools/tuning").glob("*.txt"))
    assert lines > 100 and done.stdout.count('\\n"') == lines

    (tmp_path / "tools/tuning").mkdir(parents=True)
    (tmp_path / "tools/tuning/odd.txt").write_text(HEADER + entry('a "quoted" \\ name', 3))
    done = subprocess.run([root / "tools/embed_tuning.sh"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert r'a \"quoted\" \\ name' in done.stdout
