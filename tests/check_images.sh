#!/usr/bin/env bash
# Runs the tests of decoding alone, C and Python, and ends with the counts as the last line:
#
#   tests/check_images.sh BUILD_FOLDER
set -u
cd "$(dirname "$0")/.."
. tests/counts.sh

build=$1
run_programs "$build/tests/test_image" "$build/tests/test_image_resize"
run_pytest "$build" tests/test_avif.py tests/test_bmp.py tests/test_formats.py tests/test_jpeg.py tests/test_preprocess.py tests/test_tiff.py tests/test_webp.py tests/test_mutations.py
finish
