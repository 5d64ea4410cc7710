#!/usr/bin/env bash
# The lab: the gateway in user space on a DPDK port, the client on kernel UDP sockets in a network namespace, a veth pair
# between them. ping, put and get over IPv4 and IPv6, on net_af_packet and, without UDP checksums over IPv4, on net_af_xdp, there with huge
# pages and with normal ones. Then what the gateway says of an interface without carrier, down, and deleted. Needs root
# and a release build.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib.sh
need_root "the lab makes a network namespace and raw ports"
needed
install $BUILD_PACKAGES $LAB_PACKAGES
need_namespaces
needed

target=$(realpath "${CARGO_TARGET_DIR:-target}")/release
stoq=$target/stoq gateway=$target/stoq-gateway
[ -x "$gateway" ] || die "no release build: cargo build --release"

ns=stoq-lab-$$ near=stq$$ far=stqf$$
dir=$(mktemp -d /tmp/stoq-lab.XXXXXX)
pid=
stop_gateway() {
    [ -n "$pid" ] || return 0
    kill "$pid"
    wait "$pid" || die "the gateway did not end in order"
    pid=
}
cleanup() {
    [ -z "$pid" ] || { kill "$pid" 2>/dev/null && wait "$pid" 2>/dev/null; } || true
    ip link delete "$near" 2>/dev/null || true
    ip netns delete "$ns" 2>/dev/null || true
    rm -rf "$dir"
}
trap cleanup EXIT

# plug: makes the veth pair.
plug() {
    local side in
    ip link add "$near" type veth peer name "$far" netns "$ns"
    # The kernel leaves checksums and segmentation to the NIC behind a veth; a user-space port needs both done.
    for side in "$near" "$far"; do
        [ "$side" = "$near" ] && in=() || in=(ip netns exec "$ns")
        "${in[@]}" ethtool -K "$side" tx off rx off tso off gso off gro off >/dev/null
        "${in[@]}" ip link set "$side" up
    done
    ip addr flush dev "$near"
    ip netns exec "$ns" ip addr add 10.78.0.2/24 dev "$far"
    ip netns exec "$ns" ip -6 addr add fd78::2/64 dev "$far" nodad
}

ip netns add "$ns"
ip netns exec "$ns" ip link set lo up
plug

new_identities "$dir" gateway client
client=(ip netns exec "$ns" "$stoq")
options=(--cert "$dir/client.pem" --key "$dir/client.key" --node-id "$(cat "$dir/gateway.id")")
head -c 67108864 /dev/urandom >"$dir/file"

# configure DEVICE UDP-CHECKSUM HUGE-PAGES
configure() {
    rm -rf "$dir/store" "$dir/got"*
    cat >"$dir/gateway.toml" <<TOML
[network]
kind = "dpdk"
device = "$1"
addresses = ["10.78.0.1/24", "fd78::1/64"]
udp_checksum = $2
huge_pages = "$3"
$(identity_toml gateway client)
[[application]]
kind = "seed"
queues = [0]
directory = "store"
memory_bytes = 134217728
[[application]]
kind = "echo"
queues = [1]
[[application]]
kind = "discard"
queues = [2]
[admin]
listen = "127.0.0.1:9578"
TOML
}

start_gateway() {
    "$gateway" check --config "$dir/gateway.toml"
    "$gateway" run --config "$dir/gateway.toml" 2>"$dir/gateway.log" &
    pid=$!
    wait_for $PATIENCE_S "gateway ready" "$dir/gateway.log" $pid
}

# lab DEVICE UDP-CHECKSUM HUGE-PAGES
lab() {
    local driver=${1%%0,*}
    say "$driver, huge pages $3"
    configure "$@"
    start_gateway

    ip netns exec "$ns" ping -q -c 3 -i 0.2 -W 20 10.78.0.1
    ip netns exec "$ns" ping -6 -q -c 3 -i 0.2 -W 20 fd78::1
    # A size that only unfragmented MTU-sized packets carry.
    ip netns exec "$ns" ping -q -c 1 -W 20 -M do -s 1472 10.78.0.1
    local address token
    for address in 10.78.0.1:4433 '[fd78::1]:4433'; do
        "${client[@]}" ping -g "$address" -c 3 -i 0.1 "${options[@]}"
        # Each family puts bytes of its own: what is kept already would not cross again.
        head -c 65536 /dev/urandom >>"$dir/file"
        token=$("${client[@]}" put "$dir/file" -g "$address" "${options[@]}")
        "${client[@]}" get "$token" -o "$dir/got-${address//[^a-z0-9]/-}" -g "$address" "${options[@]}"
        cmp "$dir/file" "$dir/got-${address//[^a-z0-9]/-}"
        "${client[@]}" bench -g "$address" --bytes 500000000 "${options[@]}"
    done
    stop_gateway
    grep -q ' WARN\| ERROR' "$dir/gateway.log" && { cat "$dir/gateway.log" >&2; die "$driver: warnings"; }
    grep 'worker counted' "$dir/gateway.log"
}

# until_health TEXT: until the gateway's /readyz says TEXT.
until_health() {
    local until=$((SECONDS + PATIENCE_S)) said
    until said=$("$gateway" health --url http://127.0.0.1:9578/readyz 2>&1 && echo ready); [[ $said == *"$1"* ]]; do
        [ $SECONDS -lt $until ] || die "/readyz says \"$said\", not \"$1\""
        sleep 0.2
    done
}

# logged TEXT: waits until the gateway's log has it. The port is looked at once a second: a change that is undone sooner is not seen.
logged() { wait_for $PATIENCE_S "$1" "$dir/gateway.log" $pid; }

# link DEVICE UDP-CHECKSUM HUGE-PAGES: what happens to the interface shows, and passes when it is mended.
link() {
    say "${1%%0,*}: the interface without carrier, down, up, and deleted"
    configure "$@"
    start_gateway
    until_health ready
    ip netns exec "$ns" ip link set "$far" down
    until_health "$near has no carrier"
    logged "has no carrier"
    ip netns exec "$ns" ip link set "$far" up
    until_health ready
    logged "interface is up"
    ip link set "$near" down
    until_health "$near is down"
    logged "is down"
    ip link set "$near" up
    until_health ready
    ip netns exec "$ns" ip -6 addr replace fd78::2/64 dev "$far" nodad
    "${client[@]}" ping -g 10.78.0.1:4433 -c 3 -i 0.1 "${options[@]}"
    ip link delete "$near"
    until_health "$near was deleted"
    logged "was deleted"
    stop_gateway
    local said
    said=$("$gateway" check --config "$dir/gateway.toml") && die "check is content without the interface"
    [[ $said == *"no interface $near"* ]] || die "check says \"$said\""
    said=$("$gateway" run --config "$dir/gateway.toml" 2>&1) && die "the gateway started without the interface"
    [[ $said == *"no interface $near"* ]] || die "run says \"$said\""
    plug
    ip link set "$near" mtu 1400
    said=$("$gateway" check --config "$dir/gateway.toml") && die "check is content with an MTU too small"
    [[ $said == *"ip link set $near mtu 1500"* ]] || die "check says \"$said\""
    said=$("$gateway" run --config "$dir/gateway.toml" 2>&1) && die "the gateway started with an MTU too small"
    [[ $said == *"ip link set $near mtu 1500"* ]] || die "run says \"$said\""
    ip link set "$near" mtu 1500
}

af_packet="net_af_packet0,iface=$near,blocksz=65536,framesz=2048,framecnt=2048,qdisc_bypass=1" af_xdp="net_af_xdp0,iface=$near"
lab "$af_packet" true preferred
lab "$af_xdp" false preferred
lab "$af_xdp" false none
link "$af_packet" true preferred
link "$af_xdp" false none
say "the lab passed on net_af_packet and net_af_xdp"
