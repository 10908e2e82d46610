"""What cffi was told of effnet.h is what a C compiler makes of it."""

import re
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import build_backend
from effnet._cffi import ffi
from effnet._library import lib


def structs():
    """Names of those that are no opaque handles."""
    return re.findall(r"^struct (\w+) \{", build_backend.declarations(), re.MULTILINE)


def enums():
    """{constant: value}"""
    names = re.findall(r"^enum (\w+) \{", build_backend.declarations(), re.MULTILINE)
    return {key: value for name in names for key, value in ffi.typeof(f"enum {name}").relements.items()}


def compiled(root, tmp_path, expressions):
    """Values of expressions of C, with the headers."""
    source = tmp_path / "probe.c"
    lines = "".join(f'    printf("%lld\\n", (long long)({e}));\n' for e in expressions)
    source.write_text("#include <effnet.h>\n#include <effnet_lab.h>\n#include <stdio.h>\n"
                      f"int main(void)\n{{\n{lines}    return 0;\n}}\n")
    subprocess.run(["gcc", "-I", root / "include", "-o", tmp_path / "probe", source], check=True)
    out = subprocess.run([tmp_path / "probe"], check=True, capture_output=True, text=True).stdout
    return dict(zip(expressions, map(int, out.split()), strict=True))


def test_layouts_and_constants(root, tmp_path):
    wanted = {}
    for name in structs():
        kind = ffi.typeof(f"struct {name}")
        wanted[f"sizeof(struct {name})"] = ffi.sizeof(kind)
        for field, member in kind.fields:
            wanted[f"__builtin_offsetof(struct {name}, {field})"] = member.offset
            wanted[f"sizeof(((struct {name} *)0)->{field})"] = ffi.sizeof(member.type)
    wanted |= enums()
    assert len(structs()) >= 14 and len(wanted) > 150 and wanted["EFFNET_E_OUTPUT"] == -7
    assert compiled(root, tmp_path, list(wanted)) == wanted


def test_every_function_of_the_header_is_there(root):
    """The names that cffi took from the header are names of the library, and none is missing."""
    names = [name for name in dir(lib) if name.startswith("effnet_")]
    for name in names:
        assert getattr(lib, name)
    exported = (root / "include/libeffnet.map.in").read_text()
    stable = re.findall(r"^ {8}(effnet_\w+);", exported.split("EFFNET_LAB")[0], re.MULTILINE)
    of_linear = ("effnet_linear", "effnet_fold_batch_norm")
    assert sorted(names) == sorted([n for n in stable if not n.startswith(of_linear)] + ["effnet_model_find"])


def test_these_are_the_declarations_that_the_package_has(tmp_path):
    import effnet._cffi

    assert Path(effnet._cffi.__file__).read_bytes() == build_backend._cffi_module()
