"""A root file system of this machine's own files, as an archive that the kernel unpacks at its start."""

import os
import re
import shutil
import subprocess
from pathlib import Path

from harness import run

LIBRARIES = Path("/usr/lib/x86_64-linux-gnu")
PLUGINS = "dpdk/pmds-23.0"
DIRECTORIES = ("proc", "sys", "dev", "tmp", "run", "etc", "var", "usr/bin", "usr/lib", "usr/lib64")
LINKS = {"bin": "usr/bin", "sbin": "usr/bin", "lib": "usr/lib", "lib64": "usr/lib64"}


def needed_by(files):
    """The libraries that these need, as the loader finds them."""
    said = subprocess.run(
        ["ldd", *files], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=False
    ).stdout
    return {Path(found) for found in re.findall(r"(?:=> |^\t)(/\S+)", said, re.MULTILINE)}


class Tree:
    """A tree of files that becomes a guest's root."""

    def __init__(self, at):
        self.at = at

    def add_modules(self, kernel, modules):
        """The kernel's modules of these names, with those that they need."""
        version = next((kernel / "lib/modules").iterdir()).name
        within = self.at / "lib/modules" / version
        within.mkdir(parents=True)
        run("depmod", "-b", kernel, version)
        for index in (kernel / "lib/modules" / version).glob("modules.[bo]*"):
            shutil.copy(index, within)
        for module in modules:
            for line in run("modprobe", "-d", kernel, "-S", version, "--show-depends", module).splitlines():
                if line.startswith("insmod"):
                    source = Path(line.split()[1])
                    to = self.at / "lib/modules" / str(source).split("/lib/modules/")[1]
                    to.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy(source, to)
        run("depmod", "-b", self.at, version)

    def pack(self, init, archive):
        """Writes the tree, with this program for the kernel to start, to an archive."""
        (self.at / "init").write_text(init)
        (self.at / "init").chmod(0o755)
        compress = "| gzip -9" if archive.suffix == ".gz" else ""
        run("sh", "-c", f"cd {self.at} && find . | cpio -o -H newc -R 0:0 --quiet {compress} >{archive}")
        return archive


class Root(Tree):
    """A tree with busybox, the gateway, DPDK's drivers by name, and further programs with the libraries of all of them."""

    def __init__(self, at, gateway, drivers, programs, applets=None):
        super().__init__(at)
        for each in DIRECTORIES:
            (at / each).mkdir(parents=True)
        for link, place in LINKS.items():
            (at / link).symlink_to(place)
        programs = [Path(program) for program in programs]
        shutil.copy("/bin/busybox", at / "bin/busybox")
        for applet in applets or run("/bin/busybox", "--list").split():
            if applet != "busybox" and applet not in {program.name for program in programs}:
                (at / "bin" / applet).symlink_to("busybox")
        for program in programs:
            shutil.copy(program, at / "bin" / program.name)
        run("strip", "-o", at / "bin/stoq-gateway", gateway)
        for script in ("bind-nic.sh", "hugepages.sh"):
            shutil.copy(Path("scripts") / script, at / "bin" / script)
        self.add_drivers([gateway, *programs], [LIBRARIES / PLUGINS / f"librte_{driver}.so.23" for driver in drivers])

    def add_drivers(self, programs, drivers):
        # The drivers and DPDK's other libraries keep their links: EAL must see each driver as one file.
        libraries = needed_by([*programs, *drivers])
        plugged = {f"{each.name}.0" for each in drivers}
        plugged |= {each.resolve().name for each in libraries if each.resolve().parent.name == "pmds-23.0"}
        within = self.at / str(LIBRARIES).lstrip("/")
        (within / PLUGINS).mkdir(parents=True)
        for name in plugged:
            shutil.copy(LIBRARIES / PLUGINS / name, within / PLUGINS / name)
            (within / PLUGINS / name.removesuffix(".0")).symlink_to(name)
            for link in (name, name.removesuffix(".0")):
                (within / link).symlink_to(f"{PLUGINS}/{link}")
        for library in libraries:
            to = self.at / str(library).lstrip("/")
            to.parent.mkdir(parents=True, exist_ok=True)
            if not os.path.lexists(to):
                shutil.copy(library, to)
