"""What the rows of run.py and the trials of pktgen.py share: cores, memory, configurations, and clients that are measured."""

import contextlib
import json
import os
import select
import shutil
import subprocess
import time
import tomllib
from datetime import UTC, datetime
from pathlib import Path

from harness import ECHO, Failed, Scene, dpdk, run, seed
from results import PEERS

GATEWAY_CORE, CLIENT_CORE, VERIFY_CORE = 1, 0, 2
GATEWAY, CLIENT = "10.77.0.1", "10.77.0.2"
PORT = 4433
#: Of the DPDK of one process, MiB.
DPDK_MIB = 256
#: A client that takes longer hangs, seconds.
RUN_S_MAX = 180
#: A gateway that takes longer for its end has a bug, seconds.
END_S = 10
#: A store works on a thread of its own; on one core a side a worker that never yields would stand in its way.
STORE_IDLE = "adaptive"
#: Socket buffers of kernel sockets; the kernel's own bound is raised to this meanwhile.
SOCKET_BYTES = 16 << 20
#: The queue of a discard application that checks nothing.
UNCHECKED_QUEUE = 6
#: The same for both sides of every row: the send and receive windows bound nothing. The controller is the peers' too, and so is the size of packets, which is
#: not searched.
QUIC = {
    "congestion_control": "cubic",
    "mtu_discovery": False,
    "stream_receive_window_bytes": 64 << 20,
    "receive_window_bytes": 128 << 20,
    "send_window_bytes": 64 << 20,
    "initial_congestion_window_bytes": 4 << 20,
}
HUGE_PAGES = Path("/proc/sys/vm/nr_hugepages")


def pinned(*cores):
    return ["taskset", "-c", ",".join(map(str, cores))]


def memory(pid):
    """KiB of a process: resident at its peak without huge pages, and in huge pages now. Nothing once it has ended."""
    found = {}
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            name, _, value = line.partition(":")
            if name in ("VmHWM", "HugetlbPages"):
                found[name] = int(value.split()[0])
    return found.get("VmHWM", 0), found.get("HugetlbPages", 0)


def measured(command, **streams):
    """Runs a command that must not fail; gives what it took. Its memory is looked at ten times a second, since it is gone with the process;
    its CPU time is exact."""
    started, peak, huge = time.monotonic(), 0, 0
    with subprocess.Popen(command, **streams) as child:
        over = os.pidfd_open(child.pid)
        try:
            while True:
                now = memory(child.pid)
                peak, huge = max(peak, now[0]), max(huge, now[1])
                if select.select([over], [], [], 0.1)[0]:
                    break
                if time.monotonic() - started > RUN_S_MAX:
                    raise Failed(f"{command[-1]} and what stands before it did not end within {RUN_S_MAX} s")
            _, status, usage = os.wait4(child.pid, 0)
            child.returncode = os.waitstatus_to_exitcode(status)
        finally:
            os.close(over)
            end(child)
    if child.returncode:
        raise Failed(f"this failed with status {child.returncode}: {' '.join(map(str, command))}")
    cpu_s, wall_s = round(usage.ru_utime + usage.ru_stime, 3), round(time.monotonic() - started, 3)
    return {"peak_kib": peak, "huge_kib": huge, "cpu_s": cpu_s, "wall_s": wall_s}


def end(process):
    """Ends a process if it runs, by force after a while; gives its status."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(END_S)
        except subprocess.TimeoutExpired:
            process.kill()
    return process.wait()


def usage(pid):
    """What a process took so far."""
    peak, huge = memory(pid)
    ticks = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return {"peak_kib": peak, "huge_kib": huge, "cpu_s": sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")}


def how_built(directory):
    """How the executables of a directory were built."""
    note = directory / "BUILD"
    return note.read_text().strip() if note.exists() else "with fat LTO"


def environment(build, rounds):
    """The first line of the output: what all rows have in common."""

    def locked(path):
        with open(path, "rb") as file:
            packages = tomllib.load(file)["package"]
        return {package["name"]: package["version"] for package in reversed(packages)}

    ours, peers = locked("Cargo.lock"), locked("benches/peers/Cargo.lock")
    git = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    cpu = next(line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name"))
    common = {
        "stoq": ours["stoq"],
        "commit": git.stdout.strip() or "unknown",
        "build": build,
        "quinn_proto": ours["quinn-proto"],
        "rustls": ours["rustls"],
        "aws_lc_rs": ours["aws-lc-rs"],
        "quinn": peers["quinn"],
        "peer_quinn_proto": peers["quinn-proto"],
        "s2n_quic": peers["s2n-quic"],
        "quiche": peers["quiche"],
        "tquic": peers["tquic"],
        "dpdk": run("pkg-config", "--modversion", "libdpdk").strip(),
        "rustc": run("rustc", "--version").split()[1],
        "kernel": os.uname().release,
        "cpu": cpu.partition(": ")[2],
        "cores": os.cpu_count(),
        "load_before": Path("/proc/loadavg").read_text().split()[0],
        "date": datetime.now(UTC).date().isoformat(),
        "rounds": rounds,
    }
    return {"environment": common}


class Bench(Scene):
    """A directory in memory, with copies of the executables: a build that goes on meanwhile does not change what is measured."""

    def __init__(self, name, out):
        super().__init__(name, "/dev/shm")
        self.out = Path(out)
        self.udp_checksum = True
        self.verifies = False
        self.in_fleet = False

    def __enter__(self):
        super().__enter__()
        self.built = self.copied(self.built, "bin")
        return self

    def copied(self, built, name):
        """A copy of a directory's executables."""
        to = self / name
        to.mkdir()
        for file in "BUILD", "stoq", "stoq-gateway", "stoq-pktgen", "ceiling", *(f"{peer}-peer" for peer in PEERS):
            if (built / file).is_file():
                shutil.copy(built / file, to)
        return to

    def raised(self, setting, value):
        """Sets a bound of the kernel until the end, unless it is as high."""
        before = int(setting.read_text())
        if before < value:
            self.stack.callback(setting.write_text, f"{before}\n")
            setting.write_text(f"{value}\n")

    def reserve(self, mib):
        """Huge pages, if so much is not free and the kernel finds them."""
        lines = (line.partition(":") for line in Path("/proc/meminfo").read_text().splitlines())
        known = {name: int(value.split()[0]) for name, _, value in lines}
        page_kib = known.get("Hugepagesize", 0)
        if page_kib and known["HugePages_Free"] * page_kib < mib << 10:
            with contextlib.suppress(OSError):
                self.raised(HUGE_PAGES, known["HugePages_Total"] + (mib << 10) // page_kib)

    def record(self, line):
        with self.out.open("a") as out:
            print(json.dumps(line, separators=(",", ":")), file=out)

    # ---- configuration

    def side(self, name, peer, core, idle, initial_mtu):
        """What every configuration has."""
        quic = {"initial_udp_payload_bytes": initial_mtu, **QUIC}
        workers = {"cores": [core], "idle": idle}
        if self.verifies:
            # Without a third core the verify thread has the other side's, which must then yield it.
            other = CLIENT_CORE if core == GATEWAY_CORE else GATEWAY_CORE
            verify_core = VERIFY_CORE if os.cpu_count() > VERIFY_CORE else other
            workers |= {"idle": "adaptive", "verify_threads": 1, "verify_cores": [verify_core]}
        return {"workers": workers, **self.who(name, peer), "quic": quic}

    def port(self, device, address, mtu):
        return dpdk(device, f"{address}/24", mtu=mtu, udp_checksum=self.udp_checksum, memory_mib=DPDK_MIB)

    def ring(self, role, rsize):
        """One end of memif."""
        return f"net_memif0,role={role},id=0,socket={self / 'memif.sock'},socket-abstract=no,rsize={rsize}"

    def of_fleet(self):
        """The sections of a fleet of one."""
        key = self / "fleet.key"
        key.touch(0o600)
        key.write_bytes(bytes(32))
        rotation = {"number": 0, "salt": "0" * 32, "state": "issue"}
        return {"fleet": {"key_file": "fleet.key", "server_id": "000001"}, "fleet.rotation": [rotation]}

    def hosts(self, memory_bytes=0, store=None, **more):
        """The sections of a gateway: its applications, of which a store is one where a directory is given."""
        discard = {"kind": "discard", "queues": [2, 3, 4, 5]}
        applications = [ECHO, discard, {"kind": "discard", "queues": [UNCHECKED_QUEUE], "verify": False}]
        if store:
            applications.append(seed(str(store), memory_bytes=memory_bytes, **more))
        return {"shutdown": {"drain_ms": 1000}, "application": applications}

    def over_memif(self, mtu, idle, rsize, gateway=None, client=None, **hosts):
        """Both sides' configurations; sections of one side replace those of both."""
        at_gateway = {"network": self.port(self.ring("server", rsize), GATEWAY, mtu), **self.hosts(**hosts)}
        at_client = {"network": self.port(self.ring("client", rsize), CLIENT, mtu), "connect": f"{GATEWAY}:{PORT}"}
        at_gateway |= self.of_fleet() if self.in_fleet else {}
        self.configure(
            "gateway", {**self.side("gateway", "client", GATEWAY_CORE, idle, 0), **at_gateway, **(gateway or {})}
        )
        self.configure(
            "client", {**self.side("client", "gateway", CLIENT_CORE, idle, 0), **at_client, **(client or {})}
        )
