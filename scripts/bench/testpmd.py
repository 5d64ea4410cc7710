"""DPDK's own forwarder: it makes load, and receives it at the other end of the ring."""

import os
import re
import select
import subprocess
import time

from harness import Failed, wait_until
from scene import CLIENT_CORE, GATEWAY_CORE

GATEWAY_MAC = "02:00:00:00:00:01"
#: IP and UDP 28, QUIC's short header 12, the tag 16, a STREAM frame's header 8.
HEADERS_BYTES = 64
ETHERNET_BYTES = 14
#: How long anything but a trial may take, seconds.
WAIT_S = 20


class Testpmd:
    """DPDK's own forwarder, on one end of the ring."""

    def __init__(self, bench, role, rsize, mode, *options, buffer_bytes=None):
        self.mode, self.said = mode, ""
        core = GATEWAY_CORE if role == "server" else CLIENT_CORE
        device = bench.ring(role, rsize) + (f",mac={GATEWAY_MAC}" if role == "server" else "")
        # memif claims frames of 1518 bytes whatever its buffers are; the buffers decide.
        device += f",bsize={buffer_bytes}" if buffer_bytes else ""
        # The main lcore shares the core: it only reads commands. No other process shares the pages, so they have no files.
        command = [
            "stdbuf",
            "-oL",
            "dpdk-testpmd",
            "--lcores",
            f"0@{core},1@{core}",
            "--no-pci",
            "--in-memory",
            "--file-prefix",
            f"stoq-testpmd-{role}-{os.getpid()}",
            f"--vdev={device}",
            "--",
            "-i",
            f"--forward-mode={mode}",
            "--total-num-mbufs=16384",
            *options,
        ]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.STDOUT)
        try:
            self.wait(r"testpmd> ")
        except BaseException:
            self.kill()
            raise

    def wait(self, pattern):
        until = time.monotonic() + WAIT_S
        while not (found := re.search(pattern, self.said, re.DOTALL)):
            if not select.select([self.process.stdout], [], [], max(0, until - time.monotonic()))[0]:
                raise Failed(f"testpmd does not say {pattern!r}:\n{self.said[-2000:]}")
            read = os.read(self.process.stdout.fileno(), 65536)
            if not read:
                raise Failed(f"testpmd ended early:\n{self.said[-2000:]}")
            self.said += read.decode(errors="replace")
        self.said = self.said[found.end() :]
        return found

    def order(self, command, pattern):
        try:
            self.process.stdin.write(command.encode() + b"\n")
            self.process.stdin.flush()
        except BrokenPipeError as error:
            raise Failed("testpmd ended early") from error
        return self.wait(pattern)

    def start(self):
        self.order("start", rf"{self.mode} packet forwarding.*?nb forwarding ports=\d+")

    def stop(self):
        """Stops forwarding: frames received, sent, and not taken by the device."""
        self.order("stop", r"statistics for port 0")
        counts = self.wait(r"RX-packets: (\d+).*?TX-packets: (\d+)\s+TX-dropped: (\d+)")
        return [int(count) for count in counts.groups()]

    def link(self):
        """Waits until the other end is there."""
        state = r"Link status: (\w+)"
        wait_until("the ring is up", lambda: self.order("show port info 0", state)[1] == "up", patience_s=WAIT_S)

    def counted(self, sent):
        """Ends it once it has received this number of frames, of which the ring loses none."""
        count = r"RX-packets: (\d+)\s"
        are_there = lambda: int(self.order("show port stats 0", count)[1]) >= sent
        wait_until(f"{sent} frames are received", are_there, patience_s=WAIT_S)
        return {"rx_packets": self.stop()[0]}

    def kill(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()


def transmit(bench, rsize, seconds, receiver, mode, *options, buffer_bytes=None):
    """Has testpmd send for a while; gives the frames a second that it got rid of. `receiver` takes their number once no more are sent, and gives what
    the other end of the ring counted. The ring and the counters of its ends go with either process."""
    sender = Testpmd(bench, "client", rsize, mode, *options, buffer_bytes=buffer_bytes)
    try:
        sender.link()
        sender.start()
        started = time.monotonic()
        time.sleep(seconds)
        _, sent, refused = sender.stop()
        elapsed = time.monotonic() - started
        counted = receiver(sent)
    finally:
        sender.kill()
    return {"frames_per_s": sent / elapsed, "sent": sent, "refused": refused, "seconds": elapsed, "receiver": counted}


def exchange(bench, rsize, seconds, mode, *options, receiver_options=(), buffer_bytes=None):
    """The same between two of testpmd, one core a side."""
    (bench / "memif.sock").unlink(missing_ok=True)
    receiver = Testpmd(bench, "server", rsize, "rxonly", *receiver_options, buffer_bytes=buffer_bytes)
    try:
        receiver.start()
        return transmit(bench, rsize, seconds, receiver.counted, mode, *options, buffer_bytes=buffer_bytes)
    finally:
        receiver.kill()


def wire(bench, mtu, rsize):
    """What the ring itself carries: full frames from txonly to rxonly. Goodput counts of each frame what a full packet of ours carries of payload in
    it."""
    frame = mtu + ETHERNET_BYTES
    # Room for one whole frame, so that one is never cut into several; 128 bytes in front of a frame are DPDK's own.
    buffer_bytes = max(2048, -(-frame // 1024) * 1024)
    size = [f"--mbuf-size={buffer_bytes + 128}"]
    sending = [*size, f"--txpkts={frame}"]
    said = exchange(bench, rsize, 3, "txonly", *sending, receiver_options=size, buffer_bytes=buffer_bytes)
    received, seconds = said["receiver"]["rx_packets"], said["seconds"]
    payload = received * (mtu - HEADERS_BYTES)
    return {
        "operation": "wire",
        "bytes": payload,
        "seconds": seconds,
        "gbit_per_s": payload * 8 / seconds / 1e9,
        "frames_per_s": received / seconds,
        "sent": said["sent"],
        "refused": said["refused"],
        "cipher": "none",
    }
