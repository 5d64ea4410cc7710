"""What scripts/lab.sh runs, once it has looked at the machine."""

import subprocess
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
    random_file,
    run,
    same,
    say,
    seed,
    wait_until,
)

ADMIN = "127.0.0.1:9578"
HEALTH = f"http://{ADMIN}"
V4, V6 = "10.78.0.1:4433", "[fd78::1]:4433"


class Lab(Scene):
    """The gateway's end of a veth pair here, the client's in a namespace."""

    def __init__(self):
        super().__init__("lab")

    def build(self):
        self.far_namespace, self.near, self.far = self.namespace(""), self.interface("n"), self.interface("f")
        self.plug()
        self.identities("gateway", "client")
        self.client_inside = self.client("gateway", inside(self.far_namespace))
        self.file = random_file(self / "file", 64 << 20)

    def plug(self):
        cable(self.near, self.far, None, self.far_namespace)
        run("ip", "addr", "flush", "dev", self.near)
        self.inside("ip", "addr", "add", "10.78.0.2/24", "dev", self.far)
        self.inside("ip", "-6", "addr", "add", "fd78::2/64", "dev", self.far, "nodad")

    def inside(self, *command):
        print(run(*inside(self.far_namespace, *command)), end="", flush=True)

    def describe(self, device, udp_checksum, huge_pages, workers=1, **more):
        run("rm", "-rf", self / "store")
        network = dpdk(device.format(self.near), "10.78.0.1/24", "fd78::1/64")
        self.configure(
            "gateway",
            {
                "workers": {"count": workers},
                "network": {**network, "udp_checksum": udp_checksum, "huge_pages": huge_pages, **more},
                **self.who("gateway", "client"),
                "application": [seed(memory_bytes=128 << 20), ECHO, DISCARD],
                "admin": {"listen": ADMIN},
            },
        )

    def start(self):
        print(run(self.gateway_executable, "check", "--config", self / "gateway.toml"), end="", flush=True)
        return self.gateway("gateway").serves()

    def until_ready(self):
        wait_until("/readyz says that the gateway is ready", lambda: self.health(HEALTH) == "ready", every_s=0.2)

    def until_fault(self, text):
        wait_until(f"/readyz says {text}", lambda: text in self.health(HEALTH), every_s=0.2)

    def works(self, device, udp_checksum, huge_pages):
        """ping, put, get and bench over both families."""
        driver = device.split("0,")[0]
        say(f"{driver}, huge pages {huge_pages}")
        self.describe(device, udp_checksum, huge_pages)
        gateway = self.start()
        self.inside("ping", "-q", "-c", "3", "-i", "0.2", "-W", "20", "10.78.0.1")
        self.inside("ping", "-6", "-q", "-c", "3", "-i", "0.2", "-W", "20", "fd78::1")
        # A size that only unfragmented MTU-sized packets carry.
        self.inside("ping", "-q", "-c", "1", "-W", "20", "-M", "do", "-s", "1472", "10.78.0.1")
        for address in (V4, V6):
            self.client_inside("ping", address, "-c", "3", "-i", "0.1")
            # Each family puts bytes of its own: what is kept already would not cross again.
            with self.file.open("ab") as file:
                file.write(random_file(self / "more", 65536).read_bytes())
            token = self.client_inside("put", address, self.file)
            got = self / "got"
            got.unlink(missing_ok=True)
            self.client_inside("get", address, token, "-o", got)
            same(self.file, got)
            self.client_inside("bench", address, "--bytes", "500000000")
        counted = gateway.stop()
        log = gateway.log.read_text()
        ensure(" WARN" not in log and " ERROR" not in log, f"{driver}: warnings\n{log}")
        print(
            *(f"worker {number}: {worker['counters']}" for number, worker in enumerate(counted)), sep="\n", flush=True
        )

    def spreads(self, device, workers=2):
        """Two workers: clients come until each has flows of its own."""
        say(f"{device.split('0,')[0]}, {workers} workers")
        self.describe(device.format(self.near), True, "none", workers)
        gateway = self.start()
        token = self.client_inside("put", V4, self.file)
        got = self / "got"
        clients = 0
        while min(self.received(workers)) < 100:
            ensure(clients < 64, "all flows have met one worker")
            got.unlink(missing_ok=True)
            self.client_inside("get", V6 if clients % 2 else V4, token, "--connections", str(workers), "-o", got)
            same(self.file, got)
            clients += 1
        counted = [worker["counters"] for worker in gateway.stop()]
        print(*(f"worker {number}: {worker}" for number, worker in enumerate(counted)), sep="\n", flush=True)
        return [worker.get("spread_in", 0) for worker in counted]

    def received(self, workers):
        """The packets that each worker has received."""
        metrics = urllib.request.urlopen(f"http://{ADMIN}/metrics").read().decode()
        lines = dict(line.rsplit(" ", 1) for line in metrics.splitlines() if not line.startswith("#"))
        return [float(lines[f'stoq_rx_packets_total{{worker="{worker}"}}']) for worker in range(workers)]

    def refused(self, text):
        """Neither the check nor the gateway itself passes; both say why."""
        for how in ("check", "run"):
            command = [self.gateway_executable, how, "--config", self / "gateway.toml"]
            said = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
            ensure(said.returncode != 0, f"{how} is content, and should say: {text}")
            ensure(text in said.stdout, f'{how} says "{said.stdout}", not "{text}"')

    def shows_its_link(self, device, udp_checksum, huge_pages):
        """What happens to the interface shows, and passes when it is mended; the log has all of it in the end."""
        near, far = self.near, self.far
        say(f"{device.split('0,')[0]}: the interface without carrier, down, up, and deleted")
        self.describe(device, udp_checksum, huge_pages)
        gateway = self.start()
        self.until_ready()
        self.inside("ip", "link", "set", far, "down")
        self.until_fault(f"{near} has no carrier")
        self.inside("ip", "link", "set", far, "up")
        self.until_ready()
        run("ip", "link", "set", near, "down")
        self.until_fault(f"{near} is down")
        run("ip", "link", "set", near, "up")
        self.until_ready()
        self.inside("ip", "-6", "addr", "replace", "fd78::2/64", "dev", far, "nodad")
        self.client_inside("ping", V4, "-c", "3", "-i", "0.1")
        run("ip", "link", "delete", near)
        self.until_fault(f"{near} was deleted")
        gateway.stop()
        log = gateway.log.read_text()
        for text in "has no carrier", "interface is up", "is down", "was deleted":
            ensure(text in log, f'no line of the log says "{text}":\n{log}')
        self.refused(f"no interface {near}")
        self.plug()
        run("ip", "link", "set", near, "mtu", "1400")
        gateway = self.start()
        self.inside("ping", "-q", "-c", "1", "-W", "20", "-M", "do", "-s", "1372", "10.78.0.1")
        gateway.stop()
        ensure("mtu=1400" in gateway.log.read_text(), "the port has another MTU than its interface")
        self.describe(device, udp_checksum, huge_pages, mtu=1500)
        self.refused(f"ip link set {near} mtu 1500")
        run("ip", "link", "set", near, "mtu", "1500")


def lab():
    with Lab() as it:
        it.build()
        it.works(AF_PACKET, True, "preferred")
        it.works(AF_XDP, False, "preferred")
        it.works(AF_XDP, False, "none")
        ensure(it.spreads(f"{AF_PACKET},qpairs=2") == [0, 0], "the kernel fills both queues of net_af_packet")
        ensure(it.spreads(AF_XDP)[1] > 0, "net_af_xdp has one queue on a veth, and software spreads its flows")
        it.shows_its_link(AF_PACKET, True, "preferred")
        it.shows_its_link(AF_XDP, False, "none")
    say("the lab passed on net_af_packet and net_af_xdp")


main(lab)
