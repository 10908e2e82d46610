#!/usr/bin/env bash
# Runs README's two commands, `make demo` and `make check`, on a fresh machine: a bare root of a Debian suite
# that holds make, git and ca-certificates, and a clone of this repository's last commit.
#
#   tests/fresh.sh SUITE                 bookworm, trixie
#   tests/fresh.sh SUITE TEST_FILE...    of the Python tests, these alone, and kernels for one kind of GPU: where
#                                        the rest runs in another way
#
# Needs root and debootstrap; says "skipped: ..." and exits with 77 where it cannot run. The root lives in a
# mount and process namespace of its own and is removed at the end, also after a failure or Ctrl-C. Nothing of
# the host goes in but the settings by which apt and pip reach their mirrors (proxies, certificates).
#
# ~/.cache/effnet-fresh keeps the bare root, Debian's packages and pip's downloads for the next run.
set -euo pipefail
cd "$(dirname "$0")/.."

[ $# != 0 ] || { echo "usage: tests/fresh.sh SUITE [TEST_FILE...]" >&2; exit 64; }
suite=$1
shift
demo="make demo" check="make check"
[ $# = 0 ] || demo="make demo CUDA_ARCHS=90" check="make check CUDA_ARCHS=90 PYTHON_TESTS='$*'"
cache=${XDG_CACHE_HOME:-$HOME/.cache}/effnet-fresh

skip() { echo "skipped: $*"; exit 77; }

[ "$(id -u)" = 0 ] || skip "a bare root wants root"
command -v debootstrap >/dev/null || skip "no debootstrap"
[ -e "/usr/share/debootstrap/scripts/$suite" ] || skip "debootstrap does not know $suite"
unshare --mount --pid --fork true 2>/dev/null || skip "no new mount and process namespaces here"

# ---------------------------------------------------------------- the host's settings

# Where the host gets Debian's packages from: a one-line or a deb822 source, or Debian's own address.
mirror() {
    local found
    found=$(sed -n 's/^deb \(\[[^]]*\] \)\?\(http[^ ]*\/debian\/\?\) .*/\2/p; s/^URIs: *\(http[^ ]*\/debian\/\?\) *$/\1/p' \
        /etc/apt/sources.list /etc/apt/sources.list.d/*.list /etc/apt/sources.list.d/*.sources 2>/dev/null | head -n 1)
    echo "${found:-http://deb.debian.org/debian}"
}

# Variables that tell pip, and the libraries below it, how to reach an index; NAME=VALUE, ended by NUL.
network_environment() {
    env -0 | grep -zE '^(PIP_[A-Z_]*|https?_proxy|HTTPS?_PROXY|no_proxy|NO_PROXY|SSL_CERT_FILE|SSL_CERT_DIR|REQUESTS_CA_BUNDLE)=' |
        grep -zvE '^PIP_CACHE_DIR=' || true
}

copy_settings() {
    local root=$1 file links
    apt-config dump | grep -E '^Acquire::(http|https|Retries|ForceIPv[46]|Check-(Valid-Until|Date))' >"$root/etc/apt/apt.conf.d/90host" || true
    # Keeps what was downloaded, in the cache that is mounted below.
    echo 'APT::Keep-Downloaded-Packages "true";' >"$root/etc/apt/apt.conf.d/91keep"
    for file in /etc/pip.conf /etc/resolv.conf /etc/hosts /etc/ssl/certs/ca-certificates.crt; do
        [ ! -e "$file" ] || cp -L "$file" "$root$file"
    done
    for file in "$HOME/.config/pip/pip.conf" "$HOME/.pip/pip.conf"; do
        [ ! -e "$file" ] || install -D -m 600 "$file" "$root/root/.config/pip/pip.conf"
    done
    links=${PIP_FIND_LINKS:-}
    [ ! -d "$links" ] || { mkdir -p "$root$links" && mount --bind "$links" "$root$links"; }
}

# ---------------------------------------------------------------- the root

# A bare root as an archive: the slow part, once for each suite.
make_archive() {
    local archive=$1 root
    root=$(mktemp -d)
    trap 'rm -rf "$root"' RETURN
    debootstrap --variant=minbase --include=make,git,ca-certificates "$suite" "$root" "$(mirror)" >"$cache/$suite.log" 2>&1 || {
        tail -n 20 "$cache/$suite.log"
        echo "debootstrap failed"
        return 1
    }
    rm -f "$root"/var/cache/apt/archives/*.deb
    tar -C "$root" -cf "$archive.new" .
    mv "$archive.new" "$archive"
}

# Runs inside the namespaces: what is mounted here goes away with them.
run_inside() {
    local root=$1 command
    mount -t proc proc "$root/proc"
    mount -t devpts -o newinstance,ptmxmode=0666 devpts "$root/dev/pts"
    ln -sf pts/ptmx "$root/dev/ptmx"
    mkdir -p "$root/dev/shm" "$cache/apt-$suite/partial" "$cache/pip"
    mount -t tmpfs tmpfs "$root/dev/shm"
    mount --bind "$cache/apt-$suite" "$root/var/cache/apt/archives"
    mkdir -p "$root/root/.cache/pip"
    mount --bind "$cache/pip" "$root/root/.cache/pip"
    copy_settings "$root"
    local variables=()
    mapfile -d '' -t variables < <(network_environment)
    for command in "$demo" "$check"; do
        echo "== $suite: $command"
        chroot "$root" /usr/bin/env -i HOME=/root PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
            "${variables[@]}" /bin/sh -c "cd /effnet && $command" </dev/null || {
            echo "$command: exit status $?"
            return 1
        }
    done
}

if [ "${FRESH_INSIDE:-}" ]; then
    run_inside "$FRESH_INSIDE"
    exit
fi

mkdir -p "$cache"
archive=$cache/$suite.tar
[ -f "$archive" ] || make_archive "$archive"
root=$(mktemp -d)
trap 'rm -rf --one-file-system "$root"' EXIT
trap 'exit 130' INT TERM
chmod 755 "$root" # apt fetches as a user of its own
tar -C "$root" -xf "$archive"
git clone --quiet --no-hardlinks "file://$PWD" "$root/effnet"
FRESH_INSIDE=$root unshare --mount --pid --fork --kill-child "$0" "$suite" "$@"
