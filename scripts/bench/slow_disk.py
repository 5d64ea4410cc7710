"""A disk that is slower than the link: a control group that bounds what its processes read and write a second."""

import os
from pathlib import Path

from harness import ensure

GROUPS = Path("/sys/fs/cgroup")


class SlowDisk:
    """Bounds the disk of a directory for the processes that begin `within` it, each way, MB/s. Bounds nothing at 0."""

    def __init__(self, directory, mb_per_s):
        self.group, self.within = None, []
        if not mb_per_s:
            return
        device, limit = disk_of(directory), mb_per_s * 1_000_000
        is_v1 = (GROUPS / "blkio").is_dir()
        self.group = (GROUPS / "blkio" if is_v1 else GROUPS) / f"stoq-bench-{os.getpid()}"
        if not is_v1:
            controllers = GROUPS / "cgroup.controllers"
            has_io = controllers.exists() and "io" in controllers.read_text().split()
            ensure(has_io, "no control group bounds a disk here: the kernel has no io controller")
            # What is written back later counts for the group only with memory.
            (GROUPS / "cgroup.subtree_control").write_text("+io +memory")
        self.group.mkdir()
        if is_v1:
            for way in ("read", "write"):
                (self.group / f"blkio.throttle.{way}_bps_device").write_text(f"{device} {limit}")
        else:
            (self.group / "io.max").write_text(f"{device} rbps={limit} wbps={limit}")
        self.within = ["sh", "-c", 'echo $$ > "$0" && exec "$@"', str(self.group / "cgroup.procs")]

    def remove(self):
        """To be called once its processes have ended."""
        if self.group:
            self.group.rmdir()
            self.group = None


def disk_of(directory):
    """The numbers of the whole disk of a directory: a partition cannot be bounded."""
    status = os.stat(directory).st_dev
    entry = Path(f"/sys/dev/block/{os.major(status)}:{os.minor(status)}").resolve()
    ensure(entry.exists(), f"{directory} is on no disk of this machine: give a directory on one")
    return ((entry.parent if (entry / "partition").exists() else entry) / "dev").read_text().strip()
