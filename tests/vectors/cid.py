"""Connection IDs of a fleet: draft-ietf-quic-load-balancers-21 whole (plaintext, single pass and four passes), and the keys by HKDF.

The library has the single pass alone. AES-128 is written out here, so that this needs no package.
"""

import hashlib
import hmac

ROUNDS = 10


def times_x(value):
    value <<= 1
    return value ^ 0x11B if value >> 8 else value


def s_box():
    """FIPS 197 §5.1.1: the inverse in the field, then an affine map; 3 makes every element but 0."""
    box, p, q = [0x63] * 256, 1, 1
    while True:
        p ^= times_x(p)
        # q is the inverse of p: divided by 3 where p is multiplied by it.
        q ^= q << 1
        q ^= q << 2
        q ^= q << 4
        q &= 255
        q ^= 0x09 if q & 0x80 else 0
        rotated = q ^ turned(q, 1) ^ turned(q, 2) ^ turned(q, 3) ^ turned(q, 4)
        box[p] = rotated ^ 0x63
        if p == 1:
            return box


def turned(value, bits):
    return (value << bits | value >> (8 - bits)) & 255


S_BOX = s_box()


def round_keys(key):
    words, constant = [key[at : at + 4] for at in range(0, 16, 4)], 1
    while len(words) < 4 * (ROUNDS + 1):
        last = words[-1]
        if len(words) % 4 == 0:
            last = bytes(S_BOX[b] for b in last[1:] + last[:1])
            last = bytes([last[0] ^ constant]) + last[1:]
            constant = times_x(constant)
        words.append(xor(words[-4], last))
    return [b"".join(words[at : at + 4]) for at in range(0, len(words), 4)]


def xor(left, right):
    return bytes(a ^ b for a, b in zip(left, right))


def aes(key, block):
    """One block, encrypted (FIPS 197 §5.1). Its octets stand column by column."""
    keys = round_keys(key)
    state = xor(block, keys[0])
    for number in range(1, ROUNDS + 1):
        state = bytes(S_BOX[b] for b in state)
        state = bytes(state[(at + 4 * (at % 4)) % 16] for at in range(16))
        if number < ROUNDS:
            state = b"".join(mixed(state[at : at + 4]) for at in range(0, 16, 4))
        state = xor(state, keys[number])
    return state


def mixed(column):
    total = column[0] ^ column[1] ^ column[2] ^ column[3]
    return bytes(column[i] ^ total ^ times_x(column[i] ^ column[(i + 1) % 4]) for i in range(4))


# FIPS 197, appendix B.
assert aes(
    bytes.fromhex("2b7e151628aed2a6abf7158809cf4f3c"), bytes.fromhex("3243f6a8885a308d313198a2e0370734")
) == bytes.fromhex("3925841d02dc09fbdc118597196a0b32")


def four_passes(key, plain):
    """Section 5.4.2 of the draft. Halves of an odd length share the octet in the middle: left its upper, right its lower four bits."""
    length = len(plain)
    half, is_odd = (length + 1) // 2, length % 2
    left, right = bytearray(plain[:half]), bytearray(plain[length - half :])

    def clear():
        if is_odd:
            left[-1] &= 0xF0
            right[0] &= 0x0F

    def passed(number, source, target):
        expanded = bytes(source).ljust(14, b"\0") + bytes([length, number])
        target[:] = xor(target, aes(key, expanded)[:half])
        clear()

    clear()
    for number in (1, 2, 3, 4):
        passed(number, *((left, right) if number % 2 else (right, left)))
    if is_odd:
        return bytes(left[:-1]) + bytes([left[-1] | right[0]]) + bytes(right[1:])
    return bytes(left + right)


def connection_id(rotation, server_id, nonce, key):
    plain = server_id + nonce
    assert rotation <= 6 and len(server_id) >= 1 and len(nonce) >= 4 and len(plain) <= 19
    first = bytes([rotation << 5 | len(plain)])
    if key is None:
        return first + plain
    return first + (aes(key, plain) if len(plain) == 16 else four_passes(key, plain))


def passes(server_id, nonce, key):
    if key is None:
        return 0
    return 1 if len(server_id + nonce) == 16 else 4


def hkdf(secret, salt, info, length):
    """RFC 5869 with SHA-256; one block is enough here."""
    assert length <= 32
    key = hmac.digest(salt, secret, hashlib.sha256)
    return hmac.digest(key, info + b"\1", hashlib.sha256)[:length]


def fleet_keys(secret, salt, server_id):
    return {
        "cid_key": hkdf(secret, salt, b"stoq fleet 1 cid", 16),
        "token_key": hkdf(secret, salt, b"stoq fleet 1 token", 32),
        "reset_key": hkdf(secret, salt, b"stoq fleet 1 reset" + server_id, 32),
    }


def check(vectors, same):
    """Compares every vector; `same(entry, key, found)` tells a difference."""
    for entry in vectors["cids"]:
        key = entry["key"] and bytes.fromhex(entry["key"])
        server_id, nonce = bytes.fromhex(entry["server_id"]), bytes.fromhex(entry["nonce"])
        same(entry, "passes", passes(server_id, nonce, key))
        same(entry, "cid", connection_id(entry["rotation"], server_id, nonce, key).hex())
        if "worker" in entry:
            assert (len(server_id), len(nonce)) == (3, 13)
            same(entry, "worker", int.from_bytes(nonce[:2], "big"))
    for entry in vectors["keys"]:
        octets = {name: bytes.fromhex(entry[name]) for name in ("secret", "salt", "server_id", "cid")}
        found = fleet_keys(octets["secret"], octets["salt"], octets["server_id"])
        for name, value in found.items():
            same(entry, name, value.hex())
        nonce = entry["worker"].to_bytes(2, "big") + bytes.fromhex(entry["random"])
        cid = connection_id(entry["rotation"], octets["server_id"], nonce, found["cid_key"])
        same(entry, "cid", cid.hex())
        # RFC 9000 §10.3.2: a stateless reset token has 16 octets.
        token = hmac.digest(found["reset_key"], cid, hashlib.sha256)[:16]
        same(entry, "reset_token", token.hex())
