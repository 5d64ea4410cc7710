"""Members of a real etcd with TLS, users and roles, and a fleet's keys there."""

import json
import os
import subprocess
from dataclasses import dataclass

from harness import Scene, run, wait_until

PREFIX = "/stoq/1/lab"
SALT = "000102030405060708090a0b0c0d0e0f"
FIRST_ROTATION = {"rotations": [{"number": 0, "salt": SALT, "state": "issue"}]}
QUIET = {"stderr": subprocess.DEVNULL}


@dataclass
class EtcdPlace:
    """Where a member runs; `within` is put before its command."""

    address: str
    client_port: int = 2379
    peer_port: int = 2380
    within: tuple = ()

    @property
    def url(self):
        return f"https://{self.address}:{self.client_port}"

    @property
    def peer(self):
        return f"http://{self.address}:{self.peer_port}"


class EtcdMembers(Scene):
    """A scene with a cluster, whose `places` are set before anything else is done with it."""

    def __init__(self, *name):
        super().__init__(*name)
        self.members, self.places, self.operator_within = {}, [], ()

    def key_file(self):
        """The key that all gateways of the fleet have."""
        (self / "fleet.key").touch(0o600)
        (self / "fleet.key").write_bytes(os.urandom(32))

    def certificates(self):
        """An authority, a certificate for etcd's members, and one for the gateways: etcd refuses a name of a user in that."""
        curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
        made = ["-keyout", self / "ca.key", "-out", self / "ca.pem"]
        run("openssl", "req", "-x509", *curve, "-days", "2", *made, "-subj", "/CN=lab", **QUIET)
        addresses = ",".join(f"IP:{address}" for address in sorted({place.address for place in self.places}))
        for name, subject in (("etcd", "/CN=etcd"), ("gateway-etcd", "/O=lab")):
            usages, wanted = self / f"{name}.usages", self / f"{name}.csr"
            usages.write_text(f"subjectAltName={addresses}\nextendedKeyUsage=serverAuth,clientAuth\n")
            run("openssl", "req", *curve, "-keyout", self / f"{name}.key", "-out", wanted, "-subj", subject, **QUIET)
            by = ["-CA", self / "ca.pem", "-CAkey", self / "ca.key", "-CAcreateserial", "-extfile", usages]
            run("openssl", "x509", "-req", "-days", "2", "-in", wanted, "-out", self / f"{name}.pem", *by, **QUIET)

    def start_member(self, at, state="existing"):
        place = self.places[at]
        cluster = ",".join(f"e{each}={other.peer}" for each, other in enumerate(self.places))
        tls = ["--client-cert-auth", "--trusted-ca-file", self / "ca.pem"]
        tls += ["--cert-file", self / "etcd.pem", "--key-file", self / "etcd.key"]
        urls = ["--listen-client-urls", place.url, "--advertise-client-urls", place.url]
        urls += ["--listen-peer-urls", place.peer, "--initial-advertise-peer-urls", place.peer]
        command = [*place.within, "etcd", "--name", f"e{at}", "--data-dir", self / f"e{at}", *urls, *tls]
        command += ["--initial-cluster", cluster, "--initial-cluster-state", state]
        with (self / f"e{at}.log").open("a") as log:
            self.members[at] = subprocess.Popen(command, stdout=log, stderr=log)
        self.stack.callback(self.kill_member, at)

    def kill_member(self, at):
        self.members[at].kill()
        self.members[at].wait()

    def start_members(self):
        """A new cluster."""
        for at in range(len(self.places)):
            self.start_member(at, "new")
        wait_until("etcd has a leader", lambda: self.etcdctl("get", "x", user=None, check=False).returncode == 0)

    def etcdctl(self, *words, user="root:root", check=True):
        endpoints = ",".join(place.url for place in self.places)
        tls = ["--cacert", self / "ca.pem", "--cert", self / "etcd.pem", "--key", self / "etcd.key"]
        who = ["--user", user] if user else []
        command = [*self.operator_within, "etcdctl", "--endpoints", endpoints, *tls, *who, "--command-timeout", "5s"]
        env = {**os.environ, "ETCDCTL_API": "3"}
        return subprocess.run([*command, *words], env=env, capture_output=True, text=True, check=check)

    def make_users(self, *gateways):
        """Users and roles as docs/fleet.md has them."""
        words = ["user add root:root", "user grant-role root root"]
        words += ["role add operator", "user add operator:operator-secret", "user grant-role operator operator"]
        words += [f"role grant-permission operator --prefix=true readwrite {PREFIX}/"]
        for name in gateways:
            words += [f"role add {name}", f"user add {name}:{name}-secret", f"user grant-role {name} {name}"]
            words += [f"role grant-permission {name} --prefix=true read {PREFIX}/"]
            words += [f"role grant-permission {name} readwrite {PREFIX}/alive/{self.ids[name]}"]
        for each in [*words, "auth enable"]:
            if each != "user grant-role root root":
                self.etcdctl(*each.split(), user=None)
            else:
                self.etcdctl("role", "add", "root", user=None, check=False)
                self.etcdctl(*each.split(), user=None)

    def put(self, key, value, **more):
        return self.etcdctl("put", f"{PREFIX}/{key}", json.dumps({"v": 1, **value}), **more)

    # ---- what gateways and operators have of it

    def secret(self, name):
        """The file with the password of a user of etcd."""
        (self / f"{name}.pw").touch(0o600)
        (self / f"{name}.pw").write_text(f"{name}-secret\n")
        return self / f"{name}.pw"

    def etcd_section(self, name):
        """`[fleet.etcd]` of a gateway."""
        files = {"ca": "ca.pem", "certificate": "gateway-etcd.pem", "key": "gateway-etcd.key"}
        who = {"user": name, "password_file": self.secret(name).name}
        return {"endpoints": [place.url for place in self.places], **files, **who}
