"""The Makefile: where it builds, what it says, and that what it makes does not depend on the folder."""

import os
import re
import shutil

import pytest
from make_run import build_under_test, make, run

FAST = "BUILD=build", "CUDA=", "SAN=0", "CFLAGS=-O0 -g", "-j2"


def copy_source(root, folder):
    for name in "docs", "include", "kernels", "src", "tests", "tools":
        shutil.copytree(root / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy2(root / "Makefile", folder)
    return folder


@pytest.fixture(scope="module")
def copies(root, tmp_path_factory):
    """A folder with two copies of the source: `one` builds within, and `with space`, which is entered through the
    link `link`, into the folder `out-j` beside it."""
    top = tmp_path_factory.mktemp("build")
    copy_source(root, top / "one")
    copy_source(root, top / "another" / "with space")
    (top / "link").symlink_to(top / "another" / "with space")
    done = make(top / "one", *FAST, "program", "library")
    assert done.returncode == 0, done.stderr
    return top


@pytest.fixture(scope="module")
def elsewhere(copies):
    source, build = copies / "link", copies / "out-j"
    before = sorted(source.rglob("*"))
    done = make(source, *FAST, f"BUILD={build}", "program", "library", env={"PWD": str(source)})
    assert done.returncode == 0, done.stderr
    assert sorted(source.rglob("*")) == before, "a build elsewhere writes into the source"
    return build


def test_same_program_from_two_folders(copies, elsewhere):
    for name in "effnet", "libeffnet.a", "libeffnet.so":
        content = (elsewhere / name).read_bytes()
        assert content == (copies / "one" / "build" / name).read_bytes(), name
        assert str(copies).encode() not in content, name
    assert run(elsewhere / "effnet", "--version").startswith("effnet ")


def test_clean_leaves_what_it_did_not_make(copies, elsewhere):
    mine = elsewhere / "tests" / "mine.txt"
    mine.parent.mkdir(exist_ok=True)
    mine.write_text("mine")
    assert make(copies / "link", *FAST, f"BUILD={elsewhere}", "clean").returncode == 0
    assert [path for path in elsewhere.rglob("*") if path.is_file()] == [mine]


def test_weights_that_are_there_are_installed_without_python(copies, lite1, b1_plain, tmp_path):
    """In a copy that has no .venv, where whatever could fetch or make one fails."""
    source, stubs = copies / "one", tmp_path / "stubs"
    (source / "weights").mkdir()
    for path in lite1, b1_plain:
        (source / "weights" / path.name).symlink_to(path)
    stubs.mkdir()
    for name in "python3", "pip", "apt-get", "curl", "dpkg-query":
        (stubs / name).write_text("#!/bin/sh\nexit 99\n")
        (stubs / name).chmod(0o755)
    done = make(source, *FAST, f"DESTDIR={tmp_path}/to", "PREFIX=/usr", "install",
                env={"PATH": f"{stubs}:{os.environ['PATH']}"})
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "to/usr/share/effnet/lite1.safetensors").read_bytes() == lite1.read_bytes()
    assert not (source / ".venv").exists()


@pytest.mark.parametrize("arguments, said", [
    (["BUILD=a b"], "one word"),
    (["BUILD="], "one word"),
    (["BUILD=."], "is the source folder"),
    (["BUILD=src/.."], "is the source folder"),
    (["-C", "/", "-f", "{root}/Makefile"], "make -C folder"),
    (["CC=no-such-cc", "config"], "no C compiler ('no-such-cc')"),
    (["CC=env no-such-cc", "config"], "no C compiler ('env no-such-cc')"),
    (["CC=gcc -nostdinc", "config"], "no C compiler ('gcc -nostdinc')"),
], ids=lambda value: " ".join(value) if isinstance(value, list) else "")
def test_refused_in_one_line(root, arguments, said):
    done = make(root, "CUDA=", *(a.format(root=root) for a in arguments))
    lines = done.stderr.splitlines()
    assert done.returncode == 2 and "effnet: " in lines[0] and said in lines[0], done.stderr
    assert all(line.startswith("make: ***") for line in lines[1:]), done.stderr


def test_relative_prefix_is_refused(root, build, sanitized):
    done = make(root, *build_under_test(root, build, sanitized), "PREFIX=here", "install")
    assert done.returncode == 2 and "effnet: PREFIX=here is not an absolute path\n" in done.stderr
    assert not (root / "here").exists()


@pytest.mark.parametrize("compiler, kind", [
    ("gcc", "gcc "), ("clang", "clang "), ("env gcc", "env gcc (gcc "), ("env clang", "env clang (clang ")])
def test_config_names_the_compiler(root, compiler, kind):
    if not shutil.which(compiler.split()[-1]):
        pytest.skip(f"{compiler} is not installed")
    done = make(root, "CUDA=", f"CC={compiler}", "config")
    assert done.returncode == 0, done.stderr
    name, _, version = done.stdout.splitlines()[0].strip().partition("  ")
    assert name == "compiler" and version.startswith(kind) and version[len(kind)].isdigit()


def test_flags_with_quotes_are_remembered(root, tmp_path):
    """And the file is written anew only when they change."""
    arguments = "CUDA=", f"BUILD={tmp_path}", f"{tmp_path}/cc.flags"
    made = []
    for flags in "-DNAME='\"a b\"'", "-DNAME='\"a b\"'", "-DNAME='\"a c\"'":
        done = make(root, f"CPPFLAGS={flags}", *arguments)
        assert done.returncode == 0, done.stderr
        assert flags in (tmp_path / "cc.flags").read_text()
        made.append((tmp_path / "cc.flags").stat().st_mtime_ns)
    assert made[0] == made[1] < made[2]


def test_help_names_targets_and_variables(root):
    text = make(root, "help").stdout
    for word in "install", "check", "SAN=1", "BUILD=", "CFLAGS=", "ONEDNN=0", "DESTDIR=":
        assert word in text
    assert "Nothing is asked" not in text


@pytest.mark.parametrize("header", ["effnet.h", "effnet_linear.h", "effnet_lab.h"])
@pytest.mark.parametrize("compiler, standards", [
    ("gcc", ["c99", "c11"]), ("clang", ["c99", "c11"]), ("g++", ["c++11", "c++17"]), ("clang++", ["c++11", "c++17"])])
def test_header_compiles_alone(root, compiler, standards, header):
    if not shutil.which(compiler):
        pytest.skip(f"{compiler} is not installed")
    for standard in standards:
        run(compiler, f"-std={standard}", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-fsyntax-only", "-x",
            "c++" if "++" in compiler else "c", root / "include" / header)


def test_sources_use_nothing_that_some_compilers_lack(root):
    """gcc 11 has no _Float16; clang has omp.h in a package of its own."""
    files = [path for folder in ("include", "kernels", "src", "tests") for path in (root / folder).rglob("*.[ch]")]
    found = [str(path.relative_to(root)) for path in files
             if path.name != "half.h" and re.search(r"\b_Float16\b|<omp\.h>", path.read_text())]
    assert files and not found
