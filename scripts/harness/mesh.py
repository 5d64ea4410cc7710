"""What scripts/mesh.sh runs, once it has looked at the machine: mesh.py [FILE]."""

import os
import shutil
import sys
from pathlib import Path

from harness import AF_PACKET, Scene, cable, dpdk, ensure, inside, main, random_file, run, same, say, seed, wait_until

NUMBER = {"a": 1, "b": 2, "c": 3, "d": 4}


class Mesh(Scene):
    """Gateways and a client, each in a namespace with a cable to a bridge."""

    def __init__(self):
        super().__init__("mesh")

    def build(self):
        say("a bridge, and a cable from it to each of a, b, c, d and the client")
        switch = self.namespace("switch")
        run("ip", "-n", switch, "link", "add", "bridge", "type", "bridge")
        run("ip", "-n", switch, "link", "set", "bridge", "up")
        self.places = {}
        for name in (*NUMBER, "client"):
            self.places[name] = self.namespace(name)
            cable(f"to-{name}", "port", switch, self.places[name])
            run("ip", "-n", switch, "link", "set", f"to-{name}", "master", "bridge")
        at_client = ("ip", "-n", self.places["client"], "addr", "add")
        run(*at_client, "10.78.0.9/24", "dev", "port")
        run(*at_client, "fd78::9/64", "dev", "port", "nodad")

    def others(self, name):
        """The sections for all gateways but one."""
        return [
            {"name": each, "node_id": self.ids[each], "addresses": [f"10.78.0.{n}:4433", f"[fd78::{n}]:4433"]}
            for each, n in NUMBER.items()
            if each != name
        ]

    def describe(self):
        self.identities(*NUMBER, "client")
        huge_pages = os.environ.get("STOQ_HUGE_PAGES", "preferred")
        for name, n in NUMBER.items():
            # A killed DPDK process leaves these.
            prefix = f"{self.name}-{name}"
            self.stack.callback(shutil.rmtree, f"/var/run/dpdk/{prefix}", ignore_errors=True)
            port = dpdk(AF_PACKET.format("port"), f"10.78.0.{n}/24", f"fd78::{n}/64", huge_pages=huge_pages)
            self.configure(
                name,
                {
                    "network": {**port, "memory_mib": 64, "file_prefix": prefix},
                    **self.who(name, *NUMBER, "client"),
                    "gateway": self.others(name),
                    "application": [seed(f"store-{name}", capacity_bytes=4_000_000_000, memory_bytes=32 << 20)],
                },
            )
        self.configure(
            "client",
            {
                "connect": "10.78.0.1:4433",
                **self.who("client", *NUMBER, "client"),
                "gateway": self.others("client"),
                "log": {"level": "warn"},
            },
        )

    def start(self):
        say("starting a, b, c and d, each on its own DPDK port")
        self.gateways = {name: self.gateway(name, inside(self.places[name])) for name in NUMBER}
        for gateway in self.gateways.values():
            gateway.serves()

    def tool(self, *arguments, show=True):
        """Runs `stoq` at the client; gives what it printed."""
        within = inside(self.places["client"])
        said = run(*within, self.stoq_executable, *arguments, "--config", self / "client.toml")
        if show:
            print(said, end="", flush=True)
        return said

    def known(self, token, count, *options, again=None):
        """Waits until the connected gateway knows this number of holders, and shows them. Calls `again` after every 25th look that has found
        others."""
        looks = 0

        def holders():
            lines = self.tool("locate", token, *options, show=False).splitlines()
            found = [line for line in lines if line and not line.startswith("NODE")]
            if len(found) == count:
                return found
            nonlocal looks
            looks += 1
            if again and looks % 25 == 0:
                again()
            return None

        for holder in wait_until(f"{count} holders of {token}", holders, every_s=0.2):
            for name, node_id in self.ids.items():
                holder = holder.replace(node_id, f"{name}  {node_id[:8]}…")
            print(holder, flush=True)


def mesh():
    given = sys.argv[1:]
    ensure(not given or Path(given[0]).is_file(), f"{' '.join(given)} is no file")
    with Mesh() as it:
        file = Path(given[0]).resolve() if given else random_file(it / "file", 64 << 20)
        it.build()
        it.describe()
        it.start()
        say("put: 4 + 2 shards a stripe, at a")
        token, lanes = it.tool("put", file, "--shards", "4+2", show=False).split()
        say("mirror: b, c and d fetch two lanes each from a")
        for name, which in ("b", "0,1"), ("c", "2,3"), ("d", "4,5"):
            it.tool("mirror", lanes, "--on", name, "--lanes", which, "--from", "a")
        say("locate: what a knows of the set")
        it.known(lanes, 4)
        say("c is killed")
        it.gateways.pop("c").kill()
        say("get: from b, c and d, of which two are left")
        it.tool("get", lanes, "-o", it / "gathered", "--from", "b,c,d")
        same(file, it / "gathered")
        say("get: by way of d from a, over IPv6; d keeps what passes")
        at_d = ("--gateway", "[fd78::4]:4433")

        def routed():
            (it / "routed").unlink(missing_ok=True)
            it.tool("get", token, "-o", it / "routed", *at_d, "--via", "d,a", "--cache")
            same(file, it / "routed")

        routed()
        say("locate: what d knows of the payload")
        # A gateway keeps what passes only as fast as it can; on a busy machine a get may go by unkept.
        it.known(token, 2, *at_d, again=routed)
        for gateway in it.gateways.values():
            gateway.stop()
        size = file.stat().st_size
    say(f"the mesh: {size} bytes came back the same, from shards with a holder dead and by way of another gateway")


main(mesh)
