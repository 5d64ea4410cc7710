"""What scripts/anycast-test.sh runs, once it has looked at the machine."""

import re
import signal
import statistics
import subprocess
import time
from pathlib import Path

from harness import ECHO, Scene, cable, ensure, inside, main, run, say, wait_until

V4, V6 = "203.0.113.1", "2001:db8:53::1"
KILLS = 20


class Anycast(Scene):
    """A router, and two gateways that announce the same addresses."""

    def __init__(self):
        super().__init__("anycast")

    def build(self):
        say("a router and two gateways' hosts, BIRD on each")
        self.identities("g", "client")
        self.router = self.namespace("r")
        self.hosts = {}
        for n in (1, 2):
            host = self.hosts[n] = self.namespace(f"g{n}")
            cable(f"to-g{n}", "port", self.router, host)
            for place, port, end in ((self.router, f"to-g{n}", 1), (host, "port", 2)):
                run("ip", "-n", place, "addr", "add", f"10.9.{n}.{end}/24", "dev", port)
                run("ip", "-n", place, "addr", "add", f"fd09:{n}::{end}/64", "dev", port, "nodad")
            run("ip", "-n", host, "route", "add", "default", "via", f"10.9.{n}.1")
            run("ip", "-n", host, "route", "add", "default", "via", f"fd09:{n}::1")
        self.bird("r", self.router, Path("configs/bird/router.conf").read_text())
        for n, host in self.hosts.items():
            text = Path("configs/bird/gateway.conf").read_text()
            self.bird(f"g{n}", host, text.replace("10.9.1.", f"10.9.{n}.").replace("fd09:1:", f"fd09:{n}:"))
        for n in self.hosts:
            for version in ("v4", "v6"):
                wait_until(f"g{n}{version} is established", lambda name=f"g{n}{version}": self.is_established(name))

    def bird(self, name, place, text):
        config = self / f"bird-{name}.conf"
        config.write_text(text)
        run("bird", "-p", "-c", config)
        command = inside(place, "bird", "-f", "-c", str(config), "-s", str(self / f"{name}.ctl"))
        with (self / f"bird-{name}.log").open("w") as log:
            running = subprocess.Popen(command, stdout=log, stderr=log)
        self.stack.callback(running.wait)
        self.stack.callback(running.kill)
        wait_until(f"BIRD {name} answers", (self / f"{name}.ctl").exists)

    def is_established(self, name):
        said = subprocess.run(
            ["birdc", "-s", self / "r.ctl", "show", "protocols", name], capture_output=True, text=True, check=False
        )
        return "Established" in said.stdout

    def next_hops(self, address=V4):
        """The gateways to which the router's kernel sends packets for the address."""
        version = "-6" if ":" in address else "-4"
        said = run("ip", version, "-n", self.router, "route", "show", address)
        return sorted({int(n) for n in re.findall(r"via (?:10\.9\.|fd09:)(\d)", said)})

    def announced(self, *gateways):
        wait_until(
            f"the router sends to {gateways}", lambda: self.next_hops(V4) == self.next_hops(V6) == list(gateways)
        )

    def start(self, n):
        self.configure(
            f"g{n}",
            {
                "network": {"kind": "kernel-udp", "listen": ["0.0.0.0:4433", "[::]:4433"]},
                **self.who("g", "client"),
                "application": [ECHO],
                "admin": {"listen": "127.0.0.1:9464"},
                "anycast": {"interface": f"stoq{n}", "addresses": [V4, V6], "settle_ms": 2000},
                "shutdown": {"drain_ms": 1000},
            },
        )
        return self.gateway(f"g{n}", inside(self.hosts[n])).serves()

    def ping(self, address):
        within = inside(self.router)
        trust = ["--node-id", self.ids["g"], "--cert", self / "client.pem", "--key", self / "client.key"]
        return run(*within, self.stoq_executable, "ping", "-g", address, *trust, "-c", "1")

    def withdrawn_after_ms(self, gateway, n):
        """Kills a gateway; how long the router's kernel sent to it afterwards."""
        watch = subprocess.Popen(
            ["ip", "-4", "-n", self.router, "monitor", "route"], stdout=subprocess.PIPE, text=True
        )
        try:
            gateway.process.send_signal(signal.SIGKILL)
            killed = time.monotonic()
            # Each line is a change of the router's routes.
            while n in self.next_hops():
                ensure(watch.stdout.readline(), "ip monitor ended")
            return (time.monotonic() - killed) * 1000
        finally:
            watch.kill()
            watch.wait()
            gateway.process.wait()


def script():
    with Anycast() as scene:
        scene.build()
        ensure(scene.next_hops() == [], "the address is announced before a gateway runs")
        say("a gateway that is ready is announced, and answers at the address")
        one = scene.start(1)
        scene.announced(1)
        for address in (V4, f"[{V6}]"):
            print(scene.ping(f"{address}:4433"), end="")
        two = scene.start(2)
        scene.announced(1, 2)

        say("SIGTERM: withdrawn while the gateway serves on")
        one.process.send_signal(signal.SIGTERM)
        scene.announced(2)
        ensure(one.process.poll() is None, "the gateway ended before its addresses were withdrawn")
        print(scene.ping("10.9.1.2:4433"), end="")
        ensure(one.process.wait(60) == 0, "the gateway did not end well")
        print(scene.ping(f"{V4}:4433"), end="")

        say(f"SIGKILL, {KILLS} times: the kernel removes the interface, BIRD withdraws")
        times = []
        for _ in range(KILLS):
            one = scene.start(1)
            scene.announced(1, 2)
            times.append(scene.withdrawn_after_ms(one, 1))
            scene.announced(2)
        print(f"withdrawn after {statistics.median(times):.0f} ms (median of {KILLS}; most {max(times):.0f} ms)")
        two.stop()
        scene.announced()


main(script)
