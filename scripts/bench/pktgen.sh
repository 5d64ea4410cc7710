#!/usr/bin/env bash
# Drives a gateway's port with load in packets a second and searches for the rates that it takes: NDR (no loss) and PDR (0.5 %
# loss), in the way of RFC 2544 and MLRsearch, for the drop path, the handshake path and the goodput path. Needs root and two
# cores that nobody else uses.
#
#   scripts/bench/pktgen.sh            every row
#   scripts/bench/pktgen.sh ROW...     these rows alone
#
# Rows: ceiling flowgen drop-64 drop-512 drop-1518 drop-imix initials replay handshakes goodput pktgen-dpdk. docs/pktgen.md says
# what each is. Load is made by dpdk-testpmd (ceiling, flowgen), by Pktgen-DPDK with the Lua profiles in benches/pktgen/ (pktgen-dpdk,
# passed over where there is no `pktgen`), and by stoq-pktgen (the rest). Prints a section of Markdown.
#
# Environment: SECONDS_FULL of a trial that counts (5) and SECONDS_SHORT of one that narrows (1); WIDTH, how far the bounds may lie
# apart (0.05); ROUNDS of the ceiling (5); RSIZE, the binary logarithm of memif's ring length (10); OUT, the file of JSON lines
# (pktgen.jsonl beside the release build); STOQ_BUILT, a directory of executables to measure instead of a new build.
set -euo pipefail
cd "$(dirname "$0")/../.."
. scripts/lib.sh

ALL="ceiling flowgen drop-64 drop-512 drop-1518 drop-imix initials replay handshakes goodput pktgen-dpdk"
rows=("$@")
[ $# -gt 0 ] || read -r -a rows <<<"$ALL"
for row in "${rows[@]}"; do
    case " $ALL " in *" $row "*) ;; *) die "no row \"$row\"; rows: $ALL" ;; esac
done
RSIZE=${RSIZE:-10} ROUNDS=${ROUNDS:-5}
GATEWAY_CORE=1 CLIENT_CORE=0
DPDK_MB=256
GATEWAY_MAC=02:00:00:00:00:01

[ "$(id -u)" = 0 ] || die "the benchmarks need root: they make DPDK ports"
[ "$(nproc)" -ge 2 ] || die "the benchmarks need two cores, one a side"
install "${BUILD_PACKAGES[@]}" "${BENCH_PACKAGES[@]}"
take_built
out=${OUT:-$built/pktgen.jsonl}

shm=$(mktemp -d /dev/shm/stoq-pktgen.XXXXXX)
python='' reserved=''
cleanup() {
    trap - EXIT INT TERM
    [ -z "$python" ] || { kill "$python" 2>/dev/null && wait "$python" 2>/dev/null; } || true
    [ -z "$reserved" ] || echo "$reserved" >/proc/sys/vm/nr_hugepages
    rm -rf "$shm"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

# Copies: a build that goes on meanwhile does not change what is measured.
cp "$built/stoq" "$built/stoq-gateway" "$built/stoq-pktgen" "$shm/"
stoq=$shm/stoq

# Two processes' DPDK; testpmd takes less.
need_mb=$((2 * DPDK_MB))
if [ "$(free_huge_mb)" -lt $need_mb ]; then
    before=$(cat /proc/sys/vm/nr_hugepages)
    if echo $((before + need_mb / 2)) 2>/dev/null >/proc/sys/vm/nr_hugepages; then reserved=$before; fi
fi

. scripts/bench/rows.sh
build=$(how_built "$built") UDP_CHECKSUM=true
new_identities "$shm" gateway client
memif_configs 1500 spin "$RSIZE"
# testpmd asks nobody for a station address.
sed -i "s/role=server,/role=server,mac=$GATEWAY_MAC,/" "$shm/gateway.toml"
printf '[log]\nlevel = "warn"\n' >>"$shm/client.toml"
# What a client may have on its way at the end of a trial is small beside the trial: the rest is refused, and so counted.
sed 's/^send_window_bytes = .*/send_window_bytes = 1048576/' "$shm/client.toml" >"$shm/goodput.toml"

mkdir -p "$(dirname "$out")"
ROUNDS=$ROUNDS environment >"$out"
PYTHONPATH=scripts PYTHONDONTWRITEBYTECODE=1 python3 scripts/bench/pktgen.py --dir "$shm" --out "$out" --rsize "$RSIZE" --rounds "$ROUNDS" \
    --profiles benches/pktgen --seconds "${SECONDS_FULL:-5}" --short "${SECONDS_SHORT:-1}" --width "${WIDTH:-0.05}" "${rows[@]}" &
python=$!
status=0
wait $python || status=$?
python=

say "wrote $out"
[ $status = 0 ]
