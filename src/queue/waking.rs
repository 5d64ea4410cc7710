//! Sleep without a lock, and a wake that costs little if the thread does not sleep.

use crossbeam_utils::sync::{Parker, Unparker};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};
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

    /// Sleeps for at most `limit`, unless `ready` holds already or a wake comes. `ready` is called after the flag
    /// is set: no push between the last check and the sleep is missed.
    pub fn sleep(&self, limit: Duration, ready: impl Fn() -> bool) {
        self.waker.sleeping.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        if !ready() {
            self.parker.park_timeout(limit);
        }
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
