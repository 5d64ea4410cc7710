#!/usr/bin/env bash
# Measures the way from end to end and writes docs/benchmarks.md. Needs root and two cores that nobody else uses.
#
#   scripts/bench/run.sh            every row, ROUNDS times, one after another in turn; writes docs/benchmarks.md
#   scripts/bench/run.sh ROW...     these rows alone; prints the tables instead
#   scripts/bench/run.sh --compare OLD.json [ROW...]    prints ratios to an earlier run as well
#
# Rows: OPERATION-MTU[-c16 | -c256][-s4], which is goodput over memif of message, put, put-unchecked, get or get-unchecked, at MTU
# 1500 or 9000, on 1, 16 or 256 connections of 1 or 4 streams: message-1500, get-9000-c16-s4. Beside these: ping ping-load put-tmpfs
# put-disk get-hot get-piped af-xdp af-packet quinn-ping quinn-ping-busy get-direct get-hop get-hop-xdp trips-direct trips-hop trips-hop-xdp holders-alive
# holders-dead, and PEER-gso and PEER-packets for the peers quinn, s2n-quic, quiche and tquic. The ceilings are quic-MTU, quinn-proto
# in memory, and wire-MTU, testpmd; handshakes-512, -1024, -mutual and -resumed are handshakes a second. plain-ROW is ROW with the release
# build, unsummed-ROW without UDP checksums (`udp_checksum = false`).
#
# Environment: ROWS of a run that writes docs/benchmarks.md, where it shall not be every one; ROUNDS (5); BYTES of a goodput run
# (4000000000); PAYLOAD bytes of put and get (1073741824); TRIPS round trips (50000); RSIZE, the binary logarithm of memif's ring
# length (unset: 9, 10 and 11 are tried first); OUT, the file of JSON lines, one a measurement (bench.jsonl beside the release
# build); STOQ_BUILT, a directory of executables to measure. Without it single rows measure the release build, and the run of all
# rows what scripts/optimize.sh makes of it and of the peers.
set -euo pipefail
cd "$(dirname "$0")/../.."
. scripts/lib.sh

# Super-packets crossing whole, and packets crossing one by one.
PEERS="quinn-gso quinn-packets s2n-quic-gso s2n-quic-packets quiche-gso quiche-packets tquic-gso tquic-packets"
# Goodput over memif: every operation, MTU and width.
GOODPUT=
for mtu in 1500 9000; do
    for width in "" -s4 -c16 -c16-s4 -c256 -c256-s4; do
        for operation in message put put-unchecked get get-unchecked; do GOODPUT="$GOODPUT $operation-$mtu$width"; done
    done
done
# What nothing above can pass: QUIC without a wire, and the wire without QUIC.
CEILINGS="quic-1500 quic-9000 wire-1500 wire-9000"
HANDSHAKES="handshakes-512 handshakes-1024 handshakes-mutual handshakes-resumed"
# The same without what is not everybody's.
VARIANTS=
for row in message-1500 put-1500 get-1500 message-9000 ping handshakes-512 handshakes-resumed; do VARIANTS="$VARIANTS plain-$row"; done
for row in message-1500 put-1500 get-1500 message-9000; do VARIANTS="$VARIANTS unsummed-$row"; done
ALL="$GOODPUT $CEILINGS $HANDSHAKES $VARIANTS ping ping-load $PEERS quinn-ping quinn-ping-busy put-tmpfs put-disk get-hot get-piped af-xdp af-packet get-direct get-hop get-hop-xdp trips-direct trips-hop trips-hop-xdp holders-alive holders-dead"
compare=
if [ "${1:-}" = --compare ]; then
    [ -f "${2:-}" ] || die "--compare takes the JSON of an earlier run, such as docs/benchmarks/run.json"
    compare=$2
    shift 2
fi
rows=${*:-${ROWS:-$ALL}}
for row in $rows; do
    case " $ALL " in *" $row "*) ;; *) die "no row \"$row\"; rows: $ALL" ;; esac
done
ROUNDS=${ROUNDS:-5} BYTES=${BYTES:-4000000000} PAYLOAD=${PAYLOAD:-1073741824} TRIPS=${TRIPS:-50000} RSIZE=${RSIZE:-}
RUN_S_MAX=180
STORM_S=4
GATEWAY_CORE=1 CLIENT_CORE=0
DPDK_MB=256
# A store works on a thread of its own; on one core a side a worker that never yields would stand in its way.
STORE_IDLE=adaptive
# Socket buffers of the kernel peers; the kernel's own bound is raised to this meanwhile.
SOCKET_BYTES=16777216
# Flow control of the peers that run on a loop of ours: well below the socket's buffer, the best of those tried.
LOOP_WINDOW_BYTES=4194304
# Whether the kernel may put packets that crossed one by one together again, as it does behind a NIC.
VETH_GRO=${VETH_GRO:-on}
UDP_CHECKSUM=${UDP_CHECKSUM:-true}

[ "$(id -u)" = 0 ] || die "the benchmarks need root: they make network namespaces and DPDK ports"
[ "$(nproc)" -ge 2 ] || die "the benchmarks need two cores, one a side"
install "${BUILD_PACKAGES[@]}" "${BENCH_PACKAGES[@]}"
need_rust

built=${STOQ_BUILT:-}
# What is published is what runs best; one row is wanted at once.
if [ -z "$built" ] && [ $# -eq 0 ]; then built=$(scripts/optimize.sh --bench); fi
plain=${CARGO_TARGET_DIR:-target}/release
if [ -z "$built" ] || [[ " $rows" == *" plain-"* ]]; then
    say "building"
    cargo build --release --locked --quiet
fi
# What the rows need beside it. Peers take minutes.
if [ -z "$built" ]; then
    built=$plain
    case $rows in
        *quic-[19]*)
            cp "$(cargo build --release --locked --quiet --bench ceiling --message-format=json |
                sed -n 's/.*"executable":"\([^"]*\/ceiling-[^"]*\)".*/\1/p')" "$built/ceiling"
            ;;
    esac
    case $rows in
        *-gso* | *-packets* | *quinn*)
            # Two of them bring a TLS library in C++; its bindings are made by libclang.
            install cmake g++ libclang-dev
            peers_target=$(realpath -m "${CARGO_TARGET_DIR:-target}")/peers
            cargo build --release --locked --quiet --target-dir "$peers_target" --manifest-path benches/peers/Cargo.toml
            cp "$peers_target"/release/{quinn,s2n-quic,quiche,tquic}-peer "$built/"
            ;;
    esac
fi
out=${OUT:-$plain/bench.jsonl}

disk=$(mktemp -d "${TMPDIR:-/tmp}/stoq-bench.XXXXXX")
shm=$(mktemp -d /dev/shm/stoq-bench.XXXXXX)
near=stoq-bench-near-$$ far=stoq-bench-far-$$
mesh_pids=() pid='' client_pid='' reserved='' rmem_max='' wmem_max=''

end() { # PID: ends a process of ours, by force after ten seconds, and returns its status.
    local tries status=0
    kill "$1" 2>/dev/null || true
    for tries in $(seq 100); do
        kill -0 "$1" 2>/dev/null || break
        sleep 0.1
    done
    [ "$tries" -lt 100 ] || kill -9 "$1" 2>/dev/null || true
    wait "$1" 2>/dev/null || status=$?
    return $status
}
cleanup() {
    trap - EXIT INT TERM
    [ -z "$client_pid" ] || end "$client_pid" || true
    [ -z "$pid" ] || end "$pid" || true
    [ ${#mesh_pids[@]} = 0 ] || mesh_down
    # The links go with their namespaces.
    ip netns delete "$near" 2>/dev/null || true
    ip netns delete "$far" 2>/dev/null || true
    [ -z "$rmem_max" ] || echo "$rmem_max" >/proc/sys/net/core/rmem_max
    [ -z "$wmem_max" ] || echo "$wmem_max" >/proc/sys/net/core/wmem_max
    [ -z "$reserved" ] || echo "$reserved" >/proc/sys/vm/nr_hugepages
    rm -rf "$disk" "$shm"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

# Copies: a build that goes on meanwhile does not change what is measured.
for file in BUILD stoq stoq-gateway stoq-pktgen ceiling quinn-peer s2n-quic-peer quiche-peer tquic-peer; do
    [ ! -f "$built/$file" ] || cp "$built/$file" "$shm/"
done
stoq=$shm/stoq gateway=$shm/stoq-gateway pktgen=$shm/stoq-pktgen
case " $rows" in
    *" plain-"*)
        mkdir "$shm/plain"
        cp "$plain"/{stoq,stoq-gateway,stoq-pktgen} "$shm/plain/"
        ;;
esac

bound=$(cat /proc/sys/net/core/rmem_max)
if [ "$bound" -lt $SOCKET_BYTES ]; then rmem_max=$bound; echo $SOCKET_BYTES >/proc/sys/net/core/rmem_max; fi
bound=$(cat /proc/sys/net/core/wmem_max)
if [ "$bound" -lt $SOCKET_BYTES ]; then wmem_max=$bound; echo $SOCKET_BYTES >/proc/sys/net/core/wmem_max; fi

# Two processes' DPDK, and a store that keeps the whole payload in memory, with blocks to spare.
memory_bytes=$((PAYLOAD + (64 << 20)))
need_mb=$((2 * DPDK_MB + (memory_bytes >> 20)))
if [ "$(free_huge_mb)" -lt $need_mb ]; then
    before=$(cat /proc/sys/vm/nr_hugepages)
    if echo $((before + need_mb / 2)) 2>/dev/null >/proc/sys/vm/nr_hugepages; then reserved=$before; fi
fi

. scripts/bench/rows.sh
. scripts/bench/mesh.sh
build=$(how_built "$built")

failed=
new_identities "$shm" gateway client
mkdir -p "$(dirname "$out")"
environment >"$out"
for row in $rows; do
    case $row in put-[0-9u]* | plain-put-* | unsummed-put-*) ;; put-* | get-* | trips-* | holders-*) [ -f "$shm/payload" ] || head -c "$PAYLOAD" /dev/urandom >"$shm/payload" ;; esac
    case $row in
        quic-*) ;;
        *-9000*) tune 9000 ;;
        *-1500* | *ping* | plain-* | handshakes-* | put-* | get-hot | get-piped) tune 1500 ;;
    esac
done
for round in $(seq "$ROUNDS"); do
    for row in $rows; do
        say "round $round of $ROUNDS: $row"
        if run_row "$row"; then
            record "$row" "$round"
        else
            failed="$failed $row"
            tail -n 20 "$shm/gateway.log" "$shm/client.log" >&2 || true
        fi
    done
done

python3 scripts/bench/summary.py "$out" >"${out%.jsonl}.json"
if [ $# -eq 0 ]; then
    mkdir -p docs/benchmarks
    cp "${out%.jsonl}.json" docs/benchmarks/run.json
    say "coding and checking, one core"
    cargo bench --locked --quiet --no-run --bench shards --bench tokens
    { taskset -c $CLIENT_CORE cargo bench --locked --quiet --bench shards
      taskset -c $CLIENT_CORE cargo bench --locked --quiet --bench tokens; } | grep -v '^$' >"$shm/coding.txt"
    say "load in packets a second"
    STOQ_BUILT=$shm OUT="${out%.jsonl}-pktgen.jsonl" scripts/bench/pktgen.sh >"$shm/pktgen.md" || failed="$failed pktgen"
    plots=$(python3 scripts/bench/plot.py "$out" docs/benchmarks)
    python3 scripts/bench/table.py "$out" "$plots" "$shm/coding.txt" "$shm/pktgen.md" >docs/benchmarks.md
    say "wrote docs/benchmarks.md and $out"
else
    python3 scripts/bench/table.py "$out"
    say "wrote $out and ${out%.jsonl}.json"
fi
[ -z "$compare" ] || python3 scripts/bench/compare.py "$compare" "$out"
[ -z "$failed" ] || die "rows that failed:$failed"
