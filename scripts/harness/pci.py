"""What scripts/pci-test.sh runs, once it has looked at the machine."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

from harness import (
    DISCARD,
    ECHO,
    Failed,
    Scene,
    dpdk,
    ensure,
    inside,
    main,
    random_file,
    run,
    same,
    say,
    seed,
    toml,
    wait_until,
)
from harness.guest import Guest, make_root
from harness.queues import Queues, counted

#: Guests at a time.
GUESTS = 2
#: Between a device and the archive of its guest's root: one device, in this process.
ROOT = "--root"
V4, V6 = "10.79.0.1:4433", "[fd79::1]:4433"
MAC = "52:54:00:00:00:01"
ON_BUS, ON_PORT = "0000:00:08.0", "0000:01:00.0"
#: Frames of QEMU's own headers are off: the device fills in checksums itself, as on a cable.
PLAIN = ",vnet_hdr=off"
#: What the log says where the link goes and where it comes back: that of a port, and that of an interface of the kernel.
LINK = ("the link of the port is down", "the link of the port is up")
INTERFACE = ("interface eth0 has no carrier", "the port's interface is up")
#: Inside the guest.
ADMIN = "127.0.0.1:9578"


class Device(NamedTuple):
    """QEMU's words for a device and for its end of the tap, its place in the guest, and what is tried with it."""

    qemu: str
    tap: str = PLAIN
    at: str = ON_BUS
    queues: int = 1
    #: Where there are more than queues, software spreads the flows over them.
    workers: int = 1
    mtu_max: int = 9000
    #: The gateway has its first virtual function; the kernel keeps the device itself.
    is_virtual_function: bool = False
    has_iommu: bool = True
    #: The kernel keeps the device, and the gateway is at its interface by AF_XDP.
    is_kernels: bool = False

    @property
    def is_pulled(self):
        """QEMU can pull a device that is on a port."""
        return self.at == ON_PORT and not self.is_virtual_function


VIRTIO = "virtio-net-pci,disable-legacy=on,iommu_platform=on,mq=on,vectors=6"
DEVICES = {
    "e1000": Device("e1000", workers=2),
    "e1000-uio": Device("e1000", has_iommu=False),
    "e1000e": Device("e1000e", at=ON_PORT, workers=2),
    "igb": Device("igb", queues=2, workers=2),
    "igb-vf": Device("igb", at=ON_PORT, mtu_max=1500, is_virtual_function=True),
    "vmxnet3": Device("vmxnet3"),
    "virtio-rss": Device(f"{VIRTIO},rss=on", f",queues=2{PLAIN}", queues=2, workers=4),
    "af_xdp": Device(f"{VIRTIO},rss=on", f",queues=2{PLAIN}", queues=2, workers=2, mtu_max=1500, is_kernels=True),
    "virtio": Device(VIRTIO, f",queues=2{PLAIN}", queues=2, workers=2),
}


class Pci(Scene):
    """A namespace with a tap, at which a guest has its device."""

    def __init__(self, archive):
        super().__init__("pci")
        self.archive = archive
        self.kernel = Path(os.environ["STOQ_KERNEL"])

    def inside(self, *command):
        return run(*inside(self.outside, *command))

    def bound(self, guest, device):
        """Gives the device to DPDK; gives its address."""
        at = device.at
        if device.is_kernels:
            guest.line(
                f"bash /bin/hugepages.sh reserve 400 && modprobe virtio_net && /bin/ip link set eth0 address {MAC} up"
            )
            return f"net_af_xdp0,iface=eth0,queue_count={device.queues}"
        if device.is_virtual_function:
            guest.line("modprobe igb && until ip link set eth0 up 2>/dev/null; do sleep 0.1; done")
            guest.line(f"echo 1 >/sys/bus/pci/devices/{at}/sriov_numvfs && /bin/ip link set eth0 vf 0 mac {MAC[:-1]}2")
            at = guest.line(f"basename $(readlink /sys/bus/pci/devices/{at}/virtfn0)")
        guest.line(
            f"bash /bin/hugepages.sh reserve 400 && bash /bin/bind-nic.sh bind {at} {'' if device.has_iommu else '--no-iommu'}"
        )
        return at

    def serves(self, guest, at, workers, mtu):
        """Starts the gateway in the guest."""
        network = dpdk(at, "10.79.0.1/24", "fd79::1/64", mtu=mtu, huge_pages="required", memory_mib=256)
        config = {
            "workers": {"count": workers, "cores": list(range(1, workers + 1)) if workers < 3 else []},
            "network": network,
            **self.who("gateway", "client"),
            "quic": {"rate_bits_per_s": 40_000_000},
            "application": [seed("/tmp/store", memory_bytes=64 << 20), ECHO, DISCARD],
            "admin": {"listen": ADMIN},
            "shutdown": {"drain_ms": 60_000},
        }
        (guest.share / "gateway.toml").write_text(toml(config))
        guest.line(
            "rm -rf /tmp/store /host/up /host/log /host/ended; cp /host/gateway.* /etc/; chmod 600 /etc/gateway.key"
        )
        if mtu == 1500:
            self.checks(guest, at)
        guest.line(
            "(ulimit -n 8192; stoq-gateway run --json --config /etc/gateway.toml >/host/up 2>/host/log; echo $? >/host/ended) & echo $! >/tmp/pid"
        )
        up, ended = guest.share / "up", guest.share / "ended"

        def is_up():
            ensure(not ended.exists(), f"the gateway ended:\n{self.log(guest)}")
            return b"\n" in up.read_bytes()

        wait_until("the gateway is up", is_up)
        if at.startswith("net_af_xdp"):
            # virtio_net asks for its number of queues when a socket takes them, after which QEMU's device hashes no more until it is told.
            guest.line("/bin/ethtool -X eth0 equal 2")
        offloads = json.loads(up.read_text().splitlines()[0])
        print(f"MTU {mtu}, {workers} worker(s): {offloads['offloads']}", flush=True)
        return offloads["offloads"]

    def checks(self, guest, at):
        """check opens the port for root, by its short address too, and says why another user may not."""
        guest.line(f"sed 's/{at}/{at.removeprefix('0000:')}/' /etc/gateway.toml >/etc/short.toml")
        for command in ("/etc/gateway.toml", "/etc/short.toml"):
            said = guest.line(f"stoq-gateway check --config {command}")
            ensure("the port opens" in said, f"check has not opened the port:\n{said}")
        command = "/bin/setpriv --reuid=100 --regid=100 --clear-groups stoq-gateway check --config /etc/gateway.toml"
        status, said = guest.try_line(command)
        reasons = (
            "which cannot be opened (Permission denied",
            "which serves root alone: run as root",
            "this device needs root",
        )
        ensure(
            any(reason in said for reason in reasons),
            f"check, with status {status}, does not say why another user may not:\n{said}",
        )

    def ends(self, guest):
        """Ends the gateway in order; gives its log."""
        guest.line("killall -TERM stoq-gateway")
        return self.ended(guest, 0)

    def ended(self, guest, status):
        """Waits until the gateway has ended, with this status; gives its log."""
        ended = guest.share / "ended"
        try:
            found = wait_until("the gateway has ended", lambda: ended.read_text().strip(), patience_s=60)
        except Failed as failed:
            raise Failed(f"{failed}; its log:\n{self.log(guest)}") from None
        log = self.log(guest)
        ensure(found == str(status), f"the gateway ended with status {found}, not {status}:\n{log}")
        return log

    def log(self, guest):
        return (guest.share / "log").read_text()

    def pings(self, size, *options):
        """Both families answer pings with this many bytes of an IPv4 packet."""
        self.inside("ping", "-q", "-c", "2", "-i", "0.3", "-W", "20", *options, "-s", f"{size - 28}", "10.79.0.1")
        self.inside("ping", "-6", "-q", "-c", "2", "-i", "0.3", "-W", "20", *options, "-s", f"{size - 48}", "fd79::1")

    def transfers(self, client):
        """put and get over both families."""
        for address in (V4, V6):
            file, got = random_file(self / "file", 4 << 20), self / "got"
            got.unlink(missing_ok=True)
            token = client("put", address, file)
            client("get", address, token, "-o", got)
            same(file, got)

    def checksums(self, client):
        """Every packet that leaves the device has the checksums that it should have, by a reader that is not ours."""
        seen = self / "seen"
        command = inside(self.outside, "tcpdump", "-ni", "tap0", "-vv", "-l", "src host 10.79.0.1 or src host fd79::1")
        with seen.open("w") as out:
            reader = subprocess.Popen(command, stdout=out, stderr=subprocess.PIPE, text=True)
        try:
            while "listening on" not in (said := reader.stderr.readline()):
                ensure(said, "tcpdump ended")
            client("ping", V4, "-c", "3", "-i", "0.1")
            client("ping", V6, "-c", "3", "-i", "0.1")

            def packets():
                return [
                    len(re.findall(what, seen.read_text())) for what in ("10.79.0.1.*udp sum ok", "fd79::1.*udp sum ok")
                ]

            wait_until("tcpdump has seen packets of both families with right checksums", lambda: min(packets()) > 0)
        finally:
            reader.terminate()
            reader.wait()
        text = seen.read_text()
        ensure("bad" not in text, f"wrong checksums left the device:\n{text}")
        print(f"checksums right in {sum(packets())} packets", flush=True)

    def link(self, guest, device):
        """The link goes and comes back; the log says each once. A device may also have been without a link for its first seconds."""
        told = INTERFACE if device.is_kernels else LINK

        def counts():
            return [self.log(guest).count(words) for words in told]

        downs, ups = counts()
        for state, expected in (("off", [downs + 1, ups]), ("on", [downs + 1, ups + 1])):
            guest.monitor(f"set_link nic {state}")
            wait_until(f"the log says once that the link is {state}", lambda expected=expected: counts() == expected)
        self.pings(84)
        ensure(counts() == [downs + 1, ups + 1], f"the link went once:\n{self.log(guest)}")

    def last(self, guest):
        """What each worker had counted when the gateway ended."""
        return json.loads((guest.share / "up").read_text().splitlines()[-1])["workers"]

    def queues(self, guest, at):
        """The scenarios of two workers on two queues."""
        self.serves(guest, at, 2, 1500)

        def counters():
            return counted(guest.line(f"wget -qO- http://{ADMIN}/metrics | grep worker="))

        def end():
            self.ends(guest)
            return [worker["counters"] for worker in self.last(guest)]

        own, addresses = ("10.79.0.2", "fd79::2"), ("10.79.0.1", "fd79::1")
        Queues(self, self.outside, addresses, own, counters, scale=0.25, connections=8).all(end)

    def predicted(self, guest, device):
        """The hash in software is the device's: the flows of worker w arrive at queue w modulo the number of queues."""
        workers = self.last(guest)
        out, taken = ([worker["counters"].get(name, 0) for worker in workers] for name in ("spread_out", "spread_in"))
        print(f"given {out}, taken {taken}", flush=True)
        expected = [sum(taken[queue + device.queues :: device.queues]) for queue in range(device.queues)]
        ensure(out[: device.queues] == expected and sum(out) > 0, f"the device hashes in another way: {workers}")

    def ends_naming(self, guest, fault):
        """The gateway ends with this error."""
        log = self.ended(guest, 1)
        ensure(f"stoq-gateway: {fault}" in log, f"the error is not {fault}:\n{log}")
        print(log.splitlines()[-1], flush=True)

    def pulled(self, guest, at):
        """The gateway ends with an error that names its port, when the device is pulled."""
        self.serves(guest, at, 1, 1500)
        self.pings(84)
        guest.monitor("device_del nic")
        self.ends_naming(guest, f"port {at} was removed")

    def reset(self, guest, at):
        """The gateway ends with an error that names its port, when the physical function is reset, and serves again after its next start."""
        self.serves(guest, at, 1, 1500)
        self.pings(84)
        guest.line("/bin/ip link set eth0 down && /bin/ip link set eth0 up")
        self.ends_naming(guest, f"port {at} was reset from outside")
        self.serves(guest, at, 1, 1500)
        self.pings(84)
        self.transfers(self.client("gateway", inside(self.outside)))
        self.ends(guest)

    def works(self, name):
        device = DEVICES[name]
        say(name)
        self.outside = self.namespace(name)
        self.inside("ip", "tuntap", "add", "tap0", "mode", "tap", *(["multi_queue"] if "queues" in device.tap else []))
        self.inside("ip", "addr", "add", "10.79.0.2/24", "dev", "tap0")
        self.inside("ip", "-6", "addr", "add", "fd79::2/64", "dev", "tap0", "nodad")
        self.inside("ip", "link", "set", "tap0", "mtu", "1500", "up")
        # What crosses it goes on to the gateway.
        self.inside("ip", "link", "set", "lo", "mtu", "1500")
        on_port = device.at == ON_PORT
        guest = Guest(
            self, name, self.outside, self.archive, self.kernel, device.qemu, device.tap, on_port, device.has_iommu
        )
        for part in ("pem", "key"):
            (guest.share / f"gateway.{part}").write_bytes((self / f"gateway.{part}").read_bytes())
        at = self.bound(guest, device)
        client = self.client("gateway", inside(self.outside))
        offloads = self.serves(guest, at, device.workers, 1500)
        # At the kernel's interface, the kernel or the device has chosen the queue.
        by_hash = offloads["rss"] or device.is_kernels
        is_spread = device.workers > 1 and (device.workers > device.queues or not by_hash)
        ensure(offloads["software_spread"] == is_spread, f"flows are spread in another way: {offloads}")
        if offloads["rss"]:
            ensure('rss="by addresses and ports, key ours, table ours"' in self.log(guest), self.log(guest))
        said = guest.line("stoq-gateway check --config /etc/gateway.toml")
        ensure(f"{at} is in use by process" in said, f"check does not see the running gateway:\n{said}")
        self.pings(1500, "-M", "do")
        self.transfers(client)
        self.checksums(client)
        self.link(guest, device)
        log = self.ends(guest)
        ensure(log.count(" ERROR") == log.count(INTERFACE[0]), f"errors:\n{log}")
        if offloads["rss"] and is_spread:
            self.predicted(guest, device)
        print(*re.findall(r"port counted .*", log), flush=True)
        if device.queues > 1:
            self.queues(guest, at)
        if device.mtu_max > 1500:
            self.inside("ip", "link", "set", "tap0", "mtu", f"{device.mtu_max}")
            self.serves(guest, at, 1, device.mtu_max)
            self.pings(device.mtu_max, "-M", "do")
            self.transfers(client)
            self.ends(guest)
        if device.is_virtual_function:
            self.reset(guest, at)
        if device.is_pulled:
            self.pulled(guest, at)


class Trial:
    """A device that is tried in a process of its own, whose words are kept until its end."""

    def __init__(self, name, archive, said):
        self.name, self.said, self.since = name, said, time.monotonic()
        with said.open("w") as out:
            self.process = subprocess.Popen([sys.executable, __file__, name, ROOT, archive], stdout=out, stderr=out)

    def has_ended(self):
        """Whether the device has passed; its words are shown then. Raises if it has failed."""
        status = self.process.poll()
        if status is None:
            return False
        print(self.said.read_text(), end="", flush=True)
        ensure(status == 0, f"{self.name} failed with status {status}")
        say(f"{self.name} passed in {time.monotonic() - self.since:.0f} s")
        return True

    def end(self):
        """Ends the process, which removes what it has made."""
        self.process.terminate()
        self.process.wait()


def every(names):
    """Tries these devices, two at a time: an emulated guest without work keeps a core busy."""
    with Scene("pci") as scene:
        archive = make_root(scene, Path(os.environ["STOQ_KERNEL"]))
        left, running = list(names), []
        while left or running:
            while left and len(running) < GUESTS:
                name = left.pop(0)
                running.append(Trial(name, archive, scene / name))
                scene.stack.callback(running[-1].end)
            running = [trial for trial in running if not trial.has_ended()]
            time.sleep(0.1)


def pci():
    if ROOT in sys.argv:
        name, _, archive = sys.argv[1:]
        with Pci(Path(archive)) as it:
            it.identities("gateway", "client")
            it.works(name)
        return
    known = run("qemu-system-x86_64", "-device", "help")
    there = [name for name, device in DEVICES.items() if f'name "{device.qemu.split(",")[0]}"' in known]
    asked = sys.argv[1:] or there
    for name in asked:
        if name not in DEVICES:
            raise Failed(f"no device is called {name}: give one of {', '.join(DEVICES)}")
        ensure(name in there, f"this QEMU has no {name}: install QEMU 8.0 or later")
    every(asked)
    left = sorted(set(DEVICES) - set(asked))
    say(f"passed: {', '.join(asked)}" + (f"; not run: {', '.join(left)}" if left else ""))


main(pci)
