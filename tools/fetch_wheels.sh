#!/bin/sh
# Fetches the wheels that a requirements file names by version and hash into a folder, without installing
# them; does nothing while the requirements file and the wheels are those of the last time. Needs .venv.
#
#   tools/fetch_wheels.sh REQUIREMENTS FOLDER
set -eu
cd "$(dirname "$0")/.."

requirements=$1 folder=$2
stamp=$folder/fetched.sha256
if sha256sum --check --status "$stamp" 2>/dev/null; then
    exit 0
fi
echo "effnet: fetching what $requirements names" >&2
mkdir -p "$folder"
# Wheels of the last time; others in that folder are not ours.
[ ! -f "$stamp" ] || sed -n 's/^[0-9a-f]*  \(.*\.whl\)$/\1/p' "$stamp" | xargs -r -d '\n' rm -f
rm -f "$stamp"
new=$(mktemp -d "$folder/new.XXXXXX")
trap 'rm -rf "$new"' EXIT
.venv/bin/python -m pip download --quiet --disable-pip-version-check --no-input --no-deps \
    --only-binary :all: --require-hashes -d "$new" -r "$requirements"
sha256sum "$requirements" >"$new/stamp"
for wheel in "$new"/*.whl; do
    mv "$wheel" "$folder"
    sha256sum "$folder/${wheel##*/}" >>"$new/stamp"
done
mv "$new/stamp" "$stamp"
