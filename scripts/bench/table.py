#!/usr/bin/env python3
"""Turns the JSON lines of scripts/bench/run.sh into Markdown on standard output: table.py FILE [PLOTS CODING PKTGEN]:
PLOTS is Markdown that stands in front of the tables, the others are files of what stands behind them."""

import sys

from results import (
    CEILINGS,
    COSTS,
    GOODPUT,
    HANDSHAKES,
    LATENCY,
    MEMIF,
    MESH,
    NAMED,
    PEERS,
    TRIPS,
    VARIANTS,
    Run,
    median,
)

RATIOS = [
    (f"goodput: STOQ memif MTU 1500 / {peer} {text}", "message-1500", f"{peer}-{how}", "gbit_per_s")
    for how, text in (("gso", "GSO"), ("packets", "packets"))
    for peer in PEERS
] + [
    ("goodput: get checked / unchecked, MTU 1500", "get-1500", "get-unchecked-1500", "gbit_per_s"),
    ("goodput: put checked / unchecked, MTU 1500", "put-1500", "put-unchecked-1500", "gbit_per_s"),
    ("goodput: get checked / unchecked, MTU 9000", "get-9000", "get-unchecked-9000", "gbit_per_s"),
    ("goodput: put checked / unchecked, MTU 9000", "put-9000", "put-unchecked-9000", "gbit_per_s"),
    ("goodput: put checked / messages", "put-1500", "message-1500", "gbit_per_s"),
    ("goodput: put checked by a verify thread / messages", "verified-put-1500", "message-1500", "gbit_per_s"),
    ("goodput: get checked by a verify thread / messages", "verified-get-1500", "message-1500", "gbit_per_s"),
    ("goodput: get checked / messages", "get-1500", "message-1500", "gbit_per_s"),
    ("goodput: messages, 16 connections / 1", "message-1500-c16", "message-1500", "gbit_per_s"),
    ("goodput: messages, 256 connections / 1", "message-1500-c256", "message-1500", "gbit_per_s"),
    ("goodput: get through a relay / from the holder", "get-hop", "get-direct", "gbit_per_s"),
    (
        "goodput: get through a relay on net_af_xdp / from the holder on loopback",
        "get-hop-xdp",
        "get-direct",
        "gbit_per_s",
    ),
    ("goodput: four holders, one dead / all alive", "holders-dead", "holders-alive", "gbit_per_s"),
    (
        "goodput: beside 25,000 first flights a second / alone, net_af_packet",
        "af-packet-flights",
        "af-packet",
        "gbit_per_s",
    ),
    ("round trip p50: STOQ memif / quinn", "ping", "quinn-ping", "p50_us"),
    ("round trip p50: STOQ memif / quinn never sleeping", "ping", "quinn-ping-busy", "p50_us"),
]


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
    return f"{median(values):.{digits}f}"


def figures(run, rows, key="gbit_per_s", digits=2):
    """A line of a table for each row that was measured: what names it, median, best, spread, runs. `rows`: row, then its names."""
    for row, *names in rows:
        values = run.values(row, key)
        if values:
            yield [*names, middle(values, digits), f"{max(values):.{digits}f}", spread(values, digits), len(values)]


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
        f"Rust {e['rustc']}, release build {e['build']}, as the peers' is: quinn {e['quinn']} with quinn-proto "
        f"{e['peer_quinn_proto']}, s2n-quic {e['s2n_quic']}, quiche {e['quiche']}, tquic {e['tquic']}. Linux {e['kernel']} on "
        f"{e['cpu']}, {e['cores']} cores; load average before the run {e['load_before']}."
    )
    yield ""
    yield (
        "**No physical NIC.** memif is memory shared by two processes on one host, veth is two ends of the kernel. The "
        "figures are the cost of the software on one core a side, not the speed of a wire. Compare figures of one "
        "run only."
    )
    yield ""
    yield (
        "**No delay**, but for the rows `wan-*`, which have a section of their own where they were measured. "
        "[wan.md](wan.md) is about paths of milliseconds, with losses and small buffers, under virtual time."
    )
    yield ""
    yield (
        "**No disk**, but for the stores of some gets. [store.md](store.md#cold-reads-and-puts-to-disk) has GETs from a "
        "disk and PUTs to one, beside `fio`."
    )
    yield ""


def memif(run):
    rows = list(figures(run, [(row, f"{name} (`{row}`)", *shape) for row, name, *shape in MEMIF]))
    text = (
        "DPDK memif, two processes, one core a side; payload bytes over the time from the first byte sent to the last answer, "
        "over all connections and streams. Gbit/s."
    )
    head = ["what", "MTU", "connections", "streams each", "median", "best", "spread", "runs"]
    yield from section("Goodput over memif", text, head, rows)


def goodput(run):
    rows = list(figures(run, GOODPUT))
    text = (
        "Payload bytes, as the receiver counted them, over the time from the first byte sent to the receiver's answer. "
        "Gbit/s, one connection. The first flights of `af-packet-flights` come from an address of their own and prove nothing; their generator "
        "shares the client's core, so the ratio to `af-packet` counts what it takes there as well."
    )
    yield from section("Goodput, end to end", text, ["what", "median", "best", "spread", "runs"], rows)


def mesh(run):
    rows = list(figures(run, MESH))
    text = (
        "Packets of 1,472 bytes over kernel UDP on loopback, or on both sides of a relay on net_af_xdp behind a veth: several "
        "gateways that share two cores, one process each. These are no figures of a wire. The relay has a core of "
        "its own; the others share one. Gbit/s."
    )
    yield from section("Through gateways, and from several", text, ["what", "median", "best", "spread", "runs"], rows)
    rows = []
    for row, name in TRIPS:
        p50 = run.values(row, "p50_us")
        if p50:
            rows.append([name, middle(p50, 1), middle(run.values(row, "p99_us"), 1), spread(p50, 1), len(p50)])
    text = "Fetches of 16 KiB one after another, on the same wire: microseconds, medians over the runs; the spread is that of p50."
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
        "has two rows: with its runtime as it is, which wakes from epoll for each packet, and with a runtime that "
        "never sleeps."
    )
    yield from section("Round trips of 64 bytes", text, ["what", "p50", "p99", "p99.9", "best", "spread", "runs"], rows)


STAGES = ["receive", "parse", "quic", "records", "rings", "application", "emit", "frame", "transmit", "other"]


def sampled(line, side):
    """Turns, packets and nanoseconds by stage of one side, or nothing."""
    if side == "client":
        parts = line["result"].get("stages") or []
        total = {key: sum(part[key] for part in parts) for key in ("turns", "rx_packets", "tx_packets")}
        return total | {stage: sum(part["ns"][stage] for part in parts) for stage in STAGES} if parts else None
    told = line.get("stages")
    return {key: value for key, value in (told | told["ns"]).items() if key != "ns"} if told else None


def ceilings(run):
    rows = []
    for mtu in (1500, 9000):
        goodput = run.values(f"message-{mtu}", "gbit_per_s")
        rows += figures(run, [(row, f"{name} (`{row}`)", mtu) for row, name in CEILINGS if row.endswith(f"-{mtu}")])
        lower = run.lower_ceiling(mtu)
        if goodput and lower:
            efficiency = median(goodput) / lower
            rows.append(["**messages over the lower of both**", mtu, f"{efficiency:.2f}", "", "", len(goodput)])
    text = (
        "Two upper bounds of messages: quinn-proto and its encryption in memory with the same settings, the slower "
        "side of the two; and full frames from `dpdk-testpmd` txonly to rxonly over the same memif ring. Gbit/s of "
        "payload; a frame counts as the payload of a full STOQ packet. The last line is the median of messages over "
        "the lower of these medians."
    )
    yield from section("Ceilings", text, ["what", "MTU", "median", "best", "spread", "runs"], rows)


def stages(run):
    rows = []
    for row, name, mtu, connections, streams in MEMIF:
        for side in ("client", "gateway"):
            found = [s for s in (sampled(line, side) for line in run.rows.get(row, {}).values()) if s]
            packets = [max(s["rx_packets"], s["tx_packets"]) for s in found]
            # A gateway that is asked has taken the payload before, and given it once: its stages are of all of that.
            mixed = side == "gateway" and row.startswith("get")
            if mixed or not found or not all(packets) or (connections, streams) != (1, 1):
                continue
            cost = [median(s[stage] / n for s, n in zip(found, packets, strict=True)) for stage in STAGES]
            way = "sends" if found[0]["tx_packets"] > found[0]["rx_packets"] else "receives"
            shape = [f"{name}, MTU {mtu}", f"{side} {way}"]
            rows.append([*shape, *(f"{ns:.0f}" for ns in cost), f"{sum(cost):.0f}"])
    text = (
        "Nanoseconds a packet of the direction that carries the payload, medians over the runs, from the core's cycle counter at "
        "the borders of stages in one busy turn of 64. `quic` is decryption, acknowledgment and reassembly with the copy out "
        "of the device's buffer; `emit` builds and seals; `frame` copies into the device's buffer; `transmit` is the driver's "
        "burst, for memif its copy into the other process. A PUT's payload comes from memory, a message from the cache. The "
        "gateway of a GET is left out: its stages also contain the put of the payload before."
    )
    yield from section("Cost a packet by stage", text, ["what", "side", *STAGES, "sum"], rows, left=2)


def handshakes(run):
    rows = list(figures(run, [(row, f"{name} (`{row}`)") for row, name in HANDSHAKES], "handshakes_per_s", 0))
    for line, (row, _) in zip(rows, [named for named in HANDSHAKES if run.rows.get(named[0])], strict=True):
        line.insert(-1, middle(run.values(row, "p50_us"), 0))
    text = (
        "X25519MLKEM768, memif, 48 at a time, without a rate limit, one core a side. A handshake is completed when an "
        "application has answered on the connection, which is then closed. The slower core bounds the rate: the "
        "server's core signs, and so does the client's where clients show a certificate."
    )
    yield from section("Handshakes a second", text, ["what", "median", "best", "spread", "p50 us", "runs"], rows)


def ratios(run):
    rows = []
    for name, over, under, key in RATIOS:
        values = run.ratios(over, under, key)
        if values:
            rows.append([name, middle(values, 2), spread(values, 2)])
    text = "Each ratio is of two figures of one round; the table has the median over the rounds."
    yield from section("Ratios", text, ["what", "median", "spread"], rows)


def variants(run):
    rows = []
    for row, base, name, key in VARIANTS:
        values, over = run.values(row, key), run.ratios(row, base, key)
        if values and over:
            rows.append(
                [f"{name} (`{row}`)", middle(values, 2), spread(values, 2), middle(over, 2), spread(over, 2), len(over)]
            )
    text = (
        "Rows from above with one change: the executables as `cargo build --release` makes them, without a profile; or "
        "no UDP checksums over IPv4 (`udp_checksum = false`), which the super-packet rows of the peers leave out as "
        "well. The ratio is to the unchanged row of the same round; the table has the median over the rounds."
    )
    yield from section(
        "Build, and checksums", text, ["what", "median", "spread", "ratio", "spread of it", "runs"], rows
    )


def resources(run):
    rows = []
    for row, name in NAMED:
        lines = run.rows.get(row, {}).values()
        for side, far in (("client", "client"), ("gateway", "server" if row.startswith(tuple(PEERS)) else "gateway")):
            used = [line[side] for line in lines if line[side]]
            if used:
                peak, huge, cpu = (max(u[key] for u in used) for key in ("peak_kib", "huge_kib", "cpu_s"))
                rows.append([name, far, mib(peak), mib(huge), f"{cpu:.1f}"])
    text = (
        "The largest of all runs. Resident memory at its peak (VmHWM), MiB; huge pages have their own column, because "
        "the kernel does not count them as resident. CPU seconds are of the whole process, from start to end; with "
        "idle policy `spin` they show how long it ran, not how much work it did."
    )
    yield from section("Memory and CPU time", text, ["what", "side", "resident", "huge pages", "CPU s"], rows, left=2)


def costs(run):
    rows = []
    for row, name in NAMED:
        spent = [
            [line[side]["cpu_s"] / line["result"]["bytes"] * 1e9 for side in ("client", "gateway")]
            for line in run.rows.get(row, {}).values()
            if row in COSTS and line["client"] and line["gateway"]
        ]
        if spent:
            near, far = zip(*spent)
            rows.append([name, middle(near, 3), middle(far, 3), middle([sum(both) for both in spent], 3), len(spent)])
    text = (
        "CPU seconds a gigabyte of payload (10^9 bytes), medians over the runs. The whole process is counted, with its "
        "start and the handshake, so rows with fewer bytes have higher figures. STOQ's workers poll, so their CPU "
        "time is the time that they ran."
    )
    yield from section("CPU time a gigabyte", text, ["what", "sender", "receiver", "both", "runs"], rows)


def conditions(run):
    rows = []
    for row, name in NAMED:
        for line in list(run.rows.get(row, {}).values())[-1:]:
            c, result = line["conditions"], line["result"]
            rows.append(
                [
                    f"{name} (`{row}`)",
                    c["wire"],
                    c["payload"],
                    c["offloads"],
                    c["build"],
                    result["cipher"],
                    c["idle"],
                    c["cores"],
                ]
            )
    text = (
        "Unless said otherwise: flow control 64 MiB a stream and 128 MiB a connection, 64 MiB send window (s2n-quic: 16 MiB), CUBIC from "
        "4 MiB, no path MTU search beyond the link's. STOQ: X25519MLKEM768, Falcon-512 certificates both ways, UDP payload of the MTU less "
        "28 bytes: 1472 at MTU 1500. Where a DPDK port offloads nothing, software computes the checksums. The peers: X25519 (s2n-quic with s2n-tls: P-256), a self-signed ECDSA certificate, UDP "
        "payload of 1472 bytes, one thread. quinn and s2n-quic use GSO and GRO by default, ten packets a send; quiche "
        "and tquic have no sockets of their own and run on an event loop of this project that sends up to 44 packets "
        "at once, pacing off, with "
        "flow control of 4 MiB a stream and 8 MiB a connection, the best of 4, 8 and 64 MiB over both wires, and without loss. "
        "The key exchange and the signatures are part of the handshake, which ends before the first byte is sent. Kernel sockets have buffers of 16 MiB."
    )
    yield from section(
        "Conditions", text, ["what", "wire", "payload", "offloads", "build", "cipher", "idle", "cores"], rows, left=8
    )
    tried = {}
    for t in run.tuning:
        tried.setdefault((t["mtu"], t["rsize"]), []).append(t["gbit_per_s"])
    rows = [[mtu, f"2^{rsize}", spread(rates, 2)] for (mtu, rsize), rates in sorted(tried.items())]
    text = "memif's ring length is the best of these, tried twice each before the rounds with messages over 256 connections (Gbit/s):"
    yield from section(None, text, ["MTU", "ring", "goodput"], rows, left=2)


def coding(path):
    yield "## Coding and checking, one core\n"
    yield (
        "`cargo bench --bench shards` and `--bench tokens` on one core: shards of 64 KiB, payload in memory, best of their passes; "
        "GB/s of payload. `--bench cids`: the worker of a datagram by its connection ID, the best of nine runs, each look-up after the one before.\n"
    )
    with open(path) as file:
        yield "```text\n" + file.read().rstrip() + "\n```\n"


def pktgen(path):
    yield "## Load in packets a second\n"
    yield (
        "`scripts/bench/pktgen.sh`: the rates of garbage, Initials, handshakes and messages that a gateway's port "
        "takes, over memif. [pktgen.md](pktgen.md) explains each row.\n"
    )
    with open(path) as file:
        yield file.read().rstrip() + "\n"


def main():
    run = Run.load(sys.argv[1])
    plots, coding_path, pktgen_path = [*sys.argv[2:], *[None] * 3][:3]
    print("# Benchmarks\n")
    parts = (
        environment,
        memif,
        ceilings,
        stages,
        goodput,
        mesh,
        latency,
        handshakes,
        ratios,
        variants,
        resources,
        costs,
        conditions,
    )
    for part in parts:
        for line in part(run):
            print(line)
        if part is environment and plots:
            print(plots + "\n")
    for part, path in ((coding, coding_path), (pktgen, pktgen_path)):
        if path:
            for line in part(path):
                print(line)
    print(
        "Run it: `scripts/bench/run.sh`, or one row: `scripts/bench/run.sh message-1500`. Where the time goes: [profile.md](profile.md)."
    )


main()
