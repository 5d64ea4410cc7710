"""The scenarios of scripts/fleet-lab.sh."""

import contextlib
import json
import shutil
import signal
import statistics
import time

from harness import ensure, inside, run, wait_until
from harness.asking import drops_of, total
from harness.etcd import PREFIX
from harness.fleet_lab import ALL, CLIENT, LEASE_S, own
from harness.forged import Forger, first_packet, handed, short_packet
from harness.monitors import Monitors
from harness.recorder import not_done, summary
from harness.routing import V4

#: Clients that stay connected; in a rehash it is an option.
CLIENTS = 40
KILLS = 3
QUORUM_GONE_S = 60
FORGED = 100
#: What gives a process another time than its kernel's.
FAKETIME = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1"
#: What becomes of a datagram that was handed over and is not taken.
DROPPED_ON_ARRIVAL = [f"handover_{why}" for why in ("stranger", "malformed", "foreign", "full", "no_connection")]


class Scenarios:
    """The scenarios. Each begins and ends with five gateways that are alive and announced."""

    def __init__(self, lab, recorder, rehash_clients, kills):
        self.lab, self.recorder, self.rehash_clients, self.kills = lab, recorder, rehash_clients, kills

    def ended(self):
        """The errors of clients whose connections have ended."""
        return [errors.read_text() for ping, _, errors in self.lab.pings if ping.poll() is not None]

    def passes(self, count):
        """Waits until the load has recorded this number of requests more."""
        records = self.recorder.records
        until = len(records) + count
        wait_until(f"{count} requests more are recorded", lambda: len(records) >= until)

    def none_failed(self, what, records):
        failed = not_done(records)
        ensure(not failed, f"{what}: {len(failed)} of {len(records)} requests failed; the first: {failed[:2]}")
        print(f"{what}: 0 of {len(records)} requests failed ({summary(records)})")

    def moved(self):
        """Datagrams handed over so far, and those that have arrived, taken or dropped."""
        out = arrived = 0
        for n in ALL:
            shown = self.lab.metrics(n)
            out += total(shown, "handovers_net_out")
            drops = drops_of(shown)
            arrived += total(shown, "handovers_net_in") + sum(drops.get(reason, 0) for reason in DROPPED_ON_ARRIVAL)
        return out, arrived

    def still(self):
        """Datagrams handed over so far, and arrived, once none is any more."""
        last = None

        def is_still():
            nonlocal last
            was, last = last, self.moved()
            return last if was == last else None

        return wait_until("nothing is handed over", is_still, every_s=0.5, patience_s=20)

    def handed_over(self, before):
        """Datagrams handed over since then."""
        out = self.moved()[0] - before[0]
        ensure(out > 0, "no datagram was handed over")
        return out

    def adds_up(self, before):
        """The clients that stayed leave; each datagram that was handed over since then has arrived."""
        self.lab.leave()

        def since():
            return [now - was for now, was in zip(self.moved(), before, strict=True)]

        wait_until("each has arrived", lambda: len(set(since())) == 1, patience_s=20)
        print(f"handed over: {since()[0]} datagrams, and as many have arrived")

    # ---- rehash

    def rehash(self):
        lab = self.lab
        lab.sessions(1, "disable")
        lab.announced(*ALL[1:])
        lab.stay_connected(self.rehash_clients, 1.0)
        lab.all_are_served("four next hops")
        before = self.still()
        lab.sessions(1, "enable")
        lab.announced(*ALL)
        lab.all_are_served("a next hop added")
        added = self.handed_over(before)
        lab.sessions(3, "disable")
        lab.announced(*(n for n in ALL if n != 3))
        lab.all_are_served("a next hop withdrawn, its gateway serves on")
        withdrawn = self.handed_over(before) - added
        ensure(withdrawn > 0, "no datagram was handed over after the withdrawal")
        lab.sessions(3, "enable")
        lab.announced(*ALL)
        lab.all_are_served("and added again")
        self.adds_up(before)

    # ---- kill

    def kill(self):
        lab = self.lab
        withdrawn, told, lingered = [], [], []
        with self.recorder.load() as recorded, contextlib.ExitStack() as stack:
            monitors = Monitors(lab, stack)
            for at in range(self.kills):
                victim = ALL[(at * 2) % len(ALL)]
                lab.stay_connected(CLIENTS, 0.2)
                lab.all_are_served("five gateways")
                lasts, one, last, count = self.kill_one(victim, monitors)
                withdrawn.append(one)
                told.append(last)
                lingered.append(lasts)
                print(
                    f"g{victim} killed: its addresses are off after {lasts * 1000:.0f} ms, and withdrawn by both routers after {one * 1000:.0f} ms; "
                    f"its {count} clients told {last:.1f} s after the kill"
                )
                lab.start(victim)
                lab.whole()
        told_s = max(told)
        print(
            f"addresses off after {statistics.median(lingered) * 1000:.0f} ms in the median of {self.kills} kills, at most {max(lingered) * 1000:.0f} ms; "
            f"withdrawn after {statistics.median(withdrawn) * 1000:.0f} ms, at most {max(withdrawn) * 1000:.0f} ms; {summary(recorded())}"
        )
        verdict = "within" if told_s <= LEASE_S + 1 else "NOT within"
        print(f"clients told at the latest after {told_s:.1f} s: {verdict} the lease and a second")
        gets = [record for record in not_done(recorded()) if record["kind"] == "get"]
        ensure(not gets, f"{len(gets)} gets failed, though the other holder was there: {gets[:2]}")
        ensure(told_s <= 2 * LEASE_S + 5, f"clients were told after {told_s:.1f} s")

    def kill_one(self, victim, monitors):
        """Kills a gateway; when its addresses were off, when both routers had no route to it, when the last of its clients was told, and their number."""
        lab = self.lab
        begun, at = lab.trips(), time.time()
        lab.kill(victim)
        killed = time.monotonic()
        routers = lab.routers.values()
        wait_until("it is withdrawn", lambda: all(victim not in lab.next_hops(router=r) for r in routers))
        off_s, gone_s = monitors.off(victim, at), monitors.withdrawn(victim, at)

        def all_know():
            trips = zip(lab.pings, lab.trips(), begun, strict=True)
            return all(ping.poll() is not None or now >= before + 5 for (ping, _, _), now, before in trips)

        wait_until("each client has ended or is served", all_know, every_s=0.05)
        told_s = time.monotonic() - killed
        lab.gateways[victim].process.wait()
        reasons = self.ended()
        ensure(reasons, "no client was at the gateway")
        ensure(all("stateless reset" in reason for reason in reasons), f"not by a reset: {reasons[:2]}")
        return off_s, gone_s, told_s, len(reasons)

    # ---- drain, rolling

    def resets(self):
        return self.lab.counts("fleet_resets_sent") + self.lab.counts("quic_stateless_resets_sent")

    def drain_row(self, n):
        """The operator drains a gateway, and its routers send elsewhere."""
        self.lab.order("drain", f"g{n}")
        self.lab.announced(*(other for other in ALL if other != n))

    def stop_drained(self, n, before_the_end=lambda: None):
        """The order of docs/fleet.md: drain the row, wait until the clients have left, stop."""
        self.drain_row(n)
        wait_until(f"the clients of g{n} have left", lambda: self.lab.client_connections(n) == 0)
        before_the_end()
        self.lab.gateways[n].stop()

    def start_again(self, n):
        self.lab.start(n)
        self.lab.order("active", f"g{n}")
        self.lab.whole()

    def drain(self):
        lab = self.lab
        lab.stay_connected(CLIENTS, 0.2)
        lab.all_are_served("five gateways")
        resets = self.resets()
        with self.recorder.load() as recorded:
            self.passes(10)
            before = self.moved()
            self.drain_row(2)
            ensure(lab.client_connections(2), "no client is at g2")
            lab.all_are_served("g2 is drained and announced no longer")
            print(f"its clients go on through the others: {self.handed_over(before)} datagrams handed over")
            lab.leave()
            wait_until("the clients of g2 have left", lambda: lab.client_connections(2) == 0)
            self.passes(10)
            ensure(self.resets() == resets, "a reset was sent")
            lab.gateways[2].stop()
            self.start_again(2)
            self.passes(10)
        self.none_failed("drain", recorded())

    def rolling(self):
        self.lab.leave()
        resets, before = [0, 0, 0, 0], {n: self.resets_of(n) for n in ALL}

        def note(n):
            for at, (now, was) in enumerate(zip(self.resets_of(n), before[n], strict=True)):
                resets[at] += now - was
            before[n] = (0, 0, 0, 0)

        with self.recorder.load() as recorded:
            for n in ALL:
                self.stop_drained(n, lambda at=n: note(at))
                self.start_again(n)
            self.passes(10)
        for n in ALL:
            note(n)
        for_the_dead, unasked, own_resets, received = resets
        print(
            f"resets: {for_the_dead - unasked} for gateways that are gone, and {unasked} unasked for flows that had ended; "
            f"{own_resets} by gateways for connections from before their restart, of which members received {received}"
        )
        ensure(for_the_dead == unasked, "clients were reset for a gateway that was drained")
        self.none_failed("five gateways restarted, one after another", recorded())

    def resets_of(self, n):
        """Resets sent for gateways that are gone, those of them unasked, resets for own connections from before a start, and resets received."""
        shown = self.lab.metrics(n)
        kinds = (
            "fleet_resets_sent",
            "fleet_resets_unasked",
            "quic_stateless_resets_sent",
            "quic_stateless_resets_received",
        )
        return tuple(total(shown, kind) for kind in kinds)

    # ---- etcd

    def etcd(self):
        lab = self.lab
        lab.stay_connected(CLIENTS, 0.2)
        lab.all_are_served("five gateways")
        withdrawn, revisions = self.withdrawals(), self.revisions()
        with self.recorder.load() as recorded:
            lab.kill_member(0)
            lab.kill_member(1)
            killed = time.monotonic()
            for n in ALL:
                wait_until(f"g{n} says so", lambda at=n: lab.gauge(at, "stoq_fleet_directory_up") == 0)
            print(
                f"all gateways say that etcd is away {time.monotonic() - killed:.1f} s after two of three members were killed"
            )
            # What is looked at until then: no time may bring a withdrawal.
            while time.monotonic() < killed + QUORUM_GONE_S:
                ensure(all(lab.next_hops(router=router) == list(ALL) for router in lab.routers.values()), "withdrawn")
                self.passes(5)
            for n in ALL:
                ensure(lab.alive(n) == list(ALL), f"g{n} has lost a gateway: {lab.alive(n)}")
                ensure(lab.fleet(n)["revision"] == revisions[n], f"the table of g{n} has changed")
            lab.all_are_served(f"{QUORUM_GONE_S} s without quorum")
            lab.start_member(0)
            lab.start_member(1)
            begun = time.monotonic()
            for n in ALL:
                wait_until(f"g{n} hears etcd", lambda at=n: lab.gauge(at, "stoq_fleet_directory_up") == 1)
            print(f"all gateways hear etcd {time.monotonic() - begun:.1f} s after the members were started")
            self.changes(2.0)
            lab.whole()
        ensure(self.withdrawals() == withdrawn, "a gateway has withdrawn")
        print("0 withdrawals; the table goes on from its revision")
        lab.all_are_served("etcd is back")
        self.none_failed("without quorum", recorded())

    def withdrawals(self):
        """The times that a gateway took its addresses off, as their logs say."""
        return sum(self.lab.gateways[n].log.read_text().count("withdrawn: the addresses are off") for n in ALL)

    def revisions(self):
        """The revision of each gateway's table: gateways that go by one table may have read it as of two revisions, since a lease counts as one too."""
        return {n: self.lab.fleet(n)["revision"] for n in ALL}

    def changes(self, weight):
        """The operator changes a weight, and all gateways have it, one revision after another."""
        lab = self.lab
        lab.put_gateway(1, weight)
        for n in ALL:
            wait_until(f"g{n} takes a change", lambda at=n: lab.fleet(at)["gateways"] and lab.weight(at, 1) == weight)

    # ---- hang

    def hang(self):
        """Way A has no BFD through the gateway's loop, and a stopped process notices nothing: its addresses stay announced."""
        lab = self.lab
        lab.stay_connected(CLIENTS, 0.2)
        lab.all_are_served("five gateways")
        others = [n for n in ALL if n != 4]
        with self.recorder.load() as recorded:
            self.passes(5)
            lab.kill(4, by=signal.SIGSTOP)
            stopped = time.monotonic()
            wait_until("its lease has ended", lambda: all(4 not in lab.alive(n) for n in others))
            ensure(all(4 in lab.next_hops(router=router) for router in lab.routers.values()), "g4 is withdrawn")
            lab.kill(4, by=signal.SIGCONT)
            hung_s = time.monotonic() - stopped
            lab.whole()
            lab.all_are_served(f"g4 hung for {hung_s:.1f} s, until its lease had ended, and was announced all the time")
        failed = not_done(recorded())
        print(f"requests meanwhile: {summary(recorded())}; those that a router sends to g4 wait for it")
        ensure(all("10 s" in record["reason"] or "idle" in record["reason"] for record in failed), f"{failed[:2]}")
        with self.recorder.load() as recorded:
            self.passes(20)
        self.none_failed("after it", recorded())

    # ---- wiped

    def wiped(self):
        lab = self.lab
        lab.stay_connected(CLIENTS, 0.2)
        lab.all_are_served("five gateways")
        withdrawn, revisions = self.withdrawals(), self.revisions()
        with self.recorder.load() as recorded:
            for at in range(3):
                lab.kill_member(at)
                shutil.rmtree(lab / f"e{at}")
            lab.new_cluster()
            for n in ALL:
                refused = wait_until(f"g{n} refuses it", lambda at=n: lab.fleet(at)["directory"]["refused"])
                ensure("fleet adopt" in refused, refused)
                ensure(lab.fleet(n)["revision"] == revisions[n], f"the table of g{n} has changed")
            held = lab.etcdctl("get", "--prefix", f"{PREFIX}/alive/").stdout
            ensure(held == "", f"a gateway writes to a cluster that it refuses: {held}")
            lab.all_are_served("a wiped cluster is refused by all")
            for n in ALL:
                lab.adopt(n)
            self.changes(3.0)
            lab.whole()
            lab.all_are_served("and adopted by the operator")
        ensure(self.withdrawals() == withdrawn, "a gateway has withdrawn")
        self.none_failed("a wiped cluster", recorded())

    # ---- partition

    def partition(self):
        lab = self.lab
        lab.stay_connected(CLIENTS, 0.2)
        lab.all_are_served("five gateways")
        others, host = [n for n in ALL if n != 5], lab.hosts[5]
        withdrawn, before, resets = self.withdrawals(), self.still(), self.resets()
        with self.recorder.load() as recorded:
            rules = "table inet lab { chain out { type filter hook output priority 0; oifname management drop; }; }"
            run(*inside(host), "nft", rules)
            try:
                wait_until("its lease has ended", lambda: all(5 not in lab.alive(n) for n in others))
                lab.all_are_served("g5 is cut off from etcd, and its lease has ended")
                lab.sessions(5, "disable")
                lab.announced(*others)
                lab.all_are_served("the routers send its flows to others, which ask it and hand over")
                print(
                    f"{self.handed_over(before)} datagrams handed over; {lab.counts('fleet_questions_sent')} questions"
                )
                lab.sessions(5, "enable")
                lab.announced(*ALL)
            finally:
                run(*inside(host), "nft", "delete table inet lab")
            lab.whole()
        self.adds_up(before)
        ensure(self.withdrawals() == withdrawn, "a gateway has withdrawn")
        ensure(self.resets() == resets, "a reset was sent")
        self.none_failed("a gateway cut off from etcd", recorded())

    # ---- rotation

    def rotation(self):
        lab = self.lab
        lab.stay_connected(CLIENTS, 0.2)
        lab.all_are_served("five gateways")
        before, resets = self.still(), self.resets()
        with self.recorder.load() as recorded:
            for step in ("step 1 of 3", "step 2 of 3"):
                wait_until("all go by the rotations that there are", self.all_go_by_the_rotations)
                said = lab.order("rotate-cid")
                ensure(step in said, said)
            wait_until("all go by the new rotation", self.all_go_by_the_rotations)
            lab.all_are_served("two steps of a rotation")
            # Connection IDs of before and of after the rotation are handed over.
            lab.sessions(1, "disable")
            lab.announced(*(n for n in ALL if n != 1))
            lab.all_are_served("and a next hop withdrawn")
            self.handed_over(before)
            lab.sessions(1, "enable")
            lab.announced(*ALL)
        self.adds_up(before)
        ensure("until less than 1800 s ago" in lab.order("rotate-cid", code=1), "the third step is not refused")
        ensure(self.resets() == resets, "a reset was sent")
        self.none_failed("a rotation", recorded())

    def all_go_by_the_rotations(self):
        shown = json.loads(self.lab.order("status", "--json"))
        return all(row["keys"] == shown["keys_revision"] for row in shown["gateways"])

    # ---- forged

    def forged(self):
        lab = self.lab
        lab.leave()
        (own1, _), (own2, _), client = own(1), own(2), f"10.1.{CLIENT}.2"
        kinds = {
            "a stranger": ("handover_stranger", client, handed(client, V4, short_packet())),
            "a member's address, no packet inside": ("handover_malformed", own2, b"\x00\x04\x00\x00" + b"\x45"),
            "a member's address, an ID of no gateway": ("handover_foreign", own2, None),
            "a member's address, a first packet inside": ("handover_foreign", own2, handed(client, V4, first_packet())),
        }
        forger = Forger(lab.clients[1], "port")
        opened, moved = lab.count(1, "connections_opened"), self.moved()[0]
        try:
            for what, (reason, source, payload) in kinds.items():
                before = lab.drops(1).get(reason, 0)
                for _ in range(FORGED):
                    forger.send(source, own1, payload or handed(client, V4, short_packet()))
                wait_until(
                    f"{what}: dropped as {reason}; {lab.drops(1)}",
                    lambda of=reason, was=before: lab.drops(1).get(of, 0) >= was + FORGED,
                    patience_s=20,
                )
                # A request after them is answered after them.
                lab.ping_once(1)
                answers = forger.answers()
                ensure(not answers, f"{what}: {len(answers)} answers: {answers[0].hex() if answers else ''}")
                print(f"{what}: {FORGED} datagrams dropped as {reason}, 0 answers")
        finally:
            forger.close()
        ensure(self.moved()[0] == moved, "forged datagrams were handed over again")
        ensure(lab.count(1, "connections_opened") - opened == len(kinds), "a forged datagram opened a connection")

    # ---- clock

    def clock(self):
        """A gateway starts with a clock a day ahead: past all leases of what it holds."""
        lab = self.lab
        lab.leave()
        with self.recorder.load():
            self.passes(10)
        held = self.recorder.held_by("g3")
        self.stop_drained(3)
        lab.start(3, "env", f"LD_PRELOAD={FAKETIME}", "FAKETIME=+1d", "DONT_FAKE_MONOTONIC=1")
        lab.order("active", "g3")
        wait_until("its store doubts the clock", lambda: lab.gauge(3, "stoq_store_clock_believed") == 0)
        lab.whole()
        with self.recorder.load() as recorded:
            self.passes(20)
        read = self.recorder.read_again("g3", held)
        print(
            f"g3 a day ahead: it doubts its clock; {read} payloads, whose leases are over by that clock, are read from it"
        )
        self.none_failed("meanwhile", recorded())
        self.stop_drained(3)
        self.start_again(3)
        # A doubt outlives the process: the store cannot know which of the two clocks is right.
        ensure(lab.gauge(3, "stoq_store_clock_believed") == 0, "a restart ends the doubt")
        lab.trust_clock(3)
        wait_until("its store believes the clock", lambda: lab.gauge(3, "stoq_store_clock_believed") == 1)
        read = self.recorder.read_again("g3", held)
        print(
            f"g3 with the right clock, for which the operator vouches: it believes it; {read} payloads are read from it"
        )
