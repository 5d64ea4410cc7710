//! Payloads of at most one group: their bytes are a row of the database, and no file. Of longer ones up to 1 MiB, the hash pairs are.
//!
//! The rows have numbers that only grow. So those of one commit lie beside each other, whatever their tokens are.

use super::disk::write_error;
use super::entry::{EntryBody, PayloadPlace};
use super::error::StoreError;
use super::index::Index;
use super::inner::Inner;
use super::layout::{self, BLOB};
use crate::limits::{ROW_PAIRS_BYTES_MAX, ROW_PAYLOAD_BYTES_MAX};
use crate::token::{AnyToken, outboard_bytes};
use std::path::PathBuf;

/// Whether the hash pairs of a payload of this length are a row when it is put.
pub(super) fn has_short_pairs(length: u64) -> bool {
    !is_short(length) && outboard_bytes(length) <= ROW_PAIRS_BYTES_MAX
}

/// The place of a payload of this length that is put, but for the number.
pub(super) fn place_of(length: u64) -> PayloadPlace {
    if is_short(length) {
        PayloadPlace::Row(0)
    } else if has_short_pairs(length) {
        PayloadPlace::Pairs(0)
    } else {
        PayloadPlace::Files
    }
}

/// Whether a payload of this length is a row when it is put.
pub(super) const fn is_short(length: u64) -> bool {
    length <= ROW_PAYLOAD_BYTES_MAX
}

impl Index {
    /// Keeps bytes as a row; returns its number.
    pub(super) fn keep_bytes(&mut self, bytes: Vec<u8>) -> u64 {
        let number = self.next_generation();
        self.rows.set_bytes(number, bytes);
        number
    }

    /// Gives up the place that a payload had, if it has another one now.
    pub(super) fn leave_place(&mut self, token: &AnyToken, before: &EntryBody, now: &EntryBody) {
        let place = |body: &EntryBody| match body {
            EntryBody::Payload { place, .. } => Some(*place),
            EntryBody::Set(_) => None,
        };
        match (place(before), place(now)) {
            (left, now) if left == now => {}
            (Some(PayloadPlace::Row(number)), _) => self.rows.delete_bytes(number),
            (Some(PayloadPlace::Pairs(number)), now) => {
                self.rows.delete_bytes(number);
                if matches!(now, Some(PayloadPlace::Row(_))) {
                    self.forget_files_of(token);
                }
            }
            // Those that it still has are not removed.
            (Some(PayloadPlace::Files), _) => self.forget_files_of(token),
            (None, _) => {}
        }
    }

    /// Notes all files that a token may have as ones to be removed.
    pub(super) fn forget_files_of(&mut self, token: &AnyToken) {
        self.forget_files(layout::kinds(token).iter().map(|kind| layout::path(token, kind)));
    }
}

impl Inner {
    /// Writes a payload that is a row into a file below `tmp`, to be set aside: no bytes that are damaged are deleted.
    pub(super) fn row_as_file(&self, token: &AnyToken) -> Result<Option<PathBuf>, StoreError> {
        let row = {
            let index = self.index();
            match index.get(token).map(|entry| entry.body) {
                Some(EntryBody::Payload { length, place: PayloadPlace::Row(number) }) => {
                    index.rows.bytes(number).map(|bytes| (length, bytes))
                }
                _ => None,
            }
        };
        let Some((length, row)) = row else { return Ok(None) };
        let path = self.temporary(&layout::place(token).1).with_added_extension(BLOB);
        let mut bytes = vec![0; length as usize];
        row.read(0, &mut bytes).map_err(|error| StoreError::io("read", &path, error))?;
        let file = self.disk.create(&path)?;
        let written = self.disk.0.write(&file, &bytes, 0).and_then(|()| self.disk.0.sync(&file));
        written.map_err(|error| write_error(&path, length, error))?;
        Ok(Some(path))
    }
}
