"""Networks, gateways and clients for whatever shows, tests or measures STOQ with its executables.

A `Scene` holds what a script makes, and removes it when the script ends, however that comes about. Processes say that they are ready by
an event, one JSON object a line on their standard output (`stoq-gateway run --json`): nothing here waits for the words of a log.
"""

import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

#: How long what must happen may take, seconds: a hang ends, a busy machine does not fail.
PATIENCE_S = 180

AF_PACKET = "net_af_packet0,iface={},blocksz=65536,framesz=2048,framecnt=2048,qdisc_bypass=1"
AF_XDP = "net_af_xdp0,iface={}"

ECHO = {"kind": "echo", "queues": [1]}
DISCARD = {"kind": "discard", "queues": [2]}


class Failed(Exception):
    """What ends a script, in a sentence."""


def ensure(holds, text):
    if not holds:
        raise Failed(text)


def say(text):
    clock = os.environ.get("STOQ_CLOCK")
    since = f"[{int(time.time()) - int(clock)} s] " if clock else ""
    print(f"\033[1m== {since}{text}\033[0m", file=sys.stderr, flush=True)


def main(script):
    """Runs a script; its end by a signal or by `Failed` removes what it has made."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        script()
    except Failed as failed:
        sys.exit(f"stoq: {failed}")
    except subprocess.CalledProcessError as failed:
        # What it said on standard error has been seen.
        sys.exit(f"stoq: this failed with status {failed.returncode}: {' '.join(map(str, failed.cmd))}")
    except KeyboardInterrupt:
        sys.exit(130)


def run(*command, **options):
    """Runs a command that must not fail; gives its standard output."""
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, **options).stdout


def wait_until(what, is_so, every_s=0.1, patience_s=PATIENCE_S):
    """Looks again and again until it is so; gives what `is_so` gave. An OSError is a no."""
    until = time.monotonic() + patience_s
    while True:
        with contextlib.suppress(OSError):
            if found := is_so():
                return found
        ensure(time.monotonic() < until, f"not within {patience_s} s: {what}")
        time.sleep(every_s)


# ---- configuration


def toml(sections):
    """A configuration as text: plain values first, then a section for each dict, and one for each dict of a list. None leaves a key out."""
    plain, tables = [], []
    for key, value in sections.items():
        if value is None:
            continue
        if isinstance(value, dict):
            tables.append(f"[{key}]\n{toml(value)}")
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            tables += [f"[[{key}]]\n{toml(each)}" for each in value]
        else:
            # Strings, numbers, booleans and lists of JSON are those of TOML.
            plain.append(f"{key} = {json.dumps(value)}\n")
    return "".join(plain + tables)


def dpdk(device, *addresses, **more):
    return {"kind": "dpdk", "device": device, "addresses": list(addresses), **more}


def kernel(listen, **more):
    return {"kind": "kernel-udp", "listen": [listen], **more}


def seed(directory="store", **more):
    return {"kind": "seed", "queues": [0], "directory": directory, **more}


# ---- processes


class Telling:
    """A process that tells events; what it logs goes to a file. Killed when its scene ends."""

    def __init__(self, command, log):
        self.log = Path(log)
        with self.log.open("w") as stderr:
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr)
        self.unread = b""

    def event(self, kind, patience_s=PATIENCE_S):
        """Waits for the next event, which must be of this kind."""
        until = time.monotonic() + patience_s
        while b"\n" not in self.unread:
            ready = select.select([self.process.stdout], [], [], max(0, until - time.monotonic()))[0]
            read = os.read(self.process.stdout.fileno(), 65536) if ready else b""
            if not read:
                how = "ended without" if ready else "has not told within its time"
                raise Failed(f"{self.process.args[0]} {how} the event {kind}:\n{self.log.read_text()}")
            self.unread += read
        line, self.unread = self.unread.split(b"\n", 1)
        event = json.loads(line)
        ensure(event["event"] == kind, f"not the event {kind}: {event}")
        return event

    def end(self, kind, by=signal.SIGTERM, patience_s=PATIENCE_S):
        """Ends it in order; gives its last event."""
        self.process.send_signal(by)
        event = self.event(kind, patience_s)
        try:
            status = self.process.wait(patience_s)
        except subprocess.TimeoutExpired:
            raise Failed(f"{self.process.args[0]} does not end:\n{self.log.read_text()}") from None
        ensure(status == 0, f"{self.process.args[0]} did not end in order: status {status}\n{self.log.read_text()}")
        return event

    def kill(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.process.stdout.close()


class Gateway(Telling):
    """A gateway, from its start on; `up` is what it told when it served."""

    def __init__(self, executable, config, log, within=()):
        super().__init__([*within, executable, "run", "--json", "--config", config], log)
        self.up = None

    def serves(self, patience_s=PATIENCE_S):
        """Waits until it does."""
        self.up = self.event("up", patience_s)
        return self

    def stop(self, patience_s=PATIENCE_S):
        """Ends it; gives what each worker counted."""
        return self.end("ended", patience_s=patience_s)["workers"]


class Scene:
    """A directory, namespaces and processes, gone when the script is over. Names bear its process ID, so that two do not meet."""

    def __init__(self, name, at=None):
        self.name, self.at = f"stoq-{name}-{os.getpid()}", at
        self.stack = contextlib.ExitStack()
        self.built = Path(os.environ["STOQ_BUILT"]).resolve()
        self.ids = {}

    def __enter__(self):
        self.directory = self.new_directory(self.at)
        return self

    def __exit__(self, *_):
        self.stack.close()

    def __truediv__(self, name):
        return self.directory / name

    @contextlib.contextmanager
    def scope(self):
        """What is made within it is removed at its end."""
        outer, self.stack = self.stack, contextlib.ExitStack()
        try:
            with self.stack:
                yield
        finally:
            self.stack = outer

    def new_directory(self, at=None):
        """A directory of its own, in `at` or where temporary files are."""
        made = Path(tempfile.mkdtemp(prefix=f"{self.name}.", dir=at))
        self.stack.callback(shutil.rmtree, made, ignore_errors=True)
        return made

    @property
    def stoq_executable(self):
        return self.built / "stoq"

    @property
    def gateway_executable(self):
        return self.built / "stoq-gateway"

    # ---- networks

    def namespace(self, name, ipv6=True):
        """A network namespace; what hangs on it goes with it. Without IPv6 its interfaces send nothing by themselves."""
        full = f"{self.name}-{name}" if name else self.name
        run("ip", "netns", "add", full)
        self.stack.callback(subprocess.run, ["ip", "netns", "delete", full], check=False)
        if not ipv6:
            run(*inside(full), "sh", "-c", "echo 1 >/proc/sys/net/ipv6/conf/all/disable_ipv6")
        run("ip", "-n", full, "link", "set", "lo", "up")
        return full

    def interface(self, name):
        """The name of an interface of this machine, which is removed if it is there in the end."""
        full = f"st{name}{os.getpid()}"
        gone = {"check": False, "stderr": subprocess.DEVNULL}
        self.stack.callback(subprocess.run, ["ip", "link", "delete", full], **gone)
        return full

    # ---- identities

    def identities(self, *names, algorithm=None):
        for name in names:
            made = ["--cert", self / f"{name}.pem", "--key", self / f"{name}.key"]
            made += ["--algorithm", algorithm] if algorithm else []
            self.ids[name] = run(self.stoq_executable, "identity", "new", "--name", name, *made).strip()

    def who(self, name, *trusted):
        """The sections by which one shows itself, with files beside its configuration, and trusts these."""
        return {
            "identity": {"certificate": f"{name}.pem", "key": f"{name}.key"},
            "trust": {"node_ids": [self.ids[each] for each in trusted]},
        }

    def configure(self, name, sections):
        """Writes a configuration; gives its path."""
        path = self / f"{name}.toml"
        path.write_text(toml(sections))
        return path

    # ---- processes

    def gateway(self, name, within=()):
        """Starts the gateway of a configuration."""
        started = Gateway(self.gateway_executable, self / f"{name}.toml", self / f"{name}.log", within)
        self.stack.callback(started.kill)
        return started

    def recorder(self, file, *options):
        """Starts a capture into a file; gives it once frames are taken."""
        command = [
            self.gateway_executable,
            "capture",
            "--json",
            "--socket",
            self / "capture.sock",
            "-o",
            file,
            *options,
        ]
        started = Telling(command, self / "recorder.log")
        self.stack.callback(started.kill)
        started.event("recording")
        return started

    def health(self, url):
        """What a gateway says of its health: `ready`, or why not."""
        asked = [self.gateway_executable, "health", "--url", f"{url}/readyz"]
        said = subprocess.run(asked, capture_output=True, text=True, check=False)
        return "ready" if said.returncode == 0 else said.stderr

    def client(self, gateway, within=(), show=True):
        """The client `client`, which trusts `gateway`, as a function: client(TOOL, GATEWAY-ADDRESS, ARGUMENT…) gives what it printed."""
        trust = ["--node-id", self.ids[gateway], "--cert", self / "client.pem", "--key", self / "client.key"]

        def client(tool, address, *arguments):
            said = run(*within, self.stoq_executable, tool, *arguments, "-g", address, *trust)
            if show:
                print(said, end="", flush=True)
            return said.strip()

        return client


def inside(namespace, *command):
    """A command as it runs in a namespace."""
    return ["ip", "netns", "exec", namespace, *command]


#: The kernel leaves checksums and segmentation to the NIC behind a veth; a user-space port needs both done.
ON_THE_CABLE = [word for what in ("tx-udp-segmentation", "tx", "rx", "tso", "gso", "gro") for word in (what, "off")]


def cable(near, far, near_namespace=None, far_namespace=None, features=ON_THE_CABLE):
    """A veth pair with both ends up, and with these features of ethtool."""
    ends = [(near, near_namespace), (far, far_namespace)]
    place = ["netns", far_namespace] if far_namespace else []
    first = ["-n", near_namespace] if near_namespace else []
    run("ip", *first, "link", "add", near, "type", "veth", "peer", "name", far, *place)
    for end, namespace in ends:
        within = inside(namespace) if namespace else []
        run(*within, "ethtool", "-K", end, *features)
        run(*within, "ip", "link", "set", end, "up")


def random_file(path, size):
    """A file of random bytes."""
    with path.open("wb") as file:
        while size > 0:
            file.write(os.urandom(min(size, 1 << 20)))
            size -= 1 << 20
    return path


def same(one, other):
    ensure(subprocess.run(["cmp", one, other], check=False).returncode == 0, "what came back is not what was put")
