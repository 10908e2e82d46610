#!/usr/bin/env bash
# Runs everything that needs a GPU, of what is built: the kernels' tests, every layer of both networks
# against the reference, and the kernels' tests again, on small shapes, under compute-sanitizer. Builds
# nothing and needs no network, so a build folder made elsewhere will do (`make gpu-libs` puts the shared
# libraries beside it). Ends with the counts as the last line.
#
#   tests/gpu/run.sh [BUILD_FOLDER]     default: build
#   SANITIZE=0                          without compute-sanitizer
set -u
cd "$(dirname "$0")/../.."
. tests/counts.sh

build=${1:-build}
[ ! -d "$build/lib" ] || export LD_LIBRARY_PATH=$build/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
shopt -s nullglob
programs=("$build"/tests/gpu/test_*)
if [ ${#programs[@]} = 0 ]; then
    echo "effnet: no GPU test is built in $build (make gpu-tests)" >&2
    exit 1
fi

for program in "${programs[@]}"; do
    run_program "$program"
done

if [ $skipped = ${#programs[@]} ] && [ $passed = 0 ] && [ $failed = 0 ]; then
    echo "effnet: no CUDA device here, so nothing was tested" >&2
    finish
    exit
fi

for network in lite1 b1-plain; do
    run_command "effnet verify --device cuda, $network" \
        "$build/effnet" verify --device cuda --model "weights/$network.safetensors"
done

# The sanitizer of the toolkit, wherever that put it.
sanitizer=$(command -v compute-sanitizer || ls /usr/local/cuda/bin/compute-sanitizer \
    /usr/local/cuda/compute-sanitizer/compute-sanitizer 2>/dev/null | head -n 1)
if [ "${SANITIZE:-1}" = 1 ] && [ -n "$sanitizer" ]; then
    for tool in memcheck racecheck initcheck; do
        for program in "${programs[@]}"; do
            run_command "$tool ${program##*/}" "$sanitizer" --tool $tool --error-exitcode 99 "$program" --small
        done
    done
else
    record "compute-sanitizer" 0 0 0 1
fi
finish
