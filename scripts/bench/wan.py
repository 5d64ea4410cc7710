"""The wan rows of run.py: one connection through examples/long_path, a long path between two namespaces, in real time.

                  near            path                far
    client, core 0 ═══ veth ═══ [long path] ═══ veth ═══ gateway or server, core 1

What the receiver has got is told while it comes; the sender never comes to its end. A run during which the long path was late or the kernel dropped
frames before it is thrown away.
"""

import json
import subprocess
import sys
import time
from pathlib import Path

from harness import Failed, cable, ensure, inside, kernel, run, wait_until
from scene import CLIENT_CORE, GATEWAY_CORE, PORT, SOCKET_BYTES, end, pinned, usage
from wan_rows import WHO, parse

NEAR, FAR = "10.78.0.2", "10.78.0.1"
ADMIN = "127.0.0.1:9579"
HERE = Path(__file__).parent
#: From the first byte at the receiver: what is called cold, and then what is called steady, seconds.
COLD_S, STEADY_S = 3.0, 4.0
#: The receiver may tell the last byte a little later.
AFTER_S = 0.2
#: More frames over 1 ms late than this share of them, or one by more than this, and the run is thrown away.
LATE_SHARE_MAX, LATE_US_MAX = 0.01, 10_000
#: More bytes than any run can carry.
BYTES = 512 << 20
COUNT_EVERY_MS = 50
#: RFC 9002's, which the peers begin with; their default in the other rows fits a path without delay.
INITIAL_WINDOW_BYTES = 14_720
#: What TCP's windows may grow to: as much as those of the QUIC stacks, bytes.
TCP_WINDOW_BYTES = 64 << 20
AVAILABLE = Path("/proc/sys/net/ipv4/tcp_available_congestion_control")


class Absent(Exception):
    """What this machine cannot measure, in a sentence."""


class Overrun(Exception):
    """Why a run says nothing, in a sentence."""


def default_controller():
    """The congestion control of a configuration that names none, from the commented one with every default."""
    lines = Path("configs/gateway.toml").read_text().splitlines()
    return next(line.split('"')[1] for line in lines if line.startswith("congestion_control"))


def told(path):
    """The lines of JSON that a process has written so far; of the last one perhaps a part is there."""
    return [json.loads(line) for line in path.read_text().split("\n")[:-1] if line.startswith("{")]


def received(path):
    return [line for line in told(path) if line["event"] == "received" and line["bytes"] > 0]


def bytes_at(lines, at_s):
    """What the receiver had at a time, between two lines in proportion."""
    before = lines[0]
    for line in lines[1:]:
        if line["at_s"] > at_s:
            share = (at_s - before["at_s"]) / (line["at_s"] - before["at_s"])
            return before["bytes"] + share * (line["bytes"] - before["bytes"])
        before = line
    return before["bytes"]


def goodput(lines):
    """Gbit/s when cold and then, and the bytes of both."""
    first = lines[0]["at_s"]
    cold, whole = (bytes_at(lines, first + span) for span in (COLD_S, COLD_S + STEADY_S))
    steady = whole - cold
    return {
        "gbit_per_s": steady * 8 / STEADY_S / 1e9,
        "cold_gbit_per_s": cold * 8 / COLD_S / 1e9,
        "bytes": int(whole),
        "seconds": COLD_S + STEADY_S,
    }


def kept_up(before, after):
    """What passed between two reports of the long path.

    Raises Overrun where the long path was no path of these settings, and Failed where the devices were not."""
    first, last = before[-1], after[-1]
    counts = {key: last[key] - first[key] for key in first if key not in ("at_s", "late_us_max")}
    counts["late_us_max"] = max(line["late_us_max"] for line in after[len(before) :])
    if counts["too_large"]:
        raise Failed(f"{counts['too_large']} frames larger than the MTU reached the long path: an offload is on")
    ensure(counts["released"], "no frame passed the long path")
    if counts["socket_dropped"] or counts["refused"]:
        raise Overrun(
            f"the kernel dropped {counts['socket_dropped']} frames before the long path and {counts['refused']} behind it"
        )
    if counts["late"] > LATE_SHARE_MAX * counts["released"] or counts["late_us_max"] > LATE_US_MAX:
        raise Overrun(
            f"{counts['late']} of {counts['released']} frames were over 1 ms late, the longest by {counts['late_us_max'] / 1000:.1f} ms"
        )
    return counts


class Wan:
    """One row. `rows` has the executables, the identities and what is recorded."""

    def __init__(self, rows, row, seed):
        self.rows, self.path, self.seed = rows, parse(row), seed

    def measure(self):
        who = self.path.who
        control = who.removeprefix("tcp-")
        if who.startswith("tcp-") and control not in AVAILABLE.read_text().split():
            raise Absent(f"this kernel has no {control}: {AVAILABLE} does not list it")
        self.put_up()
        passed, got = self.rows / "path.jsonl", self.rows / "received.jsonl"
        carrier = self.start("path", passed, [sys.executable, HERE / "wan_path.py", *self.command()], "path")
        wait_until("the long path runs", lambda: carrier.poll() is not None or told(passed))
        ensure(carrier.poll() is None, f"the long path ended: {(self.rows / 'path.log').read_text()}")
        server, cipher, note = self.receiver(got)
        before = told(passed)
        client = self.sender()
        self.wait(client, got)
        self.rows.found["client"], self.rows.found["gateway"] = usage(client.pid), usage(server.pid)
        after = told(passed)
        end(client)
        self.rows.found["path"] = kept_up(before, after)
        self.rows.found["result"] = goodput(received(got)) | {"cipher": cipher}
        if who.startswith("stoq"):
            # Only after the row is measured: it takes orders, and ends in order.
            self.rows.stop()
        path = self.path
        self.rows.conditions(
            f"veth, a long path in user space with {path.name}, buffer {path.buffer_bytes} bytes, MTU 1500",
            f"one connection; {COLD_S:.0f} s from the first byte at the receiver are cold, the next {STEADY_S:.0f} s count; {note}",
            "none",
            "adaptive" if who.startswith("stoq") else "sleeps",
        )

    def wait(self, client, got):
        """Until the time is over, from the first byte on."""

        def begun():
            ensure(client.poll() is None, f"the client ended: {(self.rows / 'client.log').read_text()}")
            return received(got)

        wait_until("a byte arrives", begun, every_s=0.02, patience_s=30)
        until = time.monotonic() + COLD_S + STEADY_S + AFTER_S
        while time.monotonic() < until:
            begun()
            time.sleep(0.1)

    # ---- the path

    def put_up(self):
        """Three namespaces and two cables. Neighbors are known from the start: a lost question for one would stand for a lost second."""
        rows = self.rows
        self.near, self.far, self.between = (rows.namespace(name, ipv6=False) for name in ("near", "far", "path"))
        for name, namespace, address in (("near", self.near, NEAR), ("far", self.far, FAR)):
            cable(name, f"at-{name}", namespace, self.between)
            run("ip", "-n", namespace, "address", "add", f"{address}/24", "dev", name)
            settings = [f"net.ipv4.tcp_{way}=4096 131072 {TCP_WINDOW_BYTES}" for way in ("rmem", "wmem")]
            run(*inside(namespace, "sysctl", "-q", "-w", *settings))
        for name, namespace, other, address in (("near", self.near, "far", FAR), ("far", self.far, "near", NEAR)):
            whole = json.loads(run("ip", "-j", "-n", self.far if other == "far" else self.near, "link", "show", other))
            run("ip", "-n", namespace, "neighbor", "add", address, "lladdr", whole[0]["address"], "dev", name)

    def command(self):
        settings = json.dumps(self.path.settings(self.seed))
        return [self.rows.built / "long_path", settings, "at-near", "at-far"]

    def start(self, name, out, command, namespace):
        """Starts a process in a namespace, its lines into one file and its log into another; it is ended with the row."""
        within = {"near": self.near, "far": self.far, "path": self.between}[namespace]
        with out.open("wb") as lines, (self.rows / f"{name}.log").open("wb") as log:
            started = subprocess.Popen([*inside(within), *map(str, command)], stdout=lines, stderr=log)
        self.rows.stack.callback(end, started)
        return started

    # ---- the ends

    def receiver(self, got):
        """Starts what receives, and what tells of it; gives the receiver, its cipher, and what is particular."""
        who = self.path.who
        if who.startswith("stoq"):
            self.configure()
            self.rows.serve(inside(self.far))
            meter = [sys.executable, HERE / "wan_ends.py", "gateway", f"http://{ADMIN}"]
            self.start("meter", got, meter, "far")
            controller = default_controller() if who == "stoq" else "reserved, at the rate of the path"
            return self.rows.served.process, "TLS_AES_128_GCM_SHA256", f"the default configuration; {controller}"
        if who.startswith("tcp-"):
            command = [sys.executable, HERE / "wan_ends.py", "tcp-server", FAR, PORT]
            cipher, note = "none", f"{who}, windows to {TCP_WINDOW_BYTES >> 20} MiB"
        else:
            command = [*self.peer("server"), "--listen", f"{FAR}:{PORT}", "--count-every-ms", COUNT_EVERY_MS]
            cipher = "TLS_AES_128_GCM_SHA256"
            note = f"{'BBR2, paced to 1 ms' if who == 'quiche' else 'CUBIC'}, flow control 64 MiB a stream"
        server = self.start("gateway", got, [*pinned(GATEWAY_CORE), *command], "far")
        wait_until("the server is up", lambda: server.poll() is not None or told(got))
        ensure(server.poll() is None, "the server ended before it was up")
        return server, cipher, note

    def sender(self):
        who = self.path.who
        if who.startswith("stoq"):
            put = ["bench", "--put", "--bytes", BYTES, "--config", self.rows / "client.toml", "--json"]
            command = [self.rows.stoq_executable, *put]
        elif who.startswith("tcp-"):
            command = [sys.executable, HERE / "wan_ends.py", "tcp-client", FAR, PORT, who.removeprefix("tcp-")]
        else:
            command = [*self.peer("client"), "--connect", f"{FAR}:{PORT}", "--bytes", BYTES, "--json"]
        return self.start("client", self.rows / "client.jsonl", [*pinned(CLIENT_CORE), *command], "near")

    def peer(self, side):
        who = self.path.who
        tuned = ["--cert", self.rows / "peer.pem", "--socket-buffer", SOCKET_BYTES]
        tuned += ["--initial-window", INITIAL_WINDOW_BYTES]
        return [self.rows.built / f"{who}-peer", side, *tuned, *(["--bbr2"] if who == "quiche" else [])]

    def configure(self):
        """The default configuration on both sides, but for what has to be named."""
        quic = {}
        if self.path.who == "stoq-reserved":
            quic = {"congestion_control": "reserved", "rate_bits_per_s": self.path.rate_mbit * 1_000_000}
        rows = self.rows
        for name, peer, core, more in (
            ("gateway", "client", GATEWAY_CORE, {"admin": {"listen": ADMIN}, **rows.hosts()}),
            ("client", "gateway", CLIENT_CORE, {"connect": f"{FAR}:{PORT}"}),
        ):
            listen = f"{FAR}:{PORT}" if name == "gateway" else "0.0.0.0:0"
            common = {
                "workers": {"cores": [core]},
                "network": kernel(listen, buffer_bytes=SOCKET_BYTES),
                **rows.who(name, peer),
                "quic": quic,
            }
            rows.configure(name, {**more, **common})


def title(row):
    """The row in words."""
    path = parse(row)
    return f"{WHO[path.who]}, {path.name}"
