"""Tests of the search in ndr.py, against receivers that are formulas."""

import random
import unittest

from ndr import Trial, search


def receiver(capacity, generator=float("inf"), noise=None):
    """A receiver and a generator, each with a capacity a second."""

    def trial(rate, seconds):
        intended = int(rate * seconds)
        offered = int(min(rate, generator) * seconds)
        received = min(offered, int(capacity * seconds))
        if noise and noise.random() < 0.2:
            received -= min(received, 3)
        return Trial(rate, seconds, intended, offered, received)

    return trial


class Search(unittest.TestCase):
    def test_ndr_and_pdr_lie_within_the_width_of_what_the_receiver_takes(self):
        for capacity in [1_500, 40_000, 333_333, 1_900_000]:
            with self.subTest(capacity=capacity):
                found = search(receiver(capacity), 2_000_000, width=0.02)
                self.assertLessEqual(found["ndr"], capacity)
                self.assertGreaterEqual(found["ndr"], capacity * 0.97)
                # PDR: as much more as may be lost.
                self.assertLessEqual(found["pdr"], capacity / 0.995 + 1)
                self.assertGreaterEqual(found["pdr"], found["ndr"] * 0.97)
                self.assertFalse(found["pdr_generator_bound"])

    def test_a_receiver_that_takes_all_is_bound_by_the_ceiling(self):
        found = search(receiver(1e9), 100_000)
        self.assertEqual((found["ndr"], found["pdr"]), (100_000, 100_000))
        self.assertTrue(found["pdr_generator_bound"])

    def test_a_generator_that_cannot_keep_up_is_named_and_not_the_receiver(self):
        found = search(receiver(1e9, generator=50_000), 100_000)
        self.assertTrue(found["pdr_generator_bound"])
        self.assertLessEqual(found["ndr"], 50_500)
        self.assertGreaterEqual(found["ndr"], 46_000)

    def test_a_receiver_that_takes_nothing_has_no_rate(self):
        found = search(receiver(0), 100_000)
        self.assertEqual((found["ndr"], found["pdr"]), (None, None))
        self.assertLess(len(found["trials"]), 60)

    def test_every_result_held_in_a_trial_of_full_length(self):
        noise = random.Random(7)
        for _ in range(50):
            found = search(receiver(200_000, noise=noise), 500_000, seconds=4, short=1)
            for name, loss in [("ndr", 0), ("pdr", 0.005)]:
                if found[name] is not None:
                    full = [t for t in found["trials"] if t["rate"] == found[name] and t["seconds"] == 4]
                    self.assertTrue(any(trial["loss"] <= loss for trial in full))
                    # And no rate below it failed.
                    failed = [t["rate"] for t in found["trials"] if t["loss"] > loss]
                    self.assertTrue(all(rate > found[name] for rate in failed))

    def test_single_losses_spoil_ndr_and_not_pdr(self):
        def trial(rate, seconds):
            offered = int(rate * seconds)
            lost = 1 if rate > 10_000 else 0
            return Trial(rate, seconds, offered, offered, min(offered - lost, int(100_000 * seconds)))

        found = search(trial, 200_000)
        self.assertTrue(9_000 <= found["ndr"] <= 10_000)
        self.assertGreater(found["pdr"], 95_000)

    def test_a_pause_at_any_rate_leaves_no_ndr(self):
        def trial(rate, seconds):
            offered = int(rate * seconds)
            return Trial(rate, seconds, offered, offered, offered - 1)

        self.assertIsNone(search(trial, 200_000)["ndr"])

    def test_a_rate_that_held_briefly_and_fails_in_full_is_taken_back(self):
        def trial(rate, seconds):
            offered = int(rate * seconds)
            # A buffer hides what a short trial offers too much.
            return Trial(rate, seconds, offered, offered, min(offered, int(100_000 * seconds) + 50_000))

        found = search(trial, 400_000, seconds=10, short=1)
        self.assertLessEqual(found["ndr"], 105_000)
        self.assertGreaterEqual(found["ndr"], 80_000)

    def test_the_search_ends_however_the_receiver_behaves(self):
        noise = random.Random(3)
        for _ in range(100):
            trial = lambda rate, seconds: Trial(rate, seconds, 1000, 1000, noise.choice([0, 999, 1000]))
            self.assertLessEqual(len(search(trial, 1000, trials_max=40)["trials"]), 40)

    def test_what_cannot_be_searched_is_refused(self):
        for wrong in [{"ceiling": 0}, {"ceiling": 1, "width": 0}, {"ceiling": 1, "seconds": 1, "short": 2}]:
            with self.assertRaises(ValueError):
                search(receiver(1), **wrong)

    def test_trials_are_bounded_by_the_width(self):
        found = search(receiver(123_456), 2_000_000, width=0.05)
        self.assertLess(len(found["trials"]), 20)


class Trials(unittest.TestCase):
    def test_loss_is_of_what_was_offered(self):
        self.assertEqual(Trial(10, 1, 10, 8, 6).loss, 0.25)
        self.assertEqual(Trial(10, 1, 10, 8, 9).loss, 0)
        self.assertEqual(Trial(10, 1, 10, 0, 0).loss, 1)

    def test_a_trial_is_reached_when_the_generator_offered_nearly_all(self):
        self.assertTrue(Trial(100, 1, 100, 99, 0).reached(0.01))
        self.assertFalse(Trial(100, 1, 100, 98, 98).reached(0.01))


if __name__ == "__main__":
    unittest.main()
