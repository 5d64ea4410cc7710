#!/usr/bin/env bash
# The main job, on one machine: a gateway and a client, each on its own DPDK port, joined by memif. A file is put, fetched
# back and compared.
#
#   scripts/run.sh [FILE]
#
# Without FILE, 256 MiB of this machine's own programs and libraries are put. Huge pages are used where they are free and the kernel allows
# them to this user, else normal pages. STOQ_MTU sets the MTU (1500); STOQ_HUGE_PAGES sets whether huge pages are used ("preferred";
# "required", "none"); STOQ_DIR names the directory of temporary files; STOQ_BUILT names a directory of executables to run instead of a new
# build.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib.sh

# How long the gateway may take until it serves, seconds: a hang ends, a busy machine does not fail.
PATIENCE_S=180

install "${BUILD_PACKAGES[@]}"
take_built
stoq=$built/stoq gateway=$built/stoq-gateway

mtu=${STOQ_MTU:-1500}
dir=$(mktemp -d "${STOQ_DIR:-${TMPDIR:-/tmp}}/stoq-run.XXXXXX")
reserved=
pid=
cleanup() {
    [ -z "$pid" ] || { kill "$pid" 2>/dev/null && wait "$pid" 2>/dev/null; } || true
    [ -z "$reserved" ] || echo "$reserved" >/proc/sys/vm/nr_hugepages
    rm -rf "$dir"
}
trap cleanup EXIT

file=${1:-}
if [ -z "$file" ]; then
    file=$dir/programs.tar
    say "taking 256 MiB of this machine's programs and libraries as the file"
    # SIGPIPE ends tar when head has read enough.
    (tar -cf - /usr/bin /usr/lib /usr/share "$built" 2>/dev/null || true) | head -c 268435456 >"$file"
fi
[ -f "$file" ] || die "$file is no file"
# The store's copy and the fetched one.
need_disk "$dir" $((2 * $(stat -Lc %s "$file") / 1048576 + 64)) "putting and getting $file" "name a directory elsewhere by STOQ_DIR"

if [ "$(id -u)" = 0 ] && [ "$(free_huge_mb)" -lt $HUGE_MB_RUN ]; then
    before=$(cat /proc/sys/vm/nr_hugepages)
    if echo $((before + 512)) 2>/dev/null >/proc/sys/vm/nr_hugepages; then reserved=$before; fi
fi

cores=$(nproc)
server_core=$((cores > 1 ? 1 : 0))
device="net_memif0,id=0,socket=$dir/memif.sock,socket-abstract=no,rsize=8"

say "making identities"
for who in gateway client; do "$stoq" identity new --name $who --cert "$dir/$who.pem" --key "$dir/$who.key" >"$dir/$who.id"; done

config() { # WHO PEER ROLE CORE ADDRESS
    cat <<TOML
[workers]
cores = [$4]
[network]
kind = "dpdk"
device = "$device,role=$3"
addresses = ["$5/24"]
mtu = $mtu
huge_pages = "${STOQ_HUGE_PAGES:-preferred}"
[identity]
certificate = "$1.pem"
key = "$1.key"
[trust]
node_ids = ["$(cat "$dir/$2.id")"]
[quic]
initial_udp_payload_bytes = 0
mtu_discovery = false
TOML
}
{ config gateway client server $server_core 10.77.0.1; cat <<TOML; } >"$dir/gateway.toml"
[[application]]
kind = "seed"
queues = [0]
directory = "store"
[[application]]
kind = "echo"
queues = [1]
[[application]]
kind = "discard"
queues = [2]
TOML
{ echo 'connect = "10.77.0.1:4433"'; config client gateway client 0 10.77.0.2; printf '[log]\nlevel = "warn"\n'; } >"$dir/client.toml"

# json KEY: the value of a key of the JSON object on standard input.
json() { sed -n "s/.*\"$1\":\"\{0,1\}\([^,\"}]*\).*/\1/p"; }
fail() { printf 'the gateway said:\n%s\n' "$(tail -n 20 "$dir/gateway.log")" >&2; die "$1"; }
say "starting the gateway on core $server_core; the client will be on core 0"
mkfifo "$dir/events"
"$gateway" run --json --config "$dir/gateway.toml" >"$dir/events" 2>"$dir/gateway.log" &
pid=$!
# Its first event says that it serves; there is none when it ends before.
exec {events}<"$dir/events"
read -r -t $PATIENCE_S -u "$events" up || fail "the gateway does not serve"

say "putting $file"
put=$("$stoq" put "$file" --config "$dir/client.toml" --json) || fail "the put failed"
token=$(json token <<<"$put")
say "getting $token"
get=$("$stoq" get "$token" -o "$dir/fetched" --config "$dir/client.toml" --json) || fail "the get failed"

here=$("$stoq" token "$file")
there=$("$stoq" token "$dir/fetched")
{ [ "$here" = "$there" ] && cmp -s "$file" "$dir/fetched"; } || die "what came back is not what was put"

pages=normal
[ "$(json huge_pages <<<"$up")" != true ] || pages=huge
printf '%s bytes, verified, over DPDK %s (memory shared by two processes on this host, no NIC), MTU %s, %s pages, 1 core a side, %s, put %.2f Gbit/s (store on %s, with fsync), get %.2f Gbit/s\n' \
    "$(json bytes <<<"$put")" "$(json driver <<<"$put")" "$(json mtu <<<"$put")" "$pages" "$(json cipher <<<"$put")" \
    "$(json gbit_per_s <<<"$put")" "$(stat -f -c %T "$dir")" "$(json gbit_per_s <<<"$get")"
