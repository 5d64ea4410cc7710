#!/usr/bin/env bash
# Puts of small payloads that a gateway keeps, over QUIC and memif, beside the syncs of the same disk in the same run: how many a second over 1, 64 and 256
# requests at once, the time of one, and what syncs of as many bytes would allow. Prints a table of Markdown. Needs root.
#
#   scripts/bench/puts.sh [DIRECTORY [BYTES]]    the store is made below DIRECTORY (/var/tmp), of payloads of BYTES (4096)
#
# On two cores the client has one of them, and the gateway's worker and the threads of its store share the other. Compare the figures of one round only: other
# programs use the disk and the cores too.
#
# Environment: ROUNDS (3); PUTS of each row (100000), of which the first, one request at a time, has a fiftieth; STOQ_BUILT, a directory of executables to measure instead of a new build.
set -euo pipefail
cd "$(dirname "$0")/../.."
. scripts/lib.sh
need_root "the benchmark makes DPDK ports"
need_cores 2 "a gateway and its client"
needed
install "${BUILD_PACKAGES[@]}" "${BENCH_PACKAGES[@]}"
harness bench/puts.py "$@"
