#!/bin/bash
# The first and only program that the kernel of the appliance image starts: finds the configuration, gives the NIC to DPDK, runs the gateway.
#
# On the kernel's command line:
#   stoq.config=DEVICE     the partition with gateway.toml and its identity, instead of the one that is labeled STOQ
#   stoq.toml=BASE64       a configuration, instead of that partition's gateway.toml
#   hugepages=COUNT        the kernel's own option: huge pages of 2 MiB
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
mount -t tmpfs -o mode=755 run /run
mount -t tmpfs tmp /tmp
say() { echo "stoq-image: $*" >/dev/console; }
# Nothing is left to do without what failed; the kernel restarts the machine, if its option panic= says so.
fail() {
    say "$*"
    sleep 10
    exit 1
}
option() { tr ' ' '\n' </proc/cmdline | sed -n "s/^$1=//p" | tail -n 1; }

for module in virtio_pci virtio_blk virtio_scsi vmw_pvscsi ahci nvme xhci_pci usb_storage sd_mod ext4 vfat nls_cp437 nls_ascii vfio_iommu_type1; do
    modprobe $module 2>/dev/null
done

# partition LABEL: waits until there is one; disks appear a moment after their driver.
partition() {
    for _ in 1 2 3 4 5 6 7 8 9 10; do
        findfs "LABEL=$1" 2>/dev/null && return
        sleep 0.5
    done
    return 1
}
from=$(option stoq.config)
[ -n "$from" ] || from=$(partition STOQ) || fail "no partition is labeled STOQ: make one with gateway.toml and the identity, or give stoq.config="
mount -o ro "$from" /config || fail "$from cannot be mounted"
mkdir -m 750 /run/stoq
for file in /config/*; do
    [ ! -f "$file" ] || cp "$file" /run/stoq/
done
toml=$(option stoq.toml)
if [ -n "$toml" ]; then
    echo "$toml" | base64 -d >/run/stoq/gateway.toml || fail "stoq.toml is no base64"
fi
umount /config
[ -f /run/stoq/gateway.toml ] || fail "$from has no gateway.toml"
chmod 600 /run/stoq/*

# Payloads are kept where a partition is labeled STOQ-DATA, and otherwise in memory.
if data=$(partition STOQ-DATA); then
    mount -o noatime "$data" /var/lib/stoq || fail "$data cannot be mounted"
else
    say "no partition is labeled STOQ-DATA: payloads are in memory, and gone at the next start"
    mount -t tmpfs data /var/lib/stoq
fi

# One for each port.
devices=$(sed -n 's/^ *device *= *"\([^"]*\)".*/\1/p' /run/stoq/gateway.toml)
for device in $devices; do
    case $device in
        net_*) ;;
        *) bash /bin/bind-nic.sh bind "$device" --no-iommu >/dev/console 2>&1 || fail "the gateway cannot have $device" ;;
    esac
done
mount -o remount,ro /
( : >/written ) 2>/dev/null || say "/ is read-only"

# Behind an IOMMU the gateway needs no privilege.
user=root
for group in /dev/vfio/[0-9]*; do
    if [ -e "$group" ]; then
        chown stoq "$group"
        user=stoq
    fi
done
chown -R stoq /run/stoq
chown stoq /var/lib/stoq
ulimit -l unlimited
ulimit -n 65536
while :; do
    say "serves as user $user"
    XDG_RUNTIME_DIR=/run/stoq setpriv --reuid=$user --regid=$user --clear-groups --no-new-privs stoq-gateway run --config /run/stoq/gateway.toml >/dev/console 2>&1
    say "the gateway ended with status $?: it starts again"
    sleep 5
done
