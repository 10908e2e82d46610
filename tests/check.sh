#!/usr/bin/env bash
# Runs C test programs and then the Python tests in $PYTHON_TESTS (none: leaves them out), and ends with the
# counts as the last line. Used by `make check`:
#
#   PYTHON_TESTS=tests tests/check.sh BUILD_FOLDER PROGRAM...
set -u
cd "$(dirname "$0")/.."
. tests/counts.sh

build=$1
shift
for program; do
    run_program "${program#"$PWD"/}" "$program"
done
[ -z "${PYTHON_TESTS:-}" ] || run_pytest "$build" $PYTHON_TESTS
finish
