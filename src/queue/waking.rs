//! Sleep without a lock, and a wake that costs little if the thread does not sleep.

use crate::sync::{Arc, AtomicBool, Ordering, Parker, Unparker, fence};
use std::time::Duration;

/// Wakes a thread that sleeps on its rings; costs a fence if it does not sleep.
#[derive(Clone, Debug)]
pub struct Waker {
    sleeping: Arc<AtomicBool>,
    unparker: Unparker,
}

/// The sleeping side of a [`Waker`].
#[derive(Debug)]
pub struct Sleeper {
    waker: Waker,
    parker: Parker,
}

impl Default for Sleeper {
    fn default() -> Self {
        let parker = Parker::new();
        let waker = Waker { sleeping: Arc::default(), unparker: parker.unparker().clone() };
        Self { waker, parker }
    }
}

impl Sleeper {
    /// A handle that ends the sleep.
    pub fn waker(&self) -> Waker {
        self.waker.clone()
    }

    /// Sleeps for at most `limit`, unless `ready` holds already or a wake comes. `ready` is called after the flag is set: it must look at
    /// everything that a thread changes before it calls [`Waker::wake`], or the change is seen only after `limit`.
    pub fn sleep(&self, limit: Duration, ready: impl FnOnce() -> bool) {
        self.begin();
        if !ready() {
            self.park(limit);
        }
        self.end();
    }

    /// Sets the flag: a wake from now on is not lost. [`Sleeper::end`] follows.
    pub(super) fn begin(&self) {
        self.waker.sleeping.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    pub(super) fn park(&self, limit: Duration) {
        self.parker.park_timeout(limit);
    }

    pub(super) fn end(&self) {
        self.waker.sleeping.store(false, Ordering::Relaxed);
    }
}

impl Waker {
    /// Ends the sleep, if there is one.
    pub fn wake(&self) {
        fence(Ordering::SeqCst);
        if self.sleeping.load(Ordering::Relaxed) && self.sleeping.swap(false, Ordering::AcqRel) {
            self.unparker.unpark();
        }
    }
}
