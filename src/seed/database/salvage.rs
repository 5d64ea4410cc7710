//! A database whose pages are damaged is copied, row by row, as far as its rows can be read: a copy has a sound tree. What is derived from the holdings
//! is made anew by the next start, and so are entries of payloads that are files and have lost theirs.

use super::backend::DatabaseFile;
use super::checked::{with_check, without_check};
use super::guard::{GuardedDatabase, guarded};
use super::journal::JournalNote;
use super::opened::{DATABASE, JOURNAL_ROW, LAYOUT, layout_of, opened};
use super::packs;
use super::rebuild::{TAKEN_OVER_ROW, WANTED_ROW};
use super::snapshot::Row;
use super::table::{StoreTable, definition};
use crate::limits::{SALVAGE_BATCH_BYTES, SALVAGE_SPARE_LEN};
use crate::seed::disk::{StoreDisk, parent, write_error};
use crate::seed::error::StoreError;
use redb::{
    ReadOnlyTable, ReadTransaction, ReadableDatabase, ReadableTable, ReadableTableMetadata, TableDefinition,
    TableHandle,
};
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

type Bytes = &'static [u8];

/// What a copy of a damaged database has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SalvagedRows {
    /// Rows that were copied.
    pub copied: u64,
    /// Rows that are damaged themselves.
    pub damaged: u64,
    /// Rows that the database says it has, and that are on no page that can be read.
    pub missing: u64,
}

/// Copies the database of a stopped store to `to`. `told` is called now and then with what was copied so far.
///
/// # Errors
/// [`StoreError::Database`] if the database cannot be opened at all, or lacks what a copy needs; the disk's.
pub(in crate::seed) fn salvage(
    dir: &Path,
    to: &Path,
    disk: &StoreDisk,
    mut told: impl FnMut(SalvagedRows),
) -> Result<SalvagedRows, StoreError> {
    let path = dir.join(DATABASE);
    let refused = |reason: &str| StoreError::Database { path: path.clone(), reason: reason.into() };
    let failed = |error| super::opened::damaged(&path, error);
    let alive = Arc::new(AtomicBool::new(true));
    let from = DatabaseFile::readable(&path, disk, &alive).map_err(|error| write_error(&path, 0, error))?;
    let from = opened(from).map_err(failed)?;
    if layout_of(&from).map_err(failed)? != Some(LAYOUT) {
        return Err(refused("it is of another layout: a start of the gateway takes an earlier one over"));
    }
    let backend = DatabaseFile::writable(to, disk, &alive).map_err(|error| write_error(to, 0, error))?;
    let copy = Copy { to: opened(backend).map_err(failed)?, path: to };
    let reading = guarded(|| Ok(from.get()?.begin_read()?)).map_err(failed)?;
    let listed =
        guarded(|| Ok(reading.list_tables()?.map(|table| table.name().to_owned()).collect::<Vec<_>>()));
    // Those of each store, and one that a rebuild has made.
    let mut names: BTreeSet<_> =
        StoreTable::ALL.into_iter().map(StoreTable::name).chain(packs::NAMES).map(String::from).collect();
    names.extend(listed.unwrap_or_default());
    let (mut all, mut of_holdings) = (SalvagedRows::default(), SalvagedRows::default());
    for name in names {
        let rows = copy.table(&reading, &name, |rows| told(rows.after(all)))?;
        if name == StoreTable::Holdings.name() {
            of_holdings = rows;
        }
        all = rows.after(all);
    }
    if !copy.end(of_holdings.damaged + of_holdings.missing > 0)? {
        return Err(refused("the row of its journal is missing or damaged"));
    }
    Ok(all)
}

impl SalvagedRows {
    fn after(self, earlier: Self) -> Self {
        Self {
            copied: earlier.copied + self.copied,
            damaged: earlier.damaged + self.damaged,
            missing: earlier.missing + self.missing,
        }
    }
}

/// Whether a row of a table is what was written. Bytes of payloads are compared with their tokens, when they are read.
fn is_sound(name: &str, key: &[u8], value: &[u8]) -> bool {
    match StoreTable::ALL.into_iter().find(|table| table.name() == name) {
        Some(table) => without_check(table, key, value).is_some(),
        None => packs::is_sound(name, key, value),
    }
}

/// The rows of a table, as far as they can be read: from its first on, and if a page stops that, from its last back.
fn readable(
    table: &ReadOnlyTable<Bytes, Bytes>,
    mut take: impl FnMut(Row) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    // A page that leads back would be read for ever.
    let len = guarded(|| Ok(table.len()?)).unwrap_or_default();
    let max = len.saturating_mul(2).saturating_add(SALVAGE_SPARE_LEN);
    for is_back in [false, true] {
        let Ok(mut rows) = guarded(|| Ok(table.iter()?)) else { return Ok(()) };
        let mut taken = 0;
        let ended = loop {
            let next = guarded(|| {
                let row = if is_back { rows.next_back() } else { rows.next() };
                let row = row.transpose()?;
                Ok(row.map(|(key, value)| (key.value().to_vec(), value.value().to_vec())))
            });
            match next {
                Ok(Some(row)) if taken < max => take(row)?,
                Ok(None) => break true,
                _ => break false,
            }
            taken += 1;
        };
        if ended {
            break;
        }
    }
    Ok(())
}

/// The new database.
struct Copy<'p> {
    to: GuardedDatabase,
    path: &'p Path,
}

impl Copy<'_> {
    fn failed(&self, error: redb::Error) -> StoreError {
        match error {
            redb::Error::Io(error) => write_error(self.path, 0, error),
            error => super::opened::damaged(self.path, error),
        }
    }

    fn table(
        &self,
        reading: &ReadTransaction,
        name: &str,
        mut told: impl FnMut(SalvagedRows),
    ) -> Result<SalvagedRows, StoreError> {
        let definition = TableDefinition::<Bytes, Bytes>::new(name);
        let mut rows = SalvagedRows::default();
        let (mut batch, mut bytes) = (Vec::new(), 0);
        // A table has its place even if it has no rows.
        self.write(definition, &[])?;
        let Ok(table) = guarded(|| Ok(reading.open_table(definition)?)) else {
            rows.missing = 1;
            return Ok(rows);
        };
        readable(&table, |(key, value)| {
            if !is_sound(name, &key, &value) {
                rows.damaged += 1;
                return Ok(());
            }
            bytes += key.len() + value.len();
            batch.push((key, value));
            if bytes >= SALVAGE_BATCH_BYTES {
                self.write(definition, &batch)?;
                rows.copied += batch.len() as u64;
                batch.clear();
                bytes = 0;
                told(rows);
            }
            Ok(())
        })?;
        self.write(definition, &batch)?;
        // Rows that were met from both ends count once.
        rows.copied = self.len(definition)?;
        rows.missing =
            guarded(|| Ok(table.len()?)).unwrap_or_default().saturating_sub(rows.copied + rows.damaged);
        told(rows);
        Ok(rows)
    }

    fn len(&self, definition: TableDefinition<'_, Bytes, Bytes>) -> Result<u64, StoreError> {
        guarded(|| Ok(self.to.get()?.begin_read()?.open_table(definition)?.len()?))
            .map_err(|error| self.failed(error))
    }

    fn write(&self, definition: TableDefinition<'_, Bytes, Bytes>, rows: &[Row]) -> Result<(), StoreError> {
        let write = || {
            let mut writing = self.to.get()?.begin_write()?;
            writing.set_quick_repair(true);
            {
                let mut table = writing.open_table(definition)?;
                for (key, value) in rows {
                    table.insert(key.as_slice(), value.as_slice())?;
                }
            }
            Ok(writing.commit()?)
        };
        guarded(write).map_err(|error| self.failed(error))
    }

    /// Asks the next start to make the derived tables anew, and to look for files without an entry if some lost theirs. Returns whether the copy has
    /// what a store needs.
    fn end(&self, seeks_files: bool) -> Result<bool, StoreError> {
        let end = || {
            let mut writing = self.to.get()?.begin_write()?;
            writing.set_quick_repair(true);
            let is_whole = {
                let mut notes = writing.open_table(definition(StoreTable::Notes))?;
                let wanted = with_check(StoreTable::Notes, WANTED_ROW, &[]);
                notes.insert(WANTED_ROW, wanted.as_slice())?;
                if seeks_files {
                    notes.remove(TAKEN_OVER_ROW)?;
                }
                let journal = notes.get(JOURNAL_ROW)?;
                let note = journal
                    .as_ref()
                    .and_then(|row| without_check(StoreTable::Notes, JOURNAL_ROW, row.value()));
                note.is_some_and(|note| JournalNote::parse(note).is_some())
            };
            writing.commit()?;
            Ok(is_whole)
        };
        guarded(end).map_err(|error| self.failed(error))
    }
}

/// Puts the copy of a database in its place. The damaged file keeps the name `aside`.
pub(in crate::seed) fn put_in_place(
    dir: &Path,
    (copy, aside): (&Path, &Path),
    disk: &StoreDisk,
) -> Result<(), StoreError> {
    let path = dir.join(DATABASE);
    disk.link(&path, aside)?;
    disk.sync_directory(parent(aside))?;
    disk.rename(copy, &path)?;
    disk.sync_directory(dir)
}
