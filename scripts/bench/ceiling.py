#!/usr/bin/env python3
"""Makes one row of what `cargo bench --bench ceiling -- --json` says of both MTUs: ceiling.py MTU FILE, in place."""

import json
import sys

mtu, path = int(sys.argv[1]), sys.argv[2]
with open(path) as file:
    said = json.load(file)
found = next(one for one in said["ceiling"] if one["mtu"] == mtu)
found |= {"gbit_per_s": found["goodput_gbit_s"]["median"], "bytes": found["bytes_a_run"], "cipher": said["cipher"]}
with open(path, "w") as file:
    json.dump(found, file, separators=(",", ":"))
