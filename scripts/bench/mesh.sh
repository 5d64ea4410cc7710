# shellcheck shell=bash
# Variables are set by the script that sources this, and read by it.
# shellcheck disable=SC2034,SC2154,SC2153
# The rows of scripts/bench/run.sh that need more than one gateway: kernel UDP on loopback, packets of 1,472 bytes, one process a
# gateway. Sourced, never run. Gateways are a relay and the holders 1 to 4. Where $mesh_relay_device names a DPDK device, the relay
# has it at the far end of a veth pair, and everyone else is a kernel UDP socket at the near end.

mesh_pids=()
mesh_relay_device=

mesh_port() { case $1 in relay) echo 4433 ;; client) echo 0 ;; *) echo $((5500 + ${1#holder})) ;; esac; }
mesh_address() { # WHO
    case $mesh_relay_device:$1 in
        :*) echo "127.0.0.1:$(mesh_port "$1")" ;;
        *:relay) echo "10.78.0.1:$(mesh_port relay)" ;;
        *) echo "10.78.0.2:$(mesh_port "$1")" ;;
    esac
}
# Leaves in $inside the command before a process that puts it into the namespace of everyone's sockets.
mesh_inside() { inside=(); [ -z "$mesh_relay_device" ] || inside=(ip netns exec "$near"); }

mesh_config() { # WHO CORE
    local who idle=$STORE_IDLE
    # Nobody shares the relay's core.
    [ "$1" != relay ] || idle=spin
    cat <<TOML
[workers]
cores = [$2]
idle = "$idle"
[identity]
certificate = "$shm/$1.pem"
key = "$shm/$1.key"
[trust]
node_ids = [$(for who in client relay holder1 holder2 holder3 holder4; do printf '"%s", ' "$(cat "$shm/$who.id")"; done)]
[quic]
initial_mtu = 1472
mtu_discovery = false
stream_receive_window_bytes = 67108864
receive_window_bytes = 134217728
send_window_bytes = 67108864
initial_congestion_window_bytes = 4194304
TOML
    for who in relay holder1 holder2 holder3 holder4; do
        [ "$who" = "$1" ] || cat <<TOML
[[gateway]]
name = "$who"
node_id = "$(cat "$shm/$who.id")"
addresses = ["$(mesh_address "$who")"]
TOML
    done
}

mesh_sockets() { # WHO
    printf '[network]\nkind = "kernel-udp"\nlisten = ["%s"]\nbuffer_bytes = %d\n' "$(mesh_address "$1")" "$SOCKET_BYTES"
}

mesh_gateway() { # WHO CORE
    local inside=() network=(mesh_sockets "$1")
    case $mesh_relay_device:$1 in
        :*) ;;
        *:relay) inside=(ip netns exec "$far") network=(dpdk_network "$mesh_relay_device" 10.78.0.1 1500) ;;
        *) inside=(ip netns exec "$near") ;;
    esac
    { mesh_config "$1" "$2"
      "${network[@]}"
      gateway_applications "$shm/store-$1"; } >"$shm/$1.toml"
    "${inside[@]}" taskset -c "$2" "$gateway" run --json --config "$shm/$1.toml" >"$shm/$1.events" 2>"$shm/$1.log" &
    mesh_pids+=($!)
    (wait_up $! "$shm/$1.events" "$shm/$1.log")
}

# Starts these gateways, holders on the client's core, the relay alone on the other.
mesh_up() { # WHO...
    local who
    [ -f "$shm/holder4.id" ] || new_identities "$shm" relay holder1 holder2 holder3 holder4
    : >"$shm/gateway.log"
    { echo "connect = \"$(mesh_address "$1")\""
      mesh_config client "$CLIENT_CORE"
      mesh_sockets client; } >"$shm/client.toml"
    for who in "$@"; do
        case $who in relay) mesh_gateway relay "$GATEWAY_CORE" ;; *) mesh_gateway "$who" "$MESH_CORE" ;; esac || return 1
    done
}

mesh_down() {
    local each
    for each in "${mesh_pids[@]}"; do end "$each" || true; done
    mesh_pids=()
    rm -rf "$shm"/store-* "$shm/got"
}

mesh_wire() {
    wire="kernel UDP on loopback, packets of 1472 bytes" idle=$STORE_IDLE
    [ -z "$mesh_relay_device" ] || wire="kernel UDP on both sides of a relay on DPDK ${mesh_relay_device%%0,*}, veth, MTU 1500"
}

mesh_client() {
    local inside
    mesh_inside
    client "${inside[@]}" taskset -c "$CLIENT_CORE" "$stoq" "$@" --config "$shm/client.toml" --json
}

# A payload at holder 1, fetched and dropped: from it, or by way of the relay.
hop_row() { # direct | hop | the DPDK device of the relay, then the options of the bench
    local way=$1 token via=() mesh_relay_device=
    shift
    case $way in
        direct | hop) ;;
        *) mesh_relay_device=$way way=hop && veth checksummed ;;
    esac
    MESH_CORE=$CLIENT_CORE
    mesh_up holder1 && { [ "$way" = direct ] || mesh_gateway relay "$GATEWAY_CORE"; } || return 1
    mesh_client put "$shm/payload" || return 1
    token=$(json token <"$shm/result.json")
    if [ "$way" = hop ]; then
        sed -i "s/^connect = .*/connect = \"$(mesh_address relay)\"/" "$shm/client.toml"
        via=(--via holder1)
    fi
    # The first brings the payload into the holder's memory.
    mesh_client bench --get "$token" "${via[@]}" && mesh_client bench --get "$token" "${via[@]}" "$@" || return 1
    mesh_down
    mesh_wire
    payload="one payload of $PAYLOAD bytes, fetched, checked, dropped; holder and client share core $CLIENT_CORE"
    case $way in
        direct) payload="$payload; no relay" ;;
        hop) payload="$payload, the relay has core $GATEWAY_CORE and spins" ;;
    esac
    case " $* " in *" --trips "*) payload="${payload/one payload of $PAYLOAD bytes/16 KiB at a time}" ;; esac
}

# Lanes of a 3+1 set at four holders, one each; all alive, or one killed.
holders_row() { # alive | dead
    local set_token lane=0 who
    MESH_CORE=$GATEWAY_CORE
    mesh_up holder1 holder2 holder3 holder4 || return 1
    for who in holder1 holder2 holder3 holder4; do
        sed -i "s/^connect = .*/connect = \"$(mesh_address $who)\"/" "$shm/client.toml"
        mesh_client put "$shm/payload" --shards 3+1 --lanes $lane || return 1
        lane=$((lane + 1))
    done
    set_token=$(json set <"$shm/result.json")
    rm -f "$shm/got"
    if [ "$1" = dead ]; then
        kill -9 "${mesh_pids[1]}"
        wait "${mesh_pids[1]}" 2>/dev/null || true
    fi
    mesh_client get "$set_token" -o "$shm/got" --from holder1,holder2,holder3,holder4 || return 1
    cmp "$shm/payload" "$shm/got" || return 1
    mesh_down
    mesh_wire
    payload="one file of $PAYLOAD bytes, one lane of a 3+1 set at each of four holders, which share core $GATEWAY_CORE; to a file on tmpfs"
    [ "$1" = alive ] || payload="$payload; the holder of a data lane killed before"
}
