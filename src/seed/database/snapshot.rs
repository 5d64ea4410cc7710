//! The rows of the database at one commit.

use super::guard::{GuardedDatabase, guarded};
use super::table::StoreTable;
use redb::{ReadOnlyTable, ReadableDatabase, TableDefinition};
use std::fmt::{self, Debug, Formatter};
use std::io;

/// All rows at one commit. It may be read without any lock.
pub(super) struct Snapshot([ReadOnlyTable<&'static [u8], &'static [u8]>; StoreTable::ALL.len()]);

impl Debug for Snapshot {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str("Snapshot")
    }
}

pub(super) fn definition(table: StoreTable) -> TableDefinition<'static, &'static [u8], &'static [u8]> {
    TableDefinition::new(table.name())
}

impl Snapshot {
    /// The rows of the last commit.
    pub(super) fn of(database: &GuardedDatabase) -> Result<Self, redb::Error> {
        guarded(|| {
            let reading = database.get()?.begin_read()?;
            let mut tables = Vec::with_capacity(StoreTable::ALL.len());
            for table in StoreTable::ALL {
                tables.push(reading.open_table(definition(table))?);
            }
            let tables = tables.try_into();
            Ok(Self(tables.map_err(|_| redb::Error::Corrupted("tables are missing".into()))?))
        })
    }

    pub(super) fn get(&self, table: StoreTable, key: &[u8]) -> Result<Option<Vec<u8>>, redb::Error> {
        guarded(|| Ok(self.0[table as usize].get(key)?.map(|value| value.value().to_vec())))
    }

    /// Fills `out` with the bytes of a row from `offset` on, if there is such a row and it is long enough.
    pub(super) fn read(
        &self,
        table: StoreTable,
        key: &[u8],
        offset: u64,
        out: &mut [u8],
    ) -> Result<Result<(), io::ErrorKind>, redb::Error> {
        guarded(|| {
            let Some(row) = self.0[table as usize].get(key)? else { return Ok(Err(io::ErrorKind::NotFound)) };
            Ok(copy_part(row.value(), offset, out))
        })
    }

    /// The first row at `from` or after it.
    pub(super) fn next(&self, table: StoreTable, from: &[u8]) -> Result<Option<Row>, redb::Error> {
        guarded(|| {
            let mut rows = self.0[table as usize].range(from..)?;
            let Some(row) = rows.next() else { return Ok(None) };
            let (key, value) = row?;
            Ok(Some((key.value().to_vec(), value.value().to_vec())))
        })
    }

    /// The last row before `end`.
    pub(super) fn previous(&self, table: StoreTable, end: &[u8]) -> Result<Option<Row>, redb::Error> {
        guarded(|| {
            let mut rows = self.0[table as usize].range(..end)?;
            let Some(row) = rows.next_back() else { return Ok(None) };
            let (key, value) = row?;
            Ok(Some((key.value().to_vec(), value.value().to_vec())))
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
pub(super) type Row = (Vec<u8>, Vec<u8>);
