#!/usr/bin/env bash
# The gateway on DPDK's drivers for PCI devices: a virtual machine for each of them, in which the gateway has QEMU's device by vfio-pci, behind
# an IOMMU. The client is on the kernel's sockets outside. Needs root, no KVM and no NIC; a minute a guest.
#
#   pci-test.sh                 every device that QEMU has of: e1000 e1000e igb igb-vf vmxnet3 virtio
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
needed
if [ -z "${STOQ_KERNEL:-}" ]; then
    STOQ_KERNEL=$(realpath -m "${CARGO_TARGET_DIR:-target}")/kernel
    if [ ! -d "$STOQ_KERNEL/lib/modules" ]; then
        say "fetching a kernel for the guests"
        fetched=$(mktemp -d)
        trap 'rm -rf "$fetched"' EXIT
        image=$(apt-cache depends linux-image-amd64 | awk '/Depends: linux-image-/ { print $2; exit }')
        (cd "$fetched" && apt-get download -qq "$image" 2>/dev/null) || die "apt-get download ${image:-linux-image-amd64} failed: check the network"
        rm -rf "$STOQ_KERNEL" && mkdir -p "$STOQ_KERNEL"
        dpkg-deb -x "$fetched"/*.deb "$STOQ_KERNEL"
        rm -rf "$fetched"
    fi
fi
export STOQ_KERNEL
harness harness/pci.py "$@"
