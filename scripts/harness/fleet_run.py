"""What scripts/fleet-lab.sh runs, once it has looked at the machine."""

import argparse
import shutil
import time

from harness import main, say
from harness.fleet_lab import Lab
from harness.fleet_scenarios import CLIENTS, KILLS, Scenarios
from harness.recorder import Recorder

#: In the order in which they run.
SCENARIOS = ["rehash", "kill", "hang", "drain", "rolling", "etcd", "wiped", "partition", "clock", "rotation", "forged"]


def script():
    parser = argparse.ArgumentParser(
        prog="scripts/fleet-lab.sh", description="A fleet on the real engines, in namespaces."
    )
    parser.add_argument(
        "scenarios", nargs="*", metavar="SCENARIO", help=f"of {', '.join(SCENARIOS)}; without one all of them"
    )
    parser.add_argument("--record", metavar="FILE", help="keep the recorded requests, an object of JSON a line")
    parser.add_argument("--clients", type=int, default=CLIENTS, help=f"that stay connected in rehash ({CLIENTS})")
    parser.add_argument("--kills", type=int, default=KILLS, help=f"of the scenario kill ({KILLS})")
    given = parser.parse_args()
    for unknown in set(given.scenarios) - set(SCENARIOS):
        parser.error(f"no scenario is called {unknown}: {', '.join(SCENARIOS)}")
    begun = time.monotonic()
    with Lab() as lab:
        lab.build()
        lab.start_all()
        lab.client_configuration()
        recorder = Recorder(lab)
        recorder.prepare()
        print(f"the lab is up after {time.monotonic() - begun:.0f} s", flush=True)
        scenarios = Scenarios(lab, recorder, given.clients, given.kills)
        try:
            for name in given.scenarios or SCENARIOS:
                say(name)
                started = time.monotonic()
                getattr(scenarios, name)()
                print(f"{name}: {time.monotonic() - started:.0f} s", flush=True)
            lab.leave()
            say("the checker")
            recorder.check()
        finally:
            recorder.lines.close()
            if given.record:
                shutil.copy(recorder.lines.name, given.record)
    print(f"the lab: {time.monotonic() - begun:.0f} s")


if __name__ == "__main__":
    main(script)
