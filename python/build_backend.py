"""Builds the Python package `effnet`: a wheel with libeffnet.so, by the Makefile. PEP 517's hooks, for `pip install .`;
`make wheel` calls the same.

The wheel needs no compiler: it holds the library, the declarations that cffi made of effnet.h, and the converter of tools/.
What a build leaves out (CUDA=, ONEDNN=0, ...) is the environment's to say, as with make."""

import base64
import contextlib
import email.message
import email.policy
import hashlib
import os
import platform
import re
import shlex
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / os.environ.get("EFFNET_BUILD", "build")


def _version():
    return re.search(r'^#define EFFNET_VERSION "(.+)"', (ROOT / "include/effnet.h").read_text(), re.MULTILINE)[1]


# ---------------------------------------------------------------- what is in the package


def declarations():
    """The headers' declarations, as cffi reads them: all of effnet.h, and what the package calls of effnet_lab.h."""
    header, lab = (
        re.sub(r"/\*.*?\*/", "", (ROOT / "include" / name).read_text(), flags=re.DOTALL)
        for name in ("effnet.h", "effnet_lab.h")
    )
    find = re.search(r"^int effnet_model_find\([^;]*;", lab, re.MULTILINE)[0]
    for_c = re.sub(r"^#ifdef __cplusplus\n.*?^#endif\n", "", header, flags=re.DOTALL | re.MULTILINE)
    return re.sub(r"^#.*\n", "", for_c, flags=re.MULTILINE) + find


def _cffi_module():
    """The declarations compiled to a module of Python's: importing it needs no parser of C."""
    import cffi

    ffi = cffi.FFI()
    ffi.cdef(declarations())
    ffi.set_source("effnet._cffi", None)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "_cffi.py")
        with contextlib.redirect_stdout(sys.stderr):
            ffi.emit_python_code(str(path))
        return path.read_bytes()


def _library():
    """libeffnet.so, built by make and without debugging information. Variables of a make that calls this count, its
    job slots do not: they are not handed on through Python."""
    environment = {name: value for name, value in os.environ.items() if name not in ("MAKELEVEL", "MFLAGS")}
    variables = shlex.split(environment.pop("MAKEFLAGS", "").partition(" -- ")[2])
    command = ["make", "--no-print-directory", "-C", ROOT, f"-j{len(os.sched_getaffinity(0))}", *variables]
    command += [f"BUILD={os.path.relpath(BUILD, ROOT)}", "config", "library"]
    subprocess.run(command, env=environment, check=True, stdout=sys.stderr)
    with tempfile.TemporaryDirectory() as folder:
        stripped = Path(folder, "libeffnet.so")
        subprocess.run(["strip", "--strip-unneeded", "-o", stripped, BUILD / "libeffnet.so"], check=True)
        return stripped.read_bytes()


def _files():
    """{name in the wheel: content}"""
    package, convert = ROOT / "python/effnet", ROOT / "tools/effnet_convert"
    found = {f"effnet/{path.name}": path.read_bytes() for path in [*package.glob("*.py"), package / "py.typed"]}
    found |= {f"effnet/convert/{path.name}": path.read_bytes() for path in convert.glob("*.py")}
    found["effnet/convert/imagenet_labels.tsv"] = (ROOT / "weights/imagenet_labels.tsv").read_bytes()
    found["effnet/_cffi.py"] = _cffi_module()
    found["effnet/libeffnet.so"] = _library()
    return found


# ---------------------------------------------------------------- the wheel


def _metadata():
    """METADATA, from pyproject.toml."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    message = email.message.EmailMessage(email.policy.compat32.clone(max_line_length=None))
    message["Metadata-Version"] = "2.1"
    message["Name"] = project["name"]
    message["Version"] = _version()
    message["Summary"] = project["description"]
    message["License"] = project["license"]["text"]
    message["Requires-Python"] = project["requires-python"]
    for requirement in project["dependencies"]:
        message["Requires-Dist"] = requirement
    return message.as_bytes()


def _tag():
    return f"py3-none-linux_{platform.machine()}"


def _wheel_file():
    return f"Wheel-Version: 1.0\nGenerator: effnet\nRoot-Is-Purelib: false\nTag: {_tag()}\n".encode()


def _record(files):
    def digest(content):
        return base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()

    return "".join(f"{name},sha256={digest(content)},{len(content)}\n" for name, content in files.items())


def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    """Writes the wheel and returns its name. The same files make the same wheel."""
    info = f"effnet-{_version()}.dist-info"
    files = dict(sorted(_files().items()))
    files[f"{info}/LICENSE"] = (ROOT / "LICENSE").read_bytes()
    files[f"{info}/METADATA"] = _metadata()
    files[f"{info}/WHEEL"] = _wheel_file()
    files[f"{info}/RECORD"] = f"{_record(files)}{info}/RECORD,,\n".encode()
    name = f"effnet-{_version()}-{_tag()}.whl"
    with zipfile.ZipFile(Path(wheel_directory, name), "w", zipfile.ZIP_DEFLATED) as wheel:
        for path, content in files.items():
            entry = zipfile.ZipInfo(path)
            entry.external_attr = (0o755 if path.endswith(".so") else 0o644) << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            wheel.writestr(entry, content)
    return name


def build_sdist(sdist_directory, config_settings=None):
    """The last commit's files."""
    name = f"effnet-{_version()}"
    archive = Path(sdist_directory, f"{name}.tar.gz").resolve()
    with tempfile.TemporaryDirectory() as folder:
        metadata = Path(folder, "PKG-INFO")
        metadata.write_bytes(_metadata())
        subprocess.run(
            ["git", "-C", ROOT, "archive", f"--prefix={name}/", f"--add-file={metadata}", "-o", archive, "HEAD"], check=True
        )
    return archive.name


if __name__ == "__main__":
    print(f"  WHEEL {os.path.join(sys.argv[1], build_wheel(sys.argv[1]))}")
