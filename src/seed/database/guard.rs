//! Calls of redb, which panics where a page is damaged in some ways.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};

thread_local! {
    static CATCHES: Cell<bool> = const { Cell::new(false) };
}

/// Runs a call of redb. A panic of it is an error of the database, and not of this program.
pub(super) fn guarded<T>(run: impl FnOnce() -> Result<T, redb::Error>) -> Result<T, redb::Error> {
    let outer = CATCHES.replace(true);
    let result = catch_unwind(AssertUnwindSafe(run));
    CATCHES.set(outer);
    result.unwrap_or_else(|_| damaged_page())
}

/// The error of a page that is not what was written.
pub(super) fn damaged_page<T>() -> Result<T, redb::Error> {
    Err(redb::Error::Corrupted("a page of it is damaged".into()))
}

/// Whether a panic of this thread is caught now, and is an error of a store's database: a hook of panics then only reports it.
pub fn catches_panics() -> bool {
    CATCHES.get()
}

/// A database of redb. It may panic where it is closed, too.
#[derive(Debug)]
pub(in crate::seed) struct GuardedDatabase(Option<redb::Database>);

impl GuardedDatabase {
    pub(super) fn new(database: redb::Database) -> Self {
        Self(Some(database))
    }

    /// The database.
    ///
    /// # Errors
    /// None: it is there until it is dropped.
    pub(super) fn get(&self) -> Result<&redb::Database, redb::Error> {
        self.0.as_ref().ok_or_else(|| redb::Error::Corrupted("it is closed".into()))
    }
}

impl Drop for GuardedDatabase {
    fn drop(&mut self) {
        let database = self.0.take();
        let close = || {
            drop(database);
            Ok(())
        };
        if let Err(error) = guarded(close) {
            tracing::error!(%error, "the store's database cannot be closed as it should be");
        }
    }
}
