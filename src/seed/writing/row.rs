//! A short payload while it is written: it stays in memory until it is a row.

use crate::seed::error::StoreError;
use crate::token::VerifiedPiece;

/// Takes the one piece of a payload of at most one group.
#[derive(Debug)]
pub(super) struct NewRow {
    length: u64,
    bytes: Option<Vec<u8>>,
}

impl NewRow {
    /// A payload of `length` bytes. One without bytes is complete.
    pub(super) fn new(length: u64) -> Self {
        Self { length, bytes: (length == 0).then(Vec::new) }
    }

    pub(super) fn written_bytes(&self) -> u64 {
        self.bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)
    }

    /// Takes a copy: the piece may be a part of a larger buffer.
    pub(super) fn write(&mut self, piece: &VerifiedPiece) -> Result<(), StoreError> {
        let VerifiedPiece { offset, data, proofs } = piece;
        if *offset != 0 || data.len() as u64 != self.length || !proofs.is_empty() {
            return Err(StoreError::Foreign { offset: *offset, length: self.length });
        }
        self.bytes = Some(data.to_vec());
        Ok(())
    }

    pub(super) fn check_complete(&self) -> Result<(), StoreError> {
        let missing = StoreError::Incomplete { written_bytes: 0, length: self.length };
        self.bytes.as_ref().map(drop).ok_or(missing)
    }

    /// The whole payload. It is taken once.
    pub(super) fn take(&mut self) -> Vec<u8> {
        self.bytes.take().unwrap_or_default()
    }
}
