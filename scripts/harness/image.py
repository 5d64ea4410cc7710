"""What scripts/image.sh makes, and what scripts/image-test.sh boots."""

import base64
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from harness import Scene, dpdk, ensure, inside, main, random_file, run, same, say, seed, toml, wait_until
from harness.guest import BOOT_S, machine
from harness.root import LIBRARIES, PLUGINS, Root

#: DPDK's drivers of NICs, without those of accelerators and of NICs that a kernel's driver shares; and memif's and the kernel's sockets.
NICS = ("bnxt", "e1000", "ena", "i40e", "iavf", "ice", "igc", "ixgbe", "virtio", "vmxnet3")
DRIVERS = ("bus_pci", "bus_vdev", "mempool_ring", *(f"net_{nic}" for nic in NICS))
#: Devices of DPDK, disks, and their file systems. The kernel has no driver of a NIC.
MODULES = (
    *("vfio-pci", "vfio_iommu_type1", "uio_pci_generic"),
    *("virtio_pci", "virtio_blk", "virtio_scsi", "vmw_pvscsi", "nvme", "ahci", "sd_mod", "usb_storage", "xhci_pci"),
    *("ext4", "vfat", "nls_cp437", "nls_ascii"),
)
#: bind-nic.sh and hugepages.sh are programs of bash.
PROGRAMS = ("/bin/bash", "/usr/bin/setpriv")
APPLETS = (
    *(
        "sh",
        "[",
        "awk",
        "base64",
        "basename",
        "blkid",
        "cat",
        "chmod",
        "chown",
        "cp",
        "cut",
        "dirname",
        "echo",
        "findfs",
        "grep",
        "head",
    ),
    *("id", "mkdir", "modprobe", "mount", "readlink", "rm", "sed", "sleep", "sort", "tail", "tr", "umount"),
)
INIT = (Path("packaging") / "image-init.sh").read_text()


def make(scene, kernel, out):
    """Writes the kernel and the initramfs into a directory."""
    missing = [driver for driver in DRIVERS if not (LIBRARIES / PLUGINS / f"librte_{driver}.so.23").exists()]
    ensure(not missing, f"apt-get install libdpdk-dev: there is no {', '.join(missing)}")
    root = Root(scene / "root", scene.gateway_executable, DRIVERS, PROGRAMS, APPLETS)
    for each in ("config", "var/lib/stoq"):
        (root.at / each).mkdir(parents=True)
    (root.at / "etc/passwd").write_text("root:x:0:0::/:/bin/false\nstoq:x:100:100::/var/lib/stoq:/bin/false\n")
    (root.at / "etc/group").write_text("root:x:0:\nstoq:x:100:\n")
    root.add_modules(kernel, MODULES)
    out.mkdir(parents=True, exist_ok=True)
    shutil.copy(next((kernel / "boot").glob("vmlinuz-*")), out / "vmlinuz")
    root.pack(INIT, out / "initramfs.gz")
    sizes = ", ".join(f"{name} {(out / name).stat().st_size >> 20} MiB" for name in ("vmlinuz", "initramfs.gz"))
    say(f"{out}: {sizes}")


class Machine:
    """A machine that boots the image, with its disks; `end` pulls its plug."""

    def __init__(self, test, boot=""):
        self.console = test / "console"
        self.console.unlink(missing_ok=True)
        disks = [("-drive", f"file={test / disk},if=virtio,format=raw,cache=unsafe") for disk in ("config", "data")]
        # The kernel's own option reserves huge pages.
        boot = f"hugepages=320 {boot}"
        command = machine(test.kernel, test / "image/initramfs.gz", boot, "e1000e")
        command += [*(word for disk in disks for word in disk), "-serial", f"file:{self.console}"]
        self.since = time.monotonic()
        self.process = subprocess.Popen(inside(test.outside, *map(str, command)))
        test.stack.callback(self.end)

    def serves(self, test, address):
        def answers():
            ensure(self.process.poll() is None, f"QEMU ended:\n{self.log()}")
            ping = subprocess.run(
                inside(test.outside, "ping", "-q", "-c", "1", "-W", "1", address),
                stdout=subprocess.DEVNULL,
                check=False,
            )
            return ping.returncode == 0

        try:
            wait_until("the machine answers", answers, patience_s=BOOT_S)
        except Exception:
            print(self.log(), file=sys.stderr)
            raise
        say(f"serves {time.monotonic() - self.since:.0f} s after power-on, emulated")

    def log(self):
        return self.console.read_text(errors="replace")

    def end(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


class Image(Scene):
    def __init__(self):
        super().__init__("image")
        self.kernel = Path(os.environ["STOQ_KERNEL"])

    def configuration(self, address):
        return toml(
            {
                "network": dpdk("00:08.0", f"{address}/24", huge_pages="required", memory_mib=256),
                **self.who("gateway", "client"),
                "application": [seed("/var/lib/stoq", memory_bytes=64 << 20), {"kind": "echo", "queues": [1]}],
            }
        )

    def disk(self, name, label, files):
        """A file system with this label, of these files."""
        content = self / f"{name}.files"
        content.mkdir()
        for file in files:
            shutil.copy(self / file, content)
        run("truncate", "-s", "64M", self / name)
        run("mkfs.ext4", "-q", "-L", label, "-d", content, self / name)

    def test(self):
        make(self, self.kernel, self / "image")
        self.identities("gateway", "client")
        (self / "gateway.toml").write_text(self.configuration("10.79.0.1"))
        self.disk("config", "STOQ", ("gateway.toml", "gateway.pem", "gateway.key"))
        self.disk("data", "STOQ-DATA", ())
        self.outside = self.namespace("")
        for line in ("tuntap add tap0 mode tap", "addr add 10.79.0.9/24 dev tap0", "link set tap0 up"):
            run(*inside(self.outside, "ip", *line.split()))
        client = self.client("gateway", inside(self.outside))
        file, got = random_file(self / "file", 4 << 20), self / "got"

        say("power on: the configuration of a partition")
        first = Machine(self)
        first.serves(self, "10.79.0.1")
        token = client("put", "10.79.0.1:4433", file)
        first.end()

        say("power lost and on again: another configuration, on the kernel's command line")
        text = base64.b64encode(self.configuration("10.79.0.3").encode()).decode()
        second = Machine(self, f"stoq.toml={text}")
        second.serves(self, "10.79.0.3")
        client("get", "10.79.0.3:4433", token, "-o", got)
        same(file, got)
        said = second.log()
        ensure("stoq-image: / is read-only" in said, f"the root may be written:\n{said}")
        ensure("serves as user stoq" in said, f"the gateway is root:\n{said}")
        say("passed: the image boots, serves, and keeps what it was given")


def image():
    with Image() as it:
        if sys.argv[1] == "make":
            make(it, it.kernel, Path(sys.argv[2]))
        else:
            it.test()


main(image)
