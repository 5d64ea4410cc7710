#!/usr/bin/env python3
"""Reads the byte vectors of docs/protocol.md with code that shares nothing with the library.

    read.py [directory of the vectors]

Takes Python 3.11 and the package blake3 (whole hashes only; the tree is hashed here). cid.py beside it reads connection IDs. Ends with 1 if anything differs;
scripts/vectors.sh runs it in an environment of its own.
"""

import json
import pathlib
import sys
from functools import cache

import cid
from blake3 import blake3

GROUP = 16 * 1024
MALFORMED, LIMIT, UNKNOWN, BAD_RANGE, BAD_DESCRIPTOR, UNSUPPORTED = 2, 3, 4, 6, 8, 9


class Refused(Exception):
    """Bytes that must not be taken; the argument is the error code of section 9."""


def refuse_if(wrong, code):
    if wrong:
        raise Refused(code)


# --- Fields (section "Notation and transport") ---


class Body:
    """A run of bytes that is taken field by field."""

    def __init__(self, data):
        self.data, self.at = data, 0

    def left(self):
        return len(self.data) - self.at

    def take(self, count):
        refuse_if(self.left() < count, MALFORMED)
        self.at += count
        return self.data[self.at - count : self.at]

    def byte(self):
        return self.take(1)[0]

    def varint(self, shortest=False):
        count = 1 << (self.byte() >> 6)
        self.at -= 1
        value = int.from_bytes(self.take(count), "big") & ((1 << (8 * count - 2)) - 1)
        refuse_if(shortest and len(varint(value)) != count, BAD_DESCRIPTOR)
        return value

    def token(self, kinds):
        token = self.take(33)
        refuse_if(token[0] not in kinds, UNSUPPORTED)
        return token

    def bitmap(self):
        count = self.byte()
        refuse_if(count > 16, MALFORMED)
        bits = self.take(count)
        refuse_if(bits[-1:] == b"\0", MALFORMED)
        return [lane for lane in range(8 * count) if bits[lane // 8] >> lane % 8 & 1]

    def some_lanes(self):
        lanes = self.bitmap()
        refuse_if(not lanes, MALFORMED)
        return lanes

    def coverage(self):
        kind = self.byte()
        refuse_if(kind > 2, UNSUPPORTED)
        return kind, self.some_lanes() if kind == 2 else []

    def runs(self):
        count = self.varint()
        refuse_if(count > 256, LIMIT)
        found = []
        for number in range(count):
            gap, length = self.varint(), self.varint()
            refuse_if(length == 0 or (number and gap == 0), BAD_RANGE)
            found.append((gap, length))
            refuse_if(sum(map(sum, found)) > 1 << 36, BAD_RANGE)
        return found

    def end(self):
        refuse_if(self.left(), MALFORMED)


def varint(value):
    size = next(size for size in (1, 2, 4, 8) if value < 1 << (8 * size - 2))
    return (value | (size.bit_length() - 1) << (8 * size - 2)).to_bytes(size, "big")


# --- Descriptors and set tokens (sections 2 and 3) ---


def parse_descriptor(data):
    body = Body(data)
    refuse_if(body.varint(shortest=True) != 1, UNSUPPORTED)
    content = body.token([1])
    length, shard_len, code, k, m = (body.varint(shortest=True) for _ in range(5))
    refuse_if(code > 1, UNSUPPORTED)
    refuse_if(code == 0 and (k, m) != (1, 0), BAD_DESCRIPTOR)
    refuse_if(k > 255 or m > 255, BAD_DESCRIPTOR)
    parity = body.token([1]) if m else None
    body.end()
    refuse_if(length > 1 << 50, BAD_DESCRIPTOR)
    refuse_if(shard_len == 0 or shard_len % GROUP or shard_len > 1 << 20, BAD_DESCRIPTOR)
    refuse_if(not 1 <= k <= 64 or m > 64, BAD_DESCRIPTOR)
    refuse_if(code == 1 and (k, m) == (1, 0), BAD_DESCRIPTOR)
    stripes = -(-length // (k * shard_len))
    refuse_if(stripes * m * shard_len > 1 << 50, BAD_DESCRIPTOR)
    return {
        "content": content,
        "length": length,
        "shard_len": shard_len,
        "code": code,
        "k": k,
        "m": m,
        "parity": parity,
        "stripes": stripes,
    }


def emit_descriptor(d):
    numbers = b"".join(varint(d[key]) for key in ("length", "shard_len", "code", "k", "m"))
    return b"\1" + d["content"] + numbers + (d["parity"] or b"")


def content_text(token):
    return "b3:" + token[1:].hex()


def content_bytes(text):
    assert text.startswith("b3:") and len(text) == 67, text
    return b"\1" + bytes.fromhex(text[3:])


def set_text(descriptor):
    return "set:" + blake3(descriptor, derive_key_context="STOQ 1 shard set").hexdigest()


def check_descriptors(vectors):
    for entry in vectors["descriptors"]:
        data = bytes.fromhex(entry["hex"])
        d = parse_descriptor(data)
        for key in ("length", "shard_len", "code", "k", "m", "stripes"):
            same(entry, key, d[key])
        same(entry, "content", content_text(d["content"]))
        same(entry, "parity", d["parity"] and content_text(d["parity"]))
        same(entry, "parity_length", d["stripes"] * d["m"] * d["shard_len"])
        same(entry, "hex", emit_descriptor(d).hex())
        same(entry, "set_token", set_text(data))
    check_refused(vectors, parse_descriptor)


# --- BLAKE3's tree and the verified encoding (section 2) ---

WORD = 0xFFFFFFFF
START = (0x6A09E667, 0xBB67AE85, 0x3C6EF372, 0xA54FF53A, 0x510E527F, 0x9B05688C, 0x1F83D9AB, 0x5BE0CD19)
SHUFFLE = (2, 6, 3, 10, 7, 0, 4, 13, 1, 11, 12, 5, 9, 14, 15, 8)
QUARTERS = ((0, 4, 8, 12), (1, 5, 9, 13), (2, 6, 10, 14), (3, 7, 11, 15),
            (0, 5, 10, 15), (1, 6, 11, 12), (2, 7, 8, 13), (3, 4, 9, 14))  # fmt: skip
CHUNK_START, CHUNK_END, PARENT, ROOT = 1, 2, 4, 8


def compress(chaining, block, counter, flags):
    words = [int.from_bytes(block[at : at + 4].ljust(4, b"\0"), "little") for at in range(0, 64, 4)]
    v = [*chaining, *START[:4], counter & WORD, counter >> 32, len(block), flags]
    for _ in range(7):
        for number, (a, b, c, d) in enumerate(QUARTERS):
            x, y, z, w = v[a], v[b], v[c], v[d]
            x = (x + y + words[2 * number]) & WORD
            w ^= x
            w = (w >> 16 | w << 16) & WORD
            z = (z + w) & WORD
            y ^= z
            y = (y >> 12 | y << 20) & WORD
            x = (x + y + words[2 * number + 1]) & WORD
            w ^= x
            w = (w >> 8 | w << 24) & WORD
            z = (z + w) & WORD
            y ^= z
            v[a], v[b], v[c], v[d] = x, (y >> 7 | y << 25) & WORD, z, w
        words = [words[source] for source in SHUFFLE]
    return tuple(v[i] ^ v[i + 8] for i in range(8))


def joined(left, right, root):
    return compress(START, packed(left) + packed(right), 0, PARENT | (ROOT if root else 0))


def packed(words):
    return b"".join(word.to_bytes(4, "little") for word in words)


def chunk_hash(data, counter, root):
    chaining = START
    for at in range(0, max(len(data), 1), 64):
        flags = CHUNK_START if at == 0 else 0
        if at + 64 >= len(data):
            flags |= CHUNK_END | (ROOT if root else 0)
        chaining = compress(chaining, data[at : at + 64], counter, flags)
    return chaining


def left_part(length, unit):
    """Bytes of the left part of a subtree of more than one unit."""
    units = -(-length // unit)
    return unit << ((units - 1).bit_length() - 1)


@cache
def subtree_hash(data, offset, root):
    if len(data) <= 1024:
        return chunk_hash(data, offset // 1024, root)
    left = left_part(len(data), 1024)
    halves = subtree_hash(data[:left], offset, False), subtree_hash(data[left:], offset + left, False)
    return joined(*halves, root)


def encoding(data, selected, offset=0):
    """The verified encoding of the groups for which `selected` holds."""
    groups = range(offset // GROUP, max(-(-(offset + len(data)) // GROUP), offset // GROUP + 1))
    if not any(map(selected, groups)):
        return b""
    if len(groups) == 1:
        return data
    left = left_part(len(data), GROUP)
    pair = subtree_hash(data[:left], offset, False), subtree_hash(data[left:], offset + left, False)
    below = encoding(data[:left], selected, offset), encoding(data[left:], selected, offset + left)
    return packed(pair[0]) + packed(pair[1]) + below[0] + below[1]


def in_runs(runs):
    ends, at = [], 0
    for gap, length in runs:
        ends.append((at + gap, at + gap + length))
        at += gap + length
    return lambda number: not runs or any(start <= number < end for start, end in ends)


def of_lanes(entry):
    """Whether a group of the entry's blob is of its lanes and its stripes."""
    shard_groups, in_stripes = entry["shard_len"] // GROUP, in_runs(entry["stripes"])
    first, width = (0, entry["k"]) if entry["blob"] == "content" else (entry["k"], entry["m"])

    def selected(group):
        stripe, lane = divmod(group // shard_groups, width)
        return first + lane in entry["lanes"] and in_stripes(stripe)

    return selected


def check_encodings(vectors):
    for entry in vectors["encodings"]:
        blob = payload(entry["seed"], entry["length"])
        if "ranges" in entry:
            selected = in_runs(entry["ranges"])
        else:
            if entry["blob"] == "parity":
                blob = b"".join(parity_blob(blob, entry["shard_len"], entry["k"], entry["m"]))
            selected = of_lanes(entry)
        data = encoding(blob, selected)
        same(entry, "token", "b3:" + blake3(blob).hexdigest())
        same(entry, "token", "b3:" + packed(subtree_hash(blob, 0, True)).hex())
        same(entry, "bytes", len(data))
        same(entry, "blake3", blake3(data).hexdigest())
        same(entry, "hex", data.hex() if len(data) <= 1024 else None)


# --- Parity (section 3) ---

POLYNOMIAL = 0x1002D


def times_x(value):
    value <<= 1
    return value ^ POLYNOMIAL if value >> 16 else value


def product(a, b):
    total = 0
    while b:
        total ^= a if b & 1 else 0
        a, b = times_x(a), b >> 1
    return total


# The basis starts at 1, and each next b is the solution of b^2 + b = the one before that this table has.
BASIS = (0x0001, 0xACCA, 0x3C0E, 0x163E, 0xC582, 0xED2E, 0x914C, 0x4012,
         0x6C98, 0x10D8, 0x6A72, 0xB900, 0xFDB8, 0xFB34, 0xFF38, 0x991E)  # fmt: skip


def field():
    """The element of each symbol, the symbol of each element, and powers and logarithms of x among the elements."""
    assert all(product(b, b) ^ b == before for before, b in zip((0, *BASIS), BASIS))
    element = [0]
    for vector in BASIS:
        element += [known ^ vector for known in element]
    symbol = [0] * 65536
    for number, value in enumerate(element):
        symbol[value] = number
    power, logarithm, value = [], [0] * 65536, 1
    for exponent in range(65535):
        power.append(value)
        logarithm[value] = exponent
        value = times_x(value)
    assert value == 1 and sorted(element) == list(range(65536))
    return element, symbol, power, logarithm


ELEMENT, SYMBOL, POWER, LOGARITHM = field()


def symbol_ratio(a, b):
    """a / b, both not 0."""
    return SYMBOL[POWER[(LOGARITHM[ELEMENT[a]] - LOGARITHM[ELEMENT[b]]) % 65535]]


def symbol_product(a, b):
    return SYMBOL[POWER[(LOGARITHM[ELEMENT[a]] + LOGARITHM[ELEMENT[b]]) % 65535]]


def coefficient(k, m, i, j):
    """What data shard i of a stripe adds to its parity shard j: the formula of section 3."""
    widths = [1 << (count - 1).bit_length() for count in (k, m)]
    width = min(widths)
    far, near = (width + i, j) if widths[0] >= widths[1] else (width + j, i)
    return symbol_ratio(far // width, far ^ near)


@cache
def byte_tables(factor):
    """Low and high byte of `factor` times a symbol: one table for the symbol's low byte and one for its high."""
    bits = [symbol_product(factor, 1 << bit) for bit in range(16)]
    tables = []
    for half in (bits[:8], bits[8:]):
        values = [0]
        for bit in half:
            values += [known ^ bit for known in values]
        tables.append((bytes(v & 255 for v in values), bytes(v >> 8 for v in values)))
    return tables


def parity_blob(data, shard_len, k, m):
    """Every parity shard, stripe by stripe."""
    shards = []
    for at in range(0, len(data), k * shard_len):
        low, high = [0] * m, [0] * m
        stripe = data[at : at + k * shard_len].ljust(k * shard_len, b"\0")
        for i in range(k):
            shard = stripe[i * shard_len : (i + 1) * shard_len]
            # 32 low bytes and the 32 high bytes that belong to them, in turn.
            halves = [b"".join(shard[a + part : a + part + 32] for a in range(0, shard_len, 64)) for part in (0, 32)]
            for j in range(m):
                for half, (to_low, to_high) in zip(halves, byte_tables(coefficient(k, m, i, j))):
                    low[j] ^= int.from_bytes(half.translate(to_low), "big")
                    high[j] ^= int.from_bytes(half.translate(to_high), "big")
        for j in range(m):
            halves = [value[j].to_bytes(shard_len // 2, "big") for value in (low, high)]
            shards.append(b"".join(half[a : a + 32] for a in range(0, shard_len // 2, 32) for half in halves))
    return shards


def check_parity(vectors):
    for entry in vectors["sets"]:
        entry.setdefault("name", f"{entry['k']}+{entry['m']}")
        data, k, m = payload(entry["seed"], entry["length"]), entry["k"], entry["m"]
        shards = parity_blob(data, entry["shard_len"], k, m)
        tokens = {"content": blake3(data).digest(), "parity": blake3(b"".join(shards)).digest()}
        descriptor = {key: b"\1" + token for key, token in tokens.items()}
        descriptor |= {key: entry[key] for key in ("length", "shard_len", "k", "m")} | {"code": 1}
        for key in tokens:
            same(entry, key, content_text(descriptor[key]))
        same(entry, "set_token", set_text(emit_descriptor(descriptor)))
        found = [
            {
                "lane": k + number % m,
                "stripe": number // m,
                "blake3": blake3(shard).hexdigest(),
                "first": shard[:64].hex(),
            }
            for number, shard in enumerate(shards)
        ]
        same(entry, "shards", found)


# --- Records (section 4) ---


def settings(body):
    seen = []
    while body.left():
        seen.append((body.varint(), body.varint())[0])
        refuse_if(seen[-1] in seen[:-1], MALFORMED)
        refuse_if(len(seen) > 64, LIMIT)


def have(body):
    token = body.token([1, 2])
    kind, _ = body.coverage()
    refuse_if(kind == 2 and token[0] == 1, MALFORMED)
    body.varint()


def message(body):
    body.varint()
    flags = body.byte()
    refuse_if(flags > 1, UNSUPPORTED)
    if flags:
        body.token([1])
    refuse_if(len(body.take(body.left())) > 65536, LIMIT)


def hop(body):
    refuse_if(body.byte() > 1, UNSUPPORTED)
    refuse_if(body.byte() > 16, LIMIT)
    body.take(16)
    body.varint()
    cursor, count = body.byte(), body.byte()
    refuse_if(count > 8, LIMIT)
    refuse_if(cursor >= count, MALFORMED)
    body.take(32 * count)


def put(body):
    body.varint()
    flags = body.byte()
    refuse_if(flags > 1, UNSUPPORTED)
    body.varint()
    d = parse_descriptor(body.take(body.varint()))
    if flags:
        refuse_if(max(body.some_lanes()) >= d["k"] + d["m"], BAD_RANGE)


def fetch(body):
    token, flags = body.token([1, 2]), body.byte()
    refuse_if(flags > 3, UNSUPPORTED)
    lanes_flag, describe = flags & 1, flags & 2
    refuse_if(lanes_flag and describe, MALFORMED)
    refuse_if(lanes_flag and token[0] == 1, MALFORMED)
    body.varint()
    if lanes_flag:
        body.some_lanes()
    refuse_if(body.runs() and describe, MALFORMED)


def mirror(body):
    token = body.token([1, 2])
    refuse_if(body.bitmap() and token[0] == 1, MALFORMED)
    body.varint()
    count = body.varint()
    refuse_if(count > 64, LIMIT)
    body.take(32 * count)


def ok(body):
    body.varint()
    count = body.varint()
    if count:
        parse_descriptor(body.take(count))


def holders(body):
    count = body.varint()
    refuse_if(count > 64, LIMIT)
    for _ in range(count):
        body.take(32)
        refuse_if(body.coverage()[0] == 0, MALFORMED)
        body.varint()


def holder(body):
    kind = body.byte()
    refuse_if(kind > 2, UNSUPPORTED)
    if kind == 1:
        body.take(32)


def list_(body):
    flags = body.byte()
    refuse_if(flags > 7, UNSUPPORTED)
    refuse_if(flags & 4 and not flags & 1, MALFORMED)
    if flags & 2:
        body.token([1, 2])
    if flags & 4:
        holder(body)
    for _ in range(4):
        body.varint()


def stat(body):
    refuse_if(body.byte() > 1, UNSUPPORTED)
    body.token([1, 2])


def listed(body):
    flags = body.byte()
    refuse_if(flags > 1, UNSUPPORTED)
    if flags:
        body.token([1, 2])
    count = body.varint()
    refuse_if(count > 256, LIMIT)
    for _ in range(count):
        token = body.token([1, 2])
        kind, _ = body.coverage()
        refuse_if(kind == 2 and token[0] == 1, MALFORMED)
        refuse_if(kind == 0, MALFORMED)
        body.varint(), body.varint()
        leases, shown = body.varint(), body.varint()
        refuse_if(shown > 1024, LIMIT)
        refuse_if(shown > leases, MALFORMED)
        for _ in range(shown):
            holder(body)
            body.varint()


def error(body):
    body.varint(), body.varint()
    refuse_if(body.left() > 256, LIMIT)
    try:
        body.take(body.left()).decode()
    except UnicodeDecodeError:
        raise Refused(MALFORMED) from None


RECORDS = {
    0x01: settings, 0x03: have, 0x05: Body.varint, 0x07: message, 0x09: hop, 0x0B: put, 0x0D: fetch, 0x0F: mirror,
    0x11: lambda body: body.token([1, 2]), 0x13: ok, 0x15: holders,
    0x17: lambda body: (body.varint(), body.token([1, 2])), 0x19: error, 0x1B: Body.varint,
    0x1D: list_, 0x1F: stat, 0x23: lambda body: body.token([1, 2]),
    0x25: lambda body: (body.token([1, 2]), body.varint()), 0x27: listed,
}  # fmt: skip


def parse_record(data):
    head = Body(data)
    number, length = head.varint(), head.varint()
    refuse_if(number % 2 and number not in RECORDS, UNKNOWN)
    refuse_if(length > (65578 if number == 0x07 else 65536), LIMIT)
    body = Body(head.take(length))
    head.end()
    if number in RECORDS:
        RECORDS[number](body)
        body.end()


def check_records(vectors):
    for entry in vectors["records"]:
        parse_record(bytes.fromhex(entry["hex"]))
    check_refused(vectors, parse_record)


# --- The run ---


class Differs(Exception):
    """A vector that this reader reads otherwise."""


def same(entry, key, found):
    if entry.get(key) != found:
        said = json.dumps(entry.get(key))
        raise Differs(f"{entry['name']}: {key} is {said[:200]} there and {json.dumps(found)[:200]} here")


def check_refused(vectors, parse):
    for entry in vectors["refused"]:
        try:
            parse(bytes.fromhex(entry["hex"]))
            found = None
        except Refused as refused:
            found = refused.args[0]
        same(entry, "error", found)


def payload(seed, length):
    """Byte i is seed + 31 i + 7 (i / 2^8) + 101 (i / 2^14) modulo 256."""
    return bytes((seed + 31 * i + 7 * (i >> 8) + 101 * (i >> 14)) & 255 for i in range(length))


CHECKS = {
    "cid.json": lambda vectors: cid.check(vectors, same),
    "descriptors.json": check_descriptors,
    "encodings.json": check_encodings,
    "parity.json": check_parity,
    "records.json": check_records,
}


def main():
    directory = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else __file__).resolve()
    directory = directory if directory.is_dir() else directory.parent
    failed = 0
    for name, check in CHECKS.items():
        try:
            vectors = json.loads((directory / name).read_text())
            check(vectors)
            print(f"{name}: {sum(map(len, vectors.values()))} vectors agree")
        except Differs as differs:
            failed += 1
            print(f"{name}: {differs}", file=sys.stderr)
        except Refused as refused:
            failed += 1
            print(f"{name}: a valid vector is refused here with {refused.args[0]:02x}", file=sys.stderr)
    sys.exit(1 if failed else 0)


main()
