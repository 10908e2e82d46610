#!/bin/sh
# Writes C: the tuning tables of tools/tuning/ as one text, and a hash of each family of kernels, of the machine code in
# its object files, so that what was measured on disk is known to be of this code.
#
#   tools/embed_tuning.sh OBJECT... >tuning_data.c
set -eu
echo '#include <string.h>'
echo '#include "backend/cuda/tuning.h"'
echo 'const char effnet_shipped_tuning[] = ""'
for table in tools/tuning/*.txt; do
    [ ! -f "$table" ] || sed -e 1d -e 's/["\\]/\\&/g' -e 's/.*/    "&\\n"/' "$table"
done
echo '    ;'
echo 'const char *effnet_kernel_code(const char *family)'
echo '{'
section=$(mktemp)
trap 'rm -f "$section"' EXIT
for family in depthwise expand_depthwise first_block linear mbconv pointwise squeeze_excite stem; do
    hash=$(for object; do
        case ${object##*/} in "$family".o | "${family}"_*.o) ;; *) continue ;; esac
        objcopy -O binary --only-section=.nv_fatbin "$object" "$section"
        cat "$section"
    done | sha256sum | cut -c 1-12)
    printf '    if (!strcmp(family, "%s")) return "%s";\n' "$family" "$hash"
done
echo '    return "";'
echo '}'
