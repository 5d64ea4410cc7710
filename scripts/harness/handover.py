"""What scripts/anycast-test.sh runs: the announcements, the same through the gateways' own ports, and a fleet of two gateways, between which a router
moves flows."""

import os
import re
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

from harness import ECHO, cable, ensure, inside, main, run, say, wait_until
from harness.anycast import Anycast
from harness.anycast import script as announcements
from harness.asking import ask, total
from harness.etcd import PREFIX, SALT
from harness.exception_path import script as exceptions
from harness.pinging import Pinging
from harness.routing import V4, V6

CLIENTS = 40
LEASE_S = 10
#: Of the figure for a hand-over's time.
TURNS, TRIPS = 5, 2000
#: What a busy machine may add; tests/simulated/telling.rs holds the bound itself, a second after the end of the lease, under virtual time.
SLACK_S = 10


class Handover(Pinging, Anycast):
    """Clients, a router, etcd beside it, and two gateways of one fleet that announce the same addresses."""

    def __init__(self):
        super().__init__()
        self.name = self.name.replace("anycast", "handover")

    def build(self):
        say("a router, two gateways' hosts with BIRD, clients behind the router, and etcd")
        self.router, self.place = self.namespace("r"), self.namespace("c")
        self.hosts = {n: self.namespace(f"g{n}") for n in (1, 2)}
        for n, host in [*self.hosts.items(), (9, self.place)]:
            cable(f"to-g{n}", "port", self.router, host)
            for where, port, end in ((self.router, f"to-g{n}", 1), (host, "port", 2)):
                run("ip", "-n", where, "addr", "add", f"10.9.{n}.{end}/24", "dev", port)
                run("ip", "-n", where, "addr", "add", f"fd09:{n}::{end}/64", "dev", port, "nodad")
            run("ip", "-n", host, "route", "add", "default", "via", f"10.9.{n}.1")
            run("ip", "-n", host, "route", "add", "default", "via", f"fd09:{n}::1")
        for key in ("ipv4.ip_forward", "ipv6.conf.all.forwarding"):
            self.set_kernel(key)
        # Flows are spread by addresses and ports.
        for key in ("ipv4.fib_multipath_hash_policy", "ipv6.fib_multipath_hash_policy"):
            self.set_kernel(key)
        self.bird("r", self.router, Path("configs/bird/router.conf").read_text())
        text = Path("configs/bird/gateway.conf").read_text()
        for n, host in self.hosts.items():
            own = text.replace("10.9.1.", f"10.9.{n}.").replace("fd09:1:", f"fd09:{n}:")
            self.bird(f"g{n}", host, own)
        for n in self.hosts:
            for version in ("v4", "v6"):
                wait_until(f"g{n}{version} is established", lambda name=f"g{n}{version}": self.is_established(name))
        self.directory_of_fleet()

    def set_kernel(self, key):
        run(*inside(self.router), "sh", "-c", f"echo 1 >/proc/sys/net/{key.replace('.', '/')}")

    def directory_of_fleet(self):
        """Etcd beside the router, with the fleet's rotations and rows."""
        urls = ["--listen-client-urls", "http://0.0.0.0:2379", "--advertise-client-urls", "http://10.9.1.1:2379"]
        self.daemon("etcd", inside(self.router, "etcd", "--data-dir", str(self / "etcd"), *urls))
        wait_until("etcd answers", lambda: self.etcdctl("get", "x", check=False).returncode == 0)
        (self / "fleet.key").touch(0o600)
        (self / "fleet.key").write_bytes(os.urandom(32))
        self.put("fleet", f'{{"v":1,"rotations":[{{"number":0,"salt":"{SALT}","state":"issue"}}]}}')
        for n in self.hosts:
            addresses = f'"10.9.{n}.2:4433","[fd09:{n}::2]:4433"'
            row = f'{{"v":1,"name":"g{n}","server_id":"00000{n}","addresses":[{addresses}]}}'
            self.put(f"gateways/{self.ids[f'g{n}']}", row)

    def etcdctl(self, *words, check=True):
        command = inside(self.router, "etcdctl", "--command-timeout", "5s", *words)
        env = {**os.environ, "ETCDCTL_API": "3"}
        return subprocess.run(command, env=env, capture_output=True, text=True, check=check)

    def put(self, key, value):
        self.etcdctl("put", f"{PREFIX}/{key}", value)

    def has_lease(self, n):
        """Whether etcd says that a gateway is alive."""
        return bool(self.etcdctl("get", f"{PREFIX}/alive/{self.ids[f'g{n}']}").stdout)

    def configured(self, n):
        etcd = {"endpoints": [f"http://10.9.{n}.1:2379"]}
        fleet = {"key_file": "fleet.key", "server_id": f"00000{n}", "provider": "etcd", "name": "lab"}
        return self.configure(
            f"g{n}",
            {
                "network": {"kind": "kernel-udp", "listen": ["0.0.0.0:4433", "[::]:4433"]},
                "workers": {"count": 2},
                **self.who(f"g{n}", "client"),
                "application": [ECHO],
                "admin": {"listen": "127.0.0.1:9464"},
                "anycast": {"interface": f"stoq{n}", "addresses": [V4, V6], "settle_ms": 0},
                "fleet": {**fleet, "saved": f"g{n}.fleet.json", "handover": True},
                "fleet.etcd": etcd,
            },
        )

    def count(self, n, counter):
        """A counter of a gateway, of all its workers."""
        return total(ask(self.hosts[n], "/metrics").decode(), counter)


def script():
    with Handover() as scene:
        scene.identities("g1", "g2", "client")
        scene.build()
        one = scene.start(1)
        scene.announced(1)
        say(f"{CLIENTS} clients at one gateway")
        trust = [word for n in scene.hosts for word in ("--node-id", scene.ids[f"g{n}"])]
        scene.start_pings(
            CLIENTS, [scene.place], [*trust, "--cert", scene / "client.pem", "--key", scene / "client.key"]
        )
        scene.all_are_served("one gateway")

        say("another gateway is announced: the router moves flows to it")
        scene.start(2)
        scene.announced(1, 2)
        scene.all_are_served("a next hop more")
        moved = scene.count(2, "handovers_net_out")
        ensure(moved > 0 and scene.count(1, "handovers_net_in") > 0, "no flow has moved")

        say("the first gateway is announced no longer, and serves on")
        for version in ("v4", "v6"):
            scene.birdc("disable", f"g1{version}")
        scene.announced(2)
        scene.all_are_served("a next hop less")
        more = scene.count(2, "handovers_net_out") - moved
        ensure(more >= CLIENTS, f"{more} datagrams handed over")
        ensure(scene.count(2, "connections_opened") == 0, "a connection began at the second gateway")
        print(f"handed over: {moved + more} datagrams")

        say("SIGKILL of the first gateway: the second tells its clients once its lease has ended")
        one.process.send_signal(signal.SIGKILL)
        killed = time.monotonic()
        wait_until("the lease has ended", lambda: not scene.has_lease(1), 0.05)
        lease_s = time.monotonic() - killed
        wait_until("all clients have ended", lambda: all(ping.poll() is not None for ping, _, _ in scene.pings), 0.02)
        told_s = time.monotonic() - killed
        reasons = [errors.read_text() for _, _, errors in scene.pings]
        ensure(all("stateless reset" in reason for reason in reasons), f"not by a reset: {reasons[:3]}")
        resets, unasked = (scene.count(2, f"fleet_resets_{which}") for which in ("sent", "unasked"))
        print(
            f"the lease was seen to have ended {lease_s:.1f} s after the kill, all {CLIENTS} clients told after {told_s:.1f} s"
        )
        print(f"resets: {resets}, {unasked} of them unasked")
        # Most clients wait for seconds between two packets by then.
        ensure(unasked >= CLIENTS / 2, f"{unasked} of {CLIENTS} clients were told unasked")
        ensure(told_s < LEASE_S + 1 + SLACK_S, f"the clients were told after {told_s:.1f} s")


def times_us(log):
    """The round trips that a ping has printed."""
    return [float(time) for time in re.findall(r" time=(\S+) us", log.read_text())]


def latency():
    """What a hand-over adds to a round trip: one client whose flow is moved to the other gateway and back. Figures, for an idle machine."""
    with Handover() as scene:
        scene.identities("g1", "g2", "client")
        scene.build()
        for n in scene.hosts:
            scene.start(n)
        scene.announced(1, 2)

        def announce(n):
            for version in ("v4", "v6"):
                scene.birdc("enable", f"g{n}{version}")
            wait_until(f"the router sends to {n}", lambda: n in scene.next_hops() and n in scene.next_hops(V6))
            for version in ("v4", "v6"):
                scene.birdc("disable", f"g{3 - n}{version}")
            scene.announced(n)

        announce(1)
        trust = ["--node-id", scene.ids["g1"], "--cert", scene / "client.pem", "--key", scene / "client.key"]
        scene.start_pings(1, [scene.place], trust, interval_s=0.002)
        _, log, _ = scene.pings[0]
        medians = {1: [], 2: []}
        for _ in range(TURNS):
            for n, of_one in medians.items():
                announce(n)
                begun = len(times_us(log))
                wait_until("round trips", lambda begun=begun: len(times_us(log)) >= begun + TRIPS)
                of_one.append(statistics.median(times_us(log)[begun + 10 :]))
        ensure(scene.count(2, "handovers_net_out") >= TURNS * (TRIPS - 10), "no flow was handed over")
        for n, what in ((1, "by its own gateway"), (2, "handed over")):
            print(f"round trip {what}: p50 {statistics.median(medians[n]):.1f} us, of {TURNS} turns {medians[n]}")
        added = [handed - own for own, handed in zip(medians[1], medians[2], strict=True)]
        print(f"a hand-over adds {statistics.median(added):.1f} us at p50, in the best turn {min(added):.1f}")


PARTS = {"announcements": announcements, "exceptions": exceptions, "handover": script}


def asked():
    known = {**PARTS, "latency": latency}
    parts = sys.argv[1:] or PARTS
    for part in parts:
        ensure(part in known, f"no part is called {part}: give some of {', '.join(known)}")
        known[part]()


if __name__ == "__main__":
    main(asked)
