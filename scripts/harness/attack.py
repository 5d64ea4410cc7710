"""What scripts/attack.sh runs, once it has looked at the machine. docs/security.md names each attack, its defense and its bound."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

from harness import (
    AF_PACKET,
    DISCARD,
    ECHO,
    Scene,
    cable,
    dpdk,
    ensure,
    inside,
    kernel,
    main,
    random_file,
    run,
    same,
    say,
    seed,
    wait_until,
)

GATEWAY, CLIENT = "10.80.0.1", "10.80.0.2"
AT = f"{GATEWAY}:4433"
ADMIN = ("127.0.0.1", 9580)
#: An honest payload, bytes.
PAYLOAD_BYTES = 4 << 20
#: How long an attack lasts at least, seconds.
ATTACK_S = 4
#: What an attacker puts and does not go on with, bytes.
LARGE_BYTES = 96 << 20
#: What the gateway's memory may grow by beside the bound of an attack, bytes: what honest clients need, and what the allocator keeps.
SLACK_BYTES = 48 << 20


class Attacks(Scene):
    """The gateway's end of a veth pair here, client and attacker in a namespace."""

    def __init__(self):
        super().__init__("attack")

    def build(self):
        self.far_namespace, self.near, self.far = (
            self.namespace("", ipv6=False),
            self.interface("n"),
            self.interface("f"),
        )
        cable(self.near, self.far, None, self.far_namespace)
        run("ip", "addr", "flush", "dev", self.near)
        run(*inside(self.far_namespace), "ip", "addr", "add", f"{CLIENT}/16", "dev", self.far)
        self.identities("gateway", "client", "attacker")
        port = dpdk(AF_PACKET.format(self.near), f"{GATEWAY}/16", huge_pages="none", memory_mib=128)
        self.configure(
            "gateway",
            {
                "network": port,
                **self.who("gateway", "client", "attacker"),
                "admin": {"listen": f"{ADMIN[0]}:{ADMIN[1]}"},
                "application": [seed(memory_bytes=8 << 20, capacity_bytes=1 << 30), ECHO, DISCARD],
            },
        )
        network = {"network": kernel(f"{CLIENT}:0"), "connect": AT, "log": {"level": "error"}}
        self.configure("attacker", {**self.who("attacker", "gateway"), **network})
        self.stoq = self.client("gateway", inside(self.far_namespace), show=False)
        self.served = self.gateway("gateway").serves()
        self.honest()

    def honest(self):
        """A payload of a client crosses both ways, over a new connection each."""
        file, got = random_file(self / "file", PAYLOAD_BYTES), self / "got"
        token = self.stoq("put", AT, file, "--quiet")
        got.unlink(missing_ok=True)
        self.stoq("get", AT, token, "-o", got, "--quiet")
        same(file, got)

    def resident(self, which):
        """Resident memory of the gateway, bytes: `VmRSS` now, `VmHWM` at its peak since `forget_peak`."""
        lines = Path(f"/proc/{self.served.process.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith(which))

    def forget_peak(self):
        Path(f"/proc/{self.served.process.pid}/clear_refs").write_text("5")

    def attacker(self, tool, *arguments, stdout=subprocess.DEVNULL):
        """A process of the attacker, as a context."""
        command = [*inside(self.far_namespace), self.built / tool, *arguments, "--config", self / "attacker.toml"]
        return running(map(str, command), stdout)

    def beside(self, what, attack, bound_bytes):
        """Honest payloads cross during an attack, and the gateway's memory keeps its bound."""
        say(what)
        before = self.resident("VmRSS")
        self.forget_peak()
        with attack:
            until = time.monotonic() + ATTACK_S
            self.honest()
            # Two payloads a second: the store keeps those of all attacks.
            while time.monotonic() < until:
                time.sleep(0.5)
                self.honest()
        grown = self.resident("VmHWM") - before
        print(f"{what}: the gateway took {grown >> 20} MiB more at its peak", flush=True)
        ensure(
            grown <= bound_bytes + SLACK_BYTES, f"{what}: the gateway took {grown} bytes; {bound_bytes} is the bound"
        )
        ensure(self.served.process.poll() is None, f"{what}: the gateway ended\n{self.served.log.read_text()}")

    # ---- attacks

    def flood(self, mode, rate, *options):
        """Load of stoq-pktgen without an end."""
        return self.attacker("stoq-pktgen", mode, "--rate", str(rate), "--seconds", "600", *options)

    @contextlib.contextmanager
    def frames(self, make, each_s):
        """Frames of the attacker's own on the link, one at a time."""
        # A socket belongs to the namespace in which it is made: a process of its own enters that.
        code = "import sys, harness.frames as f; f.send(*sys.argv[1:])"
        station = Path(f"/sys/class/net/{self.near}/address").read_text().strip()
        command = [*inside(self.far_namespace), sys.executable, "-c", code, self.far, station, make, str(each_s)]
        with running(command):
            yield

    @contextlib.contextmanager
    def dripping(self):
        """As many connections to the admin endpoint as it has places, which send a head byte by byte; probes are answered."""
        sockets, over = [socket.create_connection(ADMIN, timeout=10) for _ in range(64)], threading.Event()
        heads = [iter(b"GET /livez HTTP/1.1\r\nX-Drip: " + b"d" * 10_000) for _ in sockets]

        def drip():
            while not over.wait(0.2):
                for each, head in zip(sockets, heads, strict=True):
                    # A connection that was closed is opened again.
                    with contextlib.suppress(OSError):
                        each.send(bytes([next(head)]))

        thread = threading.Thread(target=drip)
        thread.start()
        try:
            for _ in range(5):
                run(self.gateway_executable, "health", "--url", f"http://{ADMIN[0]}:{ADMIN[1]}/livez")
            yield
        finally:
            over.set()
            thread.join()
            for each in sockets:
                each.close()

    @contextlib.contextmanager
    def unread_gets(self, count):
        """GETs whose answers are not read, each on its own connection. The first is read in the end, and is whole."""
        file, got = random_file(self / "unread", LARGE_BYTES), self / "read"
        token = self.stoq("put", AT, file, "--quiet")
        with contextlib.ExitStack() as stack:
            gets = [
                stack.enter_context(
                    self.attacker("stoq", "get", token, "-g", AT, "-o", "-", "--quiet", stdout=subprocess.PIPE)
                )
                for _ in range(count)
            ]
            # Each answer has begun.
            first = [get.stdout.read(1) for get in gets]
            yield
            with got.open("wb") as out:
                out.write(first[0])
                shutil.copyfileobj(gets[0].stdout, out)
            same(file, got)

    @contextlib.contextmanager
    def idle_puts(self, count):
        """PUTs whose clients stop in the middle: the store gets no larger for bytes that never come."""
        store = self / "store"
        before = disk_bytes(store)
        file = random_file(self / "large", LARGE_BYTES)
        with contextlib.ExitStack() as stack:
            for _ in range(count):
                # Another payload each: one that is being put already would be refused.
                with file.open("ab") as more:
                    more.write(os.urandom(1))
                begun = written(store)
                put = stack.enter_context(self.attacker("stoq", "put", file, "-g", AT))

                def has_begun(put=put, begun=begun):
                    ensure(put.poll() is None, f"a put ended: {put.poll() is not None and put.stderr.read().decode()}")
                    return written(store) > begun

                wait_until("a put begins", has_begun, every_s=0.01, patience_s=20)
                put.send_signal(signal.SIGSTOP)
            yield
            grown = disk_bytes(store) - before
            ensure(grown < LARGE_BYTES, f"{count} idle PUTs took {grown} bytes of the disk")


@contextlib.contextmanager
def running(command, stdout=subprocess.DEVNULL):
    """A process that is there meanwhile, and must not have failed by itself."""
    process = subprocess.Popen(list(command), stdout=stdout, stderr=subprocess.PIPE)
    try:
        yield process
        failed = process.poll() not in (None, 0)
        ensure(not failed, f"{command}: {process.stderr.read().decode() if failed else ''}")
    finally:
        process.kill()
        process.wait()
        process.stderr.close()
        if process.stdout:
            process.stdout.close()


def written(store):
    """The number of files that are being written."""
    return sum(1 for path in (store / "tmp").rglob("*") if path.is_file())


def disk_bytes(directory):
    return sum(path.stat().st_blocks * 512 for path in directory.rglob("*") if path.is_file())


def attacks():
    with Attacks() as it:
        it.build()
        # docs/security.md: 1,024 half-open connections take 37 MiB, and attempts that wait 4 MiB.
        half_open = 41 << 20
        # Below the rate of Retry packets: a new client does not compete for them. scripts/bench/run.sh has a row beyond it.
        it.beside("Initials that never complete", it.flood("halves", 400), half_open)
        it.beside("CRYPTO with gaps", it.flood("gaps", 2000), half_open)
        it.beside("whole first flights, never completed", it.flood("initials", 800), half_open)
        it.beside("garbage", it.flood("garbage", 20_000, "--size", "imix"), 0)
        it.beside("handshakes, one after the other", it.flood("handshakes", 50, "--concurrency", "4"), half_open)
        # docs/security.md: 8 MiB of answers and 1 MiB of messages a connection, and a receive window of as many MiB.
        it.beside("messages of one byte", it.flood("goodput", 50_000, "--connections", "4", "--size", "1"), 64 << 20)
        it.beside("claims to the client's address", it.frames("claims", 0.01), 0)
        it.beside("spoofed addresses on the link", it.frames("spoofed", 0.001), 8 << 20)
        it.beside("heads that drip on the admin endpoint", it.dripping(), 4 << 20)
        # docs/security.md: 32 MiB of answers and a send window of 16 MiB a connection.
        it.beside("GETs that are not read", it.unread_gets(4), 4 * (48 << 20))
        it.beside("PUTs that go no further", it.idle_puts(4), 64 << 20)
        it.honest()
        counted = it.served.stop()[0]["counters"]
        for name in (
            "quic_retries_sent",
            "drop_not_quic",
            "neighbor_claims_refuted",
            "drop_neighbor_limited",
            "handshakes_server_completed",
        ):
            ensure(counted.get(name, 0) > 0, f"{name} is 0: an attack did not arrive\n{counted}")
        ensure(counted.get("neighbor_stations_changed", 0) == 0, f"a claim took the client's address\n{counted}")
        log = it.served.log.read_text()
        ensure(" ERROR" not in log and "panicked" not in log, f"the gateway's log has an error\n{log}")
    say("the gateway bore the attacks")


main(attacks)
