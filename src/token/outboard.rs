//! The hash pairs above a payload's groups.

use super::{PAIR_BYTES, Proof, groups_of};
use crate::limits::PAYLOAD_BYTES_MAX;
use bytes::Bytes;
use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

/// The size of the outboard of a payload of `length` bytes: 64 for every group but one.
pub fn outboard_bytes(length: u64) -> u64 {
    (groups_of(length) - 1) * PAIR_BYTES as u64
}

/// A payload's hash pairs in pre-order, 64 bytes each (left, right), no length before them. On disk this is the whole
/// file. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Outboard {
    length: u64,
    pairs: Pairs,
}

#[derive(Clone, Debug)]
enum Pairs {
    Memory(Bytes),
    File(Arc<dyn ReadPairs>),
}

/// A file of hash pairs.
pub trait ReadPairs: fmt::Debug + Send + Sync {
    /// Fills `out` with the bytes from `offset` on.
    ///
    /// # Errors
    /// The file's error; [`io::ErrorKind::UnexpectedEof`] past its end.
    fn read_pairs(&self, offset: u64, out: &mut [u8]) -> io::Result<()>;
}

impl ReadPairs for File {
    fn read_pairs(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.read_exact_at(out, offset)
    }
}

impl Outboard {
    /// Pairs in memory, for a payload of `length` bytes.
    ///
    /// # Errors
    /// [`OutboardError::Size`] if there are not [`outboard_bytes`] of them.
    pub fn from_bytes(length: u64, pairs: Bytes) -> Result<Self, OutboardError> {
        check_size(length, pairs.len() as u64)?;
        Ok(Self { length, pairs: Pairs::Memory(pairs) })
    }

    /// Pairs in a file, read when they are needed.
    ///
    /// # Errors
    /// [`OutboardError::Size`] if the file has another size than [`outboard_bytes`],
    /// [`OutboardError::Io`] if its size cannot be read.
    pub fn from_file(length: u64, file: File) -> Result<Self, OutboardError> {
        let size_bytes = file.metadata()?.len();
        Self::from_reader(length, file, size_bytes)
    }

    /// Pairs in a file of `size_bytes`, read when they are needed.
    ///
    /// # Errors
    /// [`OutboardError::Size`] if the payload needs another size.
    pub fn from_reader(
        length: u64,
        file: impl ReadPairs + 'static,
        size_bytes: u64,
    ) -> Result<Self, OutboardError> {
        check_size(length, size_bytes)?;
        Ok(Self { length, pairs: Pairs::File(Arc::new(file)) })
    }

    /// The payload's length, bytes.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// The pairs, if they are in memory.
    pub fn as_bytes(&self) -> Option<&Bytes> {
        match &self.pairs {
            Pairs::Memory(bytes) => Some(bytes),
            Pairs::File(_) => None,
        }
    }

    /// The number of pairs.
    pub(super) fn len(&self) -> u64 {
        outboard_bytes(self.length) / PAIR_BYTES as u64
    }

    /// `count` pairs from pre-order number `index` on: a slice if they are in memory, read if they are in a file.
    ///
    /// # Errors
    /// The file's error; [`io::ErrorKind::UnexpectedEof`] past the last pair.
    pub fn pairs(&self, index: u64, count: usize) -> io::Result<Bytes> {
        let past_end = || io::Error::from(io::ErrorKind::UnexpectedEof);
        let start = index.checked_mul(PAIR_BYTES as u64).ok_or_else(past_end)?;
        let len = count.checked_mul(PAIR_BYTES).ok_or_else(past_end)?;
        if start.checked_add(len as u64).is_none_or(|end| end > outboard_bytes(self.length)) {
            return Err(past_end());
        }
        match &self.pairs {
            Pairs::Memory(bytes) => Ok(bytes.slice(start as usize..start as usize + len)),
            Pairs::File(file) => {
                let mut read = vec![0; len];
                file.read_pairs(start, &mut read)?;
                Ok(read.into())
            }
        }
    }
}

fn check_size(length: u64, found: u64) -> Result<(), OutboardError> {
    if length > PAYLOAD_BYTES_MAX {
        return Err(OutboardError::TooLong(length));
    }
    let expected = outboard_bytes(length);
    if found == expected { Ok(()) } else { Err(OutboardError::Size { expected, found }) }
}

/// Collects the proofs of a whole payload while it is decoded, in memory: 64 bytes for every 16 KiB.
#[derive(Debug)]
pub struct OutboardBuilder {
    length: u64,
    pairs: Vec<u8>,
}

impl OutboardBuilder {
    /// A builder for a payload of `length` bytes. Allocates for each proof, not for the claimed `length`.
    pub fn new(length: u64) -> Self {
        Self { length, pairs: Vec::new() }
    }

    /// Takes the proofs of the decoder's next piece.
    ///
    /// # Errors
    /// [`OutboardError::OutOfOrder`] if a proof is skipped: the selection is not the whole payload.
    pub fn push(&mut self, proofs: &[Proof]) -> Result<(), OutboardError> {
        for proof in proofs {
            if proof.index != (self.pairs.len() / PAIR_BYTES) as u64 {
                return Err(OutboardError::OutOfOrder);
            }
            self.pairs.extend_from_slice(&proof.pair);
        }
        Ok(())
    }

    /// The outboard, once every proof was pushed.
    ///
    /// # Errors
    /// [`OutboardError::Size`] if some are missing.
    pub fn finish(self) -> Result<Outboard, OutboardError> {
        Outboard::from_bytes(self.length, self.pairs.into())
    }
}

/// Why an outboard cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum OutboardError {
    /// The payload is longer than [`PAYLOAD_BYTES_MAX`].
    #[error(
        "a payload of {0} bytes is longer than the {PAYLOAD_BYTES_MAX} that the protocol allows; put it in parts"
    )]
    TooLong(u64),
    /// The size does not fit the payload's length.
    #[error(
        "the outboard has {found} bytes and its payload needs {expected}: it belongs to another payload, or is cut short"
    )]
    Size {
        /// The size that the payload's length gives, bytes.
        expected: u64,
        /// The size found, bytes.
        found: u64,
    },
    /// More or fewer bytes than the stated length.
    #[error("the payload does not have the stated {expected} bytes")]
    Length {
        /// The stated length, bytes.
        expected: u64,
    },
    /// Proofs with a gap between them.
    #[error("proofs are out of order: an outboard is built from a whole payload")]
    OutOfOrder,
    /// Reading failed.
    #[error("the payload cannot be read: {0}")]
    Io(io::Error),
}

impl From<io::Error> for OutboardError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}
