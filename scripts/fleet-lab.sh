#!/usr/bin/env bash
# A fleet on the real engines, in namespaces: two routers with BIRD, five gateways in three zones that announce one anycast address by BIRD, three members
# of etcd with TLS and users, two clients' hosts. Clients' requests are recorded, and what was acknowledged is read again at the end.
#
#   scripts/fleet-lab.sh                    all scenarios, one after another: four minutes
#   scripts/fleet-lab.sh SCENARIO...        these: rehash kill hang drain rolling etcd wiped partition clock rotation forged
#   scripts/fleet-lab.sh --clients 200 --kills 20 rehash kill    more clients that stay connected, and more kills
#   scripts/fleet-lab.sh --record FILE ...  keeps the recorded requests, an object of JSON a line
#
# docs/fleet.md, "The lab", says what each scenario does and what was seen.
# STOQ_BUILT names a directory with stoq and stoq-gateway; without it they are built. BIRD, etcd, nftables and faketime come from Debian. Needs root: it makes network namespaces.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib.sh
need_root "the lab makes network namespaces"
needed
install "${FLEET_LAB_PACKAGES[@]}"
[ -n "${STOQ_BUILT:-}" ] || install "${BUILD_PACKAGES[@]}"
need_namespaces
need_taps
needed
harness harness/fleet_run.py "$@"
