#!/usr/bin/env python3
"""Ratios of one run of scripts/bench/run.sh to an earlier one: compare.py OLD NEW.

Both are summaries (benchmarks.json) or JSON lines (bench.jsonl). A ratio is the new median over the old; goodput and rates are
better above 1, times are better below. Two runs on a shared machine differ by themselves: what lies within both spreads is noise.
"""

import json
import sys

from results import Run, median

TIMES = {"p50_us", "p99_us", "p999_us"}


def load(path):
    with open(path) as file:
        text = file.read()
    if text.startswith('{"environment"') and '\n{"' in text:
        return Run(text.splitlines()).summary()
    return json.loads(text)


def main():
    old, new = load(sys.argv[1]), load(sys.argv[2])
    for name, run in (("old", old), ("new", new)):
        e = run["environment"]
        print(f"{name}: {e['date']}, commit {e['commit']}, {e['cpu']}, {e['rounds']} rounds")
    if old["environment"]["cpu"] != new["environment"]["cpu"]:
        print("These are different processors: the ratios say nothing about the software.")
    print(f"\n{'row':28} {'figure':14} {'old':>9} {'new':>9} {'ratio':>6}")
    for row, figures in new["rows"].items():
        for key, values in figures.items():
            before = old["rows"].get(row, {}).get(key)
            if key == "conditions" or not before:
                continue
            a, b = median(before), median(values)
            within = min(values) <= max(before) and min(before) <= max(values)
            better = (b < a) if key in TIMES else (b > a)
            said = "within the spreads" if within else "better" if better else "worse"
            print(f"{row:28} {key:14} {a:9.2f} {b:9.2f} {b / a if a else 0:6.2f}  {said}")


main()
