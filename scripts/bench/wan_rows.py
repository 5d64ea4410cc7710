"""The names of the wan rows, wan-WHO-RATE-RTT[-LOSS][-reorder], and what each says of its path."""

import re
from dataclasses import dataclass

WHO = {
    "stoq": "STOQ put",
    "stoq-reserved": "STOQ put, reserved",
    "tcp-cubic": "TCP cubic",
    "tcp-bbr": "TCP bbr",
    "quinn": "quinn",
    "s2n-quic": "s2n-quic",
    "quiche": "quiche BBR2",
}
RATE_MBIT, RTTS_MS, LOSSES = 300, (10, 50, 100), ("0", "0.1", "1")
#: Beside these: the middle round trip, with frames that are held back.
REORDER_RTT_MS = 50
#: The share of the frames that `-reorder` holds back, and for how long at most.
REORDERING, REORDERING_US = 0.01, 2000
#: A frame of Ethernet has 24 bytes on the medium that no socket sees; of a full packet of 1500 QUIC leaves 1440 to the payload.
FRAME_BYTES, PAYLOAD_BYTES = 1538, 1440


@dataclass(frozen=True)
class Path:
    who: str
    rate_mbit: int
    rtt_ms: int
    loss: str
    reorder: bool

    @property
    def buffer_bytes(self):
        """One product of rate and round-trip time, or twenty frames."""
        return max(self.rate_mbit * self.rtt_ms * 125, 20 * FRAME_BYTES)

    def settings(self, seed):
        """Those of the long path."""
        return {
            "rate_bits_per_s": self.rate_mbit * 1_000_000,
            "delay_us": self.rtt_ms * 500,
            "buffer_bytes": self.buffer_bytes,
            "loss": float(self.loss) / 100,
            "reordering": REORDERING if self.reorder else 0.0,
            "reordering_us": REORDERING_US if self.reorder else 0,
            "seed": seed,
        }

    @property
    def name(self):
        """The path without who uses it: 300M-50ms-0.1%."""
        loss = "" if self.loss == "0" else f"-{self.loss}%"
        return f"{self.rate_mbit}M-{self.rtt_ms}ms{loss}{'-reorder' if self.reorder else ''}"


def parse(row):
    """The path of a row, or nothing where it is no wan row that can be."""
    shape = r"wan-(.+?)-([1-9]\d{0,4})M-([1-9]\d{0,3})ms(?:-(\d{1,2}(?:\.\d+)?)%)?(-reorder)?"
    found = re.fullmatch(shape, row)
    if not found or found[1] not in WHO:
        return None
    return Path(found[1], int(found[2]), int(found[3]), found[4] or "0", bool(found[5]))


def rows():
    """All of them, what is compared side by side in time."""
    shapes = [(rtt, loss, False) for rtt in RTTS_MS for loss in LOSSES] + [(REORDER_RTT_MS, "0", True)]
    return [f"wan-{who}-{Path(who, RATE_MBIT, *shape).name}" for shape in shapes for who in WHO]
