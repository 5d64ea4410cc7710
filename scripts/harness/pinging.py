"""Clients that keep a connection: a ping each, over IPv4 and IPv6."""

import subprocess

from harness import Scene, ensure, inside, wait_until
from harness.routing import V4, V6

#: Clients that begin at once: more would make the gateways' processes wait for a core longer than routers and leases have patience.
HANDSHAKES = 20


class Pinging(Scene):
    """A scene with pings, which end only with their connections."""

    def __init__(self, *name):
        super().__init__(*name)
        self.pings = []

    def start_pings(self, count, places, options, interval_s=0.2):
        """Starts pings of the anycast addresses, in these namespaces by turns."""
        often = ["-c", "1000000", "-i", f"{interval_s}", "--timeout", "60"]
        for at in range(count):
            address = f"{V4}:4433" if at % 2 else f"[{V6}]:4433"
            command = [self.stoq_executable, "ping", "-g", address, *options, *often]
            log, errors = self / f"ping{at}.log", self / f"ping{at}.err"
            with log.open("w") as out, errors.open("w") as err:
                within = places[at // 2 % len(places)]
                ping = subprocess.Popen(inside(within, *map(str, command)), stdout=out, stderr=err)
            self.stack.callback(ping.wait)
            self.stack.callback(ping.kill)
            self.pings.append((ping, log, errors))
            if len(self.pings) % HANDSHAKES == 0:
                wait_until("clients have connected", lambda: all(self.trips()))

    def trips(self):
        """The round trips of each so far."""
        return [log.read_text().count("\n") for _, log, _ in self.pings]

    def all_are_served(self, what):
        """Waits until each client has three more round trips; none may have ended."""
        begun = self.trips()
        wait_until(what, lambda: all(now >= before + 3 for now, before in zip(self.trips(), begun, strict=True)))
        ended = [errors.read_text() for ping, _, errors in self.pings if ping.poll() is not None]
        ensure(not ended, f"{what}: {len(ended)} of {len(self.pings)} clients ended: {ended[:1]}")
        print(f"{what}: 0 of {len(self.pings)} connections lost")
