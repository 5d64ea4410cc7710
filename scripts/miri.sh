#!/usr/bin/env bash
# The unsafe code that can run without DPDK and without the kernel's io_uring, interpreted by Miri: its accesses to memory, their aliasing, its leaks,
# and races between its threads. The library has no unsafe code; of the dpdk crate, what calls DPDK cannot be interpreted. A few minutes.
#
# Needs `rustup toolchain install nightly-2026-10-29 --component miri`, which no other script does: neither scripts/test.sh nor CI runs this one.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib.sh
toolchain=nightly-2026-10-29
rustup run "$toolchain" cargo miri --version >/dev/null 2>&1 ||
    die "Miri is missing: rustup toolchain install $toolchain --component miri"
say "memory in blocks and slots, under Miri"
MIRIFLAGS=-Zmiri-disable-isolation cargo "+$toolchain" miri test -p disk-ring --lib --locked -- slabs
