//! A walk through all rows that have checks. It finds bits that turned over in rows that no request reads, and what no row shows by itself: a page of
//! the tree that leads astray hides rows behind it.

use super::checked::without_check;
use super::guard::guarded;
use super::latest::LatestRows;
use super::snapshot::Snapshot;
use super::table::StoreTable;
use std::ops::Bound::{Excluded, Unbounded};

/// The tables of a walk, in their order. The bytes of payloads are read when these are compared with their tokens.
fn walked(number: usize) -> Option<StoreTable> {
    StoreTable::ALL.into_iter().filter(|table| *table != StoreTable::Bytes).nth(number)
}

/// How far a walk is.
#[derive(Debug, Default)]
pub(in crate::seed) struct RowsWalk {
    /// The tables behind it.
    tables: usize,
    /// The last row of its table; empty: none.
    after: Vec<u8>,
    /// Rows of its table whose checks are wrong, and those that a search does not find.
    rotten: u64,
    astray: u64,
}

/// A step of a walk.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::seed) enum Walked {
    /// This number of rows was looked at.
    Rows(usize),
    /// The end of a table whose pages are damaged, and what is wrong.
    Damaged(StoreTable, String),
    /// There are no more tables.
    End,
}

/// What a step met.
#[derive(Debug, Default)]
struct Met {
    rows: usize,
    rotten: u64,
    astray: u64,
    /// The last row whose check is right; where there is none, the row behind which the step began.
    last: Vec<u8>,
}

impl RowsWalk {
    /// Looks at the next rows, at most `len` of them. Each step may see a later commit than the one before.
    pub(in crate::seed) fn turn(&mut self, latest: &LatestRows, len: usize) -> Walked {
        let (Some(table), Some(snapshot)) = (walked(self.tables), latest.snapshot()) else {
            return Walked::End;
        };
        match snapshot.walk(table, &self.after, len) {
            Ok(met) => {
                self.rotten += met.rotten;
                self.astray += met.astray;
                // Where a search leads back there is no end.
                if met.rows == len && met.last > self.after {
                    self.after = met.last;
                    return Walked::Rows(met.rows);
                }
                let (rotten, astray) = (self.rotten, self.astray);
                self.begin_next();
                // A key that is wrong hides those beside it. The next start makes their tables anew.
                if astray == 0 || rotten > 0 {
                    return Walked::Rows(met.rows);
                }
                Walked::Damaged(table, format!("a search does not find {astray} of its rows"))
            }
            Err(error) => {
                self.begin_next();
                if matches!(error, redb::Error::Io(_) | redb::Error::PreviousIo) {
                    // After an error of its disk the database gives no rows at all until a request has it opened anew.
                    self.tables = StoreTable::ALL.len();
                }
                Walked::Damaged(table, error.to_string())
            }
        }
    }

    fn begin_next(&mut self) {
        *self = Self { tables: self.tables + 1, ..Self::default() };
    }
}

impl Snapshot {
    /// Looks at the rows behind `after`.
    fn walk(&self, table: StoreTable, after: &[u8], len: usize) -> Result<Met, redb::Error> {
        guarded(|| {
            let (rows, mut met) = (self.table(table), Met { last: after.to_vec(), ..Met::default() });
            // Nothing lies between the steps of a walk.
            if !after.is_empty() && rows.get(after)?.is_some() {
                let before = rows.range(..=after)?.next_back().transpose()?;
                met.astray += u64::from(before.is_none_or(|(key, _)| key.value() != after));
            }
            for row in rows.range::<&[u8]>((Excluded(after), Unbounded))?.take(len) {
                let (key, value) = row?;
                let (key, value) = (key.value(), value.value());
                met.rows += 1;
                if without_check(table, key, value).is_none() {
                    met.rotten += 1;
                    self.note_rotten(table, key, value);
                    continue;
                }
                let is_astray = key <= &met.last[..] || rows.get(key)?.is_none();
                met.astray += u64::from(is_astray);
                met.last = key.to_vec();
            }
            Ok(met)
        })
    }
}
