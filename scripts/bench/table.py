#!/usr/bin/env python3
"""Turns the JSON lines of scripts/bench/run.sh into Markdown on standard output: table.py FILE."""

import json
import statistics
import sys

PEERS = ["quinn", "s2n-quic", "quiche", "tquic"]
GOODPUT = [
    ("message-1500", "STOQ messages, memif, MTU 1500"),
    ("message-9000", "STOQ messages, memif, MTU 9000"),
    ("put-tmpfs", "STOQ put, memif, store on tmpfs"),
    ("put-disk", "STOQ put, memif, store on disk with fsync"),
    ("get-hot", "STOQ get, memif, payload in the gateway's memory, to a file on tmpfs"),
    ("get-piped", "STOQ get, memif, payload in the gateway's memory, to /dev/null"),
    ("put-checked", "STOQ put, memif, checked by the gateway and dropped"),
    ("get-checked", "STOQ get, memif, checked by the client and dropped"),
    ("get-unchecked", "the same answer read without checking"),
    ("af-xdp", "STOQ messages, kernel UDP client to net_af_xdp"),
    ("af-packet", "STOQ messages, kernel UDP client to net_af_packet"),
]
for peer in PEERS:
    GOODPUT.append((f"{peer}-gso", f"{peer}, kernel UDP, GSO super-packets crossing whole"))
    GOODPUT.append((f"{peer}-packets", f"{peer}, kernel UDP, packets crossing one by one"))
# Rows whose processes move the payload once and do nothing else.
COSTS = ["message-1500", "message-9000", "af-xdp", "af-packet"] + [f"{peer}-{how}" for peer in PEERS for how in ("gso", "packets")]
MESH = [
    ("get-direct", "get from a holder"),
    ("get-hop", "get through a relay"),
    ("holders-alive", "get from four holders, all alive"),
    ("holders-dead", "get from four holders, one dead"),
]
TRIPS = [
    ("trips-direct", "from a holder"),
    ("trips-hop", "through a relay"),
]
LATENCY = [
    ("ping", "STOQ, memif, MTU 1500"),
    ("quinn-ping", "quinn, kernel UDP over veth"),
    ("quinn-ping-busy", "quinn, kernel UDP over veth, never sleeping"),
]
RATIOS = [
    (f"goodput: STOQ memif MTU 1500 / {peer} {text}", "message-1500", f"{peer}-{how}", "gbit_per_s")
    for how, text in (("gso", "GSO"), ("packets", "packets"))
    for peer in PEERS
] + [
    ("goodput: get checked / unchecked", "get-checked", "get-unchecked", "gbit_per_s"),
    ("goodput: put checked / messages", "put-checked", "message-1500", "gbit_per_s"),
    ("goodput: get through a relay / from the holder", "get-hop", "get-direct", "gbit_per_s"),
    ("goodput: four holders, one dead / all alive", "holders-dead", "holders-alive", "gbit_per_s"),
    ("round trip p50: STOQ memif / quinn", "ping", "quinn-ping", "p50_us"),
    ("round trip p50: STOQ memif / quinn never sleeping", "ping", "quinn-ping-busy", "p50_us"),
]


class Run:
    """All lines of one file."""

    def __init__(self, lines):
        self.environment, self.tuning, self.rows = {}, [], {}
        for line in lines:
            line = json.loads(line)
            if "environment" in line:
                self.environment = line["environment"]
            elif "tuning" in line:
                self.tuning.append(line["tuning"])
            else:
                self.rows.setdefault(line["row"], {})[line["round"]] = line

    def values(self, row, key):
        return [line["result"][key] for line in self.rows.get(row, {}).values()]

    def ratios(self, over, under, key):
        """One for each round that has both."""
        a, b = self.rows.get(over, {}), self.rows.get(under, {})
        return [a[r]["result"][key] / b[r]["result"][key] for r in a if r in b]


def section(title, text, head, rows, left=1):
    """A heading, a paragraph and a table whose first `left` columns are text; nothing where no row was measured."""
    if not rows:
        return
    if title:
        yield f"## {title}\n"
    yield f"{text}\n"
    yield "| " + " | ".join(head) + " |"
    yield "|" + "---|" * left + "---:|" * (len(head) - left)
    for row in rows:
        yield "| " + " | ".join(str(cell) for cell in row) + " |"
    yield ""


def spread(values, digits):
    return f"{min(values):.{digits}f} to {max(values):.{digits}f}"


def middle(values, digits):
    return f"{statistics.median(values):.{digits}f}"


def mib(kib):
    return f"{kib / 1024:.0f}"


def environment(run):
    e = run.environment
    rounds = f"{e['rounds']} round{'s' * (e['rounds'] != 1)}"
    if e["rounds"] < 3:
        rounds += ": an example, not figures to quote"
    yield (
        f"Measured {e['date']} by `scripts/bench/run.sh` ({rounds}; rows in turn) at commit {e['commit']}: STOQ {e['stoq']}, "
        f"quinn-proto {e['quinn_proto']}, rustls {e['rustls']} with aws-lc-rs {e['aws_lc_rs']}, DPDK {e['dpdk']}, "
        f"Rust {e['rustc']}, release build with fat LTO; the peers are quinn {e['quinn']} with quinn-proto "
        f"{e['peer_quinn_proto']}, s2n-quic {e['s2n_quic']}, quiche {e['quiche']}, tquic {e['tquic']}. Linux {e['kernel']} on {e['cpu']}, {e['cores']} cores; load average before the run "
        f"{e['load_before']}."
    )
    yield ""
    yield (
        "**No physical NIC.** memif is memory shared by two processes on one host, veth is two ends of the kernel. What "
        "stands here is the cost of the software on one core a side, not the speed of a wire. Compare within one run only."
    )
    yield ""


def goodput(run):
    rows = []
    for row, name in GOODPUT:
        values = run.values(row, "gbit_per_s")
        if values:
            rows.append([name, middle(values, 2), f"{max(values):.2f}", spread(values, 2), len(values)])
    text = (
        "Payload bytes over the time from the first byte sent to the answer that they are there, as the far end counted "
        "them. Gbit/s, one connection."
    )
    yield from section("Goodput", text, ["what", "median", "best", "spread", "runs"], rows)


def mesh(run):
    rows = []
    for row, name in MESH:
        values = run.values(row, "gbit_per_s")
        if values:
            rows.append([name, middle(values, 2), f"{max(values):.2f}", spread(values, 2), len(values)])
    text = (
        "Kernel UDP on loopback, packets of 1,472 bytes: what several gateways do on two cores, one process each, so no figure of "
        "a wire. The relay has a core of its own; the others share one. Gbit/s."
    )
    yield from section("Through gateways, and from several", text, ["what", "median", "best", "spread", "runs"], rows)
    rows = []
    for row, name in TRIPS:
        p50 = run.values(row, "p50_us")
        if p50:
            rows.append([name, middle(p50, 1), middle(run.values(row, "p99_us"), 1), spread(p50, 1), len(p50)])
    text = "One fetch of 16 KiB after the other, on the same wire: microseconds, medians over the runs; the spread is that of p50."
    yield from section(None, text, ["what", "p50", "p99", "spread", "runs"], rows)


def latency(run):
    rows = []
    for row, name in LATENCY:
        p50 = run.values(row, "p50_us")
        if p50:
            tails = [middle(run.values(row, key), 1) for key in ("p99_us", "p999_us")]
            rows.append([name, middle(p50, 1), *tails, f"{min(p50):.1f}", spread(p50, 1), len(p50)])
    text = (
        "Microseconds, medians over the runs; best and spread are those of p50. STOQ's workers poll and never sleep. quinn "
        "stands here twice: as its runtime is, waking from epoll for each packet, and with a runtime that never sleeps."
    )
    yield from section("Round trips of 64 bytes", text, ["what", "p50", "p99", "p99.9", "best", "spread", "runs"], rows)


def ratios(run):
    rows = []
    for name, over, under, key in RATIOS:
        values = run.ratios(over, under, key)
        if values:
            rows.append([name, middle(values, 2), spread(values, 2)])
    text = "Of the two figures of one round, then the median over the rounds."
    yield from section("Ratios", text, ["what", "median", "spread"], rows)


def resources(run):
    rows = []
    for row, name in GOODPUT + MESH + TRIPS + LATENCY:
        lines = run.rows.get(row, {}).values()
        for side, far in (("client", "client"), ("gateway", "server" if row.startswith(tuple(PEERS)) else "gateway")):
            used = [line[side] for line in lines if line[side]]
            if used:
                peak, huge, cpu = (max(u[key] for u in used) for key in ("peak_kib", "huge_kib", "cpu_s"))
                rows.append([name, far, mib(peak), mib(huge), f"{cpu:.1f}"])
    text = (
        "The largest of all runs. Resident memory at its peak (VmHWM), MiB; huge pages stand beside it because the kernel "
        "does not count them in it. CPU seconds are of the whole process, from start to end; with idle policy `spin` they "
        "say how long it ran, not how much it did."
    )
    yield from section("Memory and CPU time", text, ["what", "side", "resident", "huge pages", "CPU s"], rows, left=2)


def costs(run):
    rows = []
    for row, name in GOODPUT:
        spent = [
            [line[side]["cpu_s"] / line["result"]["bytes"] * 1e9 for side in ("client", "gateway")]
            for line in run.rows.get(row, {}).values()
            if row in COSTS and line["client"] and line["gateway"]
        ]
        if spent:
            near, far = zip(*spent)
            rows.append([name, middle(near, 3), middle(far, 3), middle([sum(both) for both in spent], 3), len(spent)])
    text = (
        "CPU seconds a gigabyte of payload (10^9 bytes), medians over the runs. The whole process is counted, its start and the "
        "handshake with it, so the fewer bytes the higher. STOQ's workers poll, so theirs is how long they ran."
    )
    yield from section("CPU time a gigabyte", text, ["what", "sender", "receiver", "both", "runs"], rows)


def conditions(run):
    rows = []
    for row, name in GOODPUT + MESH + TRIPS + LATENCY:
        for line in list(run.rows.get(row, {}).values())[-1:]:
            c, result = line["conditions"], line["result"]
            rows.append([f"{name} (`{row}`)", c["wire"], c["payload"], result["cipher"], c["idle"], c["cores"]])
    text = (
        "Unless said otherwise: flow control 64 MiB a stream and 128 MiB a connection, 64 MiB send window (s2n-quic: 16 MiB), CUBIC from "
        "4 MiB, no path MTU search beyond the link's. STOQ: X25519MLKEM768, Falcon-512 certificates both ways, UDP payload of the MTU less "
        "28 bytes: 1472 at MTU 1500. The peers: X25519 (s2n-quic with s2n-tls: P-256), a self-signed ECDSA certificate, UDP "
        "payload of 1472 bytes, one thread. quinn and s2n-quic use GSO and GRO as they do by themselves, ten packets a send; "
        "quiche and tquic bring no sockets and stand on a loop of our own that sends up to 44 packets at once, pacing off, with "
        "flow control of 4 MiB a stream and 8 MiB a connection, the best of 4, 8 and 64 MiB over both wires, and without loss. "
        "The key exchange and the signatures cost the handshake, which is before the first byte. Kernel sockets have buffers of 16 MiB."
    )
    yield from section("Conditions", text, ["what", "wire", "payload", "cipher", "idle", "cores"], rows, left=6)
    tried = {}
    for t in run.tuning:
        tried.setdefault((t["mtu"], t["rsize"]), []).append(t["gbit_per_s"])
    rows = [[mtu, f"2^{rsize}", spread(rates, 2)] for (mtu, rsize), rates in sorted(tried.items())]
    text = "memif's ring length is the best of these, tried twice each before the rounds (Gbit/s):"
    yield from section(None, text, ["MTU", "ring", "goodput"], rows, left=2)


def main():
    with open(sys.argv[1]) as file:
        run = Run(file)
    print("# Benchmarks\n")
    for part in (environment, goodput, mesh, latency, ratios, resources, costs, conditions):
        for line in part(run):
            print(line)
    print("Run it: `scripts/bench/run.sh`, or one row: `scripts/bench/run.sh message-1500`.")


main()
