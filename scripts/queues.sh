#!/usr/bin/env bash
# Two workers on two queues of each kind of port that needs no NIC: the kernel's flows reach either queue, by DPDK's forwarder where the port is
# a ring. put, get and messages, a client whose port changes in the middle, a drain, and all flows at one queue. Which worker a flow reaches is
# asked beforehand, so that none of it passes on one queue. The same over QEMU's NICs with two queues: scripts/pci-test.sh. Needs root.
#
#   queues.sh           every port: af_packet af_xdp memif virtio vhost. af_xdp has one queue on a veth, and software spreads its flows
#   queues.sh PORT...   only these
#
# STOQ_BUILT names a directory of executables; without it they are built.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib.sh
need_root "the test makes a network namespace and raw ports"
needed
install "${BUILD_PACKAGES[@]}" "${LAB_PACKAGES[@]}" dpdk-dev
need_huge $HUGE_MB_TESTS "the port of net_virtio_user"
need_namespaces
needed
harness harness/ports.py "$@"
