//! Computes by the clock how many packets are due.

use std::time::{Duration, Instant};

/// How far behind its rate a generator may fall and still catch up. After a longer pause of the generator the
/// rest is given up, so that no unintended burst follows.
const CATCH_UP: Duration = Duration::from_millis(1);
/// Packets that may always be caught up with: one burst.
const CATCH_UP_LEN_MIN: u64 = 64;

/// A token bucket in packets a second, filled by the clock alone: the due packets depend on the time of the
/// call, not on the number of calls.
#[derive(Clone, Debug)]
pub struct Pace {
    per_s: Option<f64>,
    started: Instant,
    /// Made, or given up.
    spent: u64,
    given_up: u64,
}

impl Pace {
    /// `per_s` packets a second from `started` on; 0 for the highest possible rate.
    pub fn new(per_s: f64, started: Instant) -> Self {
        Self { per_s: (per_s > 0.0).then_some(per_s), started, spent: 0, given_up: 0 }
    }

    /// When it began.
    pub fn started(&self) -> Instant {
        self.started
    }

    /// Packets that should have been made by `now`; none without a rate.
    pub fn intended(&self, now: Instant) -> Option<u64> {
        self.per_s.map(|per_s| (now.saturating_duration_since(self.started).as_secs_f64() * per_s) as u64)
    }

    /// Packets to make now, at most `max`.
    pub fn due(&self, now: Instant, max: u64) -> u64 {
        self.intended(now).map_or(max, |intended| intended.saturating_sub(self.spent).min(max))
    }

    /// Notes that `count` were made.
    pub fn made(&mut self, count: u64) {
        self.spent += count;
    }

    /// Gives up packets that are too late to catch up with. Returns their number.
    pub fn give_up(&mut self, now: Instant) -> u64 {
        let (Some(per_s), Some(intended)) = (self.per_s, self.intended(now)) else { return 0 };
        let allowed = ((CATCH_UP.as_secs_f64() * per_s) as u64).max(CATCH_UP_LEN_MIN);
        let late = intended.saturating_sub(self.spent).saturating_sub(allowed);
        self.spent += late;
        self.given_up += late;
        late
    }

    /// Packets given up so far.
    pub fn given_up(&self) -> u64 {
        self.given_up
    }

    /// When the next packet is due; none without a rate, because then it always is.
    pub fn next(&self) -> Option<Instant> {
        self.per_s.map(|per_s| self.started + Duration::from_secs_f64((self.spent + 1) as f64 / per_s))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const S: Duration = Duration::from_secs(1);

    #[test]
    fn the_rate_and_the_clock_decide_how_many_are_due() {
        let start = Instant::now();
        let mut pace = Pace::new(1000.0, start);
        assert_eq!(pace.due(start, u64::MAX), 0);
        assert_eq!(pace.due(start + S, u64::MAX), 1000);
        assert_eq!(pace.due(start + S, 64), 64);
        pace.made(64);
        assert_eq!(pace.due(start + S, u64::MAX), 936);
        // More than was due, as with flights of two datagrams: the next ones wait.
        pace.made(1000);
        assert_eq!(pace.due(start + S, u64::MAX), 0);
        assert_eq!(pace.due(start + 2 * S, u64::MAX), 936);
    }

    #[test]
    fn without_a_rate_any_number_is_due_and_nothing_is_late() {
        let start = Instant::now();
        let mut pace = Pace::new(0.0, start);
        assert_eq!((pace.due(start, 64), pace.intended(start + S), pace.next()), (64, None, None));
        assert_eq!(pace.give_up(start + S), 0);
    }

    #[test]
    fn after_a_pause_all_but_a_few_packets_are_given_up() {
        let start = Instant::now();
        let mut pace = Pace::new(1_000_000.0, start);
        assert_eq!(pace.give_up(start + CATCH_UP), 0);
        assert_eq!(pace.give_up(start + S), 999_000);
        assert_eq!(pace.due(start + S, u64::MAX), 1000);
        assert_eq!(pace.given_up(), 999_000);
        // At a low rate one burst may always be caught up with.
        let mut slow = Pace::new(10.0, start);
        assert_eq!((slow.give_up(start + S), slow.due(start + S, u64::MAX)), (0, 10));
    }

    proptest! {
        #[test]
        fn every_intended_packet_is_made_or_given_up_or_can_be_caught_up_with(
            per_s in 1.0f64..5e6, steps in proptest::collection::vec((1u64..5_000_000, 0u64..200), 1..200),
        ) {
            let start = Instant::now();
            let (mut pace, mut now, mut made, mut late) = (Pace::new(per_s, start), start, 0, 0);
            for (nanos, max) in steps {
                now += Duration::from_nanos(nanos);
                late += pace.give_up(now);
                let due = pace.due(now, max);
                pace.made(due);
                made += due;
            }
            let intended = pace.intended(now).unwrap();
            prop_assert!(made + late <= intended);
            // The rest can still be caught up with.
            let allowed = ((per_s * CATCH_UP.as_secs_f64()) as u64).max(CATCH_UP_LEN_MIN);
            prop_assert!(intended - made - late <= allowed);
            prop_assert_eq!(late, pace.given_up());
        }
    }
}
