#!/usr/bin/env bash
# Runs C test programs and then the Python tests, and ends with the counts as the last line. Used by
# `make check`:
#
#   tests/check.sh BUILD_FOLDER PROGRAM...
set -u
cd "$(dirname "$0")/.."
. tests/counts.sh

build=$1
shift
for program; do
    run_program "${program#"$PWD"/}" "$program"
done
run_pytest "$build" tests
finish
