"""The rows of run.py: each puts up its wire, runs one gateway or server and one client, and leaves in `found` what is recorded."""

import contextlib
import json
import os
import re
import subprocess
import sys
import threading

from harness import (
    AF_PACKET,
    AF_XDP,
    ON_THE_CABLE,
    Failed,
    Telling,
    cable,
    ensure,
    inside,
    kernel,
    random_file,
    run,
    same,
    say,
)
from mesh import Mesh
from results import PEERS
from scale import Scale
from scale import parse as parse_scale
from scene import (
    CLIENT_CORE,
    END_S,
    GATEWAY_CORE,
    PORT,
    RUN_S_MAX,
    SOCKET_BYTES,
    STORE_IDLE,
    UNCHECKED_QUEUE,
    Bench,
    end,
    how_built,
    measured,
    pinned,
    usage,
)
from testpmd import wire
from wan import Absent, Overrun, Wan
from wan_rows import parse

#: How long a storm of handshakes lasts, seconds.
STORM_S = 4
#: First flights that are never completed, a second: ten times what a core accepts. Each is two datagrams.
FLIGHTS_PER_S, FLIGHT_DATAGRAMS = 25_000, 2
#: A transfer that has sent this many frames is under way.
UNDER_WAY_FRAMES = 1000
#: Flow control of the peers that run on a loop of ours: well below the socket's buffer, the best of those tried.
LOOP_WINDOW_BYTES = 4 << 20
#: Whether the kernel may put packets that crossed one by one together again, as it does behind a NIC.
VETH_GRO = os.environ.get("VETH_GRO", "on")
NEAR, FAR, STRANGER = "10.78.0.2", "10.78.0.1", "10.78.0.3"
#: What the kernel may leave undone on a veth, because nothing but memory is between its ends. A user-space port has to see packets as they would be
#: on a cable: cut, and with their checksums.
VETH = {
    "super": ["tx-udp-segmentation", "on"],
    "packets": ["tx-udp-segmentation", "off", "gro", VETH_GRO],
    "checksummed": ON_THE_CABLE,
}
#: What a peer's wire is called, and what its sockets leave to others.
PEER_WIRES = {
    "super": ("GSO super-packets crossing whole", "UDP GSO and GRO, checksums left out"),
    "packets": ("cut to packets before they cross", f"UDP GSO to the link, GRO {VETH_GRO} behind it"),
}
#: What a row's name may begin with: the same row with something else.
VARIANT_NAMES = ("plain", "unsummed", "verified", "fleet")
#: The mean frame, bytes: a row named for super-packets, or for packets, is one only if that is what crossed.
SUPER, PACKETS = (2000, 65600), (1200, 1514)
FAILURES = (Failed, OSError, subprocess.SubprocessError)


class Rows(Bench):
    def __init__(self, out, bytes_sent, payload_bytes, trips):
        super().__init__("bench", out)
        self.bytes, self.payload_bytes, self.trips = bytes_sent, payload_bytes, trips
        #: A store keeps the whole payload in memory, with blocks to spare.
        self.memory_bytes = payload_bytes + (64 << 20)
        #: memif's ring length by MTU, as its binary logarithm.
        self.rsizes, self.failed, self.found = {}, [], {}
        #: Where the next processes run.
        self.gateway_cores, self.client_cores = [GATEWAY_CORE], [CLIENT_CORE]

    def __enter__(self):
        super().__enter__()
        self.bin, self.disk = self.built, self.new_directory()
        self.identities("gateway", "client")
        return self

    # ---- one row

    def row(self, row, number):
        """Measures a row and records it; of one that failed nothing stays behind."""
        self.found = {"row": row, "round": number, "result": None, "client": None, "gateway": {}, "counters": None}
        self.found |= {"stages": None, "conditions": {}}
        variant, _, base = row.partition("-")
        self.built = self / "plain" if variant == "plain" else self.bin
        self.udp_checksum = variant != "unsummed"
        self.verifies = variant == "verified"
        self.in_fleet = variant == "fleet"
        for log in "gateway.log", "client.log":
            (self / log).write_text("")
        try:
            with self.scope():
                if parse(row):
                    Wan(self, row, number).measure()
                elif parse_scale(row):
                    Scale(self, row).measure()
                else:
                    self.measure(base if variant in VARIANT_NAMES else row)
        except (Absent, Overrun) as reason:
            # Neither a figure nor a fault: what is said of it goes with the figures.
            kind = "absent" if isinstance(reason, Absent) else "thrown away"
            say(f"{row} {kind}: {reason}")
            self.record({"missing": row, "round": number, "kind": kind, "why": str(reason)})
        except FAILURES as failed:
            say(f"{row} failed: {failed}")
            self.failed.append(row)
            for log in "gateway.log", "client.log":
                print(*(self / log).read_text().splitlines()[-20:], sep="\n", file=sys.stderr)
        else:
            self.record(self.found)

    @contextlib.contextmanager
    def cores_of(self, gateway, client):
        """Meanwhile, the cores of both processes."""
        before = self.gateway_cores, self.client_cores
        self.gateway_cores, self.client_cores = gateway, client
        try:
            yield
        finally:
            self.gateway_cores, self.client_cores = before

    def measure(self, row):
        """Measures a row by its name."""
        single = {
            "ping": lambda: self.ping(self.trips),
            "ping-load": lambda: self.ping(self.trips // 10, "--load", "2"),
            "put-tmpfs": lambda: self.put(self.directory, "tmpfs"),
            "put-disk": lambda: self.put(self.disk, run("stat", "-f", "-c", "%T", self.disk).strip()),
            "get-hot": self.get_hot,
            "get-piped": self.get_piped,
            "af-xdp": lambda: self.user_space(AF_XDP.format("far")),
            "af-packet": lambda: self.user_space(AF_PACKET.format("far")),
            "af-packet-flights": lambda: self.user_space(AF_PACKET.format("far"), FLIGHTS_PER_S),
            "quinn-ping": lambda: self.peer("quinn", "super", None, "--round-trips", self.trips),
            "quinn-ping-busy": lambda: self.peer("quinn", "super", None, "--round-trips", self.trips, "--busy"),
            "get-direct": lambda: self.hop(False),
            "get-hop": lambda: self.hop(True),
            "get-hop-xdp": lambda: self.hop(True, AF_XDP.format("far")),
            "trips-direct": lambda: self.hop(False, None, "--round-trips", "20000"),
            "trips-hop": lambda: self.hop(True, None, "--round-trips", "20000"),
            "trips-hop-xdp": lambda: self.hop(True, AF_XDP.format("far"), "--round-trips", "20000"),
            "holders-alive": lambda: self.holders(False),
            "holders-dead": lambda: self.holders(True),
        }
        kind, _, rest = row.partition("-")
        goodput = re.fullmatch(r"([a-z-]+)-(\d+)(?:-c(\d+))?(?:-s(\d+))?", row)
        peer, _, how = row.rpartition("-")
        if row in single:
            single[row]()
        elif kind == "quic":
            self.quic(int(rest))
        elif kind == "wire":
            self.wire(int(rest))
        elif kind == "handshakes":
            self.handshakes(rest)
        elif peer in PEERS:
            mode, frames = ("super", SUPER) if how == "gso" else ("packets", PACKETS)
            self.peer(peer, mode, frames, "--bytes", self.bytes)
        else:
            operation, *shape = goodput.groups()
            self.goodput(operation, *(int(number or 1) for number in shape))

    def conditions(self, wire, payload, offloads, idle="spin", frames=0):
        """Notes how it was measured."""
        self.found["conditions"] = {
            "wire": wire,
            "idle": idle,
            "payload": payload,
            "cores": f"gateway on {GATEWAY_CORE}, client on {CLIENT_CORE}",
            "offloads": offloads,
            "build": how_built(self.built),
            "wire_frames": frames,
        }

    # ---- processes

    def client(self, *command, within=(), result="stdout"):
        """Runs a client on its core; gives the JSON object of its standard output, or of another stream. Both are kept in `found`."""
        path, log = self / "result.json", self / "client.log"
        with path.open("wb") as taken, log.open("wb") as other:
            streams = (taken, other) if result == "stdout" else (subprocess.DEVNULL, taken)
            command = [*within, *pinned(*self.client_cores), *map(str, command)]
            self.found["client"] = measured(command, stdout=streams[0], stderr=streams[1])
        # The log shares standard error.
        lines = [line for line in path.read_text().splitlines() if line.startswith("{")]
        ensure(lines, f"no result from {' '.join(command)}")
        self.found["result"] = json.loads(lines[0])
        return self.found["result"]

    def stoq(self, *arguments, within=(), **how):
        given = ["--config", self / "client.toml", "--json"]
        return self.client(self.stoq_executable, *arguments, *given, within=within, **how)

    def serve(self, within=()):
        """Starts the gateway on its core."""
        self.served = self.gateway("gateway", [*within, *pinned(*self.gateway_cores)]).serves()

    def stop(self):
        """Ends the gateway, and notes what it took and counted."""
        self.found["gateway"] = usage(self.served.process.pid)
        for worker in self.ended_in_order(self.served):
            self.found |= {"counters": worker["counters"], "stages": worker["stages"]}

    def ended_in_order(self, gateway):
        """Ends a gateway; gives what its workers counted. One that does not end in order has a bug: the row's figure stands, the run fails."""
        try:
            return gateway.stop(END_S)
        except Failed as failed:
            say(failed)
            self.failed.append("end-of-gateway")
            return []

    def payload(self):
        """The file that is put and got."""
        file = self / "payload"
        return file if file.exists() else random_file(file, self.payload_bytes)

    def new_store(self, at=None):
        """A store's directory: what is kept already would not cross again."""
        return self.new_directory(at or self.directory) / "store"

    # ---- memif

    def tune(self, mtu):
        """Tries memif's ring lengths, and keeps the best for 256 connections, which a long ring costs most: twice, in turn, so that
        one slow moment of the machine does not decide."""
        best = 0
        for rsize in (7, 8, 10) * 2:
            try:
                with self.scope():
                    self.over_memif(mtu, "spin", rsize)
                    self.serve()
                    rate = self.messages("--connections", 256)["gbit_per_s"]
                    self.stop()
            except FAILURES as failed:
                say(f"memif ring of 2^{rsize}, MTU {mtu}: {failed}")
                continue
            say(f"memif ring of 2^{rsize}, MTU {mtu}: {rate} Gbit/s")
            self.record({"tuning": {"mtu": mtu, "rsize": rsize, "gbit_per_s": rate}})
            if rate > best:
                best, self.rsizes[mtu] = rate, rsize

    def memif(self, mtu, idle, **more):
        """Starts the gateway at one end of memif."""
        self.over_memif(mtu, idle, self.rsizes[mtu], **more)
        self.serve()

    def over(self, mtu, payload, idle="spin"):
        """Ends the gateway, and notes the conditions of a row over memif."""
        self.stop()
        wire = f"DPDK net_memif, ring 2^{self.rsizes[mtu]}, MTU {mtu}, {self.pages()} pages"
        self.conditions(wire, payload, self.left_to_port(), idle)

    def pages(self):
        return "huge" if self.served.up["huge_pages"] else "normal"

    def left_to_port(self):
        """What the gateway left to its port."""
        has = self.served.up["offloads"]
        named = {"receive checksum": "rx_checksum", "transmit checksum": "tx_checksum", "RSS": "rss"}
        if any(has[key] for key in named.values()):
            return ", ".join(f"{name} {str(has[key]).lower()}" for name, key in named.items())
        return "none" if self.udp_checksum else "none; UDP checksums left out"

    def messages(self, *options, within=()):
        return self.stoq("bench", "--bytes", self.bytes, "--time-limit", RUN_S_MAX, *options, within=within)

    def goodput(self, operation, mtu, connections, streams):
        """message: messages, counted and dropped by the gateway. put: payloads from the client's memory, dropped by the gateway. get: payloads from
        the gateway's memory, dropped by the client. put-unchecked and get-unchecked: the same, and no byte is checked."""
        width = ["--connections", connections, "--streams", streams]
        if operation == "message":
            self.memif(mtu, "spin")
            payload = f"messages of {self.messages(*width)['message_bytes']} bytes"
        elif operation in ("put", "put-unchecked"):
            queue = [] if operation == "put" else ["--queue", UNCHECKED_QUEUE]
            self.memif(mtu, "spin")
            put = self.stoq("bench", "--put", "--bytes", self.payload_bytes, "--time-limit", RUN_S_MAX, *width, *queue)
            payload = f"{self.payload_bytes} bytes from memory, {put['answer'].partition(':')[0]}"
        else:
            size = self.payload_bytes // connections // streams
            # In memory nothing blocks, so the store may share the worker's thread; on one core two threads would take turns.
            self.memif(mtu, "spin", store=self.new_store(), memory_bytes=self.memory_bytes, placement="worker")
            part = self.new_directory(self.directory) / "part"
            token = self.stoq("put", random_file(part, size))["token"]
            # The first brings the payload from the store into the gateway's memory, the second is what is measured.
            self.stoq("bench", "--get", token)
            unchecked = [] if operation == "get" else ["--unverified"]
            self.stoq("bench", "--get", token, "--time-limit", RUN_S_MAX, *width, *unchecked)
            payload = f"a payload of {size} bytes in the gateway's memory, on each stream, dropped by the client"
        self.over(mtu, payload)

    def ping(self, trips, *options):
        self.memif(1500, "spin")
        self.stoq("ping", "-c", trips, "-i", "0", *options)
        beside = ", beside a connection that sends messages as fast as they are taken" if options else ""
        self.over(1500, f"64 bytes there and back on one stream each way{beside}")

    def put(self, at, text):
        self.memif(1500, STORE_IDLE, store=self.new_store(at), memory_bytes=self.memory_bytes)
        self.stoq("put", self.payload())
        self.over(1500, f"one file of {self.payload_bytes} bytes, store on {text} with fsync", STORE_IDLE)

    def got_once(self):
        """Puts the payload and gets it, which brings it from the store into the gateway's memory; gives its token."""
        self.memif(1500, STORE_IDLE, store=self.new_store(), memory_bytes=self.memory_bytes)
        token = self.stoq("put", self.payload())["token"]
        self.get(token)
        return token

    def get(self, token):
        got = self.new_directory(self.directory) / "got"
        self.stoq("get", token, "-o", got)
        same(self.payload(), got)
        got.unlink()

    def get_hot(self):
        self.get(self.got_once())
        payload = f"one file of {self.payload_bytes} bytes, in the gateway's memory; written to tmpfs"
        self.over(1500, payload, STORE_IDLE)

    def get_piped(self):
        # The payload goes to standard output, the result to standard error.
        self.stoq("get", self.got_once(), "-o", "-", result="stderr")
        self.over(1500, f"one file of {self.payload_bytes} bytes, in the gateway's memory; to /dev/null", STORE_IDLE)

    def handshakes(self, kind):
        """Handshakes a second that the gateway's core completes: Falcon-512 or -1024, clients asked for a certificate or not, sessions resumed."""
        name, mutual = ("gateway1024" if kind == "1024" else "gateway"), kind == "mutual"
        if name not in self.ids:
            self.identities(name, algorithm="falconpadded1024")
        gateway, client = self.who(name, "client"), self.who("client", name)
        gateway["trust"]["client_auth"] = "required" if mutual else "off"
        if not mutual:
            gateway["trust"]["node_ids"] = client["identity"] = None
        self.memif(1500, "spin", gateway=gateway, client=client)
        storm = ["handshakes", "--concurrency", "48", "--seconds", STORM_S, "--json", "--config", self / "client.toml"]
        result = self.client(self.built / "stoq-pktgen", *storm, *(["--resume"] if kind == "resumed" else []))
        made = f"{result['full']} of {result['completed']} in full"
        self.over(1500, f"{made}; each answered by an application, then closed")

    # ---- ceilings

    def quic(self, mtu):
        """quinn-proto in memory: no wire, one core, each side's calls timed alone."""
        said = self.client(self.built / "ceiling", "--json")
        found = next(one for one in said["ceiling"] if one["mtu"] == mtu)
        found |= {
            "gbit_per_s": found["goodput_gbit_s"]["median"],
            "bytes": found["bytes_a_run"],
            "cipher": said["cipher"],
        }
        self.found["result"] = found
        self.conditions(
            f"none: datagrams handed over in memory, MTU {mtu}",
            "one stream of bulk bytes; the slower side counts",
            "none",
        )

    def wire(self, mtu):
        """The ring without QUIC."""
        self.found["result"] = wire(self, mtu, self.rsizes[mtu])
        name = f"DPDK net_memif, ring 2^{self.rsizes[mtu]}, MTU {mtu}, huge pages"
        self.conditions(name, "full frames, testpmd txonly to rxonly", "none")

    # ---- the veth pair

    def veth(self, mode):
        """Two namespaces, and a veth pair between them; its ends have addresses but for one that a DPDK port takes."""
        self.near, self.far = self.namespace("near", ipv6=False), self.namespace("far", ipv6=False)
        cable("near", "far", self.near, self.far, VETH[mode])
        run("ip", "-n", self.near, "address", "add", f"{NEAR}/24", "dev", "near")
        if mode != "checksummed":
            run("ip", "-n", self.far, "address", "add", f"{FAR}/24", "dev", "far")

    def sent(self):
        """Packets and bytes that the client's end of the veth has sent."""
        counted = [f"/sys/class/net/near/statistics/tx_{what}" for what in ("packets", "bytes")]
        return [int(value) for value in run(*inside(self.near, "cat", *counted)).split()]

    def crossed(self, before, wanted):
        """What crossed since then: frames and the mean size, which must be within what is wanted."""
        frames, size = (now - then for now, then in zip(self.sent(), before, strict=True))
        mean = size // max(frames, 1)
        if wanted and not wanted[0] <= mean <= wanted[1]:
            raise Failed(
                f"a mean frame of {mean} bytes, not {wanted[0]} to {wanted[1]}: this is not the wire it should be"
            )
        return frames, mean

    def user_space(self, device, flights_per_s=0):
        """Messages from a kernel UDP client to a gateway in user space; beside first flights of clients that never continue."""
        self.veth("checksummed")
        gateway = {"network": self.port(device, FAR, 1500), **self.hosts()}
        client = {"network": kernel("0.0.0.0:0", buffer_bytes=SOCKET_BYTES), "connect": f"{FAR}:{PORT}"}
        self.configure("gateway", {**self.side("gateway", "client", GATEWAY_CORE, "spin", 1472), **gateway})
        self.configure("client", {**self.side("client", "gateway", CLIENT_CORE, "spin", 1472), **client})
        self.serve(inside(self.far))
        before = self.sent()
        with self.flights(flights_per_s) if flights_per_s else contextlib.nullcontext():
            result = self.messages(within=inside(self.near))
        frames, mean = self.crossed(before, PACKETS)
        self.stop()
        driver = device.partition("0,")[0]
        wire = f"kernel UDP, veth, DPDK {driver}, MTU 1500, {self.pages()} pages; mean frame {mean} bytes"
        beside = ""
        if flights_per_s:
            counted = self.found["counters"]
            begun = counted.get("quic_attempts_accepted", 0)
            arrived = sum(counted.get(name, 0) for name in ("drop_retry_limit", "quic_retries_sent"))
            ensure(arrived > begun, f"the flights did not arrive: {counted}")
            beside = f" beside {flights_per_s} first flights a second that are never completed, of which {begun} got a signature"
            beside += f" and {arrived} a Retry packet or nothing; their generator shares the client's core"
        payload = f"messages of {result['message_bytes']} bytes{beside}"
        self.conditions(wire, payload, self.left_to_port(), frames=frames)

    @contextlib.contextmanager
    def flights(self, per_s):
        """First flights from an address of their own, from the moment at which a transfer is under way: a new client would compete with them."""
        run("ip", "-n", self.near, "address", "add", f"{STRANGER}/24", "dev", "near")
        stranger = {"network": kernel(f"{STRANGER}:0", buffer_bytes=SOCKET_BYTES), "connect": f"{FAR}:{PORT}"}
        self.configure("stranger", {**self.side("client", "gateway", CLIENT_CORE, "spin", 1472), **stranger})
        rate = ["--rate", str(per_s * FLIGHT_DATAGRAMS), "--seconds", str(RUN_S_MAX)]
        command = [self.built / "stoq-pktgen", "--config", self / "stranger.toml", *rate, "initials"]
        command = [*inside(self.near), *pinned(CLIENT_CORE), *map(str, command)]
        over, before, load = threading.Event(), self.sent()[0], []

        def begin():
            while self.sent()[0] < before + UNDER_WAY_FRAMES:
                if over.wait(0.01):
                    return
            load.append(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))

        waiting = threading.Thread(target=begin)
        waiting.start()
        try:
            yield
            ensure(load and load[0].poll() is None, "no flights were sent until the end of the messages")
        finally:
            over.set()
            waiting.join()
            for each in load:
                end(each)

    def peer(self, peer, mode, wanted, *options):
        """The same over kernel UDP by another implementation of QUIC."""
        self.veth(mode)
        common = ["--cert", self / "peer.pem", "--socket-buffer", SOCKET_BYTES]
        server, idle = [], "tokio, sleeps in epoll"
        if peer in ("quiche", "tquic"):
            # With larger windows these overflow the receiver's socket at times; tquic took half a minute over one such loss.
            server, idle = ["--receive-window", LOOP_WINDOW_BYTES], "a loop of ours, sleeps in poll"
        if "--busy" in options:
            server, idle = ["--busy"], "tokio, never sleeps"
        executable = self.built / f"{peer}-peer"
        command = [executable, "server", "--listen", f"{FAR}:{PORT}", *common, *server]
        command = [*inside(self.far), *pinned(GATEWAY_CORE), *map(str, command)]
        served = Telling(command, self / "gateway.log")
        self.stack.callback(served.kill)
        served.event("up")
        before = self.sent()
        at = ["--connect", f"{FAR}:{PORT}", *common, "--json"]
        self.client(executable, "client", *at, *options, within=inside(self.near))
        frames, mean = self.crossed(before, wanted)
        self.found["gateway"] = usage(served.process.pid)
        # A peer takes no orders: SIGTERM is its end.
        status = end(served.process)
        if status not in (0, -15):
            say(f"the server ended with status {status}")
            self.failed.append("end-of-gateway")
        crossing, offloads = PEER_WIRES[mode]
        payload = "one stream, 1 MiB writes" if wanted else "64 bytes there and back on one stream"
        self.conditions(f"kernel UDP over veth, {crossing}; mean frame {mean} bytes", payload, offloads, idle, frames)

    # ---- several gateways

    def hop(self, relayed, device=None, *options):
        """A payload at holder 1, fetched and dropped: from it, or by way of a relay, which may have a DPDK port."""
        if device:
            self.veth("checksummed")
        mesh = Mesh(self, device)
        mesh.start("holder1", CLIENT_CORE)
        if relayed:
            mesh.start("relay", GATEWAY_CORE)
        token = mesh.stoq("holder1", "put", self.payload())["token"]
        to, via = ("relay", ["--via", "holder1"]) if relayed else ("holder1", [])
        # The first brings the payload into the holder's memory.
        mesh.stoq(to, "bench", "--get", token, *via)
        mesh.stoq(to, "bench", "--get", token, *via, *options)
        what = "16 KiB at a time" if options else f"one payload of {self.payload_bytes} bytes"
        way = f", the relay has core {GATEWAY_CORE} and spins" if relayed else "; no relay"
        mesh.conditions(f"{what}, fetched, checked, dropped; holder and client share core {CLIENT_CORE}{way}")

    def holders(self, one_dead):
        """Lanes of a 3+1 set at four holders, one each; all alive, or one killed."""
        mesh, names = Mesh(self), [f"holder{number}" for number in range(1, 5)]
        for name in names:
            mesh.start(name, GATEWAY_CORE)
        for lane, name in enumerate(names):
            put = mesh.stoq(name, "put", self.payload(), "--shards", "3+1", "--lanes", lane)
        if one_dead:
            mesh.gateways["holder2"].kill()
        got = self.new_directory(self.directory) / "got"
        mesh.stoq("holder4", "get", put["set"], "-o", got, "--from", ",".join(names))
        same(self.payload(), got)
        held = f"one lane of a 3+1 set at each of four holders, which share core {GATEWAY_CORE}; to a file on tmpfs"
        dead = "; the holder of a data lane killed before" if one_dead else ""
        mesh.conditions(f"one file of {self.payload_bytes} bytes, {held}{dead}")
