"""Running commands and an inner make, for the tests of the build and of the installation."""

import os
import shlex
import subprocess


def run(*command, **options):
    """Standard output of a command that is to succeed."""
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, check=False, **options)
    assert done.returncode == 0, (command, done.stdout, done.stderr)
    return done.stdout


def build_under_test(root, build, sanitized):
    """Make's variables for it. Relative, since the source's own folder may have a space in its name."""
    return f"BUILD={os.path.relpath(build, root)}", f"SAN={int(sanitized)}"


def make(folder, *arguments, env=None, **options):
    """The finished `make ...` in a folder. Variables of an outer `make check` (CUDA=, ONEDNN=0) count there too, its
    job slots do not; `env` adds to the environment."""
    environment = {k: v for k, v in os.environ.items() if k not in ("MAKELEVEL", "MFLAGS")}
    flags = environment.pop("MAKEFLAGS", "")
    variables = shlex.split(flags.split(" -- ", 1)[1]) if " -- " in flags else []
    return subprocess.run(["make", *variables, *arguments], cwd=folder, env=environment | (env or {}),
                          capture_output=True, text=True, check=False, **options)
