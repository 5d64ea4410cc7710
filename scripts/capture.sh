#!/usr/bin/env bash
# Captures of a user-space port, read by tshark: the gateway on a DPDK port (net_af_packet), the client on kernel UDP sockets in a
# network namespace, a veth pair between them; and what the admin endpoint says of such a port. Needs root and a build: PROFILE=release (the default) or debug.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib.sh
need_root "captures make a network namespace and a raw port"
needed
install $BUILD_PACKAGES $CAPTURE_PACKAGES
need_namespaces
needed

target=$(realpath "${CARGO_TARGET_DIR:-target}")/${PROFILE:-release}
stoq=$target/stoq gateway=$target/stoq-gateway
[ -x "$gateway" ] || die "no build in $target"

ns=stoq-cap-$$ near=stc$$ far=stcf$$
dir=$(mktemp -d /tmp/stoq-capture.XXXXXX)
pid='' recorder=''
cleanup() {
    [ -z "$recorder" ] || kill "$recorder" 2>/dev/null || true
    [ -z "$pid" ] || { kill "$pid" 2>/dev/null && wait "$pid" 2>/dev/null; } || true
    ip link delete "$near" 2>/dev/null || true
    ip netns delete "$ns" 2>/dev/null || true
    rm -rf "$dir"
}
trap cleanup EXIT

ip netns add "$ns"
ip link add "$near" type veth peer name "$far" netns "$ns"
# The kernel leaves checksums and segmentation to the NIC behind a veth; a user-space port needs both done.
for side in "$near" "$far"; do
    [ "$side" = "$near" ] && in=() || in=(ip netns exec "$ns")
    "${in[@]}" ethtool -K "$side" tx off rx off tso off gso off gro off >/dev/null
    "${in[@]}" ip link set "$side" up
done
ip addr flush dev "$near"
ip netns exec "$ns" ip addr add 10.79.0.2/24 dev "$far"

new_identities "$dir" gateway client
admin=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
client=(ip netns exec "$ns" "$stoq")
options=(-g 10.79.0.1:4433 --cert "$dir/client.pem" --key "$dir/client.key" --node-id "$(cat "$dir/gateway.id")")
head -c 300000 /dev/urandom >"$dir/file"

# start KEY_LOG
start() {
    rm -rf "$dir/store"
    cat >"$dir/gateway.toml" <<TOML
[network]
kind = "dpdk"
device = "net_af_packet0,iface=$near,blocksz=65536,framesz=2048,framecnt=2048,qdisc_bypass=1"
addresses = ["10.79.0.1/24"]
huge_pages = "none"
memory_mib = 128
$(identity_toml gateway client)
[capture]
socket = "capture.sock"
key_log = $1
[admin]
listen = "127.0.0.1:$admin"
[[application]]
kind = "seed"
queues = [0]
directory = "store"
memory_bytes = 4194304
TOML
    "$gateway" run --config "$dir/gateway.toml" 2>"$dir/gateway.log" &
    pid=$!
    wait_for $PATIENCE_S "gateway ready" "$dir/gateway.log" $pid
}

stop() {
    kill "$pid"
    wait "$pid" || die "the gateway did not end in order"
    pid=
    [ ! -e "$dir/capture.sock" ] || die "the socket is left"
}

# record FILE OPTION...: begins a capture.
record() {
    local file=$1
    shift
    rm -f "$file"
    : >"$dir/gateway.log"
    "$gateway" capture --socket "$dir/capture.sock" -o "$file" "$@" >"$dir/recorded" &
    recorder=$!
    wait_for $PATIENCE_S "capture begins" "$dir/gateway.log" $recorder
}

# recorded: ends it; the number of frames that it says it has is in $frames.
recorded() {
    kill -INT "$recorder" 2>/dev/null || true
    wait "$recorder" || die "the capture failed"
    recorder=
    frames=$(sed -n 's/ frames$//p' "$dir/recorded")
}

# count FILE FILTER: how many frames tshark finds.
count() { tshark -n -r "$1" -d udp.port==4433,quic -Y "$2" 2>/dev/null | wc -l; }

for key_log in true false; do
    say "a put, captured with key_log = $key_log"
    start $key_log
    record "$dir/put.pcapng" --filter 'udp port 4433'
    ip netns exec "$ns" ping -q -c 3 -i 0.2 -W 20 10.79.0.1 >/dev/null
    "${client[@]}" put "$dir/file" "${options[@]}" >/dev/null
    recorded
    all=$(count "$dir/put.pcapng" frame) quic=$(count "$dir/put.pcapng" quic)
    streams=$(count "$dir/put.pcapng" quic.stream.stream_id)
    sent=$(count "$dir/put.pcapng" 'frame.packet_flags_direction == 2 && ip.src == 10.79.0.1')
    wrong=$(count "$dir/put.pcapng" 'frame.packet_flags_direction == 1 && ip.src == 10.79.0.1')
    say "$frames frames; tshark finds $all, $quic of QUIC, $streams with streams that it can read, $sent sent"
    [ "$frames" -gt 200 ] && [ "$all" = "$frames" ] && [ "$quic" = "$frames" ] || die "frames are missing or too many"
    [ "$sent" -gt 0 ] && [ "$wrong" = 0 ] || die "directions are wrong"
    if [ $key_log = true ]; then
        [ "$streams" -gt 100 ] || die "the secrets open nothing"
    else
        [ "$streams" = 0 ] || die "secrets got out"
    fi

    record "$dir/icmp.pcapng" --filter 'icmp and src host 10.79.0.2' --count 2
    ip netns exec "$ns" ping -q -c 4 -i 0.2 -W 20 10.79.0.1 >/dev/null
    recorded
    [ "$frames" = 2 ] || die "not the frames that were asked for"
    [ "$(count "$dir/icmp.pcapng" 'icmp.type == 8')" = 2 ] || die "not the frames that were asked for"
    [ $key_log = true ] || python3 - "http://127.0.0.1:$admin" <<'PYTHON'
import json, sys, urllib.request
read = lambda path: urllib.request.urlopen(sys.argv[1] + path, timeout=10).read().decode()
values = dict(line.rsplit(" ", 1) for line in read("/metrics").splitlines() if not line.startswith("#"))
value = lambda name: sum(float(value) for key, value in values.items() if key.split("{")[0] == name)
for name, least in ("rx_packets", 200), ("rx_bytes", 300000), ("tx_packets", 10), ("tx_bytes", 1000):
    assert value(f"stoq_port_{name}_total") > least, (name, values)
assert value("stoq_port_mtu_bytes") == 1500, values
assert value("stoq_link_up") == 1 and value("stoq_ready") == 1, values
assert "stoq_port_rx_missed_total" in str(values) and "stoq_capture_dropped_total" in values, values
port = json.loads(read("/status"))["ports"][0]
assert (port["kind"], port["driver"], port["mtu"], port["link_up"]) == ("dpdk", "net_af_packet", 1500, True), port
assert port["offloads"] is not None, port
PYTHON
    stop
done
say "captures passed"
