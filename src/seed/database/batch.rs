//! The changes of one commit as bytes of a journal, and back.
//!
//! A batch begins at a block: a head of 64 bytes, then the rows. Both are hashed with the database's own key, which no peer knows: no bytes of a
//! payload pass for a batch.

use super::table::{Changes, StoreTable};
use crate::limits::JOURNAL_BLOCK_BYTES;

/// The key of a database's journal.
pub(super) type JournalKey = [u8; 32];

const MAGIC: [u8; 8] = *b"STOQrows";
/// The head: magic, number, length of the rows, a check of these, a hash of these and the rows.
pub(super) const HEAD_BYTES: usize = 64;
const NUMBERS_BYTES: usize = 24;
const CHECKED_BYTES: usize = 32;
/// Marks a row that is removed, in the number of its table.
const REMOVED: u8 = 0x80;

/// What a head says.
#[derive(Clone, Copy, Debug)]
pub(super) struct BatchHead {
    /// The number of the batch.
    pub(super) sequence: u64,
    /// Bytes of its rows.
    pub(super) length: u64,
    hash: [u8; 32],
    numbers: [u8; NUMBERS_BYTES],
}

impl BatchHead {
    /// Reads a head; `None` if it is none of a batch of this key.
    pub(super) fn parse(head: &[u8; HEAD_BYTES], key: &JournalKey) -> Option<Self> {
        let numbers = *head.first_chunk::<NUMBERS_BYTES>()?;
        let check = blake3::keyed_hash(key, &numbers);
        if numbers[..8] != MAGIC || head[NUMBERS_BYTES..CHECKED_BYTES] != check.as_bytes()[..8] {
            return None;
        }
        let sequence = u64::from_be_bytes(*numbers[8..].first_chunk()?);
        let length = u64::from_be_bytes(*numbers[16..].first_chunk()?);
        Some(Self { sequence, length, hash: *head.last_chunk()?, numbers })
    }

    /// The rows of the batch; `None` if they are not those that were written.
    pub(super) fn rows(&self, rows: &[u8], key: &JournalKey) -> Option<Changes> {
        let hash = hash(key, &self.numbers, rows);
        (hash == self.hash).then(|| parse_rows(rows)).flatten()
    }

    /// What the batch takes of its file, bytes: whole blocks.
    pub(super) fn taken_bytes(&self) -> u64 {
        self.length.saturating_add(HEAD_BYTES as u64).next_multiple_of(JOURNAL_BLOCK_BYTES)
    }
}

fn hash(key: &JournalKey, numbers: &[u8], rows: &[u8]) -> [u8; 32] {
    *blake3::Hasher::new_keyed(key).update(numbers).update(rows).finalize().as_bytes()
}

/// A batch in whole blocks.
pub(super) fn emit(changes: &Changes, sequence: u64, key: &JournalKey) -> Vec<u8> {
    let mut batch = vec![0; HEAD_BYTES];
    for table in StoreTable::ALL {
        for (row, value) in changes.of(table) {
            let removed = if value.is_none() { REMOVED } else { 0 };
            let value = value.as_deref().unwrap_or_default();
            batch.push(table as u8 | removed);
            batch.extend_from_slice(&(row.len() as u32).to_be_bytes());
            batch.extend_from_slice(&(value.len() as u32).to_be_bytes());
            batch.extend_from_slice(row);
            batch.extend_from_slice(value);
        }
    }
    let length = (batch.len() - HEAD_BYTES) as u64;
    let mut numbers = [0; NUMBERS_BYTES];
    numbers[..8].copy_from_slice(&MAGIC);
    numbers[8..16].copy_from_slice(&sequence.to_be_bytes());
    numbers[16..].copy_from_slice(&length.to_be_bytes());
    let hash = hash(key, &numbers, &batch[HEAD_BYTES..]);
    batch[..NUMBERS_BYTES].copy_from_slice(&numbers);
    batch[NUMBERS_BYTES..CHECKED_BYTES].copy_from_slice(&blake3::keyed_hash(key, &numbers).as_bytes()[..8]);
    batch[CHECKED_BYTES..HEAD_BYTES].copy_from_slice(&hash);
    batch.resize(batch.len().next_multiple_of(JOURNAL_BLOCK_BYTES as usize), 0);
    batch
}

fn parse_rows(mut rows: &[u8]) -> Option<Changes> {
    let mut changes = Changes::default();
    while let Some((&kind, rest)) = rows.split_first() {
        let (row_len, rest) = rest.split_first_chunk()?;
        let (value_len, rest) = rest.split_first_chunk()?;
        let (row, rest) = rest.split_at_checked(u32::from_be_bytes(*row_len) as usize)?;
        let (value, rest) = rest.split_at_checked(u32::from_be_bytes(*value_len) as usize)?;
        let table = *StoreTable::ALL.get(usize::from(kind & !REMOVED))?;
        let value = (kind & REMOVED == 0).then(|| value.to_vec());
        changes.0[table as usize].insert(row.to_vec(), value);
        rows = rest;
    }
    Some(changes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    type Rows = BTreeMap<Vec<u8>, Option<Vec<u8>>>;

    fn parse(batch: &[u8], key: &JournalKey) -> Option<(u64, Changes)> {
        let head = BatchHead::parse(batch.first_chunk()?, key)?;
        let rows = batch.get(HEAD_BYTES..HEAD_BYTES + head.length as usize)?;
        Some((head.sequence, head.rows(rows, key)?))
    }

    proptest::proptest! {
        #[test]
        fn what_is_emitted_is_read_back_and_no_bit_of_it_may_turn(
            first: Rows, last: Rows, sequence: u64, key: [u8; 32], bit: usize,
        ) {
            let mut changes = Changes::default();
            changes.0[0] = first;
            changes.0[StoreTable::ALL.len() - 1] = last;
            let mut batch = emit(&changes, sequence, &key);
            assert!((batch.len() as u64).is_multiple_of(JOURNAL_BLOCK_BYTES));
            let (read, found) = parse(&batch, &key).unwrap();
            assert_eq!((read, &found.0), (sequence, &changes.0));
            let head = BatchHead::parse(batch.first_chunk().unwrap(), &key).unwrap();
            assert_eq!(head.taken_bytes(), batch.len() as u64);
            let used = HEAD_BYTES + head.length as usize;
            batch[bit / 8 % used] ^= 1 << (bit % 8);
            assert!(parse(&batch, &key).is_none());
        }

        #[test]
        fn random_bytes_are_no_rows_and_never_panic(bytes: Vec<u8>, key: [u8; 32]) {
            let _ = parse_rows(&bytes);
            assert!(parse(&bytes, &key).is_none());
        }
    }
}
