#!/bin/sh
# Pins anew what tools/requirements.in names, with hashes, into tools/requirements.txt. Only for maintainers
# who want newer versions: the set-up reads requirements.txt alone.
set -eu
cd "$(dirname "$0")/.."

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
.venv/bin/python -m venv "$folder"
"$folder/bin/pip" install --quiet pip-tools
{
    echo "# The Python packages of the tools and tests, pinned by version and hash: tools/pin_requirements.sh makes"
    echo "# this from tools/requirements.in."
    "$folder/bin/pip-compile" --quiet --upgrade --generate-hashes --no-header --no-annotate --strip-extras \
        --no-emit-index-url --no-emit-find-links --output-file=- tools/requirements.in
} >"$folder/requirements.txt"
mv "$folder/requirements.txt" tools/requirements.txt
