#!/usr/bin/env bash
# Runs the main job as an ordinary user without huge pages. Needs root to become that user, and a release build.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib.sh
[ "$(id -u)" = 0 ] || die "needs root to become an ordinary user"

dir=$(mktemp -d /tmp/stoq-user.XXXXXX)
trap 'rm -rf "$dir"' EXIT
# The user gets a copy of the scripts and of the executables, and no file of root.
mkdir -p "$dir/scripts" "$dir/bin"
cp scripts/run.sh scripts/lib.sh "$dir/scripts/"
cp "${CARGO_TARGET_DIR:-target}/release/stoq" "${CARGO_TARGET_DIR:-target}/release/stoq-gateway" "$dir/bin/"
chown -R nobody: "$dir"
# The kernel would give this user huge pages where some are free: the test runs without them.
out=$(env -i PATH="$PATH" HOME="$dir" TMPDIR="$dir" STOQ_BUILT="$dir/bin" STOQ_HUGE_PAGES=none setpriv --reuid=nobody --regid=nogroup --clear-groups \
    "$dir/scripts/run.sh")
echo "$out"
grep -q "verified, over DPDK net_memif .* normal pages" <<<"$out" || die "not the line that was expected"
