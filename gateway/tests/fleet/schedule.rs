//! What is to happen in a world, in the order of its time.

use std::collections::BTreeMap;
use std::time::Duration;

/// What is to happen; at one moment, in the order in which it was added.
pub(crate) struct Schedule<T> {
    happenings: BTreeMap<(Duration, u64), T>,
    added: u64,
}

impl<T> Default for Schedule<T> {
    fn default() -> Self {
        Self { happenings: BTreeMap::new(), added: 0 }
    }
}

impl<T> Schedule<T> {
    pub(crate) fn push(&mut self, at: Duration, happening: T) {
        self.added += 1;
        self.happenings.insert((at, self.added), happening);
    }

    /// The next one up to this time, with its own.
    pub(crate) fn pop_until(&mut self, end: Duration) -> Option<(Duration, T)> {
        let next = self.happenings.first_entry().filter(|next| next.key().0 <= end)?;
        let ((at, _), happening) = next.remove_entry();
        Some((at, happening))
    }
}
