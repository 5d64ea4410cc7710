"""What scripts/bench/cold.sh runs: reads that are not in memory and PUTs to disk, beside fio on the same disk in the same run: cold.py [DIRECTORY [MIB]]"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from harness import ensure, main, random_file, run, say, wait_until
from scene import CLIENT, CLIENT_CORE, DPDK_MIB, GATEWAY, GATEWAY_CORE, PORT, STORE_IDLE, Bench, how_built, pinned
from slow_disk import SlowDisk

ROUNDS = int(os.environ.get("ROUNDS", "3"))
#: What the disk gives the gateway and fio, each way; 0: all it has.
DISK_MB_PER_S = int(os.environ.get("DISK_MB_PER_S", "0"))
#: What a connection may send, as on a link that is slower than the disk; 0: all it can.
LINK_GBIT_PER_S = float(os.environ.get("LINK_GBIT_PER_S", "0"))
#: The client of the hot payload has a memif of its own, beside that of the cold ones.
HOT_GATEWAY, HOT_CLIENT = "10.79.0.1", "10.79.0.2"
#: Fetches of the first group of the hot payload, whose times are measured.
TRIPS = 2000
COLD = 4
#: PUTs that are each durable before the next, beside one that is as long as six payloads.
SHORT_PUTS, SHORT_BYTES, LONG_PUT = 300, 20_000, 6
#: The blocks that the store reads, and how many are on their way for these payloads together.
BLOCK, DEPTH = "2M", COLD * 5


class Cold(Bench):
    """A gateway whose store is on a disk, with two memifs, and a client on each."""

    def __init__(self, directory, mib):
        super().__init__("cold", "/dev/null")
        self.at, self.mib, self.figures = directory, mib, {}
        # The hot payload stays in memory while the cold ones are read into it.
        self.memory_mib = (COLD + 1) * mib + 64

    def __enter__(self):
        super().__enter__()
        self.disk = self.new_directory(self.at)
        self.slow = SlowDisk(self.disk, DISK_MB_PER_S)
        self.identities("gateway", "client")
        self.store, self.process = self.disk / "store", None
        for name, ours, theirs, socket in (
            ("client", CLIENT, GATEWAY, "memif"),
            ("hot", HOT_CLIENT, HOT_GATEWAY, "hot"),
        ):
            network = self.port(self.end_of("client", socket), ours, 1500)
            self.configure(
                name,
                {
                    **self.side("client", "gateway", CLIENT_CORE, "adaptive", 0),
                    "network": network,
                    "connect": f"{theirs}:{PORT}",
                },
            )
        ports = self.port(self.end_of("server", "memif"), GATEWAY, 1500)
        second = [{"device": self.end_of("server", "hot", 1), "addresses": [f"{HOT_GATEWAY}/24"], "mtu": 1500}]
        side = self.side("gateway", "client", GATEWAY_CORE, STORE_IDLE, 0)
        hosts = self.hosts(store=self.store, memory_bytes=self.memory_mib << 20)
        self.configure("gateway", {**side, "network": ports, "network.port": second, **hosts})
        return self

    def side(self, *of):
        sections = super().side(*of)
        if LINK_GBIT_PER_S:
            sections["quic"] = {**sections["quic"], "rate_bits_per_s": int(LINK_GBIT_PER_S * 1e9)}
        return sections

    def end_of(self, role, socket, number=0):
        path = self / f"{socket}.sock"
        # A client of the same station as the one before: the gateway need not look for it.
        mac = "" if role == "server" else f",mac=02:00:00:00:00:{'0a' if socket == 'hot' else '0b'}"
        return f"net_memif{number},role={role},id=0,socket={path},socket-abstract=no,rsize=10{mac}"

    # ---- steps

    def start(self):
        """A gateway with nothing in its memory tier, and a disk whose page cache has nothing of its files."""
        self.stop()
        self.forget()
        self.process = self.gateway("gateway", within=[*self.slow.within, *pinned(GATEWAY_CORE, CLIENT_CORE)])
        self.process.serves()

    def stop(self):
        if self.process:
            self.process.stop()
            self.process = None

    def forget(self):
        for file in self.store.glob("data/*/*"):
            fd = os.open(file, os.O_RDONLY)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(fd)

    def stoq(self, name, *command):
        arguments = [
            *pinned(CLIENT_CORE),
            self.built / "stoq",
            *map(str, command),
            "--json",
            "--config",
            self / f"{name}.toml",
        ]
        return subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=(self / f"{name}.log").open("w"), text=True)

    def result(self, child):
        out, _ = child.communicate(timeout=300)
        logs = "".join(log.read_text() for log in (self / "client.log", self / "hot.log") if log.exists())
        ensure(child.returncode == 0, f"a client failed with status {child.returncode}: {logs}")
        return json.loads(out.splitlines()[-1])

    def get(self, name, *tokens, trips=None):
        """Gets payloads at once, and drops their checked bytes."""
        named = [word for token in tokens for word in ("--get", token)]
        more = ["--round-trips", trips] if trips else []
        return self.stoq(name, "bench", *named, "--streams", len(tokens), *more)

    def fio(self, name, *options):
        said = run(*self.slow.within, "fio", f"--name={name}", "--output-format=json", *options)
        job = json.loads(said)["jobs"][0]
        ensure(job["error"] == 0, f"fio failed: {said}")
        return job

    def note(self, row, mb_per_s):
        self.figures.setdefault(row, []).append(mb_per_s)
        say(f"{row}: {mb_per_s:.0f}")

    # ---- rows

    def put_file(self, mib):
        file = self / "put"
        random_file(file, mib << 20)
        said = self.result(self.stoq("client", "put", file))
        file.unlink()
        return said

    def put(self):
        """Payloads that nothing holds yet, and the same bytes by fio: one writer, one fsync at the end."""
        self.start()
        said = self.put_file(self.mib)
        # The transfer alone: the file was hashed before, by a step of its own.
        self.note("PUT of a file to disk, MB/s", said["gbit_per_s"] * 125)
        # From memory, as the one that is dropped: the client's core reads and hashes nothing meanwhile.
        kept = self.result(self.stoq("client", "bench", "--put", "--keep", "1d", "--bytes", self.mib << 20))
        self.note("PUT from memory to disk, MB/s", kept["gbit_per_s"] * 125)
        dropped = self.result(self.stoq("client", "bench", "--put", "--bytes", self.mib << 20))
        self.note("PUT from memory, checked and dropped, MB/s", dropped["gbit_per_s"] * 125)
        target = self.disk / "written"
        job = self.fio(
            "writes",
            f"--filename={target}",
            "--rw=write",
            "--bs=256k",
            f"--size={self.mib}M",
            "--ioengine=psync",
            "--end_fsync=1",
        )
        self.note("fio writes 256 KiB with one fsync at the end, MB/s", job["write"]["bw_bytes"] / 1e6)
        target.unlink()
        return said["token"]

    def puts_beside(self):
        """Short PUTs, each durable before the next, alone and beside a long one."""
        self.start()
        shorts = [
            "bench", "--put", "--keep", "1d", "--payload", SHORT_BYTES, "--bytes", SHORT_PUTS * SHORT_BYTES,
        ]  # fmt: skip
        alone = self.result(self.stoq("hot", *shorts))
        self.note("short PUTs alone, a second", alone["puts_per_s"])
        self.note("short PUTs alone, p99 us", alone["p99_us"])
        long = self.stoq("client", "bench", "--put", "--keep", "1d", "--bytes", (LONG_PUT * self.mib) << 20)
        wait_until("the long PUT begins", lambda: any((self.store / "tmp").glob("*.blob")), every_s=0.01)
        beside = self.result(self.stoq("hot", *shorts))
        if long.poll() is not None:
            say("the last of the short PUTs came after the long one: give longer payloads")
        self.note("short PUTs beside a long one, a second", beside["puts_per_s"])
        self.note("short PUTs beside a long one, p99 us", beside["p99_us"])
        self.note("a long PUT beside short ones, MB/s", self.result(long)["gbit_per_s"] * 125)
        self.stop()

    def rate(self, *tokens):
        return self.result(self.get("client", *tokens))["gbit_per_s"] * 125

    def fill(self, filler):
        """A gateway whose memory tier is full of another payload: the kernel has cleared its pages."""
        self.start()
        self.rate(filler)

    def reads(self, tokens, filler):
        hot, cold = tokens[0], tokens[1 : COLD + 1]
        self.start()
        self.note("cold GET of a gateway that has just started, MB/s", self.rate(hot))
        self.fill(filler)
        self.note("cold GET, MB/s", self.rate(hot))
        self.note("hot GET, MB/s", self.rate(hot))
        self.note("four hot GETs together, MB/s", self.rate(*[hot] * COLD))
        self.fill(filler)
        self.note("four cold GETs together, MB/s", self.rate(*cold))
        self.stop()
        self.forget()
        files = ":".join(
            str(self.store / "data" / hash[:2] / f"{hash}.blob") for _, hash in (token.split(":") for token in cold)
        )
        job = self.fio(
            "reads", f"--filename={files}", "--file_service_type=sequential", "--rw=read", f"--bs={BLOCK}", f"--iodepth={DEPTH}",
            "--direct=1", "--ioengine=io_uring", f"--size={self.mib * COLD}M", "--readonly",
        )  # fmt: skip
        self.note("fio reads 2 MiB, 20 on their way, MB/s", job["read"]["bw_bytes"] / 1e6)
        self.fill(filler)
        self.rate(hot)
        self.note("hot GETs of 16 KiB alone, p99 us", self.hot(hot, trips=TRIPS)["p99_us"])
        self.note("hot GETs alone, MB/s", self.hot(*[hot] * COLD)["gbit_per_s"] * 125)
        for beside, others in (("four hot ones", [hot] * COLD), ("four cold ones", cold)):
            running = self.get("client", *others)
            self.note(f"hot GETs of 16 KiB beside {beside}, p99 us", self.hot(hot, trips=TRIPS)["p99_us"])
            self.result(running)
        self.fill(filler)
        self.rate(hot)
        for beside, others in (("four hot ones", [hot] * COLD), ("four cold ones", cold)):
            running = self.get("client", *others)
            self.note(f"hot GETs beside {beside}, MB/s", self.hot(*[hot] * COLD)["gbit_per_s"] * 125)
            self.note(f"{beside} beside them, MB/s", self.result(running)["gbit_per_s"] * 125)
        self.stop()

    def hot(self, *tokens, trips=None):
        return self.result(self.get("hot", *tokens, trips=trips))

    def table(self):
        print(
            f"{os.cpu_count()} cores, load average {' '.join(Path('/proc/loadavg').read_text().split()[:3])}, {self.mib} MiB a payload,"
        )
        kind = run("stat", "-f", "-c", "%T", self.disk).strip()
        slow = f", {DISK_MB_PER_S} MB/s each way for the gateway and fio" if DISK_MB_PER_S else ""
        link = f", {LINK_GBIT_PER_S:g} Gbit/s a connection" if LINK_GBIT_PER_S else ""
        print(f"{kind}{slow}{link}, built {how_built(self.built)}\n")
        print("| | " + " | ".join(f"round {number + 1}" for number in range(ROUNDS)) + " |")
        print("|---|" + "---:|" * ROUNDS)
        for row, found in self.figures.items():
            print(f"| {row} | " + " | ".join(f"{value:,.0f}" for value in found) + " |")


def cold():
    directory = sys.argv[1] if sys.argv[1:] else os.environ.get("TMPDIR", "/var/tmp")
    mib = int(sys.argv[2]) if sys.argv[2:] else 512
    ensure(shutil.which("fio"), "fio is missing: apt-get install fio")
    with Cold(directory, mib) as it:
        it.reserve(3 * DPDK_MIB + it.memory_mib)
        try:
            for number in range(ROUNDS):
                say(f"round {number + 1} of {ROUNDS}")
                shutil.rmtree(it.store, ignore_errors=True)
                it.puts_beside()
                shutil.rmtree(it.store)
                tokens = [it.put() for _ in range(COLD + 1)]
                it.reads(tokens, it.put_file(it.memory_mib)["token"])
        finally:
            it.stop()
            it.slow.remove()
        it.table()


main(cold)
