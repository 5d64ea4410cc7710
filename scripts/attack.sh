#!/usr/bin/env bash
# Attacks a gateway of its own, each attack for seconds and at a bounded rate, beside an honest client whose payloads must cross. Says how much
# memory the gateway took for each, and fails past a bound. The gateway is on net_af_packet, client and attacker in a network namespace, a veth pair
# between them. Needs root. STOQ_BUILT names a directory of executables; without it they are built.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib.sh
need_root "attacks make a network namespace and raw ports"
needed
install "${BUILD_PACKAGES[@]}" "${LAB_PACKAGES[@]}"
need_namespaces
needed
harness harness/attack.py
