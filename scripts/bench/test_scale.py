"""Tests of the scale rows' names and of their section."""

import unittest

from scale import parse, rows
from scale_docs import HEADING, section


class Names(unittest.TestCase):
    def test_every_row_is_read_as_it_is_named(self):
        self.assertTrue(all(map(parse, rows())))
        self.assertEqual(len(set(rows())), len(rows()))
        self.assertEqual(parse("scale-message-1500-w4"), ("message", 1500, 4, 0, 4))
        self.assertEqual(parse("scale-file-get-9000-w2-v1-q1"), ("file-get", 9000, 2, 1, 1))
        for row in (
            "scale-message-1500",
            "scale-message-1400-w1",
            "scale-ping-1500-w1",
            "message-1500",
            "scale-put-1500-w0",
        ):
            self.assertIsNone(parse(row), row)


class Section(unittest.TestCase):
    def test_a_line_has_the_ratios_to_one_worker_and_what_is_missing(self):
        keys = ("date", "commit", "build", "dpdk", "kernel", "cpu")
        environment = {**dict.fromkeys(keys, "x"), "rounds": 3, "cores": 4, "beside": {2: 0.9, 4: 0.8}}
        measured = {
            "scale-put-1500-w1": {"gbit_per_s": [4.0, 5.0, 6.0]},
            "scale-put-1500-w2": {"gbit_per_s": [9.0]},
            "scale-put-1500-w1-v1": {"gbit_per_s": [6.0]},
        }
        missing = {"scale-put-1500-w7": [{"kind": "absent", "why": "14 cores"}]}
        text = "\n".join(section([{"environment": environment, "rows": measured, "missing": missing}]))
        self.assertTrue(text.startswith(HEADING))
        self.assertIn("| put, checked and dropped | 1500 | 5.00 (1.00) | 9.00 (1.80) | absent |", text)
        self.assertIn("| put, checked and dropped, a verify thread a worker | 1500 | 6.00 (1.20) |  |  |", text)
        self.assertIn("0.80 on 4 cores", text)
        self.assertIn("- 14 cores", text)
        self.assertEqual(list(section([{"environment": {}, "rows": {}, "missing": {}}])), [])


if __name__ == "__main__":
    unittest.main()
