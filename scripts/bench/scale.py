"""The scale rows of run.py, scale-OPERATION-MTU-wN[-vN][-qN]: N workers a side over memif, each pinned to a core of its own.

OPERATION is message, put or get: one connection a worker, without disks; or file-put or file-get: one file over one connection a worker, with a
store on tmpfs. -vN: N verify threads more at the side that receives. -qN: N queues, fewer than workers, which share them.
"""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

from harness import random_file, same
from scene import CLIENT, DPDK_MIB, GATEWAY, RUN_S_MAX, STORE_IDLE, pinned
from wan import Absent

OPERATIONS = {
    "message": "messages",
    "put": "put, checked and dropped",
    "get": "get, checked and dropped",
    "file-put": "one file, put into a store on tmpfs",
    "file-get": "one file, from the gateway's memory to tmpfs",
}
WORKERS, MTUS = (1, 2, 4, 7), (1500, 9000)
#: Of a goodput run, each worker: rows of more workers would else end too soon to say much.
BYTES_A_WORKER = 4 << 30
#: Of a payload that lies in the gateway's memory, or of the file of a run.
PAYLOAD_BYTES = 1 << 30
#: What the buffers of each further worker take, MiB.
WORKER_MIB = 128


def parse(row):
    """Operation, MTU, workers, verify threads and queues of a row; nothing where it is no scale row."""
    found = re.fullmatch(r"scale-([a-z-]+)-(1500|9000)-w([1-9]\d?)(?:-v([1-9]\d?))?(?:-q([1-9]\d?))?", row)
    if not found or found[1] not in OPERATIONS:
        return None
    workers = int(found[3])
    return found[1], int(found[2]), workers, int(found[4] or 0), int(found[5] or workers)


def rows():
    """Those of the section in docs/benchmarks.md."""
    plain = [f"scale-{operation}-{mtu}-w{w}" for mtu in MTUS for operation in OPERATIONS for w in WORKERS]
    verified = [f"scale-{operation}-{mtu}-w{w}-v{w}" for mtu in MTUS for operation in ("put", "get") for w in (1, 2, 4)]
    return [*plain, *verified, *(f"scale-message-1500-w{w}-q1" for w in (2, 4))]


def cores():
    """This machine's cores, those first that share nothing; CORES names an order where the kernel cannot know it."""
    if told := os.environ.get("CORES"):
        return [int(core) for core in told.split()]
    first, others = [], []
    for core in sorted(os.sched_getaffinity(0)):
        path = Path(f"/sys/devices/system/cpu/cpu{core}/topology/thread_siblings_list")
        is_first = not path.exists() or int(re.split("[,-]", path.read_text().strip())[0]) == core
        (first if is_first else others).append(core)
    return first + others


#: Counts additions for a second from a time that all processes wait for.
LOOP = """
import sys, time
begin, end, count = float(sys.argv[1]), float(sys.argv[1]) + 1, 0
while time.time() < begin:
    pass
while time.time() < end:
    for _ in range(1000):
        count += 1
print(count)
"""


def loops(order, count):
    """Additions a second of each of `count` processes that do nothing else at once, each on a core of its own."""
    # Every one of them has started by then.
    begin = str(time.time() + 1)
    started = [
        subprocess.Popen([*pinned(core), sys.executable, "-c", LOOP, begin], stdout=subprocess.PIPE)
        for core in order[:count]
    ]
    return [int(process.communicate()[0]) for process in started]


def machine():
    """How fast its cores are beside each other: the mean of several, over one alone."""
    order = cores()
    alone = loops(order, 1)[0]
    widths = [2 * workers for workers in WORKERS if 2 * workers <= len(order)]
    return {width: round(sum(loops(order, width)) / width / alone, 2) for width in widths}


class Scale:
    """One row. `rows` has the executables, the identities and what is recorded."""

    def __init__(self, rows, row):
        self.rows, self.row = rows, row
        self.operation, self.mtu, self.workers, self.verify, self.queues = parse(row)

    def measure(self):
        rows, order = self.rows, cores()
        need = 2 * self.workers + self.verify
        if len(order) < need:
            raise Absent(f"{self.row} needs {need} cores, and this machine has {len(order)}")
        gateway, client = order[: self.workers], order[self.workers : 2 * self.workers]
        verify = order[2 * self.workers : need]
        at_gateway = self.operation in ("put", "file-put")
        files = self.operation.startswith("file-")
        store = rows.new_store() if self.operation in ("get", "file-put", "file-get") else None
        idle = STORE_IDLE if files else "spin"
        hosts = {"store": store, "memory_bytes": PAYLOAD_BYTES + (64 << 20)} if store else {}
        if self.operation == "get":
            hosts["placement"] = "worker"
        sides = {
            "gateway": self.side("server", gateway, verify if at_gateway else [], idle),
            "client": self.side("client", client, [] if at_gateway else verify, idle),
        }
        with rows.cores_of(gateway, client):
            rows.over_memif(self.mtu, idle, rows.rsizes[self.mtu], **sides, **hosts)
            rows.serve()
            payload = self.run()
            rows.over(self.mtu, payload, idle)
        rows.found["conditions"]["cores"] = f"gateway on {gateway}, client on {client}, verify threads on {verify}"

    def side(self, role, own, verify, idle):
        rows = self.rows
        workers = {"count": len(own), "cores": own, "idle": idle}
        if verify:
            workers |= {"verify_threads": len(verify), "verify_cores": verify}
        address = GATEWAY if role == "server" else CLIENT
        port = rows.port(rows.ring(role, rows.rsizes[self.mtu]), address, self.mtu)
        port |= {"queues": self.queues, "memory_mib": DPDK_MIB + WORKER_MIB * (self.workers - 1)}
        return {"workers": workers, "network": port}

    def run(self):
        """Moves the payload; says what it was."""
        rows, limit = self.rows, ["--time-limit", RUN_S_MAX]
        width = f"{self.workers} connections, one a worker"
        if self.operation == "message":
            sent = rows.stoq("bench", "--bytes", BYTES_A_WORKER * self.workers, *limit)
            return f"messages of {sent['message_bytes']} bytes, {width}"
        if self.operation == "put":
            rows.stoq("bench", "--put", "--bytes", PAYLOAD_BYTES * self.workers, *limit)
            return f"{PAYLOAD_BYTES * self.workers} bytes from memory, {width}"
        file, got = rows / "payload", rows.new_directory(rows.directory) / "got"
        file = file if file.exists() else random_file(file, PAYLOAD_BYTES)
        auto = ["--connections", "auto"]
        if self.operation == "file-put":
            rows.stoq("put", file, *auto)
            return f"one file of {PAYLOAD_BYTES} bytes over {width}"
        token = rows.stoq("put", file)["token"]
        # The first brings the payload from the store into the gateway's memory, the second is what is measured.
        rows.stoq("bench", "--get", token)
        if self.operation == "get":
            rows.stoq("bench", "--get", token, *limit)
            return f"a payload of {PAYLOAD_BYTES} bytes in the gateway's memory to each of {width}"
        rows.stoq("get", token, "-o", got, *auto)
        same(file, got)
        got.unlink()
        return f"one file of {PAYLOAD_BYTES} bytes over {width}"
