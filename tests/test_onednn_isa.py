"""The CPU backend's C tests on instruction sets below this machine's: oneDNN then takes other implementations."""

import os
import subprocess

import pytest


@pytest.mark.parametrize("isa", ["AVX2", "AVX512_CORE"])
@pytest.mark.parametrize("program", ["test_onednn", "test_linear"])
def test_lesser_instruction_set(build, sanitized, program, isa):
    if sanitized:
        pytest.skip("a sanitizer sees the callers of oneDNN, which are the same for all instruction sets")
    done = subprocess.run([build / "tests" / program], env=os.environ | {"ONEDNN_MAX_CPU_ISA": isa}, check=False,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=600)
    if done.returncode == 77:
        pytest.skip("this build has no oneDNN")
    assert done.returncode == 0, done.stdout
