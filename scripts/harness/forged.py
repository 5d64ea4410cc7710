"""Forged hand-overs: GUE with packets of QUIC inside, as docs/fleet.md has them, from a raw socket."""

import os
import socket
import struct

from harness.asking import within

PORT, GUE_IPV4 = 6080, b"\x00\x04\x00\x00"
#: The port from which forged packets come, inside and outside: no answer may come back to it.
FROM_PORT = 5555
ETHERNET_BYTES = 14


def ipv4(source, destination, payload, protocol=socket.IPPROTO_UDP):
    """A packet over IPv4; its receiver does not check the header's checksum unless it forwards it."""
    header = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(payload), 0, 0, 64, protocol, 0)
    header += socket.inet_aton(source) + socket.inet_aton(destination)
    total = sum(struct.unpack("!10H", header))
    total = (total >> 16) + (total & 0xFFFF)
    checksum = ~(total + (total >> 16)) & 0xFFFF
    return header[:10] + struct.pack("!H", checksum) + header[12:] + payload


def udp(from_port, to_port, payload):
    """Without a checksum, as IPv4 allows."""
    return struct.pack("!HHHH", from_port, to_port, 8 + len(payload), 0) + payload


def short_packet():
    """A packet of QUIC with a connection ID of a fleet's length, of random bytes, under rotation 0."""
    return b"\x40" + bytes([16]) + os.urandom(16 + 40)


def first_packet():
    """The first packet of a connection: QUIC version 1, an ID of eight octets of the client's choice."""
    return (b"\xc0\x00\x00\x00\x01\x08" + os.urandom(8) + b"\x00\x00\x44\x00").ljust(1200, b"\0")


def handed(inner_source, anycast, quic):
    """What a gateway sends that hands this packet over."""
    return GUE_IPV4 + ipv4(inner_source, anycast, udp(FROM_PORT, 4433, quic))


class Forger:
    """Sends from a namespace, with any source address, and sees what arrives there."""

    def __init__(self, namespace, interface):
        self.raw, self.seen = within(namespace, lambda: self.sockets(interface))

    @staticmethod
    def sockets(interface):
        raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
        seen = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0800))
        seen.bind((interface, 0))
        seen.setblocking(False)
        return raw, seen

    def send(self, source, destination, payload):
        self.raw.sendto(ipv4(source, destination, udp(FROM_PORT, PORT, payload)), (destination, 0))

    def answers(self):
        """What has come for the forger: datagrams to its port, and messages of ICMP."""
        found = []
        while True:
            try:
                frame, (_, _, kind, *_) = self.seen.recvfrom(65536)
            except BlockingIOError:
                return found
            packet = frame[ETHERNET_BYTES:]
            if kind == socket.PACKET_OUTGOING:
                continue
            is_icmp = packet[9] == socket.IPPROTO_ICMP
            is_ours = packet[9] == socket.IPPROTO_UDP and packet[22:24] == struct.pack("!H", FROM_PORT)
            if is_icmp or is_ours:
                found.append(packet)

    def close(self):
        self.raw.close()
        self.seen.close()
