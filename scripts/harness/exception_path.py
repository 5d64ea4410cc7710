"""What scripts/anycast-test.sh runs of the exception path: BGP and BFD through the gateways' own DPDK ports. No other way leads to their hosts."""

import signal
import socket
import statistics
import subprocess
import time
from pathlib import Path

from harness import AF_PACKET, ECHO, cable, dpdk, ensure, inside, main, run, say, wait_until
from harness.anycast import Anycast
from harness.asking import ask, total
from harness.routing import V4, V6

ROUNDS = 5
#: What a client beyond the router sends to ports that are closed, as fast as it can.
FLOOD_PACKETS = 200_000


class ExceptionPath(Anycast):
    """A client, a router, and two gateways whose kernels have no interface but that of the gateway."""

    def __init__(self):
        super().__init__()
        self.name = self.name.replace("anycast", "exception")

    def build(self):
        say("a client behind a router, and two gateways' hosts: one with BIRD, one with FRR")
        self.router, self.place = self.namespace("r"), self.namespace("c")
        self.hosts = {n: self.namespace(f"g{n}") for n in (1, 2)}
        cable("to-c", "port", self.router, self.place)
        self.addresses(self.router, "to-c", "10.9.9.1/24", "fd09:9::1/64")
        self.addresses(self.place, "port", "10.9.9.2/24", "fd09:9::2/64")
        run("ip", "-n", self.place, "route", "add", "default", "via", "10.9.9.1")
        run("ip", "-n", self.place, "route", "add", "default", "via", "fd09:9::1")
        for key in ("ipv4/ip_forward", "ipv6/conf/all/forwarding"):
            run(*inside(self.router), "sh", "-c", f"echo 1 >/proc/sys/net/{key}")
        for n, host in self.hosts.items():
            cable(f"to-g{n}", "port", self.router, host)
            self.addresses(self.router, f"to-g{n}", f"10.9.{n}.1/24", f"fd09:{n}::1/64")
            # The port is DPDK's: the kernel has no address there, and hears nothing of what arrives.
            run(*inside(host), "sh", "-c", "echo 1 >/proc/sys/net/ipv6/conf/port/disable_ipv6")
            deaf = "table netdev deaf { chain in { type filter hook ingress device port priority 0; policy drop; }; }"
            run(*inside(host), "nft", deaf)
        text = Path("configs/bird/router-port.conf").read_text()
        # As the file says of a gateway with FRR.
        for neighbor in ("10.9.2.2", "fd09:2::2"):
            text = text.replace(
                f"neighbor {neighbor} as GATEWAYS_AS;", f"neighbor {neighbor} as GATEWAYS_AS; ttl security off;"
            )
        self.bird("r", self.router, text)
        self.bird("g1", self.hosts[1], Path("configs/bird/gateway-port.conf").read_text())
        text = Path("configs/frr/gateway-port.conf").read_text()
        own = text.replace("10.9.1.", "10.9.2.").replace("fd09:1:", "fd09:2:")
        self.frr("g2", self.hosts[2], own, daemons=("zebra", "bfdd", "bgpd"))

    def addresses(self, place, port, v4, v6):
        run("ip", "-n", place, "addr", "add", v4, "dev", port)
        run("ip", "-n", place, "addr", "add", v6, "dev", port, "nodad")

    def configured(self, n):
        addresses = (f"10.9.{n}.2/24", f"fd09:{n}::2/64", f"{V4}/32", f"{V6}/128")
        next_hops = {"next_hop_v4": f"10.9.{n}.1", "next_hop_v6": f"fd09:{n}::1"}
        network = dpdk(AF_PACKET.format("port"), *addresses, **next_hops, huge_pages="none", memory_mib=128)
        anycast = {"interface": f"stoq{n}", "addresses": [V4, V6], "settle_ms": 1000, "exception_path": True}
        return self.configure(
            f"g{n}",
            {
                "network": network,
                **self.who("g", "client"),
                "application": [ECHO],
                "admin": {"listen": "127.0.0.1:9464"},
                "anycast": anycast,
                "shutdown": {"drain_ms": 1000},
            },
        )

    def start(self, n):
        gateway = super().start(n)
        for version in ("v4", "v6"):
            wait_until(f"g{n}{version} is established", lambda name=f"g{n}{version}": self.is_established(name))
        return gateway

    def ping(self, address):
        trust = ["--node-id", self.ids["g"], "--cert", self / "client.pem", "--key", self / "client.key"]
        return run(*inside(self.place), self.stoq_executable, "ping", "-g", address, *trust, "-c", "1")

    def sessions(self):
        """The router's BFD sessions that are up."""
        return sum(" Up " in line for line in self.birdc("show", "bfd", "sessions").splitlines())

    def count(self, n, counter):
        return total(ask(self.hosts[n], "/metrics").decode(), counter)

    def left_after_ms(self, n, others):
        """How long the router's kernel sends to a gateway from now on."""
        since = time.monotonic()
        wait_until("the router leaves it", lambda: self.next_hops(V4) == self.next_hops(V6) == others, every_s=0.002)
        return (time.monotonic() - since) * 1000


def summary(times):
    return f"{statistics.median(times):.0f} ms (median of {len(times)}; most {max(times):.0f} ms)"


def flood(address):
    """Datagrams to closed ports."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for number in range(FLOOD_PACKETS):
            sender.sendto(b"noise", (address, 5000 + number % 1000))


def script():
    with ExceptionPath() as scene:
        scene.identities("g", "client")
        scene.build()
        say("BGP and BFD come up through the ports, and both families are announced")
        running = {n: scene.start(n) for n in (1, 2)}
        scene.announced(1, 2)
        wait_until("four BFD sessions are up", lambda: scene.sessions() == 4)
        for address in (V4, f"[{V6}]"):
            print(scene.ping(f"{address}:4433"), end="")
        for n in scene.hosts:
            counts = {counter: scene.count(n, counter) for counter in ("exceptions_in", "exceptions_out")}
            ensure(min(counts.values()) > 0, f"g{n}: {counts}")
            print(f"g{n}: {counts}")

        say("what else the port receives is the kernel's: a connection of TCP to a port that nothing has is refused")
        refused = subprocess.run(
            [*inside(scene.router), "python3", "-c", "import socket; socket.create_connection(('10.9.1.2', 81), 60)"],
            capture_output=True,
            text=True,
            check=False,
        )
        ensure("ConnectionRefusedError" in refused.stderr, refused.stderr)

        say("a gateway that stands: BFD is silent, and the router leaves it")
        for n in scene.hosts:
            times = []
            for _ in range(ROUNDS):
                running[n].process.send_signal(signal.SIGSTOP)
                times.append(scene.left_after_ms(n, [3 - n]))
                running[n].process.send_signal(signal.SIGCONT)
                scene.announced(1, 2)
                wait_until("four BFD sessions are up", lambda: scene.sessions() == 4)
            print(f"stopped: left after {summary(times)}, g{n}")

        say("SIGKILL")
        times = []
        for _ in range(ROUNDS):
            running[1].process.send_signal(signal.SIGKILL)
            times.append(scene.left_after_ms(1, [2]))
            running[1].process.wait()
            running[1] = scene.start(1)
            scene.announced(1, 2)
            wait_until("four BFD sessions are up", lambda: scene.sessions() == 4)
        print(f"killed: left after {summary(times)}")

        say(f"{FLOOD_PACKETS} datagrams to closed ports, from beyond the router")
        command = ["python3", "-c", "from harness.exception_path import flood; flood('10.9.1.2')"]
        since, before = time.monotonic(), scene.count(1, "exceptions_in")
        subprocess.run([*inside(scene.place), *command], cwd="scripts", check=True)
        took_s = time.monotonic() - since
        given, limited = scene.count(1, "exceptions_in") - before, scene.count(1, "drop_exception_limited")
        # How many are dropped past the bound depends on the machine.
        ensure(given > 0, "nothing of the flood has arrived")
        wait_until("four BFD sessions are up", lambda: scene.sessions() == 4)
        scene.announced(1, 2)
        print(f"sent in {took_s:.1f} s; given to the kernel: {given}; dropped past the bound: {limited}")
        print(scene.birdc("show", "bfd", "sessions"), end="")

        say("SIGTERM: the addresses are withdrawn first, and the gateway serves on")
        running[1].process.send_signal(signal.SIGTERM)
        scene.announced(2)
        ensure(running[1].process.poll() is None, "the gateway ended before its addresses were withdrawn")
        ensure(running[1].process.wait(60) == 0, "the gateway did not end well")
        running[2].stop()
        logs = [running[n].log.read_text() for n in running]
        ensure(not any(" ERROR" in log for log in logs), "\n".join(logs))


if __name__ == "__main__":
    main(script)
