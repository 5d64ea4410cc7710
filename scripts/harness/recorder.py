"""Requests of the lab's clients, each with its outcome as a line of JSON, and the checker that reads everything acknowledged again."""

import contextlib
import hashlib
import json
import random
import subprocess
import threading
import time

from harness import ensure, inside
from harness.routing import V4, V6

#: Loops of requests in each client's host, and the pause between two requests of a loop, seconds.
LOOPS, PAUSE_S = 2, 0.15
PUT_BYTES_MAX = 64 * 1024
BASE_BYTES = 128 * 1024
LEASE = "12h"
#: The longest that one request may take, seconds: the limits of the client itself are shorter.
REQUEST_S = 150


def digest(file):
    return hashlib.sha256(file.read_bytes()).hexdigest()


class Recorder:
    """Puts, gets and pings, recorded.

    A put goes to an anycast address, and the gateway that acknowledges it holds it. What gets read was put before, and mirrored: each get may take it from
    either of its two holders. A ping goes to an anycast address, five round trips on a connection of its own."""

    def __init__(self, lab):
        self.lab, self.lock = lab, threading.Lock()
        self.lines = (lab / "requests.jsonl").open("w")
        self.records, self.puts, self.base, self.unknown = [], {}, {}, []
        self.begun = time.monotonic()
        self.places = list(lab.clients.values())
        self.stopping, self.faults, self.running = threading.Event(), [], set()

    def now(self):
        return round(time.monotonic() - self.begun, 3)

    # ---- one request

    def command(self, place, *words):
        command = [self.lab.stoq_executable, *words, "--config", self.lab / "client.toml", "--json"]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        with subprocess.Popen(inside(place, *map(str, command)), **pipes) as process:
            self.running.add(process)
            try:
                out, errors = process.communicate(timeout=REQUEST_S)
            except subprocess.TimeoutExpired:
                process.kill()
                out, errors = process.communicate()
            finally:
                self.running.discard(process)
        return subprocess.CompletedProcess(process.args, process.returncode, out, errors)

    def note(self, start, kind, result, **more):
        record = {"start": start, "end": self.now(), "kind": kind, "result": result, **more}
        with self.lock:
            self.records.append(record)
            self.lines.write(json.dumps(record) + "\n")
            self.lines.flush()
        return record

    def request(self, kind, place, *words, **more):
        """Makes a request; gives its record, and what it printed."""
        start = self.now()
        done = self.command(place, *words)
        if done.returncode == 0:
            return start, json.loads(done.stdout)
        # A put without an answer may be kept or not.
        result = "unknown" if kind == "put" else "failed"
        self.note(start, kind, result, reason=done.stderr.strip()[-300:], **more)
        return start, None

    def put(self, place, rng, address):
        file = self.lab / f"put-{threading.get_ident()}-{rng.random()}"
        file.write_bytes(rng.randbytes(rng.randint(1, PUT_BYTES_MAX)))
        start, said = self.request("put", place, "put", file, "--lease", LEASE, "-g", address, file=file.name)
        if said is None:
            self.unknown.append(file)
            return
        holder = next(name for name, node in self.lab.ids.items() if node == said["gateway"])
        self.puts[said["token"]] = (digest(file), holder)
        file.unlink()
        self.note(start, "put", "done", token=said["token"], gateway=holder)

    def get(self, place, rng):
        token, (wanted, holders) = rng.choice(list(self.base.items()))
        file = self.lab / f"get-{threading.get_ident()}-{rng.random()}"
        start, said = self.request(
            "get", place, "get", token, "-o", file, "--from", ",".join(holders), token=token, holders=holders
        )
        if said is not None:
            self.note(start, "get", "done" if digest(file) == wanted else "wrong", token=token)
        for left in self.lab.directory.glob(f"{file.name}*"):
            left.unlink()

    def ping(self, place, address):
        start, said = self.request("ping", place, "ping", "-c", "5", "-i", "0.1", "-g", address)
        if said is not None:
            self.note(start, "ping", "done", p50_us=said["p50_us"])

    # ---- the load

    def prepare(self):
        """A payload at each gateway, and mirrored at the next one of another zone."""
        numbers = sorted(self.lab.hosts)
        for n in numbers:
            other = (n + 1) % len(numbers) + 1
            file = self.lab / f"base-{n}"
            file.write_bytes(random.Random(n).randbytes(BASE_BYTES))
            put = self.command(self.places[0], "put", file, "--lease", LEASE, "-g", self.lab.address(n))
            ensure(put.returncode == 0, put.stderr)
            token = json.loads(put.stdout)["token"]
            mirrored = self.command(
                self.places[0], "mirror", token, "--on", f"g{other}", "--from", f"g{n}", "--lease", LEASE
            )
            ensure(mirrored.returncode == 0, mirrored.stderr)
            self.base[token] = (digest(file), (f"g{n}", f"g{other}"))

    def loop(self, place, seed):
        rng = random.Random(seed)
        while not self.stopping.is_set():
            address = rng.choice((f"{V4}:4433", f"[{V6}]:4433"))
            kind = rng.random()
            if kind < 0.4:
                self.put(place, rng, address)
            elif kind < 0.7:
                self.get(place, rng)
            else:
                self.ping(place, address)
            self.stopping.wait(PAUSE_S)

    @contextlib.contextmanager
    def load(self):
        """Requests run while this does; gives a function of what was recorded since then."""
        first = len(self.records)
        self.stopping.clear()
        places = enumerate(self.places * LOOPS)
        threads = [threading.Thread(target=self.guarded, args=(place, first + at)) for at, place in places]
        for thread in threads:
            thread.start()
        try:
            yield lambda: self.records[first:]
        except BaseException:
            # Nothing is waited for any more: ^C, or a scenario has failed.
            self.stopping.set()
            for process in list(self.running):
                process.kill()
            raise
        finally:
            self.stopping.set()
            for thread in threads:
                thread.join()
        ensure(not self.faults, f"a loop of the recorder has ended: {self.faults}")

    def guarded(self, place, seed):
        try:
            self.loop(place, seed)
        except Exception as fault:
            self.faults.append(repr(fault))
            raise

    # ---- the checker

    def check(self):
        """Each acknowledged put is read from its holder by that one's own address, and each mirrored payload from both; nothing was served wrong."""
        wrong = [record for record in self.records if record["result"] == "wrong"]
        ensure(not wrong, f"served wrong: {wrong}")
        read = sum(self.read_again(holder, self.held_by(holder)) for holder in (f"g{n}" for n in self.lab.hosts))
        kept = sum(self.look_for(file) for file in self.unknown)
        print(
            f"checked: {len(self.puts)} acknowledged puts and {len(self.base)} mirrored payloads, read {read} times from their holders: 0 lost, 0 wrong; "
            f"of {len(self.unknown)} puts without an answer {kept} are kept"
        )

    def held_by(self, holder):
        """The tokens of what a gateway has acknowledged or mirrored, with the digests."""
        held = {token: wanted for token, (wanted, at) in self.puts.items() if at == holder}
        return held | {token: wanted for token, (wanted, holders) in self.base.items() if holder in holders}

    def read_again(self, holder, tokens):
        there = self.lab.new_directory()
        manifest = there / "manifest"
        names = {token: token.removeprefix("b3:") for token in tokens}
        manifest.write_text("".join(f"{name}  {name}\n" for name in names.values()))
        address = self.lab.address(int(holder[1:]))
        done = self.command(self.places[0], "get", "--manifest", manifest, "-o", there / "files", "-g", address)
        ensure(done.returncode == 0, f"{holder} does not give all that it acknowledged: {done.stderr[-500:]}")
        for token, name in names.items():
            ensure(digest(there / "files" / name) == tokens[token], f"{holder} gives other bytes of {token}")
        return len(tokens)

    def look_for(self, file):
        """Whether a put that was not acknowledged is kept by any gateway; if so, whole."""
        token = subprocess.run([self.lab.stoq_executable, "token", file], capture_output=True, text=True, check=True)
        token = token.stdout.split()[0]
        back = self.lab / f"{file.name}.back"
        everyone = ",".join(f"g{n}" for n in self.lab.hosts)
        done = self.command(self.places[0], "get", token, "-o", back, "--from", everyone)
        ensure(done.returncode != 0 or digest(back) == digest(file), f"other bytes of {token}")
        return done.returncode == 0


def summary(records):
    """The requests by kind and result, in words."""
    counted = {}
    for record in records:
        key = (record["kind"], record["result"])
        counted[key] = counted.get(key, 0) + 1
    return ", ".join(f"{count} {kind}s {result}" for (kind, result), count in sorted(counted.items()))


def not_done(records):
    return [record for record in records if record["result"] != "done"]
