#!/usr/bin/env bash
# Every test, from a fresh Debian 12 machine, as root: DPDK ports, the lab with the kernel on the other side, the container, the package.
# A green run has run everything.
#
#   scripts/test.sh           checks the needs of all tests, lists at once what is missing, and runs the tests
#   scripts/test.sh --need    only checks; installs nothing, and reserves only huge pages
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib.sh
export STOQ_CLOCK=$EPOCHSECONDS

ALL_PACKAGES=("${BUILD_PACKAGES[@]}" "${CHECK_PACKAGES[@]}" "${LAB_PACKAGES[@]}" "${CAPTURE_PACKAGES[@]}" "${CONTAINER_PACKAGES[@]}"
    "${BOOT_PACKAGES[@]}" "${ADMIN_PACKAGES[@]}" "${INSTALL_PACKAGES[@]}" "${INSTRUCTIONS_PACKAGES[@]}" "${VECTORS_PACKAGES[@]}"
    "${FUZZ_PACKAGES[@]}" "${BENCH_PACKAGES[@]}" "${PROFILE_PACKAGES[@]}" "${PCI_PACKAGES[@]}" "${IMAGE_PACKAGES[@]}" "${TRIXIE_PACKAGES[@]}" "${FLEET_PACKAGES[@]}" "${FLEET_LAB_PACKAGES[@]}"
    "${ANYCAST_PACKAGES[@]}" "${MANIFESTS_PACKAGES[@]}" procps)

# need: checks everything that any test needs, before the first test runs.
need() {
    need_root "the tests make huge pages, network namespaces and DPDK ports"
    need_rust
    need_cores 2 "a gateway and its load"
    need_memory $MEMORY_MB_ALL "the builds and the tests"
    need_huge $HUGE_MB_ALL "the tests" $HUGE_MB_RUN
    need_disk . $DISK_MB_ALL "a run of all tests" "clone to another disk"
    need_namespaces
    need_taps
    need_socket 17 "packets (net_af_packet)"
    need_socket 44 "XDP (net_af_xdp)"
    need_containers
}
case ${1:-} in
    "") ;;
    --need)
        NEED_ONLY=1
        need
        install "${ALL_PACKAGES[@]}"
        needed
        say "nothing is missing"
        exit
        ;;
    *) die "no option is called $1: give --need or none" ;;
esac
NEED_ONLY=1 need
needed
install "${ALL_PACKAGES[@]}"
# Again, for needs that can be checked only with a package installed.
NEED_ONLY=1 need
needed

# This build is made once, so it needs no incremental state, which is large.
export CARGO_INCREMENTAL=${CARGO_INCREMENTAL:-0}
large=$(mktemp) fetched=$(mktemp -d) background=''
export STOQ_BASE=$fetched/base.tar STOQ_TRIXIE=$fetched/trixie.tar
cleanup() {
    [ -z "$background" ] || { kill "$background" 2>/dev/null && wait "$background" 2>/dev/null; } || true
    rm -rf "$large" "$fetched"
}
trap cleanup EXIT

say "fetching from the network: crates, tools, a kernel for guests, a Debian for the container and the package, and a newer one"
{ debian_base "$STOQ_BASE" && debian_trixie "$STOQ_TRIXIE"; } &
background=$!
guest_kernel
cargo fetch --locked --quiet
cargo fetch --locked --quiet --manifest-path fuzz/Cargo.toml
cargo_fuzz
cargo_deb
ruff_tool
manifests_tool
scripts/vectors.sh
wait "$background"

all=(--workspace --locked)
# But for tests of parts that are the same with DPDK.
without_dpdk=(--no-default-features --locked --lib --bins --examples --test client --test front_door --test shards --test tls_handshake
    --test configs --test config_refusals --test path)
# The executables' tests that are of the parts that differ: devices, memory and errors.
without_dpdk_cli=(--no-default-features --locked --test cli -- errors:: preflight:: shortage:: borders:: shipped:: outputs::)
# In parallel with the checks and the builds of the tests, which run no test: a link keeps one core busy for minutes.
say "building for release, beside the checks"
cargo build --release --locked --quiet &
background=$!
scripts/check.sh
say "building the tests"
cargo test "${all[@]}" --no-run --quiet
cargo test "${without_dpdk[@]}" --test cli --no-run --quiet
wait "$background"
background=
export STOQ_BUILT=${CARGO_TARGET_DIR:-target}/release

say "tests"
cargo test "${all[@]}"
say "tests without DPDK"
cargo test "${without_dpdk[@]}"
cargo test "${without_dpdk_cli[@]}"
say "instructions a packet"
scripts/instructions.sh
say "stores on faulty disks, and whole worlds, by new seeds"
scripts/simulate.sh --new 20
say "the main job, as root"
scripts/run.sh
say "the main job with 3 GiB"
head -c 3221225472 /dev/urandom >"$large"
scripts/run.sh "$large"
rm -f "$large"
say "the main job, as an ordinary user on normal pages"
scripts/test-unprivileged.sh
say "the lab: the kernel on the other side"
scripts/lab.sh
say "two workers on two queues of each kind of port"
scripts/queues.sh
say "a row of the benchmarks through a long path"
# The tests have built the long path; at this rate it keeps up without optimization.
cargo build --locked --quiet --example long_path
LONG_PATH=${CARGO_TARGET_DIR:-target}/debug/examples/long_path ROUNDS=1 OUT=$fetched/wan.jsonl scripts/bench/run.sh wan-stoq-50M-10ms >/dev/null
say "captures, read by tshark"
scripts/capture.sh
say "attacks on a live gateway"
scripts/attack.sh
# Leases end where gateways wait for a core: nothing runs beside it.
say "a fleet on the real engines"
scripts/fleet-lab.sh
say "the dpdk crate under the address sanitizer"
scripts/sanitize.sh
# Fuzzing takes its time whatever else runs, and these tests wait for conditions.
say "fuzzing, a minute a target; beside it the mesh, the admin endpoint, a fleet's directory in etcd, anycast addresses by BIRD and FRR"
{
    scripts/mesh.sh
    scripts/admin.sh
    scripts/fleet-test.sh
    scripts/anycast-test.sh
} &
background=$!
scripts/fuzz.sh 60
wait "$background"
background=
say "installing: huge pages, NICs, the unit"
scripts/install-test.sh
say "the chart and the manifests"
scripts/manifests.sh
say "the container"
scripts/container-test.sh
# The image boots on one core, and most of the other's work is of the compiler.
say "the appliance image, beside the dpdk crates on Debian 13"
scripts/trixie-test.sh &
background=$!
scripts/image-test.sh
wait "$background"
background=
say "the NICs of QEMU"
scripts/pci-test.sh
say "the build with a profile"
STOQ_BUILT=$(scripts/optimize.sh --brief)
export STOQ_BUILT
say "the main job with it"
scripts/run.sh
say "the package of it"
scripts/package-test.sh
say "the package under systemd"
scripts/package-boot-test.sh
say "all tests passed"
