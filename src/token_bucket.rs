//! A bound on the rate of an event.

use std::time::{Duration, Instant};

/// A token bucket: a burst at once, then a steady rate.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TokenBucket {
    each: Duration,
    burst: u32,
    /// When the bucket will be full again.
    full_at: Option<Instant>,
}

impl TokenBucket {
    /// `burst` at once, then `per_s` a second.
    pub(crate) fn new(per_s: u32, burst: u32) -> Self {
        Self { each: Duration::from_secs(1) / per_s.max(1), burst, full_at: None }
    }

    /// `burst` at once, then one in each span.
    pub(crate) fn every(each: Duration, burst: u32) -> Self {
        Self { each, burst, full_at: None }
    }

    /// Takes one; false if none is left.
    pub(crate) fn take(&mut self, now: Instant) -> bool {
        let full_at = self.full_at.map_or(now, |at| at.max(now)) + self.each;
        let allowed = full_at - now <= self.each * self.burst;
        if allowed {
            self.full_at = Some(full_at);
        }
        allowed
    }

    /// Whether none is left.
    pub(crate) fn is_empty(&self, now: Instant) -> bool {
        !self.clone().take(now)
    }

    /// Puts one back that was taken.
    pub(crate) fn put_back(&mut self) {
        self.full_at = self.full_at.and_then(|at| at.checked_sub(self.each));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_and_then_the_rate() {
        let (mut rate, now) = (TokenBucket::new(100, 1000), Instant::now());
        assert_eq!((0..2000).filter(|_| rate.take(now)).count(), 1000);
        let later = now + Duration::from_secs(1);
        assert_eq!((0..2000).filter(|_| rate.take(later)).count(), 100);
    }

    #[test]
    fn what_is_put_back_may_be_taken_again() {
        let (mut rate, now) = (TokenBucket::new(1, 2), Instant::now());
        rate.put_back();
        assert!(!rate.is_empty(now) && rate.take(now) && rate.take(now) && rate.is_empty(now));
        assert!(!rate.take(now));
        rate.put_back();
        assert!(!rate.is_empty(now) && rate.take(now) && !rate.take(now));
        // Nothing is saved up beyond the burst.
        for _ in 0..10 {
            rate.put_back();
        }
        assert_eq!((0..10).filter(|_| rate.take(now)).count(), 2);
    }
}
