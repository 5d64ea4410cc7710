//! A rebuild: the rows of all holdings are read once from their first to their last, and all tables but those of bytes, files and notes are made
//! anew from them. So are earlier layouts taken over, and so are sums and indexes counted anew after a row of them was rotten.
//!
//! It begins with one commit, which gives the table of the holdings another name and makes empty ones. From then on a note tells how far it has
//! come, and a start goes on there.

use super::checked::{RottenRows, with_check, without_check};
use super::guard::guarded;
use super::journal::JournalNote;
use super::opened::{Database, JOURNAL_ROW, LAYOUT, write_changes};
use super::packs;
use super::rows::Rows;
use super::snapshot::Row;
use super::table::{Changes, LAYOUT_ROW, StoreTable, definition};
use crate::seed::error::StoreError;
use redb::{ReadableDatabase, ReadableTable, ReadableTableMetadata, TableDefinition, WriteTransaction};

/// The row of the sums over all holdings.
pub(in crate::seed) const SUMS_ROW: &[u8] = b"sums";
/// The row that stands once the layout before the database was taken over.
pub(in crate::seed) const TAKEN_OVER_ROW: &[u8] = b"taken over";
/// The row of a rebuild that is on its way.
const REBUILD_ROW: &[u8] = b"rebuild";
/// The row that asks the next start for one.
pub(super) const WANTED_ROW: &[u8] = b"rebuild wanted";
/// The table of the holdings while it is the source of a rebuild.
const SOURCE: TableDefinition<'static, &'static [u8], &'static [u8]> =
    TableDefinition::new("holdings.earlier");
/// The tables that a rebuild makes anew.
const DERIVED: [StoreTable; 5] =
    [StoreTable::Ends, StoreTable::Ages, StoreTable::Sets, StoreTable::Accounts, StoreTable::Owners];

/// How far a rebuild is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::seed) struct RebuildNote {
    /// Whether the rows that are read have checks.
    has_checks: bool,
    /// The key of the last row that was taken; empty: none.
    pub(in crate::seed) after: Vec<u8>,
}

impl RebuildNote {
    fn emit(&self) -> Vec<u8> {
        [&[u8::from(self.has_checks)], &self.after[..]].concat()
    }

    fn parse(row: &[u8]) -> Option<Self> {
        let (has_checks, after) = row.split_first()?;
        Some(Self { has_checks: *has_checks != 0, after: after.to_vec() })
    }
}

/// Writes a table anew that is not derived from the holdings. Rows of an earlier layout get their checks, and rotten ones are noted and left out:
/// one whose key has changed might not be found by it.
fn renew(
    writing: &WriteTransaction,
    table: StoreTable,
    has_checks: bool,
    rotten: &RottenRows,
) -> Result<(), redb::Error> {
    let mut rows = Vec::new();
    for row in writing.open_table(definition(table))?.iter()? {
        let (key, row) = row?;
        let (key, row) = (key.value(), row.value());
        if !has_checks {
            rows.push((key.to_vec(), with_check(table, key, row)));
        } else if without_check(table, key, row).is_some() {
            rows.push((key.to_vec(), row.to_vec()));
        } else {
            rotten.note(table, key, row);
        }
    }
    writing.delete_table(definition(table))?;
    let mut renewed = writing.open_table(definition(table))?;
    for (key, row) in rows {
        renewed.insert(key.as_slice(), row.as_slice())?;
    }
    Ok(())
}

impl Database {
    /// Begins a rebuild, with changes of a journal that the database does not have yet: all in one commit.
    pub(super) fn begin_rebuild(
        &mut self,
        changes: &Changes,
        journal: &JournalNote,
    ) -> Result<(), StoreError> {
        let is_earlier = self.earlier.is_some();
        let note = RebuildNote { has_checks: !is_earlier, after: Vec::new() };
        let begin = || -> Result<(), redb::Error> {
            let mut writing = self.opened.get()?.begin_write()?;
            writing.set_quick_repair(true);
            if is_earlier {
                write_changes(&writing, &[changes], |_, _, value| value.to_vec())?;
            } else {
                write_changes(&writing, &[changes], with_check)?;
            }
            for table in [StoreTable::Gone, StoreTable::Notes] {
                renew(&writing, table, note.has_checks, &self.rotten)?;
            }
            writing.rename_table(definition(StoreTable::Holdings), SOURCE)?;
            for table in DERIVED {
                writing.delete_table(definition(table))?;
            }
            for table in StoreTable::ALL {
                writing.open_table(definition(table))?;
            }
            packs::make(&writing)?;
            {
                let mut notes = writing.open_table(definition(StoreTable::Notes))?;
                notes.insert(LAYOUT_ROW, &LAYOUT.to_be_bytes()[..])?;
                notes.remove(WANTED_ROW)?;
                for (key, value) in [(JOURNAL_ROW, &journal.emit()[..]), (REBUILD_ROW, &note.emit())] {
                    notes.insert(key, with_check(StoreTable::Notes, key, value).as_slice())?;
                }
            }
            Ok(writing.commit()?)
        };
        guarded(begin).map_err(|error| self.failed(error))?;
        self.earlier = None;
        self.refresh()
    }

    /// Rows of the source after those that were taken, at most `len`, and the number of all. Rotten ones are noted, and left out.
    fn source_rows(&self, note: &RebuildNote, len: usize) -> Result<(Vec<Row>, u64), redb::Error> {
        guarded(|| {
            let reading = self.opened.get()?.begin_read()?;
            let source = match reading.open_table(SOURCE) {
                Ok(source) => source,
                // A crash came after it was removed.
                Err(redb::TableError::TableDoesNotExist(_)) => return Ok((Vec::new(), 0)),
                Err(error) => return Err(error.into()),
            };
            let from = if note.after.is_empty() { Vec::new() } else { [&note.after[..], &[0]].concat() };
            let mut rows = Vec::with_capacity(len);
            for row in source.range(from.as_slice()..)? {
                let (key, value) = row?;
                let (key, row) = (key.value(), value.value());
                let value =
                    if note.has_checks { without_check(StoreTable::Holdings, key, row) } else { Some(row) };
                match value {
                    // The search may end at an earlier row if the keys of a page are in no order.
                    Some(_) if key < from.as_slice() => {}
                    Some(value) => rows.push((key.to_vec(), value.to_vec())),
                    None => self.rotten.note(StoreTable::Holdings, key, row),
                }
                if rows.len() == len {
                    break;
                }
            }
            Ok((rows, source.len()?))
        })
    }
}

impl Rows {
    /// Whether a start must rebuild what is derived from the holdings: a row asks for it, or that of the sums is lost.
    pub(super) fn wants_rebuild(database: &Database, replayed: &Changes) -> Result<bool, StoreError> {
        let Some(snapshot) = database.latest().snapshot() else { return Ok(true) };
        let is_there = |key| {
            let replayed = replayed.get(StoreTable::Notes, key).map(|row| Ok(row.is_some()));
            let stored = || Ok(snapshot.get(StoreTable::Notes, key)?.is_some());
            replayed.unwrap_or_else(stored).map_err(|error| database.failed(error))
        };
        let (is_wanted, is_running) = (is_there(WANTED_ROW)?, is_there(REBUILD_ROW)?);
        let lacks_sums = is_there(TAKEN_OVER_ROW)? && !is_there(SUMS_ROW)?;
        Ok((is_wanted || lacks_sums || database.rotten.is_waiting()) && !is_running)
    }

    /// Has the next start rebuild what is derived from the holdings.
    pub(in crate::seed) fn want_rebuild(&mut self) {
        if self.get(StoreTable::Notes, WANTED_ROW).is_none() {
            self.set(StoreTable::Notes, WANTED_ROW.to_vec(), Vec::new());
        }
    }

    /// The rebuild that is on its way, if one is.
    pub(in crate::seed) fn rebuild(&self) -> Option<RebuildNote> {
        RebuildNote::parse(&self.get(StoreTable::Notes, REBUILD_ROW)?)
    }

    /// Notes how far a rebuild is.
    pub(in crate::seed) fn note_rebuild(&mut self, note: &RebuildNote) {
        self.set(StoreTable::Notes, REBUILD_ROW.to_vec(), note.emit());
    }

    /// Rows of holdings that a rebuild has not taken, at most `len`, and the number of all.
    ///
    /// # Errors
    /// The disk's.
    pub(in crate::seed) fn rebuild_rows(
        &self,
        note: &RebuildNote,
        len: usize,
    ) -> Result<(Vec<Row>, u64), StoreError> {
        let database = self.database();
        database.source_rows(note, len).map_err(|error| database.failed(error))
    }

    /// Ends a rebuild whose rows are all durable: removes its source. The next commit takes its note away.
    ///
    /// # Errors
    /// The disk's.
    pub(in crate::seed) fn end_rebuild(&mut self) -> Result<(), StoreError> {
        // It writes into the same database.
        self.journal.wait();
        {
            let database = self.database();
            let end = || -> Result<(), redb::Error> {
                let mut writing = database.opened.get()?.begin_write()?;
                writing.set_quick_repair(true);
                writing.delete_table(SOURCE)?;
                Ok(writing.commit()?)
            };
            guarded(end).map_err(|error| database.failed(error))?;
        }
        self.delete(StoreTable::Notes, REBUILD_ROW.to_vec());
        Ok(())
    }
}
