"""The scale rows as Markdown: scale_docs.py SUMMARY [DOCS].

SUMMARY is what run.py writes beside its JSON lines, or a list of several runs. Without DOCS the section is printed; with it, the part of DOCS.md from its heading to the next
is replaced.
"""

import json
import sys
from pathlib import Path

from results import median, spliced
from scale import OPERATIONS, parse

HEADING = "## Several workers a side"
#: What stands behind the section in the whole page.
NEXT = "## Ceilings"


def shapes(summary):
    """The measured rows by what is the same in all of a line: operation, MTU, verify threads a worker, and whether the workers share a queue."""
    lines = {}
    for row in [*summary["rows"], *summary["missing"]]:
        if found := parse(row):
            operation, mtu, workers, verify, queues = found
            lines.setdefault((mtu, operation, verify // workers, queues < workers), {})[workers] = row
    return lines


def cell(summary, row, one):
    """The median, and its ratio to one worker a side in the same run."""
    if not row:
        return ""
    values = summary["rows"].get(row, {}).get("gbit_per_s")
    if not values:
        return summary["missing"][row][0]["kind"]
    ratio = f" ({median(values) / one:.2f})" if one else ""
    return f"{median(values):.2f}{ratio}"


def section(summaries):
    """The lines of the section, of one run or of several, a table each; none where no scale row was measured."""
    summaries = [one for one in summaries if shapes(one)]
    if not summaries:
        return
    yield HEADING + "\n"
    yield (
        "memif, two processes, every worker pinned to a core of its own; **no physical NIC**. Gbit/s of payload, medians; in brackets, the ratio to one worker "
        "a side in the same run. memif copies on the sender's and receiver's cores, and has no RSS: each queue of the client is a queue of the gateway. "
        "Another machine than that of the rest of this page, where the processor differs: compare within one table."
    )
    yield ""
    for summary in summaries:
        yield from run(summary)


def run(summary):
    """The conditions and the table of one run."""
    lines, e = shapes(summary), summary["environment"]
    rounds = f"{e['rounds']} round{'s' * (e['rounds'] != 1)}"
    if e["rounds"] < 3:
        rounds += ": an example, not figures to quote"
    widths = sorted({workers for rows in lines.values() for workers in rows})
    yield (
        f"Measured {e['date']} by `scripts/bench/run.sh --scale` ({rounds}; rows in turn) at commit {e['commit']}, release build {e['build']}; DPDK {e['dpdk']}, "
        f"Linux {e['kernel']} on {e['cpu']}, {e['cores']} cores."
    )
    yield ""
    beside = ", ".join(f"{ratio:.2f} on {width} cores" for width, ratio in e.get("beside", {}).items())
    if beside:
        yield (
            f"The cores of that machine beside each other: a loop of additions that shares nothing had, of its speed alone, {beside} at once (the mean of "
            "the cores)."
        )
        yield ""
    yield "| what | MTU | " + " | ".join(f"{w} worker{'s' * (w > 1)}" for w in widths) + " |"
    yield "|---|---:|" + "---:|" * len(widths)
    for (mtu, operation, verify, shared), rows in sorted(lines.items()):
        name = OPERATIONS[operation]
        name += ", a verify thread a worker" if verify else ""
        name += ", workers share one queue" if shared else ""
        base = lines.get((mtu, operation, 0, False), {}).get(1)
        values = summary["rows"].get(base, {}).get("gbit_per_s")
        one = median(values) if values else None
        yield f"| {name} | {mtu} | " + " | ".join(cell(summary, rows.get(w), one) for w in widths) + " |"
    yield ""
    yield from reasons(summary)


def reasons(summary):
    told = sorted({each["why"] for row, those in summary["missing"].items() if parse(row) for each in those})
    if told:
        yield "Rows without a figure:\n"
        yield from (f"- {reason}" for reason in told)
        yield ""


def main():
    kept = json.loads(Path(sys.argv[1]).read_text())
    text = "\n".join(section(kept if isinstance(kept, list) else [kept]))
    if not sys.argv[2:]:
        print(text)
        return
    page = Path(sys.argv[2]).with_suffix(".md")
    page.write_text(spliced(page.read_text(), HEADING, NEXT, text + "\n"))


if __name__ == "__main__":
    main()
