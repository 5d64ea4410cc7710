#!/usr/bin/env python3
"""What the ring itself carries: full frames by dpdk-testpmd from txonly to rxonly over memif, one core a side.

wire.py --dir DIRECTORY --mtu MTU --rsize LOG2 --seconds S: prints one JSON object. gbit_per_s counts of each frame what a full
packet of ours carries of payload in it.
"""

import argparse
import json
from pathlib import Path

from pktgen import Testpmd, testpmd_rate

# IP and UDP 28, QUIC's short header 12, the tag 16, a STREAM frame's header 8.
HEADERS_BYTES = 64
ETHERNET_BYTES = 14


def buffer_bytes(mtu):
    """Room for one whole frame, so that one is never cut into several."""
    return max(2048, -(-(mtu + ETHERNET_BYTES) // 1024) * 1024)


class Site:
    def __init__(self, arguments):
        self.directory, self.rsize = Path(arguments.dir), arguments.rsize
        self.gateway_core, self.tester_core, self.seconds = 1, 0, arguments.seconds
        # memif claims frames of 1518 bytes whatever its buffers are; the buffers decide.
        self.buffers = f",bsize={buffer_bytes(arguments.mtu)}"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--dir", required=True)
    parser.add_argument("--mtu", type=int, required=True)
    parser.add_argument("--rsize", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=3)
    arguments = parser.parse_args()
    site, frame = Site(arguments), arguments.mtu + ETHERNET_BYTES
    # 128 bytes in front of a frame are DPDK's own.
    options = [f"--mbuf-size={buffer_bytes(arguments.mtu) + 128}"]
    (site.directory / "memif.sock").unlink(missing_ok=True)
    receiver = Testpmd(site, "server", site.gateway_core, "rxonly", *options)
    try:
        receiver.start()
        said = testpmd_rate(site, lambda: receiver.stop()[0], "txonly", *options, f"--txpkts={frame}")
    finally:
        receiver.kill()
    received, elapsed = said["receiver"], said["seconds"]
    payload = received * (arguments.mtu - HEADERS_BYTES)
    print(
        json.dumps(
            {
                "operation": "wire",
                "bytes": payload,
                "seconds": elapsed,
                "gbit_per_s": payload * 8 / elapsed / 1e9,
                "frames_per_s": received / elapsed,
                "sent": said["sent"],
                "refused": said["refused"],
                "cipher": "none",
            },
            separators=(",", ":"),
        )
    )


main()
