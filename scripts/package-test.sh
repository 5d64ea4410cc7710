#!/usr/bin/env bash
# Tests the package: builds it, installs it with dpkg in a Debian of its own, checks its files, starts its programs, verifies its unit with
# systemd, removes and purges it, and checks that no other file is left. Needs root, for that Debian's chroot.
#
# STOQ_BASE names a tar archive of a Debian root to use; without it debootstrap makes one. STOQ_BUILT: see scripts/package.sh.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib.sh
need_root "it installs a package in a chroot"
needed
install "${PACKAGE_PACKAGES[@]}"

package=$(scripts/package.sh)
dir=$(mktemp -d /tmp/stoq-package.XXXXXX)
root=$dir/root
cleanup() {
    umount "$root/proc" "$root/sys" 2>/dev/null || true
    rm -rf --one-file-system "$dir"
}
trap cleanup EXIT
base=${STOQ_BASE:-$dir/base.tar}
debian_base "$base"
debian_root
mount -t proc proc "$root/proc"
# DPDK reads the processors there.
mount -t sysfs -o ro sysfs "$root/sys"

say "installing $(basename "$package")"
cp "$package" "$root/stoq.deb"
in_root apt-get update -qq
in_root apt-get install -y -qq --no-install-recommends /stoq.deb systemd man-db >"$dir/apt.log" 2>&1 || { tail -n 30 "$dir/apt.log" >&2; die "not installed"; }
# dpkg-query fills its fields in itself.
# shellcheck disable=SC2016
status='${Status}' conffiles='${Conffiles}' version='${Version}'
[ "$(in_root dpkg-query -W -f "$status" stoq)" = "install ok installed" ] || die "dpkg does not call it installed"

say "its files"
for file in usr/bin/{stoq,stoq-gateway,stoq-pktgen} usr/sbin/{stoq-hugepages,stoq-bind-nic} etc/stoq/gateway.toml \
    usr/lib/udev/rules.d/60-stoq-vfio.rules lib/systemd/system/stoq-gateway.service usr/share/bash-completion/completions/stoq \
    usr/share/zsh/vendor-completions/_stoq-gateway usr/share/fish/vendor_completions.d/stoq-pktgen.fish; do
    [ -s "$root/$file" ] || [ -s "$root/usr/$file" ] || die "no /$file"
done
[ "$(stat -c %a "$root/etc/stoq")" = 750 ] || die "/etc/stoq is open to other users"
[ "$(in_root stat -c %U:%G /etc/stoq)" = root:stoq ] || die "/etc/stoq is not the group's"
[ "$(in_root dpkg-query -W -f "$conffiles" stoq | awk '{print $1}')" = /etc/stoq/gateway.toml ] || die "not a configuration file"
in_root getent passwd stoq >/dev/null || die "no user stoq"
[ "$(in_root stat -c %U:%a /var/lib/stoq)" = stoq:750 ] || die "the store is not the gateway's own"

say "its manuals, of every command that --help shows"
for program in stoq stoq-gateway stoq-pktgen; do
    in_root man -w "$program" >/dev/null || die "no manual of $program"
    for command in $(in_root "$program" --help | sed -n '/^Commands:/,/^$/s/^  \([a-z-]*\) .*/\1/p'); do
        [ "$command" = help ] || in_root man -w "$program-$command" >/dev/null || die "no manual of $program $command"
    done
done

say "its programs"
version=$(in_root dpkg-query -W -f "$version" stoq)
for program in stoq stoq-gateway stoq-pktgen; do
    [ "$(in_root "$program" --version)" = "$program ${version%-*}" ] || die "$program says $(in_root "$program" --version), not ${version%-*}"
done
in_root stoq-hugepages >/dev/null
for who in gateway client; do
    in_root stoq identity new --cert "/etc/stoq/$who.pem" --key "/etc/stoq/$who.key" >"$dir/$who.id"
done
sed -i "s/a\{52\}/$(cat "$dir/client.id")/" "$root/etc/stoq/gateway.toml"
in_root chown stoq:stoq /etc/stoq/gateway.pem /etc/stoq/gateway.key
# As the unit runs it, by the user of the unit; it needs no huge page and no device until a DPDK port is named.
in_root setpriv --reuid=stoq --regid=stoq --clear-groups --bounding-set=-all stoq-gateway check --config /etc/stoq/gateway.toml
sed -i 's/kind = "kernel-udp"/kind = "dpdk"\ndevice = "net_memif0,role=server,id=0"\naddresses = ["10.0.0.1\/24"]/; /^listen = \[\|^buffer_bytes/d' "$root/etc/stoq/gateway.toml"
in_root setpriv --reuid=stoq --regid=stoq --clear-groups stoq-gateway check --config /etc/stoq/gateway.toml >"$dir/check" || { cat "$dir/check" >&2; die "no DPDK"; }
grep -q 'built with DPDK' "$dir/check" || die "the package is without DPDK"

say "its unit"
{ said=$(in_root systemd-analyze verify stoq-gateway.service 2>&1) && [ -z "$said" ]; } || die "systemd-analyze verify: $said"
[ ! -e "$root/etc/systemd/system/multi-user.target.wants/stoq-gateway.service" ] || die "the unit is enabled before there is an identity"

for script in postinst prerm; do
    ! grep -qE 'restart|invoke start' "$root/var/lib/dpkg/info/stoq.$script" || die "an upgrade restarts a running gateway: $script"
done

say "removing it"
in_root dpkg --remove stoq >>"$dir/apt.log" 2>&1
for file in usr/bin/stoq usr/bin/stoq-gateway usr/sbin/stoq-bind-nic lib/systemd/system/stoq-gateway.service usr/share/man/man1/stoq.1; do
    [ ! -e "$root/$file" ] || die "/$file is left"
done
[ -e "$root/etc/stoq/gateway.toml" ] || die "the configuration went before a purge"
mkdir -p "$root/etc/sysctl.d"
: >"$root/etc/sysctl.d/60-stoq-hugepages.conf"
in_root dpkg --purge stoq >>"$dir/apt.log" 2>&1
[ ! -e "$root/etc/sysctl.d/60-stoq-hugepages.conf" ] || die "huge pages are reserved at boots after a purge"
[ ! -e "$root/etc/stoq/gateway.toml" ] || die "the configuration is left after a purge"
[ -e "$root/etc/stoq/gateway.key" ] || die "a purge took the identity"
say "$(basename "$package") installs, starts, and goes again"
