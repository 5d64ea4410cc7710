#!/usr/bin/env python3
"""Draws the figures of scripts/bench/run.sh as SVG: plot.py FILE DIRECTORY. Prints the Markdown that shows them.
FILE has the run's JSON lines, or its summary (docs/benchmarks/run.json).

Bars are medians, whiskers the spread of the rounds. Rows without a measurement are left out.
"""

import json
import sys
from html import escape
from pathlib import Path

from results import GOODPUT, LATENCY, MEMIF, PEERS, Run, median

# Pixels: the bars' part of a picture, a bar, the gap below it, the head. A letter at most, on average, at font size 12.
BARS, BAR, GAP, TOP = 570, 16, 8, 56
LETTER = 7
COLORS = {1500: "#2f6f9f", 9000: "#7a4f9f", "stoq": "#2f6f9f", "peer": "#9aa5ad", "time": "#9f5a2f"}


class Figures:
    """The figures of each row, one for each round."""

    def __init__(self, path):
        text = Path(path).read_text()
        try:
            summary = json.loads(text)
        except json.JSONDecodeError:
            summary = Run(text.splitlines()).summary()
        self.environment, self.rows = summary["environment"], summary["rows"]

    def values(self, row, key):
        return self.rows.get(row, {}).get(key, [])


def bars(title, unit, rows, note):
    """One SVG: a horizontal bar a row of (label, values, color)."""
    height = TOP + len(rows) * (BAR + GAP) + 28
    most = max(max(values) for _, values, _ in rows) or 1
    left = 20 + LETTER * max(len(label) for label, _, _ in rows)
    width = left + BARS
    scale = (BARS - 90) / most
    out = [
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
            'font-family="system-ui, sans-serif" font-size="12">'
        ),
        f'<rect width="{width}" height="{height}" fill="#fff"/>',
        f'<text x="12" y="24" font-size="16" font-weight="600">{escape(title)}</text>',
        f'<text x="12" y="42" fill="#666">{escape(unit)}. Bars: median; whiskers: lowest and highest round</text>',
    ]
    for index, (label, values, color) in enumerate(rows):
        y = TOP + index * (BAR + GAP)
        middle = median(values)
        low, high = (left + value * scale for value in (min(values), max(values)))
        center = y + BAR / 2
        out += [
            f'<text x="{left - 8}" y="{y + 12}" text-anchor="end">{escape(label)}</text>',
            f'<rect x="{left}" y="{y}" width="{middle * scale:.1f}" height="{BAR}" fill="{COLORS[color]}"/>',
            (
                f'<path d="M{low:.1f} {center}H{high:.1f}M{low:.1f} {y + 3}V{y + BAR - 3}M{high:.1f} {y + 3}V{y + BAR - 3}" '
                'stroke="#111" fill="none"/>'
            ),
            f'<text x="{max(high, left + middle * scale) + 6:.1f}" y="{y + 12}">{middle:.2f}</text>',
        ]
    out += [f'<text x="12" y="{height - 10}" fill="#666">{escape(note)}</text>', "</svg>"]
    return "\n".join(out) + "\n"


def memif(run):
    rows = []
    for row, name, mtu, connections, streams in MEMIF:
        values = run.values(row, "gbit_per_s")
        if values:
            rows.append((f"{name}, {connections} x {streams}, MTU {mtu}", values, mtu))
    return "memif", "Goodput over memif, one core a side", "Gbit/s by connections x streams", rows


def field(run):
    rows = [("STOQ messages, memif, MTU 1500", run.values("message-1500", "gbit_per_s"), "stoq")]
    for row, name in GOODPUT:
        color = "peer" if row.startswith(tuple(PEERS)) else "stoq"
        rows.append((name, run.values(row, "gbit_per_s"), color))
    return "field", "STOQ end to end, and other QUIC stacks", "Gbit/s", [row for row in rows if row[1]]


def latency(run):
    rows = []
    for row, name in LATENCY:
        for key, text in (("p50_us", "p50"), ("p99_us", "p99")):
            values = run.values(row, key)
            if values and "load" not in row:
                rows.append((f"{name}, {text}", values, "time"))
    return "latency", "Round trips of 64 bytes", "Microseconds", rows


def main():
    run, directory = Figures(sys.argv[1]), Path(sys.argv[2])
    e = run.environment
    note = f"{e['date']}, commit {e['commit']}, {e['cpu']}, {e['rounds']} rounds. No physical NIC."
    for draw in (memif, field, latency):
        name, title, unit, rows = draw(run)
        if rows:
            (directory / f"{name}.svg").write_text(bars(title, unit, rows, note))
            print(f"![{title}]({directory.name}/{name}.svg)\n")


main()
