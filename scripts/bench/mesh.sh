# The rows of scripts/bench/run.sh that need more than one gateway: kernel UDP on loopback, packets of 1,472 bytes, one process a
# gateway. Sourced, never run. Gateways are a relay and the holders 1 to 4.

MESH_HOLDERS="1 2 3 4"
mesh_pids=()

mesh_identities() {
    local who
    [ ! -f "$shm/holder4.id" ] || return 0
    for who in relay holder1 holder2 holder3 holder4; do
        "$stoq" identity new --name "$who" --cert "$shm/$who.pem" --key "$shm/$who.key" >"$shm/$who.id"
    done
}

mesh_port() { case $1 in relay) echo 5500 ;; *) echo $((5500 + ${1#holder})) ;; esac; }

mesh_config() { # WHO CORE
    local who
    cat <<TOML
[workers]
cores = [$2]
idle = "$STORE_IDLE"
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
initial_window_bytes = 4194304
TOML
    for who in relay holder1 holder2 holder3 holder4; do
        [ "$who" = "$1" ] || cat <<TOML
[[neighbor]]
name = "$who"
node_id = "$(cat "$shm/$who.id")"
addresses = ["127.0.0.1:$(mesh_port "$who")"]
TOML
    done
}

mesh_gateway() { # WHO CORE
    { mesh_config "$1" "$2"
      printf '[network]\nkind = "kernel-udp"\nlisten = ["127.0.0.1:%d"]\nbuffer_bytes = %d\n' "$(mesh_port "$1")" $SOCKET_BYTES
      gateway_applications "$shm/store-$1"; } >"$shm/$1.toml"
    taskset -c "$2" "$gateway" run --config "$shm/$1.toml" 2>"$shm/$1.log" &
    mesh_pids+=($!)
    (wait_for 20 "gateway ready" "$shm/$1.log" $!)
}

# Starts these gateways, holders on the client's core, the relay alone on the other.
mesh_up() { # WHO...
    local who
    mesh_identities
    : >"$shm/gateway.log"
    { echo "gateway = \"127.0.0.1:$(mesh_port "$1")\""
      mesh_config client $CLIENT_CORE
      printf '[network]\nkind = "kernel-udp"\nlisten = ["127.0.0.1:0"]\nbuffer_bytes = %d\n' $SOCKET_BYTES; } >"$shm/client.toml"
    for who in "$@"; do
        case $who in relay) mesh_gateway relay $GATEWAY_CORE ;; *) mesh_gateway "$who" "$MESH_CORE" ;; esac || return 1
    done
}

mesh_down() {
    local each
    for each in "${mesh_pids[@]}"; do end "$each" || true; done
    mesh_pids=()
    rm -rf "$shm"/store-* "$shm/got"
}

mesh_wire() { wire="kernel UDP on loopback, packets of 1472 bytes" idle=$STORE_IDLE; }

# A payload at holder 1, fetched and dropped: from it, or by way of the relay.
hop_row() { # direct | hop, then the options of the bench
    local way=$1 token via=()
    shift
    MESH_CORE=$CLIENT_CORE
    mesh_up holder1 && { [ "$way" = direct ] || mesh_gateway relay $GATEWAY_CORE; } || return 1
    stoq_client put "$shm/payload" || return 1
    token=$(json token <"$shm/result.json")
    if [ "$way" = hop ]; then
        sed -i "s/^gateway = .*/gateway = \"127.0.0.1:$(mesh_port relay)\"/" "$shm/client.toml"
        via=(--via holder1)
    fi
    # The first brings the payload into the holder's memory.
    stoq_client bench --get "$token" "${via[@]}" && stoq_client bench --get "$token" "${via[@]}" "$@" || return 1
    mesh_down
    mesh_wire
    payload="one payload of $PAYLOAD bytes, fetched, checked, dropped; holder and client share core $CLIENT_CORE"
    case $way in
        direct) payload="$payload; no relay" ;;
        hop) payload="$payload, the relay has core $GATEWAY_CORE" ;;
    esac
    case " $* " in *" --trips "*) payload="${payload/one payload of $PAYLOAD bytes/16 KiB at a time}" ;; esac
}

# Lanes of a 3+1 set at four holders, one each; all alive, or one killed.
holders_row() { # alive | dead
    local set_token lane=0 who
    MESH_CORE=$GATEWAY_CORE
    mesh_up holder1 holder2 holder3 holder4 || return 1
    for who in holder1 holder2 holder3 holder4; do
        sed -i "s/^gateway = .*/gateway = \"127.0.0.1:$(mesh_port $who)\"/" "$shm/client.toml"
        stoq_client put "$shm/payload" --shards 3+1 --lanes $lane || return 1
        lane=$((lane + 1))
    done
    set_token=$(json set <"$shm/result.json")
    rm -f "$shm/got"
    if [ "$1" = dead ]; then
        kill -9 "${mesh_pids[1]}"
        wait "${mesh_pids[1]}" 2>/dev/null || true
    fi
    stoq_client get "$set_token" -o "$shm/got" --from holder1,holder2,holder3,holder4 || return 1
    cmp "$shm/payload" "$shm/got" || return 1
    mesh_down
    mesh_wire
    payload="one file of $PAYLOAD bytes, one lane of a 3+1 set at each of four holders, which share core $GATEWAY_CORE; to a file on tmpfs"
    [ "$1" = alive ] || payload="$payload; the holder of a data lane killed before"
}
