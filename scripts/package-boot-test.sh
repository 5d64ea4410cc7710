#!/usr/bin/env bash
# Tests the package on a Debian that systemd has booted, in a container of systemd-nspawn: docs/operations.md step by step on kernel sockets, the
# unit's start, reload, failures and stop, an upgrade under a running gateway, a reboot, a purge. Puts and gets come from outside. Needs root.
# A container has no udev: the same Debian then boots in QEMU, where the package is installed beside a NIC of vfio-pci.
#
# STOQ_BASE and STOQ_BUILT: see scripts/package-test.sh. STOQ_KERNEL: see scripts/pci-test.sh.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib.sh
need_root "it boots a container"
needed
install "${BOOT_PACKAGES[@]}" "${PCI_PACKAGES[@]}"
need_containers
need_taps
needed
guest_kernel

package=$(scripts/package.sh)
dir=$(mktemp -d /tmp/stoq-boot.XXXXXX)
root=$dir/root network=stoq-boot-$$ nspawn=
stoq=$root/usr/bin/stoq
cleanup() {
    [ -z "$nspawn" ] || { kill "$nspawn" && wait "$nspawn"; } 2>/dev/null || true
    ip netns delete "$network" 2>/dev/null || true
    rm -rf --one-file-system "$dir"
}
trap cleanup EXIT
base=${STOQ_BASE:-$dir/base.tar}
debian_base "$base"
debian_root
cp "$package" "$root/root/stoq.deb"

say "a Debian with systemd, and the packages that stoq needs, fetched and not installed"
{
    in_root apt-get update -qq
    in_root apt-get install -y -qq --no-install-recommends systemd-sysv dbus udev kmod
    in_root apt-get install -y -qq --no-install-recommends --download-only /root/stoq.deb
} >"$dir/apt.log" 2>&1 || { tail -n 30 "$dir/apt.log" >&2; die "no Debian with systemd"; }
rm "$root/usr/sbin/policy-rc.d"

# The container's network is a namespace with loopback alone; a command by `outside` is in it, and not in the container.
ip netns add "$network"
ip -n "$network" link set lo up
outside() { ip netns exec "$network" "$@"; }
init() { cat "/proc/$nspawn/task/$nspawn/children" 2>/dev/null; }
inside() {
    local pid
    read -r pid _ <<<"$(init)"
    nsenter --target "$pid" --mount --uts --ipc --net --pid --cgroup -- env -i DEBIAN_FRONTEND=noninteractive LC_ALL=C PATH=/usr/sbin:/usr/bin:/sbin:/bin "$@"
}
# wait_for WHAT COMMAND...: waits until the command succeeds.
wait_for() {
    local what=$1 end=$((SECONDS + 90))
    shift
    while ! "$@" >/dev/null 2>&1; do
        if [ $SECONDS -ge $end ]; then
            tail -n 20 "$dir/console" >&2
            inside journalctl --no-pager -u stoq-gateway -n 30 >&2 || true
            die "not within 90 s: $what"
        fi
        sleep 0.2
    done
}
is_booted() { [[ $(inside systemctl is-system-running) =~ running|degraded ]]; }
unit() { inside systemctl show stoq-gateway --property "$1" --value; }
healthy() { inside stoq-gateway health; }
# expect WHAT EXPECTED FOUND
expect() { [ "$2" = "$3" ] || { inside journalctl --no-pager -u stoq-gateway -n 30 >&2 || true; die "$1: $3, not $2"; }; }

say "booting it"
# The unit's capabilities must be there to give.
boot() {
    systemd-nspawn --quiet --boot --directory="$root" --register=no --keep-unit --machine=stoq-boot-$$ \
        --network-namespace-path="/run/netns/$network" --capability=CAP_IPC_LOCK,CAP_NET_ADMIN,CAP_NET_RAW </dev/null >"$dir/console" 2>&1 &
    nspawn=$!
    wait_for "the container has booted" is_booted
}
boot

say "installing $(basename "$package")"
inside apt-get install -y -qq --no-install-recommends /root/stoq.deb >"$dir/apt.log" 2>&1 || { tail -n 30 "$dir/apt.log" >&2; die "not installed"; }
expect "the unit after the installation" "inactive" "$(unit ActiveState)"
expect "the unit at boots" "disabled" "$(unit UnitFileState)"
for who in gateway client stranger; do
    inside stoq identity new --cert "/etc/stoq/$who.pem" --key "/etc/stoq/$who.key" >"$dir/$who.id"
done
inside chown stoq: /etc/stoq/gateway.pem /etc/stoq/gateway.key
for who in client stranger; do cp "$root/etc/stoq/$who".{pem,key} "$dir/"; done

say "a start that fails, says so, and is not repeated"
sed -i 's/^\[network\]/[network]\nno_such_key = 1/' "$root/etc/stoq/gateway.toml"
! inside systemctl start stoq-gateway 2>"$dir/said" || die "a start with a faulty configuration succeeded"
expect "the unit after a fault" "failed 2 0" "$(unit ActiveState) $(unit ExecMainStatus) $(unit NRestarts)"
inside journalctl --no-pager -u stoq-gateway -p err -o cat | grep -q no_such_key || die "the journal has no error that names the key"
sed -i '/^no_such_key/d' "$root/etc/stoq/gateway.toml"

say "check, enable and start: the start returns when the gateway serves"
sed -i "s/a\{52\}/$(cat "$dir/client.id")/" "$root/etc/stoq/gateway.toml"
inside setpriv --reuid=stoq --regid=stoq --init-groups stoq-gateway check --config /etc/stoq/gateway.toml >"$dir/check" ||
    { cat "$dir/check" >&2; die "not ready"; }
inside systemctl enable --now stoq-gateway 2>/dev/null || expect "the start" "success" "$(unit Result)"
healthy || die "the unit has started, and the gateway is not ready"
as() { # CLIENT TOOL ARGUMENT...
    outside "$stoq" "$2" -g 127.0.0.1:4433 --node-id "$(cat "$dir/gateway.id")" --cert "$dir/$1.pem" --key "$dir/$1.key" "${@:3}"
}
head -c 8388608 /dev/urandom >"$dir/file"
gets() {
    rm -f "$dir/got"
    as client get "$token" -o "$dir/got" >/dev/null
    cmp "$dir/file" "$dir/got"
}
token=$(as client put "$dir/file")
gets
pid=$(unit MainPID)

say "check while it runs"
inside setpriv --reuid=stoq --regid=stoq --init-groups stoq-gateway check --config /etc/stoq/gateway.toml >"$dir/check" ||
    { cat "$dir/check" >&2; die "check fails while the gateway runs"; }
grep -q "process $pid .*already running" "$dir/check" || { cat "$dir/check" >&2; die "check does not name the running gateway"; }

say "reload"
! as stranger ping -c 1 --timeout 5 2>/dev/null || die "a stranger was let in"
sed -i "s/^node_ids = \[/&\"$(cat "$dir/stranger.id")\", /" "$root/etc/stoq/gateway.toml"
inside systemctl reload stoq-gateway
wait_for "the reloaded gateway lets the new client in" as stranger ping -c 1 --timeout 5
expect "the process after a reload" "$pid" "$(unit MainPID)"

say "an upgrade leaves the running gateway alone"
inside dpkg --install /root/stoq.deb >>"$dir/apt.log" 2>&1
expect "the process after an upgrade" "$pid active" "$(unit MainPID) $(unit ActiveState)"
gets

say "a gateway that dies starts again"
inside kill -KILL "$pid"
started_again() { [ "$(unit NRestarts)" = 1 ] && healthy; }
wait_for "the gateway has started again" started_again
gets

say "a reboot"
# nspawn ends where it may not remove its directories from a shared disk: what follows is a boot of the same root in any case.
inside systemctl reboot
wait "$nspawn" || true
boot
wait_for "the gateway serves after the boot" healthy
gets

say "stop, and purge"
inside systemctl stop stoq-gateway
expect "the unit after a stop" "inactive success" "$(unit ActiveState) $(unit Result)"
inside systemctl start stoq-gateway
healthy
pid=$(unit MainPID)
inside dpkg --purge stoq >>"$dir/apt.log" 2>&1
! inside kill -0 "$pid" 2>/dev/null || die "the gateway runs on without its package"
[ -e "$root/etc/stoq/gateway.key" ] || die "a purge took the identity"
say "a NIC is the gateway's, by udev"
inside systemctl poweroff
wait "$nspawn" || true
nspawn=
in_root userdel stoq
rm -rf --one-file-system "$root"/var/cache/apt "$root"/var/lib/apt/lists "$root"/usr/share/{doc,locale,man}
take_built
STOQ_BUILT=$built PYTHONPATH=scripts PYTHONDONTWRITEBYTECODE=1 python3 scripts/harness/udev.py "$root" /root/stoq.deb
say "$(basename "$package") runs under systemd as the manual says"
