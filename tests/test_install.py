"""`make install`, to a place with spaces in its name: the installed program finds its weights, the library links
by its pkg-config file, and `make uninstall` leaves nothing behind."""

import os
import re
import shlex
import shutil
import stat

import pytest
from make_run import build_under_test, make, run

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
PREFIX = "/opt/eff net"


def make_target(target, root, build, sanitized, folder):
    done = make(root, *build_under_test(root, build, sanitized), f"DESTDIR={folder}", f"PREFIX={PREFIX}", target,
                umask=0o077)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def staged(root, build, sanitized, tmp_path_factory):
    """DESTDIR of an installation under PREFIX."""
    folder = tmp_path_factory.mktemp("install") / "staged here"
    make_target("install", root, build, sanitized, folder)
    yield folder
    make_target("uninstall", root, build, sanitized, folder)
    assert not [path for path in folder.rglob("*") if not path.is_dir()]


@pytest.fixture(scope="module")
def installed(staged):
    return staged / PREFIX.lstrip("/")


def test_files(installed):
    wanted = {"bin/effnet", "lib/libeffnet.a", "lib/pkgconfig/effnet.pc",
              "include/effnet.h", "include/effnet_linear.h", "include/effnet_lab.h",
              "share/effnet/lite1.safetensors", "share/effnet/b1-plain.safetensors"}
    if shutil.which("pandoc"):
        wanted.add("share/man/man1/effnet.1")
    assert {str(p.relative_to(installed)) for p in installed.rglob("*") if p.is_file()} == wanted


def test_everybody_may_read(staged, installed):
    """Although it was installed under umask 077."""
    for path in staged.rglob("*"):
        runs = path.is_dir() or path.name == "effnet" and path.parent.name == "bin"
        assert stat.S_IMODE(path.stat().st_mode) & 0o777 == (0o755 if runs else 0o644), path
    assert (installed / "bin").is_dir()


def test_program_finds_its_weights(installed, root):
    environment = {k: v for k, v in os.environ.items() if k != "EFFNET_MODEL"}
    out = run(installed / "bin" / "effnet", "classify", "--device", "cpu", "-k", "1", root / "samples" / "maze.png",
              cwd="/", env=environment)
    assert "  maze  (n03733281)" in out


def test_library_links(installed, lite1, sanitized, tmp_path):
    (tmp_path / "example.c").write_text(EXAMPLE)
    text = (installed / "lib/pkgconfig/effnet.pc").read_text()
    assert text.startswith(f"prefix={PREFIX}\n")
    facts = dict(re.findall(r"^(\w+): (.*)$", text, re.MULTILINE))
    flags = shlex.split(f"{facts['Cflags']} {facts['Libs']}".replace("${prefix}", str(installed)))
    extra = ["-fsanitize=address,undefined"] if sanitized else []
    run("gcc", "-o", tmp_path / "example", tmp_path / "example.c", *extra, *flags)
    assert run(tmp_path / "example", lite1) == "lite1 1000\n"


@pytest.mark.skipif(not shutil.which("pkg-config"), reason="pkg-config is not installed")
def test_pkg_config_quotes_the_space(installed):
    flags = run("pkg-config", "--cflags", "--libs", "effnet",
                env=os.environ | {"PKG_CONFIG_PATH": str(installed / "lib/pkgconfig")})
    assert f"-I{PREFIX}/include" in shlex.split(flags) and f"-L{PREFIX}/lib" in shlex.split(flags)
