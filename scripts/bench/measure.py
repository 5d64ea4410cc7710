#!/usr/bin/env python3
"""Runs a command and writes what it took to a file: measure.py FILE COMMAND...

One JSON object: peak_kib (VmHWM, resident memory without huge pages), huge_kib (huge pages), cpu_s and wall_s. Memory is
looked at ten times a second while the command runs, since it is gone when the command has ended; CPU time is exact. The
command's output and exit status pass through; SIGTERM is passed on to it.
"""

import json
import os
import signal
import subprocess
import sys
import time


def memory(pid):
    """KiB of VmHWM and of huge pages; nothing once the process has ended."""
    found = {}
    try:
        with open(f"/proc/{pid}/status") as status:
            for line in status:
                name, _, value = line.partition(":")
                if name in ("VmHWM", "HugetlbPages"):
                    found[name] = int(value.split()[0])
    except (OSError, IndexError):
        pass
    return found.get("VmHWM", 0), found.get("HugetlbPages", 0)


def main():
    out, command = sys.argv[1], sys.argv[2:]
    started = time.monotonic()
    child = subprocess.Popen(command)
    signal.signal(signal.SIGTERM, lambda *_: child.send_signal(signal.SIGTERM))
    peak = huge = 0
    while True:
        ended, status, usage = os.wait4(child.pid, os.WNOHANG)
        if ended:
            break
        now = memory(child.pid)
        peak, huge = max(peak, now[0]), max(huge, now[1])
        time.sleep(0.1)
    child.returncode = os.waitstatus_to_exitcode(status)
    took = {
        "peak_kib": peak,
        "huge_kib": huge,
        "cpu_s": round(usage.ru_utime + usage.ru_stime, 3),
        "wall_s": round(time.monotonic() - started, 3),
    }
    with open(out, "w") as file:
        json.dump(took, file)
    sys.exit(child.returncode if child.returncode >= 0 else 128 - child.returncode)


main()
