"""The wan rows as Markdown and as pictures: wan_docs.py SUMMARY [DOCS].

SUMMARY is what run.py writes beside its JSON lines. Without DOCS the section is printed; with it, the part of DOCS.md from its heading to the next
is replaced, and the pictures are drawn into the directory DOCS.
"""

import json
import sys
from html import escape
from pathlib import Path

from results import median, spliced
from wan_rows import (
    FRAME_BYTES,
    LOSSES,
    PAYLOAD_BYTES,
    RATE_MBIT,
    REORDERING,
    REORDERING_US,
    RTTS_MS,
    WHO,
    parse,
)
from wan_rows import (
    Path as Way,
)

HEADING = "## Over long paths, in real time"
#: What stands behind the section in the whole page.
NEXT = "## Through gateways, and from several"
COLORS = {
    "stoq": "#2f6f9f",
    "stoq-reserved": "#7a4f9f",
    "tcp-cubic": "#9f5a2f",
    "tcp-bbr": "#c79a2b",
    "quinn": "#4f8a4f",
    "s2n-quic": "#b04a6a",
    "quiche": "#6b7780",
}
#: Of a picture, pixels: its size, and what lies around the axes.
WIDTH, HEIGHT, LEFT, TOP, RIGHT, BOTTOM = 760, 380, 60, 60, 190, 66


def mbit(values):
    return f"{median(values) * 1000:.0f}"


def paths(summary):
    """The paths that were measured, in order, and of each the row of every stack."""
    found = {}
    for row in [*summary["rows"], *summary["missing"]]:
        path = parse(row)
        if path:
            key = (path.rate_mbit, path.reorder, path.rtt_ms, float(path.loss))
            found.setdefault(key, (path, {}))[1][path.who] = row
    return [found[key] for key in sorted(found)]


def cell(summary, row, key):
    """A figure with the runs that were thrown away, or why there is none."""
    values = summary["rows"].get(row, {}).get(key)
    missing = summary["missing"].get(row, [])
    if values:
        return mbit(values) + (f" ({len(missing)} thrown away)" if missing else "")
    return missing[0]["kind"] if missing else ""


def table(summary, key, stacks):
    yield "| path | " + " | ".join(WHO[who] for who in stacks) + " |"
    yield "|---|" + "---:|" * len(stacks)
    for path, rows in paths(summary):
        cells = [cell(summary, rows[who], key) if who in rows else "" for who in stacks]
        yield f"| {path.name} | " + " | ".join(cells) + " |"
    yield ""


def conditions(summary):
    """What the stacks are, from their rows."""
    notes = {}
    for row, figures in summary["rows"].items():
        path = parse(row)
        if path:
            notes.setdefault(path.who, figures["conditions"]["payload"].partition("count; ")[2])
    return "; ".join(f"{WHO[who]}: {note}" for who, note in notes.items())


def late(summary):
    reasons = [f"`{row}`: {each['why']}" for row, those in summary["missing"].items() for each in those]
    if reasons:
        yield "Runs without a figure:\n"
        yield from (f"- {reason}" for reason in reasons)
        yield ""


def section(summary, pictures=()):
    """The lines of the section; none where no wan row was measured."""
    measured = paths(summary)
    if not measured:
        return
    e = summary["environment"]
    stacks = [who for who in WHO if any(who in rows for _, rows in measured)]
    yield HEADING + "\n"
    yield (
        f"Measured {e['date']} by `scripts/bench/run.sh --wan` ({e['rounds']} round{'s' * (e['rounds'] != 1)}; rows in turn) at commit {e['commit']}: "
        f"quinn {e['quinn']}, s2n-quic {e['s2n_quic']}, quiche {e['quiche']}, release build {e['build']}; Linux {e['kernel']}, whose bbr is the first "
        f"version, on {e['cpu']}, {e['cores']} cores. These are other rows of another run than those of the rest of this page."
    )
    yield ""
    yield (
        "One connection, in real time, through `examples/long_path`: a bottleneck of the named rate, a drop-tail buffer of one product of rate and "
        "round-trip time each way, the named round-trip time, and losses by chance on the way of the payload. "
        f"`-reorder` holds {REORDERING:.0%} of the frames back, by up to {REORDERING_US // 1000} ms. The long path is a process in user space between "
        "two veth pairs whose offloads are off, in real-time priority; it uses the model of [wan.md](wan.md) under the machine's clock. A run during "
        "which more than 1 % of the frames left it over 1 ms late, or one by 10 ms, or the kernel dropped one before or behind it, is thrown away. "
        f"Of {RATE_MBIT} Mbit/s a QUIC payload can have {RATE_MBIT * PAYLOAD_BYTES / FRAME_BYTES:.0f}. Sender and receiver have a core each, which the "
        "long path shares. All are at their defaults, with ten packets of initial window and STOQ's 32, but for this: "
        f"{conditions(summary)}. Mbit/s of payload that the receiver had, medians."
    )
    yield ""
    for picture in pictures:
        yield picture + "\n"
    yield "After slow start: the four seconds that follow the first three.\n"
    yield from table(summary, "gbit_per_s", stacks)
    yield "From cold: the first three seconds, from the first byte at the receiver on.\n"
    yield from table(summary, "cold_gbit_per_s", stacks)
    yield from late(summary)


def lines(title, unit, xs, curves, note):
    """One SVG: a line a stack of (label, color, values at each of xs)."""
    inner_width, inner_height = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
    most = max(value for _, _, values in curves for value in values if value is not None) or 1

    def at(index, value):
        x = LEFT + inner_width * index / max(len(xs) - 1, 1)
        return f"{x:.1f}", f"{TOP + inner_height * (1 - value / most):.1f}"

    out = [
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}" '
            'font-family="system-ui, sans-serif" font-size="12">'
        ),
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>',
        f'<text x="12" y="24" font-size="16" font-weight="600">{escape(title)}</text>',
        '<text x="12" y="42" fill="#666">Mbit/s of payload after slow start, medians</text>',
    ]
    for step in range(5):
        value = most * step / 4
        _, y = at(0, value)
        out.append(f'<path d="M{LEFT} {y}H{LEFT + inner_width}" stroke="#ddd"/>')
        out.append(f'<text x="{LEFT - 6}" y="{y}" dy="4" text-anchor="end">{value:.0f}</text>')
    for index, label in enumerate(xs):
        x, y = at(index, 0)
        out.append(f'<text x="{x}" y="{y}" dy="18" text-anchor="middle">{escape(label)}</text>')
    out.append(
        f'<text x="{LEFT + inner_width / 2}" y="{HEIGHT - 30}" text-anchor="middle" fill="#666">{escape(unit)}</text>'
    )
    for place, (label, color, values) in enumerate(curves):
        points = [at(index, value) for index, value in enumerate(values) if value is not None]
        out.append(
            f'<path d="M{" L".join(" ".join(point) for point in points)}" stroke="{color}" stroke-width="2" fill="none"/>'
        )
        out += [f'<circle cx="{x}" cy="{y}" r="3" fill="{color}"/>' for x, y in points]
        y = TOP + 20 * place + 6
        out.append(f'<path d="M{WIDTH - RIGHT + 16} {y}h20" stroke="{color}" stroke-width="2"/>')
        out.append(f'<text x="{WIDTH - RIGHT + 42}" y="{y + 4}">{escape(label)}</text>')
    out += [f'<text x="12" y="{HEIGHT - 10}" fill="#666">{escape(note)}</text>', "</svg>"]
    return "\n".join(out) + "\n"


def draw(summary, directory):
    """Draws goodput against delay and against loss; gives the Markdown that shows them."""
    e = summary["environment"]
    note = f"{e['date']}, commit {e['commit']}, {e['cpu']}, {e['rounds']} rounds. A long path in user space, no physical link."
    delay_loss, loss_rtt = "0.1", 50
    pictures = {
        "wan-delay": (
            f"Goodput against delay, {RATE_MBIT} Mbit/s, {delay_loss} % loss",
            "round-trip time",
            [(f"{rtt} ms", (rtt, delay_loss)) for rtt in RTTS_MS],
        ),
        "wan-loss": (
            f"Goodput against loss, {RATE_MBIT} Mbit/s, {loss_rtt} ms",
            "frames lost",
            [(f"{loss} %", (loss_rtt, loss)) for loss in LOSSES],
        ),
    }
    for name, (title, unit, points) in pictures.items():
        curves = []
        for who, label in WHO.items():
            rows = [f"wan-{who}-{Way(who, RATE_MBIT, *shape, False).name}" for _, shape in points]
            values = [summary["rows"].get(row, {}).get("gbit_per_s") for row in rows]
            if any(values):
                curves.append((label, COLORS[who], [median(each) * 1000 if each else None for each in values]))
        if curves:
            (directory / f"{name}.svg").write_text(lines(title, unit, [label for label, _ in points], curves, note))
            yield f"![{title}]({directory.name}/{name}.svg)"


def main():
    summary = json.loads(Path(sys.argv[1]).read_text())
    if not sys.argv[2:]:
        print("\n".join(section(summary)))
        return
    directory = Path(sys.argv[2])
    directory.mkdir(exist_ok=True)
    page = directory.with_suffix(".md")
    page.write_text(
        spliced(page.read_text(), HEADING, NEXT, "\n".join(section(summary, [*draw(summary, directory)])) + "\n")
    )


if __name__ == "__main__":
    main()
