# shellcheck shell=bash
# Variables are read by the scripts that source this, and some are set by them.
# shellcheck disable=SC2034,SC2154
# Shell functions that the scripts share. Sourced, never run.

# Printed after the seconds since STOQ_CLOCK, where a run of several parts sets it.
say() { printf '\033[1m== %s%s\033[0m\n' "${STOQ_CLOCK:+[$((EPOCHSECONDS - STOQ_CLOCK)) s] }" "$*" >&2; }
die() { printf 'stoq: %s\n' "$*" >&2; exit 1; }

# Packages of Debian 12 for building and running, beside Rust.
BUILD_PACKAGES=(gcc libc6-dev pkg-config libdpdk-dev)
# Further packages of each script; scripts/test.sh installs all of them before its first test.
CHECK_PACKAGES=(shellcheck python3 python3-venv)
LAB_PACKAGES=(python3 iproute2 iputils-ping ethtool)
CAPTURE_PACKAGES=("${LAB_PACKAGES[@]}" tshark python3)
CONTAINER_PACKAGES=(docker.io binutils ethtool iproute2 util-linux debootstrap python3)
PACKAGE_PACKAGES=(binutils dpkg-dev systemd debootstrap)
BOOT_PACKAGES=("${PACKAGE_PACKAGES[@]}" systemd-container util-linux iproute2)
ADMIN_PACKAGES=(prometheus chromium python3 openssl)
ANYCAST_PACKAGES=(bird2 frr python3 iproute2 ethtool nftables)
FLEET_PACKAGES=(etcd-server etcd-client python3 openssl)
FLEET_LAB_PACKAGES=("${FLEET_PACKAGES[@]}" bird2 iproute2 ethtool nftables faketime)
INSTALL_PACKAGES=(systemd)
MANIFESTS_PACKAGES=(python3 python3-venv bird2)
INSTRUCTIONS_PACKAGES=(valgrind python3 gcc libc6-dev)
VECTORS_PACKAGES=(python3 python3-venv)
FUZZ_PACKAGES=(gcc g++ libc6-dev)
PCI_PACKAGES=("${LAB_PACKAGES[@]}" qemu-system-x86 busybox-static cpio kmod tcpdump binutils)
IMAGE_PACKAGES=(busybox-static cpio kmod binutils e2fsprogs python3)
BENCH_PACKAGES=(dpdk-dev iproute2 ethtool util-linux python3)
PROFILE_PACKAGES=(llvm-19)
TRIXIE_PACKAGES=(debootstrap util-linux)

# Huge pages that must be free for each part, MiB. Parts run one after another, so a run of all tests needs the largest.
HUGE_MB_TESTS=512       # DPDK ports of one test process
HUGE_MB_CONTAINER=768   # the gateway's 256 and its store's 128, the client's 256, and a reserve
HUGE_MB_ALL=$((HUGE_MB_TESTS > HUGE_MB_CONTAINER ? HUGE_MB_TESTS : HUGE_MB_CONTAINER))
# Huge pages that the main job uses where enough are free, MiB: the gateway 256 for DPDK and up to 512 for its store, the client 256.
HUGE_MB_RUN=1024
# Disk and memory for a run of all tests, MiB: what the builds and the largest test, which takes three times 3 GiB, hold at once; the
# links of a release build, two at a time, beside a build of the tests. A kernel for guests and a Debian 13 are 2 GiB of the disk.
DISK_MB_ALL=16000
MEMORY_MB_ALL=8000

# install PACKAGE...: installs missing packages, as root or by sudo; prints the command for an ordinary user.
install() {
    local missing=()
    local package
    for package in $(printf '%s\n' "$@" | sort -u); do
        dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
    done
    [ ${#missing[@]} -eq 0 ] && return
    # `scripts/test.sh --need` only lists.
    if [ -n "${NEED_ONLY:-}" ]; then
        lack "the packages ${missing[*]}" "apt-get install ${missing[*]}"
        return
    fi
    say "installing ${missing[*]}"
    if [ "$(id -u)" = 0 ]; then
        apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "${missing[@]}" >/dev/null
    elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
        sudo apt-get update -qq && sudo DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "${missing[@]}" >/dev/null
    else
        die "needs root once: apt-get install ${missing[*]}"
    fi
}

# The missing things, each with the command that fixes it: need_* functions note them, `needed` fails with all of them at once.
lacking=()
lack() { lacking+=("$1"$'\n'"    $2"); } # WHAT MEND
needed() {
    [ ${#lacking[@]} -gt 0 ] || return 0
    printf 'stoq: missing: %s\n' "${lacking[@]}" >&2
    exit 1
}

need_root() { # WHY
    [ "$(id -u)" = 0 ] || lack "root: $1" "sudo $0"
}

need_cores() { # COUNT WHAT
    [ "$(nproc)" -ge "$1" ] || lack "$1 cores for $2; there are $(nproc)" "give this machine more, or change its affinity: taskset -p $$"
}

need_memory() { # MB WHAT
    local total
    total=$(awk '/^MemTotal:/ { print int($2 / 1024) }' /proc/meminfo)
    [ "$total" -ge "$1" ] || lack "$1 MiB of memory for $2; there are $total" "use a larger machine"
}

# need_huge MB WHAT [WANTED_MB]: reserves WANTED_MB, or MB, where fewer are free and root may; fails below MB.
need_huge() {
    local wanted=${3:-$1} page_kb pages
    page_kb=$(awk '/^Hugepagesize:/ { print $2 }' /proc/meminfo)
    if [ -z "$page_kb" ]; then
        lack "huge pages for $2: this kernel has none" "use a kernel with CONFIG_HUGETLBFS"
        return
    fi
    if [ "$(free_huge_mb)" -lt "$wanted" ] && [ "$(id -u)" = 0 ]; then
        pages=$(($(cat /proc/sys/vm/nr_hugepages) + (wanted - $(free_huge_mb)) * 1024 / page_kb))
        echo "$pages" 2>/dev/null >/proc/sys/vm/nr_hugepages || true
    fi
    [ "$(free_huge_mb)" -ge "$1" ] ||
        lack "$1 MiB of huge pages for $2; $(free_huge_mb) are free" "scripts/hugepages.sh reserve $1    (after a restart there are most)"
}

# need_namespaces: network namespaces with a veth pair, as the lab, the mesh and the container make them.
need_namespaces() {
    command -v ip >/dev/null || return 0 # its package is missing, which is said
    local name=stoq-need-$$
    if ! ip netns add $name 2>/dev/null; then
        lack "network namespaces" "run as root, in a container with CAP_SYS_ADMIN and a writable /run/netns"
    elif ! ip link add need$$ type veth peer name peer$$ netns $name 2>/dev/null; then
        lack "veth pairs" "modprobe veth; in a container: CAP_NET_ADMIN"
    elif ! ip -n $name link add bridge type bridge 2>/dev/null; then
        lack "bridges" "modprobe bridge"
    fi
    ip link delete need$$ 2>/dev/null || true
    ip netns delete $name 2>/dev/null || true
}

# need_taps: interfaces whose other end is a virtual machine.
need_taps() { [ -c /dev/net/tun ] || lack "taps" "modprobe tun; in a container: the device /dev/net/tun"; }

# need_socket FAMILY NAME: the kernel must have raw sockets of a family, by its number in linux/socket.h.
need_socket() {
    command -v python3 >/dev/null || return 0 # its package is missing, which is said
    python3 -c 'import socket, sys; socket.socket(int(sys.argv[1]), socket.SOCK_RAW, 0).close()' "$1" 2>/dev/null ||
        lack "sockets of $2" "a kernel with CONFIG_XDP_SOCKETS and CONFIG_PACKET, and CAP_NET_RAW"
}

# need_containers: the kernel's features that a Docker engine needs.
need_containers() {
    mountpoint -q /sys/fs/cgroup || lack "control groups" "mount -t cgroup2 none /sys/fs/cgroup"
    unshare --mount --pid --fork true 2>/dev/null || lack "mount and PID namespaces" "run as root; in a container: CAP_SYS_ADMIN"
}

need_rust() {
    # shellcheck disable=SC1091 # rustup's file, where there is one
    command -v cargo >/dev/null || [ ! -f "$HOME/.cargo/env" ] || . "$HOME/.cargo/env"
    command -v cargo >/dev/null && return
    [ -z "${NEED_ONLY:-}" ] || { lack "Rust 1.95 or later" "see https://rustup.rs"; return; }
    die "needs Rust 1.95 or later: see https://rustup.rs"
}

# take_built: leaves in $built the directory of executables that STOQ_BUILT names, or that of a release build, made now.
take_built() {
    built=${STOQ_BUILT:-}
    [ -z "$built" ] || return 0
    need_rust
    say "building"
    cargo build --release --locked --quiet
    built=${CARGO_TARGET_DIR:-target}/release
}

# become FILE ARGUMENT...: becomes the Python program scripts/FILE, which may use scripts/harness.
become() { PYTHONPATH=scripts PYTHONDONTWRITEBYTECODE=1 exec python3 "scripts/$1" "${@:2}"; }

# harness FILE ARGUMENT...: the same, on the executables that take_built leaves.
harness() {
    take_built
    export STOQ_BUILT=$built
    become "$@"
}

# free_huge_mb: MiB of free huge pages.
free_huge_mb() { awk '/HugePages_Free/{n=$2} /Hugepagesize/{k=$2} END{print int(n*k/1024)}' /proc/meminfo; }

# need_disk DIR MB WHAT ELSE: fails where the disk of DIR has less free than WHAT needs, and prints ELSE as a fix.
need_disk() {
    local free
    free=$(df -Pm "$1" | awk 'END { print $4 }')
    [ "$free" -ge "$2" ] && return
    if [ -n "${NEED_ONLY:-}" ]; then
        lack "$2 MiB free on the disk of $1 for $3; there are $free" "free some, or $4"
        return
    fi
    die "$3 needs $2 MiB free on the disk of $1, which has $free: free some, or $4"
}

# cargo_tool NAME VERSION OPTION...: leaves in $tool the path of a cargo tool, which is built under the build directory where the machine
# has none.
cargo_tool() {
    local name=$1 version=$2 tools
    shift 2
    tools=$(realpath -m "${CARGO_TARGET_DIR:-target}")/tools
    tool=$(command -v "$name" || echo "$tools/bin/$name")
    [ ! -x "$tool" ] || return 0
    say "building $name"
    cargo install --quiet --locked --root "$tools" "$@" "$name@$version"
}
cargo_fuzz() { cargo_tool cargo-fuzz 0.13.2; }
# ruff_tool: leaves in $tool the path of the linter and formatter of Python: a wheel of the package index, put under the build directory.
ruff_tool() {
    local version=0.17.6 tools
    tools=$(realpath -m "${CARGO_TARGET_DIR:-target}")/tools/ruff
    tool=$tools/bin/ruff
    [ "$("$tool" --version 2>/dev/null)" != "ruff $version" ] || return 0
    say "fetching ruff"
    python3 -m venv --clear "$tools"
    "$tools/bin/pip" install --quiet --disable-pip-version-check "ruff==$version" ||
        die "ruff $version cannot be had: check the network, or set PIP_INDEX_URL"
}
# manifests_tool: leaves in $tool the path of a Python that has Helm and the schemas of Kubernetes: wheels of the package index, put under the
# build directory.
manifests_tool() {
    local wheels=(helm-python-sdk==0.2.2 kubernetes-validate==1.37.0 PyYAML==6.0.4 jsonschema==4.26.0) tools
    tools=$(realpath -m "${CARGO_TARGET_DIR:-target}")/tools/manifests
    tool=$tools/bin/python3
    [ "$(cat "$tools/wheels" 2>/dev/null)" != "${wheels[*]}" ] || return 0
    say "fetching Helm and the schemas of Kubernetes"
    python3 -m venv --clear "$tools"
    "$tools/bin/pip" install --quiet --disable-pip-version-check "${wheels[@]}" ||
        die "${wheels[*]} cannot be had: check the network, or set PIP_INDEX_URL"
    echo "${wheels[*]}" >"$tools/wheels"
}
cargo_deb() { cargo_tool cargo-deb 3.8.0 --profile dev --no-default-features; }

# debian_base TAR [SUITE [PACKAGE...]]: the root of a small Debian 12, or of another release with these packages, as a tar archive; debootstrap
# makes it if it is missing.
debian_base() {
    [ ! -s "$1" ] || return 0
    install debootstrap
    local root suite=${2:-bookworm} packages=("${@:3}")
    say "a Debian $suite from its packages, by debootstrap"
    root=$(mktemp -d)
    # Its mode becomes that of the new system's `/`.
    chmod 755 "$root"
    debootstrap --variant=minbase ${packages:+"--include=$(IFS=,; echo "${packages[*]}")"} "$suite" "$root" >"$1.log" 2>&1 ||
        { tail "$1.log" >&2; rm -rf "$root"; die "debootstrap failed"; }
    tar -C "$root" -cf "$1.part" . && mv "$1.part" "$1"
    rm -rf "$root" "$1.log"
}

# debian_trixie TAR: that of Debian 13, in which the dpdk crates can be built and tested.
debian_trixie() { debian_base "$1" trixie "${BUILD_PACKAGES[@]}" iproute2; }

# debian_root: unpacks the Debian of $base into $root, so that packages can be installed there, and none of them starts a service.
debian_root() {
    mkdir "$root"
    tar -C "$root" -xf "$base"
    cp /etc/resolv.conf "$root/etc/"
    printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d"
    chmod +x "$root/usr/sbin/policy-rc.d"
}
# in_root COMMAND...: runs a command in the Debian of $root.
in_root() { chroot "$root" env DEBIAN_FRONTEND=noninteractive LC_ALL=C PATH=/usr/sbin:/usr/bin:/sbin:/bin "$@"; }

# guest_kernel: leaves in $STOQ_KERNEL a directory into which Debian's package of a kernel is unpacked; fetches it if the variable is empty.
guest_kernel() {
    if [ -z "${STOQ_KERNEL:-}" ]; then
        STOQ_KERNEL=$(realpath -m "${CARGO_TARGET_DIR:-target}")/kernel
        if [ ! -d "$STOQ_KERNEL/lib/modules" ]; then
            say "fetching a kernel for the guests"
            local fetched image
            fetched=$(mktemp -d)
            image=$(apt-cache depends linux-image-amd64 | awk '/Depends: linux-image-/ { print $2; exit }')
            (cd "$fetched" && apt-get download -qq "$image" 2>/dev/null) || die "apt-get download ${image:-linux-image-amd64} failed: check the network"
            rm -rf "$STOQ_KERNEL" && mkdir -p "$STOQ_KERNEL"
            dpkg-deb -x "$fetched"/*.deb "$STOQ_KERNEL"
            rm -rf "$fetched"
        fi
    fi
    export STOQ_KERNEL
}
