#!/bin/sh
# Formats the C and CUDA sources by .clang-format; --check only says which files differ. The style is
# that of clang-format 14, and other versions lay some lines out otherwise, so no other will do.
set -eu
cd "$(dirname "$0")/.."

for program in clang-format-14 clang-format; do
    if "$program" --version 2>/dev/null | grep -q 'version 14\.'; then
        mode=-i
        [ "${1:-}" != --check ] || mode='--dry-run -Werror'
        find include src kernels tests examples -name '*.[ch]' -o -name '*.cu' -o -name '*.cuh' -o -name '*.cpp' | sort |
            xargs "$program" $mode --style=file
        exit
    fi
done
echo "effnet: clang-format 14 is not here (apt-get install clang-format-14)" >&2
exit 69
