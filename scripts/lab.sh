#!/usr/bin/env bash
# The lab: the gateway in user space on a DPDK port, the client on kernel UDP sockets in a network namespace, a veth pair
# between them. ping, put and get over IPv4 and IPv6, on net_af_packet and, without UDP checksums over IPv4, on net_af_xdp, there with huge
# pages and with normal ones. Two workers on two queues of net_af_packet, and on the one queue that net_af_xdp has on a veth. Then what the
# gateway says of an interface without carrier, down, and deleted. Needs root.
# STOQ_BUILT names a directory of executables; without it they are built.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib.sh
need_root "the lab makes a network namespace and raw ports"
needed
install "${BUILD_PACKAGES[@]}" "${LAB_PACKAGES[@]}"
need_namespaces
needed
harness harness/lab.py
