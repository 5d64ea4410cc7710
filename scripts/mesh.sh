#!/usr/bin/env bash
# The mesh: four gateways, each in user space on a DPDK port of its own (net_af_packet), joined by a bridge; a client on kernel
# UDP sockets. A file is sharded and put at one gateway, its lanes are mirrored to the others, one of them is killed, the file
# is gathered from those that are left, and fetched by way of one gateway that keeps what passes. Every step says what it did.
#
#   scripts/mesh.sh [FILE]
#
# Without FILE, 64 MiB of random bytes. Needs root: it makes network namespaces and raw ports, and removes them again.
# STOQ_HUGE_PAGES sets whether huge pages are used ("preferred"; "required", "none").
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib.sh
need_root "the mesh makes network namespaces and raw ports"
needed
install $BUILD_PACKAGES $LAB_PACKAGES
need_namespaces
needed

target=$(realpath -m "${CARGO_TARGET_DIR:-target}")/release
stoq=$target/stoq gateway=$target/stoq-gateway
if [ ! -x "$gateway" ] || [ ! -x "$stoq" ]; then
    need_rust
    say "building"
    cargo build --release --locked --quiet
fi

# Everything that is made bears this name, so that two meshes do not meet.
mesh=stoq-mesh-$$
dir=$(mktemp -d "${TMPDIR:-/tmp}/$mesh.XXXXXX")
declare -A pid=()
cleanup() {
    local name
    for name in "${!pid[@]}"; do
        kill "${pid[$name]}" 2>/dev/null && wait "${pid[$name]}" 2>/dev/null || true
    done
    # What hangs on a namespace goes with it, veth pairs and bridge among them.
    for name in switch client a b c d; do ip netns delete "$mesh-$name" 2>/dev/null || true; done
    # A killed DPDK process leaves these.
    rm -rf "$dir" "/var/run/dpdk/$mesh-"?
}
trap cleanup EXIT

file=${1:-}
if [ -z "$file" ]; then
    file=$dir/file
    head -c 67108864 /dev/urandom >"$file"
fi
[ -f "$file" ] || die "$file is no file"

say "a bridge, and a cable from it to each of a, b, c, d and the client"
ip netns add "$mesh-switch"
ip -n "$mesh-switch" link add bridge type bridge
ip -n "$mesh-switch" link set bridge up
for name in a b c d client; do
    ip netns add "$mesh-$name"
    ip -n "$mesh-switch" link add "to-$name" type veth peer name port netns "$mesh-$name"
    ip -n "$mesh-switch" link set "to-$name" master bridge
    # The kernel leaves checksums and segmentation to the NIC behind a veth; a user-space port needs both done.
    ip netns exec "$mesh-switch" ethtool -K "to-$name" tx off rx off tso off gso off gro off >/dev/null
    ip netns exec "$mesh-$name" ethtool -K port tx off rx off tso off gso off gro off >/dev/null
    ip -n "$mesh-switch" link set "to-$name" up
    ip -n "$mesh-$name" link set port up
done
ip -n "$mesh-client" link set lo up
ip -n "$mesh-client" addr add 10.78.0.9/24 dev port
ip -n "$mesh-client" addr add fd78::9/64 dev port nodad

declare -A number=([a]=1 [b]=2 [c]=3 [d]=4) id=()
for name in a b c d client; do
    id[$name]=$("$stoq" identity new --name "$name" --cert "$dir/$name.pem" --key "$dir/$name.key")
done
trusted=$(printf '"%s", ' "${id[@]}")

# peer_gateways NAME: the sections for all gateways but NAME.
peer_gateways() {
    local name
    for name in a b c d; do
        [ "$name" != "$1" ] || continue
        cat <<TOML
[[gateway]]
name = "$name"
node_id = "${id[$name]}"
addresses = ["10.78.0.${number[$name]}:4433", "[fd78::${number[$name]}]:4433"]
TOML
    done
}

who() { # NAME: its certificate, and whom it trusts
    printf '[identity]\ncertificate = "%s.pem"\nkey = "%s.key"\n[trust]\nnode_ids = [%s]\n' "$1" "$1" "${trusted%, }"
}

for name in a b c d; do
    { who "$name"; cat <<TOML; peer_gateways "$name"; } >"$dir/$name.toml"
[network]
kind = "dpdk"
device = "net_af_packet0,iface=port,blocksz=65536,framesz=2048,framecnt=2048,qdisc_bypass=1"
addresses = ["10.78.0.${number[$name]}/24", "fd78::${number[$name]}/64"]
huge_pages = "${STOQ_HUGE_PAGES:-preferred}"
memory_mib = 64
file_prefix = "$mesh-$name"
[[application]]
kind = "seed"
queues = [0]
directory = "store-$name"
capacity_bytes = 4000000000
memory_bytes = 33554432
TOML
done
{ echo 'connect = "10.78.0.1:4433"'; who client; peer_gateways client; printf '[log]\nlevel = "warn"\n'; } >"$dir/client.toml"

say "starting a, b, c and d, each on its own DPDK port"
for name in a b c d; do
    ip netns exec "$mesh-$name" "$gateway" run --config "$dir/$name.toml" 2>"$dir/$name.log" &
    pid[$name]=$!
done
for name in a b c d; do wait_for $PATIENCE_S "gateway ready" "$dir/$name.log" "${pid[$name]}"; done

# client TOOL ARGUMENT...
client() { ip netns exec "$mesh-client" "$stoq" "$@" --config "$dir/client.toml"; }
same() { cmp -s "$file" "$1" || die "what came back is not what was put"; }
# known TOKEN COUNT: waits until the connected gateway knows COUNT holders, and shows them.
known() {
    local until=$((SECONDS + PATIENCE_S)) holders
    while holders=$(client locate "$1" "${@:3}") && [ "$(grep -cvE '^(NODE|$)' <<<"$holders")" != "$2" ]; do
        [ $SECONDS -lt $until ] || { echo "$holders" >&2; die "not $2 holders of $1"; }
        sleep 0.2
    done
    local name
    for name in a b c d; do holders=${holders//${id[$name]}/"$name  ${id[$name]:0:8}…"}; done
    sed '1d' <<<"$holders"
}

say "put: 4 + 2 shards a stripe, at a"
client put "$file" --shards 4+2 >"$dir/tokens"
{ read -r token; read -r set; } <"$dir/tokens"
say "mirror: b, c and d fetch two lanes each from a"
client mirror "$set" --on b --lanes 0,1 --from a
client mirror "$set" --on c --lanes 2,3 --from a
client mirror "$set" --on d --lanes 4,5 --from a
say "locate: what a knows of the set"
known "$set" 4
say "c is killed"
kill -KILL "${pid[c]}"
wait "${pid[c]}" 2>/dev/null || true
unset "pid[c]"
say "get: from b, c and d, of which two are left"
client get "$set" -o "$dir/gathered" --from b,c,d
same "$dir/gathered"
say "get: by way of d from a, over IPv6; d keeps what passes"
client get "$token" -o "$dir/routed" --gateway '[fd78::4]:4433' --via d,a --cache
same "$dir/routed"
say "locate: what d knows of the payload"
known "$token" 2 --gateway '[fd78::4]:4433'

for name in a b d; do
    kill "${pid[$name]}"
    wait "${pid[$name]}" || { cat "$dir/$name.log" >&2; die "gateway $name did not end in order"; }
    unset "pid[$name]"
done
say "the mesh: $(stat -c %s "$file") bytes came back the same, from shards with a holder dead and by way of another gateway"
