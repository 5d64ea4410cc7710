"""The lab of scripts/fleet-lab.sh: two routers, five gateways in three zones, three members of etcd, two clients' hosts; a namespace each."""

import json
import signal
import subprocess
from pathlib import Path

from harness import ECHO, cable, ensure, inside, run, say, seed, wait_until
from harness.asking import ADMIN, ask, drops_of, total
from harness.etcd import FIRST_ROTATION, EtcdMembers, EtcdPlace
from harness.pinging import Pinging
from harness.routing import V4, V6, Routing

ROUTERS = (1, 2)
ZONES = {1: "ams/r1", 2: "ams/r1", 3: "ams/r2", 4: "ams/r2", 5: "fra/r1"}
ALL = tuple(ZONES)
#: The number of a client's host on the network of its router.
CLIENT = 9
LEASE_S = 10
SETTLE_MS = 1000


def own(n):
    """The addresses of a gateway's host, which both routers know: those of its row."""
    return f"10.9.0.{n}", f"fd09::{n}"


class Lab(Pinging, Routing, EtcdMembers):
    """The networks and processes, and what scenarios do with them."""

    def __init__(self):
        super().__init__("fleet-lab")
        self.gateways = {}

    # ---- networks

    def build(self):
        say("two routers and five gateways' hosts with BIRD, three members of etcd, two clients' hosts")
        self.management = self.namespace("m")
        self.routers = {r: self.namespace(f"r{r}") for r in ROUTERS}
        self.hosts = {n: self.namespace(f"g{n}") for n in ALL}
        self.clients = {r: self.namespace(f"c{r}") for r in ROUTERS}
        self.etcd_hosts = [self.namespace(f"e{at}") for at in range(3)]
        self.connect_management()
        self.connect_routers()
        for n in ALL:
            self.connect_host(n)
        for r in ROUTERS:
            self.route(self.routers[r])
        names = [f"g{n}" for n in ALL]
        self.identities(*names, "client")
        self.start_directory()
        for r in ROUTERS:
            self.bird(f"r{r}", self.routers[r], self.bird_of_router(r))
        for n in ALL:
            self.bird(f"g{n}", self.hosts[n], self.bird_of_gateway(n))
        for r in ROUTERS:
            for name in (f"g{n}{version}" for n in ALL for version in ("v4", "v6")):
                wait_until(f"{name} is established", lambda n=name, at=r: self.is_established(n, f"r{at}"))

    def ip(self, place, *lines):
        """Commands of ip(8) in a namespace."""
        run("ip", "-n", place, "-batch", "-", input="\n".join(lines))

    def set_kernel(self, place, *values):
        script = "; ".join(f"echo {value} >/proc/sys/net/{key}" for key, value in values)
        run(*inside(place), "sh", "-c", script)

    def connect_management(self):
        """A bridge on which etcd is, apart from the routers."""
        self.ip(
            self.management, "link add bridge type bridge", "link set bridge up", "addr add 10.8.0.254/24 dev bridge"
        )
        stations = [(f"g{n}", host, 10 + n) for n, host in self.hosts.items()]
        stations += [(f"e{at}", host, 20 + at) for at, host in enumerate(self.etcd_hosts)]
        for name, host, number in stations:
            cable(f"to-{name}", "management", self.management, host)
            self.ip(self.management, f"link set to-{name} master bridge")
            self.ip(host, f"addr add 10.8.0.{number}/24 dev management")

    def link(self, near, near_port, far, far_port, v4, v6):
        """A cable with the addresses 1 and 2 of both networks."""
        cable(near_port, far_port, near, far)
        for place, port, end in ((near, near_port, 1), (far, far_port, 2)):
            self.ip(place, f"addr add {v4}.{end}/24 dev {port}", f"addr add {v6}::{end}/64 dev {port} nodad")

    def connect_routers(self):
        self.link(self.routers[1], "to-r2", self.routers[2], "to-r1", "10.3.0", "fd09:3")
        for r, other, end in ((1, 2, 2), (2, 1, 1)):
            router, client = self.routers[r], self.clients[r]
            self.ip(
                router,
                f"route add 10.{other}.0.0/16 via 10.3.0.{end}",
                f"route add fd09:{other}::/32 via fd09:3::{end}",
            )
            self.link(router, "to-c", client, "port", f"10.{r}.{CLIENT}", f"fd09:{r}:{CLIENT}")
            self.ip(client, f"route add default via 10.{r}.{CLIENT}.1", f"route add default via fd09:{r}:{CLIENT}::1")

    def connect_host(self, n):
        """A gateway's host at both routers. Its own addresses are on the loopback interface, and so are the anycast ones: the kernel sends from no
        other, and connections go on after a withdrawal."""
        host, (v4, v6) = self.hosts[n], own(n)
        self.ip(host, *(f"addr add {address} dev lo" for address in (f"{v4}/32", f"{v6}/128", f"{V4}/32", f"{V6}/128")))
        for r, router in self.routers.items():
            self.link(router, f"to-g{n}", host, f"port{r}", f"10.{r}.{n}", f"fd09:{r}:{n}")
            self.ip(router, f"route add {v4} via 10.{r}.{n}.2", f"route add {v6} via fd09:{r}:{n}::2")
        for kind in ("10.{}.{}.1", "fd09:{}:{}::1"):
            hops = " ".join(f"nexthop via {kind.format(r, n)}" for r in ROUTERS)
            self.ip(host, f"route add default {hops}")

    def route(self, router):
        """Flows are spread by addresses, protocol and ports. This is policy 3 with these fields: policy 1 spreads packets of this machine by a number that
        their socket gave them, which changes when a client connects its socket, and so moves most flows once."""
        keys = [("ipv4/ip_forward", 1), ("ipv6/conf/all/forwarding", 1)]
        for version in ("ipv4", "ipv6"):
            keys += [(f"{version}/fib_multipath_hash_policy", 3), (f"{version}/fib_multipath_hash_fields", 0x37)]
        self.set_kernel(router, *keys)

    # ---- routing daemons

    def bird_of_router(self, r):
        """configs/bird/router.conf with five gateways, whose own addresses it knows."""
        text = Path("configs/bird/router.conf").read_text().replace("router id 10.9.0.1", f"router id 10.3.0.{r}")
        text = text[: text.index("protocol bgp g1v4")]
        for version, kind, at, neighbor in (
            ("4", "{}/32", 0, "10.{}.{}.2"),
            ("6", "{}/128", 1, "fd09:{}:{}::2"),
        ):
            hops = "".join(f" route {kind.format(own(n)[at])} via {neighbor.format(r, n)};" for n in ALL)
            text += f"protocol static own{version} {{ ipv{version};{hops} }}\n"
            for n in ALL:
                text += f"protocol bgp g{n}v{version} from stoq{version} {{ neighbor {neighbor.format(r, n)} as GATEWAYS_AS; }}\n"
        return text

    def bird_of_gateway(self, n):
        """configs/bird/gateway.conf with two routers."""
        text = Path("configs/bird/gateway.conf").read_text()
        v4, v6 = own(n)
        for name, was, value in (
            ("PORT_V4", "10.9.1.2", v4),
            ("PORT_V6", "fd09:1::2", v6),
            ("ROUTER_V4", "10.9.1.1", f"10.1.{n}.1"),
            ("ROUTER_V6", "fd09:1::1", f"fd09:1:{n}::1"),
            ("OWN_V4", "10.9.1.2", f"10.1.{n}.2"),
            ("OWN_V6", "fd09:1::2", f"fd09:1:{n}::2"),
        ):
            line = f"define {name} = {was};"
            ensure(line in text, f"configs/bird/gateway.conf has no line {line}")
            text = text.replace(line, f"define {name} = {value};")
        text = text.replace("router id 10.9.1.2", f"router id {v4}")
        second = text[text.index("protocol bgp router4") :].replace("protocol bgp router", "protocol bgp second")
        for name, value in (
            ("OWN_V4", f"10.2.{n}.2"),
            ("ROUTER_V4", f"10.2.{n}.1"),
            ("OWN_V6", f"fd09:2:{n}::2"),
            ("ROUTER_V6", f"fd09:2:{n}::1"),
        ):
            second = second.replace(name, value)
        return text + second

    def announced(self, *gateways, patience_s=60):
        """Waits until both routers send to these gateways alone, over both versions."""
        wanted = sorted(gateways)

        def is_so():
            return all(self.next_hops(a, router) == wanted for a in (V4, V6) for router in self.routers.values())

        wait_until(f"the routers send to {wanted}", is_so, patience_s=patience_s)

    def sessions(self, n, what):
        """`birdc enable` or `disable` for a gateway's sessions at both routers."""
        for r in ROUTERS:
            for version in ("v4", "v6"):
                self.birdc(what, f"g{n}{version}", router=f"r{r}")

    # ---- the directory

    def start_directory(self):
        self.key_file()
        self.operator_within = inside(self.management)
        self.places = [EtcdPlace(f"10.8.0.{20 + at}", within=inside(host)) for at, host in enumerate(self.etcd_hosts)]
        self.certificates()
        self.new_cluster()

    def new_cluster(self):
        """Three new members, the fleet's keys, and users and roles."""
        self.start_members()
        self.put("fleet", FIRST_ROTATION, user=None)
        for n in ALL:
            self.put_gateway(n, user=None)
        self.make_users(*(f"g{n}" for n in ALL))

    def put_gateway(self, n, weight=1.0, **more):
        v4, v6 = own(n)
        row = {"name": f"g{n}", "server_id": f"00000{n}", "zone": ZONES[n], "weight": weight}
        row["addresses"] = [f"{v4}:4433", f"[{v6}]:4433"]
        self.put(f"gateways/{self.ids[f'g{n}']}", row, **more)

    def order(self, *words, code=0):
        """`stoq-gateway fleet …` as the operator; gives what it printed."""
        command = [*self.operator_within, self.gateway_executable, "fleet", *words, "--config", self / "g1.toml"]
        command += ["--user", "operator", "--password-file", self.secret("operator")]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        ensure(done.returncode == code, f"fleet {words}: status {done.returncode}\n{done.stdout}{done.stderr}")
        return done.stdout + done.stderr

    def adopt(self, n):
        run(*self.operator_within, self.gateway_executable, "fleet", "adopt", "--config", self / f"g{n}.toml")

    def trust_clock(self, n):
        """The operator of a gateway's host vouches for its clock."""
        run(*inside(self.hosts[n], self.gateway_executable, "store", "trust-clock", "--config", self / f"g{n}.toml"))

    # ---- gateways

    def configured(self, n):
        name = f"g{n}"
        fleet = {"key_file": "fleet.key", "server_id": f"00000{n}", "provider": "etcd", "name": "lab"}
        self.configure(
            name,
            {
                "network": {"kind": "kernel-udp", "listen": ["0.0.0.0:4433", "[::]:4433"]},
                **self.who(name, "client", *(f"g{other}" for other in ALL if other != n)),
                "application": [seed(f"store-{name}"), ECHO],
                "admin": {"listen": ADMIN},
                "anycast": {"interface": "stoq0", "addresses": [V4, V6], "settle_ms": SETTLE_MS},
                "shutdown": {"drain_ms": 5000},
                "fleet": {**fleet, "saved": f"{name}.fleet.json", "handover": True},
                "fleet.etcd": self.etcd_section(name),
            },
        )

    def launch(self, n, *within):
        """Starts a gateway; what is `within` goes before its command."""
        self.gateways[n] = self.gateway(f"g{n}", [*inside(self.hosts[n]), *within])
        return self.gateways[n]

    def start(self, n, *within):
        return self.launch(n, *within).serves()

    def start_all(self):
        say("five gateways")
        for n in ALL:
            self.configured(n)
            self.launch(n)
        for n in ALL:
            self.gateways[n].serves()
        self.whole()

    def whole(self, patience_s=60):
        """Waits until all gateways are alive in the table of each, and announced."""
        for n in ALL:
            wait_until(f"g{n} knows all", lambda at=n: self.alive(at) == list(ALL), patience_s=patience_s)
        self.announced(*ALL, patience_s=patience_s)

    def kill(self, n, by=signal.SIGKILL):
        self.gateways[n].process.send_signal(by)

    def fleet(self, n):
        return json.loads(ask(self.hosts[n], "/status"))["fleet"]

    def alive(self, n):
        """The gateways that are alive in the table of this one."""
        return sorted(int(row["name"][1:]) for row in self.fleet(n)["gateways"] if row["alive"])

    def weight(self, n, of):
        return next(row["weight"] for row in self.fleet(n)["gateways"] if row["name"] == f"g{of}")

    def client_connections(self, n):
        """The connections that the clients of this lab have to a gateway."""
        workers = json.loads(ask(self.hosts[n], "/debug/connections"))
        return sum(row["node"] == self.ids["client"] for rows in workers for row in rows or [])

    def metrics(self, n):
        return ask(self.hosts[n], "/metrics").decode()

    def count(self, n, counter):
        return total(self.metrics(n), counter)

    def gauge(self, n, name):
        return float(next(line.split()[1] for line in self.metrics(n).splitlines() if line.startswith(f"{name} ")))

    def counts(self, counter, gateways=ALL):
        return sum(self.count(n, counter) for n in gateways)

    def drops(self, n):
        return drops_of(self.metrics(n))

    # ---- clients

    def address(self, n):
        return f"{own(n)[0]}:4433"

    def client_configuration(self):
        names = [f"g{n}" for n in ALL]
        known = [
            {"name": f"g{n}", "node_id": self.ids[f"g{n}"], "addresses": [self.address(n), f"[{own(n)[1]}]:4433"]}
            for n in ALL
        ]
        self.configure("client", {**self.who("client", *names), "gateway": known, "log": {"level": "warn"}})

    def stay_connected(self, count, interval_s):
        """Pings that keep their connections, from both clients' hosts; those that there are end."""
        self.leave()
        self.start_pings(count, list(self.clients.values()), ["--config", self / "client.toml"], interval_s)

    def leave(self):
        """The pings end, and close their connections."""
        for ping, _, _ in self.pings:
            ping.terminate()
        for ping, _, _ in self.pings:
            ping.wait()
        self.pings.clear()

    def ping_once(self, n):
        """A round trip with a gateway, from the first client's host, on a connection of its own."""
        command = [self.stoq_executable, "ping", "-c", "1", "-g", self.address(n), "--config", self / "client.toml"]
        run(*inside(self.clients[1], *map(str, command)))
