"""What a Prometheus that scrapes a gateway has, and whether the rules and the dashboard find it there.

    scripts/admin.py PROMETHEUS_URL METRICS_FILE
"""

import json
import re
import sys
import time
import urllib.parse
import urllib.request

URL, SCRAPE = sys.argv[1], open(sys.argv[2]).read()
# These are there with a DPDK port, a peer gateway or a second of silence only.
ELSEWHERE = re.compile(r"stoq_port_(rx|tx)_|stoq_peer_gateway_up")


def ask(path, **query):
    with urllib.request.urlopen(f"{URL}/api/v1/{path}?{urllib.parse.urlencode(query)}", timeout=10) as answer:
        found = json.load(answer)
    assert found["status"] == "success", found
    return found["data"]


def values(expression):
    return [float(one["value"][1]) for one in ask("query", query=expression)["result"]]


def wait_for(what, is_so):
    until = time.monotonic() + 180
    while True:
        try:
            if is_so():
                return
        except OSError:
            pass
        assert time.monotonic() < until, f"not within 180 s: {what}"
        time.sleep(0.5)


wait_for("a scrape", lambda: values("up") == [1.0])
# Rates over half a minute need more than two of them.
wait_for("a few scrapes", lambda: sum(values("count_over_time(up[1m])")) >= 8)
wait_for("the traffic", lambda: sum(values("sum(increase(stoq_rx_bytes_total[1m]))")) > 10_000_000)
assert values('sum(stoq_requests_total{kind="put",result="ok"})') == [1.0]
assert values('sum(stoq_requests_total{kind="fetch",result="ok"})') == [1.0]
assert values("sum(stoq_verified_bytes_total)") == [33554432.0]
assert values("stoq_ready") == [1.0]
# The seconds that 32 MiB need at 16 Gbit/s, with room.
assert values("sum(increase(stoq_worker_busy_seconds_total[1m]))")[0] > 0.005

names = set(re.findall(r"^# TYPE (\w+) ", SCRAPE, re.M))
rules = [rule for group in ask("rules")["groups"] for rule in group["rules"]]
assert rules and all(rule["health"] == "ok" for rule in rules), rules
firing = {rule["name"] for rule in rules if rule["state"] == "firing"}
# Its certificate of two days is not the one that peers see; nothing is wrong with this gateway.
assert not firing, firing

panels = [panel for panel in json.load(open("configs/grafana-dashboard.json"))["panels"] if panel["type"] != "row"]
expressions = [(panel["title"], target["expr"]) for panel in panels for target in panel["targets"]]
expressions += [(rule["name"], rule["query"]) for rule in rules]
empty = []
for title, expression in expressions:
    expression = expression.replace("$__rate_interval", "30s").replace("$instance", ".*")
    for name in re.findall(r"\bstoq_\w+", expression):
        family = re.sub(r"_(bucket|sum|count)$", "", name)
        assert family in names or name in names or ELSEWHERE.match(name), f"{title}: no metric {name}"
    if not ask("query", query=expression)["result"] and title in {panel["title"] for panel in panels}:
        empty.append(title)
print(f"{len(names)} metrics, {len(expressions)} expressions; panels without data here: {', '.join(sorted(set(empty))) or 'none'}")
assert set(empty) <= {"Drops by reason", "Missed, no buffer, errors", "Bytes of the device", "Peer gateways up"}, empty
