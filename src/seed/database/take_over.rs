//! The database takes over what a journal has, on a thread of its own: commits go on meanwhile.

use super::guard::GuardedDatabase;
use super::journal::JournalNote;
use super::opened::write;
use super::table::Changes;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// See the module.
#[derive(Debug)]
pub(super) struct TakeOver {
    pub(super) database: Arc<GuardedDatabase>,
    changes: Arc<Changes>,
    note: JournalNote,
    /// `None` until it ends.
    ended: Mutex<Option<Result<(), redb::Error>>>,
    signal: Condvar,
}

impl TakeOver {
    pub(super) fn new(database: Arc<GuardedDatabase>, changes: Arc<Changes>, note: JournalNote) -> Arc<Self> {
        Arc::new(Self { database, changes, note, ended: Mutex::default(), signal: Condvar::new() })
    }

    /// Writes it, on another thread if there is one to be had.
    pub(super) fn start(self: Arc<Self>, beside: bool) {
        let other = self.clone();
        let run = move || other.run();
        if !beside || std::thread::Builder::new().name("stoq-journal".into()).spawn(run).is_err() {
            self.run();
        }
    }

    fn run(&self) {
        let written = write(&self.database, &[&self.changes], &self.note);
        *self.ended() = Some(written);
        self.signal.notify_all();
    }

    fn ended(&self) -> MutexGuard<'_, Option<Result<(), redb::Error>>> {
        self.ended.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it has ended.
    pub(super) fn is_over(&self) -> bool {
        self.ended().is_some()
    }

    /// What came of it, once: `None` while it runs.
    pub(super) fn take_result(&self) -> Option<Result<(), redb::Error>> {
        self.ended().take()
    }

    /// Waits for its end.
    pub(super) fn wait(&self) {
        let mut ended = self.ended();
        while ended.is_none() {
            ended = self.signal.wait(ended).unwrap_or_else(PoisonError::into_inner);
        }
    }
}
