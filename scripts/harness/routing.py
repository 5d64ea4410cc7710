"""Routers and hosts with BIRD, in namespaces."""

import contextlib
import re
import subprocess

from harness import Scene, inside, run, wait_until

#: The anycast addresses of all gateways.
V4, V6 = "203.0.113.1", "2001:db8:53::1"


class Routing(Scene):
    """A scene with routing daemons."""

    def bird(self, name, place, text):
        config = self / f"bird-{name}.conf"
        config.write_text(text)
        run("bird", "-p", "-c", config)
        command = inside(place, "bird", "-f", "-c", str(config), "-s", str(self / f"{name}.ctl"))
        self.daemon(f"bird-{name}", command)
        wait_until(f"BIRD {name} answers", (self / f"{name}.ctl").exists)

    def daemon(self, name, command):
        with (self / f"{name}.log").open("w") as log:
            running = subprocess.Popen(command, stdout=log, stderr=log)
        self.stack.callback(running.wait)
        self.stack.callback(running.kill)

    def birdc(self, *words, router="r"):
        return subprocess.run(
            ["birdc", "-s", self / f"{router}.ctl", *words], capture_output=True, text=True, check=True
        ).stdout

    def is_established(self, name, router="r"):
        with contextlib.suppress(subprocess.CalledProcessError):
            return "Established" in self.birdc("show", "protocols", name, router=router)

    def next_hops(self, address=V4, router=None):
        """The gateways to which the router's kernel sends packets for the address."""
        version = "-6" if ":" in address else "-4"
        said = run("ip", version, "-n", router or self.router, "route", "show", address)
        return sorted({int(n) for n in re.findall(r"via \S+ dev to-g(\d)", said)})
