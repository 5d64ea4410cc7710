#!/usr/bin/env python3
"""Compares callgrind's counts with the stored ones: instructions.py STORED accept|compare TOOLCHAIN NAME:PACKETS:FILE...

Counted are the instructions of this project and of what is compiled with it, and of the allocator. Some code chooses another
path by the CPU that it finds, so its counts are shown and compared with nothing: aws-lc, BLAKE3, libc's memory and string
functions, and the random generator.
"""

import json
import os
import re
import sys

LIMIT = 0.05
#: What a packet may cost on a path that holds 125 MB, of what it costs on one without delay; with what is shown apart.
LONG_LIMITS = {"message": 1.4, "put": 1.4, "get": 1.2}
#: The same of one of many connections, of what it costs on one with the same windows.
MANY_LIMIT = 1.2
#: The same where a gateway has more workers, of what it costs where it has one.
WORKERS_LIMIT = 1.05
#: The same of a gateway of a fleet, of what it costs one that is in none, with as many encrypted bytes in a packet.
FLEET_LIMIT = 1.02
APART = ["aws-lc", "blake3", "memory", "random"]
MEMORY = re.compile(r"_*(mem|bcmp|str)\w*")
# The C and assembler code in the program is aws-lc's. Its functions have names without a path, Rust's have one.
C_NAME = re.compile(r"[\w.]+")
RUST_NAME = re.compile(r"main|_start|__?rust|__rdl_|__rg_|std|core")
# The owners of the remaining code, for --explain: the first match counts. Inlined code counts for the function that contains it.
GROUPS = [
    (
        "allocator",
        re.compile(r"^_*(int_)?(malloc|free|calloc|realloc|memalign)|malloc_consolidate|unlink_chunk|__rdl_|__rust_"),
    ),
    ("wire", re.compile(r"instructions::")),
    ("stoq", re.compile(r"stoq(_gateway)?::")),
    ("quinn-proto", re.compile(r"quinn_proto")),
    ("rustls, aws-lc-rs", re.compile(r"rustls|aws_lc_rs")),
    ("bytes", re.compile(r"bytes::")),
]


def functions(path):
    """Instructions that each function spent itself, by (object, name)."""
    names, costs = {"fn": {}, "ob": {}}, {}
    in_object = name = ""
    skip = False

    def resolve(kind, text):
        found = re.match(r"\((\d+)\)(?: (.*))?$", text)
        if not found:
            return text
        number, said = found.groups()
        if said is not None:
            names[kind][number] = said
        return names[kind].get(number, "")

    with open(path, encoding="utf-8", errors="replace") as lines:
        for line in lines:
            line = line.rstrip("\n")
            key, equals, value = line.partition("=")
            if equals and key in ("fn", "cfn"):
                said = resolve("fn", value)
                if key == "fn":
                    name = said
            elif equals and key in ("ob", "cob"):
                said = resolve("ob", value)
                if key == "ob":
                    in_object = said
            elif equals and key == "calls":
                skip = True
            elif line[:1].isdigit() or line[:1] in "+-*":
                if not skip and name:
                    cost = line.split()
                    if len(cost) > 1:
                        at = (in_object, name)
                        costs[at] = costs.get(at, 0) + int(cost[1])
                skip = False
    return costs


def apart_as(in_object, name):
    """Which of APART a function is of, if any."""
    name = re.sub(r"'\d+$", "", name)
    # BLAKE3's assembler names its code without a size, so callgrind knows it by address.
    if "blake3" in name or name.startswith("0x"):
        return "blake3"
    if name.startswith("chacha20::"):
        return "random"
    if MEMORY.fullmatch(name):
        return "memory"
    in_program = in_object.endswith("/instructions")
    if in_program and C_NAME.fullmatch(name) and not RUST_NAME.match(name):
        return "aws-lc"
    return None


def sorted_out(costs):
    """What is compared, by function, and what is shown apart, by kind; instructions."""
    apart, counted = dict.fromkeys(APART, 0), {}
    for (in_object, name), cost in costs.items():
        kind = apart_as(in_object, name)
        if kind:
            apart[kind] += cost
        else:
            counted[name] = counted.get(name, 0) + cost
    return counted, apart


def explain(name, packets, counted):
    groups = {}
    for function, cost in counted.items():
        group = next((group for group, pattern in GROUPS if pattern.search(function)), "others")
        groups[group] = groups.get(group, 0) + cost
    print(f"\n{name}, instructions a packet by whose code it is")
    for group, cost in sorted(groups.items(), key=lambda item: -item[1]):
        print(f"    {cost / packets:9.1f}  {group}")
    print(f"{name}, the functions that take most themselves")
    for function, cost in sorted(counted.items(), key=lambda item: -item[1])[:40]:
        print(f"    {cost / packets:9.1f}  {function[:120]}")


def main():
    stored_path, action, toolchain, *measured = sys.argv[1:]
    stored = {}
    if os.path.exists(stored_path):
        with open(stored_path, encoding="utf-8") as file:
            stored = json.load(file)
    now, whole, worse, better = {}, {}, [], []
    print(f"{'path':<22} {'stored':>9} {'now':>9} {'change':>8}   apart: " + ", ".join(APART))
    for item in measured:
        name, packets, path = item.split(":", 2)
        counted, apart = sorted_out(functions(path))
        a_packet = round(sum(counted.values()) / int(packets), 1)
        now[name] = a_packet
        whole[name] = (sum(counted.values()) + sum(apart.values())) / int(packets)
        before = stored.get("instructions_a_packet", {}).get(name)
        change = (a_packet - before) / before if before else 0.0
        if before and change > LIMIT:
            worse.append(name)
        if before and change < -LIMIT:
            better.append(name)
        shown = ", ".join(f"{cost / int(packets):.0f}" for cost in apart.values())
        print(f"{name:<22} {before if before else '-':>9} {a_packet:>9} {change:>+8.1%}   {shown}")
        if os.environ.get("EXPLAIN"):
            explain(name, int(packets), counted)
    grown = []
    for name, a_packet in whole.items():
        if name.endswith("-long"):
            ratio, limit = a_packet / whole[name.removesuffix("-long")], LONG_LIMITS[name.split("-", 1)[0]]
            print(f"{name}: {ratio:.2f} of a packet without delay; {limit} at most")
            grown += [name] if ratio > limit else []
        one = name.rpartition("-of-")[0] + "-of-1"
        if "-of-" in name and name != one:
            ratio = a_packet / whole[one]
            print(f"{name}: {ratio:.2f} of a packet on one connection; {MANY_LIMIT} at most")
            grown += [name] if ratio > MANY_LIMIT else []
        if "-by-" in name and not name.endswith("-in-fleet"):
            ratio = a_packet / whole[name.rpartition("-by-")[0]]
            print(f"{name}: {ratio:.2f} of a packet of a worker that is alone; {WORKERS_LIMIT} at most")
            grown += [name] if ratio > WORKERS_LIMIT else []
        if name.endswith("-in-fleet"):
            ratio = a_packet / whole[name.removesuffix("-in-fleet")]
            print(f"{name}: {ratio:.3f} of a packet of a gateway in no fleet; {FLEET_LIMIT} at most")
            grown += [name] if ratio > FLEET_LIMIT else []
    if grown:
        print(
            f"{', '.join(grown)}: a packet costs too much more where many bytes are in flight, many connections send, or there are more workers"
        )
        return 1
    if action == "accept":
        with open(stored_path, "w", encoding="utf-8") as file:
            json.dump({"toolchain": toolchain, "instructions_a_packet": now}, file, indent=2)
            file.write("\n")
        print(f"stored in {stored_path}")
        return 0
    missing = sorted(set(now) ^ set(stored.get("instructions_a_packet", {})))
    accept = "scripts/instructions.sh --accept"
    if stored.get("toolchain") != toolchain:
        print(f"The stored counts are of {stored.get('toolchain')}, these of {toolchain}.")
    if better:
        print(f"{', '.join(better)}: more than {LIMIT:.0%} better. Keep it so: {accept}")
    if missing:
        print(f"{', '.join(missing)}: not stored, or not measured. To store what was measured: {accept}")
    if worse:
        print(
            f"{', '.join(worse)}: more than {LIMIT:.0%} more instructions a packet than stored. If that is meant: {accept}"
        )
    return 1 if worse or missing else 0


sys.exit(main())
