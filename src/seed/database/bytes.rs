//! The bytes of short payloads: rows that are read without the lock of the index.

use super::opened::Snapshot;
use super::rows::Rows;
use super::table::StoreTable;
use bytes::Bytes;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The rows of the last commit, for readers that outlive it. Once the database is closed there are none.
#[derive(Debug, Default)]
pub(in crate::seed) struct LatestRows(Mutex<Option<Arc<Snapshot>>>);

impl LatestRows {
    fn latest(&self) -> MutexGuard<'_, Option<Arc<Snapshot>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn get(&self) -> Option<Arc<Snapshot>> {
        self.latest().clone()
    }

    pub(super) fn set(&self, snapshot: Snapshot) {
        *self.latest() = Some(Arc::new(snapshot));
    }

    pub(super) fn close(&self) {
        *self.latest() = None;
    }
}

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
            Self::Stored(latest, number) => {
                let snapshot = latest.get().ok_or(io::ErrorKind::NotFound)?;
                match snapshot.read(StoreTable::Bytes, &key(*number), offset, out) {
                    Ok(read) => read.map_err(io::Error::from),
                    Err(redb::Error::Io(error)) => Err(error),
                    Err(error) => Err(io::Error::new(io::ErrorKind::InvalidData, error)),
                }
            }
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
            None => Some(RowBytes::Stored(self.latest(), number)),
        }
    }
}
