#!/usr/bin/env bash
# Gives a NIC to DPDK and back to the kernel, and refuses what would cut this machine off.
#
#   bind-nic.sh status                            every network device: its driver, interface, NUMA node, and whether it may go
#   bind-nic.sh bind DEVICE [--no-iommu]          DEVICE is a PCI address (0000:3b:00.0) or an interface (eth1); to vfio-pci, or without an IOMMU
#                                                 to uio_pci_generic, where the kernel's vfio has no such mode, as Debian's has not
#   bind-nic.sh unbind DEVICE                     back to the kernel's own driver
#
# bind refuses the interface of the default route, also under a bond, a bridge or a VLAN; an interface that is up; a device whose IOMMU
# group holds devices that the kernel uses; and a device whose DPDK driver works beside the kernel's (mlx4, mlx5), which must not be bound.
# Without an IOMMU a device can write to all memory, and its gateway must be root, on huge pages: --no-iommu accepts this. With driverctl the binding outlives a reboot, without it the
# binding lasts until the next one. bind and unbind need root. For tests, STOQ_ROOT is put before /sys and /proc: then only files there
# are touched.
set -euo pipefail
root=${STOQ_ROOT:-}
sys=$root/sys
die() { printf 'bind-nic: %s\n' "$*" >&2; exit 1; }
usage() { sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "$0" >&2; exit 2; }

driver_of() { basename "$(readlink "$sys/bus/pci/devices/$1/driver" 2>/dev/null || echo none)"; }

# The PCI address under an interface; for virtio, that of the device around it.
pci_of() {
    readlink -f "$sys/class/net/$1/device" 2>/dev/null | tr / '\n' | grep -xE '[0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]' | tail -n 1
}
interfaces_of() {
    local at
    for at in "$sys"/class/net/*; do
        [ "$(pci_of "${at##*/}")" != "$1" ] || echo "${at##*/}"
    done
}

# The interfaces of the default routes of both families.
default_interfaces() {
    {
        awk 'NR > 1 && $2 == "00000000" && $8 == "00000000" { print $1 }' "$root/proc/net/route" 2>/dev/null
        awk '$1 ~ /^0+$/ && $2 == "00" && $10 != "lo" { print $10 }' "$root/proc/net/ipv6_route" 2>/dev/null
    } | sort -u
}

# above INTERFACE: it, and the bonds, bridges and VLANs on it, and so on.
above() {
    local at
    echo "$1"
    for at in "$sys/class/net/$1"/upper_*; do
        [ -e "$at" ] || [ -L "$at" ] || continue
        at=${at##*/upper_}
        above "$at"
    done
}

# carries_default INTERFACE: names the interface of a default route that is above it.
carries_default() {
    local name
    for name in $(above "$1"); do
        ! default_interfaces | grep -qxF "$name" || { echo "$name"; return 0; }
    done
    return 1
}

# The PCI address of a device by its address or its interface.
address_of() {
    local address
    if [ -e "$sys/class/net/$1" ]; then
        address=$(pci_of "$1") || die "$1 is no interface of a PCI device"
    else
        address=$1
        [[ $address =~ ^[0-9a-fA-F]{2}: ]] && address=0000:$address
        address=${address,,}
    fi
    { [[ $address =~ ^[0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]$ ]] && [ -d "$sys/bus/pci/devices/$address" ]; } ||
        die "$1 is no interface of a PCI device and no PCI address here: see $(basename "$0") status"
    [[ $(cat "$sys/bus/pci/devices/$address/class") == 0x02* ]] || die "$address is no network device"
    echo "$address"
}

# refusal ADDRESS: why this device must stay where it is, or that it is bound; nothing if it may go.
refusal() {
    local interface on driver
    driver=$(driver_of "$1")
    case $driver in vfio-pci | uio_pci_generic)
        echo "bound to $driver: \`$(basename "$0") unbind $1\` gives it back"
        return ;;
    esac
    for interface in $(interfaces_of "$1"); do
        if on=$(carries_default "$interface"); then
            echo "$interface carries the default route${on:+ ($on)}: without it this machine may not be reached again"
            return
        fi
        if [ $(($(cat "$sys/class/net/$interface/flags" 2>/dev/null || echo 0) & 1)) = 1 ]; then
            echo "$interface is up: if nothing needs it, \`ip link set $interface down\`"
            return
        fi
    done
    case $driver in mlx4_core | mlx5_core)
        echo "DPDK shares this device with $driver: bind nothing, and name $1 as the gateway's device" ;;
    esac
}

status() {
    local at address interface reason
    for at in "$sys"/bus/pci/devices/*; do
        { [ -d "$at" ] && [[ $(cat "$at/class") == 0x02* ]]; } || continue
        address=$(basename "$at")
        interface=$(interfaces_of "$address" | tr '\n' ' ')
        reason=$(refusal "$address")
        printf '%s  driver %s  interface %s  numa %s  %s\n' "$address" "$(driver_of "$address")" "${interface:-none}" \
            "$(cat "$at/numa_node" 2>/dev/null || echo '?')" "${reason:-may be bound}"
    done
}

# to ADDRESS DRIVER: overrides the device's driver, and makes the kernel probe it again. An empty DRIVER is the device's own.
to() {
    local device=$sys/bus/pci/devices/$1 until
    if [ -z "$root" ] && command -v driverctl >/dev/null; then
        if [ -n "$2" ]; then driverctl set-override "$1" "$2"; else driverctl unset-override "$1"; fi
    else
        # An empty line removes the override.
        echo "$2" >"$device/driver_override" || die "cannot bind: run this as root"
        [ ! -e "$device/driver" ] || echo "$1" >"$device/driver/unbind"
        echo "$1" >"$sys/bus/pci/drivers_probe"
        [ -z "$2" ] || echo "bind-nic: until the next boot; with driverctl installed it would last"
    fi
    until=$((SECONDS + 5))
    while [ "$(driver_of "$1")" = none ] || { [ -n "$2" ] && [ "$(driver_of "$1")" != "$2" ]; }; do
        [ $SECONDS -lt $until ] || die "$1 is on driver $(driver_of "$1") now, not on ${2:-its own}: see dmesg"
        sleep 0.1
    done
    echo "bind-nic: $1 is on $(driver_of "$1")"
}

bind() {
    local address reason other no_iommu='' driver=vfio-pci module=$sys/module/vfio/parameters/enable_unsafe_noiommu_mode
    [ $# -ge 1 ] || usage
    address=$(address_of "$1")
    shift
    case ${1:-} in --no-iommu) no_iommu=1 ;; '') ;; *) usage ;; esac
    case $(driver_of "$address") in vfio-pci | uio_pci_generic)
        echo "bind-nic: $address is on $(driver_of "$address") already"
        return
        ;;
    esac
    reason=$(refusal "$address")
    [ -z "$reason" ] || die "$address stays: $reason"
    [ -n "$root" ] || modprobe vfio-pci || die "the kernel has no vfio-pci"
    if [ -e "$sys/bus/pci/devices/$address/iommu_group" ]; then
        for other in "$sys/bus/pci/devices/$address/iommu_group/devices"/*; do
            other=$(basename "$other")
            # Bridges belong to the group and stay with the kernel.
            { [ "$other" != "$address" ] && [[ $(cat "$sys/bus/pci/devices/$other/class") != 0x06* ]]; } || continue
            case $(driver_of "$other") in
                none | vfio-pci) ;;
                *) die "$address shares its IOMMU group with $other on $(driver_of "$other"), which the kernel would lose: free that one first" ;;
            esac
        done
    elif [ -z "$no_iommu" ]; then
        die "$address has no IOMMU group: switch the IOMMU on in the firmware and boot with intel_iommu=on (or amd_iommu=on) iommu=pt;" \
            "where there is none, as in most virtual machines, --no-iommu binds without its protection"
    elif [ -e "$module" ]; then
        echo 1 >"$module"
    else
        driver=uio_pci_generic
        [ -n "$root" ] || modprobe $driver || die "the kernel's vfio has no mode without an IOMMU, and there is no $driver"
    fi
    to "$address" "$driver"
    [ -z "$no_iommu" ] || [ -e "$sys/bus/pci/devices/$address/iommu_group" ] ||
        echo "bind-nic: without an IOMMU its gateway must be root, with huge_pages = \"required\""
}

unbind() {
    [ $# = 1 ] || usage
    to "$(address_of "$1")" ""
}

case ${1:-} in
    status) status ;;
    bind) shift; bind "$@" ;;
    unbind) shift; unbind "$@" ;;
    *) usage ;;
esac
