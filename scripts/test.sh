#!/usr/bin/env bash
# Every test, from a fresh Debian 12 machine. As root everything runs: DPDK ports, the lab with the kernel on the other side.
# An ordinary user is told what was left out, and the run fails: a green run has run everything.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib.sh

install $BUILD_PACKAGES iproute2 iputils-ping ethtool procps util-linux
need_rust
[ "$(id -u)" = 0 ] || die "the tests need root: they make huge pages, network namespaces and DPDK ports"
if [ "$(free_huge_mb)" -lt 1024 ]; then
    echo $(($(cat /proc/sys/vm/nr_hugepages) + 512)) >/proc/sys/vm/nr_hugepages || true
fi
[ "$(free_huge_mb)" -ge 512 ] || die "the tests need 512 MiB of huge pages: echo 512 > /proc/sys/vm/nr_hugepages"

# What the builds and the largest of the tests, which takes three times 3 GiB, hold at once.
need_disk . 14000 "a run of all tests" "clone to another disk"
# What is built once from the beginning needs no traces for building it again, which are large.
export CARGO_INCREMENTAL=${CARGO_INCREMENTAL:-0}

scripts/check.sh
scripts/vectors.sh

say "tests"
cargo test --workspace --locked
say "tests without DPDK"
cargo test --no-default-features --locked
say "building for release"
cargo build --release --locked --quiet
say "instructions a packet"
scripts/instructions.sh
say "the main job, as root"
scripts/run.sh
say "the main job with 3 GiB"
large=$(mktemp)
trap 'rm -f "$large"' EXIT
head -c 3221225472 /dev/urandom >"$large"
scripts/run.sh "$large"
rm -f "$large"
say "the main job, as an ordinary user on normal pages"
scripts/test-unprivileged.sh
say "the lab: the kernel on the other side"
scripts/lab.sh
say "captures, read by tshark"
scripts/capture.sh
say "fuzzing, a minute a target"
scripts/fuzz.sh 60
say "the mesh: four gateways, shards, hops, mirrors"
scripts/mesh.sh
say "the admin endpoint: Prometheus, top, the page"
STOQ_BUILT=${CARGO_TARGET_DIR:-target}/release scripts/admin.sh
say "installing: huge pages, NICs, the unit, the manifests"
scripts/install-test.sh
# One Debian for both.
export STOQ_BASE=$(mktemp -d)/base.tar
trap 'rm -rf "$large" "$(dirname "$STOQ_BASE")"' EXIT
debian_base "$STOQ_BASE"
say "the container"
scripts/container-test.sh
say "the build with a profile"
STOQ_BUILT=$(scripts/optimize.sh)
export STOQ_BUILT
say "the main job with it"
scripts/run.sh
say "the package of it"
scripts/package-test.sh
say "all tests passed"
