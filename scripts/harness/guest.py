"""A virtual machine with one network device on a tap in a namespace: QEMU, Debian's kernel, and a root of the machine's own files."""

import contextlib
import os
import re
import shutil
import socket
import subprocess
import time
from pathlib import Path

from harness import Failed, ensure, inside, run, wait_until

#: How long a guest without KVM may take to start, seconds.
BOOT_S = 180
LIBRARIES = Path("/usr/lib/x86_64-linux-gnu")
DRIVERS = ("bus_pci", "bus_vdev", "mempool_ring", "net_e1000", "net_virtio", "net_vmxnet3")
MODULES = ("vfio-pci", "vfio_iommu_type1", "9p", "9pnet_virtio", "virtio_pci", "igb")
#: Given by their paths: the shell prefers its own.
PROGRAMS = ("/bin/bash", "/usr/sbin/ip")
#: Mounts, and then runs each line that arrives on the second serial port; its output and its status go back.
INIT = """#!/bin/sh
export PATH=/bin:/sbin
mount -t proc proc /proc; mount -t sysfs sysfs /sys; mount -t devtmpfs dev /dev; mount -t tmpfs tmp /tmp; mount -t tmpfs run /run; ln -s /run /var/run
modprobe virtio_pci; modprobe 9pnet_virtio; modprobe 9p; modprobe vfio_iommu_type1
mount -t 9p -o trans=virtio,version=9p2000.L,msize=131072 host /host
ip link set lo up
stty -F /dev/ttyS1 raw -echo
echo GUEST-READY >/dev/ttyS0
while IFS= read -r line; do (eval "$line") </dev/null 2>&1; echo "__STATUS__$?__"; done </dev/ttyS1 >/dev/ttyS1
"""


def needed_by(files):
    """The libraries that these need, as the loader finds them."""
    said = subprocess.run(
        ["ldd", *files], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=False
    ).stdout
    return {Path(found) for found in re.findall(r"(?:=> |^\t)(/\S+)", said, re.MULTILINE)}


def make_root(scene, kernel):
    """The guest's first and only file system as an archive: busybox, the executables, DPDK's drivers, the kernel's modules."""
    root, plugins = scene / "root", "dpdk/pmds-23.0"
    for each in ("proc", "sys", "dev", "tmp", "run", "host", "etc", "var", "usr/bin", "usr/lib", "usr/lib64"):
        (root / each).mkdir(parents=True)
    for link, place in (("bin", "usr/bin"), ("sbin", "usr/bin"), ("lib", "usr/lib"), ("lib64", "usr/lib64")):
        (root / link).symlink_to(place)
    programs = [Path(program) for program in PROGRAMS]
    shutil.copy("/bin/busybox", root / "bin/busybox")
    for applet in run("/bin/busybox", "--list").split():
        if applet != "busybox" and applet not in {program.name for program in programs}:
            (root / "bin" / applet).symlink_to("busybox")
    for program in programs:
        shutil.copy(program, root / "bin" / program.name)
    run("strip", "-o", root / "bin/stoq-gateway", scene.gateway_executable)
    for script in ("bind-nic.sh", "hugepages.sh"):
        shutil.copy(Path("scripts") / script, root / "bin" / script)
    # The drivers and DPDK's other libraries keep their links: EAL must see each driver as one file.
    drivers = [LIBRARIES / plugins / f"librte_{driver}.so.23" for driver in DRIVERS]
    libraries = needed_by([*programs, scene.gateway_executable, *drivers])
    plugged = {f"{each.name}.0" for each in drivers}
    plugged |= {each.resolve().name for each in libraries if each.resolve().parent.name == "pmds-23.0"}
    (root / "usr/lib/x86_64-linux-gnu" / plugins).mkdir(parents=True)
    within = root / "usr/lib/x86_64-linux-gnu"
    for name in plugged:
        shutil.copy(LIBRARIES / plugins / name, within / plugins / name)
        (within / plugins / name.removesuffix(".0")).symlink_to(name)
        for link in (name, name.removesuffix(".0")):
            (within / link).symlink_to(f"{plugins}/{link}")
    for library in libraries:
        to = root / str(library).lstrip("/")
        to.parent.mkdir(parents=True, exist_ok=True)
        if not os.path.lexists(to):
            shutil.copy(library, to)
    version = next((kernel / "lib/modules").iterdir()).name
    modules = root / "lib/modules" / version
    modules.mkdir(parents=True)
    run("depmod", "-b", kernel, version)
    for index in (kernel / "lib/modules" / version).glob("modules.[bo]*"):
        shutil.copy(index, modules)
    for module in MODULES:
        for line in run("modprobe", "-d", kernel, "-S", version, "--show-depends", module).splitlines():
            if line.startswith("insmod"):
                source = Path(line.split()[1])
                to = root / "lib/modules" / str(source).split("/lib/modules/")[1]
                to.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(source, to)
    run("depmod", "-b", root, version)
    (root / "init").write_text(INIT)
    (root / "init").chmod(0o755)
    archive = scene / "root.cpio"
    run("sh", "-c", f"cd {root} && find . | cpio -o -H newc --quiet >{archive}")
    return archive


class Guest:
    """A running guest, with its device on the tap `tap0` of a namespace, and a directory in which both sides see the same files. A device that is
    to be pulled, or to have virtual functions, is on a port of its own."""

    def __init__(self, scene, name, namespace, archive, kernel, device, tap="", on_port=False):
        self.scene, self.share = scene, scene / f"share-{name}"
        self.share.mkdir()
        self.console, self.shell_at, self.monitor_at = (
            scene / f"{name}.{what}" for what in ("console", "shell", "monitor")
        )
        boot = "console=ttyS0 quiet panic=-1 tsc=reliable no_timer_check random.trust_cpu=on mitigations=off intel_iommu=on iommu=pt"
        command = [
            *("qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
            *(
                "-machine",
                "q35,kernel-irqchip=split",
                "-accel",
                "tcg,thread=multi",
                "-cpu",
                "max",
                "-smp",
                "3",
                "-m",
                "1536",
            ),
            *("-kernel", next((kernel / "boot").glob("vmlinuz-*")), "-initrd", archive, "-append", boot),
            *("-serial", f"file:{self.console}", "-serial", f"unix:{self.shell_at},server=on,wait=off"),
            *("-monitor", f"unix:{self.monitor_at},server=on,wait=off"),
            *("-virtfs", f"local,path={self.share},mount_tag=host,security_model=none"),
            *("-device", "intel-iommu,intremap=on,caching-mode=on,aw-bits=48"),
            *("-netdev", f"tap,id=cable,ifname=tap0,script=no,downscript=no{tap}"),
            *(("-device", "pcie-root-port,id=root1,bus=pcie.0,addr=0x8,chassis=1") if on_port else ()),
            *(
                "-device",
                f"{device},id=nic,netdev=cable,mac=52:54:00:00:00:01,{'bus=root1' if on_port else 'bus=pcie.0,addr=0x8'}",
            ),
        ]
        said = scene / f"{name}.qemu"
        with said.open("w") as out:
            self.process = subprocess.Popen(inside(namespace, *map(str, command)), stdout=out, stderr=out)
        scene.stack.callback(self.end)

        def is_up():
            ensure(self.process.poll() is None, f"QEMU ended:\n{said.read_text()}")
            return b"GUEST-READY" in self.console.read_bytes()

        wait_until("the guest runs", is_up, patience_s=BOOT_S)
        self.shell = socket.socket(socket.AF_UNIX)
        self.shell.connect(str(self.shell_at))
        self.shell.settimeout(1)
        self.asked = 0

    def try_line(self, line, patience_s=60):
        """Runs a line in the guest's shell; gives its status and its output."""
        self.asked += 1
        mark = f"__LINE{self.asked}__"
        self.shell.sendall(f"echo {mark}; {line}\n".encode())
        data, until = b"", time.monotonic() + patience_s
        while time.monotonic() < until:
            with contextlib.suppress(TimeoutError):
                data += self.shell.recv(65536)
            answer = re.search(rb"%s\r?\n(.*)__STATUS__(\d+)__" % mark.encode(), data, re.DOTALL)
            if answer:
                return int(answer[2]), answer[1].decode(errors="replace").strip()
        raise Failed(f"the guest has not answered {line} within {patience_s} s: {data.decode(errors='replace')}")

    def line(self, line, patience_s=60):
        """Runs a line that must not fail; gives its output."""
        status, said = self.try_line(line, patience_s)
        ensure(status == 0, f"in the guest, `{line}` failed with status {status}: {said}")
        return said

    def monitor(self, command):
        """Has QEMU's monitor do something."""
        with socket.socket(socket.AF_UNIX) as monitor:
            monitor.connect(str(self.monitor_at))
            monitor.settimeout(10)
            data = b""
            while b"(qemu)" not in data:
                data += monitor.recv(4096)
            monitor.sendall(f"{command}\n".encode())
            data = b""
            while b"\n(qemu)" not in data.replace(b"\r", b""):
                data += monitor.recv(4096)

    def end(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
