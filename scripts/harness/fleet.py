"""What scripts/fleet-test.sh runs, once it has looked at the machine."""

import json
import shutil
import socket
import subprocess
import urllib.request

from harness import ensure, kernel, main, run, say, wait_until
from harness.etcd import FIRST_ROTATION, PREFIX, EtcdMembers, EtcdPlace


def free_ports(count, kind):
    """Ports that are free now."""
    sockets = [socket.socket(socket.AF_INET, kind) for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


class Fleet(EtcdMembers):
    """Three members of etcd and two gateways."""

    def __init__(self):
        super().__init__("fleet")

    def build(self):
        say("certificates, a key file, identities")
        self.identities("a1", "a2", "a3", "a4", "client")
        self.key_file()
        ports = free_ports(6, socket.SOCK_STREAM)
        self.places = [EtcdPlace("127.0.0.1", *pair) for pair in zip(ports[:3], ports[3:], strict=True)]
        self.certificates()

    # ---- etcd

    def new_cluster(self):
        """Three new members, users and roles as docs/fleet.md has them, and the fleet's keys."""
        self.start_members()
        self.put("fleet", FIRST_ROTATION, user=None)
        for name in ("a1", "a2"):
            self.put_gateway(name, user=None)
        self.make_users("a1", "a2", "a3")

    def put_gateway(self, name, server_id=None, weight=1.0, **more):
        row = {"name": name, "server_id": server_id or f"00000{name[1]}", "zone": "lab", "weight": weight}
        row["addresses"] = [f"127.0.0.1:{4430 + int(name[1])}"]
        return self.put(f"gateways/{self.ids[name]}", row, **more)

    # ---- gateways

    def configured(self, name, server_id=None):
        """The configuration of a gateway."""
        (port,) = free_ports(1, socket.SOCK_DGRAM)
        fleet = {
            "key_file": "fleet.key",
            "server_id": server_id or f"00000{name[1]}",
            "provider": "etcd",
            "name": "lab",
        }
        fleet |= {"saved": f"{name}.fleet.json"}
        sections = {
            "network": kernel(f"127.0.0.1:{port}"),
            **self.who(name, "client"),
            "fleet": fleet,
            "fleet.etcd": self.etcd_section(name),
            "admin": {"listen": "127.0.0.1:0"},
            "application": [{"kind": "echo", "queues": [1]}],
        }
        return self.configure(name, sections)

    def start_gateway(self, name):
        self.configured(name)
        return self.gateway(name).serves()

    # ---- the operator's commands

    def order(self, *words, by="a1", user="operator", code=0):
        """`stoq-gateway fleet …` with the configuration of a gateway; gives what it printed."""
        command = [self.gateway_executable, "fleet", *words, "--config", self / f"{by}.toml"]
        command += ["--user", user, "--password-file", self.secret(user)] if user else []
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        ensure(done.returncode == code, f"{words}: status {done.returncode}\n{done.stdout}{done.stderr}")
        return done.stdout + done.stderr

    def rows(self):
        """What `fleet status` shows of each gateway, and the revision of the rotations."""
        shown = json.loads(self.order("status", "--json"))
        return {row["name"]: row for row in shown["gateways"]}, shown["keys_revision"]

    def all_go_by_the_rotations(self):
        rows, revision = self.rows()
        return all(row["keys"] == revision for row in rows.values())

    def ready(self, gateway):
        return self.health(f"http://{gateway.up['admin']}") == "ready"

    def address(self, gateway):
        return gateway.up["workers"][0]["local"][0]

    def pinging(self, name, gateway):
        """A ping that ends only with its connection."""
        trust = ["--node-id", self.ids[name], "--cert", self / "client.pem", "--key", self / "client.key"]
        command = [self.stoq_executable, "ping", "-c", "1000000", "-i", "0.05", "-g", self.address(gateway), *trust]
        with (self / f"ping-{name}.log").open("w") as log:
            ping = subprocess.Popen(command, stdout=log, stderr=log)
        self.stack.callback(ping.wait)
        self.stack.callback(ping.kill)
        return ping

    def pings(self, name):
        """The lines of a ping so far."""
        return (self / f"ping-{name}.log").read_text().count("\n")

    def goes_on(self, name, ping):
        """The ping has the connection that it had, and is answered."""
        before = self.pings(name)
        wait_until("the ping is answered", lambda: self.pings(name) > before + 3)
        ensure(ping.poll() is None, f"the ping has ended:\n{(self / f'ping-{name}.log').read_text()[-500:]}")

    def fleet(self, gateway):
        with urllib.request.urlopen(f"http://{gateway.up['admin']}/status", timeout=10) as answer:
            return json.load(answer)["fleet"]

    def alive(self, gateway):
        return sorted(row["name"] for row in self.fleet(gateway)["gateways"] if row["alive"])

    def weight(self, gateway, name):
        return next(row["weight"] for row in self.fleet(gateway)["gateways"] if row["name"] == name)

    def metric(self, gateway, name):
        with urllib.request.urlopen(f"http://{gateway.up['admin']}/metrics", timeout=10) as answer:
            lines = answer.read().decode().splitlines()
        return float(next(line.split()[1] for line in lines if line.startswith(f"{name} ")))

    def changes(self, gateways, weight):
        """The operator changes a weight, and all gateways have it."""
        self.put_gateway("a1", weight=weight)
        for gateway in gateways:
            wait_until("the change is taken", lambda g=gateway: self.weight(g, "a1") == weight, patience_s=30)


def join(fleet):
    say("a third gateway joins, once; a server ID twice is refused")
    fleet.configured("a3")
    words = ["join", "--name", "a3", "--zone", "lab", "--address", "127.0.0.1:4433"]
    refused = fleet.order(*words, by="a3", user=None, code=1)
    ensure("give --user and --password-file" in refused, refused)
    told = fleet.order(*words, by="a3")
    ensure("a3 is in the fleet with server ID 000003" in told, told)
    ensure("a3 is in the fleet already" in fleet.order(*words, by="a3"), "a second join changes nothing")
    fleet.configured("a4", server_id="000003")
    refused = fleet.order("join", "--name", "a4", "--address", "127.0.0.1:4434", by="a4", code=1)
    ensure(f"server ID 000003 is that of a3 ({fleet.ids['a3']})" in refused, refused)
    a3 = fleet.gateway("a3").serves()
    wait_until("all three are alive", lambda: all(row["alive"] for row in fleet.rows()[0].values()))
    found = fleet.order("check", user=None)
    ensure("ready" in found and "3 gateways, this one as a1" in found, found)
    found = fleet.order("check", by="a4", user="a3", code=1)
    ensure(f"readwrite {PREFIX}/alive/{fleet.ids['a4']}" in found, found)
    return a3


def drain(fleet, a2):
    say("a gateway is drained, keeps its connections, and is active again")
    ping = fleet.pinging("a2", a2)
    fleet.goes_on("a2", ping)
    fleet.order("drain", "a2")
    wait_until("it is not ready", lambda: not fleet.ready(a2))
    client = [fleet.stoq_executable, "ping", "-c", "1", "-g", fleet.address(a2), "--node-id", fleet.ids["a2"]]
    client += ["--cert", fleet / "client.pem", "--key", fleet / "client.key"]
    refused = subprocess.run(client, capture_output=True, text=True, check=False, timeout=60)
    ensure(refused.returncode != 0, f"a new connection is taken: {refused.stdout}")
    fleet.goes_on("a2", ping)
    ensure("a2 is out, and was drain" in fleet.order("out", "a2"), "a2 is out")
    fleet.order("active", "a2")
    wait_until("it is ready again", lambda: fleet.ready(a2))
    run(*client)
    fleet.goes_on("a2", ping)


def rotate(fleet, gateways):
    say("a rotation in three steps under a ping")
    a1 = gateways[0]
    ping = fleet.pinging("a1", a1)
    fleet.goes_on("a1", ping)
    wait_until("all go by the first", fleet.all_go_by_the_rotations)
    ensure("step 1 of 3: rotation 1 is accepted" in fleet.order("rotate-cid"), "the first step")
    refused = fleet.order("rotate-cid", "--force", code=1)
    ensure("not gone by revision" in refused, refused)
    wait_until("all accept the second", fleet.all_go_by_the_rotations)
    ensure("step 2 of 3: rotation 1 issues" in fleet.order("rotate-cid"), "the second step")
    wait_until("all issue by the second", fleet.all_go_by_the_rotations)
    refused = fleet.order("rotate-cid", code=1)
    ensure("rotation 0 issued until less than 1800 s ago" in refused, refused)
    fleet.goes_on("a1", ping)
    # Half an hour is not waited for: the directory says that they are over, and gateways that start anew know no former rotation.
    value = json.loads(fleet.etcdctl("get", "--print-value-only", f"{PREFIX}/fleet").stdout)
    fleet.put("fleet", {**value, "stepped_s": 1})
    for gateway in gateways:
        gateway.stop()
    gateways = [fleet.start_gateway(name) for name in ("a1", "a2", "a3")]
    wait_until("all go by both", fleet.all_go_by_the_rotations)
    told = fleet.order("rotate-cid")
    ensure("step 3 of 3: rotation 0 is removed, and 1 issues alone" in told, told)
    ping = fleet.pinging("a1", gateways[0])
    wait_until("all go by one", fleet.all_go_by_the_rotations)
    fleet.goes_on("a1", ping)
    return gateways


def script():
    with Fleet() as fleet:
        fleet.build()
        say("three members of etcd with TLS, users and roles")
        fleet.new_cluster()
        say("two gateways find each other")
        a1, a2 = fleet.start_gateway("a1"), fleet.start_gateway("a2")
        for gateway in (a1, a2):
            wait_until("both are alive", lambda g=gateway: fleet.alive(g) == ["a1", "a2"])
        for name, value in (("lease", 1), ("twin", 0), ("rotations", 1)):
            ensure(fleet.metric(a1, f"stoq_fleet_{name}") == value, f"stoq_fleet_{name} is not {value}")
        denied = fleet.etcdctl("put", f"{PREFIX}/fleet", "{}", user="a1:a1-secret", check=False)
        ensure("permission denied" in denied.stderr, f"a gateway's user may write the fleet's keys: {denied.stderr}")
        fleet.changes((a1, a2), 2.0)

        say("a table with a fault is refused and named")
        fleet.put_gateway("a2", server_id="000001")
        for gateway in (a1, a2):
            refused = wait_until("it is refused", lambda g=gateway: fleet.fleet(g)["directory"]["refused"])
            ensure("server_id 000001 is that of" in refused, refused)
            ensure(fleet.metric(gateway, "stoq_fleet_table_refused") == 1, "the metric says so")
        fleet.put_gateway("a2")
        fleet.changes((a1, a2), 3.0)
        ensure(fleet.fleet(a1)["directory"]["refused"] == "", "nothing is refused any more")

        say("the member that a gateway asks is killed")
        gone = fleet.fleet(a1)["directory"]["endpoint"]
        fleet.kill_member(gone)
        fleet.changes((a1, a2), 4.0)
        ensure(fleet.alive(a2) == ["a1", "a2"], "no lease has ended")
        fleet.start_member(gone)

        say("a gateway that ends is gone at once")
        a2.stop()
        wait_until("it is gone", lambda: fleet.alive(a1) == ["a1"], patience_s=9)
        a2 = fleet.start_gateway("a2")
        wait_until("it is back", lambda: fleet.alive(a1) == ["a1", "a2"])

        say("without quorum the table stays, and a gateway starts by its file")
        rest = [at for at in range(3) if at != gone]
        for at in rest:
            fleet.kill_member(at)
        wait_until("etcd does not answer", lambda: fleet.metric(a1, "stoq_fleet_directory_up") == 0)
        ensure(len(fleet.fleet(a1)["gateways"]) == 2, "the table is as it was")
        a2.kill()
        a2 = fleet.start_gateway("a2")
        shown = fleet.fleet(a2)
        ensure(shown["saved_s"] and len(shown["gateways"]) == 2 and not shown["directory"]["up"], f"{shown}")
        for at in rest:
            fleet.start_member(at)
        wait_until("both are alive", lambda: fleet.alive(a2) == ["a1", "a2"] == fleet.alive(a1))
        fleet.changes((a1, a2), 5.0)

        say("a cluster that was wiped is refused")
        revision = fleet.fleet(a1)["revision"]
        for at in range(3):
            fleet.kill_member(at)
            shutil.rmtree(fleet / f"e{at}")
        fleet.new_cluster()
        for gateway in (a1, a2):
            refused = wait_until("it is refused", lambda g=gateway: fleet.fleet(g)["directory"]["refused"])
            # Etcd makes a cluster's ID of the addresses of its members: it is the same, and the revision is not.
            ensure("the directory is at revision" in refused and "fleet adopt" in refused, refused)
            ensure(fleet.fleet(gateway)["revision"] == revision, "the table is as it was")
        held = fleet.etcdctl("get", "--prefix", f"{PREFIX}/alive/").stdout
        ensure(held == "", f"a gateway writes to a cluster that it refuses: {held}")
        say("until the operator adopts it")
        for name in ("a1", "a2"):
            run(fleet.gateway_executable, "fleet", "adopt", "--config", fleet / f"{name}.toml")
        for gateway in (a1, a2):
            wait_until("both are alive", lambda g=gateway: fleet.alive(g) == ["a1", "a2"])
        fleet.changes((a1, a2), 6.0)
        a3 = join(fleet)
        drain(fleet, a2)
        rotate(fleet, (a1, a2, a3))[0].stop()
        say("a fleet's directory in etcd: done")


main(script)
