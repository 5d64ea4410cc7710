#!/usr/bin/env bash
# The container: builds the image around executables, starts a gateway in it, not root and not privileged, with huge
# pages, and puts and gets from outside: through memif, and through net_af_packet from a client on kernel sockets. Starts a Docker
# engine of its own, which meets no other, and stops it again.
#
# Tested is packaging/Dockerfile.prebuilt on the base of Dockerfile. The stage that compiles needs an image with Rust (BUILD_IMAGE).
# STOQ_BASE names a tar archive of a Debian root to build on; without it debootstrap makes one. STOQ_BUILT names a directory of executables;
# without it they are built. Needs root.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib.sh
need_root "it starts a Docker engine and makes a network namespace"
needed
install "${BUILD_PACKAGES[@]}" "${CONTAINER_PACKAGES[@]}"
need_huge $HUGE_MB_CONTAINER "the container"
need_namespaces
need_containers
needed
harness harness/container.py
