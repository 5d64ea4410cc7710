//! Counts reloads: the reload itself counts, and the admin endpoint shows the counts.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// The reloads of a gateway since it was started.
#[derive(Debug, Default)]
pub struct Reloads {
    reloads: AtomicU64,
    failures: AtomicU64,
    refused_last: AtomicBool,
}

impl Reloads {
    /// Reloads that took effect.
    pub fn reloads(&self) -> u64 {
        self.reloads.load(Ordering::Relaxed)
    }

    /// Reloads that were refused, and changed nothing.
    pub fn failures(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }

    /// Whether the latest reload took effect. True before the first.
    pub fn last_was_taken(&self) -> bool {
        !self.refused_last.load(Ordering::Relaxed)
    }

    pub(crate) fn count(&self, taken: bool) {
        let count = if taken { &self.reloads } else { &self.failures };
        count.fetch_add(1, Ordering::Relaxed);
        self.refused_last.store(!taken, Ordering::Relaxed);
    }
}
