"""What scripts/package-boot-test.sh runs in a virtual machine: a kernel with udevd, a NIC, and the package, in a Debian that has had it before."""

import os
import sys
from pathlib import Path

from harness import Scene, ensure, inside, main, run
from harness.guest import INIT, MODULES, Guest
from harness.root import Tree

AT = "0000:01:00.0"
GROUP = "udevadm settle && stat -c '%U:%G %a' /dev/vfio/[0-9]*"


def udev():
    root, package = map(Path, sys.argv[1:])
    kernel = Path(os.environ["STOQ_KERNEL"])
    with Scene("udev") as scene:
        tree = Tree(root)
        (root / "host").mkdir()
        tree.add_modules(kernel, MODULES)
        archive = tree.pack(INIT, scene / "root.cpio")
        outside = scene.namespace("")
        run(*inside(outside, "ip", "tuntap", "add", "tap0", "mode", "tap"))
        guest = Guest(scene, "udev", outside, archive, kernel, "e1000e", on_port=True)
        guest.line("/lib/systemd/systemd-udevd --daemon && udevadm trigger --action=add && udevadm settle")

        # As a NIC that was bound before the installation.
        guest.line(f"modprobe vfio-pci && echo vfio-pci >/sys/bus/pci/devices/{AT}/driver_override")
        guest.line(f"echo {AT} >/sys/bus/pci/drivers_probe")
        before = guest.line(GROUP)
        ensure(before == "root:root 600", f"the NIC has a group without the package: {before}")
        guest.line(f"dpkg --install {package} >/tmp/dpkg 2>&1 || {{ cat /tmp/dpkg; false; }}", patience_s=180)
        checks(guest, "after the installation")
        guest.line(f"echo {AT} >/sys/bus/pci/drivers/vfio-pci/unbind && stoq-bind-nic bind {AT}")
        checks(guest, "bound again")


def checks(guest, when):
    """The NIC is the group's, and the gateway's user may open it."""
    group = guest.line(GROUP)
    ensure(group == "root:stoq 660", f"the NIC is not the gateway's, {when}: {group}")
    guest.line("setpriv --reuid=stoq --regid=stoq --init-groups sh -c 'exec 3<>\"$(echo /dev/vfio/[0-9]*)\"'")


main(udev)
