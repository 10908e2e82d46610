#!/usr/bin/env bash
# Runs what needs a GPU, of what is built. Builds nothing and needs no network, so what `make gpu-pack` made on
# another machine will do. Ends with the counts as the last line.
#
#   tests/gpu/run.sh [PART...]     BUILD=folder: of the programs, else build
#
#   kernels     each kernel's test, and cuDNN's engines
#   network     the backend as a whole, alone and in many threads, and `effnet verify` on the networks whose weights are here
#   memcheck, racecheck, initcheck
#               all test programs, on few and small shapes, under that tool of compute-sanitizer
#   sanitize    these three
#
# Without PART all of it: kernels, network, sanitize. No command may run longer than LIMIT seconds (300).
set -u
cd "$(dirname "$0")/../.."
. tests/counts.sh

build=${BUILD:-build}
limit=${LIMIT:-300}
[ ! -d "$build/lib" ] || export LD_LIBRARY_PATH=$build/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
shopt -s nullglob
programs=("$build"/tests/gpu/test_*)
if [ ${#programs[@]} = 0 ]; then
    echo "effnet: no GPU test is built in $build (make gpu-tests)" >&2
    exit 1
fi

# What somebody measured on this machine shall not count.
export EFFNET_CACHE=

kernels() {
    local program
    for program in "${programs[@]}"; do
        case $program in
        */test_network | */test_session | */test_threads) ;;
        *) run_program "$program" timeout "$limit" "$program" ;;
        esac
    done
}

# verify NAME OPTION...
verify() {
    local name=$1
    shift
    run_command "$name" timeout "$limit" "$build/effnet" verify --device cuda --batch 3 "$@"
}

# In plan cudnn the depthwise layers' sums are rounded to fp16 before bias and activation (docs/cudnn.md), so it is
# allowed twice what plan auto is.
#
# Without trained weights, b0 to b4 make large numbers of small ones: what fp16 costs is up to 1.2e-2 of the logits on
# the samples, and 1.9e-2 in PyTorch, though every unit is as near as lite1's.
network() {
    local name weights program samples=(samples/*.png) logits cudnn_logits
    for name in network session threads; do
        program=$build/tests/gpu/test_$name
        run_program "$program" timeout "$limit" "$program"
    done
    for name in lite1 b1-plain b1 lite0 lite2 lite3 lite4 b0 b2 b3 b4; do
        weights=weights/$name.safetensors
        if [ ! -x "$build/effnet" ] || [ ! -r "$weights" ]; then
            echo "effnet verify, $name: skipped: no $build/effnet, or no $weights"
            skipped=$((skipped + 1))
            continue
        fi
        case $name in b[0-4]) logits=2e-2 cudnn_logits=2e-2 ;; *) logits=5e-3 cudnn_logits=1e-2 ;; esac
        verify "effnet verify, $name, drawn images" --model "$weights" --logits-allowance "$logits"
        [ ${#samples[@]} = 0 ] ||
            verify "effnet verify, $name, samples" --model "$weights" --logits-allowance "$logits" "${samples[@]}"
        verify "effnet verify, $name, plan cudnn" --model "$weights" --plan cudnn --allowance 2e-3 \
            --logits-allowance "$cudnn_logits"
    done
}

# Our kernels by their names, as a regular expression; tests/test_kernel_resources.py holds it against the build.
own='pointwise_|linear_|depthwise_|expand_depthwise|mbconv_|first_block_|stem_kernel|squeeze_excite_|pool_kernel|bias_act_|normalise_|resize_|convert_'

# racecheck and initcheck look at our kernels alone: in cuDNN's there is nothing that we could mend, and so they
# leave out the program that runs no others. memcheck looks at cuDNN's too, since ours are the pointers and sizes.
under() {
    local tool=$1 program name filter=() sanitizer arguments
    # Of the toolkit, wherever that put it.
    sanitizer=$(command -v compute-sanitizer || ls /usr/local/cuda/bin/compute-sanitizer \
        /usr/local/cuda/compute-sanitizer/compute-sanitizer 2>/dev/null | head -n 1)
    if [ -z "$sanitizer" ]; then
        echo "$tool: skipped: there is no compute-sanitizer"
        skipped=$((skipped + 1))
        return
    fi
    [ "$tool" = memcheck ] || filter=(--kernel-name "regex=$own")
    for program in "${programs[@]}"; do
        name=${program##*/} arguments=(--small)
        if [ "$name" = test_cudnn ] && [ "$tool" != memcheck ]; then continue; fi
        # Under racecheck (2025.3, on an H200) linear's kernels for sm_90a, blocks in clusters that TMA feeds, do not
        # come back or end in "Internal Sanitizer Error", even where the filter leaves them out.
        if [ "$name" = test_linear ] && [ "$tool" = racecheck ]; then arguments+=(no-sm90a); fi
        # Nor may a network's classifier take one: without the tuning table it takes what its estimate prefers.
        unset EFFNET_TUNING_WITHOUT
        if [ "$name" = test_network ] && [ "$tool" = racecheck ]; then export EFFNET_TUNING_WITHOUT=NVIDIA; fi
        # It looks for races inside a kernel, and these run no other kernels than the rest, but such as well.
        case $tool,$name in racecheck,test_session | racecheck,test_threads) continue ;; esac
        run_command "$tool $name" timeout "$limit" "$sanitizer" --tool "$tool" --error-exitcode 99 \
            --print-limit 20 "${filter[@]}" "$program" "${arguments[@]}"
    done
}

sanitize() {
    under memcheck
    under racecheck
    under initcheck
}

[ $# != 0 ] || set -- kernels network sanitize
for part; do
    case $part in
    kernels | network | sanitize | memcheck | racecheck | initcheck) ;;
    *)
        echo "effnet: unknown part $part: kernels, network, sanitize, memcheck, racecheck or initcheck" >&2
        exit 2
        ;;
    esac
done
"${programs[0]}" --small >/dev/null 2>&1
if [ $? = 77 ]; then
    echo "effnet: no CUDA device here, so nothing was tested" >&2
    skipped=${#programs[@]}
    finish
    exit
fi
for part; do
    case $part in
    *check) under "$part" ;;
    *) $part ;;
    esac
done
finish
