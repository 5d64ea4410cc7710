"""What scripts/bench/puts.sh runs: puts that a gateway's store keeps, beside the syncs of the same disk: puts.py [DIRECTORY [BYTES]]"""

import json
import os
import shutil
import sys
import time
from pathlib import Path

from harness import main, run, say
from scene import CLIENT_CORE, DPDK_MIB, GATEWAY_CORE, STORE_IDLE, Bench, how_built, pinned

ROUNDS = int(os.environ.get("ROUNDS", "3"))
PUTS = int(os.environ.get("PUTS", "100000"))
#: Connections, and requests at once on each.
WIDTHS = ((1, 1), (64, 1), (64, 4))
RING = 8
#: How long syncs are counted, seconds.
SYNCS_S = 2


class Puts(Bench):
    """A gateway whose store is on a disk, and a client over memif."""

    def __init__(self, directory, payload_bytes):
        super().__init__("puts", "/dev/null")
        self.at, self.payload_bytes, self.figures = directory, payload_bytes, {}

    def __enter__(self):
        super().__enter__()
        self.disk = self.new_directory(self.at)
        self.identities("gateway", "client")
        self.store = self.disk / "store"
        return self

    def stoq(self, *command):
        config = self / "client.toml"
        return json.loads(
            run(*pinned(CLIENT_CORE), self.built / "stoq", *map(str, command), "--json", "--config", config)
        )

    def syncs(self, batch_bytes):
        """Syncs a second of a file that is written over, each of this number of bytes in one piece."""
        path, data = self.disk / "syncs", os.urandom(batch_bytes)
        fd = os.open(path, os.O_RDWR | os.O_CREAT)
        try:
            for number in range(16):
                os.pwrite(fd, data, number * batch_bytes)
            os.fsync(fd)
            begun, syncs = time.monotonic(), 0
            while time.monotonic() - begun < SYNCS_S:
                os.pwrite(fd, data, syncs % 16 * batch_bytes)
                os.fdatasync(fd)
                syncs += 1
            return syncs / (time.monotonic() - begun)
        finally:
            os.close(fd)
            path.unlink()

    def note(self, row, text):
        self.figures.setdefault(row, []).append(text)
        say(f"{row}: {text}")

    def row(self, connections, streams):
        name = f"{connections} × {streams}"
        width = connections * streams
        puts = PUTS if width > 1 else PUTS // 50
        before = self.syncs(width * self.payload_bytes)
        done = self.stoq(
            *("bench", "--put", "--keep", "1d", "--payload", self.payload_bytes, "--bytes", puts * self.payload_bytes),
            *("--connections", connections, "--streams", streams, "--time-limit", 600),
        )
        after = self.syncs(width * self.payload_bytes)
        rate, syncs = done["puts_per_s"], (before + after) / 2
        self.note(f"{name}: PUTs a second", f"{rate:,.0f}")
        self.note(f"{name}: p50 and p99, ms", f"{done['p50_us'] / 1e3:.2f} and {done['p99_us'] / 1e3:.2f}")
        self.note(
            f"{name}: syncs a second of {width} × {self.payload_bytes} bytes, before and after",
            f"{before:,.0f} and {after:,.0f}",
        )
        self.note(f"{name}: of what such syncs allow", f"{rate / (syncs * width):.2f}")

    def round(self):
        shutil.rmtree(self.store, ignore_errors=True)
        self.over_memif(1500, STORE_IDLE, RING, store=self.store, memory_bytes=256 << 20)
        process = self.gateway("gateway", within=pinned(GATEWAY_CORE, CLIENT_CORE))
        process.serves()
        try:
            for width in WIDTHS:
                self.row(*width)
        finally:
            process.stop()

    def table(self):
        load = " ".join(Path("/proc/loadavg").read_text().split()[:3])
        kind = run("stat", "-f", "-c", "%T", self.disk).strip()
        print(
            f"{os.cpu_count()} cores, load average {load}, {PUTS} payloads of {self.payload_bytes} bytes a row, a fiftieth in the first,"
        )
        print(f"connections × requests at once on each; {kind}, built {how_built(self.built)}\n")
        print("| | " + " | ".join(f"round {number + 1}" for number in range(ROUNDS)) + " |")
        print("|---|" + "---:|" * ROUNDS)
        for row, found in self.figures.items():
            print(f"| {row} | " + " | ".join(found) + " |")


def puts():
    directory = sys.argv[1] if sys.argv[1:] else os.environ.get("TMPDIR", "/var/tmp")
    payload_bytes = int(sys.argv[2]) if sys.argv[2:] else 4096
    with Puts(directory, payload_bytes) as it:
        it.reserve(3 * DPDK_MIB)
        for number in range(ROUNDS):
            say(f"round {number + 1} of {ROUNDS}")
            it.round()
        it.table()


main(puts)
