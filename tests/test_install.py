"""`make install`: the installed program finds its weights, the library links by its pkg-config file, and
`make uninstall` leaves nothing behind."""

import os
import shutil
import subprocess

import pytest

EXAMPLE = r"""
#include <effnet.h>
#include <stdio.h>

int main(int argc, char **argv)
{
    struct effnet_error error;
    effnet_model *model;
    if (argc != 2 || effnet_model_open(argv[1], &model, &error)) return 1;
    printf("%s %d\n", effnet_model_get_info(model)->network, effnet_model_get_info(model)->classes);
    effnet_model_close(model);
    return 0;
}
"""


def run(*command, **options):
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, check=False, **options)
    assert done.returncode == 0, (command, done.stdout, done.stderr)
    return done.stdout


def make(root, build, sanitized, *arguments):
    environment = {k: v for k, v in os.environ.items() if k not in ("MAKELEVEL", "MFLAGS")}
    # Variables of an outer `make check` (CUDA=, ONEDNN=0) count here too, its job slots do not.
    flags = environment.pop("MAKEFLAGS", "")
    variables = flags.split(" -- ", 1)[1].split() if " -- " in flags else []
    run("make", *variables, f"BUILD={os.path.relpath(build, root)}", f"SAN={int(sanitized)}", *arguments,
        cwd=root, env=environment)


@pytest.fixture(scope="module")
def installed(root, build, sanitized, tmp_path_factory):
    folder = tmp_path_factory.mktemp("install")
    places = f"DESTDIR={folder}/staged", "PREFIX=/opt/effnet"
    make(root, build, sanitized, "install", *places)
    yield folder / "staged" / "opt" / "effnet"
    make(root, build, sanitized, "uninstall", *places)
    assert not [path for path in folder.rglob("*") if not path.is_dir()]


def test_files(installed):
    wanted = {"bin/effnet", "lib/libeffnet.a", "lib/pkgconfig/effnet.pc", "include/effnet.h",
              "share/effnet/lite1.safetensors", "share/effnet/b1-plain.safetensors"}
    if shutil.which("pandoc"):
        wanted.add("share/man/man1/effnet.1")
    assert {str(p.relative_to(installed)) for p in installed.rglob("*") if p.is_file()} == wanted


def test_program_finds_its_weights(installed, root):
    environment = {k: v for k, v in os.environ.items() if k != "EFFNET_MODEL"}
    out = run(installed / "bin" / "effnet", "classify", "--device", "cpu", "-k", "1", root / "samples" / "maze.png",
              cwd="/", env=environment)
    assert "  maze  (n03733281)" in out


def test_library_links(installed, lite1, sanitized, tmp_path):
    (tmp_path / "example.c").write_text(EXAMPLE)
    facts = dict(line.split(": ", 1) for line in (installed / "lib/pkgconfig/effnet.pc").read_text().splitlines()
                 if ": " in line)
    flags = [f.replace("${prefix}", str(installed)) for f in f"{facts['Cflags']} {facts['Libs']}".split()]
    extra = ["-fsanitize=address,undefined"] if sanitized else []
    run("gcc", "-o", tmp_path / "example", tmp_path / "example.c", *extra, *flags)
    assert run(tmp_path / "example", lite1) == "lite1 1000\n"
