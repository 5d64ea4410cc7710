//! The file `store.redb`, open, and what one commit left in it.

use super::backend::DatabaseFile;
use super::guard::{GuardedDatabase, guarded};
use super::journal::JournalNote;
use super::latest::LatestRows;
use super::snapshot::{Snapshot, definition};
use super::table::{Changes, StoreTable};
use crate::limits::DATABASE_CACHE_BYTES;
use crate::seed::disk::{StoreDisk, parent, write_error};
use crate::seed::error::StoreError;
use redb::{ReadableDatabase, ReadableTable};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// The name of the file.
pub(in crate::seed) const DATABASE: &str = "store.redb";
/// The version of the tables and of what their rows hold.
const LAYOUT: u32 = 3;
/// Earlier versions: short payloads were files as well, and later there was no journal.
const EARLIER_LAYOUTS: [u32; 2] = [1, 2];
/// The row of the layout's version.
const LAYOUT_ROW: &[u8] = b"layout";
/// The row of what the database knows of its journal.
const JOURNAL_ROW: &[u8] = b"journal";

/// How the database's file is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DatabaseAccess {
    /// It is read and written.
    Write,
    /// It is read. What is written stays in memory, and is lost when the store is closed: a disk may be full, broken or read-only.
    Read,
}

/// The database, open.
#[derive(Debug)]
pub(super) struct Database {
    path: PathBuf,
    disk: StoreDisk,
    opened: Arc<GuardedDatabase>,
    /// Cleared before the file is opened anew: what is left of the earlier one then changes nothing more.
    alive: Arc<AtomicBool>,
    access: DatabaseAccess,
    latest: Arc<LatestRows>,
}

impl Database {
    /// Opens the database of the store in `dir`, and makes it if it is missing. A new one has its name once it is whole.
    pub(super) fn open(dir: &Path, disk: &StoreDisk, access: DatabaseAccess) -> Result<Self, StoreError> {
        let path = dir.join(DATABASE);
        let exists = path.try_exists().map_err(|error| StoreError::io("look for", &path, error))?;
        if exists && std::fs::metadata(&path).is_ok_and(|file| file.len() == 0) {
            // It has had rows: they were lost.
            return Err(StoreError::Database { path, reason: "it is empty".into() });
        }
        let latest = Arc::default();
        if exists || access == DatabaseAccess::Read {
            return Self::open_file(&path, (&path, &latest), disk, access);
        }
        let new = path.with_added_extension("new");
        disk.remove_if_there(&new)?;
        let file = disk.create(&new)?;
        drop(file);
        let made = Self::open_file(&new, (&path, &latest), disk, access)?;
        disk.rename(&new, &path)?;
        disk.sync_directory(parent(&path))?;
        Ok(made)
    }

    /// Opens `file`, whose errors name `path`, and whose rows become the latest.
    fn open_file(
        file: &Path,
        (path, latest): (&Path, &Arc<LatestRows>),
        disk: &StoreDisk,
        access: DatabaseAccess,
    ) -> Result<Self, StoreError> {
        let alive = Arc::new(AtomicBool::new(true));
        let backend = match access {
            DatabaseAccess::Write => DatabaseFile::writable(file, disk, &alive),
            DatabaseAccess::Read => DatabaseFile::readable(file, disk, &alive),
        };
        let backend = backend.map_err(|error| write_error(path, 0, error))?;
        let damaged = |error: redb::Error| damaged(path, error);
        let mut builder = redb::Builder::new();
        builder.set_cache_size(DATABASE_CACHE_BYTES);
        let opened =
            guarded(|| Ok(GuardedDatabase::new(builder.create_with_backend(backend)?))).map_err(damaged)?;
        prepare(&opened, path)?;
        latest.set(Snapshot::of(&opened).map_err(damaged)?);
        let (path, disk, latest) = (path.to_owned(), disk.clone(), latest.clone());
        Ok(Self { path, disk, opened: Arc::new(opened), alive, access, latest })
    }

    /// The rows of the last commit.
    pub(super) fn latest(&self) -> &Arc<LatestRows> {
        &self.latest
    }

    /// What a commit needs.
    pub(super) fn writer(&self) -> (DatabaseAccess, Arc<GuardedDatabase>) {
        (self.access, self.opened.clone())
    }

    /// What the database knows of its journal.
    pub(super) fn journal_note(&self) -> Result<JournalNote, StoreError> {
        let row = match self.latest.snapshot() {
            Some(snapshot) => snapshot.get(StoreTable::Notes, JOURNAL_ROW),
            None => Ok(None),
        };
        let row = row.map_err(|error| damaged(&self.path, error))?;
        row.and_then(|row| JournalNote::parse(&row)).ok_or_else(|| StoreError::Database {
            path: self.path.clone(),
            reason: "the row of its journal is missing or damaged".into(),
        })
    }

    /// Shows what was committed: changes, and all that was taken from a journal.
    pub(super) fn refresh(&mut self) -> Result<(), StoreError> {
        self.latest.taken(Snapshot::of(&self.opened).map_err(|error| damaged(&self.path, error))?);
        Ok(())
    }

    /// Opens the file anew, as it must be after each error of its disk. If it cannot be written, it can be read from then on.
    ///
    /// # Errors
    /// Why it cannot be written.
    pub(super) fn reopen(&mut self) -> Result<(), StoreError> {
        self.alive.store(false, Relaxed);
        let open = |access| Self::open_file(&self.path, (&self.path, &self.latest), &self.disk, access);
        match open(DatabaseAccess::Write) {
            Ok(opened) => *self = opened,
            Err(error) => {
                *self = open(DatabaseAccess::Read)?;
                return Err(error);
            }
        }
        Ok(())
    }

    /// The error of a commit.
    pub(super) fn failed(&self, error: redb::Error) -> StoreError {
        match error {
            redb::Error::Io(error) => write_error(&self.path, 0, error),
            error => damaged(&self.path, error),
        }
    }
}

fn damaged(path: &Path, error: redb::Error) -> StoreError {
    match error {
        redb::Error::Io(error)
            if !matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof) =>
        {
            StoreError::io("read the database", path, error)
        }
        error => StoreError::Database { path: path.to_owned(), reason: error.to_string() },
    }
}

/// Makes the tables of a new database, and refuses one of a later version.
fn prepare(database: &GuardedDatabase, path: &Path) -> Result<(), StoreError> {
    let damaged = |error: redb::Error| damaged(path, error);
    let layout = || -> Result<Option<u32>, redb::Error> {
        let reading = database.get()?.begin_read()?;
        match reading.open_table(definition(StoreTable::Notes)) {
            Ok(notes) => {
                let row = notes.get(LAYOUT_ROW)?;
                let row = row.map(|row| row.value().try_into().map(u32::from_be_bytes));
                Ok(Some(row.and_then(Result::ok).unwrap_or_default()))
            }
            Err(redb::TableError::TableDoesNotExist(_)) => Ok(None),
            Err(error) => Err(error.into()),
        }
    };
    let earlier = guarded(layout).map_err(damaged)?;
    match earlier {
        Some(LAYOUT) => return Ok(()),
        Some(earlier) if EARLIER_LAYOUTS.contains(&earlier) => {}
        Some(layout) => {
            return Err(StoreError::Layout { path: path.to_owned(), layout, known: LAYOUT });
        }
        None => {}
    }
    let make = || -> Result<(), redb::Error> {
        let mut writing = database.get()?.begin_write()?;
        writing.set_quick_repair(true);
        // Another program's database has tables, but none of these.
        if earlier.is_none() && writing.list_tables()?.next().is_some() {
            return Err(redb::Error::Corrupted("it is the database of another program".into()));
        }
        for table in StoreTable::ALL {
            writing.open_table(definition(table))?;
        }
        {
            let mut notes = writing.open_table(definition(StoreTable::Notes))?;
            notes.insert(LAYOUT_ROW, &LAYOUT.to_be_bytes()[..])?;
            if notes.get(JOURNAL_ROW)?.is_none() {
                notes.insert(JOURNAL_ROW, &JournalNote::new().emit()[..])?;
            }
        }
        Ok(writing.commit()?)
    };
    guarded(make).map_err(damaged)
}

/// Writes changes, the older ones first, and makes them durable with the note of the journal: all or none.
pub(super) fn write(
    database: &GuardedDatabase,
    changes: &[&Changes],
    note: &JournalNote,
) -> Result<(), redb::Error> {
    guarded(|| write_all(database, changes, note))
}

fn write_all(
    database: &GuardedDatabase,
    changes: &[&Changes],
    note: &JournalNote,
) -> Result<(), redb::Error> {
    let mut writing = database.get()?.begin_write()?;
    // After a crash it opens at once, however large it is.
    writing.set_quick_repair(true);
    for table in StoreTable::ALL {
        if changes.iter().all(|changes| changes.of(table).is_empty()) {
            continue;
        }
        let mut open = writing.open_table(definition(table))?;
        for (key, value) in changes.iter().flat_map(|changes| changes.of(table)) {
            match value {
                Some(value) => drop(open.insert(key.as_slice(), value.as_slice())?),
                None => drop(open.remove(key.as_slice())?),
            }
        }
    }
    writing.open_table(definition(StoreTable::Notes))?.insert(JOURNAL_ROW, &note.emit()[..])?;
    Ok(writing.commit()?)
}
