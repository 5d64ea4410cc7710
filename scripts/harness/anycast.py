"""What scripts/anycast-test.sh runs, once it has looked at the machine."""

import shutil
import signal
import statistics
import subprocess
import time
from pathlib import Path

from harness import ECHO, cable, ensure, inside, main, run, say, wait_until
from harness.routing import V4, V6, Routing

KILLS = 20


class Anycast(Routing):
    """A router, and two gateways that announce the same addresses."""

    def __init__(self):
        super().__init__("anycast")

    def build(self):
        say("a router and a gateway's host with BIRD, another host with FRR")
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
        self.bird("g1", self.hosts[1], Path("configs/bird/gateway.conf").read_text())
        text = Path("configs/frr/gateway.conf").read_text()
        self.frr("g2", self.hosts[2], text.replace("10.9.1.", "10.9.2.").replace("fd09:1:", "fd09:2:"))
        for n in self.hosts:
            for version in ("v4", "v6"):
                wait_until(f"g{n}{version} is established", lambda name=f"g{n}{version}": self.is_established(name))

    def frr(self, name, place, text, daemons=("zebra", "bgpd")):
        """These daemons of FRR, which give up root's rights: they have a directory of their own. vtysh gives each its part of the configuration."""
        there = self.new_directory()
        config, empty = there / "frr.conf", there / "empty.conf"
        config.write_text(text)
        said = run("vtysh", "-C", "-f", config)
        ensure("Unknown command" not in said, said)
        empty.touch()
        for file in (there, config, empty):
            shutil.chown(file, "frr", "frr")
        at = ["-z", there / "zserv", "--vty_socket", there, "-P", "0", "--log", "stdout"]
        for program in daemons:
            command = [f"/usr/lib/frr/{program}", "-f", empty, "-i", there / f"{program}.pid", *at]
            if program == "bfdd":
                command += ["--bfdctl", there / "bfdd.sock"]
            self.daemon(f"{name}-{program}", inside(place, *map(str, command)))
            wait_until(f"{program} answers", (there / f"{program}.vty").exists)
        said = run("vtysh", "--vty_socket", there, "-f", config)
        ensure("Unknown command" not in said, said)

    def announced(self, *gateways):
        wait_until(
            f"the router sends to {gateways}", lambda: self.next_hops(V4) == self.next_hops(V6) == list(gateways)
        )

    def configured(self, n):
        return self.configure(
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

    def start(self, n):
        self.configured(n)
        return self.gateway(f"g{n}", inside(self.hosts[n])).serves()

    def ping(self, address):
        within = inside(self.router)
        trust = ["--node-id", self.ids["g"], "--cert", self / "client.pem", "--key", self / "client.key"]
        return run(*within, self.stoq_executable, "ping", "-g", address, *trust, "-c", "1")

    def withdrawn_after_ms(self, gateway, n):
        """Kills a gateway; how long the router's kernel sent to it afterwards."""
        gateway.process.send_signal(signal.SIGKILL)
        killed = time.monotonic()
        wait_until("the route is gone", lambda: n not in self.next_hops(), every_s=0.001)
        after_ms = (time.monotonic() - killed) * 1000
        gateway.process.wait()
        return after_ms

    def alone(self):
        """On a host without a router: an interface that would outlive the gateway, and a kernel that takes no IPv6 address."""
        host = self.hosts[1] = self.namespace("alone")
        run("ip", "-n", host, "tuntap", "add", "stoq1", "mode", "tun")
        config = self.configured(1)
        started = subprocess.run(
            inside(host, self.gateway_executable, "run", "--config", config),
            capture_output=True,
            text=True,
            check=False,
        )
        ensure(started.returncode == 1 and "stoq1 is there already" in started.stderr, started.stderr)
        run("ip", "-n", host, "link", "delete", "stoq1")
        run(*inside(host), "sh", "-c", "echo 1 >/proc/sys/net/ipv6/conf/default/disable_ipv6")
        gateway = self.gateway("g1", inside(host)).serves()
        wait_until("the log says so", lambda: "addresses cannot be changed" in gateway.log.read_text())
        ensure(V4 not in run("ip", "-n", host, "addr", "show", "stoq1"), "one address of two is announced")
        gateway.stop()


def script():
    with Anycast() as scene:
        say("a persistent interface is refused, and all addresses are announced or none")
        scene.hosts = {}
        scene.identities("g", "client")
        scene.alone()
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

        say(f"SIGKILL, {KILLS} times: the kernel removes the interface, BIRD withdraws, and then FRR")
        for n, daemon in ((1, "BIRD"), (2, "FRR")):
            if n == 2:
                two.stop()
                scene.announced()
            others = (2,) if n == 1 else ()
            times = []
            for _ in range(KILLS):
                killed = scene.start(n)
                scene.announced(*sorted((n, *others)))
                times.append(scene.withdrawn_after_ms(killed, n))
                scene.announced(*others)
            text = f"{statistics.median(times):.0f} ms (median of {KILLS}; most {max(times):.0f} ms)"
            print(f"{daemon}: withdrawn after {text}")
        scene.announced()


if __name__ == "__main__":
    main(script)
