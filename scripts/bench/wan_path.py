"""The long path of the wan rows, in the namespace of its two devices: wan_path.py LONG_PATH SETTINGS NEAR FAR.

Opens a packet socket on each device, and runs examples/long_path with them as standard input and output, in real-time priority: a frame that waits for
a core would be late. Prints its reports, a line each, with the frames that the kernel dropped before the process took them.
"""

import json
import socket
import struct
import subprocess
import sys

ETH_P_ALL = 3
SOL_PACKET, PACKET_STATISTICS, PACKET_QDISC_BYPASS, PACKET_IGNORE_OUTGOING = 263, 6, 20, 23
SO_RCVBUFFORCE = 33
#: What the kernel holds for a process that is late, bytes: many more than the long path may leave there.
SOCKET_BYTES = 32 << 20
PRIORITY = 50


def packet_socket(device):
    """A socket that gets every frame that the device receives, and that sends on it."""
    opened = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    opened.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, SOCKET_BYTES)
    opened.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
    opened.setsockopt(SOL_PACKET, PACKET_QDISC_BYPASS, 1)
    opened.bind((device, ETH_P_ALL))
    return opened


def main():
    carrier, settings, *devices = sys.argv[1:]
    ends = [packet_socket(device) for device in devices]
    command = ["chrt", "-f", str(PRIORITY), carrier, settings]
    dropped = 0
    with subprocess.Popen(command, stdin=ends[0], stdout=ends[1], stderr=subprocess.PIPE, text=True) as running:
        try:
            for line in running.stderr:
                if not line.startswith("{"):
                    print(line, end="", file=sys.stderr, flush=True)
                    continue
                # The kernel counts anew after each look.
                looks = [end.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8) for end in ends]
                dropped += sum(struct.unpack("=II", look)[1] for look in looks)
                print(json.dumps(json.loads(line) | {"socket_dropped": dropped}), flush=True)
        finally:
            running.kill()


main()
