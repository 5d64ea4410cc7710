//! Writes a verified encoding: hash pairs and groups in tree order.

use super::walk::{Step, Walk};
use super::{Outboard, PAIR_BYTES, RangesError, Selection};
use bytes::Bytes;
use std::io;

/// Pairs that are read from a file at a time: those above 1 MiB.
const PAIRS_AHEAD_LEN: usize = 64;

/// The next part of a verified encoding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EncodedPiece {
    /// Hash pairs, 64 bytes each.
    Proof(Bytes),
    /// Payload bytes, which the caller supplies.
    Data {
        /// Their place in the payload, bytes.
        offset: u64,
        /// Their number: one group, or neighboring groups.
        len: usize,
    },
}

impl EncodedPiece {
    /// Bytes of this piece.
    pub fn len(&self) -> usize {
        match self {
            Self::Proof(pairs) => pairs.len(),
            Self::Data { len, .. } => *len,
        }
    }

    /// Whether there is no byte.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Gives the pieces of the verified encoding of some groups of a payload, byte for byte bao-tree's mixed
/// encoding without a length prefix. Its only I/O is the reading of an [`Outboard`] in a file; it never
/// touches payload bytes.
#[derive(Debug)]
pub struct VerifiedEncoder {
    walk: Walk,
    next: Option<Step>,
    outboard: Outboard,
    /// Pairs of a file that were read, and the number of the first.
    ahead: (u64, Bytes),
    /// Whether pairs of a file are given by the caller.
    waits: bool,
}

impl VerifiedEncoder {
    /// The encoding of `selection` of the payload that `outboard` belongs to.
    ///
    /// # Errors
    /// [`RangesError::OutOfBounds`] if some of the selection lies outside the payload.
    pub fn new(outboard: Outboard, selection: impl Into<Selection>) -> Result<Self, RangesError> {
        let (mut walk, _) = Walk::new(selection.into(), outboard.length())?;
        let next = walk.next();
        Ok(Self { walk, next, outboard, ahead: (0, Bytes::new()), waits: false })
    }

    /// An encoder that reads no file: if the outboard is in one, the caller gives it the pairs of [`VerifiedEncoder::missing_pairs`].
    pub fn without_reads(self) -> Self {
        Self { waits: self.outboard.as_bytes().is_none(), ..self }
    }

    /// The pairs without which there is no next piece: the place in the outboard's file and the number of bytes of those that it is good to have.
    pub fn missing_pairs(&self) -> Option<(u64, usize)> {
        let Some(Step::Pair { index, .. }) = self.next else { return None };
        if !self.waits || self.place(index, 1).is_some() {
            return None;
        }
        let left = self.outboard.len().saturating_sub(index).min(PAIRS_AHEAD_LEN as u64);
        Some((index * PAIR_BYTES as u64, left as usize * PAIR_BYTES))
    }

    /// Takes pairs from this place in the outboard's file on: whole ones, and at least one.
    pub fn give_pairs(&mut self, offset: u64, pairs: &[u8]) {
        self.ahead = (offset / PAIR_BYTES as u64, Bytes::copy_from_slice(pairs));
    }

    /// The groups that it carries.
    pub fn selection(&self) -> &Selection {
        self.walk.selection()
    }

    /// Appends the next pieces to `out`, up to `bytes_max` bytes but at least one hash pair or group. Returns
    /// the number of bytes appended, 0 at the end or if pairs are missing. Neighboring pairs are one piece, and so are neighboring
    /// groups.
    ///
    /// # Errors
    /// The outboard's error. The encoder cannot be used after it.
    pub fn next_batch(&mut self, bytes_max: usize, out: &mut Vec<EncodedPiece>) -> io::Result<usize> {
        let mut total = 0;
        loop {
            let left = bytes_max.saturating_sub(total);
            let piece = match self.next {
                // A payload of no bytes is one empty group, which is not written.
                Some(Step::Group { len: 0, .. }) => {
                    self.next = self.walk.next();
                    continue;
                }
                // What follows needs pairs that the caller has not given yet.
                Some(Step::Pair { .. }) if self.missing_pairs().is_some() => return Ok(total),
                Some(Step::Pair { index, .. }) if total == 0 || left >= PAIR_BYTES => {
                    self.proof_run(index, left)?
                }
                Some(Step::Group { offset, len, .. }) if total == 0 || left >= len => {
                    self.data_run(offset, left)
                }
                _ => return Ok(total),
            };
            total += piece.len();
            out.push(piece);
        }
    }

    /// The pairs from number `start` on that follow each other both here and in the outboard; at least the
    /// first, whatever `bytes_max` is.
    fn proof_run(&mut self, start: u64, bytes_max: usize) -> io::Result<EncodedPiece> {
        let mut count = 1;
        self.next = self.walk.next();
        while let Some(Step::Pair { index, .. }) = self.next
            && (count + 1) * PAIR_BYTES <= bytes_max
            && index == start + count as u64
            && (!self.waits || self.place(start, count + 1).is_some())
        {
            count += 1;
            self.next = self.walk.next();
        }
        Ok(EncodedPiece::Proof(self.pairs(start, count)?))
    }

    /// Pairs of the outboard. Those in a file are read some at a time, and copied: a piece that waits keeps no more than its own bytes.
    fn pairs(&mut self, start: u64, count: usize) -> io::Result<Bytes> {
        if self.outboard.as_bytes().is_some() || (count >= PAIRS_AHEAD_LEN && !self.waits) {
            return self.outboard.pairs(start, count);
        }
        let len = count * PAIR_BYTES;
        let from = match self.place(start, count) {
            Some(from) => from,
            None => {
                let left = self.outboard.len().saturating_sub(start);
                let read = count.max(left.min(PAIRS_AHEAD_LEN as u64) as usize);
                self.ahead = (start, self.outboard.pairs(start, read)?);
                0
            }
        };
        Ok(Bytes::copy_from_slice(&self.ahead.1[from..from + len]))
    }

    /// The place among the pairs at hand of `count` of them.
    fn place(&self, start: u64, count: usize) -> Option<usize> {
        let from = usize::try_from(start.checked_sub(self.ahead.0)?).ok()?.checked_mul(PAIR_BYTES)?;
        let end = from.checked_add(count.checked_mul(PAIR_BYTES)?)?;
        (end <= self.ahead.1.len()).then_some(from)
    }

    /// The groups from `offset` on that follow each other both here and in the payload; at least the first,
    /// whatever `bytes_max` is.
    fn data_run(&mut self, offset: u64, bytes_max: usize) -> EncodedPiece {
        let mut run_len = 0;
        while let Some(Step::Group { offset: next, len, .. }) = self.next
            && (run_len == 0 || (run_len + len <= bytes_max && next == offset + run_len as u64))
        {
            run_len += len;
            self.next = self.walk.next();
        }
        EncodedPiece::Data { offset, len: run_len }
    }

    /// Whether every piece was given.
    pub fn is_complete(&self) -> bool {
        self.next.is_none()
    }
}
