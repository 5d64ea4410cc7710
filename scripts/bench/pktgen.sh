#!/usr/bin/env bash
# Drives a gateway's port with load in packets a second and searches for the rates that it takes: NDR (no loss) and PDR (0.5 %
# loss), in the way of RFC 2544 and MLRsearch, for the drop path, the handshake path and the goodput path. Needs root and two
# cores that no other program uses.
#
#   scripts/bench/pktgen.sh            every row
#   scripts/bench/pktgen.sh ROW...     these rows alone
#
# Rows: ceiling flowgen drop-64 drop-512 drop-1518 drop-imix initials replay handshakes goodput pktgen-dpdk. docs/pktgen.md says
# what each is. Load is made by dpdk-testpmd (ceiling, flowgen), by Pktgen-DPDK with the Lua profiles in benches/pktgen/ (pktgen-dpdk,
# passed over where there is no `pktgen`), and by stoq-pktgen (the rest). Prints a section of Markdown.
#
# Environment: SECONDS_FULL of a trial that counts (5) and SECONDS_SHORT of one that narrows (1); WIDTH, how far the bounds may lie
# apart (0.05); ROUNDS of the ceiling (5); RSIZE, the binary logarithm of memif's ring length (10); OUT, the file of JSON lines
# (pktgen.jsonl beside the release build); STOQ_BUILT, a directory of executables to measure instead of a new build.
set -euo pipefail
cd "$(dirname "$0")/../.."
. scripts/lib.sh
need_root "the benchmarks make DPDK ports"
need_cores 2 "a gateway and its load"
needed
install "${BUILD_PACKAGES[@]}" "${BENCH_PACKAGES[@]}"
harness bench/pktgen.py "$@"
