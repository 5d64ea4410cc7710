# shellcheck shell=bash
# Variables are set by the script that sources this, and read by it.
# shellcheck disable=SC2034,SC2154,SC2153
# The rows of scripts/bench/run.sh: each puts up its wire, runs one gateway or server and one client, and leaves
# $shm/result.json, $shm/usage.json, $gateway_usage and $conditions. Sourced, never run.

locked() { awk -v name="\"$1\"" '$1 == "name" { hit = $3 == name } hit && $1 == "version" { gsub(/"/, "", $3); print $3; exit }' "$2"; }

# The first line of the output: what all rows have in common.
environment() {
    printf '{"environment":{"stoq":"%s","commit":"%s","build":"%s","quinn_proto":"%s","rustls":"%s","aws_lc_rs":"%s","quinn":"%s","peer_quinn_proto":"%s","s2n_quic":"%s","quiche":"%s","tquic":"%s","dpdk":"%s","rustc":"%s","kernel":"%s","cpu":"%s","cores":%d,"load_before":"%s","date":"%s","rounds":%d}}\n' \
        "$(locked stoq Cargo.lock)" "$(git rev-parse --short HEAD 2>/dev/null || echo unknown)" "$build" \
        "$(locked quinn-proto Cargo.lock)" "$(locked rustls Cargo.lock)" "$(locked aws-lc-rs Cargo.lock)" \
        "$(locked quinn benches/peers/Cargo.lock)" "$(locked quinn-proto benches/peers/Cargo.lock)" \
        "$(locked s2n-quic benches/peers/Cargo.lock)" "$(locked quiche benches/peers/Cargo.lock)" \
        "$(locked tquic benches/peers/Cargo.lock)" \
        "$(pkg-config --modversion libdpdk)" "$(rustc --version | cut -d' ' -f2)" "$(uname -r)" \
        "$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1)" "$(nproc)" \
        "$(cut -d' ' -f1 /proc/loadavg)" "$(date -u +%F)" "$ROUNDS"
}

# How executables of a directory were built.
how_built() { cat "$1/BUILD" 2>/dev/null || echo "with fat LTO"; }

# ---- configuration

# The queue of a discard application that checks nothing.
UNCHECKED_QUEUE=6

stoq_config() { # WHO PEER CORE IDLE INITIAL_MTU
    cat <<TOML
[workers]
cores = [$3]
idle = "$4"
[identity]
certificate = "$shm/$1.pem"
key = "$shm/$1.key"
[trust]
node_ids = ["$(cat "$shm/$2.id")"]
[quic]
initial_mtu = $5
stream_receive_window_bytes = 67108864
receive_window_bytes = 134217728
send_window_bytes = 67108864
initial_congestion_window_bytes = 4194304
TOML
}

dpdk_network() { # DEVICE ADDRESS MTU
    cat <<TOML
[network]
kind = "dpdk"
device = "$1"
addresses = ["$2/24"]
mtu = $3
udp_checksum = $UDP_CHECKSUM
memory_mib = $DPDK_MB
TOML
}

gateway_applications() { # [STORE_DIRECTORY]
    cat <<TOML
[shutdown]
drain_ms = 1000
[[application]]
kind = "echo"
queues = [1]
[[application]]
kind = "discard"
queues = [2, 3, 4, 5]
[[application]]
kind = "discard"
queues = [$UNCHECKED_QUEUE]
verify = false
TOML
    [ $# -eq 0 ] || cat <<TOML
[[application]]
kind = "seed"
queues = [0]
directory = "$1"
memory_bytes = $memory_bytes
TOML
}

memif_device() { # ROLE RSIZE
    echo "net_memif0,role=$1,id=0,socket=$shm/memif.sock,socket-abstract=no,rsize=$2"
}

# Writes both sides' files for memif; a store where a directory is given.
memif_configs() { # MTU IDLE RSIZE [STORE_DIRECTORY]
    local mtu=$1 idle=$2 rsize=$3
    shift 3
    { stoq_config gateway client "$GATEWAY_CORE" "$idle" 0
      dpdk_network "$(memif_device server "$rsize")" 10.77.0.1 "$mtu"
      gateway_applications "$@"; } >"$shm/gateway.toml"
    { echo 'connect = "10.77.0.1:4433"'
      stoq_config client gateway "$CLIENT_CORE" "$idle" 0
      dpdk_network "$(memif_device client "$rsize")" 10.77.0.2 "$mtu"; } >"$shm/client.toml"
}

# ---- processes

start_gateway() { # [COMMAND BEFORE IT...]
    "$@" taskset -c "$GATEWAY_CORE" "$gateway" run --json --config "$shm/gateway.toml" >"$shm/events" 2>"$shm/gateway.log" &
    pid=$!
    (wait_up $pid "$shm/events" "$shm/gateway.log")
}

start_peer_server() { # PEER [OPTION...]
    local server=$shm/$1-peer
    shift
    ip netns exec "$far" taskset -c "$GATEWAY_CORE" "$server" server --listen 10.78.0.1:4433 --cert "$shm/peer.pem" \
        --socket-buffer "$SOCKET_BYTES" "$@" >"$shm/events" 2>"$shm/gateway.log" &
    pid=$!
    (wait_up $pid "$shm/events" "$shm/gateway.log")
}

# Runs a client on its core, its output to $shm/result.json. The time limit bounds a run that hangs.
client() { # COMMAND...
    local status=0
    rm -f "$shm/result.json" "$shm/usage.json"
    timeout "$RUN_S_MAX" python3 scripts/bench/measure.py "$shm/usage.json" "$@" >"$shm/result.json" 2>"$shm/client.log" &
    client_pid=$!
    wait "$client_pid" || status=$?
    client_pid=
    return $status
}

stoq_client() { client taskset -c "$CLIENT_CORE" "$stoq" "$@" --config "$shm/client.toml" --json; }
peer_client() { # PEER [OPTION...]
    local near_end=$shm/$1-peer
    shift
    client ip netns exec "$near" taskset -c "$CLIENT_CORE" "$near_end" client --connect 10.78.0.1:4433 \
        --cert "$shm/peer.pem" --socket-buffer "$SOCKET_BYTES" --json "$@"
}

# What the gateway took so far: resident memory at its peak, huge pages now, CPU seconds.
gateway_usage() {
    local ticks huge peak
    [ -d /proc/"$pid" ] || { echo '{}'; return; }
    ticks=$(sed 's/.*) //' /proc/"$pid"/stat | awk '{ print $12 + $13 }')
    peak=$(awk '/^VmHWM/ { print $2 }' /proc/"$pid"/status)
    huge=$(awk '/^HugetlbPages/ { print $2 }' /proc/"$pid"/status)
    printf '{"peak_kib":%d,"huge_kib":%d,"cpu_s":%s}' "$peak" "$huge" \
        "$(awk -v t="$ticks" -v hz="$(getconf CLK_TCK)" 'BEGIN { print t / hz }')"
}

# A gateway that does not end in order has a bug: the row's figure stands, the run fails.
stop_gateway() {
    local status=0
    gateway_usage=$(gateway_usage)
    end "$pid" || status=$?
    pid=
    # A peer takes no orders: SIGTERM is its end.
    case $status in
        0 | 143) ;;
        *) say "the gateway ended with status $status"; tail -n 5 "$shm/gateway.log" >&2; failed="$failed end-of-gateway" ;;
    esac
}

# ---- the veth pair

# Two namespaces and a veth pair between them; the client's end is 10.78.0.2, the other 10.78.0.1 unless a DPDK port takes
# it. Each mode says what the kernel may leave undone because nothing but memory is between the ends.
veth() { # super | packets | checksummed
    local side
    ip netns delete "$near" 2>/dev/null || true
    ip netns delete "$far" 2>/dev/null || true
    ip netns add "$near"
    ip netns add "$far"
    ip link add near netns "$near" type veth peer name far netns "$far"
    for side in near far; do
        local in=(ip netns exec "${!side}")
        # Nothing but the benchmark's own packets shall be counted.
        "${in[@]}" sh -c 'echo 1 >/proc/sys/net/ipv6/conf/all/disable_ipv6'
        case $1 in
            super) "${in[@]}" ethtool -K $side tx-udp-segmentation on >/dev/null ;;
            packets) "${in[@]}" ethtool -K $side tx-udp-segmentation off gro "$VETH_GRO" >/dev/null ;;
            # A user-space port has to see packets as they would be on a cable: cut, and with their checksums.
            checksummed) "${in[@]}" ethtool -K $side tx-udp-segmentation off tso off gso off gro off tx off rx off >/dev/null ;;
        esac
        "${in[@]}" ip link set $side up mtu 1500
        "${in[@]}" ip link set lo up
    done
    ip netns exec "$near" ip address add 10.78.0.2/24 dev near
    [ "$1" = checksummed ] || ip netns exec "$far" ip address add 10.78.0.1/24 dev far
}

# Packets and bytes that the client's end of the veth has sent.
sent() {
    ip netns exec "$near" sh -c 'cat /sys/class/net/near/statistics/tx_packets /sys/class/net/near/statistics/tx_bytes' |
        paste -s -d' '
}

# From what `sent` said before: what crossed, as a frame's mean size. Leaves $wire_frames and $wire_frame_bytes.
crossed() { # PACKETS BYTES
    local now
    read -r -a now <<<"$(sent)"
    wire_frames=$((now[0] - $1))
    wire_frame_bytes=$(((now[1] - $2) / (wire_frames > 0 ? wire_frames : 1)))
}

# ---- the rows

# Tries memif's ring lengths at this MTU, unless RSIZE names one, and keeps the best.
declare -A rsizes=()
tune() { # MTU
    local mtu=$1 rsize rate best=0
    [ -z "${rsizes[$mtu]:-}" ] || return 0
    rsizes[$mtu]=${RSIZE:-10}
    [ -z "$RSIZE" ] || return 0
    # Twice, in turn: one slow moment of the machine shall not decide.
    for rsize in 9 10 11 9 10 11; do
        memif_message "$mtu" "$rsize" || { stop_gateway; continue; }
        rate=$(json gbit_per_s <"$shm/result.json")
        say "memif ring of 2^$rsize, MTU $mtu: $rate Gbit/s"
        printf '{"tuning":{"mtu":%d,"rsize":%d,"gbit_per_s":%s}}\n' "$mtu" "$rsize" "$rate" >>"$out"
        if awk -v a="$rate" -v b="$best" 'BEGIN { exit !(a > b) }'; then best=$rate rsizes[$mtu]=$rsize; fi
    done
}

memif_message() { # MTU RSIZE [OPTION...]
    memif_configs "$1" spin "$2"
    shift 2
    start_gateway && stoq_client bench --bytes "$BYTES" --limit "$RUN_S_MAX" "$@" && stop_gateway
}

memif_wire() { # MTU
    printf 'DPDK net_memif, ring 2^%d, MTU %d, %s pages' "${rsizes[$1]}" "$1" "$(pages)"
}

pages() { if [ "$(json huge_pages <"$shm/events")" = true ]; then echo huge; else echo normal; fi; }

# Rows of goodput over memif are named OPERATION-MTU[-cCONNECTIONS][-sSTREAMS]; their operations:
#   message        messages, counted and dropped by the gateway
#   put, put-unchecked    payloads from the client's memory, checked or not, and dropped by the gateway
#   get, get-unchecked    payloads from the gateway's memory, checked or not, and dropped by the client
goodput_row() { # ROW
    local operation mtu connections=1 streams=1 rest token each
    [[ $1 =~ ^([a-z-]+)-([0-9]+)(-c([0-9]+))?(-s([0-9]+))?$ ]] || die "no row \"$1\""
    operation=${BASH_REMATCH[1]} mtu=${BASH_REMATCH[2]} connections=${BASH_REMATCH[4]:-1} streams=${BASH_REMATCH[6]:-1}
    rest=(--connections "$connections" --streams "$streams")
    idle=spin
    case $operation in
        message)
            memif_message "$mtu" "${rsizes[$mtu]}" "${rest[@]}" || return 1
            payload="messages of $(json message_bytes <"$shm/result.json") bytes"
            ;;
        put | put-unchecked)
            memif_configs "$mtu" spin "${rsizes[$mtu]}"
            [ "$operation" = put ] || rest+=(--queue "$UNCHECKED_QUEUE")
            start_gateway && stoq_client bench --put --bytes "$PAYLOAD" --limit "$RUN_S_MAX" "${rest[@]}" && stop_gateway || return 1
            payload="$PAYLOAD bytes from memory, $(json answer <"$shm/result.json" | sed 's/:.*//')"
            ;;
        get | get-unchecked)
            each=$((PAYLOAD / connections / streams))
            head -c $each "$shm/payload" >"$shm/part"
            rm -rf "$shm/store"
            memif_configs "$mtu" spin "${rsizes[$mtu]}" "$shm/store"
            # In memory nothing blocks, so the store may share the worker's thread; on one core two threads would take turns.
            echo 'placement = "worker"' >>"$shm/gateway.toml"
            start_gateway && stoq_client put "$shm/part" || return 1
            token=$(json token <"$shm/result.json")
            [ "$operation" = get ] || rest+=(--unverified)
            # The first brings the payload from the store into the gateway's memory, the second is what is measured.
            stoq_client bench --get "$token" && stoq_client bench --get "$token" --limit "$RUN_S_MAX" "${rest[@]}" || return 1
            stop_gateway
            rm -rf "$shm/store" "$shm/part"
            payload="a payload of $each bytes in the gateway's memory, on each stream, dropped by the client"
            ;;
        *) die "no row \"$1\"" ;;
    esac
    wire=$(memif_wire "$mtu")
}

# quinn-proto in memory: no wire, one core, each side's calls timed alone.
quic_row() { # MTU
    client taskset -c "$CLIENT_CORE" "$shm/ceiling" --json || return 1
    python3 scripts/bench/ceiling.py "$1" "$shm/result.json" || return 1
    wire="none: datagrams handed over in memory, MTU $1" idle=spin payload="one stream of bulk bytes; the slower side counts"
}

# The ring without QUIC.
wire_row() { # MTU
    client env PYTHONPATH=scripts PYTHONDONTWRITEBYTECODE=1 python3 scripts/bench/wire.py --dir "$shm" --mtu "$1" --rsize "${rsizes[$1]}" || return 1
    wire="DPDK net_memif, ring 2^${rsizes[$1]}, MTU $1, huge pages" idle=spin payload="full frames, testpmd txonly to rxonly"
}

# Handshakes a second that the gateway's core completes: Falcon-512 or -1024, clients asked for a certificate or not, sessions resumed.
handshakes_row() { # 512 | 1024 | mutual | resumed
    local who=gateway auth=off more=()
    case $1 in
        1024) who=gateway1024 ;;
        mutual) auth=required ;;
        resumed) more=(--resume) ;;
    esac
    [ -f "$shm/gateway1024.id" ] || "$stoq" identity new --algorithm falconpadded1024 --name gateway1024 \
        --cert "$shm/gateway1024.pem" --key "$shm/gateway1024.key" >"$shm/gateway1024.id"
    { stoq_config $who client "$GATEWAY_CORE" spin 0 | sed "s/^node_ids = .*/client_auth = \"$auth\"\n$([ $auth = off ] || echo '&')/"
      dpdk_network "$(memif_device server "${rsizes[1500]}")" 10.77.0.1 1500
      gateway_applications; } >"$shm/gateway.toml"
    { echo 'connect = "10.77.0.1:4433"'
      stoq_config client $who "$CLIENT_CORE" spin 0 | if [ "$auth" = required ]; then cat; else sed '/^\[identity\]/,/^key/d'; fi
      dpdk_network "$(memif_device client "${rsizes[1500]}")" 10.77.0.2 1500; } >"$shm/client.toml"
    start_gateway && client taskset -c "$CLIENT_CORE" "$pktgen" handshakes --concurrency 48 --seconds "$STORM_S" --json \
        --config "$shm/client.toml" "${more[@]}" && stop_gateway || return 1
    wire=$(memif_wire 1500) idle=spin payload="$(json full <"$shm/result.json") of $(json completed <"$shm/result.json") in full; each answered by an application, then closed"
}

ping_row() { # [OPTION...]
    memif_configs 1500 spin "${rsizes[1500]}"
    start_gateway && stoq_client ping -c "$TRIPS" -i 0 "$@" && stop_gateway || return 1
    wire=$(memif_wire 1500) idle=spin payload="64 bytes there and back on one stream each way"
    [ $# -eq 0 ] || payload="$payload, beside a connection that sends messages as fast as they are taken"
}

# Each run has a new store: what is kept already would not cross again.
put_row() { # DIRECTORY TEXT
    rm -rf "$1/store"
    memif_configs 1500 "$STORE_IDLE" "${rsizes[1500]}" "$1/store"
    start_gateway && stoq_client put "$shm/payload" && stop_gateway || return 1
    rm -rf "$1/store"
    wire=$(memif_wire 1500) idle=$STORE_IDLE payload="one file of $PAYLOAD bytes, store on $2 with fsync"
}

get_row() {
    local token
    rm -rf "$shm/store"
    memif_configs 1500 "$STORE_IDLE" "${rsizes[1500]}" "$shm/store"
    start_gateway && stoq_client put "$shm/payload" || return 1
    token=$(json token <"$shm/result.json")
    # The first brings the payload from the store into the gateway's memory, the second is what is measured.
    stoq_client get "$token" -o "$shm/got" && rm "$shm/got" && stoq_client get "$token" -o "$shm/got" || return 1
    stop_gateway
    cmp "$shm/payload" "$shm/got" || return 1
    rm -rf "$shm/store" "$shm/got"
    wire=$(memif_wire 1500) idle=$STORE_IDLE payload="one file of $PAYLOAD bytes, in the gateway's memory; written to tmpfs"
}

get_piped_row() {
    local token
    rm -rf "$shm/store"
    memif_configs 1500 "$STORE_IDLE" "${rsizes[1500]}" "$shm/store"
    start_gateway && stoq_client put "$shm/payload" || return 1
    token=$(json token <"$shm/result.json")
    stoq_client get "$token" -o "$shm/got" && cmp "$shm/payload" "$shm/got" || return 1
    # The payload goes to standard output, the result to standard error, which is what is kept.
    client taskset -c "$CLIENT_CORE" bash -c 'exec "$@" 2>&1 >/dev/null' - \
        "$stoq" get "$token" -o - --config "$shm/client.toml" --json || return 1
    # The log shares that stream.
    grep '^{' "$shm/result.json" >"$shm/alone.json" && mv "$shm/alone.json" "$shm/result.json"
    stop_gateway
    rm -rf "$shm/store" "$shm/got"
    wire=$(memif_wire 1500) idle=$STORE_IDLE payload="one file of $PAYLOAD bytes, in the gateway's memory; to /dev/null"
}

user_space_row() { # DEVICE
    local before=()
    veth checksummed
    { stoq_config gateway client "$GATEWAY_CORE" spin 1472
      dpdk_network "$1" 10.78.0.1 1500
      gateway_applications; } >"$shm/gateway.toml"
    { echo 'connect = "10.78.0.1:4433"'
      stoq_config client gateway "$CLIENT_CORE" spin 1472
      printf '[network]\nkind = "kernel-udp"\nlisten = ["0.0.0.0:0"]\nbuffer_bytes = %d\n' "$SOCKET_BYTES"
    } >"$shm/client.toml"
    start_gateway ip netns exec "$far" || return 1
    read -r -a before <<<"$(sent)"
    client ip netns exec "$near" taskset -c "$CLIENT_CORE" "$stoq" bench --bytes "$BYTES" --limit "$RUN_S_MAX" \
        --config "$shm/client.toml" --json || return 1
    crossed "${before[@]}"
    stop_gateway
    wire="kernel UDP, veth, DPDK ${1%%0,*}, MTU 1500, $(pages) pages; mean frame $wire_frame_bytes bytes"
    idle=spin payload="messages of $(json message_bytes <"$shm/result.json") bytes"
}

peer_row() { # PEER, super | packets, then the client's options
    local peer=$1 mode=$2 before=() server=()
    shift 2
    veth "$mode"
    case $peer in
        quinn | s2n-quic) idle="tokio, sleeps in epoll" ;;
        # With larger windows these overflow the receiver's socket at times; tquic took half a minute over one such loss.
        *) idle="a loop of ours, sleeps in poll" server=(--receive-window "$LOOP_WINDOW_BYTES") ;;
    esac
    case " $* " in *" --busy "*) server+=(--busy) idle="tokio, never sleeps" ;; esac
    start_peer_server "$peer" "${server[@]}" || return 1
    read -r -a before <<<"$(sent)"
    peer_client "$peer" "$@" || return 1
    crossed "${before[@]}"
    stop_gateway
    case $mode in
        super) wire="kernel UDP over veth, GSO super-packets crossing whole" ;;
        packets) wire="kernel UDP over veth, cut to packets before they cross" ;;
    esac
    wire="$wire; mean frame $wire_frame_bytes bytes" payload="one stream, 1 MiB writes"
}

quinn_ping_row() { # [OPTION...]
    peer_row quinn super --round-trips "$TRIPS" "$@" || return 1
    payload="64 bytes there and back on one stream"
}

# A row named for whole super-packets, or for packets, is one only if that is what crossed.
check_frames() { # AT_LEAST AT_MOST
    [ "$wire_frame_bytes" -ge "$1" ] && [ "$wire_frame_bytes" -le "$2" ] && return
    say "mean frame of $wire_frame_bytes bytes, not $1 to $2: this is not the wire it should be"
    return 1
}

run_row() { # ROW; on failure nothing of it stays behind.
    local status=0
    case $1 in
        # The functions below see these as they stand here.
        plain-*)
            local stoq=$shm/plain/stoq gateway=$shm/plain/stoq-gateway pktgen=$shm/plain/stoq-pktgen build
            build=$(how_built "$shm/plain")
            run_row "${1#plain-}"
            return
            ;;
        unsummed-*)
            local UDP_CHECKSUM=false
            run_row "${1#unsummed-}"
            return
            ;;
    esac
    gateway_usage='{}' wire_frames=0 wire_frame_bytes=0
    : >"$shm/events"
    case $1 in
        quic-*) quic_row "${1#quic-}" ;;
        wire-*) wire_row "${1#wire-}" ;;
        handshakes-*) handshakes_row "${1#handshakes-}" ;;
        ping) ping_row ;;
        ping-load) TRIPS=$((TRIPS / 10)) ping_row --load 2 ;;
        put-tmpfs) put_row "$shm" "tmpfs" ;;
        put-disk) put_row "$disk" "$(stat -f -c %T "$disk")" ;;
        get-hot) get_row ;;
        get-piped) get_piped_row ;;
        get-direct) hop_row direct ;;
        get-hop) hop_row hop ;;
        trips-direct) hop_row direct --trips 20000 ;;
        trips-hop) hop_row hop --trips 20000 ;;
        get-hop-xdp) hop_row net_af_xdp0,iface=far ;;
        trips-hop-xdp) hop_row net_af_xdp0,iface=far --trips 20000 ;;
        holders-alive) holders_row alive ;;
        holders-dead) holders_row dead ;;
        af-xdp) user_space_row net_af_xdp0,iface=far && check_frames 1200 1514 ;;
        af-packet)
            user_space_row net_af_packet0,iface=far,blocksz=65536,framesz=2048,framecnt=2048,qdisc_bypass=1 &&
                check_frames 1200 1514
            ;;
        *-gso) peer_row "${1%-gso}" super --bytes "$BYTES" && check_frames 2000 65600 ;;
        *-packets) peer_row "${1%-packets}" packets --bytes "$BYTES" && check_frames 1200 1514 ;;
        quinn-ping) quinn_ping_row ;;
        quinn-ping-busy) quinn_ping_row --busy ;;
        *) goodput_row "$1" ;;
    esac || status=1
    [ -z "$pid" ] || stop_gateway
    [ ${#mesh_pids[@]} = 0 ] || mesh_down
    offloads=$(offloads) built_how=$build
    return $status
}

# A part of what the gateway's worker told at its end, as JSON: null of a peer, and of several gateways.
told() { # PATTERN OF ITS VALUE
    local found
    found=$(sed -n "s/^{\"event\":\"ended\".*$1.*/\1/p" "$shm/events")
    echo "${found:-null}"
}
# What it counted; drops are among it.
counters() { told '"counters":\({[^}]*}\)'; }
# Where it spent its time, in the turns that were sampled.
stages() { told '"stages":\({[^{]*{[^}]*}}\)'; }

# What the wire left to others: of a DPDK port what it said when it opened, of kernel sockets the segments of UDP.
offloads() {
    local granted=() said
    if [ -n "$(json rx_checksum <"$shm/events")" ]; then
        for said in rx_checksum tx_checksum rss; do granted+=("$(json $said <"$shm/events")"); done
    fi
    said=${granted[*]}
    case $wire:$said in
        none* | DPDK*:) echo "none" ;;
        kernel*relay\ on\ DPDK*) echo "relay: none; sockets: UDP GSO, cut before they cross" ;;
        *DPDK*:false\ false\ false) [ "$UDP_CHECKSUM" = true ] && echo "none" || echo "none; UDP checksums left out" ;;
        *DPDK*:?*)
            echo "receive checksum ${granted[0]}, transmit checksum ${granted[1]}, RSS ${granted[2]}"
            ;;
        *whole*) echo "UDP GSO and GRO, checksums left out" ;;
        *cut*) echo "UDP GSO to the link, GRO $VETH_GRO behind it" ;;
        *loopback*) echo "UDP GSO and GRO, checksums left out" ;;
        *) echo "not known" ;;
    esac
}

record() { # ROW ROUND
    printf '{"row":"%s","round":%d,"result":%s,"client":%s,"gateway":%s,"counters":%s,"stages":%s,"conditions":{"wire":"%s","idle":"%s","payload":"%s","cores":"gateway on %d, client on %d","offloads":"%s","build":"%s","wire_frames":%d}}\n' \
        "$1" "$2" "$(cat "$shm/result.json")" "$(cat "$shm/usage.json")" "$gateway_usage" "$(counters)" "$(stages)" "$wire" "$idle" "$payload" \
        "$GATEWAY_CORE" "$CLIENT_CORE" "$offloads" "$built_how" "$wire_frames" >>"$out"
}
