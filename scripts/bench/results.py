"""What scripts/bench/run.sh measures, and how its JSON lines are read. Shared by table.py, plot.py and compare.py."""

import json
from statistics import median

OPERATIONS = [
    ("message", "messages"),
    ("put", "put, checked and dropped"),
    ("put-unchecked", "put, dropped unchecked"),
    ("get", "get, checked and dropped"),
    ("get-unchecked", "get, dropped unchecked"),
]
WIDTHS = [(f"{'' if c == 1 else f'-c{c}'}{'' if s == 1 else f'-s{s}'}", c, s) for c in (1, 16, 256) for s in (1, 4)]
# Row, operation, MTU, connections, streams.
MEMIF = [
    (f"{operation}-{mtu}{width}", name, mtu, c, s)
    for mtu in (1500, 9000)
    for operation, name in OPERATIONS
    for width, c, s in WIDTHS
]
PEERS = ["quinn", "s2n-quic", "quiche", "tquic"]
GOODPUT = [
    ("put-tmpfs", "STOQ put, memif, store on tmpfs"),
    ("put-disk", "STOQ put, memif, store on disk with fsync"),
    ("get-hot", "STOQ get, memif, payload in the gateway's memory, to a file on tmpfs"),
    ("get-piped", "STOQ get, memif, payload in the gateway's memory, to /dev/null"),
    ("af-xdp", "STOQ messages, kernel UDP client to net_af_xdp"),
    ("af-packet", "STOQ messages, kernel UDP client to net_af_packet"),
    (
        "af-packet-flights",
        "STOQ messages, kernel UDP client to net_af_packet, beside first flights that are never completed",
    ),
]
for peer in PEERS:
    GOODPUT.append((f"{peer}-gso", f"{peer}, kernel UDP, GSO super-packets crossing whole"))
    GOODPUT.append((f"{peer}-packets", f"{peer}, kernel UDP, packets crossing one by one"))
# Rows whose processes move the payload once and do nothing else.
COSTS = [
    *("message-1500", "message-9000"),
    *("af-xdp", "af-packet"),
    *(f"{peer}-{how}" for peer in PEERS for how in ("gso", "packets")),
]
CEILINGS = [
    *((f"quic-{mtu}", "quinn-proto in memory, no wire") for mtu in (1500, 9000)),
    *((f"wire-{mtu}", "testpmd on the same memif, no QUIC") for mtu in (1500, 9000)),
]
MESH = [
    ("get-direct", "get from a holder"),
    ("get-hop", "get through a relay"),
    ("get-hop-xdp", "get through a relay on net_af_xdp"),
    ("holders-alive", "get from four holders, all alive"),
    ("holders-dead", "get from four holders, one dead"),
]
TRIPS = [
    ("trips-direct", "from a holder"),
    ("trips-hop", "through a relay"),
    ("trips-hop-xdp", "through a relay on net_af_xdp"),
]
LATENCY = [
    ("ping", "STOQ, memif, MTU 1500"),
    ("ping-load", "STOQ, memif, MTU 1500, beside a busy connection"),
    ("quinn-ping", "quinn, kernel UDP over veth"),
    ("quinn-ping-busy", "quinn, kernel UDP over veth, never sleeping"),
]
HANDSHAKES = [
    ("handshakes-512", "Falcon-512, clients show no certificate"),
    ("handshakes-1024", "Falcon-1024, clients show no certificate"),
    ("handshakes-mutual", "Falcon-512 both ways"),
    ("handshakes-resumed", "sessions resumed"),
]
# The same rows with something else: row, what is compared, name, which figure. Of the second the first four.
VARIANTS = [
    (f"{variant}-{row}", row, f"{name}, {text}", key)
    for variant, text, count in (
        ("plain", "release build", 7),
        ("unsummed", "without UDP checksums", 4),
        ("fleet", "gateway of a fleet", 4),
    )
    for row, name, key in (
        ("message-1500", "messages, MTU 1500", "gbit_per_s"),
        ("put-1500", "put, checked and dropped, MTU 1500", "gbit_per_s"),
        ("get-1500", "get, checked and dropped, MTU 1500", "gbit_per_s"),
        ("message-9000", "messages, MTU 9000", "gbit_per_s"),
        ("ping", "64 bytes there and back, p50 us", "p50_us"),
        ("handshakes-512", "Falcon-512, handshakes a second", "handshakes_per_s"),
        ("handshakes-resumed", "sessions resumed, handshakes a second", "handshakes_per_s"),
    )[:count]
]
VARIANTS += [
    (f"verified-{row}", row, f"{row[:3]}, checked and dropped, MTU {row[4:]}, by a verify thread", "gbit_per_s")
    for row in ("put-1500", "get-1500", "put-9000", "get-9000")
]
NAMED = [
    *((row, f"{name}, {c} x {s}, MTU {mtu}") for row, name, mtu, c, s in MEMIF),
    *((row, f"{name}, MTU {row.split('-')[1]}") for row, name in CEILINGS),
    *GOODPUT,
    *MESH,
    *TRIPS,
    *LATENCY,
    *HANDSHAKES,
    *((row, name) for row, _, name, _ in VARIANTS),
]


class Run:
    """All lines of one file."""

    @classmethod
    def load(cls, path):
        with open(path) as file:
            return cls(file)

    def __init__(self, lines):
        self.environment, self.tuning, self.rows, self.missing = {}, [], {}, {}
        for line in lines:
            line = json.loads(line)
            if "environment" in line:
                self.environment = line["environment"]
            elif "tuning" in line:
                self.tuning.append(line["tuning"])
            elif "missing" in line:
                self.missing.setdefault(line["missing"], []).append({"kind": line["kind"], "why": line["why"]})
            else:
                self.rows.setdefault(line["row"], {})[line["round"]] = line

    def values(self, row, key):
        return [line["result"][key] for line in self.rows.get(row, {}).values()]

    def ratios(self, over, under, key):
        """One for each round that has both."""
        a, b = self.rows.get(over, {}), self.rows.get(under, {})
        return [a[r]["result"][key] / b[r]["result"][key] for r in a if r in b]

    def lower_ceiling(self, mtu):
        """The lower median of both ceilings, if both were measured."""
        found = [self.values(f"{what}-{mtu}", "gbit_per_s") for what in ("quic", "wire")]
        return min(median(values) for values in found) if all(found) else None

    def summary(self):
        """Environment, of every row its conditions and the figures of each round, and why runs have none."""
        keys = ["gbit_per_s", "cold_gbit_per_s", "handshakes_per_s", "p50_us", "p99_us", "p999_us"]
        rows = {}
        for row, rounds in self.rows.items():
            figures = {key: [line["result"].get(key) for line in rounds.values()] for key in keys}
            figures = {key: values for key, values in figures.items() if None not in values}
            conditions = list(rounds.values())[-1]["conditions"]
            rows[row] = {"conditions": conditions, **figures}
        return {"environment": self.environment, "rows": rows, "missing": self.missing}


def spliced(page, heading, following, written):
    """The page with this section instead of the one that it has, or before the heading of the section that follows."""
    start = page.find(heading + "\n")
    if start < 0:
        start = end = page.find(following + "\n")
        if start < 0:
            start = end = len(page)
    else:
        end = page.find("\n## ", start)
        end = len(page) if end < 0 else end + 1
    return page[:start] + written + page[end:]
