//! The bytes of short payloads: rows that are read without the lock of the index.

use super::latest::LatestRows;
use super::rows::Rows;
use super::table::StoreTable;
use bytes::Bytes;
use std::io;
use std::sync::Arc;

/// The bytes of one payload.
#[derive(Clone, Debug)]
pub(in crate::seed) enum RowBytes {
    /// They were not committed when the payload was opened.
    There(Bytes),
    /// They are the row with this number.
    Stored(Arc<LatestRows>, u64),
}

impl RowBytes {
    /// Fills `out` from `offset` on. Blocks on the disk.
    ///
    /// # Errors
    /// The disk's; [`io::ErrorKind::NotFound`] if the row was removed, [`io::ErrorKind::UnexpectedEof`] if it is too short.
    pub(in crate::seed) fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        match self {
            Self::There(bytes) => {
                let rest = usize::try_from(offset).ok().and_then(|offset| bytes.get(offset..));
                let found = rest.and_then(|rest| rest.get(..out.len()));
                out.copy_from_slice(found.ok_or(io::ErrorKind::UnexpectedEof)?);
                Ok(())
            }
            Self::Stored(latest, number) => match latest.read_bytes(&key(*number), offset, out) {
                Ok(read) => read.map_err(io::Error::from),
                Err(redb::Error::Io(error)) => Err(error),
                Err(error) => Err(io::Error::new(io::ErrorKind::InvalidData, error)),
            },
        }
    }
}

fn key(number: u64) -> [u8; 8] {
    number.to_be_bytes()
}

impl Rows {
    /// Keeps bytes as the row with this number.
    pub(in crate::seed) fn set_bytes(&mut self, number: u64, bytes: Vec<u8>) {
        self.set(StoreTable::Bytes, key(number).to_vec(), bytes);
    }

    pub(in crate::seed) fn delete_bytes(&mut self, number: u64) {
        self.delete(StoreTable::Bytes, key(number).to_vec());
    }

    /// The bytes with this number, to be read later.
    pub(in crate::seed) fn bytes(&self, number: u64) -> Option<RowBytes> {
        match self.uncommitted(StoreTable::Bytes, &key(number)) {
            Some(changed) => changed.clone().map(|bytes| RowBytes::There(bytes.into())),
            None => Some(self.stored_bytes(number)),
        }
    }

    /// The bytes with this number, to be read once they are committed.
    pub(in crate::seed) fn stored_bytes(&self, number: u64) -> RowBytes {
        RowBytes::Stored(self.latest(), number)
    }
}
