"""Questions to the admin endpoint of a gateway in a namespace."""

import re
import urllib.request
from concurrent.futures import ThreadPoolExecutor

from harness.rebinding import enter

#: `admin.listen` of such a gateway.
ADMIN = "127.0.0.1:9464"


def within(namespace, call):
    """Calls it in a thread of the namespace; gives what it gave."""
    with ThreadPoolExecutor(1) as thread:
        thread.submit(enter, namespace).result()
        return thread.submit(call).result()


def ask(namespace, path):
    """What the endpoint answers; an OSError without an answer."""

    def answer():
        with urllib.request.urlopen(f"http://{ADMIN}{path}", timeout=10) as said:
            return said.read()

    return within(namespace, answer)


def total(metrics, counter):
    """A counter, of all workers together."""
    values = re.findall(rf"^stoq_{counter}_total{{.*}} (\S+)$", metrics, re.MULTILINE)
    return sum(int(float(value)) for value in values)


def drops_of(metrics):
    """Drops by reason, of all workers together."""
    found = {}
    for reason, value in re.findall(r'^stoq_drops_total{.*reason="([^"]*)".*} (\S+)$', metrics, re.MULTILINE):
        found[reason] = found.get(reason, 0) + int(float(value))
    return {reason: count for reason, count in found.items() if count}
