"""The ends of the wan rows that are no peers of benches/peers.

wan_ends.py tcp-server ADDRESS PORT           takes one connection, and tells what it receives
wan_ends.py tcp-client ADDRESS PORT CONTROL   sends until it is ended, with this congestion control of the kernel
wan_ends.py gateway URL                       tells the payload bytes that a gateway has checked, by its /metrics

What is told are lines like those of a peer's server: {"event": "received", "at_s": …, "bytes": …}.
"""

import json
import socket
import sys
import time
import urllib.request

#: At most one line in this time, seconds.
EVERY_S = 0.05
CHUNK_BYTES = 1 << 20


def tell(count):
    print(json.dumps({"event": "received", "at_s": time.monotonic(), "bytes": count}), flush=True)


def tcp_server(address, port):
    with socket.create_server((address, int(port))) as listening:
        print(json.dumps({"event": "up"}), flush=True)
        connection, _ = listening.accept()
    buffer, count, told = bytearray(CHUNK_BYTES), 0, 0.0
    while got := connection.recv_into(buffer):
        count += got
        if time.monotonic() - told >= EVERY_S:
            told = time.monotonic()
            tell(count)


def tcp_client(address, port, control):
    connection = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, control.encode())
    connection.connect((address, int(port)))
    chunk = b"\x07" * CHUNK_BYTES
    while True:
        connection.sendall(chunk)


def gateway(url):
    before = 0
    print(json.dumps({"event": "up"}), flush=True)
    while True:
        with urllib.request.urlopen(f"{url}/metrics") as answer:
            lines = answer.read().decode().splitlines()
        found = [float(line.split()[-1]) for line in lines if line.startswith("stoq_verified_bytes_total")]
        count = int(sum(found))
        if count > before:
            before = count
            tell(count)
        time.sleep(EVERY_S)


def main():
    kind, *arguments = sys.argv[1:]
    {"tcp-server": tcp_server, "tcp-client": tcp_client, "gateway": gateway}[kind](*arguments)


main()
