"""When kernels of the lab changed addresses and routes, as their monitors tell: a poll of many processes would measure itself."""

import re
import subprocess
from datetime import datetime

from harness import inside, wait_until
from harness.routing import V4

#: `ip -ts` writes the time of day before each message.
STAMP = re.compile(r"^\[([^\]]+)\] ", re.MULTILINE)


class Monitors:
    """`ip monitor` in all hosts and routers of a lab, until the stack ends."""

    def __init__(self, lab, stack):
        self.logs = {}
        for kind, places in (("address", lab.hosts), ("route", lab.routers)):
            for n, place in places.items():
                log = self.logs[kind, n] = lab / f"monitor-{kind}-{n}"
                with log.open("w") as out:
                    monitor = subprocess.Popen(inside(place, "ip", "-ts", "monitor", kind), stdout=out)
                stack.callback(monitor.wait)
                stack.callback(monitor.kill)

    def messages(self, kind, n, since):
        """The messages of a monitor since a time of day, each with the seconds since then."""
        parts = STAMP.split(self.logs[kind, n].read_text())[1:]
        for stamp, text in zip(parts[::2], parts[1::2], strict=True):
            after_s = datetime.fromisoformat(stamp).timestamp() - since
            if after_s >= 0:
                yield after_s, text

    def off(self, n, since):
        """After how many seconds the kernel of a gateway's host had removed an anycast address from its interface."""

        def first():
            found = (
                s
                for s, text in self.messages("address", n, since)
                if "Deleted" in text and V4 in text and "stoq0" in text
            )
            return next(found, None)

        return wait_until(f"the address of g{n} is off", first)

    def withdrawn(self, n, since):
        """After how many seconds no router sent to a gateway any more."""

        def last():
            found = [self.first_without(r, f"to-g{n}", since) for kind, r in self.logs if kind == "route"]
            return max(found) if all(found) else None

        return wait_until(f"g{n} is withdrawn", last)

    def first_without(self, router, port, since):
        """When a router first had a route for the anycast address of IPv4 without this port."""
        of_address = ((s, text) for s, text in self.messages("route", router, since) if text.startswith(V4))
        return next((s for s, text in of_address if port not in text), None)
