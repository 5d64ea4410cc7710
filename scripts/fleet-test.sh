#!/usr/bin/env bash
# A fleet's directory in a real etcd: three members with TLS, users and roles; two gateways. A change, a table that is refused, a member that is
# killed, etcd without quorum while a gateway starts anew, a gateway that ends, a cluster that was wiped, and the commands of `stoq-gateway fleet`. All
# on loopback, a minute.
#
# STOQ_BUILT names a directory with stoq and stoq-gateway; without it they are built. Etcd comes from Debian.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib.sh
install "${FLEET_PACKAGES[@]}"
[ -n "${STOQ_BUILT:-}" ] || install "${BUILD_PACKAGES[@]}"
harness harness/fleet.py "$@"
