#!/usr/bin/env python3
"""The JSON lines of scripts/bench/run.sh in short, for a later run to be compared with: summary.py FILE."""

import json
import sys

from results import Run

print(json.dumps(Run.load(sys.argv[1]).summary(), indent=1))
