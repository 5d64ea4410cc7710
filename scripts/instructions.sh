#!/usr/bin/env bash
# Counts the instructions that a packet costs, receiving and transmitting, and compares with benches/instructions.json: fails
# where a path takes more than 5 % more than is stored there, where a packet of a long path, 10 Gbit/s with a round trip of 100 ms,
# takes more than 1.4 times (GET: 1.2 times) what it takes without delay, encryption included, or where a packet of one of 100 or
# 1,000 connections that send at once takes more than 1.2 times what it takes on one connection with the same windows, or where a packet of
# a gateway of 2, 4 or 8 workers takes its worker more than 1.05 times what it takes one that is alone, or a packet of a gateway of a fleet more
# than 1.02 times what it takes in none.
#
# Usage: scripts/instructions.sh            compares
#        scripts/instructions.sh --accept   stores what it counts, for you to commit
#        scripts/instructions.sh --explain  compares, and lists where the instructions go
#
# Counts, unlike times, are the same on a busy machine. callgrind counts in the turns of one of two workers, gateway/examples/instructions/main.rs
# says what they do; packets are those with payload, in the steady stream. The worker without DPDK is counted: a wire in memory
# stands for the device. Valgrind has no AVX-512, so encryption takes another path in it than on metal, and on another CPU may
# take a third one. What chooses its path by the CPU is therefore left out of the sum that is compared, and shown beside it: aws-lc,
# BLAKE3, libc's memcpy and similar functions. A call of them more or a byte of them more shows there, not in the sum. System calls
# and the kernel are in neither.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib.sh
stored=benches/instructions.json

action=compare
explain=
case ${1:-} in
    "") ;;
    --accept) action=accept ;;
    --explain) explain=yes ;;
    *) die "no option is called $1: give --accept, --explain or none" ;;
esac
install "${INSTRUCTIONS_PACKAGES[@]}"
need_rust

say "building"
program=$(cargo build --release --no-default-features --locked --quiet --example instructions \
    --message-format=json-render-diagnostics | sed -n 's/.*"executable":"\([^"]*\/instructions\)".*/\1/p')
[ -x "$program" ] || die "cargo named no program for gateway/examples/instructions/main.rs"

out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT

count() { # PATH SIDE WIRE [CONNECTIONS]
    local packets begin pid name=$1-$2
    [ "$3" = short ] || name=$name-$3
    [ -z "${4:-}" ] || name=$name-of-$4
    mkfifo "$out/$name.begin"
    valgrind --tool=callgrind --instr-atstart=no --toggle-collect='*counted_turn*' --callgrind-out-file="$out/$name" --error-exitcode=9 \
        "$program" "$@" <"$out/$name.begin" >"$out/$name.said" 2>"$out/$name.log" &
    pid=$!
    exec {begin}>"$out/$name.begin"
    # Instrumented code is ten times as slow: it begins when the program is warm.
    until grep -qs '^warm' "$out/$name.said" || ! kill -0 $pid 2>/dev/null; do sleep 0.1; done
    callgrind_control --instr=on $pid >"$out/$name.control" 2>&1 || true
    exec {begin}>&-
    wait $pid || { cat "$out/$name.log" >&2; return 1; }
    grep -q '^totals: [1-9]' "$out/$name" || { cat "$out/$name.control" >&2; echo "callgrind did not begin to count" >&2; return 1; }
    packets=$(sed -n 's/^packets //p' "$out/$name.said")
    [ "${packets:-0}" -gt 0 ] || { echo "no packets were counted" >&2; return 1; }
    echo "$name:$packets:$out/$name" >"$out/$name.counted"
}

say "counting"
names=()
for run in "message short" "small short" "ping short" "put short" "get short" "message long" "put long" "get long" \
    "message short 1" "message short 100" "message short 1000"; do
    read -r path wire connections <<<"$run"
    # Two at once: counts do not mind.
    count "$path" transmit "$wire" ${connections:+"$connections"} & first=$!
    count "$path" receive "$wire" ${connections:+"$connections"} & second=$!
    status=0
    wait $first || status=1
    wait $second || status=1
    [ $status = 0 ] || die "$path could not be counted over the $wire wire"
    suffix=
    [ "$wire" = short ] || suffix=-$wire
    [ -z "$connections" ] || suffix=$suffix-of-$connections
    for side in transmit receive; do names+=("$path-$side$suffix"); done
done
# What a packet costs the worker that hands it over, and the one that takes it over.
count message hand-over short & first=$!
count message take-over short & second=$!
status=0
wait $first || status=1
wait $second || status=1
[ $status = 0 ] || die "packets that are handed over could not be counted"
names+=(message-hand-over message-take-over)
# What a packet costs a gateway of a fleet: alone it reads no connection IDs, with several workers it does.
count message receive-in-fleet short & first=$!
count message receive-by-2-in-fleet short & second=$!
status=0
wait $first || status=1
wait $second || status=1
[ $status = 0 ] || die "packets of a gateway of a fleet could not be counted"
names+=(message-receive-in-fleet message-receive-by-2-in-fleet)
for by in 2 4 8; do
    count message "receive-by-$by" short & first=$!
    count get "transmit-by-$by" short & second=$!
    status=0
    wait $first || status=1
    wait $second || status=1
    [ $status = 0 ] || die "packets of a gateway of $by workers could not be counted"
    names+=("message-receive-by-$by" "get-transmit-by-$by")
done
measured=()
for name in "${names[@]}"; do measured+=("$(cat "$out/$name.counted")"); done
EXPLAIN=$explain python3 scripts/instructions.py "$stored" $action \
    "$(rustc --version), valgrind $(valgrind --version | cut -d- -f2), $(ldd --version | sed -n '1s/.* //p') glibc" "${measured[@]}"
