#!/usr/bin/env bash
# Runs C test programs and then the Python tests in $PYTHON_TESTS (none: leaves them out), and ends with the
# counts as the last line. The GPU's programs run one after the other: they tell what memory is free. Used by
# `make check`:
#
#   PYTHON_TESTS=tests tests/check.sh BUILD_FOLDER PROGRAM...
set -u
cd "$(dirname "$0")/.."
. tests/counts.sh

build=$1
shift
programs=() gpu=()
for program; do
    case $program in
    */tests/gpu/*) gpu+=("$program") ;;
    *) programs+=("$program") ;;
    esac
done
run_programs "${programs[@]}"
for program in "${gpu[@]}"; do run_program "${program#"$PWD"/}" "$program"; done
[ -z "${PYTHON_TESTS:-}" ] || run_pytest "$build" $PYTHON_TESTS
finish
