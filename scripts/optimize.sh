#!/usr/bin/env bash
# Builds the executables with a profile of their own work, which makes them up to a sixth faster (docs/profile.md): an instrumented build, a
# few minutes of work, and a build by the profile of that work. Prints the directory of the executables.
#
#   scripts/optimize.sh            stoq, stoq-gateway and stoq-pktgen
#   scripts/optimize.sh --brief    the same from a few short rows and with little optimization, for tests of this script: not the fastest executables
#   scripts/optimize.sh --bench    also the ceiling and the peers of scripts/bench/run.sh, built in the same way
#
# Into target/optimized. Needs root, as benchmarks do, and a quarter of an hour. The work is rows of scripts/bench/run.sh. A package of it:
#   STOQ_BUILT=target/optimized scripts/package.sh
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib.sh

bench='' brief=''
case ${1:-} in
    "") ;;
    --bench) bench=1 ;;
    --brief) brief=1 ;;
    *) die "unknown option \"$1\"; there are --bench and --brief" ;;
esac
[ "$(id -u)" = 0 ] || die "needs root: the work that is profiled makes DPDK ports"
install "${BUILD_PACKAGES[@]}"
need_rust
[ -z "$bench" ] || install cmake g++ libclang-dev

# The work: small and large transfers from memory; many connections; handshakes; round trips; the store; a relay; lanes.
WORK="message-1500 put-1500 get-1500 message-1500-c16 put-1500-c16-s4 get-1500-c16-s4 message-1500-c256 put-1500-c256 get-1500-c256
    message-9000 put-9000 get-9000 ping handshakes-512 handshakes-mutual handshakes-resumed put-tmpfs get-hot get-hop holders-dead"
BENCH_WORK="quic-1500 quic-9000 quinn-gso quinn-packets s2n-quic-gso s2n-quic-packets quiche-gso quiche-packets tquic-gso tquic-packets quinn-ping"

BRIEF_WORK="message-1500 put-1500 get-1500 message-1500-c16 ping handshakes-512 put-tmpfs get-hot"

host=$(rustc -vV | sed -n 's/^host: //p')
target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
optimized=$target/optimized
work=$target/profiling
rm -rf "$work/raw" "$work/built"
mkdir -p "$work/raw" "$optimized"

# The tool of the compiler's own LLVM, if rustup has it. An older one of Debian reads the needed part of the profiles as well.
profdata=$(rustc --print sysroot)/lib/rustlib/$host/bin/llvm-profdata
if [ ! -x "$profdata" ]; then
    install "${PROFILE_PACKAGES[@]}"
    profdata=llvm-profdata-19
fi

build() { # RUSTC-FLAG DIRECTORY: both workspaces' executables, built with that flag, to the directory.
    local ceiling
    mkdir -p "$2"
    # With --target the flags do not apply to build scripts and macros.
    RUSTFLAGS=$1 cargo build --release --locked --quiet --target "$host" --target-dir "$work/stoq" --bins
    cp "$work/stoq/$host/release"/{stoq,stoq-gateway,stoq-pktgen} "$2/"
    [ -n "$bench" ] || return 0
    ceiling=$(RUSTFLAGS=$1 cargo build --release --locked --quiet --target "$host" --target-dir "$work/stoq" --bench ceiling \
        --message-format=json | sed -n 's/.*"executable":"\([^"]*\/ceiling-[^"]*\)".*/\1/p')
    cp "$ceiling" "$2/ceiling"
    RUSTFLAGS=$1 cargo build --release --locked --quiet --target "$host" --target-dir "$work/peers" --manifest-path benches/peers/Cargo.toml
    cp "$work/peers/$host/release"/{quinn,s2n-quic,quiche,tquic}-peer "$2/"
}

bytes=1000000000 payload=536870912
if [ -n "$brief" ]; then
    WORK=$BRIEF_WORK bytes=200000000 payload=134217728
    export CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 CARGO_PROFILE_RELEASE_OPT_LEVEL=1 CARGO_PROFILE_RELEASE_DEBUG=0
fi
say "building with instruments"
build "-Cprofile-generate=$work/raw" "$work/built"
say "working"
[ -z "$bench" ] || WORK="$WORK $BENCH_WORK"
read -r -d '' -a work_rows <<<"$WORK" || true
# If a row fails on a busy machine, the profile is of the other rows.
STOQ_BUILT=$work/built OUT=$work/work.jsonl ROUNDS=1 RSIZE=10 BYTES=$bytes PAYLOAD=$payload TRIPS=10000 \
    scripts/bench/run.sh "${work_rows[@]}" >/dev/null || say "the profile is of the rows that did not fail"
# The searches for a rate: a second a trial is enough.
STOQ_BUILT=$work/built OUT=$work/drops.jsonl SECONDS_FULL=1 SECONDS_SHORT=1 WIDTH=0.5 scripts/bench/pktgen.sh drop-64 initials >/dev/null ||
    say "the profile is without the drop path"
# A killed process may have left an incomplete file.
"$profdata" merge --failure-mode=all --output "$work/profile.profdata" "$work/raw"/*.profraw
say "building with the profile"
build "-Cprofile-use=$work/profile.profdata" "$optimized"
echo "with $([ -n "$brief" ] && echo no || echo fat) LTO and a profile of its own work (scripts/optimize.sh${brief:+ --brief})" >"$optimized/BUILD"
rm -rf "$work"
echo "$optimized"
