//! The queues whose workers have ended, on their way to another worker.

use crate::sync::{AtomicUsize, Mutex, Ordering, PoisonError};

/// The queues that no worker polls. Each worker looks at it in each burst.
#[derive(Debug)]
pub(super) struct LeftQueues<Q> {
    len: AtomicUsize,
    queues: Mutex<Vec<Q>>,
}

impl<Q> Default for LeftQueues<Q> {
    fn default() -> Self {
        Self { len: AtomicUsize::new(0), queues: Mutex::new(Vec::new()) }
    }
}

impl<Q> LeftQueues<Q> {
    /// Leaves these behind.
    pub(super) fn leave(&self, own: &mut Vec<Q>) {
        let mut queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        queues.append(own);
        self.len.store(queues.len(), Ordering::Relaxed);
    }

    /// Takes over those that are left; where there are none, the call costs one relaxed load.
    #[inline]
    pub(super) fn take_over(&self, own: &mut Vec<Q>) {
        if self.len.load(Ordering::Relaxed) > 0 {
            let mut queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
            self.len.store(0, Ordering::Relaxed);
            own.append(&mut queues);
        }
    }
}
