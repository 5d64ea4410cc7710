#!/usr/bin/env bash
# Reads of payloads that are not in memory, beside fio on the same files: one cold get and one hot, four cold gets together, a hot one beside
# four cold ones. Over kernel UDP on loopback, without a root's rights; only the caches of the payloads' own files are given up.
# Usage: scripts/bench/cold.sh [DIRECTORY [MIB]]: the store is made below DIRECTORY (the one of temporary files), of five payloads of MIB (512) each.
# Needs fio, and target/release/stoq and stoq-gateway, or those in $STOQ_BIN. Compare the figures of one run only.
set -euo pipefail
bin=${STOQ_BIN:-target/release}
mib=${2:-512}
command -v fio > /dev/null || { echo "fio is missing: apt-get install fio" >&2; exit 1; }
bin=$(cd "$bin" && pwd)
dir=$(mktemp -d -p "${1:-${TMPDIR:-/tmp}}")
gateway=
stop() {
    if [[ -n $gateway ]]; then
        kill "$gateway" || true
        wait "$gateway" || true
        gateway=
    fi
}
trap 'stop; rm -rf "$dir"' EXIT
cd "$dir"

node=$("$bin/stoq" identity new --cert gateway.pem --key gateway.key)
client=$("$bin/stoq" identity new --cert client.pem --key client.key)
port=$(python3 -c 'import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
cat > gateway.toml << TOML
[network]
kind = "kernel-udp"
listen = ["127.0.0.1:$port"]
[identity]
certificate = "$dir/gateway.pem"
key = "$dir/gateway.key"
[trust]
node_ids = ["$client"]
[log]
level = "warn"
[[application]]
kind = "seed"
queues = [0]
directory = "$dir/store"
memory_bytes = $(((mib + 64) << 20))
TOML

stoq() { "$bin/stoq" "$@" --gateway "127.0.0.1:$port" --cert client.pem --key client.key --node-id "$node"; }

# A gateway with nothing in its memory tier.
start() {
    stop
    "$bin/stoq-gateway" run --config gateway.toml > gateway.out 2>> gateway.log &
    gateway=$!
    until stoq ping --count 1 > /dev/null 2>&1; do kill -0 "$gateway"; done
}

# The payloads' files leave the page cache.
forget() {
    local file
    for file in store/data/*/*; do
        dd if="$file" iflag=nocache count=0 status=none
    done
}

# Gets all of these payloads at once; prints the seconds until the last is whole.
get() {
    local begun token waits=()
    begun=$(date +%s.%N)
    for token in "$@"; do
        stoq get "$token" -o - > /dev/null 2>> get.log &
        waits+=($!)
    done
    for token in "${waits[@]}"; do
        wait "$token"
    done
    echo "$(date +%s.%N) - $begun" | bc
}

row() { # name, payloads, seconds
    python3 -c 'import sys; name, count, mib, s = sys.argv[1], *map(float, sys.argv[2:]); print(f"{name:<46} {count * mib * 1.048576 / s:8.0f} MB/s")' "$1" "$2" "$mib" "$3"
}

start
tokens=()
for _ in 1 2 3 4 5; do
    head -c "$((mib << 20))" /dev/urandom > put
    tokens+=("$(stoq put put 2>> put.log)")
done
rm put
echo "load average $(cut -d ' ' -f 1 /proc/loadavg), $(nproc) cores, $mib MiB a payload, $(stat -f -c %T store)"
for round in 1 2 3; do
    start
    forget
    row "cold get" 1 "$(get "${tokens[0]}")"
    row "hot get" 1 "$(get "${tokens[0]}")"
    start
    forget
    row "four cold gets together" 4 "$(get "${tokens[@]:0:4}")"
    forget
    files=$(printf ':%s' store/data/*/*.blob)
    fio --name=reads --filename="${files:1}" --file_service_type=sequential --rw=read --bs=2M --iodepth=20 --direct=1 --ioengine=io_uring \
        --size="$((mib * 5))M" --readonly --output-format=json > fio.json
    python3 -c 'import json; print(f"{"fio, io_uring, 2 MiB, 20 deep":<46} {json.load(open("fio.json"))["jobs"][0]["read"]["bw_bytes"] / 1e6:8.0f} MB/s")'
    start
    get "${tokens[4]}" > /dev/null
    forget
    get "${tokens[@]:0:4}" > cold.seconds &
    beside=$!
    row "hot get beside four cold ones" 1 "$(get "${tokens[4]}")"
    wait "$beside"
    row "these four" 4 "$(cat cold.seconds)"
    echo "round $round"
done
