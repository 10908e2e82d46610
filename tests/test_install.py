"""`make install`, to a place with spaces in its name: the installed program finds its weights, the examples build
against the library by its pkg-config file, linked both ways and inside other shared objects, it exports what its
headers declare and nothing else, and `make uninstall` leaves everything as it was."""

import os
import re
import shlex
import shutil
import stat

import pytest
from make_run import build_under_test, make, run

PREFIX = "/opt/eff net"
LINKED = ["shared", "static"]

# A shared object that uses the library, and leaves threads of it idle when it returns.
PLUGIN = r"""
#include <effnet_linear.h>
#include <stdlib.h>

enum { SIDE = 256 };

int plugin_linear(void)
{
    struct effnet_linear_args args = effnet_linear_defaults(SIDE, SIDE, SIDE);
    float *x = calloc(SIDE * SIDE, sizeof *x), *y = calloc(SIDE * SIDE, sizeof *y);
    for (int i = 0; i < SIDE; i++) x[i * SIDE + i] = (float)i;
    args.x = args.w = x;
    args.y = y;
    int wrong = effnet_linear(&args, EFFNET_MEMORY_HOST, NULL, NULL) != EFFNET_OK;
    for (int i = 0; i < SIDE * SIDE; i++) wrong += y[i] != (i % (SIDE + 1) ? 0 : (float)(i / SIDE * (i / SIDE)));
    free(x);
    free(y);
    return wrong;
}

int plugin_classes(const char *weights)
{
    effnet_model *model;
    effnet_session *session;
    if (effnet_model_open(weights, &model, NULL)) return -1;
    const int classes = effnet_model_get_info(model)->classes;
    const int status = effnet_session_open(model, NULL, &session, NULL);
    effnet_session_close(session);
    effnet_model_close(model);
    return status ? status : classes;
}
"""

# Loads all plugins, calls them and unloads them, twice. Its own functions have names of the library's inside, and
# it exports them.
HOST = r"""
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>

void effnet_fail(void) { abort(); }
void effnet_cpu_threads(void) { abort(); }
void image_alloc(void) { abort(); }

int main(int argc, char **argv)
{
    void *plugins[8];
    for (int round = 0; round < 2; round++) {
        for (int i = 2; i < argc; i++)
            if (!(plugins[i] = dlopen(argv[i], RTLD_NOW | RTLD_GLOBAL))) return puts(dlerror());
        for (int i = 2; i < argc; i++) {
            int (*linear)(void) = (int (*)(void))dlsym(plugins[i], "plugin_linear");
            int (*classes)(const char *) = (int (*)(const char *))dlsym(plugins[i], "plugin_classes");
            printf("%d %d\n", linear(), classes(argv[1]));
        }
        for (int i = 2; i < argc; i++) dlclose(plugins[i]);
    }
    return 0;
}
"""


def make_target(target, root, build, sanitized, folder):
    done = make(root, *build_under_test(root, build, sanitized), f"DESTDIR={folder}", f"PREFIX={PREFIX}", target,
                umask=0o077)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def staged(root, build, sanitized, tmp_path_factory):
    """DESTDIR of an installation under PREFIX. Some folders are there before, and stay."""
    folder = tmp_path_factory.mktemp("install") / "staged here"
    prefix = folder / PREFIX.lstrip("/")
    for name in "include", "share/man":
        (prefix / name).mkdir(parents=True)
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755)
    before = sorted(folder.rglob("*"))
    make_target("install", root, build, sanitized, folder)
    make_target("install", root, build, sanitized, folder)  # the second one finds all folders there
    yield folder
    make_target("uninstall", root, build, sanitized, folder)
    assert sorted(folder.rglob("*")) == before


@pytest.fixture(scope="module")
def installed(staged):
    return staged / PREFIX.lstrip("/")


def version_of(installed):
    return re.search(r'define EFFNET_VERSION "(.*)"', (installed / "include/effnet.h").read_text()).group(1)


def test_files(installed):
    wanted = {"bin/effnet", "lib/libeffnet.a", f"lib/libeffnet.so.{version_of(installed)}", "lib/pkgconfig/effnet.pc",
              "include/effnet.h", "include/effnet_linear.h", "include/effnet_lab.h", "share/effnet/folders",
              "share/effnet/lite1.safetensors", "share/effnet/b1-plain.safetensors"}
    if shutil.which("pandoc"):
        wanted.add("share/man/man1/effnet.1")
    paths = list(installed.rglob("*"))
    assert {str(p.relative_to(installed)) for p in paths if p.is_file() and not p.is_symlink()} == wanted
    links = {p.name: os.readlink(p) for p in paths if p.is_symlink()}
    assert links == {"libeffnet.so": "libeffnet.so.0", "libeffnet.so.0": f"libeffnet.so.{version_of(installed)}"}


def test_everybody_may_read(staged, installed):
    """Although it was installed under umask 077."""
    assert (installed / "bin/effnet").is_file() and (installed / "lib/libeffnet.a").is_file()
    for path in staged.rglob("*"):
        runs = path.is_dir() or path.name == "effnet" and path.parent.name == "bin"
        assert stat.S_IMODE(path.stat().st_mode) & 0o777 == (0o755 if runs else 0o644), path


def test_program_finds_its_weights(installed, root):
    environment = {k: v for k, v in os.environ.items() if k != "EFFNET_MODEL"}
    out = run(installed / "bin" / "effnet", "classify", "--device", "cpu", "-k", "1", root / "samples" / "maze.png",
              cwd="/", env=environment)
    assert "  maze  (n03733281)" in out


# ---------------------------------------------------------------- linking

def flags(installed, linked):
    """What pkg-config says for the library under its temporary folder."""
    options = ["--static"] if linked == "static" else []
    said = run("pkg-config", f"--define-variable=prefix={installed}", *options, "--cflags", "--libs", "effnet",
               env=os.environ | {"PKG_CONFIG_PATH": str(installed / "lib/pkgconfig")})
    if linked == "static":
        said = said.replace("-leffnet", "-l:libeffnet.a")
    return shlex.split(said)


@pytest.fixture(scope="module")
def compile_program(installed, sanitized, tmp_path_factory):
    """A function that compiles one source, linked "shared" or "static", and returns the path of what it makes."""
    def compile_source(source, linked, *options):
        compiler = "g++" if source.suffix == ".cpp" else "gcc"
        made = tmp_path_factory.mktemp("linked") / source.stem
        extra = ["-fsanitize=address,undefined"] if sanitized else []
        run(compiler, "-Wall", "-Wextra", "-Werror", "-o", made, source, *options, *extra, *flags(installed, linked))
        return made
    return compile_source


def environment(installed):
    return os.environ | {"LD_LIBRARY_PATH": str(installed / "lib")}


def needs(path):
    """Names of the shared libraries that a program or a library names itself."""
    return set(re.findall(r"\(NEEDED\).*\[(.*)\]", run("readelf", "-d", path)))


def test_pkg_config_keeps_private_libraries_private(installed):
    public, private = flags(installed, "shared"), flags(installed, "static")
    assert public == [f"-I{installed}/include", f"-L{installed}/lib", "-leffnet"]
    assert private[:3] == [*public[:2], "-l:libeffnet.a"] and "-lpng" in private
    assert run("pkg-config", "--modversion", "effnet",
               env=os.environ | {"PKG_CONFIG_PATH": str(installed / "lib/pkgconfig")}).strip() == version_of(installed)


@pytest.mark.parametrize("linked", LINKED)
@pytest.mark.parametrize("name", ["classify.c", "batch.cpp"])
def test_examples(root, installed, compile_program, lite1, name, linked):
    program = compile_program(root / "examples" / name, linked)
    assert ("libeffnet.so.0" in needs(program)) == (linked == "shared")
    samples = [root / "samples" / f"{name}.png" for name in ("maze", "honeycomb")]
    if name == "classify.c":
        out = [run(program, lite1, sample, env=environment(installed)) for sample in samples]
        assert [text.splitlines()[0].split("%  ")[1] for text in out] == ["maze", "honeycomb"]
        assert all(len(text.splitlines()) == 5 for text in out)
    else:
        out = run(program, lite1, *samples, env=environment(installed))
        assert re.sub(r", \d+\.\d %", "", out) == f"{samples[0]}: maze\n{samples[1]}: honeycomb\n"


def test_commands_in_examples_and_readme(root):
    """Each example says in its head how it is built, and README says it in the same words."""
    for name in "classify.c", "batch.cpp":
        command = re.search(r"^(?: \*|//) +(c(?:c|\+\+) .*)$", (root / "examples" / name).read_text(),
                            re.MULTILINE).group(1)
        assert "pkg-config --cflags --libs effnet" in command
        assert command in (root / "README.md").read_text().replace(f"examples/{name}", name), command


@pytest.fixture(scope="module")
def plugins(compile_program, tmp_path_factory):
    """The plugin as a shared object, by how it is linked."""
    folder = tmp_path_factory.mktemp("plugin")
    (folder / "plugin.c").write_text(PLUGIN)
    return {linked: compile_program(folder / "plugin.c", linked, "-shared", "-fPIC") for linked in LINKED}


@pytest.mark.parametrize("linked", [["static"], ["shared"], ["static", "shared"]], ids="+".join)
def test_inside_another_shared_object(installed, compile_program, plugins, lite1, tmp_path, linked):
    (tmp_path / "host.c").write_text(HOST)
    host = compile_program(tmp_path / "host.c", "static", "-rdynamic")
    assert "effnet_fail" in {name for name, _ in exported(host)}
    # What a library keeps until the process ends is a leak to LeakSanitizer once the library is unloaded.
    out = run(host, lite1, *(plugins[way] for way in linked),
              env=environment(installed) | {"ASAN_OPTIONS": "detect_leaks=0"})
    assert out == "0 1000\n" * 2 * len(linked)


def test_plugin_exports_its_own_alone(plugins):
    for plugin in plugins.values():
        assert exported(plugin) == {("plugin_linear", ""), ("plugin_classes", "")}


# ---------------------------------------------------------------- symbols

def exported(path):
    """(name, version) of what a program or shared object defines for others."""
    lines = run("nm", "-D", "--defined-only", path).splitlines()
    symbols = [line.split()[-1].partition("@@") for line in lines if line.split()[-2] != "A"]
    return {(name, version) for name, _, version in symbols if name not in ("_init", "_fini")}


def declared(header):
    """Names of the functions that a header declares."""
    text = re.sub(r"/\*.*?\*/", "", header.read_text(), flags=re.DOTALL)
    return set(re.findall(r"^(?!typedef)[a-z][\w *]*\b(effnet_\w+)\(", text, re.MULTILINE))


def test_shared_library_exports_what_the_headers_declare(installed):
    include = installed / "include"
    stable = declared(include / "effnet.h") | declared(include / "effnet_linear.h")
    lab = declared(include / "effnet_lab.h")
    assert {"effnet_version", "effnet_linear"} <= stable and "effnet_session_unit" in lab
    symbols = exported(installed / "lib/libeffnet.so")
    assert {name for name, version in symbols if re.fullmatch(r"EFFNET_\d+\.\d+", version)} == stable
    assert {name for name, version in symbols if version == f"EFFNET_LAB_{version_of(installed)}"} == lab
    assert len(symbols) == len(stable) + len(lab), symbols


def test_archive_keeps_its_inside_local(installed):
    """Public names are there to be linked, hidden from whoever loads what they are linked into."""
    lines = [line.split() for line in run("readelf", "-sW", installed / "lib/libeffnet.a").splitlines()]
    symbols = {line[7]: line[5] for line in lines if len(line) > 7 and line[4] in ("GLOBAL", "WEAK") and line[6] != "UND"}
    public = set().union(*(declared(path) for path in (installed / "include").iterdir()))
    assert symbols == {name: "HIDDEN" for name in public}
