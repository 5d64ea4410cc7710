//! The memory that the windows of all connections may promise beyond their first sizes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// A growing window gets at most one part in this many of the remaining budget: no single connection takes the last bytes.
const PART: u64 = 2;

/// One budget a process. Clones are the same budget.
#[derive(Clone, Debug, Default)]
pub struct Budget(Arc<Account>);

#[derive(Debug, Default)]
struct Account {
    total_bytes: AtomicU64,
    taken_bytes: AtomicU64,
}

impl Budget {
    /// A budget of this many bytes.
    pub fn new(total_bytes: u64) -> Self {
        let budget = Self::default();
        budget.set_total(total_bytes);
        budget
    }

    /// Changes its size, bytes. Bytes already taken stay taken.
    pub fn set_total(&self, total_bytes: u64) {
        self.0.total_bytes.store(total_bytes, Relaxed);
    }

    /// Its size, bytes.
    pub fn total_bytes(&self) -> u64 {
        self.0.total_bytes.load(Relaxed)
    }

    /// The bytes that the windows of all connections promise now beyond their first sizes.
    pub fn taken_bytes(&self) -> u64 {
        self.0.taken_bytes.load(Relaxed)
    }

    /// Takes up to `bytes`; returns the number of bytes taken.
    fn take(&self, bytes: u64) -> u64 {
        let mut taken = 0;
        // These counts order no other memory: only the counts themselves must be right.
        let _ = self.0.taken_bytes.fetch_update(Relaxed, Relaxed, |before| {
            taken = bytes.min(self.total_bytes().saturating_sub(before) / PART);
            Some(before + taken)
        });
        taken
    }

    fn give_back(&self, bytes: u64) {
        self.0.taken_bytes.fetch_sub(bytes, Relaxed);
    }
}

/// One connection's part of a [`Budget`]. Its drop gives it back.
#[derive(Debug)]
pub(crate) struct Share {
    budget: Budget,
    bytes: u64,
}

impl Share {
    pub(crate) fn of(budget: &Budget) -> Self {
        Self { budget: budget.clone(), bytes: 0 }
    }

    /// Makes the share as large as `bytes`, or as large as the budget allows; returns its size, bytes.
    pub(crate) fn resize(&mut self, bytes: u64) -> u64 {
        if bytes < self.bytes {
            self.budget.give_back(self.bytes - bytes);
            self.bytes = bytes;
        } else {
            self.bytes += self.budget.take(bytes - self.bytes);
        }
        self.bytes
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.budget.give_back(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_grows_by_at_most_half_of_the_rest_and_is_given_back() {
        let budget = Budget::new(1000);
        let mut first = Share::of(&budget);
        let mut second = Share::of(&budget);
        assert_eq!(first.resize(100), 100);
        assert_eq!(first.resize(2000), 550);
        assert_eq!(second.resize(2000), 225);
        assert_eq!(budget.taken_bytes(), 775);
        assert_eq!(first.resize(50), 50);
        drop(second);
        assert_eq!(budget.taken_bytes(), 50);
        drop(first);
        assert_eq!(budget.taken_bytes(), 0);
    }

    #[test]
    fn a_budget_smaller_than_the_bytes_taken_gives_nothing() {
        let budget = Budget::new(1000);
        let mut share = Share::of(&budget);
        share.resize(400);
        budget.set_total(100);
        assert_eq!(share.resize(500), 400);
        assert_eq!(share.resize(300), 300);
        assert_eq!(share.resize(400), 300);
    }
}
