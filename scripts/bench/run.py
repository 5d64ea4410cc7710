"""What scripts/bench/run.sh runs, once it has looked at the machine: run.py [--compare OLD.json] [ROW...], run.py --wan, or run.py --scale"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from harness import ensure, main, run, say
from results import MEMIF, NAMED, PEERS, Run
from rows import VARIANT_NAMES, Rows
from scale import machine
from scale import parse as parse_scale
from scale import rows as scale_rows
from scene import CLIENT_CORE, DPDK_MIB, SOCKET_BYTES, environment, how_built, pinned
from wan_rows import parse
from wan_rows import rows as wan_rows

#: All rows, those over memif by MTU and width: what is compared stands side by side in time.
ALL = [row for row, *_ in sorted(MEMIF, key=lambda row: row[2:])]
ALL += [row for row, _ in NAMED if row not in ALL]
#: Rows of names without an MTU that are measured over memif.
PLAIN_MEMIF = ("ping", "ping-load", "put-tmpfs", "put-disk", "get-hot", "get-piped")
DOCS = Path("docs/benchmarks")
#: The rows that are measured by themselves, by option: all of them, which those are, and what writes their section of the page from a summary.
APART = {"--wan": (wan_rows, parse, "wan"), "--scale": (scale_rows, parse_scale, "scale")}


def memif_mtu(row):
    """The MTU of memif in a row; none of another wire."""
    for variant in VARIANT_NAMES:
        row = row.removeprefix(f"{variant}-")
    if row.startswith("quic-") or parse(row):
        return None
    if scale := parse_scale(row):
        return scale[1]
    if row in PLAIN_MEMIF or row.startswith("handshakes-"):
        return 1500
    return next((mtu for mtu in (1500, 9000) if f"-{mtu}" in row), None)


def cargo(*arguments):
    return run("cargo", *arguments, "--locked", "--quiet")


def executables(rows, is_all):
    """The directory of what is measured, and that of the release build; what is missing in them is built."""
    plain, built = Path(os.environ.get("CARGO_TARGET_DIR", "target")) / "release", os.environ.get("STOQ_BUILT")
    # What is published is what runs best; one row is wanted at once.
    if not built and is_all:
        built = run("scripts/optimize.sh", "--bench").strip()
    if not built or any(row.startswith("plain-") for row in rows):
        say("building")
        cargo("build", "--release")
    if built:
        return Path(built), plain
    # What the rows need beside it.
    if any(row.startswith("quic-") for row in rows):
        told = cargo("build", "--release", "--bench", "ceiling", "--message-format=json").splitlines()
        made = [json.loads(line).get("executable") or "" for line in told]
        shutil.copy(next(path for path in made if "/ceiling-" in path), plain / "ceiling")
    if any(row.removeprefix("wan-").startswith(tuple(PEERS)) for row in rows):
        target = plain.parent.resolve() / "peers"
        cargo("build", "--release", "--target-dir", target, "--manifest-path", "benches/peers/Cargo.toml")
        for peer in PEERS:
            shutil.copy(target / "release" / f"{peer}-peer", plain)
    return plain, plain


def long_path(plain):
    """The long path of the wan rows; LONG_PATH names one that is built already."""
    if built := os.environ.get("LONG_PATH"):
        return built
    cargo("build", "--release", "--example", "long_path")
    return plain / "examples" / "long_path"


def tool(name, *arguments):
    return run(sys.executable, Path(__file__).parent / name, *arguments)


def publish(it):
    """Measures what stands beside the rows, and writes docs/benchmarks.md."""
    say("coding and checking, one core")
    benches = ["shards", "tokens", "cids"]
    cargo("bench", "--no-run", *(word for bench in benches for word in ("--bench", bench)))
    coding = "".join(
        run(*pinned(CLIENT_CORE), "cargo", "bench", "--locked", "--quiet", "--bench", bench) for bench in benches
    )
    (it / "coding.txt").write_text("\n".join(filter(None, coding.splitlines())))
    say("load in packets a second")
    with (it / "pktgen.md").open("w") as out:
        settings = {**os.environ, "STOQ_BUILT": it.bin, "OUT": it.out.with_name(f"{it.out.stem}-pktgen.jsonl")}
        if subprocess.run(["scripts/bench/pktgen.sh"], env=settings, stdout=out, check=False).returncode:
            it.failed.append("pktgen")
    DOCS.mkdir(exist_ok=True)
    shutil.copy(it.out.with_suffix(".json"), DOCS / "run.json")
    plots = tool("plot.py", it.out, DOCS).strip()
    text = tool("table.py", it.out, plots, it / "coding.txt", it / "pktgen.md")
    DOCS.with_suffix(".md").write_text(text)
    for _, _, name in APART.values():
        if (kept := DOCS / f"{name}.json").exists():
            tool(f"{name}_docs.py", kept, DOCS)
    say(f"wrote docs/benchmarks.md and {it.out}")


def bench():
    arguments, setting, old = sys.argv[1:], os.environ.get, None
    if arguments[:1] == ["--compare"]:
        old = arguments[1] if arguments[1:] else ""
        ensure(Path(old).is_file(), "--compare takes the JSON of an earlier run, such as docs/benchmarks/run.json")
        arguments = arguments[2:]
    apart = APART.get(arguments[0]) if len(arguments) == 1 else None
    if apart:
        every, belongs, section = apart
        option, arguments = arguments[0], []
    rows = arguments or setting("ROWS", "").split() or (every() if apart else ALL)
    for row in rows:
        known = row in ALL or parse(row) or parse_scale(row)
        ensure(known, f'no row "{row}"; rows: {" ".join([*ALL, *wan_rows(), *scale_rows()])}')
    ensure(not apart or all(map(belongs, rows)), f"{apart and option} measures its own rows alone; ROWS names others")
    rounds, rsize = int(setting("ROUNDS", "5")), setting("RSIZE")
    sizes = [int(setting(*each)) for each in (("BYTES", "4000000000"), ("PAYLOAD", "1073741824"), ("TRIPS", "50000"))]
    built, plain = executables(rows, not arguments)
    os.environ["STOQ_BUILT"] = str(built)
    with Rows(setting("OUT") or plain / "bench.jsonl", *sizes) as it:
        if any(row.startswith("plain-") for row in rows):
            it.copied(plain, "plain")
        if any(map(parse, rows)):
            shutil.copy(long_path(plain), it.bin / "long_path")
        for bound in "rmem_max", "wmem_max":
            it.raised(Path("/proc/sys/net/core") / bound, SOCKET_BYTES)
        it.reserve(2 * DPDK_MIB + (it.memory_bytes >> 20))
        it.out.parent.mkdir(parents=True, exist_ok=True)
        it.out.write_text("")
        common = environment(how_built(it.bin), rounds)
        if any(map(parse_scale, rows)):
            common["environment"]["beside"] = machine()
        it.record(common)
        for mtu in sorted(set(filter(None, map(memif_mtu, rows)))):
            it.rsizes[mtu] = int(rsize or 8)
            if not rsize:
                it.tune(mtu)
        for number in range(1, rounds + 1):
            for row in rows:
                say(f"round {number} of {rounds}: {row}")
                it.row(row, number)
        summary = it.out.with_suffix(".json")
        parts = [("table.py", it.out), *((f"{name}_docs.py", summary) for _, _, name in APART.values())]
        summary.write_text(json.dumps(Run.load(it.out).summary(), indent=1) + "\n")
        if apart:
            DOCS.mkdir(exist_ok=True)
            kept = Path(shutil.copy(summary, DOCS / f"{section}.json"))
            tool(f"{section}_docs.py", kept, DOCS)
            say(f"wrote docs/benchmarks.md, {kept} and {it.out}")
        elif arguments:
            print(*(tool(script, path) for script, path in parts), sep="", end="")
            say(f"wrote {it.out} and {summary}")
        else:
            publish(it)
        if old:
            print(tool("compare.py", old, it.out), end="")
        ensure(not it.failed, f"rows that failed: {' '.join(it.failed)}")


main(bench)
