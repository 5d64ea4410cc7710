#!/usr/bin/env bash
# The Helm chart and the manifests, without a cluster: the chart is linted and rendered for 1, 3 and 5 gateways on each kind of port, with and without
# BIRD and a fleet; each rendering is held against the schemas of two versions of Kubernetes; the manifests of configs/ are what it makes.
#
#   scripts/manifests.sh           checks
#   scripts/manifests.sh --write   writes the manifests of configs/ anew, and checks
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib.sh
install "${MANIFESTS_PACKAGES[@]}"
manifests_tool
PYTHONDONTWRITEBYTECODE=1 "$tool" scripts/manifests.py "$@"
