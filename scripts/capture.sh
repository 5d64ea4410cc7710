#!/usr/bin/env bash
# Tests captures of a DPDK port, read by tshark: the gateway on net_af_packet, the client on kernel UDP sockets in a network namespace, a
# veth pair between them. Also tests the admin endpoint's view of such a port. Needs root. STOQ_BUILT names a directory of executables;
# without it they are built.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib.sh
need_root "captures make a network namespace and a raw port"
needed
install "${BUILD_PACKAGES[@]}" "${CAPTURE_PACKAGES[@]}"
need_namespaces
needed
harness harness/capture.py
