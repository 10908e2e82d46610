#!/usr/bin/env bash
# Compiles every C file, tests included, for a system that is not this one, with and without the libraries that
# a build may leave out. Nothing is linked or run.
#
#   tests/cross.sh aarch64      Debian's gcc-aarch64-linux-gnu
#   tests/cross.sh musl         musl-gcc, of Debian's musl-tools
#
# Says "skipped: ..." and exits with 77 where it cannot. For aarch64 the libraries' headers are Debian's own for
# that architecture, fetched and unpacked into .cache/cross without becoming part of this system; for musl they
# are this system's. The last line counts compilations: "N passed, M failed".
set -euo pipefail
cd "$(dirname "$0")/.."

target=${1:-}
folder=.cache/cross/$target

skip() { echo "skipped: $*"; exit 77; }

# ---------------------------------------------------------------- headers

# apt with lists and downloads of its own, and no package installed, for another architecture.
apt() {
    local state=$PWD/$folder/apt
    (cd "$state" && apt-get -qq -o Dir::State="$state" -o Dir::State::status="$state/status" -o Dir::Cache="$state" \
        -o APT::Architecture="$1" -o APT::Architectures="$1" -o APT::Sandbox::User=root "${@:2}")
}

# fetch_headers ARCHITECTURE PACKAGE...: once; the stamp names the packages and the system's release.
fetch_headers() {
    local stamp=$folder/fetched wanted package
    wanted="$* $(cat /etc/debian_version)"
    if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ]; then return; fi
    rm -rf "$folder"
    mkdir -p "$folder"/apt/lists/partial "$folder"/apt/archives/partial
    : >"$folder/apt/status"
    apt "$1" update && apt "$1" download "${@:2}" || return 1
    for package in "$folder"/apt/*.deb; do dpkg-deb -x "$package" "$folder" || return 1; done
    rm -r "$folder/apt"
    echo "$wanted" >"$stamp"
}

# Links to headers of this system: glibc's, which lie in the same folder, must not be found.
link_headers() {
    local header place
    rm -rf "$folder"
    mkdir -p "$folder/usr/include"
    for header; do
        for place in /usr/include /usr/include/"$(gcc -print-multiarch)" /usr/local/include; do
            [ ! -e "$place/$header" ] || ln -sf "$place/$header" "$folder/usr/include/"
        done
    done
}

case $target in
aarch64)
    CC=aarch64-linux-gnu-gcc
    command -v $CC >/dev/null || skip "no $CC (apt-get install gcc-aarch64-linux-gnu)"
    if ! command -v apt-get >/dev/null || ! command -v dpkg-deb >/dev/null; then skip "no apt-get and dpkg-deb"; fi
    fetch_headers arm64 libpng-dev zlib1g-dev libjpeg62-turbo-dev libwebp-dev libtiff-dev libavif-dev libcjson-dev libstb-dev libdnnl-dev libcmocka-dev ||
        skip "Debian's packages for arm64 cannot be had"
    ;;
musl)
    CC=musl-gcc
    command -v $CC >/dev/null || skip "no $CC (apt-get install musl-tools)"
    link_headers png.h pngconf.h pnglibconf.h zlib.h zconf.h jpeglib.h jconfig.h jmorecfg.h jerror.h webp avif tiff.h tiffconf.h tiffio.h tiffvers.h cjson stb \
        dnnl.h dnnl_config.h dnnl_debug.h dnnl_types.h dnnl_version.h oneapi cmocka.h cmocka_version.h
    ;;
*)
    echo "usage: tests/cross.sh aarch64|musl" >&2
    exit 64
    ;;
esac

# ---------------------------------------------------------------- compiling

passed=0 failed=0
have() { if [ -e "$folder/usr/include/$1" ] || [ -e "$folder/usr/include/$target-linux-gnu/$1" ]; then echo 1; else echo 0; fi; }

# compile VARIABLE=VALUE...: all objects, as the Makefile makes them.
compile() {
    local build=$folder/build made total
    local command=(make --no-print-directory BUILD="$build" CC="$CC" CUDA= CFLAGS=-O1 "$@" objects)
    command+=(CPPFLAGS="-isystem $folder/usr/include -isystem $folder/usr/include/$target-linux-gnu")
    rm -rf "$build"
    total=$("${command[@]}" --dry-run | grep -c '^echo "  CC ' || true)
    "${command[@]}" --keep-going -j"$(nproc)" >"$folder/log" 2>&1 || grep -v '^  CC ' "$folder/log" || true
    made=$(find "$build" -name '*.o' | wc -l)
    passed=$((passed + made)) failed=$((failed + total - made))
    rm -rf "$build"
    echo "$target, $*: $made of $total compile"
}

compile ONEDNN=0 JPEG=0 WEBP=0 TIFF=0 AVIF=0
compile ONEDNN="$(have dnnl.h)" JPEG="$(have jpeglib.h)" WEBP="$(have webp/decode.h)" TIFF="$(have tiffio.h)" AVIF="$(have avif/avif.h)"
echo "$passed passed, $failed failed"
[ "$failed" = 0 ] && [ "$passed" != 0 ]
