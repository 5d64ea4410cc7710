//! Writes a verified encoding: hash pairs and groups in tree order.

use super::{GROUP_SIZE, Outboard, PAIR_BYTES, Ranges, RangesError, pair_index};
use bao_tree::iter::{BaoChunk, ResponseIter};
use bao_tree::{BaoTree, TreeNode};
use bytes::Bytes;
use std::io;

/// What stands next in a verified encoding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// Hash pairs, 64 bytes each.
    Proof(Bytes),
    /// Payload bytes, which the caller supplies.
    Data {
        /// Where in the payload they begin.
        offset: u64,
        /// How many they are: one group, or two that stand side by side.
        len: usize,
    },
}

impl Piece {
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

/// Gives the pieces of the verified encoding of some ranges of a payload, byte for byte bao-tree's mixed encoding without
/// a length prefix. Does no I/O but what an [`Outboard`] in a file costs; never touches payload bytes.
#[derive(Debug)]
pub struct VerifiedEncoder {
    tree: BaoTree,
    order: ResponseIter,
    next: Option<BaoChunk>,
    outboard: Outboard,
}

impl VerifiedEncoder {
    /// The encoding of `ranges` of the payload that `outboard` belongs to.
    ///
    /// # Errors
    /// [`RangesError::OutOfBounds`] if a range lies outside the payload.
    pub fn new(outboard: Outboard, ranges: &Ranges) -> Result<Self, RangesError> {
        ranges.selected_bytes(outboard.length())?;
        let tree = BaoTree::new(outboard.length(), GROUP_SIZE);
        let mut order = ResponseIter::new(tree, ranges.to_chunk_ranges(outboard.length()));
        let next = order.next();
        Ok(Self { tree, order, next, outboard })
    }

    /// Appends the next pieces to `out`, up to `bytes_max` bytes but at least one hash pair or group; gives how many
    /// bytes were appended, 0 at the end. Neighbouring pairs are one piece, and so are neighbouring groups.
    ///
    /// # Errors
    /// The outboard's. The encoder is of no use then.
    pub fn next_batch(&mut self, bytes_max: usize, out: &mut Vec<Piece>) -> io::Result<usize> {
        let mut total = 0;
        loop {
            let left = bytes_max.saturating_sub(total);
            let piece = match self.next {
                // A payload of no bytes is one empty group, of which nothing is written.
                Some(BaoChunk::Leaf { size: 0, .. }) => {
                    self.next = self.order.next();
                    continue;
                }
                Some(BaoChunk::Parent { node, .. }) if total == 0 || left >= PAIR_BYTES => {
                    self.proof_run(node, left)?
                }
                Some(BaoChunk::Leaf { start_chunk, size, .. }) if total == 0 || left >= size => {
                    self.data_run(start_chunk.to_bytes(), left)
                }
                _ => return Ok(total),
            };
            total += piece.len();
            out.push(piece);
        }
    }

    /// The pairs from `node` on that follow each other both here and in the outboard; the first whatever `bytes_max` is.
    fn proof_run(&mut self, node: TreeNode, bytes_max: usize) -> io::Result<Piece> {
        let start = pair_index(&self.tree, node);
        let mut count = 1;
        self.next = self.order.next();
        while let Some(BaoChunk::Parent { node, .. }) = self.next
            && (count + 1) * PAIR_BYTES <= bytes_max
            && pair_index(&self.tree, node) == start + count as u64
        {
            count += 1;
            self.next = self.order.next();
        }
        Ok(Piece::Proof(self.outboard.pairs(start, count)?))
    }

    /// The groups from `offset` on that follow each other both here and in the payload; the first whatever `bytes_max` is.
    fn data_run(&mut self, offset: u64, bytes_max: usize) -> Piece {
        let mut len = 0;
        while let Some(BaoChunk::Leaf { start_chunk, size, .. }) = self.next
            && (len == 0 || (len + size <= bytes_max && start_chunk.to_bytes() == offset + len as u64))
        {
            len += size;
            self.next = self.order.next();
        }
        Piece::Data { offset, len }
    }

    /// Whether every piece was given.
    pub fn is_complete(&self) -> bool {
        self.next.is_none()
    }
}
