#!/usr/bin/env bash
# Runs the fuzzers one after the other, so many seconds each, and ends with the counts as the last line. What
# they find out stays in BUILD_FOLDER/corpus for the next run, a finding in BUILD_FOLDER/findings:
#
#   tests/fuzz/run.sh BUILD_FOLDER SECONDS NAME...
set -u
cd "$(dirname "$0")/../.."
. tests/counts.sh

build=$(realpath "$1") seconds=$2
shift 2
.venv/bin/python tests/fuzz/make_seeds.py "$build" || exit 1
mkdir -p "$build/findings"
for name; do
    mkdir -p "$build/corpus/$name" "tests/fuzz/seeds/$name"
    run_command "fuzz_$name" "$build/tests/fuzz/fuzz_$name" -max_total_time="$seconds" -timeout=20 \
        -rss_limit_mb=1024 -close_fd_mask=3 -verbosity=0 -artifact_prefix="$build/findings/$name-" \
        "$build/corpus/$name" "$build/seeds/$name" "$PWD/tests/fuzz/seeds/$name"
done
finish
