#!/usr/bin/env bash
# Tests the installation of a gateway without touching this machine: huge pages and NICs against a tree of files that looks like /sys and
# /proc, and the systemd unit with systemd's checker. Needs no root.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib.sh
install "${INSTALL_PACKAGES[@]}"

tree=$(mktemp -d)
kernel=
cleanup() {
    [ -z "$kernel" ] || kill "$kernel" 2>/dev/null || true
    rm -rf "$tree"
}
trap cleanup EXIT
export STOQ_ROOT=$tree

# refuses TEXT COMMAND...: the command must fail and print TEXT.
refuses() {
    local text=$1 said
    shift
    ! said=$("$@" 2>&1) || die "was not refused: $*"
    grep -qF "$text" <<<"$said" || die "refused with \"$said\", not \"$text\": $*"
}
holds() { [ "$(cat "$1")" = "$2" ] || die "$1 holds \"$(cat "$1")\", not \"$2\""; }

say "huge pages"
pages=$tree/sys/kernel/mm/hugepages/hugepages-2048kB
node=$tree/sys/devices/system/node/node0/hugepages/hugepages-2048kB
mkdir -p "$pages" "$node" "$tree/sys/kernel/mm/hugepages/hugepages-1048576kB"
for at in "$pages" "$node"; do
    echo 10 >"$at/nr_hugepages"
    echo 4 >"$at/free_hugepages"
done
scripts/hugepages.sh >"$tree/said"
grep -q '^node0 .*2048 .* 10 .* 4$' "$tree/said" || die "not the table that was expected: $(cat "$tree/said")"
scripts/hugepages.sh reserve 8 >/dev/null
holds "$pages/nr_hugepages" 10
scripts/hugepages.sh reserve 512 --persist >/dev/null
holds "$pages/nr_hugepages" 262
grep -qx 'vm.nr_hugepages = 262' "$tree/etc/sysctl.d/60-stoq-hugepages.conf"
scripts/hugepages.sh reserve 9 --node 0 >/dev/null
holds "$node/nr_hugepages" 11
scripts/hugepages.sh release --node 0 >/dev/null
holds "$node/nr_hugepages" 7
scripts/hugepages.sh reserve 8 --persist >/dev/null
scripts/hugepages.sh release >"$tree/said"
holds "$pages/nr_hugepages" 258
grep -qx 'hugepages: 4 pages of 2048 KiB were given back, 258 stay reserved' "$tree/said"
[ ! -e "$tree/etc/sysctl.d/60-stoq-hugepages.conf" ] || die "the pages come back at the next boot"
refuses 'no huge pages of 4 KiB' scripts/hugepages.sh release --size 4
refuses 'no huge pages of 2048 KiB on node 7' scripts/hugepages.sh reserve 9 --node 7
refuses 'hugepagesz=1048576K hugepages=4' scripts/hugepages.sh reserve 4096 --size 1048576 --persist
refuses 'takes a number' scripts/hugepages.sh reserve much
# A kernel without more pages: the count stays 300 whatever is written.
rm "$pages/nr_hugepages"
mkfifo "$pages/nr_hugepages"
(
    for answer in 300 read 305 read; do
        if [ "$answer" = read ]; then cat "$pages/nr_hugepages" >>"$tree/written"; else echo "$answer" >"$pages/nr_hugepages"; fi
    done
) &
kernel=$!
refuses 'found 5 of 508 more pages, which were given back' scripts/hugepages.sh reserve 1024
wait "$kernel"
kernel=
[ "$(tr '\n' ' ' <"$tree/written")" = "808 300 " ] || die "pages were not given back: $(cat "$tree/written")"

say "NICs"
devices=$tree/sys/bus/pci/devices
mkdir -p "$devices" "$tree/sys/class/net" "$tree/proc/net" "$tree/sys/bus/pci/drivers" "$tree/sys/module/vfio/parameters"
mkfifo "$tree/sys/bus/pci/drivers_probe"
# nic ADDRESS DRIVER [GROUP [INTERFACE [FLAGS [BELOW]]]]: a network device, its interface by way of BELOW.
nic() {
    local real=$tree/sys/devices/pci0000:00/$1 below=${6:+/${6:-}}
    mkdir -p "$real$below" "$tree/sys/bus/pci/drivers/$2"
    ln -sfn "$real" "$devices/$1"
    ln -sfn "$tree/sys/bus/pci/drivers/$2" "$real/driver"
    : >"$tree/sys/bus/pci/drivers/$2/unbind"
    echo 0x020000 >"$real/class"
    echo '(null)' >"$real/driver_override"
    echo 1 >"$real/numa_node"
    if [ -n "${3:-}" ]; then
        mkdir -p "$tree/sys/kernel/iommu_groups/$3/devices"
        ln -sfn "$real" "$tree/sys/kernel/iommu_groups/$3/devices/$1"
        ln -sfn "$tree/sys/kernel/iommu_groups/$3" "$real/iommu_group"
    fi
    if [ -n "${4:-}" ]; then
        mkdir -p "$real$below/net/$4"
        ln -sfn "$real$below/net/$4" "$tree/sys/class/net/$4"
        ln -sfn "$real$below" "$real$below/net/$4/device"
        echo "${5:-0x1002}" >"$real$below/net/$4/flags"
    fi
}
nic 0000:01:00.0 ixgbe 1 eth0 0x1003
nic 0000:02:00.0 ixgbe 2 eth1
nic 0000:03:00.0 virtio-pci 3 eth2 0x1002 virtio0
nic 0000:04:00.0 mlx5_core 4 eth3
nic 0000:05:00.0 ice 5 eth4 0x1003
nic 0000:06:00.0 ice 6 eth5
nic 0000:06:00.1 ice 6 eth6
nic 0000:07:00.0 e1000e "" eth7
nic 0000:08:00.0 igc 8 eth8
# eth0 is in bond0, and the default route is on a VLAN of bond0; eth2 has the IPv6 default route; eth8 is under bridge br0, which has none.
mkdir -p "$tree"/sys/class/net/{bond0,bond0.7,br0,lo}
ln -s ../bond0 "$tree/sys/class/net/eth0/upper_bond0"
ln -s ../bond0.7 "$tree/sys/class/net/bond0/upper_bond0.7"
ln -s ../br0 "$tree/sys/class/net/eth8/upper_br0"
printf 'Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n' >"$tree/proc/net/route"
printf 'bond0.7\t00000000\t010011AC\t0003\t0\t0\t0\t00000000\t0\t0\t0\neth1\t000011AC\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0\n' \
    >>"$tree/proc/net/route"
zero=00000000000000000000000000000000
echo "$zero 00 $zero 00 fe800000000000000000000000000001 00000400 00000001 00000000 00000003     eth2" >"$tree/proc/net/ipv6_route"
echo "$zero 00 $zero 00 $zero ffffffff 00000001 00000000 00200200       lo" >>"$tree/proc/net/ipv6_route"

bind=scripts/bind-nic.sh
for device in 0000:01:00.0 01:00.0 eth0; do refuses 'eth0 carries the default route (bond0.7)' "$bind" bind "$device"; done
refuses 'eth2 carries the default route (eth2)' "$bind" bind eth2
refuses 'eth2 carries the default route (eth2)' "$bind" bind 0000:03:00.0
refuses 'bind nothing' "$bind" bind eth3
refuses 'ip link set eth4 down' "$bind" bind 0000:05:00.0
refuses 'shares its IOMMU group with 0000:06:00.1 on ice' "$bind" bind eth5
refuses 'intel_iommu=on' "$bind" bind eth7
refuses 'no interface of a PCI device' "$bind" bind bond0
refuses 'no PCI address here' "$bind" bind 0000:99:00.0
refuses 'no PCI address here' "$bind" bind ../../etc
for device in 0000:01:00.0 0000:03:00.0 0000:06:00.0; do holds "$devices/$device/driver_override" '(null)'; done
"$bind" status >"$tree/said"
grep -qx '0000:02:00.0  driver ixgbe  interface eth1   numa 1  may be bound' "$tree/said" || die "status: $(cat "$tree/said")"
grep -q '^0000:03:00.0 .*carries the default route' "$tree/said" || die "status hides the default route: $(cat "$tree/said")"

# Stands in for the kernel: a probed device gets its overriding driver, or its own.
mkdir -p "$tree/sys/bus/pci/drivers"/{vfio-pci,uio_pci_generic}
# Open for both: between two writers, no end is read, and no writer finds the pipe without a reader.
exec 7<>"$tree/sys/bus/pci/drivers_probe"
(
    while read -r address <&7; do
        driver=$(cat "$devices/$address/driver_override")
        ln -sfn "$tree/sys/bus/pci/drivers/${driver:-ixgbe}" "$devices/$address/driver"
    done
) &
kernel=$!
"$bind" bind eth1 >"$tree/said"
grep -qx 'bind-nic: 0000:02:00.0 is on vfio-pci' "$tree/said"
holds "$devices/0000:02:00.0/driver_override" vfio-pci
holds "$tree/sys/bus/pci/drivers/ixgbe/unbind" 0000:02:00.0
"$bind" bind 0000:02:00.0 >"$tree/said"
grep -q already "$tree/said"
"$bind" status >"$tree/said"
grep -q '^0000:02:00.0  driver vfio-pci .* bound to vfio-pci: .bind-nic.sh unbind 0000:02:00.0. gives it back' "$tree/said" || die "status: $(cat "$tree/said")"
# Without an IOMMU: to uio_pci_generic, as on Debian's kernels, or to vfio-pci where the kernel's vfio has a mode for that.
"$bind" bind eth7 --no-iommu >"$tree/said"
grep -qx 'bind-nic: 0000:07:00.0 is on uio_pci_generic' "$tree/said"
grep -q 'its gateway must be root' "$tree/said"
: >"$tree/sys/bus/pci/drivers/uio_pci_generic/unbind"
"$bind" unbind 0000:07:00.0 >/dev/null
echo 0 >"$tree/sys/module/vfio/parameters/enable_unsafe_noiommu_mode"
"$bind" bind eth7 --no-iommu >/dev/null
holds "$tree/sys/module/vfio/parameters/enable_unsafe_noiommu_mode" 1
echo 0x060400 >"$devices/0000:06:00.1/class"
"$bind" bind eth5 >/dev/null
: >"$tree/sys/bus/pci/drivers/vfio-pci/unbind"
"$bind" unbind 0000:02:00.0 >"$tree/said"
grep -qx 'bind-nic: 0000:02:00.0 is on ixgbe' "$tree/said"
holds "$devices/0000:02:00.0/driver_override" ''

say "the systemd unit"
unset STOQ_ROOT
# The checker needs the programs of the unit: a program that does nothing stands in for the gateway.
sed "s,/usr/bin/stoq-gateway,/bin/true," packaging/stoq-gateway.service >"$tree/stoq-gateway.service"
{ said=$(systemd-analyze verify --man=no "$tree/stoq-gateway.service" 2>&1) && [ -z "$said" ]; } || die "systemd-analyze verify: $said"
# Exposure in tenths: 9.6 of 10 is a unit without sandboxing.
systemd-analyze security --offline=true --threshold=30 --no-pager "$tree/stoq-gateway.service" | tail -n 1
say "huge pages, NICs and the unit are as they should be"
