//! A verify thread under virtual time: it ends checks in any order, and late.

use std::time::{Duration, Instant};
use stoq::queue::{GroupCheck, GroupCheckQueue};

/// A verify thread that the test turns.
pub(crate) struct Verifier {
    /// `None` once the thread has ended.
    queue: Option<GroupCheckQueue>,
    /// The pieces that it has, each with the time at which its check ends.
    pub(crate) held: Vec<(Instant, GroupCheck)>,
    delay_max: Duration,
    random: u64,
    /// The most pieces that it had at once.
    pub(crate) held_max: usize,
}

impl Verifier {
    pub(super) fn new(queue: GroupCheckQueue, seed: u64, delay_max: Duration) -> Self {
        Self { queue: Some(queue), held: Vec::new(), delay_max, random: seed | 1, held_max: 0 }
    }

    pub(super) fn turn(&mut self, now: Instant) -> bool {
        let before = self.held.len();
        while let Some(check) = self.queue.as_ref().and_then(GroupCheckQueue::take) {
            // A multiplicative generator: the high bits are the random ones.
            self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let delay = self.delay_max.mul_f64((self.random >> 40) as f64 / f64::from(1 << 24));
            self.held.push((now + delay, check));
        }
        self.held_max = self.held_max.max(self.held.len());
        let taken = self.held.len() - before;
        let due: Vec<_> = self.held.extract_if(.., |(at, _)| *at <= now).collect();
        let ended = due.len();
        // Those that end at once end in the reverse order.
        due.into_iter().rev().for_each(|(_, check)| check.run());
        taken + ended > 0
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.held.iter().map(|(at, _)| *at).min()
    }

    /// The thread ends, as by a panic, with all that it has.
    #[allow(dead_code, reason = "not every suite has verify threads")]
    pub(crate) fn die(&mut self) {
        self.held.clear();
        self.queue = None;
    }
}
