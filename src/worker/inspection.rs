//! How the admin endpoint sees a worker's connections.

use super::view::ConnectionView;
use crate::sync::{AtomicBool, Mutex, Ordering, PoisonError};
use tokio::sync::oneshot;

/// A request to see a worker's connections, and the way of its answer.
#[derive(Debug, Default)]
pub struct Inspection {
    /// Read each turn; the lock is taken only if it is set.
    wanted: AtomicBool,
    asker: Mutex<Option<oneshot::Sender<Vec<ConnectionView>>>>,
}

impl Inspection {
    /// Asks the worker for its first [`crate::limits::INSPECTION_LEN_MAX`] connections; it answers in one of its next turns. An earlier
    /// call that has no answer yet gets none.
    pub fn ask(&self) -> oneshot::Receiver<Vec<ConnectionView>> {
        let (asker, answer) = oneshot::channel();
        *self.asker.lock().unwrap_or_else(PoisonError::into_inner) = Some(asker);
        self.wanted.store(true, Ordering::Release);
        answer
    }

    pub(super) fn is_wanted(&self) -> bool {
        self.wanted.load(Ordering::Relaxed)
    }

    pub(super) fn answer(&self, views: Vec<ConnectionView>) {
        // The inspector holds the lock only for a moment: the next turn answers.
        if let Ok(mut asker) = self.asker.try_lock() {
            self.wanted.store(false, Ordering::Relaxed);
            if let Some(asker) = asker.take() {
                let _ = asker.send(views);
            }
        }
    }
}
