#!/bin/sh
# Pins anew what tools/requirements.in, python/requirements.in and python/scale-requirements.in name, with hashes, into the
# .txt beside each; arguments name some of them, without the ending. Only for maintainers who want newer versions: the set-up reads
# requirements.txt alone.
set -eu
cd "$(dirname "$0")/.."

environment=$(mktemp -d)
trap 'rm -rf "$environment"' EXIT
.venv/bin/python -m venv "$environment"
"$environment/bin/pip" install --quiet pip-tools
for name in ${*:-tools/requirements python/requirements python/scale-requirements}; do
    {
        echo "# Python packages, pinned by version and hash: tools/pin_requirements.sh makes this from $name.in."
        "$environment/bin/pip-compile" --quiet --upgrade --generate-hashes --no-header --no-annotate --strip-extras \
            --no-emit-index-url --no-emit-find-links --output-file=- "$name.in"
    } >"$environment/requirements.txt"
    mv "$environment/requirements.txt" "$name.txt"
done
