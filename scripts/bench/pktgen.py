"""What scripts/bench/pktgen.sh runs: trials against a gateway's port, and the searches made of them. pktgen.py [ROW...]

One gateway is started for each trial, since it says its counters when it ends. JSON lines go to a file, a section of Markdown to standard output.
"""

import json
import os
import pty
import re
import select
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

from harness import Failed, cable, ensure, inside, main, run, say
from ndr import Trial, search
from scene import (
    CLIENT,
    CLIENT_CORE,
    DPDK_MIB,
    GATEWAY,
    GATEWAY_CORE,
    PORT,
    QUIC,
    Bench,
    environment,
    how_built,
    pinned,
)
from testpmd import GATEWAY_MAC, WAIT_S, exchange, transmit

#: The frame check sequence, bytes: sizes of frames count it, a memory ring does not carry it.
FCS_BYTES = 4
#: How often a trial is tried whose receiver died: memif's driver may touch a ring that the other side has just taken away.
TRIES = 3
PROFILES = Path("benches/pktgen")

ROWS = {
    "ceiling": "drop path beside testpmd rxonly, frames of 64 bytes",
    "flowgen": "frames of testpmd's flowgen, for other hosts",
    "drop-64": "drop path: garbage, frames of 64 bytes",
    "drop-512": "drop path: garbage, frames of 512 bytes",
    "drop-1518": "drop path: garbage, frames of 1518 bytes",
    "drop-imix": "drop path: garbage, IMIX (28×64, 16×570, 4×1518)",
    "initials": "handshake path: Initials that are never completed",
    "replay": "handshake path: one Initial flight, replayed",
    "handshakes": "handshake path: full handshakes, mutual Falcon-512",
    "goodput": "goodput path: messages of 1024 bytes on 16 connections",
    "pktgen-dpdk": "drop path: frames of Pktgen-DPDK, by its profiles",
}
SEARCHED = {
    "drop-64": ("frames", ["garbage", "--size", "64"]),
    "drop-512": ("frames", ["garbage", "--size", "512"]),
    "drop-1518": ("frames", ["garbage", "--size", "1518"]),
    "drop-imix": ("frames", ["garbage", "--size", "imix"]),
    "initials": ("frames", ["initials"]),
    "replay": ("frames", ["replay"]),
    "handshakes": ("handshakes", ["handshakes", "--concurrency", "128", "--patience", "2"]),
    "goodput": ("messages", ["goodput", "--connections", "16", "--size", "1024"]),
}


class Site(Bench):
    """A gateway at one end of memif, and load at the other."""

    def __init__(self):
        setting = os.environ.get
        super().__init__("pktgen", setting("OUT") or f"{setting('STOQ_BUILT')}/pktgen.jsonl")
        self.rsize, self.rounds = int(setting("RSIZE", "10")), int(setting("ROUNDS", "5"))
        self.seconds, self.short = float(setting("SECONDS_FULL", "5")), float(setting("SECONDS_SHORT", "1"))
        self.width, self.died = float(setting("WIDTH", "0.05")), 0

    def __enter__(self):
        super().__enter__()
        # Two processes' DPDK; testpmd takes less.
        self.reserve(2 * DPDK_MIB)
        self.identities("gateway", "client")
        # testpmd asks for no station address.
        gateway = {"network": self.port(f"{self.ring('server', self.rsize)},mac={GATEWAY_MAC}", GATEWAY, 1500)}
        client = {"log": {"level": "warn"}}
        # What a client may have on its way at the end of a trial is small beside the trial: the rest is refused, and counted as that.
        self.over_memif(
            1500,
            "spin",
            self.rsize,
            gateway,
            {**client, "quic": {**QUIC, "initial_udp_payload_bytes": 0, "send_window_bytes": 1 << 20}},
        )
        (self / "client.toml").rename(self / "goodput.toml")
        self.over_memif(1500, "spin", self.rsize, gateway, client)
        self.out.parent.mkdir(parents=True, exist_ok=True)
        self.out.write_text("")
        self.record(environment(how_built(self.built), self.rounds))
        return self

    def serve(self, config="gateway", within=()):
        """A gateway on its port, for one trial."""
        (self / "memif.sock").unlink(missing_ok=True)
        return self.gateway(config, [*within, *pinned(GATEWAY_CORE)]).serves(WAIT_S)

    def again(self, measure, *arguments):
        """Measures; again where the receiver died under it."""
        for left in reversed(range(TRIES)):
            try:
                with self.scope():
                    return measure(*arguments)
            except Failed as error:
                self.died += 1
                say(f"no result: {error}")
                if not left:
                    raise

    def pktgen(self, mode, rate, seconds):
        config = self / ("goodput.toml" if mode[0] == "goodput" else "client.toml")
        load = ["--config", config, "--rate", f"{rate:.3f}", "--seconds", str(seconds), "--json", *mode]
        command = [*pinned(CLIENT_CORE), self.built / "stoq-pktgen", *load]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 90, check=False)
        except subprocess.TimeoutExpired:
            raise Failed("stoq-pktgen hangs") from None
        if done.returncode:
            raise Failed(f"stoq-pktgen: {done.stderr}")
        return json.loads(done.stdout)

    def trial(self, mode, rate, seconds):
        """One trial with a gateway of its own: what the generator said, and what the gateway counted."""
        gateway = self.serve()
        said = self.pktgen(mode, rate, seconds)
        return said, counters(gateway)


def counters(gateway):
    """Ends a gateway; its worker's counters by their names."""
    return gateway.stop(WAIT_S)[0]["counters"]


def received(said, counted):
    """What arrived of a trial, by the side that counts it in this mode."""
    match said["mode"]:
        case "handshakes":
            return said["completed"]
        case "goodput":
            return said["received"]
        case _:
            # ARP and what opened the way are no part of the load. A few frames of it may have come late: never more than sent.
            frames = counted.get("rx_packets", 0) - counted.get("neighbor_packets", 0) - said["warm_up"]
            return min(max(0, frames), said["sent"])


def offered(said):
    """Every handshake that is due is offered: one that found no place among those that run was held back by them."""
    return said["intended"] if said["mode"] == "handshakes" else said["offered"]


def searched(site, row):
    """NDR and PDR of one path."""
    unit, mode = SEARCHED[row]
    say(f"{ROWS[row]}: as much as can be")
    said, counted = site.again(site.trial, mode, 0, site.short)
    at_most = max(received(said, counted), offered(said)) / said["seconds"]
    seen = []

    def trial(rate, seconds):
        said, counted = site.again(site.trial, mode, rate, seconds)
        result = Trial(rate, seconds, said["intended"], offered(said), received(said, counted))
        seen.append({"said": said, "drops": {k: v for k, v in counted.items() if k.startswith("drop_")}})
        say(
            f"{row}: {rate:.0f} {unit}/s for {seconds:g} s: loss {result.loss:.4%}"
            + ("" if result.reached(0.01) else f", only {result.offered} of {result.intended} offered")
        )
        return result

    found = search(trial, at_most * 1.2, seconds=site.seconds, short=site.short, width=site.width)
    for trial_seen, line in zip(seen, found["trials"]):
        line.update(trial_seen)
    result = {"row": row, "what": ROWS[row], "unit": unit, "unpaced_per_s": at_most, "unpaced": said, **found}
    site.record(result)
    return result


def ceiling(site):
    """The drop path beside testpmd's rxonly: the same transmitter at the same end of the same ring, in turn."""
    options = [
        f"--txpkts={64 - FCS_BYTES}",
        f"--tx-ip={CLIENT},{GATEWAY}",
        f"--tx-udp={PORT},{PORT}",
        f"--eth-peer=0,{GATEWAY_MAC}",
    ]

    def testpmd():
        return exchange(site, site.rsize, site.seconds, "txonly", *options)

    def gateway():
        receiver = site.serve()
        # Its worker empties the ring before it ends.
        return transmit(site, site.rsize, site.seconds, lambda _: counters(receiver), "txonly", *options)

    rounds = []
    for turn in range(site.rounds):
        pair = {"testpmd": site.again(testpmd), "gateway": site.again(gateway)}
        counted = pair["gateway"]["receiver"]
        if counted.get("drop_not_quic", 0) < 0.99 * pair["gateway"]["sent"]:
            raise Failed(f"the frames did not get as far as they should: {counted}")
        pair["ratio"] = pair["gateway"]["frames_per_s"] / pair["testpmd"]["frames_per_s"]
        say(
            f"ceiling, round {turn + 1}: testpmd {pair['testpmd']['frames_per_s'] / 1e6:.3f}, "
            f"gateway {pair['gateway']['frames_per_s'] / 1e6:.3f} M frames/s, ratio {pair['ratio']:.2f}"
        )
        rounds.append(pair)
    result = {
        "row": "ceiling",
        "what": ROWS["ceiling"],
        "testpmd_per_s": statistics.median(pair["testpmd"]["frames_per_s"] for pair in rounds),
        "gateway_per_s": statistics.median(pair["gateway"]["frames_per_s"] for pair in rounds),
        "ratio": statistics.median(pair["ratio"] for pair in rounds),
        "rounds": rounds,
    }
    site.record(result)
    return result


def flowgen(site):
    """testpmd's flowgen, whose flows go to addresses of 198.18.0.0/15: what a port drops that are for others."""

    def measure():
        receiver = site.serve()
        options = [f"--txpkts={64 - FCS_BYTES}", f"--eth-peer=0,{GATEWAY_MAC}"]
        return transmit(site, site.rsize, site.seconds, lambda _: counters(receiver), "flowgen", *options)

    result = {"row": "flowgen", "what": ROWS["flowgen"], **site.again(measure)}
    site.record(result)
    return result


def conversation(command, directory, environment, limit_s):
    """What a profile printed, as Pktgen-DPDK runs it: only on a terminal, and it ends only when told to."""
    ours, its = pty.openpty()
    running = subprocess.Popen(command, cwd=directory, env=environment, stdin=its, stdout=its, stderr=its)
    os.close(its)
    said, ended, deadline = b"", False, time.monotonic() + limit_s
    try:
        while running.poll() is None and time.monotonic() < deadline:
            if select.select([ours], [], [], 1)[0]:
                try:
                    said += os.read(ours, 65536)
                except OSError:  # the other end is closed
                    break
            if not ended and b"profile ended" in said:
                os.write(ours, b"quit\n")
                ended = True
        if not ended:
            raise Failed(f"pktgen ended before its profile did: {said[-500:]!r}")
        running.wait(timeout=10)
    finally:
        if running.poll() is None:
            running.kill()
            running.wait()
        os.close(ours)
    return [json.loads(line) for line in re.findall(r'\{"tester":"pktgen-dpdk"[^}]*\}', said.decode(errors="replace"))]


def pktgen_dpdk(site):
    """Pktgen-DPDK and its profiles, each against a gateway of its own; none where it is not installed."""
    executable = shutil.which("pktgen")
    if executable is None:
        say("there is no pktgen: its profiles are not run (https://github.com/pktgen/Pktgen-DPDK)")
        return None
    # It insists on setting the MTU, which memif cannot.
    place = site.namespace("veth", ipv6=False)
    cable("near", "far", place, place)
    run("ip", "-n", place, "link", "set", "far", "address", GATEWAY_MAC)
    port = {"network": site.port("net_af_packet0,iface=far", GATEWAY, 1500)}
    site.configure("veth", {**site.side("gateway", "client", GATEWAY_CORE, "spin", 0), **site.hosts(), **port})
    device = ["--no-pci", "--in-memory", "--file-prefix", site.name, "--vdev=net_af_packet0,iface=near"]
    cores = ["--lcores", f"0@{CLIENT_CORE},1@{CLIENT_CORE}"]
    environment = {
        **os.environ,
        "STOQ_DST_MAC": GATEWAY_MAC,
        "STOQ_DST_IP": GATEWAY,
        "STOQ_SRC_IP": f"{CLIENT}/24",
        "STOQ_SECONDS": f"{site.seconds:g}",
        "TERM": "dumb",
    }
    lines = []
    for profile in sorted(PROFILES.glob("*.lua")):
        if profile.name == "profile.lua":
            continue
        with site.scope():
            receiver = site.serve("veth", inside(place))
            command = [*inside(place), executable, *cores, *device, "--", "-m", "1.0", "-f", profile.name]
            try:
                said = conversation(command, PROFILES, environment, 7 * (site.seconds + 3) + 60)
            except (subprocess.SubprocessError, OSError) as error:
                raise Failed(f"pktgen: {error}") from error
            lines.append({"profile": profile.name, "said": said, "receiver": counters(receiver)})
    result = {"row": "pktgen-dpdk", "what": ROWS["pktgen-dpdk"], "profiles": lines}
    site.record(result)
    return result


def rate(value, unit):
    return "none" if value is None else f"{value:,.0f} {unit}/s"


def table(site, results):
    """The section of Markdown."""
    lines = []
    compared = [result for result in results if result["row"] == "ceiling"]
    for result in compared:
        turns = ", ".join(f"{pair['ratio']:.2f}" for pair in result["rounds"])
        lines += [
            "| receiver, frames of 64 bytes from testpmd txonly | frames/s | of testpmd rxonly |",
            "|---|---:|---:|",
            f"| testpmd rxonly | {result['testpmd_per_s']:,.0f} | 1 |",
            f"| stoq-gateway, dropped as no QUIC | {result['gateway_per_s']:,.0f} | {result['ratio']:.2f} |",
            "",
            f"Medians of {len(result['rounds'])} rounds, in turn; ratios of the rounds: {turns}.",
            "",
        ]
    for result in results:
        if result["row"] == "flowgen":
            lines += [f"testpmd flowgen, every frame for another host: {result['frames_per_s']:,.0f} frames/s.", ""]
        if result["row"] == "pktgen-dpdk":
            lines += [
                "| Pktgen-DPDK profile, all rates together, net_af_packet to net_af_packet over veth | sent | received by the gateway's port |",
                "|---|---:|---:|",
            ]
            for profile in result["profiles"]:
                sent = sum(line["sent"] for line in profile["said"])
                lines.append(f"| {profile['profile']} | {sent:,} | {profile['receiver'].get('rx_packets', 0):,} |")
            lines.append("")
    found = [result for result in results if result["row"] in SEARCHED]
    if found:
        lines += ["| path | NDR (no loss) | PDR (0.5 % loss) | unpaced | what bounds PDR |", "|---|---:|---:|---:|---|"]
        for result in found:
            unit = result["unit"]
            bound = "generator or ceiling" if result["pdr_generator_bound"] else "gateway or ring"
            if result["row"] in ("handshakes", "goodput"):
                bound = "either side: each does as much"
            lines.append(
                f"| {result['what']} | {rate(result['ndr'], unit)} | {rate(result['pdr'], unit)} | "
                f"{rate(result['unpaced_per_s'], unit)} | {bound} |"
            )
        first = found[0]
        lines += [
            "",
            (
                f"Trials of {first['trial_seconds']:g} s, narrowing ones of {first['short_trial_seconds']:g} s; bounds within "
                f"{first['width']:.0%}. Every rate held in a trial of full length. A single pause of the machine during a "
                "trial counts as loss and lowers NDR; the figures are not corrected for it. Lost frames are those offered to the "
                "ring less those that the gateway's port received: a ring in memory refuses frames and loses none. Lost handshakes "
                "are those not completed in time, lost messages those that flow control did not take."
            ),
            "",
        ]
    if site.died:
        lines += [f"{site.died} trial(s) had no result and were made again.", ""]
    if not shutil.which("pktgen"):
        lines += ["Pktgen-DPDK is not installed here: its profiles (`benches/pktgen/`) were not run.", ""]
    return "\n".join(lines)


def pktgen():
    rows = sys.argv[1:] or list(ROWS)
    for row in rows:
        ensure(row in ROWS, f'no row "{row}"; rows: {" ".join(ROWS)}')
    results, failed = [], []
    with Site() as site:
        for row in rows:
            single = {"ceiling": ceiling, "flowgen": flowgen, "pktgen-dpdk": pktgen_dpdk}.get(row)
            try:
                with site.scope():
                    result = single(site) if single else searched(site, row)
                results += [] if result is None else [result]
            except Failed as error:
                say(f"{row} failed: {error}")
                failed.append(row)
        print(table(site, results))
        say(f"wrote {site.out}")
    ensure(not failed, f"rows that failed: {' '.join(failed)}")


if __name__ == "__main__":
    main(pktgen)
