"""What scripts/queues.sh runs, once it has looked at the machine."""

import os
import subprocess
import sys
import urllib.request

from harness import (
    AF_PACKET,
    AF_XDP,
    DISCARD,
    ECHO,
    Scene,
    cable,
    dpdk,
    ensure,
    inside,
    main,
    run,
    say,
    seed,
    wait_until,
)
from harness.queues import Queues, counted

ADMIN = "127.0.0.1:9578"
OWN, ADDRESSES = ("10.78.0.2", "fd78::2"), ("10.78.0.1", "fd78::1")
TWO = ",qpairs=2"

#: The gateway's device, and the device at the other end of the ring, where it has one.
PORTS = {
    "af_packet": (AF_PACKET + TWO, None),
    # On a veth DPDK's driver takes one queue, and software spreads its flows.
    "af_xdp": (AF_XDP, None),
    "memif": (
        "net_memif0,role=server,id=0,rsize=8,socket-abstract=no,socket={}",
        "net_memif0,role=client,id=0,rsize=8,socket-abstract=no,socket={}",
    ),
    "virtio": ("net_virtio_user0,queues=2,path={}", "net_vhost0,queues=2,iface={}"),
    "vhost": ("net_vhost0,queues=2,iface={}", "net_virtio_user0,queues=2,path={}"),
}


class Ports(Scene):
    """The gateway's end of a veth pair here, the client's in a namespace. A port of a ring has DPDK's forwarder between it and the veth: the kernel
    spreads the flows over the two queues of net_af_packet, and the forwarder carries each of them to the queue of the same number."""

    def __init__(self):
        super().__init__("ports")

    def build(self):
        self.far_namespace, self.near, self.far = self.namespace(""), self.interface("n"), self.interface("f")
        cable(self.near, self.far, None, self.far_namespace)
        run("ip", "addr", "flush", "dev", self.near)
        for command in (
            ("addr", "add", f"{OWN[0]}/24", "dev", self.far),
            ("-6", "addr", "add", f"{OWN[1]}/64", "dev", self.far, "nodad"),
            # What crosses it goes on to the gateway.
            ("link", "set", "lo", "mtu", "1500"),
        ):
            run(*inside(self.far_namespace, "ip", *command))
        self.identities("gateway", "client")

    def describe(self, device, udp_checksum):
        run("rm", "-rf", self / "store")
        # Such a port shares its memory with the other side, page by page unless DPDK is told otherwise.
        pages = "required" if device.startswith("net_virtio_user") else "none"
        network = dpdk(device, *(f"{address}/{bits}" for address, bits in zip(ADDRESSES, (24, 64), strict=True)))
        self.configure(
            "gateway",
            {
                "workers": {"count": 2},
                "network": {**network, "udp_checksum": udp_checksum, "huge_pages": pages, "memory_mib": 256},
                **self.who("gateway", "client"),
                "quic": {"rate_bits_per_s": 40_000_000},
                "application": [seed(memory_bytes=64 << 20), ECHO, DISCARD],
                "admin": {"listen": ADMIN},
                "shutdown": {"drain_ms": 60_000},
            },
        )

    def counters(self):
        """What each worker has counted so far."""
        return counted(urllib.request.urlopen(f"http://{ADMIN}/metrics").read().decode())

    def forwarder(self, device):
        """DPDK's own, between the veth and the gateway's ring."""
        devices = AF_PACKET.format(self.near) + TWO, device
        command = [
            *("dpdk-testpmd", "--lcores", "0@0-1,1@0-1", "--no-pci", "--no-huge", "-m", "256"),
            *("--file-prefix", f"stoq-forwarder-{os.getpid()}", *(f"--vdev={each}" for each in devices)),
            *("--", "--rxq=2", "--txq=2", "--forward-mode=io", "--total-num-mbufs=16384", "--auto-start"),
        ]
        with (self / "forwarder.log").open("w") as log:
            # It goes on until its input ends.
            started = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=log)
        self.stack.callback(started.wait)
        self.stack.callback(started.kill)

    def works(self, kind):
        say(f"two workers on {kind}")
        device, other = PORTS[kind]
        ring = self / f"{kind}.sock"
        self.describe(device.format(ring if other else self.near), kind != "af_xdp")
        if kind == "virtio":
            self.forwarder(other.format(ring))
            wait_until("the forwarder listens", ring.exists)
        gateway = self.gateway("gateway").serves()
        spread = gateway.up["offloads"]["software_spread"]
        ensure(spread == (kind == "af_xdp"), f"flows are spread in another way: {gateway.up}")
        if other and kind != "virtio":
            self.forwarder(other.format(ring))
        wait_until(
            "the gateway answers",
            lambda: (
                subprocess.run(
                    inside(self.far_namespace, "ping", "-q", "-c", "1", "-W", "1", ADDRESSES[0]),
                    check=False,
                    stdout=subprocess.DEVNULL,
                ).returncode
                == 0
            ),
        )
        scenarios = Queues(self, self.far_namespace, ADDRESSES, OWN, self.counters)
        scenarios.all(lambda: [worker["counters"] for worker in gateway.stop()])


def ports():
    asked = sys.argv[1:] or PORTS
    for kind in asked:
        ensure(kind in PORTS, f"no port is called {kind}: give one of {', '.join(PORTS)}")
        with Ports() as it:
            it.build()
            it.works(kind)
    say(f"passed: {', '.join(asked)}")


main(ports)
