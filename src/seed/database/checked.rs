//! The checks of rows: what the database's file keeps behind each value. A bit that turned over there is found when its row is read.

use super::table::{LAYOUT_ROW, StoreTable};
use crate::limits::ROTTEN_ROWS_LEN_MAX;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// A check: the first bytes of a hash of the table, the key and the value.
pub(super) const CHECK_BYTES: usize = 4;

/// Whether the rows of a table have checks. The bytes of payloads and hash pairs are checked by their tokens.
pub(super) fn has_checks(table: StoreTable, key: &[u8]) -> bool {
    // Every version reads the row of the layout.
    table != StoreTable::Bytes && !(table == StoreTable::Notes && key == LAYOUT_ROW)
}

/// The check of a value.
pub(super) fn check(table: StoreTable, key: &[u8], value: &[u8]) -> [u8; CHECK_BYTES] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(table.name().as_bytes()).update(&(key.len() as u64).to_be_bytes()).update(key);
    let hash = hasher.update(value).finalize();
    hash.as_bytes().first_chunk().copied().unwrap_or_default()
}

/// A value as the file has it.
pub(super) fn with_check(table: StoreTable, key: &[u8], value: &[u8]) -> Vec<u8> {
    if !has_checks(table, key) {
        return value.to_vec();
    }
    [value, &check(table, key, value)].concat()
}

/// The value of a row of the file; `None` if it is not what was written.
pub(super) fn without_check<'r>(table: StoreTable, key: &[u8], row: &'r [u8]) -> Option<&'r [u8]> {
    if !has_checks(table, key) {
        return Some(row);
    }
    let (value, found) = row.split_last_chunk::<CHECK_BYTES>()?;
    (check(table, key, value) == *found).then_some(value)
}

/// A row whose check is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::seed) struct RottenRow {
    pub(in crate::seed) table: StoreTable,
    pub(in crate::seed) key: Vec<u8>,
    /// With the check.
    pub(in crate::seed) value: Vec<u8>,
}

/// The rows that were found rotten since the store was opened, up to [`ROTTEN_ROWS_LEN_MAX`]: any further one is found again when it is read again.
#[derive(Debug, Default)]
pub(super) struct RottenRows(Mutex<State>);

type RowName = (usize, Vec<u8>);

#[derive(Debug, Default)]
struct State {
    waiting: BTreeMap<RowName, RottenRow>,
    told: BTreeSet<RowName>,
    /// All that were noted.
    found: u64,
}

impl RottenRows {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a row, once.
    pub(super) fn note(&self, table: StoreTable, key: &[u8], value: &[u8]) {
        let (mut state, name) = (self.state(), (table as usize, key.to_vec()));
        if !state.told.contains(&name) && state.waiting.len() + state.told.len() < ROTTEN_ROWS_LEN_MAX {
            let row = RottenRow { table, key: key.to_vec(), value: value.to_vec() };
            state.found += u64::from(state.waiting.insert(name, row).is_none());
        }
    }

    /// Whether rows wait to be told of.
    pub(super) fn is_waiting(&self) -> bool {
        !self.state().waiting.is_empty()
    }

    /// The number of rows that were found.
    pub(super) fn found(&self) -> u64 {
        self.state().found
    }

    /// The rows that were found since the last call.
    pub(super) fn take(&self) -> Vec<RottenRow> {
        let mut state = self.state();
        let (names, rows) = std::mem::take(&mut state.waiting).into_iter().unzip::<_, _, Vec<_>, Vec<_>>();
        state.told.extend(names);
        rows
    }

    /// Forgets that a row was told of: it is set aside, and may be written anew.
    pub(super) fn forget(&self, row: &RottenRow) {
        self.state().told.remove(&(row.table as usize, row.key.clone()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_bit_that_turns_over_in_a_key_or_a_value_is_found() {
        let (table, key, value) = (StoreTable::Holdings, b"some key".to_vec(), b"and a value".to_vec());
        let row = with_check(table, &key, &value);
        assert_eq!(without_check(table, &key, &row), Some(&value[..]));
        assert_eq!(without_check(StoreTable::Ends, &key, &row), None, "a row of another table");
        for bit in 0..row.len() * 8 {
            let mut rotten = row.clone();
            rotten[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(without_check(table, &key, &rotten), None, "{bit}");
        }
        for bit in 0..key.len() * 8 {
            let mut rotten = key.clone();
            rotten[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(without_check(table, &rotten, &row), None, "{bit}");
        }
        (0..row.len()).for_each(|len| assert_eq!(without_check(table, &key, &row[..len]), None));
        assert_eq!(with_check(StoreTable::Notes, LAYOUT_ROW, b"1234"), b"1234");
    }

    #[test]
    fn a_rotten_row_is_told_of_once_and_their_number_is_bounded() {
        let rotten = RottenRows::default();
        for number in 0..2 * ROTTEN_ROWS_LEN_MAX as u64 {
            rotten.note(StoreTable::Ends, &number.to_be_bytes(), b"");
        }
        let told = rotten.take();
        assert_eq!(told.len(), ROTTEN_ROWS_LEN_MAX);
        rotten.note(StoreTable::Ends, &told[0].key, b"");
        assert!(!rotten.is_waiting() && rotten.take().is_empty());
        rotten.forget(&told[0]);
        rotten.note(StoreTable::Ends, &told[0].key, b"");
        assert_eq!(rotten.take(), told[..1]);
    }
}
