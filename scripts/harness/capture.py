"""What scripts/capture.sh runs, once it has looked at the machine."""

import contextlib
import json
import shutil
import signal
import subprocess
import urllib.request
from pathlib import Path

from harness import AF_PACKET, Failed, Scene, cable, dpdk, ensure, inside, main, random_file, run, say, seed

AT = "10.79.0.1:4433"
#: A content token that no payload has.
UNKNOWN = "01" + "5a" * 32


class Captures(Scene):
    """The gateway's end of a veth pair here, the client's in a namespace."""

    def __init__(self):
        super().__init__("capture")

    def build(self):
        self.far_namespace, self.near, far = self.namespace(""), self.interface("n"), self.interface("f")
        cable(self.near, far, None, self.far_namespace)
        run("ip", "addr", "flush", "dev", self.near)
        self.inside("ip", "addr", "add", "10.79.0.2/24", "dev", far)
        self.identities("gateway", "client")
        self.client_inside = self.client("gateway", inside(self.far_namespace), show=False)
        self.file = random_file(self / "file", 300_000)

    def inside(self, *command):
        return run(*inside(self.far_namespace, *command))

    def start(self, key_log):
        shutil.rmtree(self / "store", ignore_errors=True)
        port = dpdk(AF_PACKET.format(self.near), "10.79.0.1/24", huge_pages="none", memory_mib=128)
        self.configure(
            "gateway",
            {
                "network": port,
                **self.who("gateway", "client"),
                "capture": {"socket": "capture.sock", "key_log": key_log},
                "admin": {"listen": "127.0.0.1:0"},
                "application": [seed(memory_bytes=4 << 20)],
            },
        )
        return self.gateway("gateway").serves()

    def record(self, file, work, *options):
        """Captures while `work` is done; gives the number of frames that the recorder says it has."""
        file.unlink(missing_ok=True)
        recorder = self.recorder(file, *options)
        work()
        return recorder.end("recorded", by=signal.SIGINT)["frames"]

    def ping(self, count):
        self.inside("ping", "-q", "-c", str(count), "-i", "0.2", "-W", "20", "10.79.0.1")


#: The dissector of STOQ's records.
RECORDS = Path("packaging/stoq.lua")


def tshark(file, *options):
    """The lines that tshark prints."""
    command = ["tshark", "-n", "-r", file, "-d", "udp.port==4433,quic", "-X", f"lua_script:{RECORDS}", *options]
    return run(*command, stderr=subprocess.DEVNULL).splitlines()


def count(file, display_filter):
    """How many frames tshark finds."""
    return len(tshark(file, "-Y", display_filter))


def records(file, *fields):
    """These fields of STOQ's records, each with the values that occur."""
    lines = tshark(file, "-Y", "stoq", "-T", "fields", *(word for field in fields for word in ("-e", field)))
    columns = zip(*(line.split("\t") for line in lines), strict=True)
    return [{value for cell in column for value in cell.split(",") if value} for column in columns]


def look_at_records(file, token):
    """What the dissector makes of a put, a get and a refused get: every kind of record that they send, and its fields."""
    names, tokens, codes, lengths, queues = records(
        file, "stoq.record", "stoq.token", "stoq.error.code", "stoq.payload_length", "stoq.queue"
    )
    say(f"records: {', '.join(sorted(names))}")
    ensure(names == {"SETTINGS", "PUT", "OK", "DONE", "FETCH", "ERROR"}, f"not the records that were sent: {names}")
    digits = "01" + token.removeprefix("b3:")
    ensure({each.replace(":", "") for each in tokens} == {digits, UNKNOWN}, f"not the tokens: {tokens}")
    ensure({int(code, 0) for code in codes} == {0x05}, f"not the code of a payload that is not kept: {codes}")
    ensure(lengths == {"0", "300000"}, f"not the lengths in the answers to PUT and FETCH: {lengths}")
    ensure(queues == {"0"}, f"not the queue: {queues}")
    ensure(count(file, "stoq.encoding") > 100, "the payload crosses as no verified encoding")
    ensure(count(file, "stoq.malformed") == 0, "bytes that are taken for records and are none")


def look_at_endpoint(admin):
    """What the admin endpoint says of the port."""

    def read(path):
        with urllib.request.urlopen(f"http://{admin}{path}", timeout=10) as answer:
            return answer.read().decode()

    values = dict(line.rsplit(" ", 1) for line in read("/metrics").splitlines() if not line.startswith("#"))

    def value(name):
        return sum(float(value) for key, value in values.items() if key.split("{")[0] == name)

    for name, least in ("rx_packets", 200), ("rx_bytes", 300_000), ("tx_packets", 10), ("tx_bytes", 1000):
        ensure(value(f"stoq_port_{name}_total") > least, f"{name}: {values}")
    ensure(value("stoq_port_mtu_bytes") == 1500, values)
    ensure(value("stoq_link_up") == 1 and value("stoq_ready") == 1, values)
    ensure("stoq_port_rx_missed_total" in str(values) and "stoq_capture_dropped_total" in values, values)
    port = json.loads(read("/status"))["ports"][0]
    is_so = (port["kind"], port["driver"], port["mtu"], port["link_up"]) == ("dpdk", "net_af_packet", 1500, True)
    ensure(is_so and port["offloads"] is not None, port)


def capture_of(it, key_log):
    say(f"a put, captured with key_log = {key_log}")
    gateway = it.start(key_log)
    put, icmp, tokens = it / "put.pcapng", it / "icmp.pcapng", []
    (it / "got").unlink(missing_ok=True)

    def work():
        it.ping(3)
        tokens.append(it.client_inside("put", AT, it.file))
        it.client_inside("get", AT, tokens[0], "-o", it / "got")
        with contextlib.suppress(subprocess.CalledProcessError):
            it.client_inside("get", AT, f"b3:{UNKNOWN[2:]}", "-o", it / "none")
            raise Failed("an unknown payload is there")

    frames = it.record(put, work, "--filter", "udp port 4433")
    found, quic, streams = count(put, "frame"), count(put, "quic"), count(put, "quic.stream.stream_id")
    sent = count(put, "frame.packet_flags_direction == 2 && ip.src == 10.79.0.1")
    wrong = count(put, "frame.packet_flags_direction == 1 && ip.src == 10.79.0.1")
    say(f"{frames} frames; tshark finds {found}, {quic} of QUIC, {streams} with streams that it can read, {sent} sent")
    ensure(frames > 200 and found == quic == frames, "frames are missing or too many")
    ensure(sent > 0 and wrong == 0, "directions are wrong")
    if key_log:
        ensure(streams > 100, "the secrets open nothing")
        look_at_records(put, tokens[0])
    else:
        ensure(streams == 0, "secrets got out")
    frames = it.record(icmp, lambda: it.ping(4), "--filter", "icmp and src host 10.79.0.2", "--count", "2")
    ensure(frames == 2 and count(icmp, "icmp.type == 8") == 2, "not the frames that were asked for")
    if not key_log:
        look_at_endpoint(gateway.up["admin"])
    gateway.stop()
    ensure(not (it / "capture.sock").exists(), "the socket is left")


def captures():
    with Captures() as it:
        it.build()
        for key_log in (True, False):
            capture_of(it, key_log)
    say("captures passed")


main(captures)
