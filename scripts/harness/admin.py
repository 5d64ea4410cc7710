"""What scripts/admin.sh runs, once it has looked at the machine: admin.py [SCREENSHOT.png]."""

import json
import re
import secrets
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

from harness import DISCARD, ECHO, Scene, ensure, kernel, main, random_file, run, same, say, seed, wait_until

FILE_BYTES = 32 << 20
#: These are there with a DPDK port, a peer gateway or a second of silence only.
ELSEWHERE = re.compile(r"stoq_port_(rx|tx)_|stoq_peer_gateway_up|stoq_fleet_|stoq_anycast_|stoq_exception_path_")
#: Panels of the dashboard that have nothing to show of a gateway on kernel sockets that is alone.
EMPTY = {"Drops by reason", "Missed, no buffer, errors", "Bytes of the device", "Peer gateways up"}
EMPTY |= {"Gateways of the fleet", "The fleet's directory", "The fleet's table"}
EMPTY |= {"Hand-overs dropped", "Anycast addresses announced, lease", "Rotations of the fleet's keys, twins"}


class Admin(Scene):
    """A gateway whose endpoint is guarded, for Prometheus, and one whose endpoint is open on loopback, for the browser."""

    def __init__(self):
        super().__init__("admin")

    def build(self):
        say("identities, a certificate for the endpoint, a token")
        self.identities("gateway", "client")
        names = ["-addext", "subjectAltName=IP:127.0.0.1", "-addext", "basicConstraints=critical,CA:FALSE"]
        curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
        made = ["-keyout", self / "admin.key", "-out", self / "admin.pem"]
        run(
            "openssl",
            "req",
            "-x509",
            *curve,
            "-days",
            "2",
            "-subj",
            "/CN=127.0.0.1",
            *names,
            *made,
            stderr=subprocess.DEVNULL,
        )
        self.token = secrets.token_hex(32)
        (self / "admin.token").touch(0o600)
        (self / "admin.token").write_text(self.token + "\n")
        guard = {"certificate": "admin.pem", "key": "admin.key", "token_file": "admin.token"}
        self.guarded, self.open = self.serve("guarded", guard), self.serve("open", {})
        self.at = self.guarded.up["workers"][0]["local"][0]
        self.url = f"https://{self.guarded.up['admin']}"

    def serve(self, name, guard):
        self.configure(
            name,
            {
                "workers": {"count": 2},
                "network": kernel(f"127.0.0.1:{free_udp_port()}"),
                **self.who("gateway", "client"),
                "application": [seed(name, capacity_bytes=1 << 30), ECHO, DISCARD],
                "admin": {"listen": "127.0.0.1:0", **guard},
            },
        )
        return self.gateway(name).serves()

    def scrape(self, token):
        """What the guarded endpoint answers at /metrics: the status and the text."""
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        request = urllib.request.Request(f"{self.url}/metrics", headers=headers)
        try:
            context = ssl.create_default_context(cafile=str(self / "admin.pem"))
            with urllib.request.urlopen(request, context=context, timeout=10) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as refused:
            return refused.code, ""

    def start_prometheus(self):
        """A Prometheus that scrapes the guarded endpoint."""
        say("Prometheus")
        # JSON is YAML.
        config = self / "prometheus.yml"
        config.write_text(
            json.dumps(
                {
                    "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
                    "rule_files": [str(Path("configs/prometheus-alerts.yml").resolve())],
                    "scrape_configs": [
                        {
                            "job_name": "stoq",
                            "scheme": "https",
                            "tls_config": {"ca_file": str(self / "admin.pem")},
                            "authorization": {"credentials_file": str(self / "admin.token")},
                            "static_configs": [{"targets": [self.guarded.up["admin"]]}],
                        }
                    ],
                }
            )
        )
        show("promtool", "check", "config", config)
        # It does not tell the port that it would choose.
        with socket.create_server(("127.0.0.1", 0)) as free:
            address = f"127.0.0.1:{free.getsockname()[1]}"
        command = ["prometheus", f"--config.file={config}", f"--storage.tsdb.path={self / 'tsdb'}"]
        with (self / "prometheus.log").open("w") as log:
            running = subprocess.Popen([*command, f"--web.listen-address={address}", "--log.level=warn"], stderr=log)
        self.stack.callback(running.wait)
        self.stack.callback(running.kill)
        self.prometheus = f"http://{address}"

    def ask(self, path, **query):
        with urllib.request.urlopen(
            f"{self.prometheus}/api/v1/{path}?{urllib.parse.urlencode(query)}", timeout=10
        ) as answer:
            found = json.load(answer)
        ensure(found["status"] == "success", found)
        return found["data"]

    def values(self, expression):
        return [float(one["value"][1]) for one in self.ask("query", query=expression)["result"]]

    def look_at_scraped(self, metrics):
        """What Prometheus has, and whether the rules and the dashboard find it there."""
        values = self.values
        wait_until("a scrape", lambda: values("up") == [1.0], every_s=0.5)
        # Rates over half a minute need more than two of them.
        wait_until("a few scrapes", lambda: sum(values("count_over_time(up[1h])")) >= 8, every_s=0.5)
        # The load goes on until all of this was seen; a machine that is busy carries little of it.
        traffic = "sum(increase(stoq_rx_bytes_total[1h]))"
        wait_until("the traffic", lambda: sum(values(traffic)) > 2_000_000, every_s=0.5)
        for expression, value in {
            'sum(stoq_requests_total{kind="put",result="ok"})': 1.0,
            'sum(stoq_requests_total{kind="fetch",result="ok"})': 1.0,
            "sum(stoq_verified_bytes_total)": float(FILE_BYTES),
            "stoq_ready": 1.0,
        }.items():
            ensure(values(expression) == [value], f"{expression}: {values(expression)}, not {value}")
        ensure(values("sum(increase(stoq_worker_busy_seconds_total[1h]))")[0] > 0, "no worker was busy")
        rules = [rule for group in self.ask("rules")["groups"] for rule in group["rules"]]
        ensure(rules and all(rule["health"] == "ok" for rule in rules), rules)
        # Its certificate of two days is not the one that peers see; nothing is wrong with this gateway.
        firing = {rule["name"] for rule in rules if rule["state"] == "firing"}
        ensure(not firing, f"alerts fire: {firing}")
        names = set(re.findall(r"^# TYPE (\w+) ", metrics, re.MULTILINE))
        dashboard = json.loads(Path("configs/grafana-dashboard.json").read_text())
        panels = [panel for panel in dashboard["panels"] if panel["type"] != "row"]
        shown = [(panel["title"], target["expr"]) for panel in panels for target in panel["targets"]]
        asked = [(rule["name"], rule["query"]) for rule in rules]
        for title, expression in shown + asked:
            for name in re.findall(r"\bstoq_\w+", expression):
                family = re.sub(r"_(bucket|sum|count)$", "", name)
                is_known = family in names or name in names or ELSEWHERE.match(name)
                ensure(is_known, f"{title}: no metric {name}")
        empty = {title for title, expression in shown if not self.ask("query", query=filled_in(expression))["result"]}
        for _, expression in asked:
            self.ask("query", query=filled_in(expression))
        without = ", ".join(sorted(empty)) or "none"
        print(
            f"{len(names)} metrics, {len(shown + asked)} expressions; panels without data here: {without}", flush=True
        )
        ensure(empty <= EMPTY, f"panels without data: {empty}")

    def chromium(self, *options):
        """What a headless Chromium gives of the open endpoint's page."""
        command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        command += [f"--user-data-dir={self / 'chrome'}", "--hide-scrollbars", "--window-size=1200,1000"]
        command += ["--virtual-time-budget=6000", *options, f"http://{self.open.up['admin']}/"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        ensure(done.returncode == 0, f"Chromium failed:\n{done.stderr}")
        return done.stdout


def show(*command):
    print(run(*command), end="", flush=True)


def filled_in(expression):
    """An expression of the dashboard with what Grafana would put into it."""
    return expression.replace("$__rate_interval", "30s").replace("$instance", ".*")


def free_udp_port():
    """A port that no socket has now: the configuration names it to both workers."""
    with socket.socket(type=socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def with_traffic(it, work):
    """Does `work` while a client sends messages, however fast the machine is."""
    client = it.client("gateway", show=False)
    over, failed = threading.Event(), []

    def send():
        try:
            while not over.is_set():
                client("bench", it.at, "--bytes", "2000000", "--time-limit", "600", "--quiet")
        except subprocess.CalledProcessError as error:
            failed.append(error)

    sending = threading.Thread(target=send)
    sending.start()
    try:
        work()
    finally:
        over.set()
        sending.join()
    ensure(not failed, f"traffic to the gateway failed: {failed}")


def look_at_guarded(it):
    status, metrics = it.scrape(it.token)
    ensure(status == 200, f"the endpoint answers with {status}")
    run("promtool", "check", "metrics", input=metrics)
    status, _ = it.scrape(None)
    ensure(status == 401, f"without the token the endpoint answers with {status}")
    say("top")
    credentials = ["--ca", it / "admin.pem", "--token-file", it / "admin.token"]
    said = run(it.gateway_executable, "top", "--once", "--url", it.url, *credentials)
    print(said, end="", flush=True)
    ensure("net_" in said or "udp" in said, "top shows no port")
    say("what Prometheus has, what the rules and the dashboard find in it")
    it.look_at_scraped(metrics)


def look_at_page(it, screenshot):
    say("the page in Chromium")
    page = it.chromium("--dump-dom")
    ensure('id="state" class="good">ready<' in page, f"the page does not say ready:\n{page}")
    shown = ["kernel-udp", "<td>mirror</td>", '<p class="dim">writable</p>', "<h3>Scrub</h3>", "<h3>Leases to end</h3>"]
    for text in [*shown, 'class="area"', "every peer everything"]:
        ensure(text in page, f"the page does not show {text}")
    ensure("2 workers" in page or "<td>1</td>" in page, "the page does not show two workers")
    picture = it / "page.png"
    it.chromium(f"--screenshot={picture}")
    ensure(picture.stat().st_size > 10_000, "the screenshot is empty")
    if screenshot:
        shutil.copy(picture, screenshot)


def admin():
    screenshot = sys.argv[1] if len(sys.argv) > 1 else None
    say("rules, configuration, and the rules' own tests")
    show("promtool", "check", "rules", "configs/prometheus-alerts.yml")
    run("promtool", "check", "config", "prometheus.yml", cwd="configs")
    show("promtool", "test", "rules", "tests/prometheus-alerts.yml")
    with Admin() as it:
        it.build()
        it.start_prometheus()
        say("traffic")
        client = it.client("gateway", show=False)
        file = random_file(it / "file", FILE_BYTES)
        token = client("put", it.at, file)
        client("get", it.at, token, "-o", it / "back")
        same(file, it / "back")
        with_traffic(it, lambda: look_at_guarded(it))
        look_at_page(it, screenshot)
    say("the admin endpoint is as it should be")


main(admin)
