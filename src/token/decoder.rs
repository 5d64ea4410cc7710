//! Checks a verified encoding as it arrives.

use super::{
    GROUP_SIZE, PAIR_BYTES, Ranges, RangesError, Token, hash_pair, hash_subtree, pair_index, split_pair,
};
use crate::record::ErrorCode;
use bao_tree::iter::{BaoChunk, ResponseIter};
use bao_tree::{BaoTree, TreeNode};
use bytes::{Bytes, BytesMut};
use smallvec::SmallVec;
use std::collections::VecDeque;

/// Groups are gathered in allocations of this many bytes.
const ARENA_BYTES: usize = 1 << 20;
/// The longest piece, bytes.
const PIECE_BYTES_MAX: usize = 256 * 1024;

/// A checked hash pair and its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proof {
    /// Its number in pre-order: it stands at byte `64 * index` of the outboard.
    pub index: u64,
    /// Left hash, right hash.
    pub pair: [u8; PAIR_BYTES],
}

/// Payload bytes that match the token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedPiece {
    /// Where in the payload they stand. A multiple of 16 KiB.
    pub offset: u64,
    /// Whole groups, at most 256 KiB.
    pub data: Bytes,
    /// Hash pairs checked since the piece before, in pre-order.
    pub proofs: Vec<Proof>,
}

/// Why a verified encoding was refused. The decoder takes nothing more then.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    /// A group or a hash pair that does not match the token.
    #[error("the bytes at payload offset {offset} do not match the token")]
    Proof {
        /// The first payload byte that the bad group or pair stands for.
        offset: u64,
    },
    /// Bytes after the last group.
    #[error("{0} bytes after the end of the verified encoding")]
    Excess(usize),
    /// Ranges outside the payload, or a payload past 2^50 bytes.
    #[error(transparent)]
    Ranges(#[from] RangesError),
}

impl VerifyError {
    /// The error that the peer is told (protocol §9).
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::Proof { .. } => ErrorCode::BadProof,
            Self::Excess(_) => ErrorCode::Malformed,
            Self::Ranges(_) => ErrorCode::BadRange,
        }
    }
}

/// Takes the verified encoding of some ranges of a payload in chunks of any size and gives the payload bytes that match
/// the token, group by group.
///
/// Each byte is copied once, into its group, and hashed there. Bytes that are not checked yet are never more than one
/// group and one hash pair. Memory is allocated by what arrives, not by what `length` claims; the claim itself is proven
/// once the last group has been checked, so by every whole payload.
#[derive(Debug)]
pub struct VerifiedDecoder {
    tree: BaoTree,
    order: ResponseIter,
    next: Option<BaoChunk>,
    /// Hashes that a checked parent promised, the next one last.
    promised: SmallVec<[[u8; 32]; 16]>,
    pair: [u8; PAIR_BYTES],
    pair_len: usize,
    /// Checked groups of one run, then the group that is being filled.
    arena: BytesMut,
    checked_len: usize,
    checked_offset: u64,
    proofs: Vec<Proof>,
    ready: VecDeque<VerifiedPiece>,
    /// Payload bytes that are still to be checked.
    left_bytes: u64,
    failed: Option<VerifyError>,
}

impl VerifiedDecoder {
    /// A decoder for `ranges` of the payload named `token`, said to be `length` bytes long.
    ///
    /// # Errors
    /// [`VerifyError::Ranges`] if a range lies outside the payload or the payload is too long; [`VerifyError::Proof`] if
    /// `length` is 0 and `token` is not the token of nothing.
    pub fn new(token: Token, length: u64, ranges: &Ranges) -> Result<Self, VerifyError> {
        let left_bytes = ranges.selected_bytes(length)?;
        let tree = BaoTree::new(length, GROUP_SIZE);
        let mut decoder = Self {
            tree,
            order: ResponseIter::new(tree, ranges.to_chunk_ranges(length)),
            next: None,
            promised: SmallVec::from_slice(&[*token.root()]),
            pair: [0; PAIR_BYTES],
            pair_len: 0,
            arena: BytesMut::new(),
            checked_len: 0,
            checked_offset: 0,
            proofs: Vec::new(),
            ready: VecDeque::new(),
            left_bytes,
            failed: None,
        };
        decoder.advance();
        if let Some(BaoChunk::Leaf { size: 0, .. }) = decoder.next {
            decoder.check_group(0, true)?;
        }
        Ok(decoder)
    }

    /// Takes the next bytes of the encoding and checks every hash pair and group that they complete.
    ///
    /// # Errors
    /// The first thing that does not match. What was checked before it can still be polled.
    pub fn push(&mut self, mut chunk: &[u8]) -> Result<(), VerifyError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        while !chunk.is_empty() {
            let step = match self.next {
                Some(BaoChunk::Parent { node, is_root, left, right, .. }) => {
                    let take = chunk.len().min(PAIR_BYTES - self.pair_len);
                    self.pair[self.pair_len..self.pair_len + take].copy_from_slice(&chunk[..take]);
                    self.pair_len += take;
                    chunk = &chunk[take..];
                    if self.pair_len < PAIR_BYTES {
                        Ok(())
                    } else {
                        self.check_pair(node, is_root, left, right)
                    }
                }
                Some(BaoChunk::Leaf { start_chunk, size, is_root, .. }) => {
                    let take = chunk.len().min(self.checked_len + size - self.arena.len());
                    self.arena.extend_from_slice(&chunk[..take]);
                    chunk = &chunk[take..];
                    if self.arena.len() < self.checked_len + size {
                        Ok(())
                    } else {
                        self.check_group(start_chunk.to_bytes(), is_root)
                    }
                }
                None => Err(VerifyError::Excess(chunk.len())),
            };
            if let Err(error) = step {
                self.failed = Some(error);
                // Nothing unchecked stays.
                self.arena.truncate(self.checked_len);
                return Err(error);
            }
        }
        Ok(())
    }

    /// The next run of checked groups. Polled once a chunk it gives group by group; polled once a burst it gives runs,
    /// which cost less downstream.
    pub fn poll(&mut self) -> Option<VerifiedPiece> {
        if self.ready.is_empty() {
            self.cut();
        }
        self.ready.pop_front()
    }

    /// Whether every byte asked for was checked. Pieces may still wait to be polled.
    pub fn is_complete(&self) -> bool {
        self.next.is_none() && self.failed.is_none()
    }

    /// Payload bytes that are still to be checked.
    pub fn left_bytes(&self) -> u64 {
        self.left_bytes
    }

    fn check_pair(
        &mut self,
        node: TreeNode,
        is_root: bool,
        left: bool,
        right: bool,
    ) -> Result<(), VerifyError> {
        self.pair_len = 0;
        if self.promised.pop() != Some(hash_pair(&self.pair, is_root)) {
            return Err(VerifyError::Proof { offset: node.chunk_range().start.to_bytes() });
        }
        let [left_hash, right_hash] = split_pair(&self.pair);
        if right {
            self.promised.push(right_hash);
        }
        if left {
            self.promised.push(left_hash);
        }
        self.proofs.push(Proof { index: pair_index(&self.tree, node), pair: self.pair });
        self.advance();
        Ok(())
    }

    fn check_group(&mut self, offset: u64, is_root: bool) -> Result<(), VerifyError> {
        let group = &self.arena[self.checked_len..];
        if self.promised.pop() != Some(hash_subtree(offset, group, is_root)) {
            return Err(VerifyError::Proof { offset });
        }
        self.left_bytes -= group.len() as u64;
        self.checked_len = self.arena.len();
        self.advance();
        Ok(())
    }

    /// Steps to what comes next and, before a group, makes room for it.
    fn advance(&mut self) {
        self.next = self.order.next();
        let Some(BaoChunk::Leaf { start_chunk, size, .. }) = self.next else { return };
        let offset = start_chunk.to_bytes();
        let follows = offset == self.checked_offset + self.checked_len as u64;
        if !follows
            || self.checked_len + size > PIECE_BYTES_MAX
            || self.arena.capacity() - self.arena.len() < size
        {
            self.cut();
        }
        if self.checked_len == 0 {
            self.checked_offset = offset;
        }
        if self.arena.capacity() - self.arena.len() < size {
            let left = usize::try_from(self.left_bytes).unwrap_or(usize::MAX);
            self.arena.reserve(left.min(ARENA_BYTES));
        }
    }

    /// Makes a piece of what was checked.
    fn cut(&mut self) {
        if self.checked_len == 0 {
            return;
        }
        let data = self.arena.split_to(self.checked_len).freeze();
        let offset = self.checked_offset;
        self.checked_offset += self.checked_len as u64;
        self.checked_len = 0;
        self.ready.push_back(VerifiedPiece { offset, data, proofs: std::mem::take(&mut self.proofs) });
    }
}
