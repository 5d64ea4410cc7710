#!/usr/bin/env python3
"""Prints the tables of docs/wan.md from what `cargo bench --bench wan -- --json` printed.

Usage: scripts/wan-table.py FILE…   a line of JSON a row, in the order of the table
"""

import json
import sys


def seconds(value):
    return "never" if value is None else f"{value:.2f}"


def percent(part, whole):
    return f"{100 * part / whole:.2g} %" if whole else "-"


def link_row(row):
    transfers = row["transfers"]
    aim = (row["aim"] or {}).get("of_link")
    full = ", ".join(seconds(one["full_s"]) for one in transfers.values())
    if any(one["recovered_s"] is not None for one in transfers.values()):
        full += "; again " + ", ".join(seconds(one["recovered_s"]) for one in transfers.values())
    get = transfers.get("get") or next(iter(transfers.values()))
    limits = ", ".join(sorted({one["limited_by"] for one in transfers.values()}))
    cells = [f"`{row['row']}`", f"{aim:.2f}" if aim else "-"]
    cells += [f"{one['of_link']:.3f}" for one in transfers.values()]
    cells += [full, percent(get["lost_packets"], get["sent_packets"])]
    cells += [f"{get['queue_mb']:.2f}", f"{max(one['memory_mb'] for one in transfers.values()):.0f}", limits]
    return cells


def shared_row(row):
    (one,) = row["transfers"].values()
    aim = row["aim"]
    text = f"Jain {aim['jain']:.2f}" if "jain" in aim else f"each {aim['least_of_link']:.2f}"
    shares = " ".join(f"{share:.3f}" for share in one["shares_gbit_s"])
    least = f"{one['least_of_link']:.3f}"
    lost = percent(one["lost_packets"], one["sent_packets"])
    return [f"`{row['row']}`", text, f"{one['of_link']:.3f}", f"{one['jain']:.3f}", least, shares, lost]


def table(head, align, rows):
    print("| " + " | ".join(head) + " |")
    print("|" + "|".join(align) + "|")
    for row in rows:
        print("| " + " | ".join(row) + " |")


def main(paths):
    if not paths:
        sys.exit("give the files that the benchmark's --json printed: see the beginning of this script")
    rows = []
    for path in paths:
        with open(path, encoding="utf-8") as lines:
            rows += [json.loads(line) for line in lines if line.strip()]
    is_shared = [len(next(iter(row["transfers"].values()))["shares_gbit_s"]) > 1 for row in rows]
    alone = [link_row(row) for row, shared in zip(rows, is_shared) if not shared]
    shared = [shared_row(row) for row, shared in zip(rows, is_shared) if shared]
    if alone:
        times = "full after, s (put, get, message)"
        head = ["row", "aim", "put", "get", "message", times, "lost of sent (get)", "mean queue, MB"]
        head += ["memory, MB", "limited by"]
        table(head, ["---", *["---:"] * 4, "---", *["---:"] * 3, "---"], alone)
        print()
    if shared:
        head = ["row", "aim", "of the link", "Jain", "least of the link", "each, Gbit/s", "lost of sent"]
        table(head, ["---", *["---:"] * 4, "---", "---:"], shared)


if __name__ == "__main__":
    main(sys.argv[1:])
