//! The rows of the database at one commit.

use super::checked::{RottenRows, without_check};
use super::guard::{GuardedDatabase, guarded};
use super::packs::Packs;
use super::table::{StoreTable, definition};
use redb::{ReadOnlyTable, ReadableDatabase};
use std::fmt::{self, Debug, Formatter};
use std::io;
use std::sync::Arc;

/// All rows at one commit. It may be read without any lock. A row whose check is wrong is noted, and is none.
pub(super) struct Snapshot {
    tables: [ReadOnlyTable<&'static [u8], &'static [u8]>; StoreTable::ALL.len()],
    packs: Packs,
    rotten: Arc<RottenRows>,
}

impl Debug for Snapshot {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str("Snapshot")
    }
}

impl Snapshot {
    /// The rows of the last commit.
    pub(super) fn of(database: &GuardedDatabase, rotten: &Arc<RottenRows>) -> Result<Self, redb::Error> {
        guarded(|| {
            let reading = database.get()?.begin_read()?;
            let mut tables = Vec::with_capacity(StoreTable::ALL.len());
            for table in StoreTable::ALL {
                tables.push(reading.open_table(definition(table))?);
            }
            let tables = tables.try_into();
            let tables = tables.map_err(|_| redb::Error::Corrupted("tables are missing".into()))?;
            Ok(Self { tables, packs: Packs::of(&reading)?, rotten: rotten.clone() })
        })
    }

    pub(super) fn table(&self, table: StoreTable) -> &ReadOnlyTable<&'static [u8], &'static [u8]> {
        &self.tables[table as usize]
    }

    pub(super) fn note_rotten(&self, table: StoreTable, key: &[u8], value: &[u8]) {
        self.rotten.note(table, key, value);
    }

    /// The value of a row of the file, without its check.
    fn checked(&self, table: StoreTable, key: &[u8], row: &[u8]) -> Option<Vec<u8>> {
        let value = without_check(table, key, row);
        if value.is_none() {
            self.rotten.note(table, key, row);
        }
        value.map(<[u8]>::to_vec)
    }

    pub(super) fn get(&self, table: StoreTable, key: &[u8]) -> Result<Option<Vec<u8>>, redb::Error> {
        guarded(|| {
            let row = self.tables[table as usize].get(key)?;
            Ok(row.and_then(|row| self.checked(table, key, row.value())))
        })
    }

    /// Fills `out` from `offset` on with the bytes of a short payload or of hash pairs, if they are there and there are enough of them.
    pub(super) fn read_bytes(
        &self,
        key: &[u8],
        offset: u64,
        out: &mut [u8],
    ) -> Result<Result<(), io::ErrorKind>, redb::Error> {
        guarded(|| {
            if let Some(copied) = self.packs.read(key, |bytes| copy_part(bytes, offset, out))? {
                return Ok(copied);
            }
            // Of a version before packs.
            let Some(row) = self.tables[StoreTable::Bytes as usize].get(key)? else {
                return Ok(Err(io::ErrorKind::NotFound));
            };
            Ok(copy_part(row.value(), offset, out))
        })
    }

    /// The first row at `from` or after it. A key whose bit turned over breaks the order of its page: rows that the search should not have found are
    /// passed over, so that each step goes further.
    pub(super) fn next(&self, table: StoreTable, from: &[u8]) -> Result<Option<Row>, redb::Error> {
        guarded(|| {
            for row in self.tables[table as usize].range(from..)? {
                let (key, value) = row?;
                if let Some(value) = self.checked(table, key.value(), value.value())
                    && key.value() >= from
                {
                    return Ok(Some((key.value().to_vec(), value)));
                }
            }
            Ok(None)
        })
    }

    /// The last row before `end`, with the same care.
    pub(super) fn previous(&self, table: StoreTable, end: &[u8]) -> Result<Option<Row>, redb::Error> {
        guarded(|| {
            for row in self.tables[table as usize].range(..end)?.rev() {
                let (key, value) = row?;
                if let Some(value) = self.checked(table, key.value(), value.value())
                    && key.value() < end
                {
                    return Ok(Some((key.value().to_vec(), value)));
                }
            }
            Ok(None)
        })
    }
}

/// Fills `out` with the bytes of a row from `offset` on, if it is long enough.
pub(super) fn copy_part(row: &[u8], offset: u64, out: &mut [u8]) -> Result<(), io::ErrorKind> {
    let rest = usize::try_from(offset).ok().and_then(|offset| row.get(offset..));
    let found = rest.and_then(|rest| rest.get(..out.len())).ok_or(io::ErrorKind::UnexpectedEof)?;
    out.copy_from_slice(found);
    Ok(())
}

/// A key and its value.
pub(in crate::seed) type Row = (Vec<u8>, Vec<u8>);
