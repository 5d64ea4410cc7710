#!/usr/bin/env python3
"""What the ring itself carries: full frames by dpdk-testpmd from txonly to rxonly over memif, one core a side.

wire.py --dir DIRECTORY --mtu MTU --rsize LOG2 --seconds S: prints one JSON object. gbit_per_s counts of each frame what a full
packet of ours carries of payload in it.
"""

import argparse
import json
import time
from pathlib import Path

from pktgen import Testpmd

# IP and UDP 28, QUIC's short header 12, the tag 16, a STREAM frame's header 8.
HEADERS_BYTES = 64
ETHERNET_BYTES = 14


def buffer_bytes(mtu):
    """Room for one whole frame, so that one is never cut into several."""
    return max(2048, -(-(mtu + ETHERNET_BYTES) // 1024) * 1024)


class Site:
    def __init__(self, arguments):
        self.directory, self.rsize = Path(arguments.dir), arguments.rsize
        # memif claims frames of 1518 bytes whatever its buffers are; the buffers decide.
        self.buffers = f",bsize={buffer_bytes(arguments.mtu)}"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--dir", required=True)
    parser.add_argument("--mtu", type=int, required=True)
    parser.add_argument("--rsize", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--receiver-core", type=int, default=1)
    parser.add_argument("--sender-core", type=int, default=0)
    arguments = parser.parse_args()
    site, frame = Site(arguments), arguments.mtu + ETHERNET_BYTES
    # 128 bytes in front of a frame are DPDK's own.
    options = [f"--mbuf-size={buffer_bytes(arguments.mtu) + 128}"]
    (site.directory / "memif.sock").unlink(missing_ok=True)
    receiver = Testpmd(site, "server", arguments.receiver_core, "rxonly", *options)
    try:
        receiver.start()
        sender = Testpmd(site, "client", arguments.sender_core, "txonly", *options, f"--txpkts={frame}")
        try:
            sender.link()
            sender.start()
            started = time.monotonic()
            time.sleep(arguments.seconds)
            _, sent, refused = sender.stop()
            elapsed = time.monotonic() - started
            # What is in the ring is read first; memif forgets its counters when the other end leaves.
            time.sleep(0.3)
            received = receiver.stop()[0]
        finally:
            sender.kill()
    finally:
        receiver.kill()
    payload = received * (arguments.mtu - HEADERS_BYTES)
    print(
        json.dumps(
            {
                "operation": "wire",
                "bytes": payload,
                "seconds": elapsed,
                "gbit_per_s": payload * 8 / elapsed / 1e9,
                "frames_per_s": received / elapsed,
                "sent": sent,
                "refused": refused,
                "cipher": "none",
            },
            separators=(",", ":"),
        )
    )


main()
