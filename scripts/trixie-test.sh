#!/usr/bin/env bash
# Tests the dpdk crates against the DPDK of Debian 13, 24.11: builds them in a Debian 13 of its own, with this machine's Rust, and runs their tests
# there, on veth pairs and memif sockets. Needs root.
#
# STOQ_TRIXIE names a tar archive of a Debian 13, as debian_trixie of scripts/lib.sh makes it; without it debootstrap makes one.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib.sh
need_root "it builds in a chroot, and makes network namespaces"
need_rust
needed
install "${TRIXIE_PACKAGES[@]}"

rust=$(rustc --print sysroot) home=${CARGO_HOME:-$HOME/.cargo} target=$(realpath -m "${CARGO_TARGET_DIR:-target}")/trixie
dir=$(mktemp -d /tmp/stoq-trixie.XXXXXX)
root=$dir/root
trap 'rm -rf --one-file-system "$dir"' EXIT
base=${STOQ_TRIXIE:-$dir/base.tar}
debian_trixie "$base"
debian_root
cargo fetch --locked --quiet
mkdir -p "$target"

say "the dpdk crates on $(in_root dpkg-query -W libdpdk-dev)"
# Mounts of a namespace of its own, which end with the command: the root is removed without them. The root is a mount itself, as `ip netns` needs it.
export -f in_root
# shellcheck disable=SC2016 # the inner shell expands them
root=$root unshare --mount --propagation private bash -euo pipefail -c '
    mount --bind "$root" "$root"
    for each in "${@:2}"; do
        mkdir -p "$root$each"
        mount --rbind "$each" "$root$each"
    done
    mount -t proc proc "$root/proc"
    mount -t sysfs -o ro sysfs "$root/sys"
    in_root PATH="$2/bin:/usr/sbin:/usr/bin" CARGO_HOME="$3" CARGO_TARGET_DIR="$4" CARGO_INCREMENTAL=0 \
        sh -c "cd \"$1\" && exec cargo test --package dpdk --locked --offline"
' trixie "$PWD" "$rust" "$home" "$target" "$PWD" /dev
say "the dpdk crates pass on DPDK 24.11"
