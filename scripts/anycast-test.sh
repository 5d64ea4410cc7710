#!/usr/bin/env bash
# Anycast addresses that BIRD and FRR announce while a gateway is ready: a router and two gateways in namespaces, with the files of configs/bird and
# configs/frr. The route comes with the gateway, goes with SIGTERM before the gateway takes no more requests, and goes with SIGKILL. Half a minute.
# Then BGP and BFD through the gateways' own DPDK ports (anycast.exception_path): a router leaves a gateway that stands. Two minutes.
# Then two gateways of a fleet with etcd: routers move the flows of clients from one to the other, no connection is lost, and the clients of a killed one
# are told by the other. A minute.
#
#   scripts/anycast-test.sh [announcements] [exceptions] [handover]
#   scripts/anycast-test.sh latency     what a hand-over adds to a round trip; give STOQ_BUILT, and leave the machine alone
#
# STOQ_BUILT names a directory with stoq and stoq-gateway; without it they are built. BIRD, FRR and etcd come from Debian. Needs root: it makes network namespaces.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib.sh
need_root "the test makes network namespaces"
needed
install "${ANYCAST_PACKAGES[@]}" "${FLEET_PACKAGES[@]}"
[ -n "${STOQ_BUILT:-}" ] || install "${BUILD_PACKAGES[@]}"
need_namespaces
needed
harness harness/handover.py "$@"
