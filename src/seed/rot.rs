//! Rows of the database that are rotten: their checks are wrong, so they count as rows that are not there. Each is named, counted and set aside
//! as a file, and the next start counts anew what is derived from the holdings.

use super::damage::DamageOutcome;
use super::database::{DATABASE, RottenRow, RowsWalk, StoreTable, Walked};
use super::disk::write_error;
use super::entry::{self, EntryBody, IndexEntry, PayloadPlace};
use super::error::StoreError;
use super::index::Index;
use super::inner::Inner;
use super::layout::BLOB;
use super::lease::Lease;
use crate::limits::ROWS_WALK_LEN;
use crate::shard::Lanes;
use crate::token::{AnyToken, TOKEN_BYTES};
use data_encoding::HEXLOWER;
use std::fs;
use std::path::PathBuf;

/// The name of a row: its table, and the token that its key begins with, or the whole key.
fn name(row: &RottenRow) -> String {
    let table = row.table.name();
    match row.key.get(..TOKEN_BYTES).map(AnyToken::from_slice) {
        Some(Ok(token)) if row.table == StoreTable::Holdings => format!("{table} {token}"),
        _ => format!("{table} {}", HEXLOWER.encode(&row.key)),
    }
}

impl Inner {
    /// Tells of the rotten rows that were found, and sets them aside.
    pub(super) fn set_rows_aside(&self) {
        let rotten = self.index().rows.take_rotten();
        for row in rotten {
            let reason = "a row of the database does not match its check";
            match self.check_writable().and_then(|()| self.row_file(&row)) {
                Ok(path) => {
                    self.damage().set_aside(name(&row), reason, [path.as_path()]);
                    self.leave_row(&row);
                }
                Err(error) => {
                    self.damage().note(name(&row), format!("{reason}; {error}"), DamageOutcome::Left)
                }
            }
        }
    }

    /// Writes what a rotten row has into a file below `tmp`.
    fn row_file(&self, row: &RottenRow) -> Result<PathBuf, StoreError> {
        let path =
            self.dir.join("tmp").join(format!("row.{}.{}", row.table.name(), HEXLOWER.encode(&row.key)));
        self.disk.remove_if_there(&path)?;
        let file = self.disk.create(&path)?;
        let written = self.disk.0.write(&file, &row.value, 0).and_then(|()| self.disk.0.sync(&file));
        written.map_err(|error| write_error(&path, row.value.len() as u64, error))?;
        Ok(path)
    }

    /// Gives a rotten row up that was set aside. A payload whose file is there is kept without end and without an owner, as one whose database
    /// was moved away; anything else is missed, and fetched from another holder if one is known.
    fn leave_row(&self, row: &RottenRow) {
        let mut index = self.index();
        index.rows.delete_rotten(row);
        if index.rows.rebuild().is_none() {
            index.rows.want_rebuild();
        }
        if row.table != StoreTable::Holdings {
            return;
        }
        let Some(Ok(token)) = row.key.get(..TOKEN_BYTES).map(AnyToken::from_slice) else { return };
        if row.key.len() > TOKEN_BYTES {
            index.drop_lease_row(&token);
        } else if index.get(&token).is_none() {
            index.drop_lease_rows(&token);
            let length = fs::metadata(self.file(&token, BLOB)).ok().map(|file| file.len());
            match (token, length) {
                (AnyToken::Content(_), Some(length)) => {
                    let place = PayloadPlace::Files;
                    let bytes = index.blocks.payload(length, place);
                    index.insert(token, Lease::default(), bytes, EntryBody::Payload { length, place });
                }
                _ => index.note_lost(&token, vec![Lease::default()], Lanes::NONE),
            }
        }
    }

    /// Looks at some rows of the database, and tells of damaged pages. Blocks on the disk. Returns the number of rows, and of tables that are
    /// damaged; `None`: there are no more, and what is rotten is set aside.
    pub(super) fn walk_rows(&self, walk: &mut RowsWalk) -> Option<(usize, u64)> {
        let latest = self.index().rows.latest();
        match walk.turn(&latest, ROWS_WALK_LEN) {
            Walked::Rows(rows) => Some((rows, 0)),
            Walked::Damaged(table, reason) => {
                let name = format!("{DATABASE}, table {}", table.name());
                let reason = format!("{reason}: have the database salvaged while no gateway runs");
                self.damage().note(name, reason, DamageOutcome::Left);
                Some((0, 1))
            }
            Walked::End => {
                self.set_rows_aside();
                None
            }
        }
    }
}

impl Index {
    /// Removes the rows of leases behind an entry that is none any more.
    fn drop_lease_rows(&mut self, token: &AnyToken) {
        let mut from = [&token.to_bytes()[..], &[0]].concat();
        while let Some(row) = self.rows.next(StoreTable::Holdings, &from)
            && entry::parse_lease(token, &row).is_some()
        {
            from = [&row.0[..], &[0]].concat();
            self.rows.delete(StoreTable::Holdings, row.0);
        }
    }

    /// Notes that an entry has one lease less.
    fn drop_lease_row(&mut self, token: &AnyToken) {
        if let Some(entry) = self.get(token) {
            let (lease, others) = (self.as_row(entry.lease), entry.others.saturating_sub(1));
            let row = IndexEntry { lease, others, ..entry }.emit();
            self.rows.set(StoreTable::Holdings, token.to_bytes().to_vec(), row);
        }
    }
}
