#!/usr/bin/env python3
"""Draws goodput against delay and against loss, from what `cargo bench --bench wan -- --json` printed.

Usage: scripts/wan-plot.py DIRECTORY FILE…   writes wan-delay.svg and wan-loss.svg; a line of JSON a row, of any controllers

A point is the GET of a row: the share of what the link can carry as payload, the median of the row's seeds. Rows that the files lack are left out.
"""

import json
import sys
from html import escape
from pathlib import Path

# Pixels: the picture, and its margins left, above, right, below.
WIDTH, HEIGHT = 640, 320
LEFT, TOP, RIGHT, BELOW = 52, 56, 110, 54
COLORS = {"model": "#2f6f9f", "cubic": "#9f5a2f", "reserved": "#4f8f4f", "newreno": "#9aa5ad"}
DELAYS = [
    ("0.1", "10G-0.1ms"),
    ("5", "10G-5ms"),
    ("20", "10G-20ms"),
    ("50", "10G-50ms"),
    ("100", "10G-100ms"),
    ("200", "10G-200ms"),
]
LOSSES = [("0", "1G-50ms"), ("0.01", "1G-50ms-0.01%"), ("0.1", "1G-50ms-0.1%"), ("1", "1G-50ms-1%")]


def read(paths):
    """The share of the link by controller and row, and the fewest and the most seeds of a row."""
    shares, seeds = {}, []
    for path in paths:
        for line in filter(str.strip, Path(path).read_text(encoding="utf-8").splitlines()):
            row = json.loads(line)
            get = row["transfers"].get("get")
            if get:
                shares.setdefault(row["controller"], {})[row["row"]] = get["of_link"]
                seeds.append(row["seeds"])
    return shares, (min(seeds, default=0), max(seeds, default=0))


def chart(title, axis, points, shares, note):
    """One SVG: a line a controller, over points of (label, row) at equal distances."""
    across, down = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BELOW
    at = [LEFT + index * across / (len(points) - 1) for index in range(len(points))]
    out = [
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}" '
            'font-family="system-ui, sans-serif" font-size="12">'
        ),
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>',
        f'<text x="12" y="24" font-size="16" font-weight="600">{escape(title)}</text>',
        '<text x="12" y="42" fill="#666">Share of what the link carries as payload</text>',
    ]
    for tenth in range(0, 11, 2):
        y = TOP + down * (1 - tenth / 10)
        out.append(f'<path d="M{LEFT} {y:.1f}H{LEFT + across}" stroke="#ddd"/>')
        out.append(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{tenth / 10:.1f}</text>')
    for x, (label, _) in zip(at, points):
        out.append(f'<text x="{x:.1f}" y="{TOP + down + 18}" text-anchor="middle">{escape(label)}</text>')
    out.append(
        f'<text x="{LEFT + across / 2}" y="{TOP + down + 36}" text-anchor="middle" fill="#666">{escape(axis)}</text>'
    )
    ends = []
    for controller, rows in sorted(shares.items()):
        color = COLORS.get(controller, "#111")
        line = [(x, TOP + down * (1 - min(rows[row], 1.0))) for x, (_, row) in zip(at, points) if row in rows]
        if not line:
            continue
        out.append(
            f'<path d="M{"L".join(f"{x:.1f} {y:.1f}" for x, y in line)}" stroke="{color}" stroke-width="2" fill="none"/>'
        )
        out += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{color}"/>' for x, y in line]
        ends.append((line[-1][1], controller, color))
    # Names stand beside the ends of the lines, and not upon each other.
    above = 0.0
    for y, controller, color in sorted(ends):
        above = max(y + 4, above + 14)
        out.append(f'<text x="{LEFT + across + 10}" y="{above:.1f}" fill="{color}">{escape(controller)}</text>')
    out += [f'<text x="12" y="{HEIGHT - 6}" fill="#666" font-size="10">{escape(note)}</text>', "</svg>"]
    return "\n".join(out) + "\n"


def main(directory, *paths):
    shares, seeds = read(paths)
    note = f"GET, virtual time, a buffer of one product, medians of {seeds[0]} to {seeds[1]} seeds: docs/wan.md"
    for name, title, axis, points in (
        ("wan-delay", "10 Gbit/s, no loss", "round-trip time, ms", DELAYS),
        ("wan-loss", "1 Gbit/s, 50 ms", "lost by chance, %", LOSSES),
    ):
        (Path(directory) / f"{name}.svg").write_text(chart(title, axis, points, shares, note), encoding="utf-8")


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit("give a directory and the files that the benchmark's --json printed: see the beginning of this script")
    main(*sys.argv[1:])
