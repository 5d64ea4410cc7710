//! The rows of a store: those of its database, and over them the changes that are not committed yet.
//!
//! A change is seen at once, and is durable after the commit that takes it. One commit takes all changes that were made until it begins. If it
//! fails, they stay changes: the next commit takes them again, with what has become of them since.

use super::guard::GuardedDatabase;
use super::opened::{Database, DatabaseAccess, LatestRows, Row, Snapshot, write};
use super::table::{Changes, StoreTable};
use crate::seed::disk::StoreDisk;
use crate::seed::error::StoreError;
use std::collections::BTreeMap;
use std::ops::Bound::{Excluded, Included, Unbounded};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// See the module.
#[derive(Debug)]
pub(in crate::seed) struct Rows {
    database: Mutex<Database>,
    changed: Changes,
    /// What a commit on some thread is writing.
    committing: Option<Arc<Changes>>,
    /// Whether the file may be written.
    writable: bool,
    /// Why a row could not be read: what was changed since may be wrong, and is not committed.
    fault: Mutex<Option<StoreError>>,
}

/// A commit that is on its way.
pub(in crate::seed) struct Commit {
    changes: Arc<Changes>,
    database: Arc<GuardedDatabase>,
}

impl Commit {
    /// Writes it. Blocks on the disk.
    pub(in crate::seed) fn write(&self) -> Result<(), redb::Error> {
        write(&self.database, &self.changes)
    }
}

impl Drop for Rows {
    fn drop(&mut self) {
        // Payloads that are open keep no file of a store that is closed.
        self.database().latest().close();
    }
}

#[derive(Clone, Copy)]
enum Way {
    Next,
    Previous,
}

impl Rows {
    /// The rows of the store in `dir`.
    pub(in crate::seed) fn open(dir: &Path, disk: &StoreDisk, writable: bool) -> Result<Self, StoreError> {
        let access = if writable { DatabaseAccess::Write } else { DatabaseAccess::Read };
        let database = Mutex::new(Database::open(dir, disk, access)?);
        Ok(Self {
            database,
            changed: Changes::default(),
            committing: None,
            writable,
            fault: Mutex::default(),
        })
    }

    fn database(&self) -> MutexGuard<'_, Database> {
        self.database.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads rows of the database. After an error of the disk it is opened anew, once.
    fn read<T>(&self, read: impl Fn(&Snapshot) -> Result<Option<T>, redb::Error>) -> Option<T> {
        let mut snapshot = self.database().latest().get()?;
        if let Ok(found) = read(&snapshot) {
            return found;
        }
        {
            let mut database = self.database();
            if database.latest().get().is_some_and(|latest| Arc::ptr_eq(&snapshot, &latest))
                && let Err(error) = database.reopen()
            {
                tracing::error!(%error, "the store's database cannot be opened anew");
            }
            snapshot = database.latest().get()?;
        }
        read(&snapshot).unwrap_or_else(|error| {
            let error = self.database().failed(error);
            tracing::error!(%error, "a row of the store's database cannot be read");
            self.fault().get_or_insert(error);
            None
        })
    }

    fn fault(&self) -> MutexGuard<'_, Option<StoreError>> {
        self.fault.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The layers of changes, the newest first.
    fn layers(&self, table: StoreTable) -> impl Iterator<Item = &BTreeMap<Vec<u8>, Option<Vec<u8>>>> {
        [Some(&self.changed), self.committing.as_deref()].into_iter().flatten().map(move |of| of.of(table))
    }

    /// What a row is changed to, if that is not committed yet.
    pub(super) fn uncommitted(&self, table: StoreTable, key: &[u8]) -> Option<&Option<Vec<u8>>> {
        self.layers(table).find_map(|changes| changes.get(key))
    }

    pub(super) fn latest(&self) -> Arc<LatestRows> {
        self.database().latest().clone()
    }

    /// The value of a row.
    pub(in crate::seed) fn get(&self, table: StoreTable, key: &[u8]) -> Option<Vec<u8>> {
        match self.uncommitted(table, key) {
            Some(changed) => changed.clone(),
            None => self.read(|snapshot| snapshot.get(table, key)),
        }
    }

    /// The first row at `from` or after it.
    pub(in crate::seed) fn next(&self, table: StoreTable, from: &[u8]) -> Option<Row> {
        self.step(table, Way::Next, from)
    }

    /// The last row before `end`.
    pub(in crate::seed) fn previous(&self, table: StoreTable, end: &[u8]) -> Option<Row> {
        self.step(table, Way::Previous, end)
    }

    fn step(&self, table: StoreTable, way: Way, at: &[u8]) -> Option<Row> {
        let mut at = at.to_vec();
        loop {
            let of_database = self.read(|snapshot| match way {
                Way::Next => snapshot.next(table, &at),
                Way::Previous => snapshot.previous(table, &at),
            });
            let mut first = of_database.map(|(key, value)| (key, Some(value)));
            let at_ = at.as_slice();
            // The oldest layer first: of one row the newest counts.
            for changes in self.layers(table).collect::<Vec<_>>().into_iter().rev() {
                let found = match way {
                    Way::Next => changes.range::<[u8], _>((Included(at_), Unbounded)).next(),
                    Way::Previous => changes.range::<[u8], _>((Unbounded, Excluded(at_))).next_back(),
                };
                let Some((key, value)) = found else { continue };
                let is_first = first.as_ref().is_none_or(|(first, _)| match way {
                    Way::Next => key <= first,
                    Way::Previous => key >= first,
                });
                if is_first {
                    first = Some((key.clone(), value.clone()));
                }
            }
            match first? {
                (key, Some(value)) => return Some((key, value)),
                (removed, None) => {
                    at = removed;
                    if matches!(way, Way::Next) {
                        at.push(0);
                    }
                }
            }
        }
    }

    pub(in crate::seed) fn set(&mut self, table: StoreTable, key: Vec<u8>, value: Vec<u8>) {
        self.changed.0[table as usize].insert(key, Some(value));
    }

    pub(in crate::seed) fn delete(&mut self, table: StoreTable, key: Vec<u8>) {
        self.changed.0[table as usize].insert(key, None);
    }

    /// Whether something is to be committed.
    pub(in crate::seed) fn is_changed(&self) -> bool {
        !self.changed.is_empty()
    }

    /// Begins a commit of all changes so far; `None` if there are none. Only one may be on its way.
    ///
    /// # Errors
    /// The disk's, if a row could not be read: the changes are then forgotten.
    pub(in crate::seed) fn begin_commit(&mut self) -> Result<Option<Commit>, StoreError> {
        let fault = self.fault().take();
        if let Some(error) = fault {
            self.changed = Changes::default();
            return Err(error);
        }
        if !self.is_changed() {
            return Ok(None);
        }
        let mut database = self.database();
        if self.writable && database.writer().0 == DatabaseAccess::Read {
            database.reopen()?;
        }
        let (_, writer) = database.writer();
        drop(database);
        let changes = Arc::new(std::mem::take(&mut self.changed));
        self.committing = Some(changes.clone());
        Ok(Some(Commit { changes, database: writer }))
    }

    /// Ends a commit. After an error its changes are changes again.
    pub(in crate::seed) fn end_commit(
        &mut self,
        commit: Commit,
        written: Result<(), redb::Error>,
    ) -> Result<(), StoreError> {
        let mut database = self.database.lock().unwrap_or_else(PoisonError::into_inner);
        let ended = match written {
            Ok(()) => database.refresh(),
            Err(error) => Err(database.failed(error)),
        };
        if ended.is_err()
            && Arc::ptr_eq(&database.writer().1, &commit.database)
            && let Err(error) = database.reopen()
        {
            tracing::error!(%error, "the store's database cannot be written: the store serves what it holds");
        }
        self.committing = None;
        if ended.is_err() {
            let Commit { changes, database: writer } = commit;
            drop(writer);
            let changes = Arc::try_unwrap(changes).unwrap_or_default();
            for (changed, earlier) in self.changed.0.iter_mut().zip(changes.0) {
                for (key, value) in earlier {
                    changed.entry(key).or_insert(value);
                }
            }
        }
        ended
    }
}
