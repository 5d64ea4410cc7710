//! The file `store.redb`, open, and what one commit left in it.

use super::backend::DatabaseFile;
use super::checked::{RottenRows, with_check};
use super::guard::{GuardedDatabase, guarded};
use super::journal::JournalNote;
use super::latest::LatestRows;
use super::packs;
use super::snapshot::Snapshot;
use super::table::{Changes, LAYOUT_ROW, StoreTable, definition};
use crate::limits::DATABASE_CACHE_BYTES;
use crate::seed::disk::{StoreDisk, parent, write_error};
use crate::seed::error::StoreError;
use redb::ReadableDatabase;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// The name of the file.
pub(in crate::seed) const DATABASE: &str = "store.redb";
/// The version of the tables and of what their rows hold.
pub(super) const LAYOUT: u32 = 5;
/// Earlier versions: short payloads were files as well, then there was no journal, and then rows had no checks and owners no table.
const EARLIER_LAYOUTS: [u32; 3] = [1, 2, 3];
/// The last one without packs. Its rows stay as they are.
const UNPACKED_LAYOUT: u32 = 4;
/// The first one with a journal.
const JOURNAL_LAYOUT: u32 = 3;
/// The row of what the database knows of its journal.
pub(super) const JOURNAL_ROW: &[u8] = b"journal";

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
    pub(super) opened: Arc<GuardedDatabase>,
    /// The layout of an earlier version: its rows are to be taken over before any is read.
    pub(super) earlier: Option<u32>,
    pub(super) rotten: Arc<RottenRows>,
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
        let latest = (Arc::default(), Arc::default());
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
        (path, (latest, rotten)): (&Path, &(Arc<LatestRows>, Arc<RottenRows>)),
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
        let opened = opened(backend).map_err(damaged)?;
        let earlier = prepare(&opened, path)?;
        if earlier.is_none() {
            latest.set(Snapshot::of(&opened, rotten).map_err(damaged)?);
        }
        let (path, disk, latest, rotten) = (path.to_owned(), disk.clone(), latest.clone(), rotten.clone());
        Ok(Self { path, disk, opened: Arc::new(opened), earlier, rotten, alive, access, latest })
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
            None => self.plain_note(JOURNAL_ROW),
        };
        let row = row.map_err(|error| damaged(&self.path, error))?;
        if row.is_none() && self.earlier.is_some_and(|layout| layout < JOURNAL_LAYOUT) {
            return Ok(JournalNote::new());
        }
        row.and_then(|row| JournalNote::parse(&row)).ok_or_else(|| StoreError::Database {
            path: self.path.clone(),
            reason: "the row of its journal is missing or damaged".into(),
        })
    }

    /// A row of an earlier layout.
    fn plain_note(&self, key: &[u8]) -> Result<Option<Vec<u8>>, redb::Error> {
        guarded(|| {
            let notes = self.opened.get()?.begin_read()?.open_table(definition(StoreTable::Notes))?;
            Ok(notes.get(key)?.map(|row| row.value().to_vec()))
        })
    }

    /// Shows what was committed: changes, and all that was taken from a journal.
    pub(super) fn refresh(&mut self) -> Result<(), StoreError> {
        self.latest
            .taken(Snapshot::of(&self.opened, &self.rotten).map_err(|error| damaged(&self.path, error))?);
        Ok(())
    }

    /// Opens the file anew, as it must be after each error of its disk. If it cannot be written, it can be read from then on.
    ///
    /// # Errors
    /// Why it cannot be written.
    pub(super) fn reopen(&mut self) -> Result<(), StoreError> {
        self.alive.store(false, Relaxed);
        let latest = (self.latest.clone(), self.rotten.clone());
        let open = |access| Self::open_file(&self.path, (&self.path, &latest), &self.disk, access);
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

/// The database in a file.
pub(super) fn opened(backend: DatabaseFile) -> Result<GuardedDatabase, redb::Error> {
    let mut builder = redb::Builder::new();
    builder.set_cache_size(DATABASE_CACHE_BYTES);
    guarded(|| Ok(GuardedDatabase::new(builder.create_with_backend(backend)?)))
}

/// The version of its tables; `None` if it has none of ours, and 0 if that row is none.
pub(super) fn layout_of(database: &GuardedDatabase) -> Result<Option<u32>, redb::Error> {
    guarded(|| {
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
    })
}

pub(super) fn damaged(path: &Path, error: redb::Error) -> StoreError {
    match error {
        redb::Error::Io(error)
            if !matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof) =>
        {
            StoreError::io("read the database", path, error)
        }
        error => StoreError::Database { path: path.to_owned(), reason: error.to_string() },
    }
}

/// Makes the tables of a new database, and refuses one of a later version. Returns the layout of an earlier one, which is left as it is.
fn prepare(database: &GuardedDatabase, path: &Path) -> Result<Option<u32>, StoreError> {
    let damaged = |error: redb::Error| damaged(path, error);
    match layout_of(database).map_err(damaged)? {
        Some(LAYOUT) => return Ok(None),
        Some(UNPACKED_LAYOUT) => {
            return guarded(|| add_packs(database)).map(|()| None).map_err(damaged);
        }
        Some(earlier) if EARLIER_LAYOUTS.contains(&earlier) => return Ok(Some(earlier)),
        Some(layout) => {
            return Err(StoreError::Layout { path: path.to_owned(), layout, known: LAYOUT });
        }
        None => {}
    }
    let make = || -> Result<Option<u32>, redb::Error> {
        let mut writing = database.get()?.begin_write()?;
        writing.set_quick_repair(true);
        // Another program's database has tables, but none of these.
        if writing.list_tables()?.next().is_some() {
            return Err(redb::Error::Corrupted("it is the database of another program".into()));
        }
        for table in StoreTable::ALL {
            writing.open_table(definition(table))?;
        }
        packs::make(&writing)?;
        {
            let mut notes = writing.open_table(definition(StoreTable::Notes))?;
            notes.insert(LAYOUT_ROW, &LAYOUT.to_be_bytes()[..])?;
            let journal = with_check(StoreTable::Notes, JOURNAL_ROW, &JournalNote::new().emit());
            notes.insert(JOURNAL_ROW, journal.as_slice())?;
        }
        writing.commit()?;
        Ok(None)
    };
    guarded(make).map_err(damaged)
}

/// Takes the layout before packs over: they begin to be written.
fn add_packs(database: &GuardedDatabase) -> Result<(), redb::Error> {
    let mut writing = database.get()?.begin_write()?;
    writing.set_quick_repair(true);
    packs::make(&writing)?;
    writing.open_table(definition(StoreTable::Notes))?.insert(LAYOUT_ROW, &LAYOUT.to_be_bytes()[..])?;
    Ok(writing.commit()?)
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
    write_changes(&writing, changes, with_check)?;
    let note = with_check(StoreTable::Notes, JOURNAL_ROW, &note.emit());
    writing.open_table(definition(StoreTable::Notes))?.insert(JOURNAL_ROW, note.as_slice())?;
    Ok(writing.commit()?)
}

/// Writes changes, the older ones first; `stored` gives values as the file has them.
pub(super) fn write_changes(
    writing: &redb::WriteTransaction,
    changes: &[&Changes],
    stored: impl Fn(StoreTable, &[u8], &[u8]) -> Vec<u8>,
) -> Result<(), redb::Error> {
    packs::write(writing, changes)?;
    for table in StoreTable::ALL.into_iter().filter(|table| *table != StoreTable::Bytes) {
        if changes.iter().all(|changes| changes.of(table).is_empty()) {
            continue;
        }
        let mut open = writing.open_table(definition(table))?;
        for (key, value) in changes.iter().flat_map(|changes| changes.of(table)) {
            match value {
                Some(value) => drop(open.insert(key.as_slice(), stored(table, key, value).as_slice())?),
                None => drop(open.remove(key.as_slice())?),
            }
        }
    }
    Ok(())
}
