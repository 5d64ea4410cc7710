//! Makes what is derived from the holdings anew: their order by use and by end, the sums, and the indexes by owner and by blob. A start that takes
//! an earlier layout of the database over does so, and one after a row was rotten. A crash loses nothing: the next start goes on.

use super::database::{RebuildNote, Row, StoreTable};
use super::entry::{self, EntryBody, IndexEntry, PayloadPlace, Sums};
use super::error::StoreError;
use super::index::Index;
use super::inner::Inner;
use crate::limits::REBUILD_BATCH_LEN;
use crate::token::{AnyToken, TOKEN_BYTES};

/// The holdings after which a line of the log tells how far it has come.
const TOLD_ENTRIES_LEN: u64 = 1 << 17;

/// Makes the tables anew, if a start began that or an earlier one did not end it.
pub(super) fn run(store: &Inner) -> Result<(), StoreError> {
    let found = store.index().rows.rebuild();
    if let Some(mut note) = found {
        let mut told = 0;
        while let Some(of) = store.rebuild_some(&mut note)? {
            store.set_rows_aside();
            store.commit()?;
            let done = store.index().sums.entries;
            if done / TOLD_ENTRIES_LEN > told {
                told = done / TOLD_ENTRIES_LEN;
                tracing::info!(
                    done,
                    rows = of,
                    "making the indexes of the store's database anew from its holdings"
                );
            }
        }
        store.set_rows_aside();
        store.commit()?;
        store.index().rows.end_rebuild()?;
        store.commit()?;
        tracing::info!(
            holdings = store.index().sums.entries,
            "the indexes of the store's database are made anew"
        );
    }
    store.set_rows_aside();
    Ok(())
}

impl Inner {
    /// Takes some rows. Returns the number of all, or `None` if there are no more.
    fn rebuild_some(&self, note: &mut RebuildNote) -> Result<Option<u64>, StoreError> {
        let mut index = self.index();
        if note.after.is_empty() {
            let stamp = index.sums.stamp;
            index.set_sums(Sums { stamp, ..Sums::default() });
        }
        let mut len = REBUILD_BATCH_LEN;
        loop {
            let (rows, of) = index.rows.rebuild_rows(note, len)?;
            let Some((last, _)) = rows.last() else { return Ok(None) };
            // An entry with leases of which some may not be read yet is left to the next turn.
            let is_all = rows.len() < len;
            let of_last = last.get(..TOKEN_BYTES).unwrap_or(last).to_vec();
            let whole =
                if is_all { rows.len() } else { rows.partition_point(|(key, _)| !key.starts_with(&of_last)) };
            if whole == 0 {
                len *= 2;
                continue;
            }
            note.after.clone_from(&rows[whole - 1].0);
            rows[..whole]
                .chunk_by(|(a, _), (b, _)| a.get(..TOKEN_BYTES) == b.get(..TOKEN_BYTES))
                .for_each(|rows| index.take_rows(rows));
            index.rows.note_rebuild(note);
            return Ok(Some(of));
        }
    }
}

impl Index {
    /// Takes the rows of one entry.
    fn take_rows(&mut self, rows: &[Row]) {
        let Some(((key, value), others)) = rows.split_first() else { return };
        // Leases whose entry is rotten go with it.
        let Ok(token) = AnyToken::from_slice(key) else { return };
        let Some(found) = IndexEntry::parse(value) else {
            return self.rows.note_rotten(StoreTable::Holdings, key, value);
        };
        // A key whose bit turned over breaks the order of its page: a row that was not found there may have been written a second time.
        if let Some(earlier) = self.get(&token) {
            if earlier.used > found.used {
                return;
            }
            self.take_out(&token);
        }
        let others = others.iter().filter_map(|row| entry::parse_lease(&token, row));
        let leases = std::iter::once(found.lease).chain(others).map(|lease| self.of_now(lease)).collect();
        let number = match found.body {
            EntryBody::Payload { place: PayloadPlace::Row(number) | PayloadPlace::Pairs(number), .. } => {
                number
            }
            EntryBody::Payload { .. } => 0,
            EntryBody::Set(set) => set.generation,
        };
        self.sums.stamp = self.sums.stamp.max(number).max(found.used);
        self.put_used(token, leases, (found.bytes, found.used), found.body);
    }
}
