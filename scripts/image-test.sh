#!/usr/bin/env bash
# Makes the appliance image and boots it in QEMU, twice: with the configuration of a partition, and with that of the kernel's command line. Puts and
# gets come from outside. Needs root, no KVM and no NIC; about two minutes.
#
# STOQ_BUILT and STOQ_KERNEL: see scripts/pci-test.sh.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib.sh
need_root "the guest's end of the cable is in a network namespace"
needed
install "${BUILD_PACKAGES[@]}" "${PCI_PACKAGES[@]}" "${IMAGE_PACKAGES[@]}"
need_namespaces
need_taps
needed
guest_kernel
harness harness/image.py test
