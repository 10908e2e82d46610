"""The wheel, installing from the source, the converter, and what the package says of itself."""

import base64
import csv
import hashlib
import inspect
import io
import os
import platform
import pydoc
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import effnet
import effnet.convert
import pytest
from PIL import Image


def output(*command, **options):
    """Standard output of a command that is to succeed."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    assert done.returncode == 0, done.stderr
    return done.stdout


# ---------------------------------------------------------------- the wheel


@pytest.fixture(scope="module")
def wheel(package):
    (found,) = package.parent.glob("*.whl")
    return found


def test_tag_and_record(wheel):
    tag = f"py3-none-linux_{platform.machine()}"
    assert wheel.name == f"effnet-{effnet.__version__}-{tag}.whl"
    with zipfile.ZipFile(wheel) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    info = f"effnet-{effnet.__version__}.dist-info"
    assert f"Tag: {tag}\n".encode() in files[f"{info}/WHEEL"]
    recorded = {row[0]: row[1:] for row in csv.reader(io.StringIO(files.pop(f"{info}/RECORD").decode()))}
    assert recorded.pop(f"{info}/RECORD") == ["", ""]
    assert recorded == {name: ["sha256=" + base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode().rstrip("="),
                               str(len(data))] for name, data in files.items()}
    assert {f"effnet/{name}" for name in ("__init__.py", "_cffi.py", "libeffnet.so", "py.typed", "convert/__init__.py",
                                          "convert/imagenet_labels.tsv")} <= set(files)
    assert f"{info}/LICENSE" in files
    metadata = files[f"{info}/METADATA"].decode()
    assert f"\nVersion: {effnet.__version__}\n" in metadata and "\nRequires-Dist: numpy" in metadata


def test_documented_libraries(root, package):
    """What the wheel's library wants of the system, beyond what all programs there want, is in docs/python.md, and so is
    what an image may make it load."""
    out = output("readelf", "-d", package / "effnet/libeffnet.so")
    needed = set(re.findall(r"\(NEEDED\).*\[(lib\w+?)\d*\.so", out)) - {"libc", "libm", "libgcc_s"}
    for path in (root / "src/image/formats").glob("*.c"):
        needed.update(re.findall(r'\.name = "(lib\w+)"', path.read_text()))
    assert {"libpng", "libwebp"} <= needed
    text = (root / "docs/python.md").read_text()
    for name in needed:
        assert re.search(rf"\b{name}\b", text), name


def test_installed_from_the_source(root, package, tiny, photos, tmp_path):
    """pip install, by the hooks of PEP 517, into a folder of its own; it is what make wheel made."""
    build = package.parent.parent
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment["EFFNET_BUILD"] = os.path.relpath(build, root)
    if "-DEFFNET_HAVE_CUDA" not in (build / "cc.flags").read_text():
        environment["CUDA"] = ""
    output(sys.executable, "-m", "pip", "install", "--no-build-isolation", "--no-deps", "--no-index", "--quiet",
           "--target", tmp_path / "to", root, env=environment)
    source = "import effnet, sys; print(effnet.__file__, effnet.Model(sys.argv[1]).session('cpu').classify(sys.argv[2]))"
    environment["PYTHONPATH"] = str(tmp_path / "to")
    out = output(sys.executable, "-c", source, tiny, photos[0], cwd="/", env=environment)
    assert out.startswith(f"{tmp_path}/to/effnet/__init__.py [<effnet.Prediction 0: ")
    for path in (package / "effnet").rglob("*"):
        if path.is_file() and "__pycache__" not in path.parts:
            assert (tmp_path / "to/effnet" / path.relative_to(package / "effnet")).read_bytes() == path.read_bytes(), path


def test_source_distribution(root, tmp_path):
    if not (root / ".git").exists():
        pytest.skip("no repository")
    source = "import build_backend; print(build_backend.build_sdist('.'))"
    name = output(sys.executable, "-c", source, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(root / "python")})
    top = name.strip().removesuffix(".tar.gz")
    with tarfile.open(tmp_path / name.strip()) as archive:
        assert {f"{top}/PKG-INFO", f"{top}/pyproject.toml", f"{top}/include/effnet.h"} <= set(archive.getnames())


def test_without_its_libraries(package, tmp_path):
    """One line says what is missing, and where it is written what is wanted."""
    shutil.copytree(package / "effnet", tmp_path / "effnet")
    (tmp_path / "effnet/libeffnet.so").write_bytes(b"no library")
    done = subprocess.run([sys.executable, "-c", "import effnet"], cwd=tmp_path, capture_output=True, text=True, check=False,
                          env=os.environ | {"PYTHONPATH": str(tmp_path)})
    last = done.stderr.splitlines()[-1]
    assert last.startswith("ImportError: effnet: ") and "libeffnet.so" in last and "docs/python.md" in last


# ---------------------------------------------------------------- what it says of itself


def public():
    """(name, object): the names of the package, and the public methods of its classes."""
    for name in effnet.__all__:
        value = getattr(effnet, name)
        yield name, value
        for method in vars(value) if inspect.isclass(value) else ():
            made_by_tuple = issubclass(value, tuple)
            if not method.startswith("_") and not made_by_tuple and callable(getattr(value, method)):
                yield f"{name}.{method}", getattr(value, method)


def test_everything_public_is_described():
    for name, value in public():
        if name != "Image":  # a union, which has no place for one
            assert inspect.getdoc(value), name
            assert value.__module__.split(".")[0] == "effnet"


def test_everything_public_is_typed():
    for name, value in public():
        if inspect.isfunction(value):
            parameters = inspect.signature(value).parameters.values()
            assert all(p.annotation is not p.empty for p in parameters if p.name != "self"), name
            assert inspect.signature(value).return_annotation is not inspect.Signature.empty, name


def test_help_is_a_manual():
    text = pydoc.plain(pydoc.render_doc(effnet))
    for said in ("class Session(", "classify_iter(", "uint8 [n][crop][crop][3]", "UsageError             -1", "devices()",
                 "lock is released", "WebP, TIFF and AVIF are read"):
        assert said in text, said


def blocks(text):
    """The indented blocks of Python in a text that begin with an import."""
    found = re.findall(r"(?:^ {4}.*\n|^\n)+", text, re.MULTILINE)
    return [inspect.cleandoc("\n" + block) for block in found if re.match(r"\s*(import|from) ", block)]


@pytest.mark.parametrize("source", ["help", "README.md", "docs/python.md"])
def test_examples_run(root, python, tiny, photos, tmp_path, source):
    """In a folder with photographs, where lite1 is the small network."""
    text = effnet.__doc__ + "\n" if source == "help" else (root / source).read_text()
    if source == "help":  # the later blocks go on with what the first made
        text = text.replace("    pixels = ", "    import pathlib\n    pixels = ", 1)
        code = re.findall(r"(?:^ {4}.*\n|^\n)+", text, re.MULTILINE)
        examples = ["\n".join(inspect.cleandoc("\n" + block) for block in code if "UsageError" not in block)]
    else:
        examples = [block for block in blocks(text) if "effnet" in block]
    assert examples
    shutil.copy(tiny, tmp_path / "lite1.safetensors")
    (tmp_path / "photos").mkdir()
    for i, path in enumerate(photos):
        for name in (["photo.jpg", "a.jpg", "b.png"] if i == 0 else [f"photos/{i}.jpg"]):
            Image.open(path).convert("RGB").save(tmp_path / name)
    for example in examples:
        example = example.replace('effnet.Model("lite1")', 'effnet.Model("lite1.safetensors")')
        done = python(example, cwd=tmp_path)
        assert done.returncode == 0, f"{example}\n{done.stderr}"


# ---------------------------------------------------------------- the converter


def test_converter_is_that_of_tools(root, package):
    ours, theirs = package / "effnet/convert", root / "tools/effnet_convert"
    assert Path(effnet.convert.__file__).parent == ours
    for path in theirs.glob("*.py"):
        assert (ours / path.name).read_bytes() == path.read_bytes()


def test_converter_as_a_function_and_a_program(tmp_path):
    options = {"arch": "b1-plain", "random": 7, "mean": (1, 2.5, 3)}
    lines, notices = effnet.convert.convert(None, tmp_path / "function.safetensors", **options)
    said = output(sys.executable, "-m", "effnet.convert", "--arch", "b1-plain", "--random", "7", "--mean", "1,2.5,3",
                  "program.safetensors", cwd=tmp_path)
    assert (tmp_path / "function.safetensors").read_bytes() == (tmp_path / "program.safetensors").read_bytes()
    assert said == "program.safetensors: " + "\n".join(lines) + "\n" and notices == []
    assert effnet.Model(tmp_path / "function.safetensors").labels[646].name == "maze"


@pytest.mark.parametrize("arguments, options, status", [
    (("nothing.pth", "out.safetensors"), {}, 66),
    (("nothing.pth", "out.safetensors"), {"no_such_option": 1}, 64),
    (("--help", "out.safetensors"), {}, 66),
    ((None, "out.safetensors"), {"arch": "b1-plain"}, 64),
])
def test_converter_refuses(tmp_path, monkeypatch, arguments, options, status):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(effnet.convert.ConvertError) as raised:
        effnet.convert.convert(*arguments, **options)
    assert raised.value.status == status and "\n" not in str(raised.value)
