#!/usr/bin/env bash
# The dpdk crate, its shim in C included, under a sanitizer: its tests over memif, with rings between workers, and at start and end. As root, with
# huge pages.
#
# Usage: scripts/sanitize.sh           accesses past memory, uses after a free, and leaks; a stable compiler suffices
#        scripts/sanitize.sh --thread  data races; builds the standard library too, from its source: `rustup component add rust-src`
#
# DPDK itself is not built with a sanitizer. So the contents of its pools are not seen, and races in which one of its functions is on a stack
# are not judged: those of memif's callbacks with bursts are a model in tests/interleavings.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib.sh
install "${BUILD_PACKAGES[@]}"
need_rust
need_root "the tests open DPDK ports"
tests=(--lib --test rings --test memif)
target=$(rustc -vV | sed -n 's/^host: //p')

case ${1:-} in
    "")
        say "the dpdk crate under the address sanitizer"
        ASAN_OPTIONS=detect_leaks=1 RUSTC_BOOTSTRAP=1 RUSTFLAGS=-Zsanitizer=address CFLAGS=-fsanitize=address \
            cargo test -p dpdk --target "$target" "${tests[@]}" --test lifecycle
        # A ring that is dropped leaks what the kernel may still write.
        say "the disk-ring crate under the address sanitizer"
        ASAN_OPTIONS=detect_leaks=0 RUSTC_BOOTSTRAP=1 RUSTFLAGS=-Zsanitizer=address cargo test -p disk-ring --target "$target"
        ;;
    --thread)
        [ -f "$(rustc --print sysroot)/lib/rustlib/src/rust/library/Cargo.lock" ] ||
            die "the source of the standard library is missing: rustup component add rust-src"
        export RUSTC_BOOTSTRAP=1 RUSTFLAGS=-Zsanitizer=thread CFLAGS=-fsanitize=thread
        say "the dpdk crate under the thread sanitizer"
        suppressed=$(mktemp)
        trap 'rm -f "$suppressed"' EXIT
        echo race:librte_ >"$suppressed"
        # DPDK's interrupt thread lasts as long as its process.
        TSAN_OPTIONS="suppressions=$suppressed report_thread_leaks=0" \
            cargo test -Zbuild-std -p dpdk --target "$target" "${tests[@]}"
        say "the disk-ring crate under the thread sanitizer"
        cargo test -Zbuild-std -p disk-ring --target "$target" --lib
        ;;
    *) die "no option is called $1: give --thread or none" ;;
esac
