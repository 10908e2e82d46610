#!/bin/sh
# Pins anew what tools/requirements.in and python/requirements.in name, with hashes, into the requirements.txt beside
# each; arguments name some of the folders. Only for maintainers who want newer versions: the set-up reads
# requirements.txt alone.
set -eu
cd "$(dirname "$0")/.."

environment=$(mktemp -d)
trap 'rm -rf "$environment"' EXIT
.venv/bin/python -m venv "$environment"
"$environment/bin/pip" install --quiet pip-tools
for folder in ${*:-tools python}; do
    {
        echo "# Python packages, pinned by version and hash: tools/pin_requirements.sh makes this from $folder/requirements.in."
        "$environment/bin/pip-compile" --quiet --upgrade --generate-hashes --no-header --no-annotate --strip-extras \
            --no-emit-index-url --no-emit-find-links --output-file=- "$folder/requirements.in"
    } >"$environment/requirements.txt"
    mv "$environment/requirements.txt" "$folder/requirements.txt"
done
