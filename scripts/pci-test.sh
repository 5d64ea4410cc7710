#!/usr/bin/env bash
# The gateway on DPDK's drivers for PCI devices: a virtual machine for each of them, in which the gateway has QEMU's device by vfio-pci, behind
# an IOMMU, and e1000 by uio_pci_generic without one; af_xdp is at the interface that the kernel makes of a device. The client is on the kernel's sockets outside. Needs root, no KVM and no NIC; a minute a guest, two at a time.
#
#   pci-test.sh                 every device that QEMU has of: e1000 e1000-uio e1000e igb igb-vf vmxnet3 virtio-rss af_xdp virtio
#   pci-test.sh DEVICE...       only these
#
# STOQ_BUILT names a directory of executables; without it they are built. STOQ_KERNEL names a directory into which Debian's package of a
# kernel was unpacked; without it the package is fetched and unpacked under the build directory.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib.sh
need_root "the guest's end of the cable is in a network namespace"
needed
install "${BUILD_PACKAGES[@]}" "${PCI_PACKAGES[@]}"
need_namespaces
need_taps
needed
guest_kernel
harness harness/pci.py "$@"
