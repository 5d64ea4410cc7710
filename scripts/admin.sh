#!/usr/bin/env bash
# Tests the admin endpoint as operators use it: a gateway over kernel sockets with traffic, a real Prometheus that scrapes it over TLS with
# a token, the rules and the dashboard's queries against the scraped samples, `top`, and the status page in a headless Chromium.
#
#   scripts/admin.sh [SCREENSHOT.png]
#
# STOQ_BUILT names a directory with stoq and stoq-gateway; without it they are built. Prometheus and Chromium come from Debian.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib.sh
# Debian's package would start a Prometheus of its own under systemd: only its programs are unpacked.
install "${ADMIN_PACKAGES[@]}"
[ -n "${STOQ_BUILT:-}" ] || install "${BUILD_PACKAGES[@]}"
harness harness/admin.py "$@"
