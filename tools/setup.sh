#!/bin/sh
# Installs what is missing and nothing else: Debian packages by name, and the Python environment .venv
# from the pinned and hash-checked tools/requirements.txt. What is there already is left alone, so a
# second run needs neither root nor network.
#
#   tools/setup.sh            what building and the demo need
#   tools/setup.sh --test     and what the tests need
#   tools/setup.sh --python   .venv alone
#   tools/setup.sh --photos   .venv, and the photographs that integer networks are calibrated with
#   tools/setup.sh --package  what building and testing the Python package needs: .venv-python in place of .venv,
#                             from python/requirements.txt
#   tools/setup.sh --scale    what the examples for a Ray cluster need: .venv-scale, from python/scale-requirements.txt
set -eu
cd "$(dirname "$0")/.."

PYTHON_PACKAGES="ca-certificates python3 python3-venv"
BUILD_PACKAGES="gcc libc6-dev make libpng-dev zlib1g-dev libjpeg62-turbo-dev libwebp-dev libtiff-dev libavif-dev libcjson-dev libdnnl-dev libstb-dev"
PHOTO_PACKAGES="mate-backgrounds"
TEST_PACKAGES="libcmocka-dev libjpeg-turbo-progs $PHOTO_PACKAGES pkgconf g++"
# nvcc, where there is one, compiles the host's part with g++.
if ! command -v g++ >/dev/null && { command -v nvcc || [ -x /usr/local/cuda/bin/nvcc ]; } >/dev/null; then
    BUILD_PACKAGES="$BUILD_PACKAGES g++"
fi

say() { echo "effnet: $*" >&2; }

venv=.venv requirements=tools/requirements.txt
case "${1:-}" in
"") packages="$PYTHON_PACKAGES $BUILD_PACKAGES" ;;
--test) packages="$PYTHON_PACKAGES $BUILD_PACKAGES $TEST_PACKAGES" ;;
--python) packages="$PYTHON_PACKAGES" ;;
--photos) packages="$PYTHON_PACKAGES $PHOTO_PACKAGES" ;;
--package)
    packages="$PYTHON_PACKAGES $BUILD_PACKAGES"
    venv=.venv-python requirements=python/requirements.txt
    ;;
--scale)
    packages="$PYTHON_PACKAGES"
    venv=.venv-scale requirements=python/scale-requirements.txt
    ;;
*)
    say "usage: tools/setup.sh [--test|--python|--photos|--package|--scale]"
    exit 64
    ;;
esac

# ---------------------------------------------------------------- Debian packages

missing_packages() {
    for package in $packages; do
        status=$(dpkg-query -W -f '${Status}' "$package" 2>/dev/null || true)
        case "$status" in *" ok installed") ;; *) printf '%s ' "$package" ;; esac
    done
}

# root, or sudo that can answer: with a terminal it may ask for the password, without one it must not.
as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif [ -t 0 ]; then
        sudo "$@"
    else
        sudo -n "$@"
    fi
}

install_packages() {
    if [ "$(id -u)" = 0 ] || { command -v sudo >/dev/null && { [ -t 0 ] || sudo -n true 2>/dev/null; }; }; then
        say "installing $missing"
        as_root apt-get update -q >/dev/null &&
            as_root env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends $missing \
                >/dev/null && return 0
        say "apt-get failed; the line was:"
    else
        say "some packages are missing, and neither root nor sudo is at hand; as root, run"
    fi
    echo "apt-get update && apt-get install -y --no-install-recommends $missing"
    exit 69
}

if command -v dpkg-query >/dev/null; then
    missing=$(missing_packages)
    missing=${missing% }
    [ -z "$missing" ] || install_packages
else
    say "no Debian here: going on with what there is; on Debian these would be installed: $packages"
fi

# ---------------------------------------------------------------- Python environment

# Debian's own Python first: whatever else is first on PATH may lack venv or be too old.
find_python() {
    for python in /usr/bin/python3 python3; do
        if "$python" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            command -v "$python"
            return 0
        fi
    done
    say "no Python 3.11 or newer with venv and ensurepip"
    exit 69
}

stamp=$venv/requirements.sha256
wanted=$(sha256sum <"$requirements")
unfinished=.cache/${venv#.}-unfinished # marks an environment of ours that has no stamp yet
if [ ! -x $venv/bin/python ] || [ ! -f "$stamp" ] || [ "$(cat "$stamp")" != "$wanted" ]; then
    if [ -e $venv ] && [ ! -f "$stamp" ] && [ ! -f "$unfinished" ]; then
        say "there is a $venv that set-up did not make: move it away and start again"
        exit 73 # EX_CANTCREAT
    fi
    python=$(find_python)
    say "making $venv with $python from $requirements"
    mkdir -p .cache
    : >"$unfinished"
    # What somebody has installed into it besides stays, as long as its Python works.
    $venv/bin/python -m pip --version >/dev/null 2>&1 || "$python" -m venv --clear $venv
    $venv/bin/python -m pip install --quiet --disable-pip-version-check --no-input --only-binary :all: \
        --require-hashes -r "$requirements"
    echo "$wanted" >"$stamp"
    rm -f "$unfinished"
fi
