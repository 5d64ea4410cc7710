#!/usr/bin/env bash
# Reads the byte vectors of the protocol with tests/vectors/read.py, which shares no code with the library. It needs Python's
# package blake3, which is fetched from the package index once, into an environment under target/.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib.sh
install "${VECTORS_PACKAGES[@]}"

say "the byte vectors, by an independent reader"
environment=${CARGO_TARGET_DIR:-target}/vectors
if ! "$environment/bin/python" -c "import blake3" 2>/dev/null; then
    python3 -m venv --clear "$environment"
    "$environment/bin/pip" install --quiet --disable-pip-version-check "blake3==1.0.11" ||
        die "the package blake3 cannot be had: check the network, or set PIP_INDEX_URL"
fi
"$environment/bin/python" tests/vectors/read.py
