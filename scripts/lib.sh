# Shell functions that the scripts share. Sourced, never run.

say() { printf '\033[1m== %s\033[0m\n' "$*" >&2; }
die() { printf 'stoq: %s\n' "$*" >&2; exit 1; }

# What building and running need on Debian 12, beside Rust.
BUILD_PACKAGES="gcc libc6-dev pkg-config libdpdk-dev"

# install PACKAGE...: installs what is missing, as root or by sudo; an ordinary user is told the command.
install() {
    local missing=()
    local package
    for package in "$@"; do
        dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
    done
    [ ${#missing[@]} -eq 0 ] && return
    say "installing ${missing[*]}"
    if [ "$(id -u)" = 0 ]; then
        apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "${missing[@]}" >/dev/null
    elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
        sudo apt-get update -qq && sudo DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "${missing[@]}" >/dev/null
    else
        die "needs root once: apt-get install ${missing[*]}"
    fi
}

need_rust() {
    command -v cargo >/dev/null || [ ! -f "$HOME/.cargo/env" ] || . "$HOME/.cargo/env"
    command -v cargo >/dev/null || die "needs Rust 1.95 or later: see https://rustup.rs"
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

# json KEY: the value of a top-level key of the JSON object on standard input.
json() { sed -n "s/.*\"$1\":\"\{0,1\}\([^,\"}]*\).*/\1/p"; }

# wait_for SECONDS TEXT FILE PID: until TEXT stands in FILE; fails when PID ends or the time is over.
wait_for() {
    local until=$((SECONDS + $1))
    until grep -q "$2" "$3" 2>/dev/null; do
        kill -0 "$4" 2>/dev/null || { cat "$3" >&2; die "the gateway ended before it was ready"; }
        [ $SECONDS -lt $until ] || { cat "$3" >&2; die "no \"$2\" within $1 s"; }
        sleep 0.1
    done
}

# new_identities DIR WHO...: DIR/WHO.pem, DIR/WHO.key and, in DIR/WHO.id, the node ID of each; made by $stoq.
new_identities() {
    local at=$1 who
    shift
    for who in "$@"; do "$stoq" identity new --name "$who" --cert "$at/$who.pem" --key "$at/$who.key" >"$at/$who.id"; done
}

# identity_toml WHO PEER: the sections by which WHO shows itself, with files beside its configuration, and trusts PEER, whose node
# ID is in $dir.
identity_toml() {
    printf '[identity]\ncertificate = "%s.pem"\nkey = "%s.key"\n[trust]\nnode_ids = ["%s"]\n' "$1" "$1" "$(cat "$dir/$2.id")"
}

# free_huge_mb: MiB of huge pages that nobody uses.
free_huge_mb() { awk '/HugePages_Free/{n=$2} /Hugepagesize/{k=$2} END{print int(n*k/1024)}' /proc/meminfo; }

# need_disk DIR MB WHAT ELSE: fails where the disk of DIR has less free than WHAT needs, and says what to do, such as ELSE.
need_disk() {
    local free
    free=$(df -Pm "$1" | awk 'END { print $4 }')
    [ "$free" -ge "$2" ] || die "$3 needs $2 MiB free on the disk of $1, which has $free: free some, or $4"
}

# debian_base TAR: the root of a small Debian 12 as a tar archive, made by debootstrap where it is not there yet.
debian_base() {
    [ ! -s "$1" ] || return 0
    install debootstrap
    say "a Debian 12 from its packages, by debootstrap"
    local root
    root=$(mktemp -d)
    # Its mode becomes that of the new system's `/`.
    chmod 755 "$root"
    debootstrap --variant=minbase bookworm "$root" >"$1.log" 2>&1 || { tail "$1.log" >&2; rm -rf "$root"; die "debootstrap failed"; }
    tar -C "$root" -cf "$1.part" . && mv "$1.part" "$1"
    rm -rf "$root" "$1.log"
}
