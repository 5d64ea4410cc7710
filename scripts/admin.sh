#!/usr/bin/env bash
# The admin endpoint as operators use it: a gateway over kernel sockets with traffic, a real Prometheus that scrapes it over TLS with a
# token, the rules and the dashboard asked against what was scraped, `top`, and the status page in a headless Chromium.
#
#   scripts/admin.sh [SCREENSHOT.png]
#
# STOQ_BUILT names a directory with stoq and stoq-gateway; without it they are built. Prometheus and Chromium come from Debian.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib.sh

# Debian's packages would start a Prometheus of their own where there is systemd: only its programs are wanted.
install $ADMIN_PACKAGES
if [ -z "${STOQ_BUILT:-}" ]; then
    install $BUILD_PACKAGES
    need_rust
    say "building"
    cargo build --release --locked --quiet --no-default-features
    STOQ_BUILT=${CARGO_TARGET_DIR:-target}/release
fi
stoq=$(realpath "$STOQ_BUILT/stoq") gateway=$(realpath "$STOQ_BUILT/stoq-gateway")
shot=${1:-}

say "rules, configuration, and the rules' own tests"
promtool check rules configs/prometheus-alerts.yml
(cd configs && promtool check config prometheus.yml >/dev/null)
promtool test rules tests/prometheus-alerts.yml

dir=$(mktemp -d "${TMPDIR:-/tmp}/stoq-admin.XXXXXX")
pids=()
cleanup() {
    for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
    for pid in "${pids[@]}"; do wait "$pid" 2>/dev/null || true; done
    rm -rf "$dir"
}
trap cleanup EXIT

# free_port tcp|udp: one that nobody has now.
free_port() {
    python3 -c 'import socket,sys
s = socket.socket(type=socket.SOCK_STREAM if sys.argv[1] == "tcp" else socket.SOCK_DGRAM)
s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])' "$1"
}
port=$(free_port udp) admin=$(free_port tcp) open=$(free_port tcp) scraper=$(free_port tcp)

say "identities, a certificate for the endpoint, a token"
new_identities "$dir" gateway client
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=127.0.0.1 \
    -addext subjectAltName=IP:127.0.0.1 -addext basicConstraints=critical,CA:FALSE -keyout "$dir/admin.key" -out "$dir/admin.pem" 2>/dev/null
openssl rand -hex 32 >"$dir/admin.token"

config() { # PORT STORE ADMIN-SECTION
    cat <<TOML
[workers]
count = 2
[network]
kind = "kernel-udp"
listen = ["127.0.0.1:$1"]
$(identity_toml gateway client)
[[application]]
kind = "seed"
queues = [0]
directory = "$2"
capacity_bytes = 1073741824
[[application]]
kind = "echo"
queues = [1]
[[application]]
kind = "discard"
queues = [2]
[admin]
$3
TOML
}
start() { # NAME
    "$gateway" run --config "$dir/$1.toml" 2>"$dir/$1.log" &
    pids+=($!)
    wait_for $PATIENCE_S "gateway ready" "$dir/$1.log" $!
}
# One that is guarded, for Prometheus; one that is open on loopback, for the browser.
config "$port" guarded "listen = \"127.0.0.1:$admin\"
certificate = \"admin.pem\"
key = \"admin.key\"
token_file = \"admin.token\"" >"$dir/guarded.toml"
config "$(free_port udp)" open "listen = \"127.0.0.1:$open\"" >"$dir/open.toml"
start guarded
start open

say "Prometheus"
cat >"$dir/prometheus.yml" <<YAML
global: { scrape_interval: 1s, evaluation_interval: 1s }
rule_files: ["$PWD/configs/prometheus-alerts.yml"]
scrape_configs:
  - job_name: stoq
    scheme: https
    tls_config: { ca_file: "$dir/admin.pem" }
    authorization: { credentials_file: "$dir/admin.token" }
    static_configs: [{ targets: ["127.0.0.1:$admin"] }]
YAML
promtool check config "$dir/prometheus.yml" >/dev/null
prometheus --config.file="$dir/prometheus.yml" --storage.tsdb.path="$dir/tsdb" --web.listen-address="127.0.0.1:$scraper" \
    --log.level=warn 2>"$dir/prometheus.log" &
pids+=($!)

say "traffic"
client=(--cert "$dir/client.pem" --key "$dir/client.key" --node-id "$(cat "$dir/gateway.id")" --gateway "127.0.0.1:$port")
head -c 33554432 /dev/urandom >"$dir/file"
token=$("$stoq" put "$dir/file" "${client[@]}" --json | json token)
"$stoq" get "$token" -o "$dir/back" "${client[@]}" >/dev/null
cmp "$dir/file" "$dir/back"
# Until Prometheus has seen it, however fast the machine is.
(
    while [ ! -e "$dir/seen" ]; do "$stoq" bench "${client[@]}" --bytes 50000000 --quiet >/dev/null || exit 1; done
) &
bench=$!
pids+=($bench)

curl -sS --fail --cacert "$dir/admin.pem" -H "Authorization: Bearer $(cat "$dir/admin.token")" \
    "https://127.0.0.1:$admin/metrics" >"$dir/metrics"
promtool check metrics <"$dir/metrics"
[ "$(curl -s -o /dev/null -w '%{http_code}' --cacert "$dir/admin.pem" "https://127.0.0.1:$admin/metrics")" = 401 ] ||
    die "the endpoint shows metrics without the token"

say "top"
"$gateway" top --once --url "https://127.0.0.1:$admin" --ca "$dir/admin.pem" --token-file "$dir/admin.token" | tee "$dir/top"
grep -q "net_\|udp" "$dir/top" || die "top shows no port"

say "what Prometheus has, what the rules and the dashboard find in it"
python3 scripts/admin.py "http://127.0.0.1:$scraper" "$dir/metrics"
: >"$dir/seen"
wait "$bench" || die "traffic to the gateway failed"

say "the page in Chromium"
chrome() {
    chromium --headless --no-sandbox --disable-gpu --disable-dev-shm-usage --user-data-dir="$dir/chrome" --hide-scrollbars \
        --window-size=1200,1000 --virtual-time-budget=6000 "$@" "http://127.0.0.1:$open/" 2>"$dir/chrome.log"
}
chrome --dump-dom >"$dir/page.html" || { cat "$dir/chrome.log" >&2; die "Chromium failed"; }
grep -q 'id="state" class="good">ready<' "$dir/page.html" || { cat "$dir/page.html" >&2; die "the page does not say ready"; }
for text in '<td>writable</td>' 'kernel-udp' '<td>mirror</td>' '2 workers\|<td>1</td>'; do
    grep -q "$text" "$dir/page.html" || die "the page does not show $text"
done
chrome --screenshot="$dir/page.png" >/dev/null
[ "$(stat -c %s "$dir/page.png")" -gt 10000 ] || die "the screenshot is empty"
[ -z "$shot" ] || cp "$dir/page.png" "$shot"
say "the admin endpoint is as it should be"
