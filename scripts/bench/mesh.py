"""The gateways of the rows of run.py that need more than one: packets of 1,472 bytes over kernel UDP, one process a gateway."""

from harness import inside, kernel
from scene import CLIENT_CORE, PORT, QUIC, SOCKET_BYTES, STORE_IDLE, pinned

#: The gateways and their UDP ports.
PORTS = {"relay": PORT, **{f"holder{number}": 5500 + number for number in range(1, 5)}}


class Mesh:
    """A relay and the holders 1 to 4, on loopback. Where the relay has a DPDK device, that is at the far end of a veth pair, and all others are kernel
    sockets at the near end."""

    def __init__(self, rows, device=None):
        self.rows, self.device, self.gateways = rows, device, {}
        if "relay" not in rows.ids:
            rows.identities(*PORTS)
        self.configure("client", CLIENT_CORE, self.sockets("client"))

    def address(self, name):
        host = "127.0.0.1" if not self.device else "10.78.0.1" if name == "relay" else "10.78.0.2"
        return f"{host}:{PORTS.get(name, 0)}"

    def within(self, name):
        """The command before a process that puts it where its address is."""
        if not self.device:
            return []
        return inside(self.rows.far if name == "relay" else self.rows.near)

    def sockets(self, name):
        return kernel(self.address(name), buffer_bytes=SOCKET_BYTES)

    def configure(self, name, core, network, **more):
        # The relay shares its core with no other.
        idle = "spin" if name == "relay" else STORE_IDLE
        others = [
            {"name": other, "node_id": self.rows.ids[other], "addresses": [self.address(other)]}
            for other in PORTS
            if other != name
        ]
        common = {
            "workers": {"cores": [core], "idle": idle},
            "network": network,
            **self.rows.who(name, "client", *PORTS),
            "quic": {"initial_udp_payload_bytes": 1472, **QUIC},
            "gateway": others,
        }
        self.rows.configure(name, {**common, **more})

    def start(self, name, core):
        """Starts a gateway with a store of its own."""
        port = self.rows.port(self.device, "10.78.0.1", 1500) if name == "relay" and self.device else self.sockets(name)
        self.configure(name, core, port, **self.rows.hosts(self.rows.memory_bytes, self.rows.new_store()))
        self.gateways[name] = self.rows.gateway(name, [*self.within(name), *pinned(core)]).serves()

    def stoq(self, to, tool, *arguments):
        """Runs the client at one of them."""
        return self.rows.stoq(tool, "--gateway", self.address(to), *arguments, within=self.within("client"))

    def conditions(self, payload):
        """Ends all of them, and notes how the row was measured."""
        for gateway in self.gateways.values():
            if gateway.process.poll() is None:
                self.rows.ended_in_order(gateway)
        wire, offloads = "kernel UDP on loopback, packets of 1472 bytes", "UDP GSO and GRO, checksums left out"
        if self.device:
            driver = self.device.partition("0,")[0]
            wire = f"kernel UDP on both sides of a relay on DPDK {driver}, veth, MTU 1500"
            offloads = "relay: none; sockets: UDP GSO, cut before they cross"
        self.rows.conditions(wire, payload, offloads, STORE_IDLE)
