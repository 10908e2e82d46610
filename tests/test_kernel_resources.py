"""What ptxas says of the kernels: nothing is spilled, and a block stays within the shared memory that every
architecture has, unless it is built for sm_90a alone. Needs no GPU."""

import re
import subprocess

import pytest

SHARED_LIMIT = 99 * 1024  # sm_86 and sm_89 give a block no more (CUDA C++ Programming Guide, compute capabilities)
SHARED_LIMIT_SM90A = 227 * 1024
REGISTERS_LIMIT = 255

ENTRY = re.compile(
    r"Compiling entry function '(?P<kernel>[^']+)' for '(?P<arch>[^']+)'\n"
    r".*?(?P<stack>\d+) bytes stack frame, (?P<stores>\d+) bytes spill stores, (?P<loads>\d+) bytes spill loads\n"
    r"[^\n]*Used (?P<registers>\d+) registers(?P<rest>[^\n]*)",
    re.DOTALL,
)


@pytest.fixture(scope="module")
def reports(root, build):
    """{kernel file: text of ptxas's report}"""
    found = {path.name.removesuffix(".ptxas.txt"): path.read_text()
             for path in sorted((build / "obj" / "kernels").glob("*.ptxas.txt"))
             if (root / "kernels" / path.name.replace(".ptxas.txt", ".cu")).exists()}
    if not found:
        pytest.skip("built without CUDA")
    return found


@pytest.fixture(scope="module")
def entries(reports):
    return [(name, match) for name, text in reports.items() for match in ENTRY.finditer(text)]


def test_every_kernel_is_reported(reports, entries):
    told = sum(text.count("Compiling entry function") for text in reports.values())
    assert told == len(entries) > 0


def test_architectures(entries):
    """*_sm90a.cu is for sm_90a alone; everything else is compiled for the same list."""
    lists = {}
    for name, match in entries:
        lists.setdefault(name, set()).add(match["arch"])
    general = {frozenset(archs) for name, archs in lists.items() if not name.endswith("_sm90a")}
    assert len(general) == 1, lists
    assert all(archs == {"sm_90a"} for name, archs in lists.items() if name.endswith("_sm90a")), lists


def test_no_spills(entries):
    """Nothing in local memory: neither spilled registers nor arrays that are indexed at run time."""
    spilled = [f"{name}: {match['kernel']} for {match['arch']}: a stack frame of {match['stack']} bytes, "
               f"{match['stores']} stored, {match['loads']} loaded"
               for name, match in entries if any(int(match[key]) for key in ("stack", "stores", "loads"))]
    assert not spilled, "\n" + "\n".join(spilled)


def shared_limit(sm90a):
    return SHARED_LIMIT_SM90A if sm90a else SHARED_LIMIT


def static_shared(match):
    found = re.search(r"(\d+) bytes smem", match["rest"])
    return int(found[1]) if found else 0


def test_machine_code_is_compressed(build, reports):
    """An image that is not begins as an ELF file does. The program itself is the only one."""
    assert (build / "effnet").read_bytes().count(b"\x7fELF\2\1\1") == 1


def test_registers_and_static_shared_memory(entries):
    for name, match in entries:
        assert int(match["registers"]) <= REGISTERS_LIMIT, (name, match["kernel"])
        assert static_shared(match) <= shared_limit(match["arch"] == "sm_90a"), (name, match["kernel"], match["arch"])


def test_static_and_dynamic_shared_memory(build, entries):
    """Each configuration's dynamic memory beside the most static memory that a kernel of its family has. A
    configuration with no figure fits no shape at all."""
    done = subprocess.run([build / "tests" / "run_kernel_configs"], capture_output=True, text=True, check=True)
    rows = [line.split("\t") for line in done.stdout.splitlines()]
    assert {row[0] for row in rows} == {
        "linear", "pointwise", "first_block", "depthwise", "expand_depthwise", "mbconv", "squeeze_excite", "stem"}
    for kernel, configuration, sm90a, dynamic in rows:
        files = [match for name, match in entries
                 if name.startswith(kernel) and (match["arch"] == "sm_90a") == (sm90a == "1")]
        assert files, f"no kernel of {kernel} for sm_90a: {sm90a}"
        static = max(static_shared(match) for match in files)
        assert 0 <= int(dynamic) and static + int(dynamic) <= shared_limit(sm90a == "1"), (
            kernel, configuration, static, dynamic)


def test_sanitizers_know_every_kernel(root, entries):
    """tests/gpu/run.sh names our kernels for compute-sanitizer: none of them may be missing."""
    own = re.search(r"^own='(.+)'$", (root / "tests" / "gpu" / "run.sh").read_text(), re.MULTILINE)[1]
    unknown = {match["kernel"] for _, match in entries if not re.search(own, match["kernel"])}
    assert not unknown
