#!/usr/bin/env python3
"""Draws the figures of scripts/bench/run.sh as SVG: plot.py FILE DIRECTORY. Prints the Markdown that shows them.

Bars are medians, whiskers the spread of the rounds. Nothing is drawn of rows that were not measured.
"""

import sys
from html import escape
from pathlib import Path

from results import GOODPUT, LATENCY, MEMIF, PEERS, Run, median

WIDTH, LABEL, BAR, GAP, TOP = 900, 330, 16, 8, 56
COLORS = {1500: "#2f6f9f", 9000: "#7a4f9f", "stoq": "#2f6f9f", "peer": "#9aa5ad", "time": "#9f5a2f"}


def bars(title, unit, rows, note):
    """One SVG: a horizontal bar a row of (label, values, color)."""
    height = TOP + len(rows) * (BAR + GAP) + 28
    most = max(max(values) for _, values, _ in rows) or 1
    scale = (WIDTH - LABEL - 90) / most
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}" '
        'font-family="system-ui, sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{height}" fill="#fff"/>',
        f'<text x="12" y="24" font-size="16" font-weight="600">{escape(title)}</text>',
        f'<text x="12" y="42" fill="#666">{escape(unit)}; median, whiskers from the lowest to the highest round</text>',
    ]
    for index, (label, values, color) in enumerate(rows):
        y = TOP + index * (BAR + GAP)
        middle = median(values)
        low, high = (LABEL + value * scale for value in (min(values), max(values)))
        center = y + BAR / 2
        out += [
            f'<text x="{LABEL - 8}" y="{y + 12}" text-anchor="end">{escape(label)}</text>',
            f'<rect x="{LABEL}" y="{y}" width="{middle * scale:.1f}" height="{BAR}" fill="{COLORS[color]}"/>',
            f'<path d="M{low:.1f} {center}H{high:.1f}M{low:.1f} {y + 3}V{y + BAR - 3}M{high:.1f} {y + 3}V{y + BAR - 3}" '
            'stroke="#111" fill="none"/>',
            f'<text x="{max(high, LABEL + middle * scale) + 6:.1f}" y="{y + 12}">{middle:.2f}</text>',
        ]
    out += [f'<text x="12" y="{height - 10}" fill="#666">{escape(note)}</text>', "</svg>"]
    return "\n".join(out) + "\n"


def memif(run):
    rows = []
    for row, name, mtu, connections, streams in MEMIF:
        values = run.values(row, "gbit_per_s")
        if values:
            rows.append((f"{name}, {connections} x {streams}, MTU {mtu}", values, mtu))
    return "memif", "Goodput over memif, one core a side", "Gbit/s", rows


def field(run):
    rows = [("STOQ messages, memif, MTU 1500", run.values("message-1500", "gbit_per_s"), "stoq")]
    for row, name in GOODPUT:
        color = "peer" if row.startswith(tuple(PEERS)) else "stoq"
        rows.append((name, run.values(row, "gbit_per_s"), color))
    return "field", "End to end, and beside other stacks", "Gbit/s", [row for row in rows if row[1]]


def latency(run):
    rows = []
    for row, name in LATENCY:
        for key, text in (("p50_us", "p50"), ("p99_us", "p99")):
            values = run.values(row, key)
            if values and "load" not in row:
                rows.append((f"{name}, {text}", values, "time"))
    return "latency", "Round trips of 64 bytes", "microseconds", rows


def main():
    run, directory = Run.load(sys.argv[1]), Path(sys.argv[2])
    e = run.environment
    note = f"{e['date']}, commit {e['commit']}, {e['cpu']}, {e['rounds']} rounds. No physical NIC."
    for draw in (memif, field, latency):
        name, title, unit, rows = draw(run)
        if rows:
            (directory / f"{name}.svg").write_text(bars(title, unit, rows, note))
            print(f"![{title}]({directory.name}/{name}.svg)\n")


main()
