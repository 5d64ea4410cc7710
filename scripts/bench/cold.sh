#!/usr/bin/env bash
# Reads of payloads that are not in memory, and PUTs to disk, beside fio on the same disk in the same run: over memif, one cold GET and one hot, four cold
# GETs together, a hot one and small ones beside them, a PUT with its fsync, and short PUTs beside a long one. Prints a table of Markdown. Needs root.
#
#   scripts/bench/cold.sh [DIRECTORY [MIB]]    the store is made below DIRECTORY (/var/tmp), of five payloads of MIB (512) each
#
# The kernel clears each page of the memory tier at its first use: all rows but one fill the tier with another payload first. Hot GETs beside cold ones
# are compared with hot ones beside hot ones: the clients share a core, and the gateway's worker divides its own among all.
#
# Only the caches of the payloads' own files are given up. Compare the figures of one round only: other programs use the disk and the cores too.
#
# Environment: ROUNDS (3); DISK_MB_PER_S, a bound for what the gateway and fio read and write each, as of a disk that is slower than the link;
# LINK_GBIT_PER_S, a bound for what each connection sends, as of a link that is slower than the disk; STOQ_BUILT, a directory of executables to measure instead of a new build.
set -euo pipefail
cd "$(dirname "$0")/../.."
. scripts/lib.sh
need_root "the benchmark makes DPDK ports"
need_cores 2 "a gateway and its clients"
needed
install "${BUILD_PACKAGES[@]}" "${BENCH_PACKAGES[@]}" fio
harness bench/cold.py "$@"
