"""What the scripts of set-up write over, and what they leave alone."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tools"))
import draw_samples
import photographs

CANNOT_CREATE = 73


def run(*command, **options):
    options.setdefault("env", {**os.environ, "PIP_NO_INDEX": "1"})
    return subprocess.run(list(map(str, command)), stdin=subprocess.DEVNULL, capture_output=True, text=True,
                          timeout=300, check=False, **options)


@pytest.fixture
def clone(root, tmp_path):
    """tools/ alone, with no package to install."""
    (tmp_path / "tools").mkdir()
    for name in ("setup.sh", "fetch_wheels.sh"):
        shutil.copy(root / "tools" / name, tmp_path / "tools")
    (tmp_path / "python").mkdir()
    for name in ("tools", "python"):
        (tmp_path / name / "requirements.txt").write_text("# nothing\n")
    return tmp_path


# ---------------------------------------------------------------- .venv


def setup(clone):
    return run(clone / "tools" / "setup.sh", "--python", cwd=clone)


@pytest.mark.parametrize("kind", ["environment", "folder", "file", "link"])
def test_a_venv_of_somebody_else_stays(clone, kind):
    venv = clone / ".venv"
    if kind == "file":
        venv.write_text("precious")
    else:
        folder = clone / "elsewhere" if kind == "link" else venv
        (folder / "bin").mkdir(parents=True)
        (folder / "precious").write_text("precious")
        if kind == "environment":
            (folder / "bin" / "python").symlink_to(sys.executable)
        if kind == "link":
            venv.symlink_to("elsewhere")
    before = {p: p.is_file() and p.read_bytes() for p in clone.rglob("*")}
    done = setup(clone)
    assert done.returncode == CANNOT_CREATE and done.stderr.count("\n") == 1 and ".venv" in done.stderr, done.stderr
    assert {p: p.is_file() and p.read_bytes() for p in clone.rglob("*")} == before


def test_what_is_installed_besides_stays(clone):
    """When the requirements change, as long as its Python works; an unfinished .venv of ours is made anew."""
    assert setup(clone).returncode == 0
    added = clone / ".venv" / "added"
    added.write_text("precious")
    (clone / "tools" / "requirements.txt").write_text("# nothing, otherwise\n")
    done = setup(clone)
    assert done.returncode == 0 and "making .venv" in done.stderr and added.exists()
    assert setup(clone).stderr == ""
    for missing in ("requirements.sha256", "bin/python"):
        (clone / ".venv" / missing).unlink()
    (clone / ".cache" / "venv-unfinished").write_text("")
    assert setup(clone).returncode == 0 and not added.exists()
    assert not list((clone / ".cache").iterdir())


def test_the_packages_environment_is_another(clone):
    done = run(clone / "tools" / "setup.sh", "--package", cwd=clone)
    assert done.returncode == 0 and "making .venv-python" in done.stderr, done.stderr
    assert (clone / ".venv-python" / "bin" / "python").exists() and not (clone / ".venv").exists()
    assert run(clone / "tools" / "setup.sh", "--package", cwd=clone).stderr == ""


# ---------------------------------------------------------------- wheels


def test_wheels_of_others_stay(clone):
    """A stand-in for pip puts the wheel there that the requirements name."""
    python = clone / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\nwhile [ "$1" != -d ]; do shift; done\ncp "$4" "$2/$(cat "$4").whl"\n')
    python.chmod(0o755)
    requirements, folder = clone / "requirements", clone / "wheels"
    folder.mkdir()
    (folder / "mine.whl").write_text("precious")
    for name in ("one", "two 2", "one"):
        requirements.write_text(name)
        done = run(clone / "tools" / "fetch_wheels.sh", requirements, folder)
        assert done.returncode == 0, done.stderr
        assert {p.name for p in folder.glob("*.whl")} == {f"{name}.whl", "mine.whl"}
        assert "fetching" in done.stderr
        assert run(clone / "tools" / "fetch_wheels.sh", requirements, folder).stderr == ""
    assert (folder / "mine.whl").read_text() == "precious"


# ---------------------------------------------------------------- weights of integers


@pytest.fixture
def source(root, build, sanitized, tmp_path):
    """The source with what is fetched, and the program where its build has it."""
    if sanitized:
        pytest.skip("the same program, slowly")
    for name in ("tools", "src"):
        shutil.copytree(root / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(root / ".cache" / "photos", tmp_path / ".cache" / "photos")
    (tmp_path / ".venv").symlink_to(root / ".venv")
    (tmp_path / "weights").mkdir()
    shutil.copy(root / "weights" / "imagenet_labels.tsv", tmp_path / "weights")
    (tmp_path / "build").mkdir()
    shutil.copy(build / "effnet", tmp_path / "build")
    return tmp_path


def test_weights_of_integers(source, root):
    made, stamp = source / "weights/b1-plain-int8.safetensors", source / "weights/cache/b1-plain-int8/made.sha256"

    def make_weights(program="build/effnet"):
        return run(source / "tools/make_weights.sh", "b1-plain-int8", cwd=source,
                   env={**os.environ, "PIP_NO_INDEX": "1", "EFFNET": program})

    made.write_text("my own")
    done = make_weights()
    assert done.returncode == CANNOT_CREATE and made.name in done.stderr.splitlines()[-1], done.stderr
    assert made.read_text() == "my own"
    made.unlink()

    # It breaks off once the weights are written: the next run is not kept from making them.
    interrupted = source / "interrupted"
    interrupted.write_text('#!/bin/sh\nbuild/effnet "$@" && kill -INT $PPID && exit 1\n')
    interrupted.chmod(0o755)
    assert make_weights("./interrupted").returncode != 0 and not made.exists() and not stamp.exists()
    (stamp.parent / "crops" / "999.jpg").write_bytes(b"\xff\xd8\xff broken")
    (stamp.parent / f"{made.name}.partial").write_text("half")
    done = make_weights()
    assert done.returncode == 0, done.stderr
    assert made.stat().st_size < 0.27 * made.with_name("b1-plain.safetensors").stat().st_size
    assert "blocks.0.project" in stamp.with_name("report.txt").read_text()
    assert sorted(p.name for p in stamp.parent.iterdir()) == ["made.sha256", "report.txt"]
    done = run(source / "build/effnet", "verify", "-m", "b1-plain-int8", "--only", "stem", "--format", "json",
               cwd="/")
    assert done.returncode == 0 and json.loads(done.stdout)["precision"] == "int8", done.stderr

    before = made.stat()
    assert make_weights().stderr == "" and made.stat() == before
    (source / "tools/photographs.py").open("a").write("# other photographs\n")  # ours would be made again
    (source / "build/effnet").unlink()
    done = make_weights()
    assert done.returncode == 69 and done.stderr.count("\n") == 1 and "build/effnet" in done.stderr


def test_missing_photographs_are_named(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(photographs, "WHEELS", tmp_path / "wheels")
    with pytest.raises(SystemExit, match="tools/fetch_wheels.sh"):
        photographs.main([tmp_path, "1", "1"])
    monkeypatch.undo()
    monkeypatch.setattr(photographs, "DEBIAN", tmp_path / "debian")
    with pytest.raises(SystemExit, match="mate-backgrounds"):
        photographs.main([tmp_path, "1", "1"])


# ---------------------------------------------------------------- make distclean


def test_distclean_leaves_other_weights(root, tmp_path):
    shutil.copy(root / "Makefile", tmp_path)
    weights = tmp_path / "weights"
    (weights / "cache").mkdir(parents=True)
    for name in ("lite1.safetensors", "lite1.onnx", "lite0.onnx", "lite2.safetensors", "b1-plain.safetensors",
                 "b1-plain.onnx", "mine.safetensors", "mine.onnx", "imagenet_labels.tsv", "cache/x.whl",
                 "lite1-int8.safetensors", "lite2-int8.safetensors"):
        (weights / name).write_text(name)
    for name in "lite1-int8", "lite2-int8":
        (weights / "cache" / name).mkdir()
    (weights / "cache" / "lite1-int8" / "made.sha256").write_text("a stamp")
    (tmp_path / ".venv").mkdir()
    done = run("make", "distclean", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert {p.name for p in weights.iterdir()} == {"mine.safetensors", "mine.onnx", "imagenet_labels.tsv",
                                                    "lite2-int8.safetensors"}
    assert not (tmp_path / ".venv").exists()


# ---------------------------------------------------------------- samples


def test_samples_are_not_drawn_over_others(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(draw_samples, "SAMPLES", {n: draw_samples.SAMPLES[n] for n in ("maze.png", "abacus.png")})
    (tmp_path / "maze.png").write_bytes(b"my own maze")
    assert draw_samples.main([tmp_path]) == CANNOT_CREATE
    out, err = capsys.readouterr()
    assert err.count("\n") == 1 and "maze.png" in err and out == f"{tmp_path / 'abacus.png'}\n"
    assert (tmp_path / "maze.png").read_bytes() == b"my own maze"
    drawn = hashlib.sha256((tmp_path / "abacus.png").read_bytes()).hexdigest()
    (tmp_path / "maze.png").unlink()
    assert draw_samples.main([tmp_path]) == 0  # its own are as they were
    assert hashlib.sha256((tmp_path / "abacus.png").read_bytes()).hexdigest() == drawn
