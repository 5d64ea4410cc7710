#!/usr/bin/env bash
# Reserves huge pages for a gateway, and lists them.
#
#   hugepages.sh                                 lists reserved and free pages, a line for each size and NUMA node
#   hugepages.sh reserve MIB [--size KIB] [--node N] [--persist]
#   hugepages.sh release [--size KIB] [--node N]
#
# reserve makes sure that MIB MiB of huge pages of KIB KiB (2048; 1048576 for pages of 1 GiB) are free, on node N where one is named.
# Reserved pages stay reserved. If the kernel cannot find enough pages, that is an error, and the earlier reservation is kept.
# --persist reserves them at every boot as well (2048 KiB, by sysctl.d; larger ones belong on the kernel's command line, which is shown).
# release gives the free pages of KIB KiB (2048) back to the kernel, on node N where one is named, and ends what --persist does at boots. Pages that a
# process uses stay. Needs root to reserve and release. STOQ_ROOT is put before /sys, /proc and /etc, for tests.
set -euo pipefail
root=${STOQ_ROOT:-}
die() { printf 'hugepages: %s\n' "$*" >&2; exit 1; }
usage() { sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "$0" >&2; exit 2; }
number() { case $1 in '' | *[!0-9]*) die "$2 takes a number, not \"$1\"" ;; esac; }

show() {
    local at name
    printf '%-6s %10s %10s %10s\n' node size_kib reserved free
    for at in "$root"/sys/devices/system/node/node*/hugepages/hugepages-*kB; do
        [ -d "$at" ] || continue
        name=${at##*hugepages-}
        printf '%-6s %10s %10s %10s\n' "$(basename "$(dirname "$(dirname "$at")")")" "${name%kB}" "$(cat "$at/nr_hugepages")" \
            "$(cat "$at/free_hugepages")"
    done
}

# pages_at SIZE NODE: the directory of these pages.
pages_at() {
    local at=$root/sys/kernel/mm/hugepages/hugepages-$1kB
    [ -z "$2" ] || at=$root/sys/devices/system/node/node$2/hugepages/hugepages-$1kB
    [ -d "$at" ] || die "this machine has no huge pages of $1 KiB${2:+ on node $2}: $(basename -a "$root"/sys/kernel/mm/hugepages/* 2>/dev/null | tr '\n' ' ')"
    echo "$at"
}

reserve() {
    local mib=${1:-} size=2048 node='' persist='' at pages free before after
    number "$mib" MIB
    shift
    while [ $# -gt 0 ]; do
        case $1 in
            --size) size=${2:-}; number "$size" --size; shift 2 ;;
            --node) node=${2:-}; number "$node" --node; shift 2 ;;
            --persist) persist=1; shift ;;
            *) usage ;;
        esac
    done
    at=$(pages_at "$size" "$node")
    [ -z "$persist" ] || [ "$size" = 2048 ] ||
        die "pages of $size KiB are best reserved on the kernel's command line: hugepagesz=${size}K hugepages=$((mib * 1024 / size))"
    [ -z "$persist" ] || [ -z "$node" ] || die "--persist reserves on all nodes alike: leave --node away"

    pages=$(((mib * 1024 + size - 1) / size))
    free=$(cat "$at/free_hugepages")
    before=$(cat "$at/nr_hugepages")
    if [ "$free" -lt "$pages" ]; then
        echo $((before + pages - free)) >"$at/nr_hugepages" || die "cannot reserve: run this as root"
        after=$(cat "$at/nr_hugepages")
        if [ "$after" -lt $((before + pages - free)) ]; then
            echo "$before" >"$at/nr_hugepages"
            die "the kernel found $((after - before)) of $((pages - free)) more pages, which were given back: memory is in use or in pieces;" \
                "reserve at boot, or \`echo 1 > /proc/sys/vm/compact_memory\` and try again"
        fi
    fi
    printf 'hugepages: %s pages of %s KiB are free, %s reserved in all\n' "$(cat "$at/free_hugepages")" "$size" "$(cat "$at/nr_hugepages")"
    if [ -n "$persist" ]; then
        mkdir -p "$root/etc/sysctl.d"
        printf '# Written by %s reserve --persist\nvm.nr_hugepages = %s\n' "$(basename "$0")" "$(cat "$at/nr_hugepages")" \
            >"$root/etc/sysctl.d/60-stoq-hugepages.conf"
        echo "hugepages: at every boot, by /etc/sysctl.d/60-stoq-hugepages.conf"
    fi
}

release() {
    local size=2048 node='' at before boot=$root/etc/sysctl.d/60-stoq-hugepages.conf
    while [ $# -gt 0 ]; do
        case $1 in
            --size) size=${2:-}; number "$size" --size; shift 2 ;;
            --node) node=${2:-}; number "$node" --node; shift 2 ;;
            *) usage ;;
        esac
    done
    at=$(pages_at "$size" "$node")
    before=$(cat "$at/nr_hugepages")
    echo $((before - $(cat "$at/free_hugepages"))) >"$at/nr_hugepages" || die "cannot release: run this as root"
    # The kernel keeps free pages that are promised to a process.
    printf 'hugepages: %s pages of %s KiB were given back, %s stay reserved\n' $((before - $(cat "$at/nr_hugepages"))) "$size" \
        "$(cat "$at/nr_hugepages")"
    if [ -e "$boot" ]; then
        rm "$boot"
        echo "hugepages: none at the next boot: /etc/sysctl.d/60-stoq-hugepages.conf is removed"
    fi
}

case ${1:-show} in
    show) show ;;
    reserve) shift; reserve "$@" ;;
    release) shift; release "$@" ;;
    *) usage ;;
esac
