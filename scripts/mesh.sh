#!/usr/bin/env bash
# The mesh: four gateways, each in user space on a DPDK port of its own (net_af_packet), joined by a bridge; a client on kernel
# UDP sockets. A file is sharded and put at one gateway, its lanes are mirrored to the others, one of them is killed, the file
# is gathered from those that are left, and fetched through a gateway that caches it. Every step prints its result.
#
#   scripts/mesh.sh [FILE]
#
# Without FILE, 64 MiB of random bytes. Needs root: it makes network namespaces and raw ports, and removes them again.
# STOQ_HUGE_PAGES sets whether huge pages are used ("preferred"; "required", "none"), STOQ_BUILT a directory of executables to run
# instead of a new build.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib.sh
need_root "the mesh makes network namespaces and raw ports"
needed
install "${BUILD_PACKAGES[@]}" "${LAB_PACKAGES[@]}"
need_namespaces
needed
harness harness/mesh.py "$@"
