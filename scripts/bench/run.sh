#!/usr/bin/env bash
# Measures the way from end to end and writes docs/benchmarks.md. Needs root and two cores that no other program uses.
#
#   scripts/bench/run.sh            every row, ROUNDS times, one after another in turn; writes docs/benchmarks.md
#   scripts/bench/run.sh ROW...     these rows alone; prints the tables instead
#   scripts/bench/run.sh --wan      every wan row; writes their section of docs/benchmarks.md, and docs/benchmarks/wan.json
#   scripts/bench/run.sh --scale    every scale row, for a machine of up to 14 cores; writes their section of docs/benchmarks.md, and docs/benchmarks/scale.json
#   scripts/bench/run.sh --compare OLD.json [ROW...]    prints ratios to an earlier run as well
#
# Rows: OPERATION-MTU[-c16 | -c256][-s4], which is goodput over memif of message, put, put-unchecked, get or get-unchecked, at MTU
# 1500 or 9000, on 1, 16 or 256 connections of 1 or 4 streams: message-1500, get-9000-c16-s4. Beside these: ping ping-load put-tmpfs
# put-disk get-hot get-piped af-xdp af-packet af-packet-flights quinn-ping quinn-ping-busy get-direct get-hop get-hop-xdp trips-direct trips-hop trips-hop-xdp holders-alive
# holders-dead, and PEER-gso and PEER-packets for the peers quinn, s2n-quic, quiche and tquic. The ceilings are quic-MTU, quinn-proto
# in memory, and wire-MTU, testpmd; handshakes-512, -1024, -mutual and -resumed are handshakes a second. plain-ROW is ROW with the release
# build, unsummed-ROW without UDP checksums (`udp_checksum = false`), fleet-ROW with a gateway of a fleet ([fleet]), verified-ROW with a verify thread on core 2, or on the other side's core where there
# are two, and workers that yield.
#
# Rows of long paths, ten seconds each, which a run of every row leaves to --wan: wan-WHO-RATE-RTT[-LOSS][-reorder], such as
# wan-stoq-300M-50ms-0.1%, through examples/long_path. WHO is stoq, stoq-reserved, tcp-cubic, tcp-bbr, quinn, s2n-quic or quiche; any rate
# in Mbit/s, round trip in ms and loss in % are a row. A run during which the long path was late is thrown away and said to be.
#
# Rows of several workers a side, which a run of every row leaves to --scale: scale-OPERATION-MTU-wN[-vN][-qN], such as scale-put-9000-w4-v4.
# OPERATION is message, put, get, file-put or file-get; wN workers a side, vN verify threads at the side that receives, and qN queues that the workers share.
# CORES names the cores in the order in which they are used, where the kernel does not know which of them share one.
#
# Environment: ROWS of a run that writes docs/benchmarks.md, where it shall not be every one; ROUNDS (5); BYTES of a goodput run
# (4000000000); PAYLOAD bytes of put and get (1073741824); TRIPS round trips (50000); RSIZE, the binary logarithm of memif's ring
# length (unset: 7, 8 and 10 are tried first); OUT, the file of JSON lines, one a measurement (bench.jsonl beside the release
# build); STOQ_BUILT, a directory of executables to measure. Without it single rows measure the release build, and the run of all
# rows what scripts/optimize.sh makes of it and of the peers. LONG_PATH is the long path of the wan rows, where one is built already.
set -euo pipefail
cd "$(dirname "$0")/../.."
. scripts/lib.sh
need_root "the benchmarks make network namespaces and DPDK ports"
need_cores 2 "a gateway and its client"
needed
install "${BUILD_PACKAGES[@]}" "${BENCH_PACKAGES[@]}"
# Two of the peers bring a TLS library in C++; its bindings are made by libclang.
[ -n "${STOQ_BUILT:-}" ] || case " $* ${ROWS:-} " in *-gso* | *-packets* | *quinn* | *--wan* | *wan-s2n* | *wan-quiche*) install cmake g++ libclang-dev ;; esac
need_rust
become bench/run.py "$@"
