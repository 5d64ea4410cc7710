"""What scripts/container-test.sh runs, once it has looked at the machine."""

import os
import re
import subprocess
from pathlib import Path

from harness import (
    AF_PACKET,
    Gateway,
    Scene,
    cable,
    dpdk,
    ensure,
    inside,
    main,
    random_file,
    run,
    same,
    say,
    seed,
    wait_until,
)

#: The image's user, which is none of this machine's.
USER = 10001
MEMIF = "net_memif0,id=0,socket={},socket-abstract=no,rsize=8,role={}"
#: What every gateway is run with: a read-only image, and no capability but those that follow. SYS_NICE is none that the gateway gets: its file does not
#: carry it. The engine's system call filter lets DPDK ask where its memory lies only where that is named.
COMMON = ["--health-interval", "500ms", "--read-only", "--cap-drop", "ALL", "--cap-add", "SYS_NICE", "--tmpfs", "/tmp"]


class Containers(Scene):
    """A Docker engine of its own, which meets no other."""

    def __init__(self):
        super().__init__("container")

    def docker(self, *arguments):
        """A command to the engine; the client is that of Debian's package, whatever else bears its name."""
        return ["/usr/bin/docker", "--host", f"unix://{self / 'docker.sock'}", *arguments]

    def asked(self, *arguments):
        return run(*self.docker(*arguments)).strip()

    def of(self, container, field):
        """A field of what the engine knows of a container."""
        return self.asked("inspect", container, "--format", "{{" + field + "}}")

    def start_engine(self):
        say("a Docker engine of its own")
        # Neither bridges nor rules of the machine's firewall: builds use the host's network, containers what is put into them.
        at = ["--data-root", self / "data", "--exec-root", self / "exec", "--pidfile", self / "docker.pid"]
        alone = ["--bridge=none", "--iptables=false", "--ip6tables=false", "--host", f"unix://{self / 'docker.sock'}"]
        log = self / "docker.log"
        # It leaves the namespace of its host network mounted.
        self.stack.callback(lambda: [subprocess.run(["umount", left], check=False) for left in self.mounted()])
        with log.open("w") as out:
            engine = subprocess.Popen(["dockerd", *at, *alone], stdout=out, stderr=out)
        self.stack.callback(engine.wait)
        self.stack.callback(engine.terminate)
        self.stack.callback(self.remove_containers)

        def answers():
            ensure(engine.poll() is None, f"the Docker engine ended:\n{log.read_text()}")
            return subprocess.run(self.docker("version"), capture_output=True, check=False).returncode == 0

        wait_until("the Docker engine answers", answers)

    def mounted(self):
        return list((self / "exec/netns").glob("*"))

    def remove_containers(self):
        # An engine that has ended has none.
        left = subprocess.run(self.docker("ps", "-aq"), capture_output=True, text=True, check=False).stdout.split()
        if left:
            self.asked("rm", "-f", *left)

    def image(self, *options):
        environment = {**os.environ, "DOCKER_BUILDKIT": "0"}
        command = self.docker("build", "--network", "host", *options)
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        ensure(done.returncode == 0, f"the image was not built:\n{done.stdout[-3000:]}{done.stderr}")

    def build(self):
        base = Path(os.environ.get("STOQ_BASE") or self / "base.tar")
        run("bash", "-c", '. scripts/lib.sh; debian_base "$1"', "-", base)
        say("the image")
        self.asked("import", base, "debian-base")
        binaries = self / "context/bin"
        binaries.mkdir(parents=True)
        for program in "stoq", "stoq-gateway", "stoq-pktgen":
            run("install", "--strip", self.built / program, binaries)
        self.image("--target", "base", "--build-arg", "BASE_IMAGE=debian-base", "--tag", "stoq-base", ".")
        prebuilt = ["--file", "packaging/Dockerfile.prebuilt", self / "context"]
        self.image("--build-arg", "BASE_IMAGE=stoq-base", "--tag", "stoq", *prebuilt)
        said = "image: user {{.Config.User}}, entry {{.Config.Entrypoint}}, {{.Size}} bytes"
        print(self.asked("image", "inspect", "stoq", "--format", said), flush=True)
        user = self.asked("image", "inspect", "stoq", "--format", "{{.Config.User}}")
        ensure(user == f"{USER}:{USER}", f"the image's user is {user}, not the ordinary one")

    def describe(self, device, address):
        """Writes the gateway's configuration, with all that the container's user reads and writes; the memif socket lies in run."""
        self.configure(
            "etc/gateway",
            {
                "network": dpdk(device, address, huge_pages="required"),
                "admin": {"listen": "127.0.0.1:9464"},
                **self.who("gateway", "client"),
                "application": [seed("/var/lib/stoq", memory_bytes=128 << 20)],
            },
        )
        run("chown", "-R", f"{USER}:{USER}", self / "etc", self / "store", self / "run")

    def start(self, name, *options):
        """Starts the gateway in a container; the engine must find it healthy, by asking it, and it must be an ordinary user in huge pages."""
        places = {"etc": "/etc/stoq:ro", "store": "/var/lib/stoq", "run": "/run/stoq"}
        volumes = [word for place, at in places.items() for word in ("--volume", f"{self / place}:{at}")]
        within = self.docker("run", "--name", name, *COMMON, *volumes, *options)
        gateway = Gateway("stoq", "/etc/stoq/gateway.toml", self / f"{name}.log", within)
        self.stack.callback(gateway.kill)
        gateway.serves()
        wait_until(f"{name} is healthy", lambda: self.of(name, ".State.Health.Status") == "healthy")
        ensure(gateway.up["huge_pages"], f"no huge pages in {name}: {gateway.up}")
        ensure(self.of(name, ".HostConfig.Privileged") == "false", f"{name} is privileged")
        status = Path(f"/proc/{self.of(name, '.State.Pid')}/status").read_text()
        ensure(re.search(rf"^Uid:\s+{USER}\s+{USER}\s", status, re.MULTILINE), f"{name} is another user:\n{status}")
        gateway.capabilities = re.search(r"^CapEff:\s+(\w+)", status, re.MULTILINE)[1]
        print(f"{name}: user {USER}, capabilities {gateway.capabilities}, huge pages", flush=True)
        return gateway

    def health(self, name, *options):
        """What the gateway in a container says of its health: an empty text where it is ready."""
        command = self.docker("exec", name, "stoq-gateway", "health", *options)
        said = subprocess.run(command, capture_output=True, text=True, check=False)
        return said.stderr if said.returncode else ""


def over_memif(it, file):
    say("memif: the gateway in a container without a network and without capabilities")
    it.describe(MEMIF.format("/run/stoq/memif.sock", "server"), "10.79.0.1/24")
    gateway = it.start("memif", "--network", "none", "--security-opt", "no-new-privileges")
    ensure(int(gateway.capabilities, 16) == 0, "the gateway has capabilities that were not given to it")
    # It lives, and is not ready: a memif link is up only while a client is there.
    ensure("not ready: " in it.health("memif"), "ready without a link")
    it.configure(
        "client",
        {
            "connect": "10.79.0.1:4433",
            "network": dpdk(MEMIF.format(it / "run/memif.sock", "client"), "10.79.0.2/24"),
            **it.who("client", "gateway"),
            "quic": {"initial_udp_payload_bytes": 0, "mtu_discovery": False},
            "log": {"level": "warn"},
        },
    )
    configured = ["--config", it / "client.toml"]
    token = run(it.stoq_executable, "put", file, *configured).strip()
    run(it.stoq_executable, "get", token, "-o", it / "got-memif", *configured)
    same(file, it / "got-memif")
    ensure(it.health("memif", "--url", "http://127.0.0.1:1/readyz"), "ready where no gateway answers")
    gateway.stop()


def over_af_packet(it, file):
    say("net_af_packet: the gateway in a container with one end of a cable, the client on kernel sockets at the other")
    place, near, far = it.namespace(""), it.interface("n"), it.interface("f")
    cable(near, far, None, place)
    run("ip", "-n", place, "addr", "add", "10.79.1.2/24", "dev", far)
    # A container that only holds the network, as a pod's does: the cable must be there before the gateway starts.
    holds = ["--name", "network", "--network", "none", "--no-healthcheck", "--entrypoint", "sleep"]
    it.asked("run", "--detach", *holds, "stoq", "infinity")
    network = it.of("network", ".State.Pid")
    run("ip", "link", "set", near, "netns", network, "name", "port0")
    run("nsenter", "--target", network, "--net", "ip", "link", "set", "port0", "up")
    it.describe(AF_PACKET.format("port0"), "10.79.1.1/24")
    gateway = it.start("af-packet", "--network", "container:network", "--cap-add", "NET_RAW", "--cap-add", "NET_ADMIN")
    wait_until("the gateway is ready", lambda: not it.health("af-packet"))
    client = it.client("gateway", inside(place))
    # Bytes of its own: what is kept already would not cross again.
    with file.open("ab") as more:
        more.write(os.urandom(65536))
    token = client("put", "10.79.1.1:4433", file)
    client("get", "10.79.1.1:4433", token, "-o", it / "got-af-packet")
    same(file, it / "got-af-packet")
    gateway.stop()


def containers():
    with Containers() as it:
        it.start_engine()
        it.build()
        for name in "etc", "store", "run":
            (it / name).mkdir()
        it.identities("gateway", "client")
        for name in "gateway.pem", "gateway.key":
            (it / name).rename(it / "etc" / name)
        file = random_file(it / "file", 64 << 20)
        over_memif(it, file)
        over_af_packet(it, file)
        size = file.stat().st_size
    say(f"{size} bytes went into a container and came back the same, through memif and through net_af_packet")


main(containers)
