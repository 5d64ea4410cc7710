"""The scenarios of a gateway with two workers at a port with two queues, seen by clients on the kernel's sockets outside.

Which worker a flow reaches is found by asking: datagrams that are no QUIC show in the counters of the worker that received them. So each
scenario chooses the worker of each of its flows, and fails where all flows reach one. Nothing is judged by time: the machine may be busy.
"""

import socket
import subprocess
from concurrent.futures import ThreadPoolExecutor

from harness import Failed, ensure, inside, kernel, random_file, same, wait_until
from harness.rebinding import Rebinding, enter

#: Datagrams by which the worker of a flow is found: more than a network sends by itself meanwhile.
PROBES = 64
#: No QUIC packet is as short.
PROBE = b"probe"
#: Ports that are tried until one leads to the worker.
PORTS_MAX = 64
#: The ports of this side: all that begin with these.
PORT_MIN, PORTS_LEN = 1 << 14, 1 << 15
#: From one port to the next, modulo their number: any few of them differ in all bits. Which bits of a port count for its queue depends on the key, which
#: the gateway draws: of neighbors, which differ in the last bits alone, all reach one queue by one key in a hundred.
PORT_STEP = 20011
GATEWAY_PORT = 4433
#: Times that a client moves in the middle of a transfer.
MOVES = 4
#: Where all flows reach one queue, the same bytes may take this share more packets than where the flows are spread evenly.
SKEW_MAX = 0.1
#: Of the bytes, with either flows. A worker hands a new connection over where another has an eighth less to do, as far as it knows: on a busy machine it
#: knows late, and 42 of 64 connections were seen to stay. How even the shares are is told by the simulated link, in virtual time.
SHARE_MIN = 0.25
#: Puts of a drain at most, and the bytes by which one shows.
DRAINED_MAX, BEGUN_BYTES = 4, 1 << 16
#: How fast the clients send, bits a second: slower than any machine, so that packets are not lost and a transfer lasts for what happens in it.
RATE_MOVING, RATE_SPREAD, RATE_DRAINING = 40_000_000, 1_000_000, 2_000_000


class Queues:
    """A gateway with two workers, and a namespace from which it is reached. `counters()` gives what each worker has counted so far."""

    def __init__(self, scene, namespace, addresses, own, counters, scale=1.0, connections=64):
        self.scene, self.namespace, self.counters = scene, namespace, counters
        self.addresses, self.own = addresses, own
        #: Of the bytes of each scenario: an emulated machine carries fewer.
        self.scale = scale
        #: Of all clients together, where the flows are spread or not.
        self.connections = connections
        self.ports_tried, self.made = 0, 0

    def counts(self, name):
        return [worker.get(name, 0) for worker in self.counters()]

    def bytes(self, mebibytes):
        return int(self.scale * mebibytes * (1 << 20))

    def new_file(self, mebibytes):
        """A payload that the gateway does not hold yet."""
        self.made += 1
        return random_file(self.scene / f"payload{self.made}", self.bytes(mebibytes))

    # ---- flows

    def probed(self, port, family):
        """The workers that have received as much as the probes of a flow from this port."""

        def send():
            enter(self.namespace)
            kind = socket.AF_INET6 if family else socket.AF_INET
            with socket.socket(kind, socket.SOCK_DGRAM) as probe:
                probe.bind((self.own[family], port))
                for _ in range(PROBES):
                    probe.sendto(PROBE, (self.addresses[family], GATEWAY_PORT))

        before = self.counts("rx_packets")
        # A thread that ends afterwards: the namespace is a thread's.
        with ThreadPoolExecutor(1) as pool:
            pool.submit(send).result()

        def reached():
            more = [now - then for now, then in zip(self.counts("rx_packets"), before, strict=True)]
            return [worker for worker, packets in enumerate(more) if packets >= PROBES // 2]

        return wait_until("a worker has the probes", reached)

    def probed_alone(self, port, family):
        """The same; what an earlier transfer still sends may look like probes, and ends."""
        for _ in range(PORTS_MAX):
            found = self.probed(port, family)
            if len(found) == 1:
                return found[0]
        raise Failed(f"a flow has reached workers {found}")

    def port_to(self, worker, family=0):
        """A port of this side whose flow reaches that worker."""
        for _ in range(PORTS_MAX):
            self.ports_tried += 1
            port = PORT_MIN + self.ports_tried * PORT_STEP % PORTS_LEN
            if self.probed_alone(port, family) == worker:
                return port
        raise Failed(f"no flow reaches worker {worker}: the port fills one queue")

    def client(self, port=0, family=0, own=None):
        """A client on this port, as a function that starts a tool: client(TOOL, ARGUMENT…, at=ADDRESS)."""
        host = own or (f"[{self.own[family]}]" if family else self.own[family])
        at = f"[{self.addresses[family]}]" if family else self.addresses[family]
        config = self.scene.configure(
            f"client-{host}-{port}",
            {
                "network": kernel(f"{host}:{port}"),
                **self.scene.who("client", "gateway"),
                "log": {"level": "error"},
            },
        )

        def client(tool, *arguments, at=f"{at}:{GATEWAY_PORT}"):
            command = [self.scene.stoq_executable, tool, *map(str, arguments), "-g", at, "--config", config]
            pipe = subprocess.PIPE
            started = subprocess.Popen(inside(self.namespace, *command), stdout=pipe, stderr=pipe, text=True)
            self.scene.stack.callback(started.kill)
            return started

        return client

    def said(self, *started):
        """Waits until these clients have ended well; gives what each said."""
        words = [client.communicate() for client in started]
        for client, (_, wrong) in zip(started, words, strict=True):
            ensure(client.returncode == 0, f"a client failed with status {client.returncode}: {wrong}")
        return [out.strip() for out, _ in words]

    def gone(self, name, before):
        """What each worker has counted since."""
        return [now - then for now, then in zip(self.counts(name), before, strict=True)]

    # ---- scenarios

    def carries(self):
        """put, get and messages both ways, of both families, by a flow to each worker."""
        for family in (0, 1):
            for worker in (0, 1):
                client = self.client(self.port_to(worker, family), family)
                file, got = self.new_file(2), self.scene / "got"
                got.unlink(missing_ok=True)
                before, other = self.counts("rx_packets"), 1 - worker
                (token,) = self.said(client("put", file))
                self.said(client("get", token, "-o", got))
                same(file, got)
                self.said(client("ping", "--count", 4, "--interval", 0, "--size", 20000))
                packets = self.gone("rx_packets", before)
                ensure(packets[worker] > PROBES > packets[other], f"a flow to worker {worker} shows as {packets}")
        print("put, get and messages by a flow to each worker, IPv4 and IPv6", flush=True)

    def moves(self, tool):
        """The client's port changes in the middle of a transfer, each time to a flow that reaches the other worker."""
        file, got = self.new_file(4), self.scene / "got"
        got.unlink(missing_ok=True)
        ports = [self.port_to(number % 2) for number in range(MOVES + 1)]
        client = self.client(own="127.0.0.1")
        token = self.said(self.client()("put", file))[0] if tool == "get" else None
        names = ("rx_packets", "handovers_out", "connections_opened")
        before = {name: self.counts(name) for name in names}
        counted = "back" if tool == "get" else "there"
        gateway = (self.addresses[0], GATEWAY_PORT)
        with Rebinding(self.namespace, gateway, ports, self.bytes(4) // (MOVES + 2), counted) as nat:
            arguments = ("get", token, "-o", got) if tool == "get" else ("put", file, "--rate", RATE_MOVING)
            (said,) = self.said(client(*arguments, at=nat.address))
        ensure(nat.moves == MOVES, f"the client has moved {nat.moves} times during the {tool}")
        after = {name: self.gone(name, before[name]) for name in names}
        ensure(sum(after["connections_opened"]) == 1, f"a move has cost the connection: {after}")
        # Its worker is one of the two, and the datagrams of the other are handed over.
        ensure(min(after["rx_packets"]) > MOVES and max(after["handovers_out"]) > MOVES, f"it met one queue: {after}")
        if tool == "get":
            same(file, got)
        else:
            self.said(self.client()("get", said, "-o", got))
            same(file, got)
        print(f"{tool} while its client moves {nat.moves} times between the queues: {after}", flush=True)

    def spread(self, workers):
        """Several clients put at once, the flow of each to one of these workers. What each worker does in the meantime."""
        names = ("verified_bytes", "handovers_in", "connections_opened", "rx_packets", "drop_handover_full")
        ports = [self.port_to(worker) for worker in workers]
        before = {name: self.counts(name) for name in names}
        each = self.connections // len(ports)
        options = ("--put", "--bytes", self.bytes(8 / len(ports)), "--connections", each, "--rate", RATE_SPREAD)
        self.said(*(self.client(port)("bench", *options) for port in ports))
        did = {name: self.gone(name, before[name]) for name in names}
        ensure(not any(did["drop_handover_full"]), f"hand-overs were dropped: {did}")
        return did

    def skews(self):
        """Clients of which all flows reach one worker get as much done as those whose flows are spread evenly."""
        even, skewed = self.spread((0, 1)), self.spread((1, 1))
        print(f"even: {even}\nall flows at worker 1: {skewed}", flush=True)
        ensure(skewed["rx_packets"][0] < skewed["rx_packets"][1] / 4, f"flows have reached both queues: {skewed}")
        ensure(skewed["handovers_in"][0] > PROBES, f"worker 0 has got nothing: {skewed}")
        for did in (even, skewed):
            ensure(
                min(did["verified_bytes"]) >= SHARE_MIN * sum(did["verified_bytes"]),
                f"a worker has little to do: {did}",
            )
        # For the same bytes: what is lost is sent again.
        packets = sum(skewed["rx_packets"]) / sum(even["rx_packets"])
        ensure(packets <= 1 + SKEW_MAX, f"the same bytes have taken {packets:.2f} of the packets")

    def drains(self, end):
        """The gateway ends in order while each worker has a put: both are finished, and a new connection is refused. `end()` asks the gateway to end,
        and gives, once it has, what each worker counted."""
        names = ("connections_opened", "verified_bytes")
        before = {name: self.counts(name) for name in names}
        # Before there are packets of puts, which would hide the probes.
        ports = [self.port_to(number % 2) for number in range(DRAINED_MAX)]
        late, running = self.client(), []

        def goes_on():
            """Each put has a connection, and each worker that has one receives its bytes."""
            opened, got = (self.gone(name, before[name]) for name in names)
            rest = (got[worker] < BEGUN_BYTES for worker in (0, 1) if opened[worker])
            return opened if sum(opened) == len(running) and not any(rest) else None

        # A connection is placed by the loads, of which that of earlier scenarios fades.
        opened = [0, 0]
        while min(opened) == 0:
            ensure(len(running) < DRAINED_MAX, "one worker has all the puts")
            client = self.client(ports[len(running)])
            running.append(client("put", self.new_file(4 / self.scale), "--rate", RATE_DRAINING))
            opened = wait_until("the put goes on", goes_on)
        with ThreadPoolExecutor(1) as pool:
            ending = pool.submit(end)
            wait_until("the gateway drains", lambda: refused(late("ping", "--count", 1, "--timeout", 1)))
            ended = [each for each in running if each.poll() is not None]
            self.said(*ended)
            ensure(len(ended) < len(running), "the puts ended before the drain: make them longer")
            self.said(*running)
            counted = ending.result()
        done = [worker.get("requests_put_ok", 0) for worker in counted]
        ensure(min(done) > 0, f"a worker has finished no put: {done}")
        print(f"drained with a put at each worker; puts: {done}", flush=True)

    def all(self, end):
        self.carries()
        self.moves("put")
        self.moves("get")
        self.skews()
        self.drains(end)


def refused(started):
    started.communicate()
    return started.returncode != 0


def counted(metrics):
    """What each of the two workers has counted, out of the gateway's metrics."""
    workers = [{}, {}]
    for line in metrics.splitlines():
        name, _, rest = line.partition('_total{worker="')
        worker, found, value = rest.partition('"} ')
        if found and worker.isdigit():
            workers[int(worker)][name.removeprefix("stoq_")] = int(float(value))
    return workers
