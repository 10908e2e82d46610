#!/bin/sh
# Says what the build found and what it leaves out. Called by the Makefile, which does the finding and
# passes CC, CUDA, NVCC, CUDART, CUDNN_HEADER, HAVE_ONEDNN, HAVE_JPEG, HAVE_WEBP, HAVE_TIFF, HAVE_AVIF, CUDA_ARCHS and SANITIZERS. Fails when
# something that effnet cannot do without is missing.
set -eu

line() { printf '  %-10s%s\n' "$1" "$2"; }

# The value of a macro of an installed header, or nothing. $CC may be several words, as in "ccache gcc".
macro() { echo "#include <$1>" | $CC ${3:-} -E -dM - 2>/dev/null | sed -n "s/^#define $2 //p" | tr -d '"'; }

# "gcc-12 12.2.0"; "cc (clang 14.0.6)" where the name does not tell what it is.
compiler() {
    if macro stddef.h __clang__ | grep -q 1; then
        kind=clang version=$(macro stddef.h __clang_version__ | cut -d ' ' -f 1)
    else
        kind=gcc version=$($CC -dumpfullversion)
    fi
    case $CC in
    $kind | $kind-*) echo "$CC $version" ;;
    *) echo "$CC ($kind $version)" ;;
    esac
}

if ! command -v ${CC%% *} >/dev/null || ! echo '#include <stddef.h>' | $CC -E - >/dev/null 2>&1; then
    echo "effnet: no C compiler ('$CC'): apt-get install gcc libc6-dev, or run 'make setup'" >&2
    exit 1
fi
stb=stb/stb_image.h:libstb-dev # reads JPEG where libjpeg-turbo does not
[ "$HAVE_JPEG" = 1 ] && stb=
for need in png.h:libpng-dev zlib.h:zlib1g-dev cjson/cJSON.h:libcjson-dev $stb; do
    if ! echo "#include <stdio.h>
#include <${need%%:*}>" | $CC -E - >/dev/null 2>&1; then
        echo "effnet: ${need%%:*} is not here: apt-get install ${need##*:}, or run 'make setup'" >&2
        exit 1
    fi
done

line compiler "$(compiler)${SANITIZERS:+, sanitizers: $SANITIZERS}"
png="libpng $(macro png.h PNG_LIBPNG_VER_STRING)" left=
if [ "$HAVE_JPEG" = 1 ]; then
    read="$png, libjpeg-turbo $(macro jconfig.h LIBJPEG_TURBO_VERSION)"
else
    read="$png and stb_image" left="libjpeg-turbo (libjpeg62-turbo-dev)"
fi
# Loaded while effnet runs, so their versions here are those of no header.
if [ "$HAVE_WEBP" = 1 ]; then read="$read, libwebp"; else left="${left:+$left, }libwebp (libwebp-dev)"; fi
if [ "$HAVE_TIFF" = 1 ]; then read="$read, libtiff"; else left="${left:+$left, }libtiff 4.5 (libtiff-dev)"; fi
if [ "$HAVE_AVIF" = 1 ]; then read="$read, libavif"; else left="${left:+$left, }libavif 0.11 (libavif-dev)"; fi
line images "$read${left:+; left out: $left}"
if [ "$HAVE_ONEDNN" = 1 ]; then
    line CPU "oneDNN $(macro dnnl.h DNNL_VERSION_MAJOR).$(macro dnnl.h DNNL_VERSION_MINOR).$(macro dnnl.h DNNL_VERSION_PATCH)"
else
    line CPU "left out: oneDNN (libdnnl-dev); the slow reference backend alone runs"
fi
if [ -n "$SANITIZERS" ]; then
    line GPU "left out: sanitizers"
elif [ -z "$NVCC" ] && [ -n "$CUDA" ]; then
    line GPU "left out: $CUDA has no bin/nvcc"
elif [ -z "$NVCC" ]; then
    line GPU "left out: no nvcc, or CUDA= is empty (CUDA=folder names the CUDA toolkit)"
elif [ -z "$CUDART" ]; then
    line GPU "left out: $CUDA has no libcudart_static.a"
elif [ -z "$CUDNN_HEADER" ]; then
    line GPU "left out: $CUDA is there, but cuDNN's cudnn_backend.h is not"
else
    # nvcc compiles the host's part with it.
    if ! command -v g++ >/dev/null; then
        echo "effnet: nvcc wants a C++ compiler: apt-get install g++, or leave the GPU out by CUDA=" >&2
        exit 1
    fi
    headers="-I$(dirname "$CUDNN_HEADER") -I$CUDA/include"
    version() { echo '#include <cudnn_version.h>' | $CC $headers -E -dM - 2>/dev/null | sed -n "s/^#define CUDNN_$1 //p"; }
    line GPU "CUDA $("$NVCC" --version | sed -n 's/.*release \([0-9.]*\).*/\1/p'), cuDNN $(version MAJOR).$(version MINOR).$(version PATCHLEVEL), for $(printf 'sm_%s ' $CUDA_ARCHS)and PTX"
fi
