//! The hash pairs above a payload's groups.

use super::{GROUP_BYTES_U64, PAIR_BYTES, Proof, Token, groups_of, hash_pair, hash_subtree, left_groups};
use crate::limits::{GROUP_BYTES, PAYLOAD_BYTES_MAX};
use bytes::Bytes;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

/// Payload read at once while hashing, bytes: a power of two of groups, so that it is a subtree, and small enough for a
/// core's second cache.
const WINDOW_BYTES: usize = 1 << 18;

/// Bytes of outboard that a payload of `length` bytes has: 64 for every group but one.
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
    File(Arc<File>),
}

impl Outboard {
    /// Reads `length` bytes and hashes them. Takes 64 bytes of memory for every 16 KiB read, and 256 KiB besides.
    ///
    /// # Errors
    /// [`OutboardError::TooLong`] past [`PAYLOAD_BYTES_MAX`]; [`OutboardError::Io`] if the reader fails or ends early.
    pub fn build(reader: impl Read, length: u64) -> Result<(Token, Self), OutboardError> {
        if length > PAYLOAD_BYTES_MAX {
            return Err(OutboardError::TooLong(length));
        }
        let window = vec![0; WINDOW_BYTES.min(length as usize)];
        let mut hasher = TreeHasher { reader, window, pairs: Vec::new() };
        let root = hasher.subtree(0, length, true)?;
        Ok((Token::from_root(root), Self { length, pairs: Pairs::Memory(hasher.pairs.into()) }))
    }

    /// Pairs in memory, for a payload of `length` bytes.
    ///
    /// # Errors
    /// [`OutboardError::Size`] if there are not [`outboard_bytes`] of them.
    pub fn from_bytes(length: u64, pairs: Bytes) -> Result<Self, OutboardError> {
        check_size(length, pairs.len() as u64)?;
        Ok(Self { length, pairs: Pairs::Memory(pairs) })
    }

    /// Pairs in a file, read as they are needed.
    ///
    /// # Errors
    /// [`OutboardError::Size`] if the file has not [`outboard_bytes`], [`OutboardError::Io`] if it cannot be asked.
    pub fn from_file(length: u64, file: File) -> Result<Self, OutboardError> {
        check_size(length, file.metadata()?.len())?;
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
                file.read_exact_at(&mut read, start)?;
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

/// Hashes a reader's bytes in tree order, gathering the pairs in pre-order.
struct TreeHasher<R> {
    reader: R,
    window: Vec<u8>,
    pairs: Vec<u8>,
}

impl<R: Read> TreeHasher<R> {
    /// Hashes the next `len` bytes, which are the subtree at `offset`.
    fn subtree(&mut self, offset: u64, len: u64, is_root: bool) -> io::Result<[u8; 32]> {
        if len <= WINDOW_BYTES as u64 {
            let window = &mut self.window[..len as usize];
            self.reader.read_exact(window)?;
            return Ok(hash_in_memory(offset, window, &mut self.pairs, is_root));
        }
        let left_len = left_subtree_bytes(len);
        let at = reserve_pair(&mut self.pairs);
        let left = self.subtree(offset, left_len, false)?;
        let right = self.subtree(offset + left_len, len - left_len, false)?;
        Ok(join(&mut self.pairs[at..at + PAIR_BYTES], left, right, is_root))
    }
}

/// Hashes `data`, the whole subtree at `offset`.
fn hash_in_memory(offset: u64, data: &[u8], pairs: &mut Vec<u8>, is_root: bool) -> [u8; 32] {
    if data.len() <= GROUP_BYTES {
        return hash_subtree(offset, data, is_root);
    }
    let left_len = left_subtree_bytes(data.len() as u64);
    let (left_data, right_data) = data.split_at(left_len as usize);
    let at = reserve_pair(pairs);
    let left = hash_in_memory(offset, left_data, pairs, false);
    let right = hash_in_memory(offset + left_len, right_data, pairs, false);
    join(&mut pairs[at..at + PAIR_BYTES], left, right, is_root)
}

/// Holds a parent's place before its children's: pre-order.
fn reserve_pair(pairs: &mut Vec<u8>) -> usize {
    let at = pairs.len();
    pairs.resize(at + PAIR_BYTES, 0);
    at
}

fn join(place: &mut [u8], left: [u8; 32], right: [u8; 32], is_root: bool) -> [u8; 32] {
    let mut pair = [0; PAIR_BYTES];
    pair[..32].copy_from_slice(&left);
    pair[32..].copy_from_slice(&right);
    place.copy_from_slice(&pair);
    hash_pair(&pair, is_root)
}

/// Bytes in the left part of a subtree of `len` bytes, more than one group.
fn left_subtree_bytes(len: u64) -> u64 {
    left_groups(len.div_ceil(GROUP_BYTES_U64)) * GROUP_BYTES_U64
}

/// Gathers the proofs of a whole payload as it is decoded, in memory: 64 bytes for every 16 KiB that arrived.
#[derive(Debug)]
pub struct OutboardBuilder {
    length: u64,
    pairs: Vec<u8>,
}

impl OutboardBuilder {
    /// For a payload of `length` bytes. Allocates as proofs come, not by what `length` claims.
    pub fn new(length: u64) -> Self {
        Self { length, pairs: Vec::new() }
    }

    /// Takes the proofs of the decoder's next piece.
    ///
    /// # Errors
    /// [`OutboardError::OutOfOrder`] if one does not follow the one before: not the whole payload was asked for.
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

/// Why there is no outboard.
#[derive(Debug, thiserror::Error)]
pub enum OutboardError {
    /// Past [`PAYLOAD_BYTES_MAX`].
    #[error("a payload of {0} bytes is longer than the {PAYLOAD_BYTES_MAX} that the protocol allows")]
    TooLong(u64),
    /// Not the size that the payload's length gives.
    #[error(
        "the outboard has {found} bytes and its payload needs {expected}: it is of another payload, or cut short"
    )]
    Size {
        /// Bytes that the payload's length gives.
        expected: u64,
        /// Bytes found.
        found: u64,
    },
    /// Proofs with a gap between them.
    #[error("proofs are out of order: an outboard is built from a whole payload")]
    OutOfOrder,
    /// Reading failed.
    #[error("reading failed: {0}")]
    Io(#[from] io::Error),
}
