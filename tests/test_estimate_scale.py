"""tools/estimate_scale.py: its arithmetic, by figures that can be checked in one's head."""

import subprocess
import sys

import pytest


@pytest.fixture
def estimate(root):
    def run(*arguments):
        return subprocess.run([sys.executable, root / "tools" / "estimate_scale.py", *map(str, arguments)],
                              capture_output=True, text=True, timeout=60, check=False)
    return run


@pytest.mark.parametrize("options, row", [
    (["--compute", 100, "--decode", 100, "--cores", 2], "| 10.0 h | 360.0 GB | 10 MB/s | 0 s | compute |"),
    (["--compute", 100, "--devices", 2, "--decode", 50, "--cores", 2], "| 10.0 h | 360.0 GB | 10 MB/s | 0 s | decode |"),
    (["--compute", 100, "--decode", 100, "--cores", 2, "--disk", 5e6], "| 20.0 h | 360.0 GB | 5 MB/s | 0 s | disk |"),
    (["--compute", 100, "--decode", 100, "--cores", 2, "--storage", 1e6], "| 4.2 d | 360.0 GB | 1 MB/s | 0 s | storage |"),
    (["--compute", 100, "--decode", 100, "--cores", 2, "--names", 50], "| 30.0 h | 360.0 GB | 10 MB/s | 20.0 h | names |"),
])
def test_what_binds(estimate, options, row):
    """3.6 million images of 100 kB on one machine."""
    done = estimate("--images", 3.6e6, "--machines", 1, "--image-bytes", 1e5, "--names", 1e12, "--start", 0, *options)
    assert done.stdout.splitlines()[2:] == [f"| 3,600,000 | 1 {row}"], done.stderr


def test_machines_share_all_but_storage_and_names(estimate):
    rates = ["--compute", 100, "--decode", 100, "--cores", 2, "--names", 1e12, "--start", 0, "--image-bytes", 1e5]
    rows = estimate("--images", 3.6e6, "--machines", 1, 10, *rates).stdout.splitlines()[2:]
    assert [row.split(" | ")[2:4] for row in rows] == [["10.0 h", "360.0 GB"], ["1.0 h", "36.0 GB"]]


@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf", "x"])
def test_rates_that_are_none(estimate, value):
    done = estimate("--compute", value, "--decode", 1, "--cores", 1)
    assert done.returncode == 2 and "--compute" in done.stderr
