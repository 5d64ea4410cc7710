//! The rows of a store: those of its database, and over them the changes that are not committed yet.
//!
//! A change is seen at once, and is durable after the commit that takes it. One commit takes all changes that were made until it begins. If it
//! fails, they stay changes: the next commit takes them again, with what has become of them since.
//!
//! A commit is a batch of the [journal](super::journal), whose rows stay in memory. When a file of it has
//! [`STORE_JOURNAL_BYTES_MAX`](crate::limits::STORE_JOURNAL_BYTES_MAX), the database takes them over. The first commit of a process, one after an
//! error of the journal and the last one go into the database themselves, with all that the journal has.

use super::checked::RottenRow;
use super::journal::{JournalNote, replay};
use super::latest::LatestRows;
use super::opened::{Database, DatabaseAccess};
use super::rows_journal::RowsJournal;
use super::snapshot::{Row, Snapshot};
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
    pub(super) changed: Changes,
    /// What a commit on some thread is writing.
    pub(super) committing: Option<Arc<Changes>>,
    /// Whether the file may be written.
    pub(super) writable: bool,
    /// Why a row could not be read: what was changed since may be wrong, and is not committed.
    fault: Mutex<Option<StoreError>>,
    pub(super) journal: RowsJournal,
}

impl Drop for Rows {
    fn drop(&mut self) {
        // Nothing is written after the store's lock is free.
        self.journal.wait();
        // Payloads that are open keep no file of a store that is closed.
        self.database().latest().close();
    }
}

#[derive(Clone, Copy)]
enum Way {
    Next,
    Previous,
}

type Layer = BTreeMap<Vec<u8>, Option<Vec<u8>>>;

impl Way {
    /// Puts the first row of a layer in place of `first`, if that does not come before it.
    fn look(self, layer: &Layer, at: &[u8], first: &mut Option<(Vec<u8>, Option<Vec<u8>>)>) {
        let found = match self {
            Self::Next => layer.range::<[u8], _>((Included(at), Unbounded)).next(),
            Self::Previous => layer.range::<[u8], _>((Unbounded, Excluded(at))).next_back(),
        };
        let Some((key, value)) = found else { return };
        let is_first = first.as_ref().is_none_or(|(first, _)| match self {
            Self::Next => key <= first,
            Self::Previous => key >= first,
        });
        if is_first {
            *first = Some((key.clone(), value.clone()));
        }
    }
}

impl Rows {
    /// The rows of the store in `dir`.
    pub(in crate::seed) fn open(dir: &Path, disk: &StoreDisk, writable: bool) -> Result<Self, StoreError> {
        let access = if writable { DatabaseAccess::Write } else { DatabaseAccess::Read };
        let mut database = Database::open(dir, disk, access)?;
        let note = database.journal_note()?;
        let replay = replay(dir, &note, writable.then_some(disk))?;
        if Self::wants_rebuild(&database, &replay.changes)? {
            database.begin_rebuild(&replay.changes, &JournalNote { taken: replay.sequence, ..note })?;
        } else {
            database.latest().add(replay.changes);
        }
        let journal =
            RowsJournal::new(dir, disk, JournalNote { taken: replay.sequence, ..note }, replay.missing);
        Ok(Self {
            database: Mutex::new(database),
            journal,
            changed: Changes::default(),
            committing: None,
            writable,
            fault: Mutex::default(),
        })
    }

    pub(super) fn database(&self) -> MutexGuard<'_, Database> {
        self.database.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads rows of the database. After an error of the disk it is opened anew, once.
    fn read<T>(&self, read: impl Fn(&Snapshot) -> Result<Option<T>, redb::Error>) -> Option<T> {
        let mut snapshot = self.database().latest().snapshot()?;
        if let Ok(found) = read(&snapshot) {
            return found;
        }
        {
            let mut database = self.database();
            if database.latest().snapshot().is_some_and(|latest| Arc::ptr_eq(&snapshot, &latest))
                && let Err(error) = database.reopen()
            {
                tracing::error!(%error, "the store's database cannot be opened anew");
            }
            snapshot = database.latest().snapshot()?;
        }
        read(&snapshot).unwrap_or_else(|error| {
            let error = self.database().failed(error);
            tracing::error!(%error, "a row of the store's database cannot be read");
            self.fault().get_or_insert(error);
            None
        })
    }

    /// Whether rotten rows were found that nothing was told of.
    pub(in crate::seed) fn has_rotten(&self) -> bool {
        self.database().rotten.is_waiting()
    }

    /// Notes a row that cannot be what was written.
    pub(in crate::seed) fn note_rotten(&self, table: StoreTable, key: &[u8], value: &[u8]) {
        self.database().rotten.note(table, key, value);
    }

    /// The number of rotten rows that were found since the store was opened.
    pub(in crate::seed) fn rotten_found(&self) -> u64 {
        self.database().rotten.found()
    }

    /// The rotten rows that were found since the last call. They count as rows that are not there.
    pub(in crate::seed) fn take_rotten(&self) -> Vec<RottenRow> {
        self.database().rotten.take()
    }

    /// Removes a rotten row, unless it was written anew.
    pub(in crate::seed) fn delete_rotten(&mut self, row: &RottenRow) {
        let RottenRow { table, key, .. } = row;
        if self.uncommitted(*table, key).is_none() && self.latest().journaled(*table, key).is_none() {
            self.delete(*table, key.clone());
        }
        self.database().rotten.forget(row);
    }

    pub(super) fn fault(&self) -> MutexGuard<'_, Option<StoreError>> {
        self.fault.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The layers of changes, the newest first.
    fn layers(&self, table: StoreTable) -> impl Iterator<Item = &Layer> {
        [Some(&self.changed), self.committing.as_deref()].into_iter().flatten().map(move |of| of.of(table))
    }

    /// What a row is changed to, if that is not committed yet.
    pub(super) fn uncommitted(&self, table: StoreTable, key: &[u8]) -> Option<&Option<Vec<u8>>> {
        self.layers(table).find_map(|changes| changes.get(key))
    }

    /// What is durable.
    pub(in crate::seed) fn latest(&self) -> Arc<LatestRows> {
        self.database().latest().clone()
    }

    /// The value of a row.
    pub(in crate::seed) fn get(&self, table: StoreTable, key: &[u8]) -> Option<Vec<u8>> {
        let journaled = || self.latest().journaled(table, key);
        match self.uncommitted(table, key).cloned().or_else(journaled) {
            Some(changed) => changed,
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
            // The oldest layer first: of one row the newest counts.
            self.latest().each_journaled(|changes| way.look(changes.of(table), &at, &mut first));
            for changes in self.layers(table).collect::<Vec<_>>().into_iter().rev() {
                way.look(changes, &at, &mut first);
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

    /// Changes that are rows of the database by now, to be dropped without a lock.
    pub(in crate::seed) fn take_spent(&self) -> Vec<Arc<Changes>> {
        self.latest().take_spent()
    }

    /// Whether something is to be committed.
    pub(in crate::seed) fn is_changed(&self) -> bool {
        !self.changed.is_empty()
    }
}
