#!/usr/bin/env bash
# The dpdk crate, its shim in C included, under the address sanitizer: its tests over memif, with rings between workers, and at start and end. A
# read or write past memory, a use after a free and a leak fail it. As root, with huge pages.
#
# Usage: scripts/sanitize.sh
#
# The compiler's own sanitizer is enough: Rust's needs RUSTC_BOOTSTRAP with a stable compiler. DPDK itself is not built with it, so that
# the contents of its pools are not seen.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib.sh
install "${BUILD_PACKAGES[@]}"
need_rust
need_root "the tests open DPDK ports"

target=$(rustc -vV | sed -n 's/^host: //p')
say "the dpdk crate under the address sanitizer"
ASAN_OPTIONS=detect_leaks=1 RUSTC_BOOTSTRAP=1 RUSTFLAGS=-Zsanitizer=address CFLAGS=-fsanitize=address \
    cargo test -p dpdk --target "$target" --lib --test rings --test memif --test lifecycle
