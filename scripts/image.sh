#!/usr/bin/env bash
# Makes an appliance image: a kernel and an initramfs with the gateway, its drivers and nothing else, read-only. docs/operations.md says how to boot it.
#
#   image.sh DIRECTORY     writes DIRECTORY/vmlinuz and DIRECTORY/initramfs.gz
#
# STOQ_BUILT and STOQ_KERNEL: see scripts/pci-test.sh.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib.sh
[ $# = 1 ] || die "usage: $0 DIRECTORY"
install "${BUILD_PACKAGES[@]}" "${IMAGE_PACKAGES[@]}"
guest_kernel
harness harness/image.py make "$1"
