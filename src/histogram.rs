//! A histogram whose buckets end at powers of two: one add counts a value. Written by one thread, read by
//! any.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Buckets: the last ends at 2^39, which is nine minutes in nanoseconds. Larger values count only in the sum
/// and the count.
const BUCKETS: usize = 40;

/// See the module.
#[derive(Debug)]
pub struct Histogram {
    /// Values up to 2^i and above 2^(i-1); the last place holds the larger ones.
    buckets: [AtomicU64; BUCKETS + 1],
    sum: AtomicU64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { buckets: std::array::from_fn(|_| AtomicU64::new(0)), sum: AtomicU64::new(0) }
    }
}

impl Histogram {
    /// Counts a value. One writer: plain loads and stores.
    #[inline]
    pub fn record(&self, value: u64) {
        let index = value.saturating_sub(1).checked_ilog2().map_or(0, |log| log as usize + 1).min(BUCKETS);
        let cell = &self.buckets[index];
        cell.store(cell.load(Relaxed).wrapping_add(1), Relaxed);
        self.sum.store(self.sum.load(Relaxed).wrapping_add(value), Relaxed);
    }

    /// The sum of all values.
    pub fn sum(&self) -> u64 {
        self.sum.load(Relaxed)
    }

    /// For each exponent from `low` to `high`, the number of values that are at most two to its power; then
    /// the number of all values.
    pub fn cumulative(&self, low: usize, high: usize) -> (Vec<u64>, u64) {
        let counts = self.buckets.each_ref().map(|cell| cell.load(Relaxed));
        let until = |exponent: usize| counts[..=exponent.min(BUCKETS - 1)].iter().sum();
        ((low..=high).map(until).collect(), counts.iter().sum())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_counts_up_to_the_power_of_two_that_holds_it() {
        let histogram = Histogram::default();
        for value in [0, 1, 2, 3, 4, 5, 64, 65, u64::from(u32::MAX)] {
            histogram.record(value);
        }
        assert_eq!(histogram.cumulative(0, 7), (vec![2, 3, 5, 6, 6, 6, 7, 8], 9));
        assert_eq!(histogram.sum(), 144 + u64::from(u32::MAX));
        histogram.record(u64::MAX / 2);
        let (buckets, count) = histogram.cumulative(32, 39);
        assert_eq!((buckets[0], buckets[7], count), (9, 9, 10));
    }
}
