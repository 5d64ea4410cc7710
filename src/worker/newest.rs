//! A value that one thread renews now and then, and that workers look for in each turn.

use crate::sync::{Arc, AtomicU32, Mutex, Ordering, PoisonError};

/// The newest of the values so far.
#[derive(Debug)]
pub(super) struct NewestValue<T> {
    /// The number of the newest one, which counts from 1; 0: there was none.
    number: AtomicU32,
    /// The same number, and the value.
    slot: Mutex<(u32, Option<Arc<T>>)>,
}

impl<T> Default for NewestValue<T> {
    fn default() -> Self {
        Self { number: AtomicU32::new(0), slot: Mutex::new((0, None)) }
    }
}

impl<T> NewestValue<T> {
    pub(super) fn put(&self, value: Arc<T>) {
        let mut slot = self.slot.lock().unwrap_or_else(PoisonError::into_inner);
        let number = slot.0.wrapping_add(1);
        *slot = (number, Some(value));
        self.number.store(number, Ordering::Release);
    }

    /// The newest value, if its number is not `seen`; otherwise the call costs one relaxed load.
    pub(super) fn newer(&self, seen: &mut u32) -> Option<Arc<T>> {
        if self.number.load(Ordering::Relaxed) == *seen {
            return None;
        }
        let (number, value) = self.slot.lock().unwrap_or_else(PoisonError::into_inner).clone();
        *seen = number;
        value
    }
}
