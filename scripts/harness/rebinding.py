"""A NAT between a client and a gateway: it passes on datagrams, and gives the client another port from time to time."""

import ctypes
import os
import select
import socket
import threading

#: setns(2): the namespace of a network.
CLONE_NEWNET = 0x40000000
DATAGRAM_BYTES_MAX = 65536


def enter(namespace):
    """The calling thread, and no other, is in this network namespace from now on; its sockets stay there."""
    with open(f"/run/netns/{namespace}", "rb") as file:
        if ctypes.CDLL(None, use_errno=True).setns(file.fileno(), CLONE_NEWNET) < 0:
            raise OSError(ctypes.get_errno(), f"setns {namespace}")


class Rebinding:
    """Passes datagrams between the one client that sends to `address` and a gateway. The gateway sees the client at the first of `ports`, and at
    the next one each time that `every_bytes` more have come from the gateway (`counts="back"`) or from the client (`"there"`). What is sent to an
    earlier port is lost, as behind a NAT that has forgotten it."""

    def __init__(self, namespace, gateway, ports, every_bytes, counts):
        self.gateway, self.ports, self.every_bytes, self.counts = gateway, list(ports), every_bytes, counts
        self.moves, self.fault, self.bytes, self.address = 0, None, {"there": 0, "back": 0}, None
        self.ended, self.is_up = os.pipe(), threading.Event()
        self.thread = threading.Thread(target=self.run, args=(namespace,), daemon=True)
        self.thread.start()
        self.is_up.wait()
        if self.fault:
            raise self.fault

    def __enter__(self):
        return self

    def __exit__(self, *_):
        os.close(self.ended[1])
        self.thread.join()
        os.close(self.ended[0])
        if self.fault:
            raise self.fault

    def run(self, namespace):
        try:
            enter(namespace)
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as inner:
                inner.bind(("127.0.0.1", 0))
                self.address = "{}:{}".format(*inner.getsockname())
                outer = self.bound(self.ports.pop(0))
                self.is_up.set()
                self.carry(inner, outer)
        except OSError as error:
            self.fault = error
        finally:
            self.is_up.set()

    def bound(self, port):
        outer = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        outer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        outer.bind(("", port))
        outer.connect(self.gateway)
        return outer

    def carry(self, inner, outer):
        client = None
        while True:
            ready = select.select([inner, outer, self.ended[0]], [], [])[0]
            if self.ended[0] in ready:
                return outer.close()
            if inner in ready:
                data, client = inner.recvfrom(DATAGRAM_BYTES_MAX)
                outer.send(data)
                self.bytes["there"] += len(data)
            if outer in ready and client:
                data = outer.recv(DATAGRAM_BYTES_MAX)
                inner.sendto(data, client)
                self.bytes["back"] += len(data)
            if self.ports and self.bytes[self.counts] > (self.moves + 1) * self.every_bytes:
                outer.close()
                outer = self.bound(self.ports.pop(0))
                self.moves += 1
