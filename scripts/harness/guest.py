"""A virtual machine with one network device on a tap in a namespace: QEMU, Debian's kernel, and a root of the machine's own files."""

import contextlib
import re
import shutil
import socket
import subprocess
import time
from pathlib import Path

from harness import Failed, ensure, inside, wait_until
from harness.root import Root

#: How long a guest without KVM may take to start, seconds, and how often one is started: a start takes seconds, and one in many hangs in the emulator.
BOOT_S = 120
BOOTS_MAX = 3
DRIVERS = ("bus_pci", "bus_vdev", "mempool_ring", "net_af_xdp", "net_e1000", "net_virtio", "net_vmxnet3")
MODULES = ("vfio-pci", "vfio_iommu_type1", "uio_pci_generic", "9p", "9pnet_virtio", "virtio_pci", "virtio_net", "igb")
#: Given by their paths: the shell prefers its own.
#: The programs that net_af_xdp's library gives to the kernel.
XDP_PROGRAMS = "usr/lib/x86_64-linux-gnu/bpf"
PROGRAMS = ("/bin/bash", "/usr/sbin/ip", "/usr/sbin/ethtool", "/usr/bin/setpriv")
#: Mounts, and then runs each line that arrives on the second serial port; its output and its status go back.
INIT = """#!/bin/sh
export PATH=/bin:/sbin
mount -t proc proc /proc; mount -t sysfs sysfs /sys; mount -t devtmpfs dev /dev; mount -t tmpfs tmp /tmp; mount -t tmpfs run /run; mount -t bpf bpf /sys/fs/bpf; ln -s /run /var/run
modprobe virtio_pci; modprobe 9pnet_virtio; modprobe 9p; modprobe vfio_iommu_type1
mount -t 9p -o trans=virtio,version=9p2000.L,msize=131072 host /host
ip link set lo up
exec 3<>/dev/ttyS1
stty raw -echo <&3
echo GUEST-READY >/dev/ttyS0
while IFS= read -r line; do (eval "$line") </dev/null 2>&1; echo "__STATUS__$?__"; done <&3 >&3
"""


def make_root(scene, kernel):
    """The guest's first and only file system as an archive: busybox, the executables, DPDK's drivers, the kernel's modules."""
    root = Root(scene / "root", scene.gateway_executable, DRIVERS, PROGRAMS)
    (root.at / "host").mkdir()
    root.add_modules(kernel, MODULES)
    shutil.copytree(Path("/") / XDP_PROGRAMS, root.at / XDP_PROGRAMS)
    return root.pack(INIT, scene / "root.cpio")


def machine(kernel, archive, boot, nic, tap="", on_port=False, iommu=True):
    """QEMU's command for a machine with this device on the tap `tap0`; a device that is on a port can be pulled."""
    boot = f"console=ttyS0 quiet panic=-1 tsc=reliable no_timer_check random.trust_cpu=on mitigations=off {boot}"
    if iommu:
        boot += " intel_iommu=on iommu=pt"
    at = "bus=root1" if on_port else "bus=pcie.0,addr=0x8"
    return [
        *("qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
        *(
            "-machine",
            "q35,kernel-irqchip=split",
            "-accel",
            "tcg,thread=multi",
            # With AVX of QEMU 10.0.2 BLAKE3 ends in a segmentation fault at the end of a huge page, as if VINSERTF128 read 32 bytes in place of 16.
            "-cpu",
            "max,-avx,-avx2",
            "-smp",
            "3",
            "-m",
            "1536",
        ),
        *("-kernel", next((kernel / "boot").glob("vmlinuz-*")), "-initrd", archive, "-append", boot),
        *(("-device", "intel-iommu,intremap=on,caching-mode=on,aw-bits=48") if iommu else ()),
        *("-netdev", f"tap,id=cable,ifname=tap0,script=no,downscript=no{tap}"),
        *(("-device", "pcie-root-port,id=root1,bus=pcie.0,addr=0x8,chassis=1") if on_port else ()),
        *("-device", f"{nic},id=nic,netdev=cable,mac=52:54:00:00:00:01,{at}"),
    ]


class Guest:
    """A running guest, with its device on the tap `tap0` of a namespace, and a directory in which both sides see the same files. A device that is
    to be pulled, or to have virtual functions, is on a port of its own."""

    def __init__(self, scene, name, namespace, archive, kernel, device, tap="", on_port=False, iommu=True):
        self.scene, self.share = scene, scene / f"share-{name}"
        self.share.mkdir()
        self.console, self.shell_at, self.monitor_at = (
            scene / f"{name}.{what}" for what in ("console", "shell", "monitor")
        )
        command = [
            *machine(kernel, archive, "", device, tap, on_port, iommu),
            *("-serial", f"file:{self.console}", "-serial", f"unix:{self.shell_at},server=on,wait=off"),
            *("-monitor", f"unix:{self.monitor_at},server=on,wait=off"),
            *("-virtfs", f"local,path={self.share},mount_tag=host,security_model=none"),
        ]
        self.command, self.said = inside(namespace, *map(str, command)), scene / f"{name}.qemu"
        scene.stack.callback(self.end)
        for boot in range(1, BOOTS_MAX + 1):
            self.start()
            try:
                wait_until("the guest runs", self.is_up, patience_s=BOOT_S)
                break
            except Failed as failed:
                self.end()
                if boot == BOOTS_MAX:
                    raise
                print(f"{failed}; the guest is started again; its console:\n{self.shown()}", flush=True)
        self.shell = socket.socket(socket.AF_UNIX)
        self.shell.connect(str(self.shell_at))
        self.shell.settimeout(1)
        self.asked = 0

    def start(self):
        self.console.unlink(missing_ok=True)
        with self.said.open("w") as out:
            self.process = subprocess.Popen(self.command, stdout=out, stderr=out)

    def shown(self):
        """What the guest's console shows."""
        return self.console.read_text(errors="replace") if self.console.exists() else ""

    def is_up(self):
        """Whether the guest's shell can be asked."""
        ensure(self.process.poll() is None, f"QEMU ended:\n{self.said.read_text()}")
        return self.console.exists() and b"GUEST-READY" in self.console.read_bytes()

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
