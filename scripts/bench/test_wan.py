"""Tests of what the wan rows make of what they are told: names, goodput, whether the long path kept up, the section of the page."""

import unittest

from harness import Failed
from results import spliced
from wan import COLD_S, STEADY_S, Overrun, goodput, kept_up
from wan_docs import HEADING, NEXT, lines, section
from wan_rows import WHO, Path, parse, rows

REPORT = {"at_s": 1.0, "taken": 0, "released": 0, "tail_dropped": 0, "lost": 0, "held_back": 0}
REPORT |= {"too_large": 0, "refused": 0, "late": 0, "late_us_max": 0, "socket_dropped": 0}


def environment():
    words = {key: key for key in ("date", "commit", "quinn", "s2n_quic", "quiche", "build", "kernel", "cpu")}
    return words | {"rounds": 1, "cores": 2}


def figures(gbit_per_s):
    conditions = {"payload": "one connection; 4 s count; as it is"}
    return {"conditions": conditions, "gbit_per_s": gbit_per_s, "cold_gbit_per_s": gbit_per_s}


class Wan(unittest.TestCase):
    def test_every_row_is_read_as_it_was_named(self):
        for row in rows():
            path = parse(row)
            self.assertEqual(f"wan-{path.who}-{path.name}", row)
        self.assertEqual(len(rows()), len(set(rows())))
        self.assertEqual(parse("wan-stoq-reserved-300M-50ms-0.1%"), Path("stoq-reserved", 300, 50, "0.1", False))

    def test_names_that_say_no_path_are_refused(self):
        for row in ("wan-udp-300M-50ms", "wan-stoq-300-50ms", "wan-stoq-0M-50ms", "wan-stoq-300M", "get-1500"):
            self.assertIsNone(parse(row), row)

    def test_the_buffer_is_one_product(self):
        self.assertEqual(parse("wan-quinn-300M-50ms").buffer_bytes, 1_875_000)
        self.assertEqual(parse("wan-quinn-1M-1ms").buffer_bytes, 20 * 1538)

    def test_goodput_is_counted_from_the_first_byte_and_between_lines(self):
        # 10 MB a second when cold, then 30.
        told = [{"at_s": 5 + s / 10, "bytes": 1_000_000 * (s if s < 30 else 3 * s - 60)} for s in range(90)]
        found = goodput(told)
        self.assertAlmostEqual(found["cold_gbit_per_s"], 0.08)
        self.assertAlmostEqual(found["gbit_per_s"], 0.24)
        self.assertEqual(found["bytes"], 10_000_000 * COLD_S + 30_000_000 * STEADY_S)

    def test_a_receiver_that_falls_silent_gets_nothing(self):
        self.assertEqual(goodput([{"at_s": 1.0, "bytes": 10}, {"at_s": 1.5, "bytes": 3000}])["gbit_per_s"], 0)

    def test_a_path_that_was_late_or_lost_frames_says_nothing(self):
        before = [REPORT | {"late": 5, "late_us_max": 9000, "socket_dropped": 3}]

        def judge(**more):
            return kept_up(before, [*before, before[0] | {"released": 10_000, "late_us_max": 0, **more}])

        self.assertEqual(judge(late=105)["late"], 100)
        self.assertEqual(judge(late_us_max=70)["late_us_max"], 70)
        for more in ({"late": 106}, {"late_us_max": 10_001}, {"socket_dropped": 4}, {"refused": 1}):
            with self.assertRaises(Overrun):
                judge(**more)
        for more in ({"too_large": 1}, {"released": 0}):
            with self.assertRaises(Failed):
                judge(**more)

    def test_the_section_has_a_figure_or_the_reason_for_each_row(self):
        missing = {
            "wan-tcp-bbr-300M-50ms": [{"kind": "absent", "why": "this kernel has no bbr"}],
            "wan-quinn-300M-50ms": [{"kind": "thrown away", "why": "frames were late"}],
        }
        measured = {"wan-stoq-300M-50ms": figures([0.1, 0.25, 0.2]), "wan-quinn-300M-50ms": figures([0.03])}
        text = "\n".join(section({"environment": environment(), "rows": measured, "missing": missing}))
        self.assertIn("| 300M-50ms | 200 | absent | 30 (1 thrown away) |", text)
        self.assertIn("- `wan-quinn-300M-50ms`: frames were late", text)
        self.assertEqual(list(section({"environment": {}, "rows": {"ping": {}}, "missing": {}})), [])

    def test_the_section_replaces_itself_and_nothing_else(self):
        page = f"# A\n\n## B\n\nb\n\n{NEXT}\n\nc\n"
        once = spliced(page, HEADING, NEXT, f"{HEADING}\n\none\n\n")
        self.assertEqual(once, f"# A\n\n## B\n\nb\n\n{HEADING}\n\none\n\n{NEXT}\n\nc\n")
        self.assertEqual(spliced(once, HEADING, NEXT, f"{HEADING}\n\none\n\n"), once)

    def test_a_picture_leaves_out_what_was_not_measured(self):
        drawn = lines("t", "u", ["a", "b", "c"], [("one", "#000", [1, None, 3]), ("two", "#111", [None, None, 2])], "n")
        self.assertEqual(drawn.count("<circle"), 3)
        self.assertNotIn("None", drawn)

    def test_every_stack_is_among_the_rows(self):
        self.assertEqual({parse(row).who for row in rows()}, set(WHO))
