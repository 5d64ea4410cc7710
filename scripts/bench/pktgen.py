#!/usr/bin/env python3
"""Trials against a gateway's port, and the searches made of them: what scripts/bench/pktgen.sh runs, after it has set the scene.

    pktgen.py --dir DIR --out FILE [ROW...]

DIR holds gateway.toml, client.toml, goodput.toml and the executables. One gateway is started for each trial, since it says its
counters when it ends. JSON lines go to FILE, a section of Markdown to standard output.
"""

import argparse
import contextlib
import json
import os
import pty
import re
import select
import shutil
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

from harness import Failed, Gateway, say
from ndr import Trial, search

GATEWAY_MAC = "02:00:00:00:00:01"
GATEWAY_IP, TESTER_IP, PORT = "10.77.0.1", "10.77.0.2", 4433
#: The frame check sequence, bytes: sizes of frames count it, a memory ring does not carry it.
FCS_BYTES = 4
#: How often a trial is tried whose receiver died: memif's driver may touch a ring that the other side has just taken away.
TRIES = 3
WAIT_S = 20

ROWS = {
    "ceiling": "drop path beside testpmd rxonly, frames of 64 bytes",
    "flowgen": "frames of testpmd's flowgen, for other hosts",
    "drop-64": "drop path: garbage, frames of 64 bytes",
    "drop-512": "drop path: garbage, frames of 512 bytes",
    "drop-1518": "drop path: garbage, frames of 1518 bytes",
    "drop-imix": "drop path: garbage, IMIX (28×64, 16×570, 4×1518)",
    "initials": "handshake path: Initials that nobody completes",
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


def start_gateway(site, config="gateway.toml", within=()):
    """A gateway on its port, for one trial."""
    pinned = [*within, "taskset", "-c", str(site.gateway_core)]
    gateway = Gateway(site.directory / "stoq-gateway", site.directory / config, site.directory / "gateway.log", pinned)
    try:
        return gateway.serves(WAIT_S)
    except BaseException:
        gateway.kill()
        raise


def counters(gateway):
    """Ends a gateway; its worker's counters by their names."""
    return gateway.stop(WAIT_S)[0]["counters"]


class Testpmd:
    """DPDK's own forwarder, on one end of the ring."""

    def __init__(self, site, role, core, mode, *options):
        self.mode, self.said = mode, ""
        device = f"net_memif0,role={role},id=0,socket={site.directory}/memif.sock,socket-abstract=no,rsize={site.rsize}{site.buffers}"
        device += f",mac={GATEWAY_MAC}" if role == "server" else ""
        # The main lcore shares the core: it only reads commands. Pages are shared by nobody, so no files of them are.
        command = [
            "stdbuf",
            "-oL",
            "dpdk-testpmd",
            "--lcores",
            f"0@{core},1@{core}",
            "--no-pci",
            "--in-memory",
            "--file-prefix",
            f"stoq-testpmd-{role}-{os.getpid()}",
            f"--vdev={device}",
            "--",
            "-i",
            f"--forward-mode={mode}",
            "--total-num-mbufs=16384",
            *options,
        ]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.STDOUT)
        try:
            self.wait(r"testpmd> ")
        except BaseException:
            self.kill()
            raise

    def wait(self, pattern):
        until = time.monotonic() + WAIT_S
        while not (found := re.search(pattern, self.said, re.DOTALL)):
            if not select.select([self.process.stdout], [], [], max(0, until - time.monotonic()))[0]:
                raise Failed(f"testpmd does not say {pattern!r}:\n{self.said[-2000:]}")
            read = os.read(self.process.stdout.fileno(), 65536)
            if not read:
                raise Failed(f"testpmd ended early:\n{self.said[-2000:]}")
            self.said += read.decode(errors="replace")
        self.said = self.said[found.end() :]
        return found

    def order(self, command, pattern):
        try:
            self.process.stdin.write(command.encode() + b"\n")
            self.process.stdin.flush()
        except BrokenPipeError as error:
            raise Failed("testpmd ended early") from error
        return self.wait(pattern)

    def start(self):
        self.order("start", rf"{self.mode} packet forwarding.*?nb forwarding ports=\d+")

    def stop(self):
        """Stops forwarding: frames received, sent, and not taken by the device."""
        self.order("stop", r"statistics for port 0")
        counts = self.wait(r"RX-packets: (\d+).*?TX-packets: (\d+)\s+TX-dropped: (\d+)")
        return [int(count) for count in counts.groups()]

    def link(self):
        """Waits until the other end is there."""
        until = time.monotonic() + WAIT_S
        while self.order("show port info 0", r"Link status: (\w+)")[1] != "up":
            if time.monotonic() > until:
                raise Failed("the ring stays down")
            time.sleep(0.1)

    def kill(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()


class Site:
    def __init__(self, arguments):
        self.directory, self.rsize, self.buffers = Path(arguments.dir), arguments.rsize, ""
        self.gateway_core, self.tester_core = 1, 0
        self.out = Path(arguments.out)
        self.seconds, self.short, self.width = arguments.seconds, arguments.short, arguments.width
        self.rounds, self.died = arguments.rounds, 0
        self.profiles = Path(arguments.profiles)

    def record(self, line):
        with self.out.open("a") as out:
            print(json.dumps(line), file=out)

    def again(self, measure, *arguments):
        """Measures; again where the receiver died under it."""
        for left in reversed(range(TRIES)):
            try:
                return measure(*arguments)
            except Failed as error:
                self.died += 1
                say(f"no result: {error}")
                if not left:
                    raise

    def pktgen(self, mode, rate, seconds):
        config = "goodput.toml" if mode[0] == "goodput" else "client.toml"
        command = [
            "taskset",
            "-c",
            str(self.tester_core),
            self.directory / "stoq-pktgen",
            "--config",
            self.directory / config,
            "--rate",
            f"{rate:.3f}",
            "--seconds",
            str(seconds),
            "--json",
            *mode,
        ]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 90, check=False)
        except subprocess.TimeoutExpired:
            raise Failed("stoq-pktgen hangs") from None
        if done.returncode:
            raise Failed(f"stoq-pktgen: {done.stderr}")
        return json.loads(done.stdout)

    def trial(self, mode, rate, seconds):
        """One trial with a gateway of its own: what the generator said, and what the gateway counted."""
        (self.directory / "memif.sock").unlink(missing_ok=True)
        gateway = start_gateway(self)
        try:
            said = self.pktgen(mode, rate, seconds)
            counted = counters(gateway)
        finally:
            gateway.kill()
        return said, counted


def testpmd_rate(site, receiver, transmitter, *options):
    """Frames a second that testpmd's transmitter gets rid of, with a receiver at the other end of the ring."""
    sender = Testpmd(site, "client", site.tester_core, transmitter, *options)
    try:
        sender.link()
        sender.start()
        started = time.monotonic()
        time.sleep(site.seconds)
        _, sent, refused = sender.stop()
        elapsed = time.monotonic() - started
        # What is in the ring is read before the ring goes away, and with it the receiver's counters.
        time.sleep(0.3)
        counted = receiver()
    finally:
        sender.kill()
    return {"frames_per_s": sent / elapsed, "sent": sent, "refused": refused, "seconds": elapsed, "receiver": counted}


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


def drop_receiver(site):
    (site.directory / "memif.sock").unlink(missing_ok=True)
    return start_gateway(site)


def ceiling(site):
    """The drop path beside testpmd's rxonly: the same transmitter at the same end of the same ring, in turn."""
    options = [
        f"--txpkts={64 - FCS_BYTES}",
        f"--tx-ip={TESTER_IP},{GATEWAY_IP}",
        f"--tx-udp={PORT},{PORT}",
        f"--eth-peer=0,{GATEWAY_MAC}",
    ]

    def testpmd():
        (site.directory / "memif.sock").unlink(missing_ok=True)
        receiver = Testpmd(site, "server", site.gateway_core, "rxonly")
        try:
            receiver.start()
            return testpmd_rate(site, lambda: {"rx_packets": receiver.stop()[0]}, "txonly", *options)
        finally:
            receiver.kill()

    def gateway():
        receiver = drop_receiver(site)
        try:
            return testpmd_rate(site, lambda: counters(receiver), "txonly", *options)
        finally:
            receiver.kill()

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
        receiver = drop_receiver(site)
        try:
            return testpmd_rate(
                site, lambda: counters(receiver), "flowgen", f"--txpkts={64 - FCS_BYTES}", f"--eth-peer=0,{GATEWAY_MAC}"
            )
        finally:
            receiver.kill()

    result = {"row": "flowgen", "what": ROWS["flowgen"], **site.again(measure)}
    site.record(result)
    return result


@contextlib.contextmanager
def veth():
    """A veth pair in a namespace of its own, named as its tester's end; yields the names of both ends."""
    near, far = f"pk{os.getpid()}n", f"pk{os.getpid()}f"
    subprocess.run(["ip", "netns", "add", near], check=True)
    try:
        inside = ["ip", "-n", near, "link"]
        subprocess.run(
            ["ip", "netns", "exec", near, "sh", "-c", "echo 1 >/proc/sys/net/ipv6/conf/all/disable_ipv6"], check=True
        )
        subprocess.run([*inside, "add", near, "type", "veth", "peer", "name", far, "address", GATEWAY_MAC], check=True)
        for end in (near, far):
            subprocess.run([*inside, "set", end, "up", "mtu", "1500"], check=True)
        yield near, far
    finally:
        subprocess.run(["ip", "netns", "delete", near], check=True)


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
    lines = []
    # It insists on setting the MTU, which memif cannot.
    with veth() as (near, far):
        config = (site.directory / "gateway.toml").read_text()
        config = re.sub(r'"net_memif0[^"]*"', f'"net_af_packet0,iface={far}"', config)
        (site.directory / "veth.toml").write_text(config)
        within = ["ip", "netns", "exec", near]
        for profile in sorted(site.profiles.glob("*.lua")):
            if profile.name == "profile.lua":
                continue
            receiver = start_gateway(site, "veth.toml", within)
            try:
                command = [
                    *within,
                    executable,
                    "--lcores",
                    f"0@{site.tester_core},1@{site.tester_core}",
                    "--no-pci",
                    "--in-memory",
                    "--file-prefix",
                    f"stoq-pktgen-{os.getpid()}",
                    f"--vdev=net_af_packet0,iface={near}",
                    "--",
                    "-m",
                    "1.0",
                    "-f",
                    profile.name,
                ]
                environment = {
                    **os.environ,
                    "STOQ_DST_MAC": GATEWAY_MAC,
                    "STOQ_DST_IP": GATEWAY_IP,
                    "STOQ_SRC_IP": f"{TESTER_IP}/24",
                    "STOQ_SECONDS": f"{site.seconds:g}",
                    "TERM": "dumb",
                }
                said = conversation(command, site.profiles, environment, 7 * (site.seconds + 3) + 60)
                lines.append({"profile": profile.name, "said": said, "receiver": counters(receiver)})
            except (subprocess.SubprocessError, OSError) as error:
                raise Failed(f"pktgen: {error}") from error
            finally:
                receiver.kill()
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
                f"{first['width']:.0%}. Every rate held in a trial of full length. A single pause of the machine while a trial lasts "
                "ends NDR: it is shown as it was. Loss of frames is what was offered to the ring less what the gateway's port "
                "received: a ring in memory does not lose frames, it refuses them. Loss of handshakes is what was not completed in "
                "time, loss of messages what flow control did not take."
            ),
            "",
        ]
    if site.died:
        lines += [f"{site.died} trial(s) had no result and were made again.", ""]
    if not shutil.which("pktgen"):
        lines += ["Pktgen-DPDK is not installed here: its profiles (`benches/pktgen/`) were not run.", ""]
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--dir", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--profiles", default="benches/pktgen")
    parser.add_argument("--rsize", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--short", type=float, default=1)
    parser.add_argument("--width", type=float, default=0.05)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("rows", nargs="*", choices=[[], *ROWS])
    arguments = parser.parse_args()
    site = Site(arguments)
    results, failed = [], []
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    for row in arguments.rows or list(ROWS):
        try:
            single = {"ceiling": ceiling, "flowgen": flowgen, "pktgen-dpdk": pktgen_dpdk}.get(row)
            result = single(site) if single else searched(site, row)
            results += [] if result is None else [result]
        except Failed as error:
            say(f"{row} failed: {error}")
            failed.append(row)
    print(table(site, results))
    if failed:
        sys.exit(f"rows that failed: {' '.join(failed)}")


if __name__ == "__main__":
    main()
