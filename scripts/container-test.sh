#!/usr/bin/env bash
# The container: builds the image around the binaries of the release build, starts a gateway in it, not root and not privileged, with huge
# pages, and puts and gets from outside: through memif, and through net_af_packet from a client on kernel sockets. Starts a Docker
# engine of its own, which meets no other, and stops it again.
#
# Tested is packaging/Dockerfile.prebuilt on the base of Dockerfile. The stage that compiles needs an image with Rust (BUILD_IMAGE).
# STOQ_BASE names a tar archive of a Debian root to build on; without it debootstrap makes one. Needs root and a release build.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib.sh
need_root "it starts a Docker engine and makes a network namespace"
needed
install "${CONTAINER_PACKAGES[@]}"
need_huge $HUGE_MB_CONTAINER "the container"
need_namespaces
need_containers
needed

target=$(realpath "${CARGO_TARGET_DIR:-target}")/release
stoq=$target/stoq
[ -x "$target/stoq-gateway" ] || die "no release build: cargo build --release"

name=stoq-container-$$ near=stqc$$ far=stqd$$
dir=$(mktemp -d "/tmp/$name.XXXXXX")
engine=
# The client of Debian's package, whatever else bears its name.
docker() { /usr/bin/docker --host "unix://$dir/docker.sock" "$@"; }
cleanup() {
    if [ -n "$engine" ]; then
        docker ps -aq 2>/dev/null | xargs -r /usr/bin/docker --host "unix://$dir/docker.sock" rm -f >/dev/null 2>&1 || true
        { kill "$engine" 2>/dev/null && wait "$engine" 2>/dev/null; } || true
    fi
    # The engine leaves the namespace of its host network mounted.
    umount "$dir"/exec/netns/* 2>/dev/null || true
    ip link delete "$near" 2>/dev/null || true
    ip netns delete "$name" 2>/dev/null || true
    rm -rf "$dir"
}
trap cleanup EXIT

base=${STOQ_BASE:-$dir/base.tar}
debian_base "$base"

say "a Docker engine of its own"
# Neither bridges nor rules of the machine's firewall: builds use the host's network, containers what is put into them.
dockerd --host "unix://$dir/docker.sock" --data-root "$dir/data" --exec-root "$dir/exec" --pidfile "$dir/docker.pid" \
    --bridge=none --iptables=false --ip6tables=false >"$dir/docker.log" 2>&1 &
engine=$!
until=$((SECONDS + PATIENCE_S))
until docker version >/dev/null 2>&1; do
    { kill -0 "$engine" 2>/dev/null && [ $SECONDS -lt $until ]; } || { tail "$dir/docker.log" >&2; die "the Docker engine did not start"; }
    sleep 0.1
done

say "the image"
docker import "$base" debian-base >/dev/null
mkdir -p "$dir/context/bin"
command install --strip --target-directory="$dir/context/bin" "$target/stoq" "$target/stoq-gateway" "$target/stoq-pktgen"
build() { DOCKER_BUILDKIT=0 docker build --network host "$@" >"$dir/build.log" 2>&1 || { tail -n 30 "$dir/build.log" >&2; die "the image was not built"; }; }
build --target base --build-arg BASE_IMAGE=debian-base --tag stoq-base .
build --build-arg BASE_IMAGE=stoq-base --tag stoq --file packaging/Dockerfile.prebuilt "$dir/context"
docker image inspect stoq --format 'image: user {{.Config.User}}, entry {{.Config.Entrypoint}}, {{.Size}} bytes'
[ "$(docker image inspect stoq --format '{{.Config.User}}')" = 10001:10001 ] || die "the image's user is not the ordinary one"

# What the container's user reads and writes; the memif socket lies in run.
mkdir -p "$dir"/{etc,store,run}
new_identities "$dir" gateway client
mv "$dir/gateway.pem" "$dir/gateway.key" "$dir/etc"
head -c 67108864 /dev/urandom >"$dir/file"

configure() { # DEVICE ADDRESS
    cat >"$dir/etc/gateway.toml" <<TOML
[network]
kind = "dpdk"
device = "$1"
addresses = ["$2/24"]
huge_pages = "required"
[admin]
listen = "127.0.0.1:9464"
$(identity_toml gateway client)
[[application]]
kind = "seed"
queues = [0]
directory = "/var/lib/stoq"
memory_bytes = 134217728
TOML
    chown -R 10001:10001 "$dir/etc" "$dir/store" "$dir/run"
}

# started NAME: until the engine finds the gateway healthy, by asking it; it must be an ordinary user and lie in huge pages.
started() {
    local until=$((SECONDS + PATIENCE_S)) pid
    while docker logs "$1" >"$dir/$1.log" 2>&1 && [ "$(docker inspect "$1" --format '{{.State.Health.Status}}')" != healthy ]; do
        { [ "$(docker inspect "$1" --format '{{.State.Running}}')" = true ] && [ $SECONDS -lt $until ]; } ||
            { cat "$dir/$1.log" >&2; docker inspect "$1" --format '{{json .State.Health}}' >&2; die "the gateway in $1 is not healthy"; }
        sleep 0.1
    done
    grep -q 'pages=Huge' "$dir/$1.log" || { cat "$dir/$1.log" >&2; die "no huge pages in $1"; }
    pid=$(docker inspect "$1" --format '{{.State.Pid}}')
    grep -qE '^Uid:\s+10001\s+10001' "/proc/$pid/status" || die "the gateway in $1 is not the user 10001"
    [ "$(docker inspect "$1" --format '{{.HostConfig.Privileged}}')" = false ] || die "$1 is privileged"
    printf '%s: user 10001, capabilities %s, huge pages\n' "$1" "$(awk '/^CapEff/{print $2}' "/proc/$pid/status")"
}

# ended NAME: it must stop in order at SIGTERM.
ended() {
    docker stop --time 20 "$1" >/dev/null
    [ "$(docker inspect "$1" --format '{{.State.ExitCode}}')" = 0 ] || { docker logs "$1" >&2; die "$1 did not end in order"; }
    docker rm "$1" >/dev/null
}

# What every gateway is run with: a read-only image, and no capability but those that follow. SYS_NICE is none that the gateway gets:
# its file does not carry it. The engine's system call filter lets DPDK ask where its memory lies only where that is named.
common=(--detach --health-interval 500ms --read-only --cap-drop ALL --cap-add SYS_NICE --tmpfs /tmp
    --volume "$dir/etc:/etc/stoq:ro" --volume "$dir/store:/var/lib/stoq" --volume "$dir/run:/run/stoq")

say "memif: the gateway in a container without a network and without capabilities"
configure "net_memif0,role=server,id=0,socket=/run/stoq/memif.sock,socket-abstract=no,rsize=11" 10.79.0.1
docker run "${common[@]}" --name memif --network none --security-opt no-new-privileges stoq >/dev/null
started memif
[ "$(awk '/^CapEff/{print $2}' "/proc/$(docker inspect memif --format '{{.State.Pid}}')/status")" = 0000000000000000 ] ||
    die "the gateway has capabilities that its container lacks"
# It lives, and is not ready: a memif link is up only while a client is there.
! docker exec memif stoq-gateway health 2>"$dir/health" || die "ready without a link"
grep -q 'not ready: ' "$dir/health" || { cat "$dir/health" >&2; die "not the answer that was expected"; }
cat >"$dir/client.toml" <<TOML
connect = "10.79.0.1:4433"
[network]
kind = "dpdk"
device = "net_memif0,role=client,id=0,socket=$dir/run/memif.sock,socket-abstract=no,rsize=11"
addresses = ["10.79.0.2/24"]
$(identity_toml client gateway)
[quic]
initial_udp_payload_bytes = 0
[log]
level = "warn"
TOML
token=$("$stoq" put "$dir/file" --config "$dir/client.toml")
"$stoq" get "$token" -o "$dir/got-memif" --config "$dir/client.toml"
cmp "$dir/file" "$dir/got-memif"
# No gateway is there, so health must fail.
! docker exec memif stoq-gateway health --url http://127.0.0.1:1/readyz 2>/dev/null || die "ready without a gateway"
ended memif

say "net_af_packet: the gateway in a container with one end of a cable, the client on kernel sockets at the other"
ip netns add "$name"
ip link add "$near" type veth peer name "$far" netns "$name"
# The kernel leaves checksums and segmentation to the NIC behind a veth; a user-space port needs both done.
ethtool -K "$near" tx off rx off tso off gso off gro off >/dev/null
ip netns exec "$name" ethtool -K "$far" tx off rx off tso off gso off gro off >/dev/null
# A container that only holds the network, as a pod's does: the cable must be there before the gateway starts.
docker run --detach --name network --network none --no-healthcheck --entrypoint sleep stoq infinity >/dev/null
inside=$(docker inspect network --format '{{.State.Pid}}')
ip link set "$near" netns "$inside" name port0
nsenter --target "$inside" --net ip link set port0 up
ip netns exec "$name" ip addr add 10.79.1.2/24 dev "$far"
ip netns exec "$name" ip link set "$far" up
configure "net_af_packet0,iface=port0,blocksz=65536,framesz=2048,framecnt=2048,qdisc_bypass=1" 10.79.1.1
docker run "${common[@]}" --name af-packet --network container:network --cap-add NET_RAW --cap-add NET_ADMIN stoq >/dev/null
started af-packet
docker exec af-packet stoq-gateway health
client=(ip netns exec "$name" "$stoq")
options=(-g 10.79.1.1:4433 --cert "$dir/client.pem" --key "$dir/client.key" --node-id "$(cat "$dir/gateway.id")")
# Bytes of its own: what is kept already would not cross again.
head -c 65536 /dev/urandom >>"$dir/file"
token=$("${client[@]}" put "$dir/file" "${options[@]}")
"${client[@]}" get "$token" -o "$dir/got-af-packet" "${options[@]}"
cmp "$dir/file" "$dir/got-af-packet"
ended af-packet
docker rm -f network >/dev/null

say "$(stat -c %s "$dir/file") bytes went into a container and came back the same, through memif and through net_af_packet"
